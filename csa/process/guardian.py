"""The guardian: a small process that is the tool's parent and outlives the supervisor until all is cleaned up.

Run as `COMMAND <control fd> <status fd> -- argv...`, in a session of its own, with the tool's stdin,
stdout, stderr, directory and environment. With `tty <fd> <settings>` in place of `--` its stdin is its controlling
terminal, on which the tool is the foreground job; the other terminal, on which the supervisor shows this one, gets
those settings back when the supervisor dies and leaves it raw. It ignores the terminal's signals, and is a *subreaper*:
whatever the tool starts and abandons (setsid, double fork, nohup) becomes its child. An unreaped child's pid cannot be
reused, so it never signals a stranger.

Control, from the supervisor: lines `signal N` (to the tool), `continue` (the tool's job), `keep` (sweep nothing at
the end) and `hurry` (sweep with little patience). End of file, for whatever reason, means the end.
Status, to the supervisor: lines `started PID`, `failed ERRNO`, `stopped SIGNAL` (of a job), `exit CODE`,
`killed SIGNAL`, and last `swept N PEAK_RSS_BYTES`.
A detached supervisor that a descendant has started is left running, with everything below it: it has its own guardian.
Descriptors it inherits beyond these (the session lock) stay open until it is done: the session lives as long as its
tree does. The tool inherits none of them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import sys
import time

TYPE_CHECKING = False  # as below: a guardian starts before each tool, and imports little
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # what `signal` makes enums of, which take a quarter of the start

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 1.25  # between TERM and KILL: git removes its lock files
NESTED_GRACE_S = 3.0  # a nested csa ends its own processes, keeps the work in its worktree, and records the end
SECOND_TERM_S = 0.5  # after the first: a supervisor that gets two does not wait for its tool
HURRY_S = 0.2  # in place of GRACE_S
SWEEP_LIMIT_S = 10.0
SWEPT_WITHIN_S = NESTED_GRACE_S + SWEEP_LIMIT_S + 1.0  # how long the supervisor waits for a guardian
# What a killed interface may leave behind: the alternate screen, no cursor, the mouse, bracketed paste, key modes.
RESET = b"\033[?1049l\033[?25h\033[?1000l\033[?1002l\033[?1003l\033[?1006l\033[?2004l\033[?1l\033>\033[<u\033[0m\r\n"
# An imported module is not compiled each time, as a program would be; csa's own import has written the cache.
COMMAND = (
    *(sys.executable, "-I", "-S", "-B", "-c"),
    "import sys; sys.path.append(sys.argv.pop(1)); import guardian; guardian.main()",
    os.path.dirname(__file__),
)
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Make abandoned descendants our children; OSError if the kernel refuses."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def children_of(pid: int) -> list[int]:
    """Return the unreaped children of all threads of a process; none if it is gone."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
    except OSError:
        pass  # it ended while we looked
    return found


def own_children_of(pid: int) -> list[int]:
    """Return the children of a process without detached supervisors."""
    return [child for child in children_of(pid) if not is_detached_supervisor(child)]


def descendants_of(pid: int) -> list[int]:
    """Return the descendants of a process, parents first, without detached supervisors and what is below them."""
    found: list[int] = []
    queue = own_children_of(pid)
    while queue:
        found += queue
        queue = [grandchild for child in queue for grandchild in own_children_of(child)]
    return found


