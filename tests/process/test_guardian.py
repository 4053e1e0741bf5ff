"""A tool under its guardian: how its end is reported, and that nothing it starts survives it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from csa.model.adapter import ToolExit
from csa.process import guardian
from csa.process.launch import SpawnError
from csa.process.tool import ToolProcess, start_tool
from csa.store.locks import acquire_lock, is_locked
from tests.support import PATIENCE_S, Place, is_running, wait_for

BULK = bytes(range(256)) * 1200  # 300 KiB, every byte


@asynccontextmanager
async def started(
    place: Place, *argv: str, cwd: Path | None = None, shared_fds: tuple[int, ...] = ()
) -> AsyncIterator[ToolProcess]:
    env = place.environment({"MARK": place.mark})
    async with start_tool(argv, cwd=str(cwd or place.project), env=env, shared_fds=shared_fds) as tool:
        with anyio.fail_after(PATIENCE_S):
            yield tool


async def _play(place: Place, argv: tuple[str, ...], stdin: bytes) -> tuple[ToolExit, bytes]:
    async with started(place, *argv) as tool, anyio.create_task_group() as tasks:
        tasks.start_soon(tool.feed_stdin, stdin)
        output = b""
        while chunk := await tool.read_stdout():
            output += chunk
        end = await tool.wait()
    return end, output


def play(place: Place, *argv: str, stdin: bytes = b"") -> tuple[ToolExit, bytes]:
    """Run a tool to its end; return how it ended and what it said."""
    return anyio.run(_play, place, argv, stdin)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_reports_the_exit_code(place: Place, code: int) -> None:
    """The tool's own exit code comes through."""
    assert play(place, "sh", "-c", f"exit {code}")[0] == ToolExit(code, None)


@pytest.mark.parametrize("name", ["TERM", "KILL", "INT", "HUP", "PIPE", "USR1"])
def test_reports_the_signal(place: Place, name: str) -> None:
    """A tool that dies of a signal is told from one that exits; none of them is ignored from birth."""
    assert play(place, "sh", "-c", f"kill -{name} $$")[0] == ToolExit(None, signal.Signals[f"SIG{name}"])


async def _start_in_vain(place: Place, program: str, cwd: Path | None) -> None:
    async with started(place, program, cwd=cwd):
        raise AssertionError("it was started")


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program"])
def test_missing_program(place: Place, program: str) -> None:
    """A program that is not there is a SpawnError that says so."""
    with pytest.raises(SpawnError, match=rf"{program}: No such file"):
        anyio.run(_start_in_vain, place, program, None)


def test_missing_directory(place: Place) -> None:
    """A start directory that is not there is a SpawnError that names it."""
    with pytest.raises(SpawnError, match=r"No such file or directory: .*gone"):
        anyio.run(_start_in_vain, place, "true", place.tmp / "gone")


def test_program_that_cannot_be_executed(place: Place) -> None:
    """A file without the right to execute is a SpawnError."""
    program = place.tmp / "tool"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(SpawnError, match="Permission denied"):
        anyio.run(_start_in_vain, place, str(program), None)


def test_stdin_arrives_whole(place: Place) -> None:
    """300 KiB, several times a pipe's capacity, reach a reader byte for byte."""
    end, output = play(place, "sha256sum", stdin=BULK)
    assert (end.code, output.split()[0].decode()) == (0, hashlib.sha256(BULK).hexdigest())


@pytest.mark.parametrize("command", ["exit 3", "exec 0<&-; exit 3", "head -c 1 > /dev/null; exit 3"])
def test_stdin_that_is_not_read(place: Place, command: str) -> None:
    """A tool that reads nothing, or not to the end, neither blocks nor fails the feeding."""
    assert play(place, "sh", "-c", command, stdin=BULK)[0].code == 3


def test_stdin_of_a_tool_that_runs_on(place: Place) -> None:
    """A tool that runs on with its stdin open and unread can be ended at any time."""

    async def scenario() -> None:
        async with started(place, "sh", "-c", "echo ready; exec sleep 600") as tool, anyio.create_task_group() as tasks:
            tasks.start_soon(tool.feed_stdin, BULK)
            assert await tool.read_stdout() == b"ready\n"
            tasks.cancel_scope.cancel()

    anyio.run(scenario)
    assert not place.processes()


