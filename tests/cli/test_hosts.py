"""Other hosts: `csa sync` and `csa hosts` over an ssh that leads to another state root, and reading what was seen."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from csa.runner.hosts.frames import read_frame
from csa.store.journal import Journal
from csa.store.mirrors import Mirror
from csa.store.sessions import Store
from tests.cli.hosts import make_old, sync
from tests.store.support import IDS, PLAIN, publish
from tests.support import CSA, PATIENCE_S, Place, Running, children_of, is_running, wait_for


def turn(remote: Place, *words: str) -> str:
    return remote.codex("fix the parser", *words).session_id


def watching(place: Place) -> Running:
    running = place.start("sync", "n1", "--watch")
    wait_for(lambda: "connected" in running.err, "it is connected")
    return running


def test_what_was_said_elsewhere_is_read_here(place: Place, remote: Place) -> None:
    """After csa sync every command that reads finds the sessions of a host, by its option, `n1:NAME`, or a full id."""
    session_id = turn(remote, "--name", "auth")
    assert sync(place) == "n1: 1 session, 5 events\n"
    assert sync(place) == "n1: nothing new\n"
    (listed,) = place.run("ls", "--json", "--all-hosts").json
    assert (listed["session_id"], listed["mirror"], listed["status"]) == (session_id, "n1", "succeeded")
    assert {hit["session_id"] for hit in place.run("search", "--json", "parser", "--host", "n1").json} == {session_id}
    assert place.run("stats", "--json", "--all-hosts").json["total"]["turns"] == 1
    assert f"n1:{remote.project}" in place.run("ls", "--all-hosts").out
    said = remote.run("result", "auth").out
    for words in (["n1:auth"], ["--host", "n1", "auth"], [session_id[:12].lower()]):
        assert place.run("result", *words).out == said
    for words in (["show"], ["logs", "--json"]):
        assert place.run(*words, session_id).out == remote.run(*words, "auth").out
    card = place.run("status", "--json", "n1:auth").json
    assert (card["status"], card["mirror"], card["evidence"]["mirror"]) == ("succeeded", "n1", "n1")
    assert place.run("ls", "--json").json == place.run("search", "--json", "--all-projects", "parser").json == []


@pytest.mark.thorough
def test_who_acts_is_told_where(place: Place, remote: Place) -> None:
    """What acts on another host's session is refused, with the host; so is what its mirror does not have."""
    session_id = turn(remote, "--name", "auth")
    sync(place)
    before = {path: path.read_bytes() for path in place.state_root.rglob("*") if path.is_file()}
    for words in (
        ["run", "--on", "here", "-s", session_id, "go on"],
        ["rm", "n1:auth", "else"],
        ["checkpoint", session_id],
    ):
        done = place.run(*words)
        assert done.code == 5, done
        assert "is on n1; here it can only be read" in done.err
        assert "ssh n1 csa" in done.err
    for words in (["logs", "--raw", "n1:auth"], ["artifacts", "n1:auth"], ["repair", session_id]):
        assert place.run(*words).code == 5, words
    assert place.run("ls", "--host", "n2").code == 3
    assert before == {path: path.read_bytes() for path in place.state_root.rglob("*") if path.is_file()}


@pytest.mark.thorough
def test_what_changes_only_a_record_is_done_there(place: Place, remote: Place) -> None:
    """rename, pin, rm and the like of another host's sessions are done there by a person's words, as they are."""
    session_id = turn(remote, "--name", "auth")
    sync(place)
    renamed = place.run("rename", "n1:auth", "login", "--json")
    assert (renamed.code, renamed.json["name"], "csa sync n1 shows it here" in renamed.err) == (0, "login", True)
    assert place.run("pin", session_id[:12].lower()).code == 0
    assert remote.state(session_id)["pinned"] is True
    assert place.run("rm", "n1:auth").code == 5  # pinned, says n1; here it has the old name still
    assert place.run("rm", "-f", "n1:auth").code == 0
    assert remote.ids() == []
    turn(remote, "--name", "login")
    sync(place)
    _, env = place.agent("--name", "agent")
    assert place.run("pin", "n1:login", env=env).code == 5  # refused: there it would be nobody's


