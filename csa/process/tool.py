"""A tool run under a guardian: its pipes, its exit, and the certainty that its whole tree is gone afterwards."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from termios import FIONREAD

import anyio

from csa.model.adapter import ToolExit
from csa.process import commands, guardian
from csa.process.launch import Launched, SpawnError, guardians_at_work, launch_tool
from csa.process.orphans import sweep_orphans
from csa.procfs import ProcessId, cpu_ticks, identify, is_zombie, open_pidfd

READ_BYTES = 1 << 18
_LOOK_S = 0.01


class ToolProcess:
    """A running tool. Made by `attend_tool`; its streams end with b""."""

    def __init__(self, launched: Launched) -> None:
        self.pid = 0
        self.swept = 0  # processes the tool had left; -1 if some could not be killed
        self.is_swept = False  # as reported by the guardian: it was not killed
        self.kept: list[int] | None = None  # processes that were left running; None if everything is swept
        self.peak_rss_bytes: int | None = None  # of the largest process of the tree
        self._launched = launched
        self._process = launched.process
        self._control = launched.control
        self._status = launched.status
        self._status_buffer = b""

    @property
    def guardian_pid(self) -> int:
        return self._process.pid

    async def read_stdout(self) -> bytes:
        assert self._process.stdout is not None
        return await _read(self._process.stdout.fileno())

    async def read_stderr(self) -> bytes:
        assert self._process.stderr is not None
        return await _read(self._process.stderr.fileno())

    def has_unread_output(self) -> bool:
        """Say whether the tool has written output that has not been read yet."""
        streams = (self._process.stdout, self._process.stderr)
        return any(any(fcntl.ioctl(stream, FIONREAD, bytes(4))) for stream in streams if stream is not None)

    async def feed_stdin(self, content: bytes) -> None:
        """Write everything, then close. A tool may stop reading; that is not an error."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            self._launched.feed(content)
            while not stdin.closed:
                await anyio.wait_writable(stdin.fileno())
                self._launched.feed(content)
        finally:
            with suppress(OSError):
                stdin.close()

    def signal(self, number: int) -> None:
        """Let the guardian signal the tool itself (not its children); harmless if it has ended."""
        with suppress(OSError):
            os.write(self._control, f"signal {number}\n".encode())
        self._continue_guardian()

    async def end(self) -> None:
        """Send the tool TERM, after the commands in its agent's shells got it and had a moment."""
        ending = commands.ask_to_end(self.guardian_pid, self.pid, stop_tool=True)
        limit = anyio.current_time() + commands.GRACE_S
        while ending.is_pending():  # they are not our children, so we cannot wait for them
            if anyio.current_time() >= limit:
                break
            await anyio.sleep(commands.POLL_S)
        if not ending.end_tool(self.pid):
            self.signal(signal.SIGTERM)

    def hurry(self) -> None:
        """Give leftovers little time to end by themselves."""
        with suppress(OSError):
            os.write(self._control, b"hurry\n")

    def abandon(self) -> None:
        """Kill a guardian that does not do its work; the tool dies with it, and `wait` returns."""
        self._process.kill()

    def keep_background(self) -> None:
        """Leave the tool's leftovers running, instead of sweeping them."""
        self.kept = guardian.descendants_of(self.guardian_pid)
        with suppress(OSError):
            os.write(self._control, b"keep\n")

    async def wait(self) -> ToolExit:
        """Wait for the tool's end. A guardian that died took the tool with it (SIGKILL)."""
        words = await self._next_status()
        if words[:1] == ["exit"]:
            return ToolExit(int(words[1]), None)
        if words[:1] == ["killed"]:
            return ToolExit(None, int(words[1]))
        return ToolExit(None, int(signal.SIGKILL))

    def _continue_guardian(self) -> None:
        """Have it go on, should somebody have stopped it."""
        self._process.send_signal(signal.SIGCONT)

    async def _started(self, program: str) -> None:
        words = await self._next_status()
        if words[:1] == ["failed"]:
            raise SpawnError(program, os.strerror(int(words[1])))
        if words[:1] != ["started"]:
            raise SpawnError(program, "the guardian died")
        self.pid = int(words[1])

    async def _next_status(self) -> list[str]:
        """Return the words of the next status line; none if the guardian is gone."""
        while b"\n" not in self._status_buffer:
            chunk = await _read(self._status)
            if not chunk:
                return []
            self._status_buffer += chunk
        line, _, self._status_buffer = self._status_buffer.partition(b"\n")
        return line.decode().split()

    async def _finish(self) -> None:
        """Tell the guardian to end, and wait until it has swept."""
        os.close(self._control)
        self._continue_guardian()
        while words := await self._next_status():
            if words[0] == "swept":
                self.is_swept, self.swept, self.peak_rss_bytes = True, int(words[1]), int(words[2])
        try:
            pidfd = open_pidfd(self._process.pid)
        except ProcessLookupError:
            return  # already reaped, by the kernel, if this process ignores SIGCHLD
        try:
            if pidfd is not None:
                await anyio.wait_readable(pidfd)
            while not is_zombie(self._process.pid):  # noqa: ASYNC110  # the kernel does not report it in any other way
                await anyio.sleep(_LOOK_S)
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        os.close(self._status)