def session_lock_of(pid: int) -> str | None:
    """Return the path of the session lock that a process has open, as a supervisor and its guardian have."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            if target.endswith("/locks/session.lock"):
                return target
    except OSError:
        pass  # it ended while we looked, or is another user's
    return None


def is_detached_supervisor(pid: int) -> bool:
    """Say whether a process owns a turn that must survive its caller, by the record in its lock."""
    lock = session_lock_of(pid)
    if lock is None:
        return False
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for a writer
        try:
            owner = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return False
    return f'"pid":{pid},'.encode() in owner and b'"detached":true' in owner


def sweep(find: Callable[[], list[int]] | None = None, *, grace_s: float = GRACE_S) -> int:
    """End and reap our children until there are none; return how many processes were ended, -1 if some did not die.

    `find` returns the children to end: by default all but detached supervisors. Everything below them is
    sent TERM first, and killed after a grace period. Nested supervisors end their own processes, and are not
    counted: their turns end `cancelled` rather than `lost`.
    """
    find = find or _own_children
    _reap(find())
    ended = _ask_to_end(find, grace_s)
    end, pause_s = time.monotonic() + SWEEP_LIMIT_S, 0.001
    while (children := find()) and time.monotonic() < end:
        ended.update(pid for pid in children if not _is_zombie(pid))
        for pid in children:
            _kill(pid, signal.SIGKILL)
        pause_s = _rest(pause_s, find)
    return -1 if children else len(ended)


def askable(pids: list[int]) -> list[tuple[int, bool]]:
    """Return these processes and everything below, parents first, each with whether it is a nested supervisor.

    What is below a nested supervisor belongs to it, and is left out.
    """
    found: list[tuple[int, bool]] = []
    queue = pids
    while queue:
        looked = [(pid, session_lock_of(pid) is not None) for pid in queue]
        found += looked
        queue = [child for pid, is_nested in looked if not is_nested for child in own_children_of(pid)]
    return found


def _own_children() -> list[int]:
    return own_children_of(os.getpid())


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return True


def _ask_to_end(find: Callable[[], list[int]], grace_s: float) -> set[int]:
    """Send TERM, and wait until all are gone or the grace period is over; return the processes that were asked.

    A process that appears meanwhile may be cleaning up for one that was asked, and gets it only halfway. Then a nested
    supervisor gets it again: one that gets two does not wait for its tool.
    """
    asked = _ask(find(), {})
    start, pause_s, is_first = time.monotonic(), 0.001, True
    while find() and time.monotonic() < start + (grace_s if _all_ended(asked) else max(grace_s, NESTED_GRACE_S)):
        if is_first and time.monotonic() >= start + SECOND_TERM_S:
            is_first = False
            asked = _ask(find(), asked)
        pause_s = _rest(pause_s, find)
    return {pid for pid, is_nested in asked.items() if not is_nested}


def _all_ended(asked: dict[int, bool]) -> bool:
    """Say whether none of the nested supervisors that were asked is left."""
    return not any(is_nested and not _is_zombie(pid) for pid, is_nested in asked.items())


def _ask(children: list[int], asked: dict[int, bool]) -> dict[int, bool]:
    """Send TERM to processes that have not got it yet, and to nested supervisors; return all asked so far."""
    found = {pid: is_nested for pid, is_nested in askable(children) if not _is_zombie(pid)}
    for pid, is_nested in found.items():
        if is_nested or pid not in asked:
            _kill(pid, signal.SIGTERM)
            _kill(pid, signal.SIGCONT)  # a stopped one, or one with a stopped guardian, could not obey
    return {**asked, **found}


def _rest(pause_s: float, find: Callable[[], list[int]]) -> float:
    """Give the children a moment, and reap those that have ended; return the length of the next moment."""
    time.sleep(pause_s)
    _reap(find())
    return min(pause_s * 2, 0.02)


def _reap(pids: list[int]) -> None:
    for pid in pids:
        try:  # noqa: SIM105  # contextlib would take a third of the start-up time
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass  # not ours to reap


def _kill(pid: int, number: int) -> None:
    try:  # noqa: SIM105  # as above
        os.kill(pid, number)
    except OSError:
        pass  # it ended, or became another user's: we cannot signal a setuid program


def _spawn(argv: list[str], status: int, *, has_tty: bool = False) -> int:
    me = os.getpid()
    error_read, error_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _exec(argv, me, error_write, has_tty=has_tty)
    os.close(error_write)
    failure = os.read(error_read, 16)  # end of file at a successful exec
    os.close(error_read)
    _say(status, f"failed {failure.decode()}" if failure else f"started {pid}")
    return pid


def _exec(argv: list[str], parent: int, error_write: int, *, has_tty: bool) -> None:
    try:
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # whatever we, Python or the starter of csa ignore
        if has_tty:
            _take_foreground()
        else:
            os.setsid()
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)
        os.execvp(argv[0], argv)  # noqa: S606  # no fallback to a shell
    except OSError as error:
        os.write(error_write, str(error.errno).encode())
    os._exit(127)


def _take_foreground() -> None:
    """Become the terminal's foreground job, which can be stopped: its parent, another job, is of the same session."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def restore_terminal(fd: int, settings: bytes) -> None:
    """Restore the settings and screen of a terminal that is still raw; if a shell has done so already, do nothing."""
    import fcntl  # noqa: PLC0415  # most tools have no terminal
    import termios  # noqa: PLC0415  # as above

    try:
        _, output, _, local, *_ = termios.tcgetattr(fd)
        if output & termios.OPOST or local & termios.ISIG:
            return
        fcntl.ioctl(fd, termios.TCSETS, settings)
        if select.select([], [fd], [], 0)[1]:  # a terminal that does not read would hold us up
            os.write(fd, RESET)
    except (OSError, termios.error):
        pass  # it may be gone