@pytest.mark.thorough
def test_a_turn_is_followed_and_away_without_news(place: Place, remote: Place, mirror: Mirror) -> None:
    """While it is heard of it runs; then it is away, up to an event; its host says at last that it was lost."""
    remote.play(*remote.hold())
    running = remote.start("run", "--tool", "codex", "--name", "slow", "long")
    watch = watching(place)
    remote.wait_ready()
    wait_for(lambda: place.run("is-alive", "n1:slow").code == 0, "it is seen")
    assert [each["status"] for each in place.run("ls", "--json", "--host", "n1").json] == ["running"]
    (host,) = place.run("hosts", "--json").json
    assert (host["host"], host["running"], host["reached"]) == ("n1", 1, None)
    watch.signal(signal.SIGTERM)
    assert watch.wait().code == 130
    running.kill()
    wait_for(lambda: remote.run("is-alive", "slow").code == 1, "it has ended")
    make_old(mirror)
    away = place.run("is-alive", "n1:slow")
    assert (away.code, away.out) == (4, f"away: running when last seen 4 min ago (event {seq_of(place)})\n")
    assert [each["status"] for each in place.run("ls", "--json", "--host", "n1", "--status", "away").json] == ["away"]
    assert "only n1 can say that it does not" in place.run("status", "n1:slow").out
    sync(place)
    assert place.run("ls", "--host", "n1", "--format", "{status}").out == "lost\n"


def seq_of(place: Place) -> int:
    return int(json.loads(place.run("logs", "--json", "--tail", "1", "n1:slow").out)["seq"])


@pytest.mark.thorough
def test_why_a_host_cannot_be_reached(place: Place, remote: Place) -> None:
    """One that fails does not keep the others; each failure has its next step; csa hosts --check finds the same."""
    turn(remote)
    done = place.run("sync", "n1", "nowhere", "strange", "bare")
    assert (done.code, done.out) == (7, "n1: 1 session, 5 events\n")
    for words in (
        "Could not resolve hostname",
        "~/.ssh/config",
        "Host key verification failed",
        "There is no csa on bare",
    ):
        assert words in done.err
    checked = place.run("hosts", "--check", "--json", "n1", "bare")
    assert checked.code == 7
    assert [(each["host"], each["reached"]) for each in checked.json] == [("n1", True), ("bare", False)]
    assert "codex" in checked.json[0]["tools"]
    assert abs(checked.json[0]["skew_s"]) < PATIENCE_S
    assert place.run("sync").code == 0  # the one that has a mirror
    assert place.run("sync", "user@host").code == 2


@pytest.mark.thorough
def test_how_a_host_is_reached_is_configured(place: Place, remote: Place) -> None:
    """By the user alone: a project that could name commands is refused."""
    turn(remote)
    (place.project / ".csa").mkdir()
    config = place.project / ".csa" / "config.toml"
    reach = ["env", f"HOME={remote.home}", f"CSA_STATE_DIR={remote.state_root}"]
    csa = [shutil.which("csa", path=place.env["PATH"])]
    text = f"[engines.pod]\nreach = {json.dumps(reach)}\ncsa = {json.dumps(csa)}\n"
    config.write_text(text)
    refused = place.run("sync")
    assert refused.code == 6
    assert "a project file may not set 'engines'" in refused.err
    config.rename(place.tmp / "own.toml")
    own = {"CSA_CONFIG": str(place.tmp / "own.toml")}
    assert place.run("sync", env=own).out == "pod: 1 session, 5 events\n"
    assert place.run("config", "show", env=own).out.count("[engines.pod]") == 1


@pytest.mark.thorough
def test_a_watch_goes_on_when_its_connection_was_lost(place: Place, remote: Place) -> None:
    """It says so, tries again, and takes up where it was; at its end nothing is left."""
    watch = watching(place)
    (ssh,) = children_of(watch.pid)
    os.kill(ssh, signal.SIGKILL)
    wait_for(lambda: watch.err.count("connected") == 2, "it is connected again")
    assert "Trying again in 1 s" in watch.err
    turn(remote, "--name", "auth")
    wait_for(lambda: place.run("show", "n1:auth").code == 0, "what was said since is there")
    watch.kill()  # SIGKILL: the outlet ends with its stdin
    wait_for(lambda: not outlets(remote.state_root), "the outlet has ended")


