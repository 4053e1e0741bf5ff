"""Detached turns: their supervisor outlives whoever asked for it, and nothing else does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from csa.model.attachment import Attachment
from csa.model.permission import Permission
from csa.model.worktree import Task
from csa.runner.client import Csa
from csa.runner.detach import request_from_json, request_to_json
from csa.runner.request import FromTemplate, RunRequest
from csa.store.locks import is_locked
from csa.store.owner import parse_owner
from csa.structs import fields
from tests.support import CSA, Json, Place, children_of, is_running, wait_for


def start_detached(place: Place, prompt: str = "go", *words: str) -> str:
    """Start a detached turn; return its session."""
    done = place.run("run", "--tool", "codex", "--detach", *words, prompt)
    assert done.code == 0, done.err
    return done.out.strip()


def owner_of(place: Place, session_id: str) -> Json:
    found: Json = json.loads((place.session(session_id) / "locks" / "session.lock").read_text())
    return found


def wait_for_end(place: Place, session_id: str) -> str:
    """Wait until the session's lock is free; return its status."""
    lock = place.session(session_id) / "locks" / "session.lock"
    wait_for(lambda: not is_locked(lock), "the turn ends")
    return place.status(session_id)


def test_the_id_resolves_and_the_turn_goes_on(place: Place) -> None:
    """`--detach` prints an id that any process resolves while the turn runs, and the answer is there when it ended."""
    place.play(*place.hold(), ["say", "done"])
    session_id = start_detached(place)
    assert place.run("session", "is-alive", "-s", session_id[:12]).code == 0
    assert owner_of(place, session_id)["detached"] is True
    place.wait_ready()
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"
    assert place.run("session", "result", "-s", session_id).out == "done\n"


def test_a_request_survives_the_way_to_its_supervisor() -> None:
    """Whatever can be asked of a turn can be asked of one that runs by itself."""
    request = RunRequest(
        prompt="p",
        tool="codex",
        transport="acp",
        session="s",
        last=True,
        session_id="i",
        description="d",
        name="n",
        model="m",
        effort="e",
        permission=Permission.FULL,
        system="t",
        ephemeral=True,
        fork_from="f",
        timeout_s=1.5,
        idle_timeout_s=2.5,
        keep_background=True,
        retries=3,
        fallback=("gemini-cli",),
        handoff=False,
        shared=False,
        budget_tokens=4,
        budget_usd=5.5,
        budget_time_s=6.5,
        ttl=timedelta(days=7, seconds=0.5),
        directory=Path("/d"),
        extra_writable=("/e",),
        park_limit_s=7.5,
        steal=True,
        reopen=True,
        context_window=8,
        context_tokens=9,
        opening="o",
        schema={"type": "object"},
        flags=("--f",),
        secrets=("S=env:T",),
        images=(Attachment(name="i.png", media_type="image/png", content=b"\x89PNG"),),
        files=("notes.txt",),
        template=FromTemplate("t", "/t.toml", is_project=True, fields=("tool",)),
        owner="o",
        ask=True,
        ask_timeout_s=8.5,
        after_turn=10,
        worktree="w",
        worktree_base="0" * 40,
        worktree_target="main",
        with_changes=True,
        setup="make",
        repair=True,
        refused={"kind": "check", "files": ["a"]},
        task=Task(name="t", digest="d"),
        plan=("--file", "/p"),
    )
    plain = RunRequest(prompt="")
    assert [name for name in fields(RunRequest) if getattr(request, name) == getattr(plain, name)] == []
    for each in (request, plain):
        assert request_from_json(json.loads(json.dumps(request_to_json(each)))) == each


@pytest.mark.thorough
def test_it_expires(place: Place) -> None:
    """`--ttl` holds for a detached turn too."""
    session_id = start_detached(place, "go", "--ttl", "7d")
    assert wait_for_end(place, session_id) == "succeeded"
    state = place.state(session_id)
    assert state["expires_at"] - state["created_at"] == timedelta(days=7)


