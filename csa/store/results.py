"""Results of turns. The truth is the `run_finished` event; result.toml is a projection of the last one."""

from __future__ import annotations

from pathlib import Path

from csa.errors import NotFoundError, StateError
from csa.model.result import RunResult, result_from_event
from csa.model.state import parse_time
from csa.paths import SessionPaths
from csa.store.atomic import read_regular, write_atomically
from csa.store.transcript import read_events_backwards

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

OWN_FILES = frozenset({"prompt.md", "final.md", "stdout.log", "stderr.log", "supervisor.log"})


def load_result(paths: SessionPaths, session_id: str, *, turn: int | None = None) -> RunResult:
    """Return how the last finished turn, or the given one, ended.

    Raises:
        NotFoundError: no such turn has finished.
        StateError: its record cannot be read.
    """
    newest = 0
    for event in read_events_backwards(paths.transcript):
        newest = newest or event.turn
        if event.type == "run_finished" and turn in {None, event.turn}:
            try:
                known = result_from_event(session_id, event.turn, event.data)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise StateError(paths.transcript, f"event {event.seq} is not a result ({error!r})") from error
            moment = parse_time(event.ts)
            known["started_at"] = known["started_at"] or moment
            known["finished_at"] = known["finished_at"] or moment
            if not (known["started_at"] and known["finished_at"]):
                raise StateError(paths.transcript, f"event {event.seq} is not a result (it says no time that there is)")
            return RunResult(
                **known, text=read_final_text(paths, event.turn), artifacts=list_artifacts(paths, event.turn)
            )
    if turn is not None and not 0 < turn <= newest:
        raise NotFoundError(f"Session {session_id} has no turn {turn}.", hint=f"csa session info -s {session_id}")
    problem = "No turn of session {} has finished" if turn is None else f"Turn {turn} of session {{}} has not finished"
    raise NotFoundError(f"{problem.format(session_id)}.", hint=f"csa session is-alive -s {session_id}")


def list_artifacts(paths: SessionPaths, turn: int) -> tuple[str, ...]:
    """Name the files the agents left below output/, as absolute paths; csa's own files are not among them."""
    own = paths.turn_output(turn)
    found = (
        path
        for path in paths.output.rglob("*")
        if path.is_file()
        and not (path.name in OWN_FILES and path.parent.parent == paths.output)
        and (path.is_relative_to(own) or not path.relative_to(paths.output).parts[0].startswith("turn-"))
    )
    return tuple(str(path) for path in sorted(found))


def save_result(paths: SessionPaths, result: RunResult) -> None:
    """Write result.toml, by the supervisor that appended the event."""
    write_atomically(paths.result, render_result(result))


def render_result(result: RunResult) -> bytes:
    """Return what result.toml holds after a turn that ended so."""
    from csa.store.tomlfile import render_toml  # noqa: PLC0415  # only writers pay for tomlkit

    return render_toml(_projection(result))


def _projection(result: RunResult) -> dict[str, Any]:
    left_out = {"text", "artifacts", "chain"}
    known = {key: value for key, value in result.to_json().items() if key not in left_out}
    chain = [{key: value for key, value in link.to_dict().items() if value is not None} for link in result.chain]
    return {**known, "chain": chain or None}


def read_final_text(paths: SessionPaths, turn: int) -> str:
    """Return the answer of a turn, redacted; empty where there is none."""
    path: Path = paths.turn_output(turn) / "final.md"
    try:
        return read_regular(path).decode(errors="replace")
    except OSError:
        return ""
