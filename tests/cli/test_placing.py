"""Turns on other hosts: `csa run --on`, over an ssh that leads to another home and state root, or a real one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.realhosts import Host, Hosts
from tests.support import CSA, Place, Running, children_of, wait_for

LEASH_S = 5


@pytest.fixture
def leash(place: Place) -> None:
    """Give n1 a short leash."""
    config = place.tmp / "own.toml"
    config.write_text(f"[engines.n1]\nleash_s = {LEASH_S}\n")
    place.env["CSA_CONFIG"] = str(config)


def words(remote: Place, *more: str) -> list[str]:
    return ["run", "--on", "n1", "--tool", "codex", "--cd", str(remote.project), *more]


def held(place: Place, remote: Place, *more: str) -> Running:
    """Begin a turn on n1 whose tool is ready, and waits."""
    remote.play(*remote.hold(), ["say", "done"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    running = place.start(*words(remote, *more, "long"))
    remote.wait_ready()
    return running


def links(running: Running, what: str) -> list[int]:
    """Return the processes by which a command reaches a host for something."""
    return [pid for pid in children_of(running.pid) if what.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_turn_on_another_host_is_seen_here(place: Place, remote: Place) -> None:
    """`csa run --on n1` prints the answer, exits as the turn did, and leaves its session there, and in the mirror."""
    done = place.run(*words(remote, "--name", "auth", "fix it"))
    assert done.code == 0, done.err
    (session_id,) = remote.published()
    assert done.session_id == session_id
    assert "codex on n1" in done.err
    assert done.out == remote.run("result", "auth").out == place.run("result", "n1:auth").out
    assert place.ids() == []


@pytest.mark.thorough
def test_it_goes_on_with_a_session_of_that_host(place: Place, remote: Place) -> None:
    """By HOST:NAME, by a full id, with `--on` and a name, and by csa retry; one that is here stays here."""
    place.codex("hello", "--name", "mine")
    session_id = remote.codex("fix the parser", "--name", "auth").session_id
    ways = [
        ["run", "-s", "n1:auth"],
        ["run", "-s", session_id],
        ["run", "--on", "n1", "-s", "auth"],
        ["retry", "n1:auth"],
    ]
    for number, way in enumerate(ways, 2):
        done = place.run(*way, "--json", *(["go on"] if way[0] == "run" else []))
        assert (done.code, done.json["turn"], done.json["session_id"]) == (0, number, session_id), done.err
    assert place.run("run", "--on", "n2", "-s", "n1:auth", "x").code == 2
    by_name = place.run(*words(remote, "--session-id", "auth", "--json", "and on"))
    assert (by_name.code, by_name.json["session_id"], by_name.json["turn"]) == (0, session_id, 6), by_name.err
    named = [place.run(*words(remote, "--session-id", "new", "--json", "x")).json for _ in range(2)]
    assert [(each["name"], each["turn"]) for each in named] == [("new", 1), ("new", 2)]
    stays = place.run("run", "--on", "n1", "-s", "mine", "x")
    assert (stays.code, "is on this host, and stays here" in stays.err) == (5, True)
    assert place.run("run", "--on", "here", "-s", "n1:auth", "x").code == 5


@pytest.mark.thorough
def test_what_is_printed_is_what_any_run_prints(place: Place, remote: Place) -> None:
    """With each option for the output; a reader that goes away is not an error; --detach returns at once."""
    assert place.run(*words(remote, "-q", "hello")).err == ""
    assert "hello" in place.run(*words(remote, "-v", "hello")).err
    assert place.run(*words(remote, "--print-id", "hello")).out.strip() in remote.published()
    streamed = place.run(*words(remote, "--stream-json", "hello")).events
    assert [streamed[0]["type"], streamed[-1]["type"]] == ["run_started", "run_finished"]
    assert (
        place.shell(["sh", "-c", f"{CSA} {' '.join(words(remote))} --stream-json hello | head -1"]).out.count("\n") == 1
    )
    failed = place.run(*words(remote, "--tool", "gemini-cli", "--model", "no such", "--schema", "{", "x"))
    assert failed.code == 2
    started = place.run(*words(remote, "--detach", "--json", "hello")).json
    assert place.run("show", started["session_id"]).code == 0
    assert remote.run("wait", started["session_id"]).code == 0
    plan = place.run("run", "--dry-run", "--on", "n1", "--cd", str(remote.project), "--json", "x").json
    assert (plan["mirror"], plan["directory"], plan["code"]) == ("n1", str(remote.project), None)
    assert len(remote.published()) == 6


@pytest.mark.thorough
def test_what_makes_no_sense_there_is_refused(place: Place, remote: Place) -> None:
    """Before anything is sent; and what the host refuses is refused here with its code."""
    for refused in (["--secret", "KEY"], ["--ephemeral"], ["--fork-from", "x"], ["-c"], ["--queue"], ["--steal"]):
        done = place.run(*words(remote, *refused, "x"), env={"KEY": "value"})
        assert done.code == 2, done
    assert place.run("run", "--on", "n1", "--tool", "nothing", "--cd", str(remote.project), "x").code == 2
    assert place.run(*words(remote, "--permission", "full", "--timeout", "-1", "x")).code == 2
    nowhere = place.run("run", "--on", "n1", "--tool", "codex", "x", cwd=place.tmp)
    assert nowhere.code == 0, nowhere.err  # the directory is there, too
    for host, word in (("nowhere", "resolve"), ("strange", "Host key"), ("bare", "no csa on bare")):
        done = place.run("run", "--on", host, "--cd", str(remote.project), "x")
        assert (done.code, word in done.err) == (7, True), done
    assert place.run("run", "--on", "user@host", "x").code == 2


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_turn_there(place: Place, remote: Place, number: int, code: int) -> None:
    """The turn there ends as cancelled, by that signal, and nothing of it is left; then the command ends."""
    running = held(place, remote)
    running.signal(number)
    done = running.wait()
    assert done.code == code, done.err
    (session_id,) = remote.published()
    assert remote.status(session_id) == "cancelled"


@pytest.mark.thorough
def test_a_busy_session_is_waited_for(place: Place, remote: Place) -> None:
    """With `--wait`, whoever runs a turn in it, here or there; a signal ends the wait, and nothing was sent."""
    first = held(place, remote, "--name", "busy")
    go_on = ["run", "-s", "n1:busy", "more"]
    wait_for(lambda: place.run("show", "n1:busy").code == 0, "it is seen")
    assert place.run(*go_on).code == 4
    given_up, waits = (place.start(*go_on, "--wait") for _ in range(2))
    wait_for(lambda: "waiting: " in given_up.err, "it waits")
    given_up.signal(signal.SIGINT)
    assert given_up.wait().code == 130
    remote.release()
    assert first.wait().code == waits.wait().code == 0
    remote.ready.unlink()
    remote.go.unlink()
    there = remote.start("run", "-s", "busy", "long")
    remote.wait_ready()
    waits = place.start(*go_on, "--wait")
    wait_for(lambda: links(waits, "supervise"), "it is connected")
    time.sleep(1)
    remote.release()
    assert (there.wait().code, waits.wait().code) == (0, 0)


@pytest.mark.thorough
@pytest.mark.usefixtures("leash")
def test_a_turn_ends_when_nobody_holds_its_leash(place: Place, remote: Place) -> None:
    """SIGKILL of csa run: when it was not heard of for as long as the leash, the turn ends, and says why."""
    running = held(place, remote)
    running.kill()
    (session_id,) = remote.published()
    assert remote.status(session_id) == "running"
    wait_for(lambda: remote.status(session_id) == "cancelled", "the leash has run out")
    assert f"was not heard of for {LEASH_S} s" in json.dumps(remote.last_event(session_id))


@pytest.mark.thorough
def test_code_goes_there_and_its_commits_come_back(hosts: Hosts) -> None:
    """With what is not committed, into a worktree there; its commits are refs here; the next turn goes on with them."""
    a, n1 = hosts.up("a", "n1")
    a.git("init", "-q")
    (a.project / "f").write_text("one\n")
    a.git("add", "f")
    a.git("commit", "-qm", "first")
    (a.project / "f").write_text("two\n")
    n1.play(["run", "cat f > seen; pwd >> where"], ["say", "done"])
    done = a.run("run", "--on", "n1", "--tool", "codex", "--name", "w", "look")
    assert (done.code, done.out) == (0, "done\n"), done.err
    session_id = done.session_id
    refs = a.git("for-each-ref", "--format=%(refname)").split()
    (ref,) = [each for each in refs if each.startswith(f"refs/csa/{session_id}/1")]
    assert a.git("show", f"{ref}:seen") == "two"
    assert "git apply" in done.err
    assert a.run("run", "-s", "n1:w", "again").code == 0
    assert a.git("show", f"refs/csa/{session_id}/2:where").count("\n") == 1
    assert a.git("status", "--short") == "M f"


@pytest.mark.thorough
def test_what_an_agent_places_is_bound_as_its_children_are(place: Place, remote: Place) -> None:
    """It counts in its tree, with what it has used; its budget says how much goes there; the host refuses more."""
    root, env = place.agent("--budget-tokens", "10000", "--permission", "read-only")
    place.play(["usage", 990, 10], ["say", "done"])
    place.env["CSA_CONF_MAX_CHILDREN"] = "2"
    unsaid = place.run(*words(remote, "x"), env=env)
    assert (unsaid.code, "--allow-tokens" in unsaid.err) == (2, True), unsaid.err
    assert place.run(*words(remote, "--allow-tokens", "20000", "x"), env=env).code == 5
    assert remote.published() == []
    full = place.run(*words(remote, "--allow-tokens", "1500", "--permission", "full", "x"), env=env)
    assert full.code == 5, full.err
    done = place.run(*words(remote, "--allow-tokens", "1500", "--json", "x"), env=env)
    assert done.code == 0, done.err
    child = done.json["session_id"]
    state = remote.state(child)
    above = state["genealogy"]
    assert (above["parent_session_id"], above["root_session_id"], above["depth"]) == (root, root, 1)
    assert (state["permission"], state["budget"]) == ("read-only", {"tokens": 1500})
    assert not list((place.state_root / ".placed").glob("*.json"))  # it is settled
    assert place.run("run", "-s", f"n1:{child}", "--budget-tokens", "99999", "more", env=env).code == 5
    used = place.run("budget", root, "--json").json["used"]["tokens"]
    again = place.run("run", "-s", f"n1:{child}", "--allow-tokens", "2500", "--json", "more", env=env)
    assert again.code == 0, again.err
    assert place.run("budget", root, "--json").json["used"]["tokens"] == used + 1000


def waiting(a: Host, n1: Host) -> Running:
    """Begin a turn on a real host, with a short leash, whose tool is ready and waits."""
    config = a.tmp / "own.toml"
    config.write_text(f"[engines.n1]\nleash_s = {LEASH_S}\n")
    a.env["CSA_CONFIG"] = str(config)
    n1.play(*n1.hold(), ["say", "done"])
    running = a.start("run", "--on", "n1", "--tool", "codex", "--cd", str(a.tmp.parent / "same"), "long")
    n1.wait_ready()
    return running


@pytest.mark.thorough
@pytest.mark.long
def test_a_connection_that_breaks_is_made_again(hosts: Hosts) -> None:
    """Over a real ssh, more often than the leash is long, and the turn goes on; its end is the command's."""
    a, n1 = hosts.up("a", "n1")
    running = waiting(a, n1)
    for count in range(1, 3):
        wait_for(lambda: links(running, "supervise"), "it is connected")
        for pid in links(running, "supervise"):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: running.err.count("connected to n1 again") == count, "it is connected again")  # noqa: B023
        time.sleep(LEASH_S)
    n1.release()
    done = running.wait()
    assert (done.code, done.out) == (0, "done\n"), done.err


