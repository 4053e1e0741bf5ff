"""Ending turns wherever they run: here, and by `csa kill` on the other hosts.

Parents are ended first. What is on another host is ended there, by its own csa, whose word is taken: that nothing of it
is left. Of what could not be reached it is never said that it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from csa.errors import CsaError, NotFoundError, StateError
from csa.runner.caller import refuse_own_lineage
from csa.runner.hosts.acting import Answer, Call
from csa.runner.hosts.engines import HostError
from csa.runner.session import Session
from csa.runner.sessions.ending import GRACE_S, KillResult, kill_sessions
from csa.store.family import find_placed
from csa.store.liveness import probe
from csa.store.mirrors import mirror_for
from csa.store.sessions import Store
from csa.structs import Struct, replace

_SLACK_S = 30.0  # to reach a host, and to sweep what is left there


class _There(Struct):
    """A session on another host, by where its mirror is."""

    host: str
    store: Store
    session_id: str


def kill_everywhere(
    sessions: Sequence[Session],
    *,
    tree: bool = False,
    grace_s: float = GRACE_S,
    force: bool = False,
    on_fault: Callable[[StateError], None] | None = None,
    on_loss: Callable[[str], None] = lambda _: None,
) -> Iterator[KillResult]:
    """End sessions as `kill_sessions` does, those of other hosts there; with `tree` also those placed there.

    Of a host that cannot be reached, what is not known to have ended is yielded with a HostError.
    """
    context = sessions[0].context
    for session in sessions:
        refuse_own_lineage(context.caller, session.session_id, verb="kill")
    here = [session for session in sessions if not session.store.host]
    if here:
        yield from kill_sessions(here, tree=tree, grace_s=grace_s, force=force, on_fault=on_fault, on_loss=on_loss)
    there = [_There(s.store.host, s.store, s.session_id) for s in sessions if s.store.host]
    if tree:  # asked now: what ran here may have placed one more
        home = context.store.home
        found = [member for member in find_placed([session.target for session in here]) if member.host]
        there += [_There(member.host, member.store(home), member.session_id) for member in found if member.host]
    words = ["kill", "--json", "--timeout", f"{grace_s:g}", *["--tree"] * tree, *["--force"] * force]
    yield from _kill_there(context.config.engine, there, words, limit_s=grace_s + _SLACK_S)


def _kill_there(
    engine_of: Callable[[str], Any], targets: Sequence[_There], words: Sequence[str], *, limit_s: float
) -> Iterator[KillResult]:
    """Have all hosts end theirs at once; yield what each has said, host by host."""
    by_host: dict[str, list[_There]] = {}
    for target in {each.session_id: each for each in targets}.values():
        by_host.setdefault(target.host, []).append(target)
    calls: dict[str, Call | HostError] = {}
    try:
        for host, those in by_host.items():
            try:
                calls[host] = Call(engine_of(host), [*words, *(each.session_id for each in those)], limit_s=limit_s)
            except HostError as error:
                calls[host] = error
        for host, those in by_host.items():
            yield from _outcomes(engine_of(host), those, words, calls[host], limit_s=limit_s)
    finally:
        for call in calls.values():
            if isinstance(call, Call):
                call.close()


def _outcomes(
    engine: Any, those: Sequence[_There], words: Sequence[str], call: Call | HostError, *, limit_s: float
) -> Iterator[KillResult]:
    try:
        if isinstance(call, HostError):
            raise call
        answer = call.answer()
        if isinstance(said := answer.json, list):
            yield from (_result(engine.name, each) for each in said)
        elif answer.code != NotFoundError.exit_code or not isinstance(said, dict):
            raise _failure(call, answer)
        elif len(those) > 1:  # one of them is not there, so that nothing was done: each by itself
            for each in those:
                again = Call(engine, [*words, each.session_id], limit_s=limit_s)
                yield from _outcomes(engine, [each], words, again, limit_s=limit_s)
        else:  # it has not arrived, or is deleted: nothing of it runs
            yield _without_turn(those[0], outcome="not_running", status="removed")
    except HostError as error:
        for each in those:
            yield _unheard(each, error)


def _failure(call: Call, answer: Answer) -> HostError:
    """Say why a host has ended nothing: csa there refuses, or is not reached."""
    said = answer.json
    if isinstance(said, dict) and isinstance(error := said.get("error"), dict):
        return HostError(f"{call.engine.name}: {error.get('message')}", hint=error.get("hint"))
    return call.failure(answer)


def _result(host: str, said: Mapping[str, Any]) -> KillResult:
    """Read what `csa kill --json` prints of a session."""
    error = said.get("error")
    failure = None
    if isinstance(error, dict):
        failure = CsaError(f"{host}: {error.get('message')}", hint=error.get("hint"))
    return KillResult(
        session_id=str(said.get("session_id")),
        name=said.get("name"),
        project=str(said.get("project")),
        host=said.get("mirror") or host,
        outcome=str(said.get("outcome")),
        status=str(said.get("status")),
        tool=said.get("tool") or "",
        turn=said.get("turn") or 0,
        forced=bool(said.get("forced")),
        queued=int(said.get("queued") or 0),
        error=failure,
    )


def _unheard(target: _There, error: HostError) -> KillResult:
    """Return what is known of a session whose host cannot be reached: if it had ended, it has; else nobody knows."""
    record = target.store.record(target.session_id)
    if record.state is None:
        return _without_turn(target, outcome="failed", status="unknown", error=error)
    state, status = probe(record.paths).state, record.status
    if state == "not_alive":
        heard = mirror_for(str(target.store.home), target.host).in_words
        return replace(_without_turn(target, outcome="not_running", status=status), heard=heard)
    return _without_turn(target, outcome="failed", status=status, error=error)


def _without_turn(target: _There, **known: Any) -> KillResult:
    name, project = target.store.record(target.session_id).name, target.store.project_pathname
    return KillResult(session_id=target.session_id, name=name, project=project, host=target.host, **known)
