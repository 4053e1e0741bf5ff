"""Ending turns on other hosts, by their own csa, whose word is taken: that nothing of them is left.

Of what could not be reached it is never said that it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from csa.errors import CsaError, NotFoundError
from csa.ids import is_session_id
from csa.model.usage import count_of
from csa.runner.hosts.acting import Answer, Call
from csa.runner.hosts.answers import nonsense
from csa.runner.hosts.engines import HostError
from csa.runner.sessions.ending import KillResult
from csa.store.liveness import probe
from csa.store.mirrors import Mirror
from csa.store.sessions import Target
from csa.structs import replace

_SLACK_S = 30.0  # to reach a host, and to sweep what is left there


def kill_there(
    engine_of: Callable[[str], Any], targets: Sequence[Target], words: Sequence[str], *, grace_s: float
) -> Iterator[KillResult]:
    """Have all hosts end theirs at once; yield what each has said, host by host."""
    limit_s = grace_s + _SLACK_S
    by_host: dict[str, list[Target]] = {}
    for store, session_id in {each[1]: each for each in targets}.values():
        by_host.setdefault(store.host or "", []).append((store, session_id))
    calls: dict[str, Call | HostError] = {}
    try:
        for host, those in by_host.items():
            try:
                calls[host] = Call(engine_of(host), [*words, *(session_id for _, session_id in those)], limit_s=limit_s)
            except HostError as error:
                calls[host] = error
        for host, those in by_host.items():
            yield from _outcomes(engine_of(host), those, words, calls[host], limit_s=limit_s)
    finally:
        for call in calls.values():
            if isinstance(call, Call):
                call.close()


def _outcomes(
    engine: Any, those: Sequence[Target], words: Sequence[str], call: Call | HostError, *, limit_s: float
) -> Iterator[KillResult]:
    try:
        if isinstance(call, HostError):
            raise call
        answer = call.answer()
        if isinstance(said := answer.json, list):
            results = [_result(engine.name, each) for each in said]
            missing = {session_id for _, session_id in those} - {each.session_id for each in results}
            results += (_unheard(each, nonsense(engine.name, "an end")) for each in those if each[1] in missing)
            if answer.code and not any(each.error for each in results):  # something there could not be looked at
                results[-1] = replace(results[-1], error=_incomplete(engine.name, answer))
            yield from results
        elif answer.code != NotFoundError.exit_code or not isinstance(said, dict):
            raise _failure(call, answer)
        elif len(those) > 1:  # one of them is not there, so that nothing was done: each by itself
            for each in those:
                again = Call(engine, [*words, each[1]], limit_s=limit_s)
                yield from _outcomes(engine, [each], words, again, limit_s=limit_s)
        else:  # it has not arrived, or is deleted: nothing of it runs
            yield _without_turn(those[0], outcome="not_running", status="removed")
    except HostError as error:
        for each in those:
            yield _unheard(each, error)


def _incomplete(host: str, answer: Answer) -> HostError:
    """Say why a host does not know whether everything has ended."""
    lines = answer.err.strip().splitlines() or [f"csa exits {answer.code}"]
    why = next((each for each in lines if each.startswith("error: ")), lines[0]).removeprefix("error: ")
    return HostError(f"{host}: {why}", hint=f"what is running there continues: ssh {host} csa ps")


def _failure(call: Call, answer: Answer) -> HostError:
    """Say why a host has ended nothing: csa there refuses, or is not reached."""
    said = answer.json
    if isinstance(said, dict) and isinstance(error := said.get("error"), dict):
        return HostError(f"{call.engine.name}: {error.get('message')}", hint=_text(error.get("hint")))
    return call.failure(answer)


def _result(host: str, said: object) -> KillResult:
    """Read what `csa kill --json` prints of a session; HostError for anything else."""
    if not isinstance(said, dict) or not is_session_id(str(said.get("session_id"))):
        raise nonsense(host, "an end")
    error = said.get("error")
    failure = None
    if isinstance(error, dict):
        failure = CsaError(f"{host}: {error.get('message')}", hint=_text(error.get("hint")))
    return KillResult(
        session_id=str(said.get("session_id")),
        name=_text(said.get("name")),
        project=str(said.get("project")),
        host=_text(said.get("mirror")) or host,
        outcome=str(said.get("outcome")),
        status=str(said.get("status")),
        tool=_text(said.get("tool")) or "",
        turn=count_of(said.get("turn")),
        forced=bool(said.get("forced")),
        queued=count_of(said.get("queued")),
        error=failure,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _unheard(target: Target, error: HostError) -> KillResult:
    """Return what is known of a session whose host cannot be reached: if it had ended, it has; else nobody knows."""
    store, session_id = target
    record = store.record(session_id)
    if record.state is None:
        return _without_turn(target, outcome="failed", status="unknown", error=error)
    state, status = probe(record.paths).state, record.status
    if state == "not_alive":
        heard = Mirror(store.root_pathname).in_words
        return replace(_without_turn(target, outcome="not_running", status=status), heard=heard)
    return _without_turn(target, outcome="failed", status=status, error=error)


def _without_turn(target: Target, **known: Any) -> KillResult:
    store, session_id = target
    known |= {"name": store.record(session_id).name, "project": store.project_pathname}
    return KillResult(session_id=session_id, host=store.host, **known)
