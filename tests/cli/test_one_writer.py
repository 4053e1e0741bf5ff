"""One writer, on whichever machine: who may be at work is not written over, and who has lost the lock stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from csa.store.locks import acquire_lock
from tests.cli.prepared import store_of
from tests.support import CSA, Place, read_transcript, wait_for

IDS = {"/proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555", "/etc/machine-id": "f" * 32}
_TRY = ["unshare", "--mount", "--uts", "sh", "-c", "hostname far && mount --bind /etc/hostname /etc/machine-id"]
WRITERS = {
    ("run", "--session", "ID", "again"): 4,
    ("run", "--detach", "--session", "ID", "again"): 4,
    ("session", "rename", "-s", "ID", "other"): 4,
    ("session", "describe", "-s", "ID", "words"): 4,
    ("session", "pin", "ID"): 4,
    ("session", "compress", "-s", "ID"): 4,
    ("session", "delete", "ID"): 4,
    ("session", "repair", "ID"): 4,
    ("run", "--fork-from", "ID", "again"): 4,
    ("session", "checkpoint", "ID"): 0,  # what it is based on is only read; the event is left out
    ("session", "clean", "--days", "0"): 0,
    ("gc", "--days", "0"): 0,
}


def machine(place: Place, *words: str, ids: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start csa on a machine of other ids: its own mounts and host name."""
    binds = []
    for number, (path, content) in enumerate(ids.items()):
        source = place.tmp / f"id-{number}"
        source.write_text(f"{content}\n")
        binds.append(f"mount --bind {source} {path}")
    script = " && ".join(["hostname far", *binds, 'exec "$@"'])
    process = place.popen(["unshare", "--mount", "--uts", "sh", "-c", script, "sh", CSA, *words])
    place.started.append(process)
    return process