def test_unread_output_is_known(place: Place) -> None:
    """Whether something waits to be read can be asked: neither what was read does, nor an end."""

    async def scenario() -> list[bool]:
        async with started(place, "sh", "-c", "echo one >&2; exec >&- 2>&-; read line") as tool:
            await anyio.to_thread.run_sync(wait_for, tool.has_unread_output, "it has said something")
            assert await tool.read_stderr() == b"one\n"
            assert await tool.read_stderr() == b""
            seen = [tool.has_unread_output()]
            await tool.feed_stdin(b"go\n")
            await tool.wait()
            return [*seen, tool.has_unread_output()]

    assert anyio.run(scenario) == [False, False]


def test_signal_reaches_the_tool_alone(place: Place) -> None:
    """A signal goes through the guardian to the tool, which may handle it."""

    async def scenario() -> ToolExit:
        command = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done"
        async with started(place, "sh", "-c", command) as tool:
            assert await tool.read_stdout() == b"ready\n"
            tool.signal(signal.SIGTERM)
            return await tool.wait()

    assert anyio.run(scenario) == ToolExit(42, None)


def _sleeper(place: Place) -> str:
    """A shell command that says its pid, and stays; it can be found without its environment."""
    return f"echo $$ > {place.tmp}/pid.new; mv {place.tmp}/pid.new {place.tmp}/pid; exec -a {place.mark} sleep 600"


ESCAPES = {
    "child": "bash -c {} &",
    "setsid": "setsid bash -c {} &",
    "setsid-fork": "setsid --fork bash -c {}",
    "nohup": "nohup bash -c {} > /dev/null 2>&1 &",
    "double-fork": "( ( bash -c {} & ) & )",
    "no-environment": "setsid env -i /bin/bash -c {} &",
    "stopped": 'setsid bash -c {} & while [ ! -e "$PID" ]; do sleep 0.005; done; kill -STOP $(cat "$PID")',
    "ignores-term": "setsid bash -c 'trap \"\" TERM HUP INT; '{} &",
    "own-subreaper-gone": "setsid setsid --fork nohup bash -c {} > /dev/null 2>&1 &",
}


@pytest.mark.parametrize("how", [*ESCAPES])
@pytest.mark.parametrize("tool_ends", [True, False], ids=["exits", "abandoned"])
def test_descendants_end_with_the_tool(place: Place, how: str, *, tool_ends: bool) -> None:
    """Whatever the tool leaves behind, in whichever way, is gone when the block is left."""
    pid_file = place.tmp / "pid"
    command = ESCAPES[how].format(shlex.quote(_sleeper(place)))
    command = f'PID={pid_file}; {command}\nwhile [ ! -e "$PID" ]; do sleep 0.005; done; echo ready'

    async def scenario() -> int:
        argv = ("bash", "-c", command if tool_ends else f"{command}; exec sleep 600")
        async with started(place, *argv) as tool:
            assert await tool.read_stdout() == b"ready\n"
            if tool_ends:
                assert await tool.wait() == ToolExit(0, None)
                assert is_running(int(pid_file.read_text()))
        return tool.swept

    assert anyio.run(scenario) >= 1
    assert not is_running(int(pid_file.read_text()))
    assert not place.processes()


LIST_DESCRIPTORS = """
import json, os
found = os.listdir("/proc/self/fd")[:-1]  # the last one is of the listing itself
print(json.dumps({fd: os.readlink(f"/proc/self/fd/{fd}") for fd in found}))
"""


def test_tool_inherits_neither_lock_nor_pipes(place: Place) -> None:
    """The tool sees its three streams and nothing else: no lock, no control or status pipe."""
    (place.tmp / "locks").mkdir()
    with acquire_lock(place.tmp / "locks" / "session.lock") as lock:

        async def scenario() -> bytes:
            async with started(
                place, sys.executable, "-I", "-S", "-c", LIST_DESCRIPTORS, shared_fds=(lock.fd,)
            ) as tool:
                return await tool.read_stdout()

        seen = json.loads(anyio.run(scenario))
    assert sorted(seen) == ["0", "1", "2"]
    assert all(target.startswith("pipe:") for target in seen.values())


