"""A supervisor that takes queued prompts, killed at any change to the store; and the race at the end of a turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from csa.paths import SessionPaths
from csa.runner.client import Csa
from csa.runner.detach import order_for
from csa.runner.request import RunRequest
from csa.store.locks import is_locked
from csa.store.queue import count_queued, enqueue
from tests.process.test_crash_points import POINTS, points
from tests.process.tracing import can_trace, run_until_change
from tests.support import CSA, PATIENCE_S, Place, wait_for

SUPERVISOR = (  # in one process, as ptrace wants, with its order on stdin
    "import os, runpy, sys; os.dup2(os.open(sys.argv[1], os.O_RDONLY), 0); {}"
    "runpy.run_module(sys.argv[2], run_name='__main__')"
)


def order_of(place: Place, session_id: str, prompt: str) -> dict[str, Any]:
    """Return the order for a prompt, as `csa run --queue` makes it."""
    client = Csa.from_environment(place.project, environ=place.environment(None), command=CSA)
    request = RunRequest(prompt=prompt, session=session_id)
    order = order_for(client.context, request, client.plan(request), wait_s=None, on_finish=None)
    return {**order, "ceiling": None}


def put(place: Place, session_id: str, *prompts: str) -> None:
    """Queue prompts that nobody looks after."""
    for prompt in prompts:
        order = order_of(place, session_id, prompt)
        enqueue(SessionPaths(place.session(session_id)), order, at="2026-01-01T00:00:00Z", by=None)


def supervisor_of(place: Place, session_id: str, *, before: str = "") -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a supervisor for the queue of a session."""
    order = {key: value for key, value in order_of(place, session_id, "-").items() if key in {"directory", "command"}}
    order |= {"session_id": session_id, "caller": {}, "queue": {"resumes": True, "waits": False, "holds": True}}
    path = place.tmp / "order.json"
    path.write_text(json.dumps(order))
    own = {"CSA_SESSION_ID": session_id, "CSA_SESSION_DIR": str(place.session(session_id))}
    argv = [sys.executable, "-c", SUPERVISOR.format(before), str(path), "csa.runner.supervisor"]
    return argv, {**place.environment(None), **own}


def prompts_of(place: Place, session_id: str) -> list[str]:
    return [str(event["data"]["prompt"]) for event in place.events(session_id) if event["type"] == "run_started"]


def wait_until_done(place: Place, session_id: str) -> None:
    paths = SessionPaths(place.session(session_id))
    wait_for(lambda: not is_locked(paths.session_lock) and not count_queued(paths), "the queue is empty")


@pytest.mark.thorough
@pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here, or this is no x86-64")
@pytest.mark.timeout(max(90, POINTS * 10))
@pytest.mark.long
def test_each_prompt_runs_once_wherever_the_supervisor_is_killed(place: Place) -> None:
    """At every point between two changes to the store: afterwards each prompt has begun once, in order."""
    place.play(["say", "done"])
    session_id = place.codex("first").session_id
    put(place, session_id, "a0", "b0")
    argv, environ = supervisor_of(place, session_id)
    traced = run_until_change(argv, env=environ, cwd=place.project, root=place.state_root, kill_at=None)
    assert prompts_of(place, session_id)[-2:] == ["a0", "b0"], traced.changes
    assert any("rename" in change and "/queue/" in change for change in traced.changes), traced.changes
    for number in points(len(traced.changes)):
        pair = [f"a{number}", f"b{number}"]
        put(place, session_id, *pair)
        argv, environ = supervisor_of(place, session_id)
        killed = run_until_change(argv, env=environ, cwd=place.project, root=place.state_root, kill_at=number)
        place.wait_until_empty(within_s=5)
        assert place.run("queue", session_id, "--resume").code == 0
        wait_until_done(place, session_id)
        assert prompts_of(place, session_id)[-2:] == pair, (number, killed.changes[-1])
        assert prompts_of(place, session_id).count(pair[0]) == 1, (number, killed.changes[-1])


HOOK = """
def hook(event, args, seen=[]):
    if event == 'os.truncate' and args[1] == 0 and not seen and '.lock' in os.readlink(f'/proc/self/fd/{args[0]}'):
        seen.append(open(sys.argv[3], 'w').close())
        open(sys.argv[4]).close()
sys.addaudithook(hook)
"""


@pytest.mark.thorough
def test_a_prompt_that_comes_as_the_lock_is_released_is_not_left(place: Place) -> None:
    """Its sender still sees a running turn, whose supervisor has looked already: it looks again after the release."""
    place.play(["say", "done"])
    session_id = place.codex("first").session_id
    put(place, session_id, "second")
    releasing, go_on = place.tmp / "releasing", place.tmp / "go-on"
    for pipe in (releasing, go_on):
        os.mkfifo(pipe)
    argv, environ = supervisor_of(place, session_id, before="exec(os.environ['HOOK']);")
    with subprocess.Popen(
        [*argv, str(releasing), str(go_on)],
        env={**environ, "HOOK": HOOK},
        cwd=place.project,
        stdout=subprocess.DEVNULL,
    ) as supervisor:
        releasing.read_bytes()
        late = place.run("run", "--queue", "-s", session_id, "late")
        assert "queued as 1st" in late.err
        go_on.write_bytes(b"")
        supervisor.wait(PATIENCE_S)
    wait_until_done(place, session_id)
    assert prompts_of(place, session_id) == ["first", "second", "late"]