@pytest.mark.thorough
def test_several_that_create_one_session_and_wait(place: Place) -> None:
    """All but the first go on in the session that it has created meanwhile."""
    place.env["CSA_CONF_MAX_RUNNING"] = "1"
    place.script({"match": "hold", "do": [*place.hold(), ["say", "held"]]})
    held = place.start("run", "--tool", "codex", "hold")
    place.wait_ready()
    words = ("run", "--tool", "codex", "--detach", "--wait=50", "--session-id", "job")
    waiting = [place.start(*words, prompt) for prompt in ("one", "two")]
    wait_for(lambda: len(place.processes()) > 5, "their supervisors wait")
    place.release()
    assert held.wait().code == 0
    done = [each.wait() for each in waiting]
    assert ([each.code for each in done], len({each.out for each in done})) == ([0, 0], 1), [each.err for each in done]
    session_id = done[0].out.strip()
    assert wait_for_end(place, session_id) == "succeeded"
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
def test_it_has_nothing_of_its_caller(place: Place) -> None:
    """The supervisor is in a session of its own, hears no hangup, and holds none of its caller's pipes open."""
    place.play(*place.hold(), ["say", "done"])
    done = place.shell(["/bin/sh", "-c", f"{CSA} run --tool codex --detach go | cat"])  # cat ends with the last writer
    session_id = done.out.strip()
    pid = owner_of(place, session_id)["pid"]
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGHUP)
    place.wait_ready()
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"


@pytest.mark.thorough
@pytest.mark.parametrize("closed", ["0<&-", "2>&-", "0<&- 2>&-"])
def test_a_caller_without_standard_streams(place: Place, closed: str) -> None:
    """What csa's caller has closed, no descriptor of the supervisor's takes the place of."""
    place.play(*place.hold(), ["say", "done"])
    done = place.shell(["/bin/sh", "-c", f"{CSA} run --tool codex --detach go {closed}"])
    session_id = done.out.strip()
    place.wait_ready()
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"
    log = place.session(session_id) / "output" / "turn-0001" / "supervisor.log"
    assert "turn 1: succeeded" in log.read_text()


@pytest.mark.thorough
def test_a_supervisor_without_stderr(place: Place) -> None:
    """A program that has closed its stderr can start detached turns through the library as well."""
    place.play(*place.hold(), ["say", "done"])
    code = """
import os
from csa.runner.client import Csa
from csa.runner.request import RunRequest
os.close(2)
print(Csa.from_environment(".").start(RunRequest(prompt="go", tool="codex")).session_id)
"""
    done = place.shell([sys.executable, "-c", code])
    session_id = done.out.strip()
    place.wait_ready()
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"


@pytest.mark.thorough
def test_supervisor_log(place: Place) -> None:
    """What csa has to say of a turn is in its supervisor.log, also in the foreground."""
    session_id = start_detached(place)
    wait_for_end(place, session_id)
    log = place.session(session_id) / "output" / "turn-0001" / "supervisor.log"
    assert "started codex, PID " in log.read_text()
    assert "turn 1: succeeded" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    shown = place.codex("again", "--session", session_id)
    assert shown.code == 0
    assert "turn 2: succeeded" in (log.parents[1] / "turn-0002" / "supervisor.log").read_text()


@pytest.mark.thorough
def test_a_supervisor_log_that_cannot_be_opened(place: Place) -> None:
    """The turn goes on without its supervisor.log, and the loss is in there as soon as that is possible."""
    session_id = place.codex().session_id
    log = place.session(session_id) / "output" / "turn-0002" / "supervisor.log"
    log.mkdir(parents=True)
    place.play(*place.hold(), ["say", "done"])
    start_detached(place, "go", "--session", session_id)
    place.wait_ready()
    output = f"/proc/{owner_of(place, session_id)['pid']}/fd/1"
    wait_for(lambda: os.readlink(output) == os.devnull, "it does without")
    log.rmdir()
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"
    place.wait_until_empty(within_s=3)
    assert "warning: supervisor.log could not be opened: Is a directory\n" in log.read_text()


