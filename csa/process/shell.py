"""A shell command of the user's under a guardian: nothing it starts outlives it, or csa."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from csa.model.adapter import ToolExit
from csa.process.tool import start_tool
from csa.structs import Struct

KEPT_BYTES = 1 << 14
_LOOK_S = 0.005


class ShellEnd(Struct):
    """How a command has ended, and the last that it wrote, to stdout and stderr."""

    exit: ToolExit
    tail: str

    @property
    def has_succeeded(self) -> bool:
        return self.exit.code == 0


async def run_shell(
    command: str,
    *,
    cwd: str,
    env: Mapping[str, str],
    shared_fds: Sequence[int] = (),
    owns_process: bool = False,
    on_output: Callable[[bytes], None] | None = None,
) -> ShellEnd:
    """Run `sh -c command` without input to its end; when cancelled it is ended, with all it has started.

    Args:
        command: what to run.
        cwd: where.
        env: its whole environment.
        shared_fds: as for `start_tool`, like `owns_process`.
        owns_process: see there.
        on_output: called with what it writes, as it comes.

    Raises:
        SpawnError: it cannot be started.
    """
    tail = _Tail()

    async def read(source: Callable[[], Awaitable[bytes]]) -> None:
        while block := await source():
            tail.add(block)
            if on_output:
                on_output(block)

    argv, environ = ("/bin/sh", "-c", command), {**env, "PWD": cwd}
    async with start_tool(argv, cwd=cwd, env=environ, shared_fds=shared_fds, owns_process=owns_process) as tool:
        await tool.feed_stdin(b"")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, tool.read_stdout)
            tasks.start_soon(read, tool.read_stderr)
            end = await tool.wait()
            while tool.has_unread_output():  # noqa: ASYNC110  # the readers have no event for it
                await anyio.sleep(_LOOK_S)
            tasks.cancel_scope.cancel()  # what it has left in the background may keep its pipes open
    return ShellEnd(end, tail.text())


class _Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._blocks = deque[bytes]()
        self._bytes = 0

    def add(self, block: bytes) -> None:
        self._blocks.append(block)
        self._bytes += len(block)
        while self._bytes - len(self._blocks[0]) >= KEPT_BYTES:
            self._bytes -= len(self._blocks.popleft())

    def text(self) -> str:
        return b"".join(self._blocks)[-KEPT_BYTES:].decode("utf-8", "replace")
