"""A store with sessions of every kind, written as a supervisor writes them, at fixed times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from csa.model.redaction import Redactor
from csa.model.result import RunResult
from csa.model.state import SessionState, ToolState
from csa.model.usage import Usage, counted
from csa.store.held import build_session
from csa.store.journal import Journal
from csa.store.results import save_result
from csa.store.sessions import Store
from csa.structs import replace
from tests.support import Place

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


def store_of(place: Place) -> Store:
    return Store(place.state_root, place.project)


def session_id(number: int) -> str:
    """Return the id of a prepared session; those of higher numbers are newer."""
    return f"01JH4QWE{number:02d}0000000000000000"


def write_session(
    store: Store,
    number: int,
    *,
    tools: tuple[str, ...] = ("codex",),
    status: str = "succeeded",
    age: timedelta = HOUR,
    usage: Usage = Usage(1000, 100),  # noqa: B008  # immutable
    events: tuple[tuple[str, dict[str, Any]], ...] = (),
    text: str = "done",
    result: Mapping[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Write a session with a turn of each tool; `status` is that of the last, None leaves it without an end."""
    at = NOW - age
    state = SessionState(
        session_id=session_id(number),
        project_path=str(store.project),
        created_at=at,
        last_accessed=at,
        description=f"work {number}",
        owner="tester@here",
        branch="main",
        permission="edit",
    )
    state = replace(state, **changes)
    with build_session(store, state, Redactor(), tool=tools[-1]) as held:
        total = Usage()
        for turn, tool in enumerate(tools, 1):
            journal = Journal(held.paths.transcript, Redactor(), turn=turn, clock_ns=lambda: int(at.timestamp() * 1e9))
            journal.append(
                "run_started",
                {
                    "tool": tool,
                    "model": None,
                    "prompt": f"do {state.description}",
                    "permission": "edit",
                    "pid": 1,
                    "cwd": state.project_path,
                    "argv": [tool],
                    "resumed": None,
                },
            )
            for kind, data in events:
                journal.append(kind, data)
            outcome = status if turn == len(tools) else "succeeded"
            if outcome != "lost":
                known = {"tool": tool, "turn": turn, "usage": usage, "text": text, "summary": text, **(result or {})}
                _finish(held.paths, journal, _result(state, outcome, at, known))
                total = total + counted(usage)
            journal.close()
        known = {tool: ToolState(provider_session_id=f"{tool}-{number}", updated_at=at) for tool in tools}
        held.save(replace(held.state, turns=len(tools), tools=known, usage=total))
        held.publish()
    return state.session_id


def _result(state: SessionState, status: str, at: datetime, changes: Mapping[str, Any]) -> RunResult:
    failed = status != "succeeded"
    known: dict[str, Any] = {
        "session_id": state.session_id,
        "status": status,
        "exit_code": 1 if failed else 0,
        "error_kind": "server" if failed else None,
        "error_message": "the provider broke" if failed else None,
        "duration_s": 60.0,
        "started_at": at - timedelta(minutes=1),
        "finished_at": at,
        "peak_rss_bytes": 100 << 20,
    }
    return RunResult(**{**known, **changes})


def _finish(paths: Any, journal: Journal, result: RunResult) -> None:
    output = paths.turn_output(result.turn)
    output.mkdir(parents=True, exist_ok=True)
    (output / "final.md").write_text(result.text)
    (output / "prompt.md").write_text("do it")
    (output / "stdout.log").write_text("".join(f"raw line {number}\n" for number in range(5)))
    (output / "stderr.log").write_text("")
    journal.append("agent_message", {"text": result.text})
    journal.append("run_finished", result.to_event())
    journal.sync()
    save_result(paths, result)


def retire(store: Store, session: str) -> None:
    """Move a session where collected ones stand."""
    Path(store.retired_dir).mkdir(mode=0o700, exist_ok=True)
    store.paths(session).root.rename(Path(store.retired_dir) / session)
