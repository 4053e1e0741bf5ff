"""Compares replays with recordings: the transcripts of a tree without what differs between any two runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Json = dict[str, Any]

_IDS = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|ses_[0-9A-Za-z]+")
# Times, and where it ran: the argv has the places of tools and of their homes.
_LEFT_OUT = frozenset(
    {"ts", "started_at", "finished_at", "duration_s", "peak_rss_bytes", "pid", "argv", "replayed_from", "retry_after_s"}
)
_SHOWN_TIMES = re.compile(r"\b\d+(m\d\d)?s\b")


def normalised(directory: Path, top: str) -> list[list[Json]]:
    """Return the transcripts of a session and all below it, in the order of their parents.

    Ids are numbered in the order in which they occur; times are gone.
    """
    parents = {path.name: _parent(path) for path in directory.iterdir() if not path.name.startswith(".")}
    tree, seen = [top], dict[str, str]()
    for each in tree:
        tree += sorted(child for child, parent in parents.items() if parent == each)
    return [[_normalise(json.loads(line), seen) for line in _lines(directory / each)] for each in tree]


def _lines(session: Path) -> list[str]:
    return (session / "transcript.jsonl").read_text().splitlines()


def _parent(session: Path) -> str | None:
    found = re.search(r'^parent_session_id = "(.*)"', (session / "state.toml").read_text(), re.MULTILINE)
    return found[1] if found else None


def _normalise(value: Any, seen: dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _normalise(each, seen) for name, each in value.items() if name not in _LEFT_OUT}
    if isinstance(value, list):
        return [_normalise(each, seen) for each in value]
    if not isinstance(value, str):
        return value
    numbered = _IDS.sub(lambda found: seen.setdefault(found[0], f"<id {len(seen)}>"), value)
    return _SHOWN_TIMES.sub("<time>", numbered)