def outlets(state: Path) -> list[int]:
    """Return the outlets that run for a state root."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            is_one = b"outlet" in (each / "cmdline").read_bytes()
            its = f"CSA_STATE_DIR={state}".encode() in (each / "environ").read_bytes()
        except OSError:
            continue
        if is_one and its and is_running(int(each.name)):
            found.append(int(each.name))
    return found


@pytest.mark.thorough
def test_a_host_that_does_not_answer_is_given_up_at_once_on_ctrl_c(place: Place, remote: Place) -> None:
    """While ssh still tries to connect, SIGINT ends it and csa."""
    running = place.start("sync", "hung")
    wait_for(lambda: children_of(running.pid), "ssh is there")
    running.signal(signal.SIGINT)
    assert running.wait().code == 130


@pytest.mark.thorough
def test_the_index_has_what_mirrors_have(place: Place, remote: Place) -> None:
    """With it the answers are the same, and a session with the same id and project here is another one."""
    turn(remote, "--name", "auth")
    sync(place)
    before = place.run("search", "--json", "--all-hosts", "parser").json
    assert place.run("index", "build").code == 0
    status = place.run("index", "status", "--json").json
    assert (status["sessions"], status["stale"]) == (1, 0)
    assert place.run("search", "--json", "--all-hosts", "parser").json == before != []
    assert place.run("search", "--json", "--host", "n1", "parser").json == before
    assert place.run("search", "--json", "--host", "n1", "nothing-like-it").json == []
    assert "0 added, 0 removed" in place.run("index", "update").err
    turn(remote, "--name", "later")  # the index is old then, and after that damaged, and at last gone
    sync(place)
    after = place.run("search", "--json", "--all-hosts", "parser").json
    assert {hit["name"] for hit in after} == {"auth", "later"}
    (database,) = (place.state_root / ".index").glob("*.db")
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 2])
    assert place.run("search", "--json", "--all-hosts", "parser").json == after
    assert place.run("index", "delete").code == 0
    assert place.run("search", "--json", "--all-hosts", "parser").json == after


@pytest.mark.thorough
def test_a_host_that_cannot_be_reached_sends_itself(place: Place, remote: Place) -> None:
    """`csa outlet < HAVE | csa intake HOST`; what is cut off exits 1, and leaves what can be read."""
    turn(remote, "--name", "auth")
    have = place.run("intake", "n1", "--have")
    stream = remote.run("outlet", stdin=have.out.encode()).out.encode()
    assert place.run("intake", "n1", stdin=stream[:-20]).code == 1
    assert place.run("show", "n1:auth").code == 0
    have = place.run("intake", "n1", "--have")
    rest = remote.run("outlet", stdin=have.out.encode()).out.encode()
    assert len(rest) < len(stream) / 3
    assert place.run("intake", "n1", stdin=rest).code == 0
    assert place.run("intake", "n1", stdin=b"hello\n").code == 1


@pytest.fixture
def journal(remote: Place) -> Iterator[Journal]:
    """Return the journal of a turn that runs on the host, in this process."""
    held = publish(Store(remote.state_root, remote.project), IDS[0])
    with closing(held), closing(Journal(held.paths.transcript, PLAIN, turn=1)) as journal:
        yield journal


def write(journal: Journal, count: int) -> None:
    journal.extend([("tool_call_update", {"id": "c", "content": "x" * 200})] * count)
    journal.flush()


@pytest.mark.thorough
def test_killed_at_any_instant_a_mirror_is_valid(place: Place, remote: Place, mirror: Mirror, journal: Journal) -> None:
    """SIGKILL of either side, while much comes: what is there is the beginning of what the host has, in whole lines."""
    theirs = Store(remote.state_root, remote.project).paths(IDS[0]).transcript
    ours = Store(mirror.pathname, remote.project).paths(IDS[0]).transcript
    generator = random.Random(17)
    for at in range(16):
        write(journal, 5000)
        running = place.start("sync", "n1")
        wait_for(lambda: children_of(running.pid) or running.process.poll() is not None, "ssh is there")  # noqa: B023
        time.sleep(generator.uniform(0, 0.6))
        for pid in children_of(running.pid)[:1] if at % 2 else [running.pid]:
            os.kill(pid, signal.SIGKILL)
        running.process.wait(PATIENCE_S)
        if ours.exists():
            seen = ours.read_bytes()
            assert theirs.read_bytes().startswith(seen)
            assert place.run("ls", "--host", "n1", "--format", "{status}").out in {"running\n", "away\n"}
    wait_for(lambda: not outlets(remote.state_root), "the outlets have ended")
    sync(place)
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_host_cannot_fill_the_disk(place: Place, remote: Place, mirror: Mirror) -> None:
    """The intake stops before it is full, with what it has; a disk that is full otherwise is named, too."""
    for each in IDS[:8]:
        with (
            publish(Store(remote.state_root, remote.project), each) as held,
            closing(Journal(held.paths.transcript, PLAIN, turn=1)) as journal,
        ):
            write(journal, 20_000)
    mounted = Path(mirror.pathname).parent
    mounted.mkdir(parents=True)
    looks = f"{CSA} ls --host n1 --format '{{status}}'; df -m --output=avail {mounted} | tail -1; exit $code"
    script = f"mount -t tmpfs -o size=$0 none {mounted} || exit 99; {CSA} sync n1; code=$?; {looks}"
    for size, said in (("32m", "the disk has only"), ("2m", "No space left on device")):
        done = place.shell(["unshare", "--mount", "bash", "-c", script, size])
        if done.code == 99:
            pytest.skip("no mounts here")
        assert (done.code, said in done.err, "Traceback" in done.err) == (1, True, False), done
        *statuses, _ = done.out.split()
        assert set(statuses) <= {"away", "lost", "running"}
    assert sync(place).startswith("n1: 8 sessions")


@pytest.mark.thorough
def test_a_stalled_pipe_costs_no_memory(remote: Place, journal: Journal) -> None:
    """An outlet whose reader has stopped waits, however much is written meanwhile, and then sends all of it."""
    write(journal, 1000)
    pipe = subprocess.PIPE
    words = [CSA, "outlet", "--follow"]
    with subprocess.Popen(words, env=remote.environment(None), cwd=remote.project, stdin=pipe, stdout=pipe) as outlet:
        assert outlet.stdin
        assert outlet.stdout
        outlet.stdin.write(b'{"csa":"intake","protocol":1}\n{"end":true}\n')
        outlet.stdin.flush()
        outlet.stdout.readline()
        before = memory_of(outlet.pid)
        for _ in range(10):
            write(journal, 10_000)
            time.sleep(0.05)  # several looks
        assert memory_of(outlet.pid) < before + (16 << 20)
        lines = 0
        while lines < 101_001:
            frame = read_frame(outlet.stdout)
            assert frame
            lines += frame.content.count(b"\n") if frame.kind == "lines" else 0
        outlet.stdin.close()


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_who_names_no_host_pays_nothing(place: Place, remote: Place) -> None:
    """Nothing of mirrors and hosts is imported by what reads this host's sessions, also where there are mirrors."""
    sync(place)
    assert not {each for each in place.imports("ls") if each.startswith(("csa.store.mirrors", "csa.runner.hosts"))}