def copied(place: Place, session_id: str, *, ids: dict[str, str] | None = None) -> Path:
    """Copy the store of another machine on which a turn of the session runs, and let that turn end; return the copy."""
    if shutil.which("unshare") is None or subprocess.run(_TRY, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    place.play(*place.hold())
    process = machine(place, "run", "--session", session_id, "elsewhere", ids=IDS if ids is None else ids)
    place.wait_ready()
    copy = place.tmp / "copy"
    try:
        copy_live(place.state_root, copy)
    finally:
        place.release()
    assert process.wait(60) == 0
    place.play(["say", "done"])
    place.env["CSA_STATE_DIR"] = str(copy)
    place.state_root = copy
    return copy


def copy_live(source: Path, copy: Path) -> None:
    """Copy a store that is in use: begin again when a file was replaced or deleted meanwhile."""
    deadline = time.monotonic() + 30
    while True:
        try:
            shutil.copytree(source, copy, symlinks=True)
        except shutil.Error:
            if time.monotonic() > deadline:
                raise
            shutil.rmtree(copy)
        else:
            return


def set_age(place: Place, session_id: str, age_s: float) -> None:
    then = time.time() - age_s
    os.utime(place.session(session_id) / "heartbeat", (then, then))


def content(place: Place, session_id: str) -> dict[str, bytes]:
    """Return what is in a session's records."""
    names = ("transcript.jsonl", "state.toml", "result.toml", "locks/session.lock")
    paths = [place.session(session_id) / name for name in names]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def acts(place: Place) -> list[dict[str, Any]]:
    path = place.store / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.thorough
@pytest.mark.parametrize(("age_s", "code", "word"), [(0, 0, "alive"), (60, 4, "unknown")])
def test_no_command_writes_what_another_machine_may_run(place: Place, age_s: float, code: int, word: str) -> None:
    """With a fresh heartbeat it runs there, with an old one nobody knows: all that writes says who, and leaves it."""
    session_id = place.codex("one").session_id
    copied(place, session_id)
    before = content(place, session_id)
    for words, expected in WRITERS.items():
        set_age(place, session_id, age_s)
        done = place.run(*(session_id if each == "ID" else each for each in words))
        assert done.code == expected, (words, done.err)
        assert content(place, session_id) == before, words
        if expected == 4 and "--fork-from" not in words:
            assert "host far (codex, turn 2, since " in done.err, (words, done.err)
            assert ("--force" if "delete" in words else "--steal") in done.err, (words, done.err)
        answer = place.run("session", "is-alive", session_id)
        assert (answer.code, answer.out.partition(":")[0]) == (code, word)
    assert not [act for act in acts(place) if act.get("what") == "stolen"]


def test_stealing_is_for_who_knows(place: Place) -> None:
    """The turn elsewhere counts as lost then; transcript and audit say who took the session from whom."""
    session_id = place.codex("one").session_id
    copied(place, session_id)
    before = len(place.events(session_id))
    set_age(place, session_id, 60)
    done = place.run("run", "--session", session_id, "--steal", "mine")
    assert done.code == 0, done.err
    lost, stolen, started = place.events(session_id)[before : before + 3]
    assert (lost["type"], lost["data"]["status"], lost["turn"]) == ("run_finished", "lost", 2)
    assert (stolen["data"]["what"], stolen["data"]["from"]["host"], stolen["data"]["from"]["turn"]) == (
        "stolen",
        "far",
        2,
    )
    assert stolen["data"]["by"]
    assert (started["type"], started["turn"]) == ("run_started", 3)
    (act,) = [act for act in acts(place) if act.get("what") == "stolen"]
    assert (act["command"], act["session_id"], act["from"]["host"]) == ("run --steal", session_id, "far")
    assert place.status(session_id) == "succeeded"


@pytest.mark.thorough
def test_other_ways_to_take_it(place: Place) -> None:
    """`repair --steal` frees a session for every command; `delete --force` takes one of which nobody knows."""
    session_id = place.codex("one").session_id
    copied(place, session_id)
    set_age(place, session_id, 60)
    before = content(place, session_id)
    assert place.run("session", "repair", "--steal", "--dry-run", session_id).code == 0
    assert content(place, session_id) == before
    done = place.run("session", "repair", "--steal", session_id)
    assert (done.code, "taken from far (codex, turn 2)" in done.out) == (0, True), (done.out, done.err)
    assert place.status(session_id) == "lost"
    assert place.run("session", "rename", "-s", session_id, "free").code == 0
    (place.session(session_id) / "locks/session.lock").write_bytes(before["session.lock"])
    set_age(place, session_id, 60)
    assert place.run("session", "delete", session_id).code == 4
    assert place.run("session", "delete", "--force", session_id).code == 0
    assert not place.session(session_id).exists()
    assert [act["command"] for act in acts(place) if act.get("what") == "stolen"] == [
        "session repair --steal",
        "session delete --force",
    ]


def forsake(place: Place, session_id: str, age_s: float) -> None:
    """Make it a session of a container without a machine id whose host was started anew, last heard of so long ago."""
    owner = {"pid": 7, "start_time": 1, "boot_id": "before", "machine_id": "", "pid_namespace": 5, "host": "box"}
    owner |= {"tool": "codex", "turn": 2, "since": "2026-01-01T00:00:00+00:00"}
    directory = place.session(session_id)
    (directory / "locks/session.lock").write_text(json.dumps(owner) + "\n")
    begun = next(event for event in place.events(session_id) if event["type"] == "run_started")
    last = place.events(session_id)[-1]
    if last["type"] != "run_started":
        with (directory / "transcript.jsonl").open("a") as file:
            file.write(json.dumps({**begun, "seq": last["seq"] + 1, "turn": 2}, separators=(",", ":")) + "\n")
    then = time.time() - age_s
    for name in ("heartbeat", "transcript.jsonl"):
        os.utime(directory / name, (then, then))
    state = directory / "state.toml"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then))
    text = re.sub(r"last_accessed = .*", f"last_accessed = {moment}", state.read_text())
    state.write_text(text.replace("\nturns = 1\n", "\nturns = 2\n"))


@pytest.mark.thorough
@pytest.mark.parametrize("collect", [("session", "clean", "--days", "0"), ("gc", "--days", "0")])
def test_what_is_old_by_every_sign_is_collected(place: Place, collect: tuple[str, ...]) -> None:
    """Of a container whose host was started anew nobody hears again: after a day at the least it is collected."""
    session_id = place.codex("one").session_id
    for age_s in (0, 60, 80_000):
        forsake(place, session_id, age_s)
        assert place.run(*collect).code == 0
        assert place.session(session_id).exists(), age_s
    for name in ("heartbeat", "transcript.jsonl"):  # any sign of life counts
        forsake(place, session_id, 100_000)
        os.utime(place.session(session_id) / name)
        assert place.run(*collect).code == 0
        assert place.session(session_id).exists(), name
    forsake(place, session_id, 100_000)
    assert place.run(*collect[:-1], "3").code == 0
    assert place.session(session_id).exists()
    assert place.run(*collect).code == 0
    assert not place.session(session_id).exists()


@pytest.mark.thorough
def test_the_hints_of_what_nobody_can_know_work(place: Place) -> None:
    """Whatever refuses says how the session becomes free, and that does it; afterwards every command takes it."""
    session_id = place.codex("one").session_id
    forsake(place, session_id, 60)
    way = f"csa repair --steal {session_id}"
    for words in (
        ("session", "rename", "-s", session_id, "name"),
        ("session", "export", session_id, "-o", str(place.tmp / "x")),
        ("session", "compress", session_id),
        ("run", "--fork-from", session_id, "go"),
        ("session", "kill", "--timeout", "0.2", session_id),
    ):
        done = place.run(*words)
        assert (done.code, way in done.err) == (4, True), (words, done.err)
        forsake(place, session_id, 60)
    assert way in place.run("session", "why", session_id).out
    assert place.run(*way.split()[1:]).code == 0
    assert place.run("session", "is-alive", session_id).code == 1
    assert place.run("session", "rename", "-s", session_id, "name").code == 0
    assert place.run("run", "--session", session_id, "go").code == 0