@asynccontextmanager
async def start_tool(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    shared_fds: Sequence[int] = (),
    owns_process: bool = False,
) -> AsyncIterator[ToolProcess]:
    """Run a tool under a guardian. Leaving the block ends it and everything it has started, shielded and bounded.

    Args:
        argv: the command; its first word is looked up on the PATH of `env`.
        cwd: the directory to start in.
        env: the whole environment of the tool.
        shared_fds: descriptors the guardian keeps open until the tree is gone (the session lock); the tool gets none.
        owns_process: this process is csa's own and a subreaper: if the guardian is killed, it ends what that
            leaves (see `csa.process.orphans`).

    Raises:
        SpawnError: the directory, the program or the guardian cannot be started.
    """
    launched = launch_tool(argv, cwd=cwd, env=env, shared_fds=shared_fds)
    async with attend_tool(launched, owns_process=owns_process) as tool:
        yield tool


@asynccontextmanager
async def attend_tool(launched: Launched, *, owns_process: bool = False) -> AsyncIterator[ToolProcess]:
    """Attend to a tool that was launched; leaving the block ends it, as with `start_tool`.

    Raises:
        SpawnError: the guardian could not start it.
    """
    tool = ToolProcess(launched)
    try:
        await tool._started(launched.program)  # noqa: SLF001  # the other half of this class
        yield tool
    except anyio.get_cancelled_exc_class():
        tool.hurry()
        raise
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(guardian.SWEPT_WITHIN_S):
            await tool._finish()  # noqa: SLF001  # as above
        guardians_at_work.discard(tool.guardian_pid)
        if launched.process.poll() is None:
            tool.abandon()
        if owns_process and tool.kept is None and not tool.is_swept:
            tool.swept = sweep_orphans(launched.session_dir, launched.others)
        tool._close()  # noqa: SLF001  # as above


def processes_below(guardian_pid: int) -> list[ProcessId]:
    """Identify everything that runs under a guardian, except detached supervisors and what is below them."""
    return [found for pid in guardian.descendants_of(guardian_pid) if (found := identify(pid))]


def cpu_ticks_below(guardian_pid: int) -> int:
    """Sum the CPU time of everything under a guardian, including reaped processes, in clock ticks."""
    return sum(cpu_ticks(pid) for pid in [guardian_pid, *guardian.descendants_of(guardian_pid)])


async def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, READ_BYTES)
        except BlockingIOError:
            await anyio.wait_readable(fd)
        except OSError:
            return b""  # closed under us at the end of a run