@pytest.mark.thorough
def test_a_waiter_that_nobody_waits_for(place: Place) -> None:
    """A signal to `run --detach --wait` ends its supervisor too, while nothing has been announced."""
    place.play(*place.hold(), ["say", "done"])
    session_id = start_detached(place)
    place.wait_ready()
    running = place.start("run", "--detach", "--wait", "--session", session_id, "later")
    wait_for(lambda: "waiting: " in running.err, "it waits")
    (supervisor,) = children_of(running.pid)
    running.signal(signal.SIGTERM)
    assert running.process.wait(20) == -signal.SIGTERM
    wait_for(lambda: not is_running(supervisor), "its supervisor ends")
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"
    assert place.state(session_id)["turns"] == 1


@pytest.mark.thorough
def test_an_order_that_nobody_hears_the_answer_of(place: Place) -> None:
    """A supervisor whose caller has ended by the time it could begin, begins nothing; nor does half an order."""
    place.play(["say", "done"])
    client = Csa.from_environment(str(place.project), environ=place.env)
    plan = client.plan(RunRequest(prompt="go", tool="codex"))
    order = {
        "request": request_to_json(RunRequest(prompt="go", tool="codex")),
        "session_id": plan.state.session_id,
        "directory": str(place.project),
        "command": CSA,
        "wait_s": None,
        "on_finish": None,
        "caller": {},
    }
    said = json.dumps(order).encode()
    for content in (said, said[:-10], b""):
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "csa.runner.supervisor"],
            input=content,
            stdout=writer,
            stderr=subprocess.PIPE,
            env=place.env,
            check=False,
        )
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (1, b"")
    assert place.ids() == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--tool", "nosuch"], 2, "nosuch"),
        (["--session", "zzzz"], 3, "zzzz"),
        (["--ephemeral"], 2, "--ephemeral"),
        (["--timeout", "0"], 2, "--timeout"),
        (["--stream-json"], 2, "--stream-json"),
    ],
)
def test_refusals_come_at_once(place: Place, words: list[str], code: int, said: str) -> None:
    """What a run would refuse is refused by the caller, with the same words and exit code; nothing is left."""
    done = place.run("run", "--detach", *words, "go")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert place.ids() == []


@pytest.mark.thorough
def test_a_busy_session(place: Place) -> None:
    """A second detached turn of a running session exits 4 and names who holds it."""
    place.play(*place.hold(), ["say", "done"])
    session_id = start_detached(place)
    done = place.run("run", "--detach", "--session", session_id, "more")
    assert done.code == 4
    assert f"PID {owner_of(place, session_id)['pid']}" in done.err
    place.wait_ready()
    place.release()
    assert wait_for_end(place, session_id) == "succeeded"


