"""A tool with its own terminal interface, shown on ours: a pseudo-terminal with the guardian, and the tool, inside.

The only module that imports pexpect. Our terminal is raw meanwhile, and restored afterwards, however it ends: the
guardian does that if we are killed. A tool that suspends itself suspends us with it, as a job of the shell.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pexpect

from csa.model.adapter import ToolExit
from csa.process import commands, guardian
from csa.process.launch import SpawnError, other_children
from csa.process.orphans import sweep_orphans
from csa.process.wakeup import woken_by
from csa.procfs import is_zombie, open_pidfd
from csa.structs import Struct

TICK_S = 0.2
TERM_GRACE_S = 3.0
_LAST_OUTPUT_S = 0.1
_LOOK_S = 0.01
_READ_BYTES = 1 << 16
_SHOWN_BYTES = 8 << 10
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SETTINGS_BYTES = 64  # room for the kernel's struct termios


class TerminalEnd(Struct):
    """How it ended. `stopped_by` is the signal csa was sent, or `cancel`; None if the tool ended by itself.

    `end.stderr_tail` is the end of its output, with the terminal's control sequences.
    """

    end: ToolExit
    stopped_by: str | None


if TYPE_CHECKING:
    _Base = pexpect.spawn[bytes]  # a generic class only in the stubs
else:
    _Base = pexpect.spawn


class _Spawn(_Base):
    """A process in a pseudo-terminal, with some extra descriptors."""

    def __init__(self, argv: Sequence[str], pass_fds: Sequence[int], **options: Any) -> None:
        self._passed = tuple(pass_fds)
        super().__init__(argv[0], list(argv[1:]), preexec_fn=self._keep_passed, **options)

    def _keep_passed(self) -> None:
        """Let the descriptors survive the exec, in the child only."""
        for fd in self._passed:
            os.set_inheritable(fd, True)

    def _spawnpty(self, args: Any, **options: Any) -> Any:
        return super()._spawnpty(args, pass_fds=self._passed, **options)  # type: ignore[misc]  # not in the stubs


def run_in_terminal(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    shared_fds: Sequence[int],
    is_to_end: Callable[[int], bool],
) -> TerminalEnd:
    """Run a tool on our terminal (stdin and stdout) until it ends; nothing of it is left running afterwards.

    This process is csa's own and a subreaper.

    Args:
        argv: the command.
        cwd: the directory to start in.
        env: the whole environment of the tool.
        shared_fds: descriptors that stay open until the tree is gone (the session's lock).
        is_to_end: called several times a second with the guardian's PID; the tool is ended once it returns true.

    Raises:
        SpawnError: the tool cannot be started.
    """
    ours, others = _OurTerminal(), other_children()
    control_read, control = os.pipe()
    status, status_write = os.pipe()
    try:
        child = _Spawn(
            [*guardian.COMMAND, str(control_read), str(status_write), "tty", str(ours.spare_fd), ours.settings, *argv],
            [control_read, status_write, ours.spare_fd, *shared_fds],
            cwd=cwd,
            env=dict(env),
            dimensions=_window()[::-1],
        )
    except (OSError, pexpect.ExceptionPexpect) as error:
        os.close(control)
        os.close(status)
        raise SpawnError(argv[0], str(error)) from error
    finally:
        os.close(control_read)
        os.close(status_write)
        os.close(ours.spare_fd)
    session = _Session(ours, child, control, status)
    assert child.pid is not None
    try:
        with woken_by((*_ENDS, signal.SIGWINCH)) as wakes, ours.taken(session):
            session.pump(wakes, partial(is_to_end, child.pid))
    finally:
        if not session.close():
            sweep_orphans(env.get("CSA_SESSION_DIR"), others)
    if session.fault is not None:
        raise SpawnError(argv[0], os.strerror(session.fault))
    end = session.end or ToolExit(None, int(signal.SIGKILL))
    return TerminalEnd(ToolExit(end.code, end.signal, session.shown.decode("utf-8", "replace")), session.stopped_by)


class _OurTerminal:
    """The terminal that csa runs on; `spare_fd` and `settings` are for the guardian."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd)
        self._is_taken = False
        self.settings = fcntl.ioctl(self._fd, termios.TCGETS, bytes(_SETTINGS_BYTES)).hex()
        self.spare_fd = os.dup(self._fd)

    @contextmanager
    def taken(self, session: _Session) -> Iterator[None]:
        """Make it raw, and restore it at the end, whatever the tool has done to the screen."""
        self.take()
        try:
            yield
        finally:
            self.give_back(is_reset=not session.has_left)

    def take(self) -> None:
        self._is_taken = True
        with suppress(termios.error):  # the terminal may be gone; reading shows that too
            tty.setraw(self._fd)

    def give_back(self, *, is_reset: bool) -> None:
        if not self._is_taken:
            return
        self._is_taken = False
        with suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._before)
        if is_reset:
            _write_all(guardian.RESET)

    def is_for_us(self) -> bool:
        """Say whether we are its foreground job, or it has no jobs."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True


class _Session:
    """The traffic between our terminal and the tool's."""

    def __init__(self, ours: _OurTerminal, child: _Spawn, control: int, status: int) -> None:
        self.end: ToolExit | None = None
        self.fault: int | None = None
        self.stopped_by: str | None = None
        self.shown = b""  # the end of it
        self._ours = ours
        self._child = child
        self._terminal = child.child_fd
        self._control = control
        self._status = status
        self._is_over = False
        self._is_suspended = False
        self._typed = b""  # not yet read by the tool
        self._kill_at = float("inf")
        os.set_blocking(self._terminal, False)

    @property
    def has_left(self) -> bool:
        """Whether the tool ended by itself, and so has restored the screen."""
        return self.stopped_by is None and self.end is not None and self.end.signal is None

    def pump(self, wakes: int, is_to_end: Callable[[], bool]) -> None:
        """Copy until the tool has ended."""
        stdin = sys.stdin.fileno()
        while not self._is_over and time.monotonic() < self._kill_at:
            readers = [stdin, self._terminal, self._status, wakes]
            ready, writable, _ = select.select(readers, [self._terminal] if self._typed else [], [], TICK_S)
            if wakes in ready:
                self._obey(os.read(wakes, 64))
            if stdin in ready:
                self._type(stdin)
            if writable:
                self._hand_over()
            if self._terminal in ready and not self._show():
                self._is_over = True  # no process has the terminal any more
            if self._status in ready or self._is_over:
                self._read_status()
            if self._is_suspended and not self._is_over:
                self._suspend(wakes, is_to_end)
            if self.stopped_by is None and is_to_end():
                self._stop("cancel")
        self._show_the_rest()

    def close(self) -> bool:
        """Let the guardian end what is left, and wait for it; return whether it reports that it has done so."""
        os.close(self._control)
        self._continue_guardian()
        assert self._child.pid is not None
        if not _ends_within(guardian.SWEPT_WITHIN_S, self._child.pid):
            os.kill(self._child.pid, signal.SIGKILL)
        said = self._last_words()
        os.close(self._status)
        with suppress(pexpect.ExceptionPexpect):
            self._child.close(force=False)
        return b"swept" in said.split()

    def _last_words(self) -> bytes:
        said = b""
        while select.select([self._status], [], [], 0)[0] and (content := os.read(self._status, 512)):
            said += content
        return said

    def _obey(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._follow_size()
            elif number in _ENDS:
                self._stop(signal.Signals(number).name)

    def _stop(self, why: str) -> None:
        """TERM (commands first), a grace period, and then the guardian's sweep."""
        if self.stopped_by is None:
            self.stopped_by = why
            assert self._child.pid is not None
            # The tool is in the guardian's session; were it stopped, we would be suspended with it.
            ending = commands.ask_to_end(self._child.pid, self._child.pid, stop_tool=False)
            limit = time.monotonic() + commands.GRACE_S
            while ending.is_pending() and time.monotonic() < limit:
                time.sleep(commands.POLL_S)
            self._order(f"signal {int(signal.SIGTERM)}")
            self._kill_at = time.monotonic() + TERM_GRACE_S

    def _order(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the guardian is gone; its status pipe shows that too
            os.write(self._control, f"{line}\n".encode())
        self._continue_guardian()

    def _continue_guardian(self) -> None:
        """Continue it, in case somebody has stopped it."""
        assert self._child.pid is not None
        os.kill(self._child.pid, signal.SIGCONT)  # a child that is not reaped before the end

    def _follow_size(self) -> None:
        self._child.setwinsize(*_window()[::-1])

    def _suspend(self, wakes: int, is_to_end: Callable[[], bool]) -> None:
        """Stop as the tool did, and continue with it: when the shell continues us, or at once if no shell could."""
        self._is_suspended = False
        self._show_the_rest()
        self._ours.give_back(is_reset=False)
        while self.stopped_by is None:
            os.kill(0, signal.SIGTSTP)
            if self._ours.is_for_us():
                self._ours.take()
                self._follow_size()
                self._order("continue")
                return
            # Continued in the background, by `session kill` or `bg`: the terminal is somebody else's.
            if select.select([wakes], [], [], TICK_S)[0]:
                self._obey(os.read(wakes, 64))
            elif is_to_end():
                self._stop("cancel")
        self._kill_at = 0.0  # a stopped tool does not react to TERM

    def _type(self, stdin: int) -> None:
        try:
            typed = os.read(stdin, _READ_BYTES)
        except OSError:
            typed = b""
        if not typed:  # the terminal is gone
            self._stop("SIGHUP")
            self._kill_at = 0.0
        self._typed += typed

    def _hand_over(self) -> None:
        with suppress(BlockingIOError):
            self._typed = self._typed[os.write(self._terminal, self._typed) :]

    def _show(self) -> bool:
        """Show what the tool has written; return whether there may be more."""
        try:
            shown = os.read(self._terminal, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.shown = (self.shown + shown)[-_SHOWN_BYTES:]
        _write_all(shown)
        return bool(shown)

    def _show_the_rest(self) -> None:
        end = time.monotonic() + _LAST_OUTPUT_S
        while time.monotonic() < end and select.select([self._terminal], [], [], 0)[0] and self._show():
            pass

    def _read_status(self) -> None:
        """Read the guardian's status: `started`, and then how the tool ended, or that it could not be started."""
        content = os.read(self._status, 512)
        words = content.decode().split()
        for kind, value in pairwise(words):
            if kind == "failed":
                self.fault = int(value)
            elif kind == "stopped":
                self._is_suspended = True
            elif kind == "exit":
                self.end = ToolExit(int(value), None)
            elif kind == "killed":
                self.end = ToolExit(None, int(value))
        self._is_over = self._is_over or not content or self.end is not None or self.fault is not None


def _ends_within(limit_s: float, pid: int) -> bool:
    """Wait for a child to end, without reaping it; say whether it did."""
    pidfd = open_pidfd(pid)
    if pidfd is not None:
        is_over = bool(select.select([pidfd], [], [], limit_s)[0])
        os.close(pidfd)
        return is_over
    limit = time.monotonic() + limit_s
    while not is_zombie(pid) and time.monotonic() < limit:
        time.sleep(_LOOK_S)
    return is_zombie(pid)


def _window() -> tuple[int, int]:
    """Return columns and lines of our terminal."""
    try:
        columns, lines = os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        return 80, 24
    return columns or 80, lines or 24


def _write_all(content: bytes) -> None:
    view = memoryview(content)
    with suppress(OSError):  # our terminal may be gone; stdin shows that too
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
