"""The process that owns a detached turn: `python -P -m csa.runner.supervisor`, started by `start_detached`.

Its order comes as one line of JSON on stdin. It answers with one line on stdout, the session it runs or why it does
not; then stdout and stderr become the turn's supervisor.log. If nobody is left to read that line, nothing begins;
what has begun continues. TERM ends the turn as cancelled; a hangup is ignored.

A turn that is attached (`start_attached`) ends when stdin does, whose other end its caller alone has: however that
process ends; it may say why before. Queued prompts follow it here, while the caller lives.
"""

from __future__ import annotations

import codecs
import gc
import json
import math
import os
import select
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import anyio

from csa.errors import BusyError, CsaError, FullError
from csa.model.redaction import Redactor, StreamRedactor
from csa.ownership import open_private
from csa.paths import SessionPaths
from csa.process.launch import become_subreaper
from csa.runner.client import Csa
from csa.runner.detach import AppearedError, error_to_json, parked_order, request_from_json
from csa.runner.on_finish import FollowUp, run_on_finish
from csa.runner.ordered import callers_environment, client_for, plan_entry
from csa.runner.queueing import begin_next, why_not
from csa.runner.turns.ahead import load_at_once
from csa.runner.turns.patience import try_until_free
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.starting import StartedTurn
from csa.runner.turns.turn import Turn
from csa.runner.turns.turnrecorder import TurnRecorder
from csa.store.liveness import probe
from csa.store.parked import save_parked
from csa.store.queue import Entry, GoneError, hold, next_entry, why_held

_LAST_OUTPUT_S = 1.0
_ABANDONED = CsaError.exit_code
_CALLER_ENDED = "the process that started it has ended"
_MOST_REASON = 1 << 10  # of what may come before the end of stdin
_ENDING = (signal.SIGTERM, signal.SIGINT)


def _code() -> tuple[int, int] | None:
    """Return what tells this version of csa from another in its place; None if it is gone."""
    try:
        found = os.stat(__file__)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


_CODE = _code()


def main() -> int:
    """Execute the order; the exit code is that of the last turn."""
    _fill_stderr()
    try:
        order = json.loads(sys.stdin.buffer.readline())
    except ValueError:  # the caller ended before it had sent everything
        return _ABANDONED
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    lifeline = os.dup(0) if order.get("attached") else None
    _redirect(os.devnull, 0)
    become_subreaper()
    try:
        last = _wait_and_run(order, lifeline)
    except CsaError as error:
        _say({"error": error_to_json(error)})
        return error.exit_code
    if last is None:
        _say({})
        return 0
    if last.order.get("on_finish"):
        try:
            _finish(last.order, last.turn)
        finally:
            _seal(last.turn)
    return last.turn.result.exit_code


def _finish(order: dict[str, Any], turn: Turn) -> None:
    """Run the command that was asked for; what it prints is redacted on its way to supervisor.log."""
    environ = callers_environment(order, os.environ)
    redactor = turn.plan.context.redactor
    source, output = os.pipe()
    copier = threading.Thread(target=_copy_redacted, args=(source, redactor), daemon=True)
    copier.start()
    try:
        problems = run_on_finish(
            FollowUp(**order["on_finish"]), turn.result, environ=environ, directory=order["directory"], output=output
        )
    finally:
        os.close(output)
        copier.join(_LAST_OUTPUT_S)  # processes the command has left running may hold the pipe
    for problem in problems:
        _log(redactor.redact(f"warning: {problem}"))


def _seal(turn: Turn) -> None:
    """Encrypt what waited for the command, which may have read it, and has written into supervisor.log."""
    for seal in turn.plan.context.postponed or ():
        try:
            seal()
        except (CsaError, OSError) as error:
            _log(f"warning: the session could not be encrypted: {error}")


def _copy_redacted(source: int, redactor: Redactor) -> None:
    stream = StreamRedactor(redactor)
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    while chunk := os.read(source, 1 << 16):
        _print(stream.feed(decoder.decode(chunk)))
    _print(stream.close())


class _Ordered:
    """A turn, and the order that it carries out."""

    def __init__(
        self, order: dict[str, Any], plan: TurnPlan, lifeline: int | None, started: StartedTurn | None = None
    ) -> None:
        self.order = order
        self.lifeline = lifeline  # readable, at its end, once the caller of an attached turn has ended
        client = client_for(order, os.environ, is_detached=lifeline is None)
        if order.get("on_finish"):
            plan.context.postponed = client.context.postponed = []
        self.turn = client.turn_of(plan, started)
        if lifeline is None:
            self.turn.on_parked = partial(_keep_order, client, order)
        self.next: _Ordered | None = None
        is_placed_here = "placed" in order and lifeline is not None  # then whoever placed it waits for this turn alone
        if not order.get("on_finish") and not is_placed_here:  # it has to run first, without the lock
            self.turn.pass_on = self._pass_on

    def _pass_on(self, recorder: TurnRecorder) -> Turn | None:
        """Begin the next queued prompt under the lock of this turn."""
        orders = {}

        def make_plan(entry: Entry) -> TurnPlan:
            orders[entry.entry_id] = entry.order
            return plan_entry(entry, os.environ, is_detached=self.lifeline is None)

        if self.lifeline is not None and _has_ended(self.lifeline):
            hold(self.turn.paths, _CALLER_ENDED)
            return None
        if _code() != _CODE:  # csa was upgraded meanwhile: another process goes on
            return None
        started = begin_next(recorder, make_plan)
        if started is None or started.plan.queued is None:
            return None
        self.next = _Ordered(orders[started.plan.queued], started.plan, self.lifeline, started)
        return self.next.turn