def test_guardian_keeps_the_lock(place: Place) -> None:
    """A shared lock stays held while the guardian lives, though its first holder has closed it."""
    path = place.tmp / "session.lock"

    async def scenario() -> None:
        lock = acquire_lock(path)
        async with started(place, "sh", "-c", "echo ready; exec sleep 600", shared_fds=(lock.fd,)) as tool:
            await tool.read_stdout()
            lock.close()
            assert is_locked(path)
        assert not is_locked(path)

    anyio.run(scenario)


def test_tool_is_in_a_session_of_its_own(place: Place) -> None:
    """Neither the terminal's signals nor ours reach the tool by way of its process group."""

    async def scenario() -> tuple[int, int]:
        async with started(place, "sh", "-c", "echo $$; exec sleep 600") as tool:
            pid = int(await tool.read_stdout())
            assert pid == tool.pid
            return os.getsid(pid), os.getsid(tool.guardian_pid)

    tool_session, guardian_session = anyio.run(scenario)
    assert len({tool_session, guardian_session, os.getsid(0)}) == 3


def test_guardian_ignores_polite_signals(place: Place) -> None:
    """INT, TERM, HUP and QUIT to the guardian change nothing: only its control pipe ends it."""

    async def scenario() -> ToolExit:
        async with started(place, "sh", "-c", "echo ready; read line; exit 5") as tool:
            assert await tool.read_stdout() == b"ready\n"
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                os.kill(tool.guardian_pid, number)
            await tool.feed_stdin(b"go\n")
            return await tool.wait()

    assert anyio.run(scenario) == ToolExit(5, None)


def test_killed_guardian_takes_the_tool_along(place: Place) -> None:
    """When the guardian is killed the kernel kills the tool, and its end is reported as a kill."""

    async def scenario() -> tuple[ToolExit, int]:
        async with started(place, "sh", "-c", "echo ready; exec sleep 600") as tool:
            assert await tool.read_stdout() == b"ready\n"
            os.kill(tool.guardian_pid, signal.SIGKILL)
            return await tool.wait(), tool.pid

    end, pid = anyio.run(scenario)
    assert end == ToolExit(None, signal.SIGKILL)
    wait_for(lambda: not is_running(pid), "the tool is dead", within_s=2)


def test_guardian_that_hears_nothing(place: Place) -> None:
    """A guardian that is given up for lost is killed, which ends the tool, and the waiting for it."""

    async def scenario() -> ToolExit:
        async with started(place, "sh", "-c", "echo ready; exec sleep 600") as tool:
            assert await tool.read_stdout() == b"ready\n"
            os.kill(tool.guardian_pid, signal.SIGSTOP)
            tool.abandon()
            return await tool.wait()

    assert anyio.run(scenario) == ToolExit(None, signal.SIGKILL)
    place.wait_until_empty(within_s=2)


def test_stopped_guardian_goes_on(place: Place) -> None:
    """One that was stopped passes a signal on, and sweeps, all the same."""

    async def scenario() -> tuple[ToolExit, int]:
        async with started(place, "sh", "-c", "setsid sleep 600 & echo ready; exec sleep 600") as tool:
            assert await tool.read_stdout() == b"ready\n"
            os.kill(tool.guardian_pid, signal.SIGSTOP)
            tool.signal(signal.SIGTERM)
            end = await tool.wait()
            os.kill(tool.guardian_pid, signal.SIGSTOP)
        return end, tool.swept

    assert anyio.run(scenario) == (ToolExit(None, signal.SIGTERM), 1)


@pytest.mark.thorough
def test_many_at_once(place: Place) -> None:
    """Ten tools side by side end each with its own code, and the end of one does not disturb another."""

    async def one(number: int, ends: dict[int, ToolExit]) -> None:
        async with started(place, "sh", "-c", f"setsid sleep 600 & exit {number}") as tool:
            ends[number] = await tool.wait()

    async def scenario() -> dict[int, ToolExit]:
        ends: dict[int, ToolExit] = {}
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(one, number, ends)
        return ends

    assert anyio.run(scenario) == {number: ToolExit(number, None) for number in range(10)}


def test_guardian_loads_little() -> None:
    """It starts before each tool, and does without what takes longer to load than all that it needs."""
    *python, _, program, directory = guardian.COMMAND
    command = [*python, "-X", "importtime", "-c", program.replace("guardian.main()", ""), directory]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"guardian", "ctypes", "select"} <= loaded
    assert not loaded & {"collections", "contextlib", "enum", "functools", "re", "signal", "site", "typing"}
