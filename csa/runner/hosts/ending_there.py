"""Ending turns on other hosts, by their own csa, whose word is taken: that nothing of them is left.

Of what could not be reached it is never said that it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from threading import Thread
from typing import Any

from csa.errors import CsaError, NotFoundError
from csa.ids import is_session_id
from csa.model.usage import count_of
from csa.runner.hosts.acting import Answer, Call
from csa.runner.hosts.answers import nonsense
from csa.runner.hosts.engines import HostError
from csa.runner.hosts.fencing import call_off
from csa.runner.hosts.schedulers import is_scheduler
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
    by_host: dict[str, dict[str, Target]] = {}
    for store, session_id in targets:
        by_host.setdefault(store.host or "", {})[session_id] = store, session_id
    with ExitStack() as stack:
        asked = [
            stack.enter_context(closing(_Asked(engine_of(host), list(those.values()), words, grace_s + _SLACK_S)))
            for host, those in by_host.items()
        ]
        for each in asked:
            yield from each.results()


class _Asked:
    """What one host is asked to end. What is on its way there is called off first: it could begin afterwards."""

    def __init__(self, engine: Any, targets: Sequence[Target], words: Sequence[str], limit_s: float) -> None:
        self._engine, self._targets, self._words, self._limit_s = engine, targets, words, limit_s
        self._uncertain: dict[str, CsaError] = {}
        self._call: Call | CsaError | None = None
        self._thread = Thread(target=self._begin, daemon=True)  # one that says nothing holds up no other
        self._thread.start()

    def _begin(self) -> None:
        try:
            is_queue = is_scheduler(self._engine)
            homes = {store.home for store, _ in self._targets}
            sessions = {session_id for _, session_id in self._targets}
            for home in homes:
                self._uncertain |= call_off(home, self._engine, sessions)
            self._call = None if is_queue else self._ask(self._targets)
        except CsaError as error:
            self._call = error
        except BaseException:  # a fault of csa's: nobody may take it for an end
            self._call = HostError(f"{self._engine.name} was not asked to end anything.")
            raise

    def _ask(self, targets: Sequence[Target]) -> Call | CsaError:
        try:
            return Call(self._engine, [*self._words, *(each for _, each in targets)], limit_s=self._limit_s)
        except CsaError as error:
            return error

    def results(self) -> Iterator[KillResult]:
        """Yield what has become of each session."""
        self._thread.join()
        for each in self._outcomes(self._call, self._targets):
            doubt = self._uncertain.get(each.session_id)
            yield replace(each, outcome="failed", error=each.error or doubt) if doubt else each

    def _outcomes(self, call: Call | CsaError | None, targets: Sequence[Target]) -> Iterator[KillResult]:
        if call is None:  # it waited in the queue of a scheduler, or its job has ended
            yield from (_without_turn(each, outcome="killed", status="unknown") for each in targets)
            return
        try:
            if isinstance(call, CsaError):
                raise call
            answer = call.answer()
            is_unknown = answer.code == NotFoundError.exit_code and isinstance(answer.json, dict)
            if not is_unknown:
                yield from _read(call, answer, targets)
        except CsaError as error:
            yield from (_unheard(each, error) for each in targets)
            return
        if is_unknown and len(targets) > 1:  # one of them, so that nothing was done: each by itself
            for each in targets:
                with closing(again) if isinstance(again := self._ask([each]), Call) else nullcontext():
                    yield from self._outcomes(again, [each])
        elif is_unknown:  # it has not come, and will not; or is deleted
            yield _without_turn(targets[0], outcome="not_running", status="removed")

    def close(self) -> None:
        """See to it that nothing of it is left here."""
        self._thread.join()
        if isinstance(self._call, Call):
            self._call.close()


def _read(call: Call, answer: Answer, targets: Sequence[Target]) -> Iterator[KillResult]:
    """Yield what a host has said; HostError if it is none of csa's words: the host was not reached."""
    host, said = call.engine.name, answer.json
    if isinstance(said, dict) and isinstance(error := said.get("error"), dict):  # csa there refuses
        refusal = HostError(f"{host}: {error.get('message')}", hint=_text(error.get("hint")))
        yield from (_failed(each, refusal) for each in targets)
        return
    if not isinstance(said, list) and answer.code:
        raise call.failure(answer)
    results = [found for each in said or () if (found := _result(host, each))]
    seen = {each.session_id for each in results}
    doubt = _incomplete(host, answer) if answer.code else nonsense(host, "an end")
    results += (_failed(each, doubt) for each in targets if each[1] not in seen)
    if answer.code and not any(each.error for each in results):  # something there could not be looked at
        results[-1] = replace(results[-1], error=doubt)
    yield from results


def _incomplete(host: str, answer: Answer) -> HostError:
    """Say why a host does not know whether everything has ended."""
    lines = answer.err.strip().splitlines() or [f"csa exits {answer.code}"]
    why = next((each for each in lines if each.startswith("error: ")), lines[0]).removeprefix("error: ")
    return HostError(f"{host}: {why}", hint=f"what is running there continues: ssh {host} csa ps")


def _result(host: str, said: object) -> KillResult | None:
    """Read what `csa kill --json` prints of a session; None for anything else."""
    if not isinstance(said, dict) or not is_session_id(str(said.get("session_id"))):
        return None
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


def _unheard(target: Target, error: CsaError) -> KillResult:
    """Return what is known of a session whose host cannot be reached: if it had ended, it has; else nobody knows."""
    store, session_id = target
    record = store.record(session_id)
    if record.state is None or probe(record.paths).state != "not_alive":
        return _failed(target, error)
    heard = Mirror(store.root_pathname).in_words
    return replace(_without_turn(target, outcome="not_running", status=record.status), heard=heard)


def _failed(target: Target, error: CsaError) -> KillResult:
    store, session_id = target
    record = store.record(session_id)
    status = record.status if record.state else "unknown"
    return _without_turn(target, outcome="failed", status=status, error=error)


def _without_turn(target: Target, **known: Any) -> KillResult:
    store, session_id = target
    known |= {"name": store.record(session_id).name, "project": store.project_pathname}
    return KillResult(session_id=session_id, host=store.host, **known)