def _wait_and_run(order: dict[str, Any], lifeline: int | None) -> _Ordered | None:
    """Run the turn, and those of queued prompts that follow it; return the last, None if there is nothing to run."""
    make = partial(_next_queued, order) if "queue" in order else partial(_only, order, lifeline)

    def run() -> _Ordered | None:
        while ordered := make():
            with suppress(GoneError):  # another process has begun it, or it was removed
                return anyio.run(_supervise, ordered)
        return None

    if "queue" in order and order["queue"]["waits"]:
        return try_until_free(run, limit_s=math.inf, tell=_tell)
    if order.get("wait_s") is None:
        return run()
    return try_until_free(run, limit_s=order["wait_s"], tell=_tell, check=_refuse_unheard)


def _only(order: dict[str, Any], lifeline: int | None) -> _Ordered:
    client = client_for(order, os.environ, is_detached=lifeline is None)
    plan = client.plan(request_from_json(order["request"]), new_id=order["session_id"])
    if plan.state.session_id != order["session_id"]:
        raise AppearedError(plan.state.session_id)
    return _Ordered(order, plan, lifeline)


def _next_queued(order: dict[str, Any]) -> _Ordered | None:
    """Plan the next prompt of a queue; None if it is empty or held, or a turn is running, which will go on with it."""
    how, paths = order["queue"], SessionPaths(os.environ["CSA_SESSION_DIR"])
    if not how["resumes"] and (probe(paths).runs_turn or why_held(paths)):
        return None
    if (entry := next_entry(paths)) is None:
        return None
    try:
        return _Ordered(entry.order, plan_entry(entry, os.environ), None)
    except CsaError as error:
        if how["holds"] and not isinstance(error, BusyError | FullError):
            with suppress(OSError):  # the disk is full, for example; what is raised is why nothing begins
                hold(paths, why_not(entry, error, Redactor(os.environ)))
        raise


def _tell(words: str) -> None:
    load_at_once()  # csa may be upgraded while it waits
    _log(f"waiting: {words}")


def _refuse_unheard() -> None:
    """Raise CsaError if nobody is left to read the answer: a turn that has not begun by then is not wanted any more."""
    output = select.poll()
    output.register(1, 0)
    if output.poll(0):  # nothing but a fault: the pipe has no reader
        raise CsaError("The process that asked for the turn has ended.")


def _keep_order(client: Csa, order: dict[str, Any], plan: TurnPlan, until: datetime) -> None:
    """Store what to do after the wait, in case this process does not survive it."""
    kept = parked_order(order, plan.request)
    try:
        save_parked(client.store, order["session_id"], kept, until=until.timestamp())
    except OSError as error:
        _log(f"warning: nothing will continue this turn after a restart: {error}")


async def _supervise(ordered: _Ordered) -> _Ordered:
    """Run a turn and those that follow it under its lock; return the last."""
    with anyio.open_signal_receiver(*_ENDING) as signals:
        _refuse_unheard()
        is_heard = True
        while True:
            turn = ordered.turn
            async with turn, anyio.create_task_group() as tasks:
                tasks.start_soon(_obey, turn, signals)
                if ordered.lifeline is not None:
                    tasks.start_soon(_end_with_caller, turn, ordered.lifeline)
                if is_heard:
                    _say({"session_id": turn.session_id, "turn": turn.turn, "tool": turn.plan.adapter.name})
                    is_heard = False
                losses = _log_to_file(turn)
                async for _ in turn:
                    pass  # the transcript has them
                tasks.cancel_scope.cancel()
            if losses:
                _log_to_file(turn)  # there may be room again
            for loss in (*losses, *turn.losses):
                _log(f"warning: {loss}")
            if ordered.next is None:
                return ordered
            ordered = ordered.next


async def _obey(turn: Turn, signals: AsyncIterator[signal.Signals]) -> None:
    async for number in signals:
        turn.cancel(signal_name=signal.Signals(number).name)


async def _end_with_caller(turn: Turn, lifeline: int) -> None:
    await anyio.wait_readable(lifeline)
    turn.cancel(detail=os.read(lifeline, _MOST_REASON).decode("utf-8", "replace") or _CALLER_ENDED)


def _has_ended(lifeline: int) -> bool:
    found = select.poll()
    found.register(lifeline, select.POLLIN)
    return bool(found.poll(0))


def _say(answer: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _redirect(os.devnull, 1)  # the caller is gone; the turn continues


def _log_to_file(turn: Turn) -> list[str]:
    """Redirect output to supervisor.log; if that fails, to /dev/null, and return what is lost."""
    try:
        for fd in (1, 2):
            _redirect(str(turn.paths.supervisor_log(turn.turn)), fd)
    except OSError as error:
        for fd in (1, 2):
            os.dup2(0, fd)
        return [f"supervisor.log could not be opened: {error.strerror}"]
    return []


def _log(line: str) -> None:
    """Add to supervisor.log, which stderr has become; before that, the caller reads it."""
    _print(f"{line}\n")


def _print(text: str) -> None:
    with suppress(OSError):  # neither a full disk nor a reader that has gone ends anything
        sys.stderr.write(text)
        sys.stderr.flush()


def _fill_stderr() -> None:
    """Open /dev/null as stderr if the caller had none: the event loop's own descriptors would take its place."""
    if sys.stderr is None:
        _redirect(os.devnull, 2)
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115  # for as long as we live


def _redirect(path: str, fd: int) -> None:
    opened = open_private(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    if opened == fd:
        os.set_inheritable(fd, True)
        return
    os.dup2(opened, fd)
    os.close(opened)


if __name__ == "__main__":
    code = main()
    gc.freeze()  # the process ends here, and who waits for that would wait for another garbage collection
    sys.exit(code)
