"""Ending what runs: politely, by force, as a tree, everywhere; and never oneself."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from csa.store.owner import current_owner
from csa.store.sessions import Store
from tests.cli.terminal import Terminal
from tests.conftest import ForeignWriter
from tests.store.support import child
from tests.support import PATIENCE_S, Json, Place, Running, children_of, is_running, wait_for

FOREIGN = "01JH4QWERT1234567890ABCDEF"
HOLD_THE_LOCK = """
from csa.store.locks import acquire_lock
from csa.store.owner import current_owner
with acquire_lock(Path(args[0])) as lock:
    lock.write(current_owner(tool="codex", turn=1, since="2026-01-01T10:00:00+00:00").to_bytes())
    say()
    wait()
"""


def test_kill(place: Place) -> None:
    """A turn that is killed ends cancelled, says who asked, leaves no process, and can be resumed."""
    place.play(*place.hold(), ["say", "done"])
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    session_id = run.session_id
    done = place.run("session", "kill", "-s", session_id)
    assert (done.code, done.out, done.err) == (0, f"{session_id}: ended (codex, turn 1): cancelled\n", "")
    assert place.run("session", "is-alive", session_id).code == 1
    assert run.wait().code == 130
    assert place.last_event(session_id)["status"] == "cancelled"
    said = place.run("session", "result", session_id)
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith("error: turn 1 cancelled by session kill by ")
    assert said.err.endswith(f'\nhint: csa run --session {session_id} "go on"\n')
    place.wait_until_empty(within_s=1)
    assert not (place.session(session_id) / "cancel").exists()
    place.release()
    place.codex("again", "--session", session_id)


@pytest.mark.thorough
def test_kill_of_a_tool_that_ignores_term(place: Place) -> None:
    """A tool that ignores TERM, and what it has put into a session of its own, are gone when the command returns."""
    pid_file = place.tmp / "pid"
    place.play(["ignore-term"], ["spawn-grandchild", "sleep 60", {"pid_file": str(pid_file)}], *place.hold())
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), "the grandchild runs")
    done = place.run("session", "kill", "--json", run.session_id)
    assert done.code == 0
    assert [(item["outcome"], item["status"], item["forced"]) for item in done.json] == [("killed", "cancelled", False)]
    assert not is_running(int(pid_file.read_text()))
    assert run.wait().code == 130
    assert place.processes() == {}


@pytest.mark.thorough
def test_kill_of_a_stopped_supervisor(place: Place) -> None:
    """A supervisor that was stopped is made to go on, and so writes the end of its turn."""
    place.play(*place.hold())
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    session_id = run.session_id
    run.signal(signal.SIGSTOP)
    done = place.run("session", "kill", session_id)
    assert (done.code, done.out) == (0, f"{session_id}: ended (codex, turn 1): cancelled\n")
    assert run.wait().code == 130
    assert place.status(session_id) == "cancelled"


@pytest.mark.thorough
@pytest.mark.parametrize("is_left_alone", [False, True], ids=["with its csa", "whose csa was killed"])
def test_kill_of_a_stopped_guardian(place: Place, *, is_left_alone: bool) -> None:
    """A guardian that was stopped is made to go on: by its csa, or where that is gone by whoever ends the session."""
    place.play(*place.hold())
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    session_id = run.session_id
    (guardian,) = children_of(run.pid)
    os.kill(guardian, signal.SIGSTOP)
    if is_left_alone:
        run.kill()
    done = place.run("session", "kill", session_id, "--json")
    assert (done.code, done.json[0]["outcome"], done.json[0]["forced"]) == (0, "killed", False)
    run.wait()
    assert place.processes() == {}
    assert place.status(session_id) == ("lost" if is_left_alone else "cancelled")


@pytest.mark.thorough
def test_kill_by_force(place: Place) -> None:
    """With --force the supervisor itself is killed at once; its tree goes too, and the turn is lost."""
    place.play(["ignore-term"], *place.hold())
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    session_id = run.session_id
    done = place.run("session", "kill", "--force", session_id)
    assert done.code == 0
    assert done.out == (f"{session_id}: ended (codex, turn 1): lost; its supervisor was killed too\n")
    assert run.wait().code == -signal.SIGKILL
    assert place.processes() == {}
    assert place.status(session_id) == "lost"


@pytest.mark.thorough
def test_kill_of_a_supervisor_that_does_not_react(place: Place, write_foreign: ForeignWriter) -> None:
    """A supervisor that takes no notice is killed when its grace is over, and only then."""
    paths = write_foreign(FOREIGN)
    paths.session_lock.parent.mkdir()
    with child(HOLD_THE_LOCK, paths.session_lock) as deaf:
        assert deaf.hear() == "ready"
        done = place.run("session", "kill", FOREIGN, "--timeout", "0.3")
        assert (done.code, "its supervisor was killed too" in done.out) == (0, True)
        assert deaf.process.wait(PATIENCE_S) == -signal.SIGKILL


@pytest.mark.thorough
def test_kill_of_a_lock_that_stays_held(place: Place, write_foreign: ForeignWriter) -> None:
    """A lock that is held by a process that does not say so is not taken for free; who holds it is named."""
    paths = write_foreign(FOREIGN)
    paths.session_lock.parent.mkdir()
    with child(HOLD_THE_LOCK.replace("lock.write", "lambda *_: 0 or lock.write"), paths.session_lock) as other:
        assert other.hear() == "ready"
        done = place.run("session", "kill", FOREIGN, "--timeout", "0.3")
        assert done.code == 4
        assert f"error: Session {FOREIGN} is held by another program" in done.err
        assert is_running(other.pid)


@pytest.mark.thorough
def test_kill_across_pid_namespaces(place: Place, write_foreign: ForeignWriter) -> None:
    """What is running in another pid namespace is asked, through its directory, and never signalled by its number."""
    paths = write_foreign(FOREIGN)
    paths.session_lock.parent.mkdir()
    code = HOLD_THE_LOCK.replace("to_bytes()", "to_bytes().replace(b'\"pid_namespace\":', b'\"pid_namespace\":1')")
    with child(code, paths.session_lock) as other:
        assert other.hear() == "ready"
        done = place.run("session", "kill", FOREIGN, "--timeout", "0.3")
        assert done.code == 4
        assert f"is running in another pid namespace (PID {other.pid} there) and did not end within 0.3 s" in done.err
        assert paths.cancel.read_text().startswith("session kill by tester@")
        assert is_running(other.pid)
        assert place.run("session", "why", FOREIGN, "--json").json["cancel_asked"].startswith("session kill by ")
        other.end()


@pytest.mark.thorough
def test_kill_of_what_does_not_run(place: Place) -> None:
    """A session at rest is said not to run, exit 0, and is left as it is; a name that is wrong is an error."""
    session_id = place.codex("one").session_id
    before = sorted(place.session(session_id).rglob("*"))
    done = place.run("session", "kill", session_id)
    assert (done.code, done.out) == (0, f"{session_id}: not running (succeeded)\n")
    assert sorted(place.session(session_id).rglob("*")) == before
    assert place.run("session", "kill", "nobody").code == 3
    assert place.run("session", "kill").code == 2


@pytest.mark.thorough
def test_kill_of_a_tree(place: Place) -> None:
    """A tree of nested sessions, one of them in another project, ends as a whole; every turn of it is cancelled."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    place.script(
        {"match": "leaf", "do": [["ignore-term"], *place.hold()]},
        {"match": "middle", "do": [["run", f"csa run -q --tool codex --cd {other} leaf"]]},
        {"match": "top", "do": [["run-parallel", ["csa run -q --tool claude-code middle", "csa run -q sleeper"]]]},
        {"match": "sleeper", "do": [["sleep", 60]]},
    )
    run = place.start("run", "--tool", "codex", "top")
    place.wait_ready()
    wait_for(lambda: len(place.ids()) == 3, "all run")
    done = place.run("session", "kill", "--tree", run.session_id)
    assert done.code == 0, done.err
    (leaf,) = place.ids(other)
    first, *rest = done.out.splitlines()
    assert first == f"{run.session_id}: ended (codex, turn 1): cancelled"
    below = sorted([*place.ids(), leaf])
    below.remove(run.session_id)
    assert [line[:26] for line in sorted(rest)] == below  # what went with it is told of too
    assert all(": ended (" in line for line in rest)
    run.wait()
    place.wait_until_empty(within_s=1)
    noted = [json.loads(line) for line in (place.store / "audit.jsonl").read_text().splitlines()]
    assert [(line["command"], line["what"]) for line in noted] == [("session kill", "killed")] * 3
    transcripts = [place.session(each) / "transcript.jsonl" for each in place.ids()]
    transcripts.append(Store(place.state_root, other).paths(leaf).transcript)
    ends = [json.loads(path.read_text().splitlines()[-1]) for path in transcripts]
    assert [end["data"]["status"] for end in ends] == ["cancelled"] * 4