@pytest.mark.thorough
def test_a_connection_that_stands_still_hides_no_end(hosts: Hosts) -> None:
    """SIGSTOP of the ssh that supervises: the end is seen all the same, and nothing is left."""
    a, n1 = hosts.up("a", "n1")
    running = waiting(a, n1)
    (ssh,) = links(running, "supervise")
    os.kill(ssh, signal.SIGSTOP)
    n1.release()
    done = running.wait()
    assert (done.code, done.out) == (0, "done\n"), done.err
    wait_for(lambda: len(a.everyone()) == 2, "only its first process and sshd are left")


@pytest.mark.thorough
@pytest.mark.long
def test_a_network_that_is_cut_longer_than_the_leash(hosts: Hosts) -> None:
    """The turn there ends; the command hears of it when the network is back."""
    a, n1 = hosts.up("a", "n1")
    running = waiting(a, n1)
    n1.cut()
    time.sleep(LEASH_S + 2)
    n1.heal()
    done = running.wait()
    assert (done.code, "a was not heard of for 5 s" in done.err) == (130, True), done


@pytest.mark.thorough
def test_a_host_that_is_gone_is_left_on_the_second_signal(hosts: Hosts) -> None:
    """A power cut there: the turn is away, and what it took is held; when the host is back, it says that it is lost."""
    a, n1 = hosts.up("a", "n1")
    running = waiting(a, n1)
    n1.kill()
    wait_for(lambda: "the connection to n1 is lost" in running.err, "it is noticed")
    running.signal(signal.SIGINT)
    wait_for(lambda: "n1 will be told" in running.err, "it is heeded")
    running.signal(signal.SIGINT)
    done = running.wait()
    assert (done.code, "on n1 is away" in done.err) == (130, True), done
    assert list((a.state_root / ".placed").glob("*.json"))
    n1.start_again()
    assert a.run("sync", "n1").code == 0
    assert [each["status"] for each in a.run("ls", "--json", "--all-hosts").json] == ["lost"]
    assert not list((a.state_root / ".placed").glob("*.json"))


