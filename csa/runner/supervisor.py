"""The process that owns a detached turn: `python -P -m csa.runner.supervisor`, started by `start_detached`.

Its order comes as one JSON object on stdin. It answers with one line on stdout, the session it runs or why it does
not; then stdout and stderr become the turn's supervisor.log. If nobody is left to read that line, nothing begins;
what has begun continues. TERM ends the turn as cancelled; a hangup is ignored.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import anyio

from csa.errors import CsaError
from csa.model.redaction import Redactor, StreamRedactor
from csa.model.result import RunResult
from csa.ownership import open_private
from csa.process.launch import become_subreaper
from csa.runner.client import Csa
from csa.runner.detach import AppearedError, error_to_json, parked_order, request_from_json
from csa.runner.on_finish import FollowUp, run_on_finish
from csa.runner.turns.ahead import load_at_once
from csa.runner.turns.patience import try_until_free
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.turn import Turn
from csa.store.parked import save_parked

_LAST_OUTPUT_S = 1.0
_ABANDONED = CsaError.exit_code
_ENDING = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Execute the order; the exit code is that of the turn."""
    _fill_stderr()
    try:
        order = json.load(sys.stdin.buffer)
    except ValueError:  # the caller ended before it had sent everything
        return _ABANDONED
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _redirect(os.devnull, 0)
    become_subreaper()
    try:
        result, redactor = _wait_and_run(order)
    except CsaError as error:
        _say({"error": error_to_json(error)})
        return error.exit_code
    if order["on_finish"]:
        _finish(order, result, redactor)
    return result.exit_code


def _finish(order: dict[str, Any], result: RunResult, redactor: Redactor) -> None:
    """Run the command that was asked for; what it prints is redacted on its way to supervisor.log."""
    environ = _callers(order)
    source, output = os.pipe()
    copier = threading.Thread(target=_copy_redacted, args=(source, redactor), daemon=True)
    copier.start()
    try:
        problems = run_on_finish(
            FollowUp(**order["on_finish"]), result, environ=environ, directory=order["directory"], output=output
        )
    finally:
        os.close(output)
        copier.join(_LAST_OUTPUT_S)  # processes the command has left running may hold the pipe
    for problem in problems:
        _log(redactor.redact(f"warning: {problem}"))


def _copy_redacted(source: int, redactor: Redactor) -> None:
    stream = StreamRedactor(redactor)
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    while chunk := os.read(source, 1 << 16):
        _print(stream.feed(decoder.decode(chunk)))
    _print(stream.close())


def _wait_and_run(order: dict[str, Any]) -> tuple[RunResult, Redactor]:
    """Return how the turn has ended, and what hides its secrets."""

    def run() -> tuple[RunResult, Redactor]:
        turn = _turn(order)
        return anyio.run(_supervise, turn), turn.plan.context.redactor

    if order["wait_s"] is None:
        return run()
    return try_until_free(run, limit_s=order["wait_s"], tell=_tell, check=_refuse_unheard)


def _tell(words: str) -> None:
    load_at_once()  # csa may be upgraded while it waits
    _log(f"waiting: {words}")


def _refuse_unheard() -> None:
    """Raise CsaError if nobody is left to read the answer: a turn that has not begun by then is not wanted any more."""
    output = select.poll()
    output.register(1, 0)
    if output.poll(0):  # nothing but a fault: the pipe has no reader
        raise CsaError("The process that asked for the turn has ended.")


def _turn(order: dict[str, Any]) -> Turn:
    client = Csa.from_environment(
        order["directory"],
        environ=_callers(order),
        command=order["command"],
        owns_process=True,
        is_detached=True,
    )
    turn = client.run(request_from_json(order["request"]), new_id=order["session_id"])
    if turn.session_id != order["session_id"]:
        raise AppearedError(turn.session_id)
    turn.on_parked = partial(_keep_order, client, order)
    return turn


def _keep_order(client: Csa, order: dict[str, Any], plan: TurnPlan, until: datetime) -> None:
    """Store what to do after the wait, in case this process does not survive it."""
    kept = parked_order(order, plan.request)
    try:
        save_parked(client.store, order["session_id"], kept, until=until.timestamp())
    except OSError as error:
        _log(f"warning: nothing will continue this turn after a restart: {error}")


def _callers(order: dict[str, Any]) -> dict[str, str]:
    """Return the caller's environment: with its session's variables, or none, in place of ours."""
    rest = {name: value for name, value in os.environ.items() if name not in order["caller"]}
    return {**rest, **{name: value for name, value in order["caller"].items() if value is not None}}


async def _supervise(turn: Turn) -> RunResult:
    with anyio.open_signal_receiver(*_ENDING) as signals:
        _refuse_unheard()
        async with turn, anyio.create_task_group() as tasks:

            async def obey() -> None:
                async for number in signals:
                    turn.cancel(signal_name=signal.Signals(number).name)

            tasks.start_soon(obey)
            _say({"session_id": turn.session_id, "turn": turn.turn, "tool": turn.plan.adapter.name})
            losses = _log_to_file(turn)
            async for _ in turn:
                pass  # the transcript has them
            tasks.cancel_scope.cancel()
    if losses:
        _log_to_file(turn)  # there may be room again
    for loss in (*losses, *turn.losses):
        _log(f"warning: {loss}")
    return turn.result


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
    sys.exit(main())