@pytest.mark.thorough
def test_term_ends_it_cancelled(place: Place) -> None:
    """TERM to a detached supervisor ends its turn, its tree, and is recorded."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], *place.hold())
    session_id = start_detached(place)
    place.wait_ready()
    os.kill(owner_of(place, session_id)["pid"], signal.SIGTERM)
    assert wait_for_end(place, session_id) == "cancelled"
    assert place.last_event(session_id)["exit_code"] == 143
    place.wait_until_empty(within_s=3)


@pytest.mark.thorough
def test_the_cancel_file_says_who_asked(place: Place) -> None:
    """The first line of the `cancel` file is in the result."""
    place.play(*place.hold())
    session_id = start_detached(place)
    place.wait_ready()
    (place.session(session_id) / "cancel").write_text("session kill by ann@host, PID 12\n")
    assert wait_for_end(place, session_id) == "cancelled"
    assert place.last_event(session_id)["error"] is None
    log = place.session(session_id) / "output" / "turn-0001" / "supervisor.log"
    assert "cancelled by session kill by ann@host, PID 12" in log.read_text()


@pytest.mark.thorough
@pytest.mark.parametrize("end", ["itself", "TERM", "KILL"])
def test_a_detached_child_survives_its_parents_end(place: Place, end: str) -> None:
    """A detached child of an agent is spared when the agent's turn ends, however it does; all else goes."""
    place.script(
        {"match": "inner", "do": [["spawn-grandchild", "exec setsid sleep 600"], *place.hold(), ["say", "inner done"]]},
        {
            "match": "outer",
            "do": [
                ["spawn-grandchild", f"exec -a {place.mark} sleep 600"],
                ["run", f"{CSA} run --tool codex --detach inner; while [ ! -e {place.ready} ]; do sleep 0.01; done"],
                ["say", "outer done"],
                *([] if end == "itself" else [["sleep", 60]]),
            ],
        },
    )
    running = place.start("run", "--tool", "codex", "outer")
    place.wait_ready()
    outer = running.session_id
    (inner,) = set(place.ids()) - {outer}
    if end != "itself":
        wait_for(
            lambda: "outer done" in (place.session(outer) / "transcript.jsonl").read_text(), "it detached the inner"
        )
        running.signal(getattr(signal, f"SIG{end}"))
    running.process.wait(20)
    wait_for(lambda: not any(place.mark in words for words in place.processes().values()), "the outer tree is gone")
    wait_for(lambda: not is_locked(place.session(outer) / "locks" / "session.lock"), "the outer lock is free")
    assert place.status(inner) == "running"
    assert place.state(inner)["genealogy"]["parent_session_id"] == outer
    place.release()
    assert wait_for_end(place, inner) == "succeeded"
    assert place.run("session", "result", "-s", inner).out == "inner done\n"


