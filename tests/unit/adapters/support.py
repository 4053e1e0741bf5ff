"""What the adapters' tests share: a request, a replay of lines, and the recordings of the real CLIs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csa.model.adapter import Decoder, Outcome, ToolExit, TurnRequest, Update
from csa.model.permission import Permission
from tests.schemas import check_data

RECORDINGS = Path(__file__).parents[3] / "fixtures" / "recordings"
THREAD = "01a1f83a-accd-7db1-ada4-435d9ff915d3"
OTHER_THREAD = "01a1f83a-0000-7db1-ada4-435d9ff915d3"
FRESH = "51a7f1b1-30c2-4c7e-9d53-7f9f0a3b2c11"
EXIT_0 = ToolExit(0, None)
EXIT_1 = ToolExit(1, None)


def make_request(**fields: Any) -> TurnRequest:
    """Make a request for a new conversation at the default level, but for `fields`."""
    given: dict[str, Any] = {
        "prompt": "Do it.",
        "cwd": "/project",
        "command": ("tool",),
        "provider_session_id": None,
        "new_provider_id": FRESH,
        "permission": Permission.EDIT,
        **fields,
    }
    return TurnRequest(**given)


def line(**event: Any) -> bytes:
    """Write one event as a line."""
    return json.dumps(event).encode()


def feed_all(decoder: Decoder, lines: Iterable[bytes]) -> list[Update]:
    """Feed lines in order; return all updates, each of which is what its schema says."""
    updates = [update for each in lines for update in decoder.feed(each)]
    for update in updates:
        check_data(update.type, dict(update.data))
    return updates


def types_of(updates: Iterable[Update]) -> list[str]:
    return [update.type for update in updates]


def only(updates: Iterable[Update], kind: str) -> list[dict[str, Any]]:
    """Return the data of the updates of one type."""
    return [update.data for update in updates if update.type == kind]


def has_flags(argv: tuple[str, ...], *flags: str) -> bool:
    """Say whether `flags` stand in `argv` one after the other."""
    return any(argv[at : at + len(flags)] == flags for at in range(len(argv)))


@dataclass(frozen=True)
class Recording:
    """What a real CLI wrote in one run, and how it ended."""

    name: str
    lines: list[bytes]
    end: ToolExit


def recordings(tool: str) -> dict[str, Recording]:
    """Load a tool's recordings by name."""
    index = tomllib.loads((RECORDINGS / tool / "index.toml").read_text())
    return {name.removesuffix(".jsonl"): _load(tool, name, entry) for name, entry in index.items()}


def judge(decoder: Decoder, recording: Recording) -> tuple[list[Update], Outcome]:
    """Replay a recording to its end."""
    updates = feed_all(decoder, recording.lines)
    return updates, decoder.close(recording.end)


def session_of(recording: Recording) -> str | None:
    """Return the first session or thread id a recording names."""
    for each in recording.lines:
        event = json.loads(each)
        found = event.get("thread_id") or event.get("session_id") or event.get("sessionID")
        if found:
            return str(found)
    return None


def _load(tool: str, name: str, entry: dict[str, Any]) -> Recording:
    code = int(entry["exit_code"])
    end = ToolExit(None if code < 0 else code, -code if code < 0 else None, str(entry.get("stderr_tail", "")))
    return Recording(name.removesuffix(".jsonl"), (RECORDINGS / tool / name).read_bytes().splitlines(), end)
