"""usage_stats.toml of a project: the memory and time of each tool's last turns.

Only statistics: writing them never fails a run and never waits longer than a moment, and a file that cannot be
read is moved aside (`usage_stats.toml.damaged`) and started again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.model.usage import count_of, number_of
from csa.store.atomic import read_regular, write_atomically
from csa.store.locks import Lock, acquire_lock
from csa.store.plaintoml import load_plain
from csa.store.sessions import Store
from csa.structs import Struct

TURNS_KEPT = 20
_SCHEMA = 1
_MAX_BYTES = 1 << 20
_PATIENCE_S = 0.5
_POLL_S = 0.01


class ToolUsage(Struct):
    """The last turns of a tool, oldest first: the memory of the largest process of each, and its duration."""

    peak_rss_bytes: tuple[int, ...] = ()
    duration_s: tuple[float, ...] = ()

    @property
    def turns(self) -> int:
        return len(self.duration_s)

    @property
    def p95_peak_rss_bytes(self) -> int | None:
        """What 95 of 100 turns stay within; None when nothing is known."""
        return int(_p95(self.peak_rss_bytes)) if self.peak_rss_bytes else None

    @property
    def p95_duration_s(self) -> float | None:
        """What 95 of 100 turns stay within; None when nothing is known."""
        return _p95(self.duration_s) if self.duration_s else None

    def plus(self, peak_rss_bytes: int, duration_s: float) -> ToolUsage:
        """Return these with one more turn, without those that are too long ago."""
        return ToolUsage(
            (*self.peak_rss_bytes, peak_rss_bytes)[-TURNS_KEPT:],
            (*self.duration_s, round(duration_s, 3))[-TURNS_KEPT:],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of a tool's table."""
        return {
            "turns": self.turns,
            "p95_peak_rss_bytes": self.p95_peak_rss_bytes,
            "p95_duration_s": self.p95_duration_s,
            "peak_rss_bytes": list(self.peak_rss_bytes),
            "duration_s": list(self.duration_s),
        }


def _p95(values: Iterable[float]) -> float:
    """Return the smallest value that at least 95 of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * 95 // 100) - 1]


def stats_path(store: Store) -> Path:
    """Return where a project's statistics are."""
    return store.path / "usage_stats.toml"


def load_usage_stats(store: Store) -> dict[str, ToolUsage]:
    """Return what is known, by tool; nothing of a file that is missing or cannot be read. Writes nothing."""
    try:
        return _parse(read_regular(stats_path(store)))
    except (OSError, ValueError):
        return {}


def note_turn(store: Store, tool: str, *, peak_rss_bytes: int, duration_s: float) -> None:
    """Add a turn. Never raises for what is on the disk; the turn is left out where it cannot be written."""
    with suppress(OSError):
        lock = _lock(store)
        if lock is None:
            return
        with lock:
            known = _load_or_put_aside(stats_path(store))
            known[tool] = known.get(tool, ToolUsage()).plus(peak_rss_bytes, duration_s)
            _save(stats_path(store), known)


def _lock(store: Store) -> Lock | None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return acquire_lock(store.path / "usage_stats.lock")
        except BlockingIOError:
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)


def _load_or_put_aside(path: Path) -> dict[str, ToolUsage]:
    try:
        return _parse(read_regular(path))
    except FileNotFoundError:
        return {}
    except ValueError:
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        return {}


def _save(path: Path, known: Mapping[str, ToolUsage]) -> None:
    from csa.store.tomlfile import render_toml  # noqa: PLC0415  # readers write none

    tools = {tool: usage.to_dict() for tool, usage in sorted(known.items())}
    write_atomically(path, render_toml({"schema": _SCHEMA, "tools": tools}))


def _parse(content: bytes) -> dict[str, ToolUsage]:
    """Read the file; ValueError when it is not one."""
    if len(content) > _MAX_BYTES:
        raise ValueError("too long")
    text = content.decode()
    document = load_plain(text)
    try:
        tools = (_parse_any(text) if document is None else document).get("tools", {})
        return {str(tool): _parse_tool(table) for tool, table in tools.items()}
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _parse_any(text: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # what csa wrote itself is read without it

    return tomllib.loads(text)


def _parse_tool(table: Mapping[str, Any]) -> ToolUsage:
    peaks = tuple(count_of(value) for value in table["peak_rss_bytes"])[-TURNS_KEPT:]
    durations = tuple(number_of(value) or 0.0 for value in table["duration_s"])[-TURNS_KEPT:]
    return ToolUsage(peaks, durations)