@pytest.mark.thorough
def test_kill_of_children_whose_parent_has_ended(place: Place) -> None:
    """--tree finds descendants that run although their parent does not."""
    root, env = place.agent()
    place.play(*place.hold())
    run = place.start("run", "--tool", "codex", "go", env=env)
    place.wait_ready()
    done = place.run("session", "kill", "--tree", root)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{root}: not running (succeeded)",
        f"{run.session_id}: ended (codex, turn 1): cancelled",
    ]
    assert run.wait().code == 130


@pytest.mark.thorough
def test_kill_of_a_detached_child(place: Place) -> None:
    """--tree ends what an agent has started to go on by itself, and csa kill --all does too; attach follows it."""
    place.script(
        {"match": "child", "do": [["call", "make"], *place.hold()]},
        {"match": "parent", "do": [["run", "csa run -q --tool codex --detach child"], ["say", "started"]]},
    )
    parent = place.codex("parent").session_id
    place.wait_ready()
    (child_id,) = set(place.ids()) - {parent}
    attached = place.start("session", "attach", child_id)
    wait_for(lambda: "$ make" in attached.err, "it is followed")
    (row,) = place.run("ps", "--json").json
    assert (row["id"], row["detached"]) == (child_id, True)
    done = place.run("session", "kill", "--tree", parent)
    assert done.out.splitlines() == [
        f"{parent}: not running (succeeded)",
        f"{child_id}: ended (codex, turn 1): cancelled",
    ]
    assert attached.wait().code == 1
    assert "session kill by tester@" in str(place.last_event(child_id))
    place.wait_until_empty(within_s=2)