@pytest.mark.thorough
def test_the_leash_ends_a_turn_whose_host_is_gone(hosts: Hosts) -> None:
    """The other host has a power cut: the turn ends when the leash has run out, and nothing of it is left."""
    a, n1 = hosts.up("a", "n1")
    waiting(a, n1)
    a.kill()
    wait_for(lambda: len(n1.everyone()) == 2, "only its first process and sshd are left")
    (card,) = n1.run("ls", "--json", "--all-projects").json
    assert card["status"] == "cancelled"


@pytest.mark.thorough
def test_many_at_once_share_a_mirror(place: Place, remote: Place) -> None:
    """Five at once, of which one keeps the mirror up to date; and while csa sync --watch does. None leaves anything."""
    for watched in (False, True):
        watch = place.start("sync", "n1", "--watch") if watched else None
        wait_for(lambda: watch is None or "connected" in watch.err, "it is connected")  # noqa: B023
        turns = [place.start(*words(remote, "-q", f"number {at}")) for at in range(5)]
        answers = [running.wait() for running in turns]
        assert [done.code for done in answers] == [0] * 5, answers
        assert all(f"number {at}" in done.out for at, done in enumerate(answers))
        if watch:
            watch.signal(signal.SIGTERM)
            watch.wait()
    assert len(remote.published()) == 10


