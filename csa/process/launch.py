"""Starting a tool under a guardian, without an event loop; `csa.process.tool` attends to it from then on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from csa.process import guardian

STDOUT_PIPE_BYTES = 1 << 20  # at its exit gemini loses what does not fit into the pipe
guardians_at_work: set[int] = set()
_guardian_source: list[str] = []


class SpawnError(Exception):
    """The tool could not be started; `reason` is the system's."""

    def __init__(self, program: str, reason: str) -> None:
        super().__init__(f"cannot start {program}: {reason}")
        self.reason = reason


class Launched:
    """A guardian that starts a tool. If nobody attends to it, it runs until this process ends, which ends it."""

    def __init__(
        self,
        program: str,
        process: subprocess.Popen[bytes],
        control: int,
        status: int,
        *,
        session_dir: str | None,
        others: Sequence[int],
    ) -> None:
        self.program = program
        self.process = process
        self.control = control
        self.status = status
        self.session_dir = session_dir
        self.others = others  # the children that this process had before
        self.fed = 0  # bytes of what goes to the tool's stdin
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
        os.set_blocking(status, False)
        if process.stdout is not None:
            with suppress(OSError):  # the user's pipes may have used up the kernel's limit; the default will do
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, STDOUT_PIPE_BYTES)

    def feed(self, content: bytes) -> None:
        """Write as much to the tool's stdin as fits, and close it after the end."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            while self.fed < len(content):
                self.fed += os.write(stdin.fileno(), memoryview(content)[self.fed :])
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass  # a tool may stop reading; that is not an error
        with suppress(OSError):
            stdin.close()


def remember_guardian() -> None:
    """Keep the guardian's program in memory, for tools started after csa's files have been replaced."""
    if not _guardian_source:
        with suppress(OSError), open(guardian.__file__, encoding="utf-8") as file:
            _guardian_source.append(file.read())


def _guardian_command() -> tuple[str, ...]:
    if not _guardian_source or os.path.exists(guardian.__file__):
        return guardian.COMMAND
    start = (
        "import sys; space = {'__name__': 'guardian', '__file__': ''}; exec(sys.argv.pop(1), space); space['main']()"
    )
    return (*guardian.COMMAND[:-2], start, *_guardian_source)


def launch_tool(argv: Sequence[str], *, cwd: str, env: Mapping[str, str], shared_fds: Sequence[int] = ()) -> Launched:
    """Start a guardian that starts a tool; arguments and errors are those of `csa.process.tool.start_tool`."""
    control_read, control_write = os.pipe()
    status_read, status_write = os.pipe()
    others = other_children()
    try:
        process = subprocess.Popen(
            [*_guardian_command(), str(control_read), str(status_write), "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
            pass_fds=(control_read, status_write, *shared_fds),
        )
    except OSError as error:
        os.close(control_write)
        os.close(status_read)
        raise SpawnError(argv[0], f"{error.strerror}: {error.filename or cwd}") from error
    finally:
        os.close(control_read)
        os.close(status_write)
    guardians_at_work.add(process.pid)
    directory = env.get("CSA_SESSION_DIR")
    return Launched(argv[0], process, control_write, status_read, session_dir=directory, others=others)


def other_children() -> list[int]:
    """Return our children other than guardians: those from before the exec of csa."""
    return [pid for pid in guardian.children_of(os.getpid()) if pid not in guardians_at_work]


def become_subreaper() -> None:
    """Make this process, which must be csa's own, adopt what a killed guardian leaves.

    Its signals work, and it is notified of its children's ends, whatever it has inherited.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    guardian.become_subreaper()
