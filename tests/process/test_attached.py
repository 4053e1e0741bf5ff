"""Attached turns: a process of their own, which ends with the one that has started them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from csa.errors import BusyError, UsageError
from csa.runner.client import Csa
from csa.store.locks import is_locked
from csa.store.owner import parse_owner
from csa.store.queue import count_queued, why_held
from tests.support import Place, children_of, is_running, wait_for

_CALLER = """
import sys, subprocess, threading
from csa.runner.client import Csa
client = Csa.from_environment(".")
started = []
def start(): started.append(client.start_attached("go", tool="codex"))
threads = [threading.Thread(target=start) for _ in range(int(sys.argv[1]))]
others = [subprocess.Popen(["sleep", "600"], close_fds=False) for _ in range(2)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
others += [subprocess.Popen(["sleep", "600"], close_fds=False)]
print(*[each.session_id for each in started], *[other.pid for other in others], flush=True)
sys.stdin.read()
"""


def client_of(place: Place) -> Csa:
    return Csa.from_environment(place.project, environ=place.env)


def wait_for_end(place: Place, session_id: str) -> str:
    """Wait until the session's lock is free; return its status."""
    lock = place.session(session_id) / "locks" / "session.lock"
    wait_for(lambda: not is_locked(lock), "the turn ends")
    return place.status(session_id)


def test_it_is_a_child_that_can_be_waited_for(place: Place) -> None:
    """The supervisor is the caller's child, whose end a descriptor shows and `wait` returns; it leaves no zombie."""
    place.play(*place.hold(), ["say", "done"])
    turn = client_of(place).start_attached("go", tool="codex")
    assert turn.pid in children_of(os.getpid())
    owner = parse_owner((place.session(turn.session_id) / "locks" / "session.lock").read_bytes())
    assert owner is not None
    assert (owner.pid, owner.detached) == (turn.pid, False)
    place.wait_ready()
    assert turn.wait(0) is None
    place.release()
    assert select.select([turn], [], [], 20)[0] == [turn]
    assert turn.wait() == 0
    assert turn.pid not in children_of(os.getpid())
    assert (place.status(turn.session_id), turn.turn, turn.tool) == ("succeeded", 1, "codex")


@pytest.mark.thorough
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_ends_with_its_caller(place: Place, end: signal.Signals | None) -> None:
    """However a caller with threads ends, its turns end as cancelled, and nothing of them is left.

    Children of the caller that inherit descriptors, and live on, do not keep a turn alive.
    """
    place.play(["spawn-grandchild", "exec setsid sleep 600"], ["sleep", 600])
    environ, pipe = place.environment(None), subprocess.PIPE
    argv = [sys.executable, "-c", _CALLER, "3"]
    with subprocess.Popen(argv, env=environ, cwd=place.project, stdin=pipe, stdout=pipe) as caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        said = caller.stdout.readline().decode().split()
        ids, others = said[:3], list(map(int, said[3:]))
        if end:
            caller.send_signal(end)
        else:
            caller.stdin.close()
        caller.wait(20)
        for session_id in ids:
            assert wait_for_end(place, session_id) == "cancelled"
            log = place.session(session_id) / "output" / "turn-0001" / "supervisor.log"
            assert "the process that started it has ended" in log.read_text()
        assert all(map(is_running, others))
        for pid in others:
            os.kill(pid, signal.SIGKILL)
    place.wait_until_empty(within_s=5)


@pytest.mark.thorough
def test_it_can_be_ended(place: Place) -> None:
    """`end` does what the caller's end does, and may be called again."""
    place.play(*place.hold())
    turn = client_of(place).start_attached("go", tool="codex")
    place.wait_ready()
    turn.end()
    assert turn.wait(20) is not None
    turn.end()
    assert place.status(turn.session_id) == "cancelled"


@pytest.mark.thorough
def test_what_is_queued_follows_while_the_caller_lives(place: Place) -> None:
    """A queued prompt runs under the same supervisor, is cancelled with it, and what still waits is held."""
    place.script(
        {"match": "go", "do": [*place.hold(), ["say", "done"]]},
        {"match": "second", "do": [["touch", str(place.tmp / "second")], ["sleep", 600]]},
    )
    turn = client_of(place).start_attached("go", tool="codex")
    place.wait_ready()
    for prompt in ("second", "third"):
        assert place.run("run", "--queue", "--session", turn.session_id, prompt).code == 0
    place.release()
    wait_for((place.tmp / "second").exists, "the queued prompt runs")
    owner = parse_owner((place.session(turn.session_id) / "locks" / "session.lock").read_bytes())
    assert owner is not None
    assert (owner.pid, owner.detached, owner.turn) == (turn.pid, False, 2)
    turn.end()
    turn.wait(20)
    paths = client_of(place).paths(turn.session_id)
    assert (place.status(turn.session_id), count_queued(paths)) == ("cancelled", 1)
    assert why_held(paths)


@pytest.mark.thorough
def test_refusals(place: Place) -> None:
    """What cannot be is refused in the caller, and no child is left of it."""
    place.play(*place.hold())
    client, before = client_of(place), children_of(os.getpid())
    with pytest.raises(UsageError, match="ephemeral"):
        client.start_attached("go", tool="codex", ephemeral=True)
    turn = client.start_attached("go", tool="codex")
    with pytest.raises(BusyError, match=f"PID {turn.pid}"):
        client.start_attached("more", session=turn.session_id)
    turn.end()
    turn.wait(20)
    assert children_of(os.getpid()) == before