@pytest.mark.thorough
def test_nothing_of_this_host_is_in_the_environment_there(place: Place, remote: Place) -> None:
    """Also where what reaches it passes on all variables: the agent there has the CSA_* of its own session alone."""
    seen = place.tmp / "seen"
    place.play(["write-env", str(seen)], ["say", "noted"])
    place.env |= {"CSA_CONF_RETRIES": "0", "CSA_MINE": "x"}
    done = place.run(*words(remote, "-q", "look"))
    assert done.code == 0, done.err
    found = {name: value for name, value in json.loads(seen.read_text()).items() if name.startswith("CSA_")}
    assert found["CSA_SESSION_ID"] == remote.published()[0]
    assert not {"CSA_CONF_RETRIES", "CSA_MINE"} & found.keys()
    assert str(place.state_root) not in json.dumps(found)


@pytest.mark.thorough
@pytest.mark.parametrize(("is_supervisor", "code", "status"), [(True, 1, "lost"), (False, 130, "cancelled")])
def test_who_supervises_is_killed(place: Place, remote: Place, *, is_supervisor: bool, code: int, status: str) -> None:
    """SIGKILL of the supervisor: the turn is lost, as the command says. Of `csa supervise`: it ends as cancelled."""
    running = held(place, remote)
    (ssh,) = links(running, "supervise")  # the stand-in has become csa supervise
    (supervisor,) = children_of(ssh)
    os.kill(supervisor if is_supervisor else ssh, signal.SIGKILL)
    done = running.wait()
    assert done.code == code, done.err
    assert ("was lost" if is_supervisor else "the process that started it has ended") in done.err
    (session_id,) = remote.published()
    wait_for(lambda: remote.status(session_id) == status, "nothing of it is left")