@pytest.mark.thorough
def test_killed_supervisor(place: Place) -> None:
    """SIGKILL of a detached supervisor: its guardian ends the tree, and the turn is lost."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], *place.hold())
    session_id = start_detached(place)
    place.wait_ready()
    os.kill(owner_of(place, session_id)["pid"], signal.SIGKILL)
    assert wait_for_end(place, session_id) == "lost"
    place.wait_until_empty(within_s=2)


def test_forged_record_spares_nothing(place: Place) -> None:
    """A process that merely has a lock file open is no detached supervisor: the record must name its pid."""
    lock = place.tmp / "locks" / "session.lock"
    lock.parent.mkdir()
    lock.write_text('{"pid":1,"detached":true}')
    place.play(["spawn-grandchild", f"exec 9<{lock}; exec setsid sleep 600"], ["say", "done"])
    assert place.codex("go").out == "done\n"
    assert place.processes() == {}


@pytest.mark.thorough
def test_on_finish(place: Place) -> None:
    """`--on-finish` runs when the session is free again, outside of it, with the result on its stdin."""
    out = place.tmp / "finished"
    hook = (
        f"cat > {out}.json; env | grep ^CSA_ | sort > {out}.env; "
        f'{CSA} session is-alive -s "$CSA_FINISHED_SESSION"; echo $? > {out}.alive; mv {out}.json {out}'
    )
    session_id = start_detached(place, "go", "--on-finish", hook)
    wait_for(out.exists, "the command has run")
    assert json.loads(out.read_text())["status"] == "succeeded"
    variables = Path(f"{out}.env").read_text()
    assert f"CSA_FINISHED_SESSION={session_id}\n" in variables
    assert "CSA_FINISHED_EXIT_CODE=0\n" in variables
    assert "CSA_SESSION_ID" not in variables
    assert Path(f"{out}.alive").read_text() == "1\n"
    place.wait_until_empty(within_s=3)


@pytest.mark.thorough
def test_what_an_on_finish_command_prints_is_redacted(place: Place) -> None:
    """Its output and its words go to supervisor.log without the secrets that it was started with."""
    place.env["DEPLOY_KEY"] = "tr0ub4dor-3-horse"
    session_id = start_detached(place, "go", "--on-finish", "echo $DEPLOY_KEY heard >&2; : tr0ub4dor-3-horse; exit 3")
    log = place.session(session_id) / "output" / "turn-0001" / "supervisor.log"
    wait_for(lambda: "exited with code 3" in log.read_text(), "the command has run")
    place.wait_until_empty(within_s=3)
    assert log.read_text().splitlines()[-2:] == [
        "[REDACTED] heard",
        "warning: --on-finish: echo $DEPLOY_KEY heard >&2; : [REDACTED]; exit 3: it exited with code 3",
    ]


@pytest.mark.thorough
def test_on_finish_in_the_foreground(place: Place) -> None:
    """In the foreground too, after the answer; what it prints goes to stderr, its failure is a warning only."""
    done = place.run("run", "--tool", "codex", "--on-finish", "echo heard; exit 3", "go")
    assert (done.code, done.out) == (0, "FAKE ECHO: go [turns=1]\n")
    assert "heard\n" in done.err
    assert "warning: --on-finish: echo heard; exit 3: it exited with code 3" in done.err


@pytest.mark.thorough
def test_on_finish_in_time(place: Place) -> None:
    """With a limit, it gets TERM when that is over, and KILL where it does not hear."""
    heard = place.tmp / "heard"
    hook = f"trap 'touch {heard}' TERM; while :; do sleep 0.05; done"
    done = place.run("run", "--tool", "codex", "--on-finish", hook, "--on-finish-timeout", "0.5", "go")
    assert done.code == 0
    assert heard.exists()
    assert "it took longer than 0.5 s and was killed" in done.err


def test_on_finish_where_the_directory_is_gone(place: Place) -> None:
    """A directory that went during the turn keeps nothing from running."""
    gone = place.tmp / "gone"
    gone.mkdir()
    place.play(["run", f"rmdir {gone}"])
    done = place.run("run", "--tool", "codex", "--on-finish", f"pwd > {place.tmp}/where", "go", cwd=gone)
    assert done.code == 0
    assert (place.tmp / "where").read_text().strip() == place.env["HOME"]
    assert f"warning: --on-finish: {gone} is gone" in done.err


@pytest.mark.thorough
@pytest.mark.parametrize(("words", "ran"), [([], True), (["--on-finish", ""], False), (["--detach"], True)])
def test_on_finish_of_the_configuration(place: Place, words: list[str], *, ran: bool) -> None:
    """What is configured follows each run, unless another command, or none, is asked for."""
    out = place.tmp / "finished"
    place.env["CSA_CONF_ON_FINISH"] = f"touch {out}"
    assert place.run("run", "--tool", "codex", *words, "go").code == 0
    place.wait_until_empty(within_s=5)
    assert out.exists() == ran


@pytest.mark.thorough
@pytest.mark.parametrize("words", [["--detach"], []], ids=["detached", "foreground"])
def test_a_signal_while_the_on_finish_command_runs(place: Place, words: list[str]) -> None:
    """It ends the command as well: TERM first, of which it can make something, and KILL the next time."""
    heard = place.tmp / "heard"
    hook = f"trap 'touch {heard}' TERM; echo $PPID > {place.tmp}/pid; touch {place.ready}; while :; do sleep 0.02; done"
    running = place.start("run", "--tool", "codex", *words, "--on-finish", hook, "go")
    place.wait_ready()
    pid = int((place.tmp / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for(heard.exists, "the command hears of it")
    assert is_running(pid)
    os.kill(pid, signal.SIGTERM)
    assert running.wait().code == (0 if words else 143)
    place.wait_until_empty(within_s=3)
    assert place.status(place.ids()[0]) == "succeeded"


@pytest.mark.thorough
def test_owner_records_of_before(place: Place) -> None:
    """A lock's record without the key `detached` is read as one of a turn in the foreground."""
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    record = owner_of(place, running.session_id)
    assert record.pop("detached") is False
    owner = parse_owner(json.dumps(record).encode())
    assert owner is not None
    assert owner.detached is False
    assert is_running(owner.pid)
    assert children_of(owner.pid)
    place.release()
    running.wait()