def _say(status: int, line: str) -> None:
    try:  # noqa: SIM105  # as above
        os.write(status, line.encode() + b"\n")
    except OSError:
        pass  # the supervisor is dead; the end of the control pipe says the same


def _report(status: int, code: int) -> None:
    if os.WIFSTOPPED(code):
        _say(status, f"stopped {os.WSTOPSIG(code)}")
    elif os.WIFSIGNALED(code):
        _say(status, f"killed {os.WTERMSIG(code)}")
    else:
        _say(status, f"exit {os.WEXITSTATUS(code)}")


def _watch(tool: int, control: int, status: int, *, has_tty: bool) -> set[bytes]:
    """Pass on signals and report the tool's end, until the control pipe ends; adopted children are reaped meanwhile.

    Returns the words about the end: `keep`, `hurry`.
    """
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    options = os.WNOHANG | (os.WUNTRACED if has_tty else 0)
    running, said = True, set[bytes]()
    os.write(wake_write, b"\0")  # the tool may have ended before the handler was installed
    while True:
        ready, _, _ = select.select([control, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 512)
            running = _note_ends(tool, status, options, running=running)
        if control in ready:
            words = os.read(control, 512).split()
            if not words:
                return said
            said.update(words)
            if running:
                for number in filter(bytes.isdigit, words):
                    _kill(tool, int(number))
                if b"continue" in words:
                    os.killpg(tool, signal.SIGCONT)


def _note_ends(tool: int, status: int, options: int, *, running: bool) -> bool:
    try:
        while (changed := os.waitpid(-1, options))[0]:
            if changed[0] == tool:
                _report(status, changed[1])
                running = os.WIFSTOPPED(changed[1])
    except ChildProcessError:
        pass
    return running


def main() -> None:
    """Run the tool, stay until its whole tree is gone, and end this process."""
    control, status = int(sys.argv[1]), int(sys.argv[2])
    has_tty = sys.argv[3] == "tty"
    argv = sys.argv[6 if has_tty else 4 :]
    for fd in (control, status):
        os.set_inheritable(fd, False)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:  # noqa: PLR2004  # all but the standard streams are ours only
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the descriptor of the listing itself
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an inherited disposition may hide the tool's end from us
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    become_subreaper()
    tool = _spawn(argv, status, has_tty=has_tty)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)  # so that the tool's end of its pipes is the only one
    os.close(null)
    said = _watch(tool, control, status, has_tty=has_tty)
    if has_tty:
        restore_terminal(int(sys.argv[4]), bytes.fromhex(sys.argv[5]))
    swept = 0 if b"keep" in said else sweep(grace_s=HURRY_S if b"hurry" in said else GRACE_S)
    _say(status, f"swept {swept} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024}")
    os._exit(0)  # the supervisor waits for our end, and shutting down the interpreter takes milliseconds