@pytest.mark.thorough
def test_an_agent_cannot_kill_itself(place: Place) -> None:
    """An agent may kill the sessions it has started, but neither its own nor one that it works for."""
    root, env = place.agent()
    place.play(*place.hold())
    run = place.start("run", "--tool", "codex", "go", env=env)
    place.wait_ready()
    inner = _environment_of(place, run.session_id)
    for selector in ("@self", "@parent", "@root"):
        done = place.run("session", "kill", "--tree", selector, env=inner)
        assert (done.code, done.out) == (5, ""), selector
    assert "cannot kill itself" in place.run("session", "kill", run.session_id, env=inner).err
    assert "is an ancestor of the calling session" in place.run("session", "kill", root, env=inner).err
    done = place.run("kill", "--all", "--yes", env=inner)
    assert (done.code, "An agent cannot kill everything" in done.err) == (5, True)
    assert place.run("session", "is-alive", run.session_id).code == 0
    assert place.run("session", "kill", run.session_id, env=env).code == 0
    assert run.wait().code == 130


ENDLESS = (
    ("session", "wait"),
    ("session", "wait", "--tree"),
    ("session", "attach"),
    ("session", "logs", "-f"),
    ("run", "--wait", "--tool", "codex", "x", "--fork-from"),
)


@pytest.mark.thorough
@pytest.mark.parametrize("words", ENDLESS)
def test_an_agent_cannot_wait_for_itself(place: Place, words: tuple[str, ...]) -> None:
    """Nor for a session that works on its behalf: both would wait for ever, each for the other."""
    place.script(
        {"match": "leaf", "do": [*place.hold(), ["say", "ok"]]},
        {"match": "root", "do": [["run", "csa run -q --tool codex leaf"], ["say", "ok"]]},
    )
    run = place.start("run", "--tool", "codex", "root")
    place.wait_ready()
    leaf = next(item["id"] for item in place.run("session", "list", "--json").json if item["depth"])
    inner = _environment_of(place, leaf)
    for selector in ("@self", "@parent", "@root"):
        done = place.run(*words, selector, env=inner)
        assert (done.code, "cannot " in done.err) == (5, True), (selector, done.err)
    assert place.run("session", "logs", "@parent", env=inner).code == 0
    place.release()
    assert run.wait().code == 0


@pytest.mark.thorough
def test_a_detached_agent_may_wait_for_its_parent(place: Place) -> None:
    """It is waited for by nobody: its parent's turn ends without it. For a tree that it is in itself it may not."""
    place.script(
        {"match": "leaf", "do": [["wait-file", str(place.go), 60], ["say", "ok"]]},
        {"match": "root", "do": [["run", "csa run -q --detach --tool codex leaf"], *place.hold(), ["say", "ok"]]},
    )
    run = place.start("run", "--permission", "full", "--tool", "codex", "root")
    place.wait_ready()
    leaf = next(item["id"] for item in place.run("session", "list", "--json").json if item["depth"])
    inner = _environment_of(place, leaf)
    assert place.run("session", "wait", "--timeout", "0", "@parent", env=inner).code == 4
    assert place.run("session", "wait", "--tree", "--timeout", "0", "@parent", env=inner).code == 5
    assert place.run("session", "wait", "--timeout", "0", "@self", env=inner).code == 5
    place.release()
    assert run.wait().code == 0
    assert place.run("session", "wait", leaf).code == 0


def _environment_of(place: Place, session_id: str) -> dict[str, str | None]:
    return {"CSA_SESSION_ID": session_id, "CSA_SESSION_DIR": str(place.session(session_id))}