@pytest.mark.thorough
def test_a_held_lock_is_not_stolen(place: Place) -> None:
    """What is seen to run is busy, whatever one knows better."""
    session_id = place.codex("one").session_id
    with acquire_lock(store_of(place).paths(session_id).session_lock):
        for words in (("run", "--session", session_id, "--steal", "x"), ("session", "repair", "--steal", session_id)):
            assert place.run(*words).code == 4


@pytest.mark.thorough
def test_a_machine_with_our_id_is_another_one(place: Place) -> None:
    """Machine ids are cloned: only a heartbeat from before this machine was started proves that it was started anew."""
    session_id = place.codex("one").session_id
    copied(place, session_id, ids={"/proc/sys/kernel/random/boot_id": IDS["/proc/sys/kernel/random/boot_id"]})
    if not Path("/etc/machine-id").exists():
        pytest.skip("this machine has no id")
    before = content(place, session_id)
    set_age(place, session_id, 0)
    assert place.run("run", "--session", session_id, "x").code == 4
    assert content(place, session_id) == before
    set_age(place, session_id, time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    assert place.status(session_id) == "lost"
    assert place.run("run", "--session", session_id, "x").code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("is_copy", [True, False])
def test_a_turn_whose_lock_is_taken_away_ends(place: Place, *, is_copy: bool) -> None:
    """It is fenced: the tool is ended, and nothing more is written. The next turn has the session for itself."""
    place.play(["say", "begun"], *place.hold(), ["emit-many", 50], ["say", "late"])
    run = place.start("run", "--tool", "codex", "--json", "one")
    session_id = run.session_id
    place.wait_ready()
    place.wait_noted(session_id, "begun")
    lock = place.session(session_id) / "locks/session.lock"
    new = lock.with_name("new")
    new.write_bytes(lock.read_bytes() if is_copy else b"")
    before = content(place, session_id)
    os.replace(new, lock)
    done = run.wait()
    result = json.loads(done.out)
    assert (done.code, result["status"], result["error"]["kind"]) == (1, "failed", "fenced"), done.out
    assert "lock was lost" in result["error"]["message"]
    after = content(place, session_id)
    assert {name: after[name] for name in ("transcript.jsonl", "state.toml")} == {
        name: before[name] for name in ("transcript.jsonl", "state.toml")
    }
    assert place.status(session_id) == "lost"
    place.play(["say", "mine"])
    assert place.run("run", "--session", session_id, "two").code == 0
    ends = [event["data"]["status"] for event in place.events(session_id) if event["type"] == "run_finished"]
    assert ends == ["lost", "succeeded"]


@pytest.mark.thorough
def test_a_stopped_turn_that_was_overtaken_writes_nothing(place: Place) -> None:
    """What its tool has said meanwhile is not written over what the next owner has written."""
    place.play(*place.hold(), ["emit-many", 200], ["say", "late"])
    run = place.start("run", "--tool", "codex", "one")
    session_id = run.session_id
    place.wait_ready()
    os.kill(run.pid, 19)
    lock = place.session(session_id) / "locks/session.lock"
    lock.unlink()
    place.release()  # its tool goes on, and fills the pipe
    place.play(["say", "mine"])
    assert place.run("run", "--session", session_id, "--tool", "claude-code", "two").code == 0
    between = place.events(session_id)
    os.kill(run.pid, 18)
    assert run.wait().code == 1
    assert place.events(session_id) == between
    assert [e["data"]["status"] for e in between if e["type"] == "run_finished"] == ["lost", "succeeded"]


@pytest.mark.thorough
def test_a_lock_that_the_file_server_has_forgotten(place: Place) -> None:
    """The heartbeat is written through the lock's descriptor: EIO there ends the turn."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    place.play(*place.hold())
    inject = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"]
    done = place.shell([*inject, CSA, "run", "--tool", "codex", "--json", "one"])
    if "ptrace" in done.err:
        pytest.skip("nothing can be traced here")
    assert json.loads(done.out)["error"]["kind"] == "fenced", done.err
    (session_id,) = place.ids()
    assert read_transcript(place.session(session_id) / "transcript.jsonl")[-1]["type"] != "run_finished"
    wait_for(lambda: place.status(session_id) == "lost", "the lost turn")
