"""Results of turns. The truth is the `run_finished` event; result.toml is a projection of the last one."""

from __future__ import annotations

import os
from pathlib import Path

from csa.errors import NotFoundError, StateError
from csa.model.result import RunResult, json_text, result_from_event
from csa.model.skeleton import is_bare
from csa.model.state import parse_time
from csa.paths import SessionPaths
from csa.store.artifacts import list_artifacts
from csa.store.atomic import read_regular, write_atomically
from csa.store.strangers import strange_end, strange_result
from csa.store.transcript import last_turn_event, read_events, read_events_backwards
from csa.structs import asdict

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from csa.model.events import Event


def load_result(
    paths: SessionPaths,
    session_id: str,
    *,
    turn: int | None = None,
    redact: Callable[[str], str] = lambda text: text,
) -> RunResult:
    """Return how the last finished turn, or the given one, ended; `redact` is applied to another program's answer.

    Raises as `load_own_result`.
    """
    end = strange_end(paths, last_turn_event(paths.transcript))
    if end and turn in {None, end.turn}:
        return strange_result(paths, session_id, end, redact)
    return load_own_result(paths, session_id, turn=turn)


def load_own_result(paths: SessionPaths, session_id: str, *, turn: int | None = None) -> RunResult:
    """Return how the last finished turn in the transcript, or the given one, ended.

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
                raise StateError(paths.transcript, f"event {event.seq} is not a result (it has no valid time)")
            return RunResult(**known, text=_answer(paths, event), artifacts=list_artifacts(paths, event.turn))
    if turn is not None and not 0 < turn <= newest:
        raise NotFoundError(f"Session {session_id} has no turn {turn}.", hint=f"csa status {session_id}")
    problem = "No turn of session {} has finished" if turn is None else f"Turn {turn} of session {{}} has not finished"
    raise NotFoundError(f"{problem.format(session_id)}.", hint=f"csa is-alive {session_id}")


def save_result(paths: SessionPaths, result: RunResult, totals: Mapping[str, Any] | None = None) -> None:
    """Write result.toml, by the supervisor that appended the event; with the tool's totals, in case that is lost."""
    write_atomically(paths.result, render_result(result, totals))


def render_result(result: RunResult, totals: Mapping[str, Any] | None = None) -> bytes:
    """Return the content of result.toml after a turn with this end."""
    from csa.store.tomlfile import render_toml  # noqa: PLC0415  # readers write none

    return render_toml({**_projection(result), **({"totals": dict(totals)} if totals else {})})


def _projection(result: RunResult) -> dict[str, Any]:
    chain = [{key: value for key, value in asdict(link).items() if value is not None} for link in result.chain]
    output = None if result.output is None else json_text(result.output)  # TOML has no null
    return {**result.to_record(), "output": output, "chain": chain or None}


def lacks_final(paths: SessionPaths, finished: Event) -> bool:
    """Say whether a turn has no final.md although its supervisor could have written one: perhaps the disk was full."""
    return finished.data.get("status") != "lost" and not os.path.lexists(paths.turn_output(finished.turn) / "final.md")


def told_answer(paths: SessionPaths, turn: int) -> str:
    """Return a turn's answer according to the transcript: its last message; empty if there was none."""
    from csa.model.conversation import read_conversation  # noqa: PLC0415  # hardly ever needed

    events = (event for event in read_events(paths.transcript) if event.turn == turn)
    said = [message.content for message in read_conversation(events) if message.role == "assistant" and message.content]
    return said[-1] if said else ""


def _answer(paths: SessionPaths, finished: Event) -> str:
    if is_bare(finished):  # it is encrypted
        return ""
    text = read_final_text(paths, finished.turn)
    return told_answer(paths, finished.turn) if not text and lacks_final(paths, finished) else text


def read_final_text(paths: SessionPaths, turn: int) -> str:
    """Return the answer of a turn, redacted; empty if there is none."""
    path: Path = paths.turn_output(turn) / "final.md"
    try:
        return read_regular(path).decode("utf-8", "replace")  # unchanged: text mode would convert line endings
    except OSError:
        return ""