def two_projects(place: Place) -> tuple[list[tuple[Path, str]], list[Running]]:
    """Run a session in each of two projects; return both, and what runs them."""
    runs = []
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    for name in ("one", "two"):
        place.script(
            *(
                {"match": each, "do": [["touch", f"{place.tmp}/up-{each}"], ["wait-file", str(place.go), 60]]}
                for each in ("one", "two")
            )
        )
        runs.append(place.start("run", "--tool", "codex", name, cwd=place.project if name == "one" else other))
        wait_for((place.tmp / f"up-{name}").exists, f"{name} runs")
    return [(place.project, place.ids()[-1]), (other, place.ids(other)[0])], runs


@pytest.mark.thorough
def test_ps_and_kill_all(place: Place) -> None:
    """`ps` shows what runs in all projects with what it uses, and `kill --all --yes` ends it all."""
    assert place.run("ps").out == "Nothing is running\n"
    assert place.run("ps", "--all").out == "No sessions found\n"
    assert place.run("kill", "--all").out == "Nothing is running\n"
    ended = place.codex("before").session_id
    projects, runs = two_projects(place)
    rows: list[Json] = place.run("ps", "--json").json
    assert [(row["project"], row["id"]) for row in rows] == [(str(path), each) for path, each in reversed(projects)]
    assert {row["status"] for row in rows} == {"running"}
    assert all(row["pid"] and row["processes"] >= 3 and row["rss_bytes"] and row["cpu_s"] is not None for row in rows)
    assert ended in {row["id"] for row in place.run("ps", "--all", "--json").json}
    shown = place.run("ps").out.splitlines()
    assert shown[0].split() == ["SESSION", "PROJECT", "TOOL", "STATUS", "TURN", "PID", "TIME", "CPU", "MEM", "DOING"]
    assert [line.split()[0] for line in shown[1:]] == [each for _, each in reversed(projects)]
    for columns in (40, 50, 60, 80, 120):
        with Terminal(place, "ps", "--all", size=(columns, 24)) as terminal:
            assert terminal.end() == 0
        assert max(map(len, terminal.text.splitlines())) <= columns
    refused = place.run("kill", "--all")
    assert (refused.code, "hint: csa kill --all --yes" in refused.err) == (2, True)
    assert "Nothing to kill: name a session, or use --all." in place.run("kill").err
    assert place.run("kill", "--all", "--tree").code == place.run("session", "kill", "--yes", "x").code == 2
    done = place.run("kill", "--all", "--yes")
    assert done.code == 0
    assert sorted(done.out.splitlines()) == sorted(f"{each}: ended (codex, turn 1): cancelled" for _, each in projects)
    assert [run.wait().code for run in runs] == [130, 130]
    assert place.run("ps").out == "Nothing is running\n"


@pytest.mark.thorough
def test_kill_all_asks(place: Place) -> None:
    """On a terminal `kill --all` asks first, and takes everything but yes for no."""
    place.play(*place.hold())
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    with Terminal(place, "kill", "--all") as terminal:
        terminal.wait_for("End 1 session in 1 project? [y/N]")
        terminal.type("\n")
        assert terminal.end() == 1
    assert run.process.poll() is None
    with Terminal(place, "kill", "--all") as terminal:
        terminal.wait_for("[y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
        assert "ended (codex, turn 1): " in terminal.text
    assert run.wait().code == 130


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [40, 80, 132])
def test_ps_fits_the_terminal(place: Place, columns: int) -> None:
    """No line of the table is longer than the terminal is wide."""
    place.play(["call", "a command that is so long that it fits no terminal at all " * 4], *place.hold())
    run = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    with Terminal(place, "ps", size=(columns, 24)) as terminal:
        assert terminal.end() == 0
        lines = terminal.text.split("\r\n")
        assert max(map(len, lines)) <= columns
        assert lines[1].startswith(run.session_id[:10])
        assert ("PID" in lines[0]) == (columns > 50)
    place.release()
    run.wait()


def test_ps_of_another_machine(place: Place, write_foreign: ForeignWriter) -> None:
    """What runs on another machine is shown without what only that can know."""
    paths = write_foreign(FOREIGN)
    paths.session_lock.parent.mkdir()
    owner = json.loads(current_owner(tool="codex", turn=1, since="2026-01-01T10:00:00+00:00").to_bytes())
    paths.session_lock.write_text(json.dumps({**owner, "boot_id": "x", "machine_id": "x", "host": "far"}))
    SessionPaths(paths.root).heartbeat.write_text("far\n")
    (row,) = place.run("ps", "--json").json
    assert (row["pid"], row["host"], row["cpu_s"], row["rss_bytes"]) == (os.getpid(), "far", None, None)