@pytest.mark.thorough
def test_an_order_is_carried_out_once(place: Place, remote: Place) -> None:
    """Sent again it is refused; and one that was asked about before it came never begins."""
    del place
    ids = [f"01JH4QWERT123456789000000{number}" for number in range(3)]
    order = order_for(remote, ids[0], session_id=ids[1])
    first, second = (speak(remote, order) for _ in range(2))
    assert first[1]["session_id"] == ids[1]
    assert first[2]["ended"] == 0
    assert second[1]["error"]["code"] == "placed_already"
    held = speak(remote, hold=ids[0])
    assert (held[1]["session_id"], held[2]["ended"]) == (ids[1], 0)
    assert speak(remote, hold=ids[2])[1]["error"]["code"] == "not_placed"
    late = speak(remote, order_for(remote, ids[2], session_id=ids[2]))
    assert late[1]["error"]["code"] == "not_placed"
    cut = speak(remote, order[:-20])
    assert len(cut) == 1
    assert remote.published() == [ids[1]]


RELAY = """#!{python} -IS
# As the ssh beside it, but the first connection that supervises breaks after so many bytes each way.
import os, select, subprocess, sys
real = {real}
cut = {cut}
if "supervise" not in sys.argv or "--hold" in sys.argv or os.path.exists(cut + ".used"):
    os.execv(real, [real, *sys.argv[1:]])
open(cut + ".used", "w").close()
left = [int(word) for word in open(cut).read().split()]
there = subprocess.Popen([real, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
ways = {{0: (there.stdin.fileno(), 0), there.stdout.fileno(): (1, 1)}}
while min(left) > 0:
    for fd in select.select(list(ways), [], [])[0]:
        to, way = ways[fd]
        block = os.read(fd, left[way])
        if not block:
            sys.exit(there.wait() if way else 0)
        os.write(to, block)
        left[way] -= len(block)
os._exit(255)
"""


@pytest.mark.thorough
def test_a_connection_that_breaks_anywhere_costs_no_second_turn(place: Place, remote: Place) -> None:
    """Cut in the order or in an answer: the turn has begun once, and is seen to its end; or not at all, as is said."""
    real, cut = shutil.which("ssh", path=place.env["PATH"]), place.tmp / "cut"
    relay = place.tmp / "relay" / "ssh"
    relay.parent.mkdir()
    relay.write_text(RELAY.format(python=sys.executable, real=repr(real), cut=repr(str(cut))))
    relay.chmod(0o700)
    place.env["PATH"] = f"{relay.parent}:{place.env['PATH']}"
    outcomes = set()
    for sent, heard in ((5, 9999), (300, 9999), (9999, 1), (9999, 150), (9999, 250), (9999, 400)):
        before = len(remote.published())
        cut.write_text(f"{sent} {heard}")
        (place.tmp / "cut.used").unlink(missing_ok=True)
        done = place.run(*words(remote, f"cut after {sent} and {heard}"))
        begun = len(remote.published()) - before
        assert (done.code, begun) in {(0, 1), (7, 0)}, (sent, heard, done)
        assert not list((place.state_root / ".placed").glob("*.json"))
        outcomes.add(done.code)
    assert outcomes == {0, 7}


def order_for(remote: Place, order_id: str, *, session_id: str) -> bytes:
    """Return what `csa run --on` says to give an order."""
    order = {
        "id": order_id,
        "request": {"prompt": "hello", "tool": "codex"},
        "session_id": session_id,
        "directory": str(remote.project),
        "command": "csa",
        "caller": {"CSA_SESSION_ID": None, "CSA_SESSION_DIR": None},
        "variables": None,
        "wait_s": None,
        "on_finish": None,
    }
    lines = [{"csa": "supervise", "protocol": 1, "code": None}, {"order": order, "leash_s": 60, "by": "here"}]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def speak(remote: Place, said: bytes = b"", *, hold: str | None = None) -> list[dict[str, Any]]:
    """Say something to `csa supervise`, and return what it says; what it started has ended then."""
    argv = [CSA, "supervise", *(["--hold", hold] if hold else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=remote.environment(None), cwd="/", stdin=pipe, stdout=pipe) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(said)
        process.stdin.flush()
        if not said.endswith(b"\n"):
            process.stdin.close()
        return [json.loads(line) for line in process.stdout]


def test_who_runs_here_pays_nothing(place: Place) -> None:
    """A turn of this host imports nothing of placing."""
    found = place.imports("run", "--tool", "codex", "hello")
    assert not {each for each in found if each.startswith(("csa.runner.hosts", "csa.cli.placing", "csa.store.orders"))}
