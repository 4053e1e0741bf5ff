"""Make a store with many sessions, as csa would have written them: python bench/generate_store.py DIR [COUNT [DAYS]].

DIR/state becomes a state root; the sessions belong to the project DIR/project. Their last use is spread over DAYS days
(default 33, so that a tenth is older than 30), their tools are a cycle of four. Each has its state, a transcript of one
turn, its result, and its lock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

TOOLS = ("codex", "claude-code", "gemini-cli", "opencode")
ACCOUNTS = ("~/.codex", "~/.claude", "~/.gemini", "~/.local/share/opencode")
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

STATE = """\
schema = 1
meta_session_id = "{id}"
description = "Task {number}: refactor the login and its tests"
project_path = "{project}"
created_at = {created}
last_accessed = {used}
owner = "bench@host"
branch = "main"
permission = "edit"
phase = "active"
turns = 1

[genealogy]
depth = 0
max_depth = 5

[tools]

[tools.{tool}]
provider_session_id = "01a1f944-6a3e-7f37-a064-{number:012x}"
cwd = "{project}"
account = "{account}"
last_action_summary = "Refactored the login; 14 tests pass"
updated_at = {used}
last_exit_code = 0
totals = {{input_tokens = 1001, cached_tokens = 0, output_tokens = 16}}
[usage]
input_tokens = 1001
output_tokens = 16
cost_usd = 0.0

[context_status]
is_compacted = false
"""


def make_store(root: Path, count: int, *, days: float = 33.0, now: datetime | None = None) -> Path:
    """Make `count` sessions below `root`, whose use is spread evenly over the last `days`; return their project."""
    project = root / "project"
    (project / ".csa").mkdir(parents=True, exist_ok=True)
    sessions = root.joinpath("state", *project.resolve().parts[1:], "sessions")
    sessions.mkdir(parents=True, mode=0o700)
    now = now or datetime.now(UTC)
    for number in range(count):
        used = now - timedelta(days=days * (count - number) / count)
        _make_session(sessions, project.resolve(), number, used)
    return project


def session_id(moment: datetime, number: int) -> str:
    """Return a ULID of that moment; `number` stands for its randomness."""
    value = (int(moment.timestamp() * 1000) << 80) | (number * 0x9E3779B97F4A7C15F39D & ((1 << 80) - 1))
    return "".join(_DIGITS[(value >> shift) & 31] for shift in range(125, -1, -5))


def _make_session(sessions: Path, project: Path, number: int, used: datetime) -> None:
    created = used - timedelta(minutes=5)
    place = f"{sessions}/{session_id(created, number)}"
    for directory in (place, f"{place}/locks"):
        os.mkdir(directory, 0o700)
    tool = TOOLS[number % len(TOOLS)]
    facts = {"tool": tool, "account": ACCOUNTS[number % len(TOOLS)], "created": _toml(created), "used": _toml(used)}
    state = STATE.format(id=place[-26:], number=number, project=project, **facts)
    end: dict[str, object] = {
        "status": "succeeded",
        "exit_code": 0,
        "tool": tool,
        "tool_exit_code": 0,
        "duration_s": 300.0,
    }
    result = {"session_id": place[-26:], "turn": 1, **end, "summary": "", "denied": []}
    result |= {"started_at": _json(used), "finished_at": _json(used)}
    events = [("run_started", {"tool": tool, "prompt": f"Task {number}"}), ("run_finished", end)]
    lines = [
        json.dumps({"v": 1, "seq": seq, "ts": _json(moment), "type": kind, "turn": 1, "data": data})
        for seq, (moment, (kind, data)) in enumerate(zip((created, used), events, strict=True), 1)
    ]
    _write(f"{place}/state.toml", state)
    os.utime(f"{place}/state.toml", (used.timestamp(), used.timestamp()))
    _write(f"{place}/transcript.jsonl", "\n".join(lines) + "\n")
    _write(f"{place}/result.toml", "".join(f"{key} = {json.dumps(value)}\n" for key, value in result.items()))
    _write(f"{place}/locks/session.lock", "")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, text.encode())
    os.close(fd)


def _toml(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _json(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a store with many sessions, as csa would have written them.")
    parser.add_argument(
        "dir", type=Path, metavar="DIR", help="where; DIR/state is the state root, DIR/project the project"
    )
    parser.add_argument("count", type=int, nargs="?", default=10_000, metavar="COUNT", help="sessions (default: 10000)")
    parser.add_argument(
        "days", type=float, nargs="?", default=33.0, metavar="DAYS", help="their last use is spread over (default: 33)"
    )
    options = parser.parse_args()
    began = time.perf_counter()
    project = make_store(options.dir, options.count, days=options.days)
    print(f"{options.count} sessions of {project} in {time.perf_counter() - began:.1f} s")
    print(f"CSA_STATE_DIR={options.dir / 'state'} csa session list --cd {project} --limit 5")


if __name__ == "__main__":
    main()
