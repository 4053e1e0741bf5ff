"""Jobs: orders that a scheduler has, until a node has them.

A scheduler is called by its commands, which its adapter makes and reads. Whatever one of them says of a failure is no
evidence that nothing has begun: that is so only if the job was held, and was still waiting then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO, Any

from csa.errors import CsaError, UsageError
from csa.model.config import Config, Engine
from csa.runner.hosts.engines import HostError, reach_of
from csa.runner.hosts.schedulers import GONE, PENDING, Look, Scheduler, adapter_of, is_scheduler
from csa.structs import Struct, replace

_COMMAND_S, _HURRIED_S = 60.0, 5.0
_NO_ANSWER = 124  # as of timeout(1)
_HEED_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.2, 5.0, 1.3
_TRIES = 5


class WithdrawnError(CsaError):
    """A job has waited for too long, and was taken back: its turn has not begun, and never will."""

    code = "withdrawn"
    exit_code = 7


class UnclearError(HostError):
    """A scheduler may have an order, and could not be told to forget it."""


class Job(Struct):
    """An order that the scheduler of an engine has."""

    engine: Engine
    handle: str

    @property
    def in_words(self) -> str:
        return f"job {self.handle} of {self.engine.name}"

    def look(
        self, *, tries: int = _TRIES, limit_s: float = _COMMAND_S, is_stopped: Callable[[], bool] = lambda: False
    ) -> Look:
        """Return how it is; HostError if the scheduler does not say, within `limit_s` each time, or it is stopped."""
        adapter = adapter_of(self.engine)
        for number in range(tries):
            done = _call(self.engine, adapter.look(self.engine, self.handle), limit_s=limit_s, is_stopped=is_stopped)
            if (found := _read_look(adapter, done)) is not None:
                return replace(found, host=self.engine.host) if found.host and self.engine.host else found
            if is_stopped():
                break
            time.sleep(number)
        raise _failed(self.engine, done, "does not answer")

    def await_host(self, limit_s: float | None, is_stopped: Callable[[], bool], tell: Callable[[str], None]) -> Look:
        """Wait until it is no longer in the queue, and return how it is then, which may be gone; or why it still waits.

        That is so when `limit_s` is over, or when it is stopped. What it waits for is told, whenever that changes.
        """
        began, pause_s, told = time.monotonic(), _FIRST_PAUSE_S, ""
        while (found := self._look_again(is_stopped)).state == PENDING:
            if found.reason != told:
                told = found.reason
                tell(f"waiting in the queue of {self.engine.name} ({found.reason or 'soon'}, job {self.handle})")
            until = time.monotonic() + pause_s
            while time.monotonic() < until:
                if is_stopped() or (limit_s and time.monotonic() - began > limit_s):
                    return found
                time.sleep(_HEED_S)
            pause_s = min(_GROWTH * pause_s, _LONGEST_PAUSE_S)
        return found

    def _look_again(self, is_stopped: Callable[[], bool]) -> Look:
        """Return how it is; it waits as long as the scheduler does not answer."""
        try:
            return self.look(tries=1, is_stopped=is_stopped)
        except HostError as error:
            return Look(PENDING, reason=error.message.rstrip("."))

    def withdraw(self, *, limit_s: float = _COMMAND_S) -> bool:
        """Take it back if it still waits. True: it has not begun, and never will; False: that is not certain."""
        if keep := adapter_of(self.engine).keep(self.engine, self.handle):
            _call(self.engine, keep, limit_s=limit_s)
            if self.look(limit_s=limit_s).state != PENDING:
                return False
        self.cancel(limit_s=limit_s)
        after = self.look(limit_s=limit_s)
        return after.state == GONE and not (keep and after.host)  # what nobody has held has not begun

    def cancel(self, *, limit_s: float = _COMMAND_S) -> bool:
        """End it, whether it waits or runs; False if the scheduler does not say that it does."""
        done = _call(self.engine, adapter_of(self.engine).cancel(self.engine, self.handle), limit_s=limit_s)
        return done.returncode == 0

    def engine_at(self, host: str, config: Config) -> Engine:
        """Return how its host is reached, as long as it runs."""
        is_way = adapter_of(self.engine).reach(self.engine, self.handle)
        return replace(self.engine, name=host, job=self.handle) if is_way else config.engine(host)

    def explain_end(self, found: Look) -> CsaError:
        """Say why nothing is heard of a job that is gone."""
        name, host = self.engine.name, found.host
        if found.is_without_csa:
            hint = f'install csa there, or name its place: [engines.{name}] csa = ["/path/to/csa"]'
            return HostError(f"There is no {' '.join(self.engine.csa)} on {host}.", hint=hint)
        if not host and not found.reason:
            return HostError(f"{name} knows nothing of job {self.handle} any more.", hint="csa hosts --placed")
        what = "still has" if found.state == PENDING else "has ended"
        where = f" on {host}" if host else ", which had not begun"
        return HostError(f"{name} {what} job {self.handle}{where}: {found.reason}.", hint="csa hosts --placed")


def words_of(engine: Engine, node: str | None = None) -> list[str]:
    """Return what calls csa on a host, or what has a scheduler do so."""
    if not is_scheduler(engine):
        return [*reach_of(engine), *engine.csa]
    return [*adapter_of(engine).place(engine, "csa-ID", node)]


def check(engine: Engine) -> Mapping[str, Any]:
    """Ask a scheduler whether it is there; HostError if not. It says nothing of itself."""
    done = _call(engine, adapter_of(engine).check(engine))
    if done.returncode != 0:
        raise _failed(engine, done, "does not answer")
    return {}


def name_of(order_id: str) -> str:
    """Return what the job of an order is called: no two are called so."""
    return f"csa-{order_id}"


def submit(
    engine: Engine,
    order: bytes,
    name: str,
    node: str | None = None,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Job:
    """Give an order to a scheduler, by a name that no other one has.

    When it is stopped meanwhile, that is as if it had not been taken, only sooner.

    Raises:
        HostError: it does not take it; if it has, after all, that is cancelled.
        UnclearError: it may have taken it.
        UsageError: it is too large.
    """
    adapter = adapter_of(engine)
    script = adapter.script(engine, name, order)
    if len(script) > adapter.MOST_SCRIPT:
        raise UsageError(
            f"The order is {len(script) / 1e6:.1f} MB, and {engine.name} takes {adapter.MOST_SCRIPT / 1e6:.1f} MB.",
            hint=f'if your code is on the nodes: [engines.{engine.name}] code = "shared", or "none" with a directory',
        )
    done = _call(engine, adapter.place(engine, name, node), script, is_stopped=is_stopped)
    if handle := adapter.handle(done.stdout.decode(errors="replace")) if done.returncode == 0 else "":
        return Job(engine, handle)
    failure = _failed(engine, done, "takes no order")
    limit_s = _HURRIED_S if is_stopped() else _COMMAND_S
    if not _is_without(engine, name, limit_s, has_answered=done.returncode != _NO_ANSWER):  # which may have been lost
        raise UnclearError(failure.message, hint=failure.hint)
    raise failure


def _is_without(engine: Engine, name: str, limit_s: float, *, has_answered: bool) -> bool:
    """Take back what a scheduler may have by a name; say whether it is certain that it has nothing, nor will have."""
    try:
        taken = find_job(engine, name, limit_s=limit_s)
        if taken is None:
            return has_answered  # or it is in the queue later
        if taken.withdraw(limit_s=limit_s):
            return True
        taken.cancel(limit_s=limit_s)
    except HostError:
        pass
    return False


def find_job(engine: Engine, name: str, *, limit_s: float = _COMMAND_S) -> Job | None:
    """Return the job that was submitted by a name, which may be over; None if the scheduler has none, or has forgotten.

    UnclearError if it does not say.
    """
    adapter = adapter_of(engine)
    done = _call(engine, adapter.find(engine, name), limit_s=limit_s)
    said = done.stdout.decode(errors="replace")
    handle = adapter.handle(said)
    if done.returncode != 0 or (said.strip() and not handle):
        failure = _failed(engine, done, "does not say what it has")
        raise UnclearError(failure.message, hint=failure.hint)
    return Job(engine, handle) if handle else None


def take_back(engine: Engine, name: str, *, limit_s: float = _COMMAND_S, is_ended: bool = False) -> Look | None:
    """Take back the job that was submitted by a name if it still waits: it is for when nobody holds it.

    With `is_ended` one that runs is ended, too. Return None if its turn has never begun, nor will; else how it is: on
    which host it may have begun, or on one that is not known.

    Raises:
        HostError: the scheduler does not say, or does not end it.
    """
    is_held = is_always_held(engine)
    job = find_job(engine, name, limit_s=limit_s)
    if job is None:
        return None if is_held else Look(GONE)
    found = job.look(tries=1, limit_s=limit_s)
    if found.state == PENDING and job.withdraw(limit_s=limit_s):
        return None
    if found.state != GONE:
        is_refused = (is_ended or is_held) and not job.cancel(limit_s=limit_s)
        found = job.look(tries=1, limit_s=limit_s)
        if is_refused or found.state == PENDING:
            raise HostError(f"{engine.name} does not take job {job.handle} back.", hint="csa hosts --placed")
    may_have_begun = not is_held and (found.host or not found.reason) and not found.is_without_csa
    return found if may_have_begun else None


def is_always_held(engine: Engine) -> bool:
    """Say whether every job of a scheduler waits on its host for us, before its turn begins: also with `--detach`."""
    return not adapter_of(engine).keep(engine, "")


def _read_look(adapter: Scheduler, done: subprocess.CompletedProcess[bytes]) -> Look | None:
    """Return how a job is; None for what makes no sense, which other versions of a scheduler may say."""
    try:
        return adapter.read_look(
            done.returncode, *(each.decode(errors="replace") for each in (done.stdout, done.stderr))
        )
    except Exception:  # noqa: BLE001  # whatever an adapter trips over, the job is there, and is looked at again
        return None


def _call(
    engine: Engine,
    argv: Sequence[str],
    given: bytes = b"",
    *,
    limit_s: float | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the scheduler, which Ctrl-C does not reach. Of one that takes too long nothing is left."""
    limit_s = limit_s or _COMMAND_S
    environ, pipe = adapter_of(engine).environment(os.environ), subprocess.PIPE
    try:
        with (
            _file_of(given) as stdin,
            subprocess.Popen(argv, stdin=stdin, stdout=pipe, stderr=pipe, env=environ, process_group=0) as process,
        ):
            try:
                out, err = _hear(process, limit_s, is_stopped)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # what a shell runs, too; it is not reaped yet
                raise
            return subprocess.CompletedProcess(argv, process.returncode, out, err)
    except OSError as error:
        words = f"{engine.name} cannot be reached: {argv[0]}: {error.strerror}."
        raise HostError(
            words, hint=f"csa run --on {engine.name} calls {argv[0]}, which has to be on the PATH"
        ) from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, _NO_ANSWER, b"", f"no answer for {limit_s:g} s".encode())


def _file_of(given: bytes) -> IO[bytes]:
    """Return a file for a command to read: `communicate` forgets what is not written yet when it is called again."""
    file = TemporaryFile()  # noqa: SIM115  # closed by whoever runs the command
    file.write(given)
    file.seek(0)
    return file


def _hear(process: subprocess.Popen[bytes], limit_s: float, is_stopped: Callable[[], bool]) -> tuple[bytes, bytes]:
    """Return what it says, to its end; TimeoutExpired when that takes too long, or it is stopped."""
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return process.communicate(timeout=_HEED_S)
        except subprocess.TimeoutExpired:  # nothing is lost when this is done again
            if is_stopped() or time.monotonic() > deadline:
                raise


def _failed(engine: Engine, done: subprocess.CompletedProcess[bytes], what: str) -> HostError:
    program = str(done.args[0])
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    line = next((each for each in lines if each.startswith("error: ")), lines[-1].strip() if lines else "")
    said = line.removeprefix(f"{program}: ").removeprefix("error: ").rstrip(".")
    words = said or f"{program} exited with code {done.returncode}"
    return HostError(
        f"{engine.name} {what}: {words}.", hint=f"csa run --dry-run --on {engine.name} shows what is called"
    )