@pytest.mark.thorough
def test_what_a_host_has_deleted_is_forgotten_in_time(place: Place, remote: Place, mirror: Mirror) -> None:
    """`csa gc` deletes it when its days are over, and nothing else; doctor names a host not heard of for long."""
    for name in ("auth", "stays"):
        turn(remote, "--name", name)
    sync(place)
    assert remote.run("rm", "auth").code == 0
    sync(place)
    days = 86400
    (deleted,) = Store(mirror.pathname, remote.project).retired_ids()
    trash = Store(mirror.pathname, remote.project).retired_paths(deleted).root
    os.utime(trash, (time.time() - 3.5 * days,) * 2)
    assert place.run("gc", "--days", "4", "--json").json["forgotten"] == []
    known = [{"session_id": deleted, "mirror": "n1"}]
    assert place.run("gc", "--days", "3", "--json", "--dry-run").json["forgotten"] == known
    assert trash.exists()
    assert "forgot 1 session" in place.run("gc", "--days", "3").out
    assert not trash.exists()
    assert place.run("show", "n1:stays").code == 0
    assert sync(place) == "n1: nothing new\n"
    make_old(mirror, 31 * days)
    checks = {each["name"]: each for each in place.run("doctor", "--json").json["checks"]}
    assert "n1 (31 d ago)" in checks["other hosts"]["detail"]
