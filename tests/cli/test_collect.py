"""`csa session clean` and `csa gc`: what goes, what stays, what is said, and that nothing is lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from csa.store.plaintoml import load_plain
from tests.conftest import ForeignWriter
from tests.support import CSA, Place, snapshot, wait_for

OLD = [f"01JH4QWERT00000000000000{number:02d}" for number in range(40)]
AGES = {"clean": ["session", "clean", "--days", "30"], "gc": ["gc", "--days", "30"]}


def retired(place: Place) -> list[str]:
    directory = place.store / "retired"
    return sorted(os.listdir(directory)) if directory.exists() else []


@pytest.mark.thorough
@pytest.mark.parametrize("words", AGES.values(), ids=AGES.keys())
def test_old_sessions_are_retired_and_can_be_restored(
    place: Place, write_foreign: ForeignWriter, words: list[str]
) -> None:
    """What was not used for long is moved out of sight, not what is new; restore brings it back, as used now."""
    new = place.codex("hello").session_id
    write_foreign(OLD[0], tools={"codex": {"last_exit_code": 0}})
    before = snapshot(place.store)
    dry = place.run(*words, "--dry-run")
    assert (dry.code, snapshot(place.store)) == (0, before)
    assert f"would delete  {OLD[0]}" in dry.out
    assert new not in dry.out
    done = place.run(*words)
    assert (done.code, done.err) == (0, "")
    assert "deleted 1 session (" in done.out
    assert (place.ids(), retired(place)) == ([new], [OLD[0]])
    back = place.run("session", "restore", "-s", OLD[0][:20])
    assert (back.code, back.out) == (0, f"restored {OLD[0]}\n")
    assert place.state(OLD[0])["last_accessed"] > datetime.now(UTC) - timedelta(minutes=5)
    assert place.state(OLD[0])["phase"] == "active"
    assert place.run("session", "list", "--json").json[1]["status"] == "succeeded"
    assert place.run(*words, "--dry-run", "--json").json["retired"] == []
    lines = [json.loads(line) for line in (place.store / "audit.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["retired", "restored"]
    assert all(line["session_id"] == OLD[0] and line["who"].startswith("tester@") for line in lines)
    assert (place.store / "audit.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.thorough
def test_gc_is_quiet_when_there_is_nothing_to_do(place: Place, write_foreign: ForeignWriter) -> None:
    """Nothing on either stream, and exit 0: without a store, where all is new, and where some is damaged."""
    words = ["gc", "--days", "30", "--all-projects"]
    assert (place.run(*words).code, place.run(*words).out, place.run(*words).err) == (0, "", "")
    assert not place.state_root.exists()
    place.codex("hello")
    write_foreign(OLD[0], text="not toml")
    before = snapshot(place.state_root)
    done = place.run(*words)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert snapshot(place.state_root) == before


def test_gc_prints_one_line_when_something_was_done(place: Place, write_foreign: ForeignWriter) -> None:
    """One line with counts and bytes, over all projects."""
    write_foreign(OLD[0])
    write_foreign(OLD[1], place=place.tmp / "elsewhere")
    done = place.run("gc", "--days", "30", "--all-projects")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("csa gc: deleted 2 sessions (")
    assert done.out.count("\n") == 1


def test_purging_frees_and_removes_empty_directories(place: Place, write_foreign: ForeignWriter) -> None:
    """--purge removes at once, also what was retired before; empty directories of other projects' stores go."""
    elsewhere = place.tmp / "elsewhere"
    write_foreign(OLD[0], place=elsewhere)
    assert place.run("gc", "--days", "30", "--all-projects").code == 0
    assert place.run("session", "clean", "--days", "30", "--purge", "--json").json["purged"] == []
    (elsewhere / ".csa").mkdir(parents=True)
    done = place.run("session", "clean", "--days", "30", "--purge", "--json", "--cd", str(elsewhere))
    assert [item["id"] for item in done.json["purged"]] == [OLD[0]]
    assert done.json["freed_bytes"] > 0
    store = place.state_root.joinpath(*elsewhere.parts[1:])
    assert sorted(os.listdir(store)) == ["audit.jsonl", "store.lock"]


@pytest.mark.thorough
def test_what_a_run_writes_is_read_the_quick_way(place: Place) -> None:
    """The record of a run, with all that it may hold, needs no general TOML parser: large stores live from that."""
    session_id = place.codex("hello", "--name", "auth", "--ttl", "7d").session_id
    place.run("run", "--tool", "claude-code", "--session", "auth", "more")
    place.run("session", "pin", "auth")
    _, environ = place.agent()
    child = place.codex("child", env=environ).session_id
    for each in (session_id, child):
        text = (place.session(each) / "state.toml").read_text()
        assert load_plain(text) == tomllib.loads(text), text


def test_a_compressed_session_is_restored_as_such(place: Place, write_foreign: ForeignWriter) -> None:
    """The phase before it was retired comes back."""
    text = write_foreign(OLD[0]).state.read_text()
    (place.session(OLD[0]) / "state.toml").write_text('phase = "available"\n' + text)
    assert place.run("gc", "--days", "30").code == 0
    assert place.run("session", "restore", OLD[0]).code == 0
    state = place.state(OLD[0])
    assert state["phase"] == "available"
    assert not {"retired_at", "retired_phase"} & set(state)


@pytest.mark.parametrize("tools", ["codex", "codex,claude-code", "claude-code"])
def test_tools(place: Place, write_foreign: ForeignWriter, tools: str) -> None:
    """`--tool a,b` takes sessions all of whose tools are among these."""
    used = [["codex"], ["codex", "claude-code"], ["opencode"], []]
    for session_id, names in zip(OLD, used, strict=False):
        write_foreign(session_id, tools={name: {"last_exit_code": 0} for name in names})
    done = place.run("session", "clean", "--days", "30", "--tool", tools, "--dry-run", "--json").json
    expected = [OLD[at] for at, names in enumerate(used) if names and set(names) <= set(tools.split(","))]
    assert [item["id"] for item in done["retired"]] == expected


def test_damaged_sessions_stay_and_are_named(place: Place, write_foreign: ForeignWriter) -> None:
    """A session whose record cannot be read is listed, and goes only with --damaged, by the age of its files."""
    paths = write_foreign(OLD[0], text="not toml")
    young = write_foreign(OLD[1], text="not toml either")
    (paths.root / "transcript.jsonl").touch()
    for path in (*paths.root.iterdir(), paths.root):
        os.utime(path, (0, 0))
    done = place.run("session", "clean", "--days", "30")
    assert (done.code, done.out) == (0, "Nothing to delete\n")
    assert str(paths.state) in done.err
    assert "--damaged" in done.err
    assert place.run("session", "clean", "--days", "30", "--damaged").code == 0
    assert (place.ids(), retired(place)) == ([young.root.name], [OLD[0]])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--days", "-1"], "whole number"),
        (["--days", "x"], "whole number"),
        (["--older-than", "soon"], "7d, 12h"),
        ([], "required"),
        (["--days", "1", "--expired"], "not allowed"),
        (["--days", "1", "--tool", ","], "--tool names no tool"),
    ],
)
def test_words_that_are_off(place: Place, words: list[str], said: str) -> None:
    """Bad usage exits 2, and says what is expected."""
    done = place.run("session", "clean", *words)
    assert done.code == 2
    assert said in done.err


@pytest.mark.thorough
def test_time_to_live(place: Place) -> None:
    """`--ttl` and session_ttl give a session an end; afterwards it counts as old, whatever --days says."""
    kept = place.codex("one", "--ttl", "7d").session_id
    expires = place.state(kept)["expires_at"]
    assert timedelta(days=6) < expires - datetime.now(UTC) <= timedelta(days=7)
    short = place.codex("two", env={"CSA_CONF_SESSION_TTL": "1s"}).session_id
    assert "expires_at" not in place.state(place.codex("three").session_id)
    wait_for(lambda: datetime.now(UTC) > place.state(short)["expires_at"], "the session expires")
    for words in (["--expired"], ["--days", "300"]):
        done = place.run("session", "clean", *words, "--dry-run", "--json").json
        assert [(item["id"], item["reason"]) for item in done["retired"]] == [(short, "expired")]
    assert place.run("session", "clean", "--expired").code == 0
    assert short not in place.ids()
    # Restored, it no longer expires.
    assert place.run("session", "restore", short).code == 0
    assert place.run("session", "clean", "--expired", "--json").json["retired"] == []
    for words in (["--ttl", "soon"], ["--ttl", "1d", "--ephemeral"]):
        assert place.run("run", "--tool", "codex", *words, "x").code == 2
    assert place.run("run", "x", env={"CSA_CONF_SESSION_TTL": "soon"}).code == 6


@pytest.mark.thorough
def test_what_has_expired_and_is_used_again(place: Place) -> None:
    """A resume leaves an end that is still to come, takes away one that has passed, and sets one when told to."""
    long, short = place.codex("one", "--ttl", "7d").session_id, place.codex("two", "--ttl", "1s").session_id
    ends = place.state(long)["expires_at"]
    wait_for(lambda: datetime.now(UTC) > place.state(short)["expires_at"], "the session expires")
    for session_id in (long, short):
        place.codex("more", "--session", session_id)
    assert place.state(long)["expires_at"] == ends
    assert "expires_at" not in place.state(short)
    assert place.run("session", "clean", "--expired", "--dry-run", "--json").json["retired"] == []
    place.codex("and more", "--session", short, "--ttl", "3d")
    assert timedelta(days=2) < place.state(short)["expires_at"] - datetime.now(UTC) <= timedelta(days=3)


@pytest.mark.thorough
def test_max_sessions(place: Place) -> None:
    """With as many sessions as it may keep, a project takes no new ones: exit 5, and a hint. It goes on in old ones."""
    limit = {"CSA_CONF_MAX_SESSIONS": "2"}
    first = place.codex("one", env=limit).session_id
    place.codex("two", env=limit)
    done = place.run("run", "--tool", "codex", "three", env=limit)
    assert done.code == 5
    assert "max_sessions is 2" in done.err
    assert "csa clean" in done.err
    assert len(place.ids()) == 2
    place.codex("more", "--session", first, env=limit)
    place.run("session", "delete", first)
    place.codex("three", env=limit)


@pytest.mark.thorough
def test_max_sessions_holds_for_runs_that_start_at_once(place: Place) -> None:
    """Of six runs that start at once, three get a session where three are allowed."""
    limit = {"CSA_CONF_MAX_SESSIONS": "3"}
    running = [place.start("run", "--tool", "codex", "hello", env=limit) for _ in range(6)]
    assert sorted(each.wait().code for each in running) == [0, 0, 0, 5, 5, 5]
    assert len(place.ids()) == 3


@pytest.mark.thorough
def test_what_was_cut_off_goes_in_the_same_pass(place: Place) -> None:
    """Remains of a start, an ephemeral session whose run was killed, and the runtime directory of a dead run go."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "--ephemeral", "hello")
    place.wait_ready()
    session_id = running.session_id
    words = ["gc", "--days", "300", "--json"]
    assert place.run(*words).json["purged"] == []
    running.kill()
    place.wait_until_empty(within_s=10)
    sessions = place.store / "sessions"
    (sessions / f".new-{OLD[0]}").mkdir()
    (sessions / f".new-{OLD[1]}").mkdir()
    os.utime(sessions / f".new-{OLD[1]}", (0, 0))
    place.play(["say", "ok"])
    lasting = place.codex("two").session_id
    (place.session(lasting) / "runtime").mkdir()
    (place.session(lasting) / "runtime" / "settings.json").write_text("{}")
    done = place.run(*words).json
    assert {(item["id"], item["reason"]) for item in done["purged"]} == {
        (session_id, "ephemeral"),
        (OLD[1], "remains"),
        (lasting, "runtime"),
    }
    assert place.ids() == sorted([f".new-{OLD[0]}", lasting])
    assert not (place.session(lasting) / "runtime").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["link", "link to nothing", "file"])
def test_what_stands_in_a_runtime_directorys_place(place: Place, kind: str) -> None:
    """It is removed itself, once, and not what it leads to; that is not counted as freed either."""
    session_id = place.codex("hello").session_id
    private = place.tmp / "private"
    private.mkdir()
    (private / "large").write_bytes(bytes(1 << 20))
    runtime = place.session(session_id) / "runtime"
    if kind == "file":
        runtime.touch()
    else:
        runtime.symlink_to(private if kind == "link" else "/nowhere")
    words = ["gc", "--days", "30", "--json"]
    for dry in (["--dry-run"], []):
        report = place.run(*words, *dry).json
        assert [(item["id"], item["reason"]) for item in report["purged"]] == [(session_id, "runtime")]
        assert report["freed_bytes"] == 0
    assert not os.path.lexists(runtime)
    assert [path.name for path in private.iterdir()] == ["large"]
    assert place.run(*words).json["purged"] == []


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_runtime_directory_that_cannot_be_removed(place: Place) -> None:
    """It is a failure, and not called purged."""
    session_id = place.codex("hello").session_id
    runtime = place.session(session_id) / "runtime"
    runtime.mkdir()
    script = f"mount -t tmpfs none {runtime} && exec {CSA} gc --days 30 --json"
    done = place.shell(["unshare", "--mount", "bash", "-c", script])
    if done.code == 1 and not done.out:
        pytest.skip("no mounts here")
    assert (done.code, done.json["purged"]) == (1, [])
    assert str(runtime) in done.json["failures"][0]


@pytest.mark.thorough
def test_links_in_the_place_of_remains_are_removed(place: Place) -> None:
    """At once, as no start or removal makes any; what they lead to stays as it is, and is not written to."""
    session_id = place.codex("hello").session_id
    private = place.tmp / "private"
    private.mkdir()
    (private / "notes").touch()
    before = snapshot(private)
    stores = [place.store, place.state_root / "elsewhere"]
    for store in stores:
        (store / "sessions").mkdir(parents=True, exist_ok=True)
        for number, target in enumerate((str(private), "/nowhere")):
            (store / "sessions" / f".gone-{OLD[number]}").symlink_to(target)
            (store / "sessions" / f".new-{OLD[number + 2]}").symlink_to(target)
    assert place.run("gc", "--days", "30", "--all-projects", "--dry-run", "--json").json["freed_bytes"] == 0
    done = place.run("gc", "--days", "30", "--all-projects", "--json")
    assert (done.code, len(done.json["purged"]), done.json["freed_bytes"]) == (0, 8, 0)
    assert place.ids() == [session_id]
    assert snapshot(private) == before
    assert not (stores[1] / "sessions").exists()


@pytest.mark.thorough
def test_reap(place: Place) -> None:
    """Processes of sessions that have ended are ended, and told of by a dry run; those of running ones are left."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    session_id = place.codex("other", env={"FAKE_TOOL_SCRIPT": None}).session_id
    environ = {**place.environment(None), "CSA_SESSION_DIR": str(place.session(session_id))}
    with subprocess.Popen(["sleep", "60"], env=environ) as orphan:
        words = ["gc", "--days", "300", "--json"]
        told = place.run(*words, "--dry-run").json
        assert [(item["pid"], item["session_id"]) for item in told["processes"]] == [(orphan.pid, session_id)]
        assert told["reaped"] == 0
        assert str(orphan.pid) in place.run("gc", "--days", "300", "--dry-run").out
        assert place.run("gc", "--days", "300").out == "csa gc: ended 1 process\n"
        assert orphan.wait(10) == -signal.SIGTERM
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_a_collector_in_a_loop_loses_no_running_session(place: Place) -> None:
    """20 sessions run while a collector takes, again and again, all that is older than a second: all end well."""
    place.play(*place.hold(), ["say", "survived"])
    running = [place.start("run", "--tool", "codex", f"task {number}") for number in range(20)]
    loop = ["bash", "-c", f"until test -e {place.tmp}/stop; do {CSA} session clean --older-than 1s --purge; done"]
    collector = place.popen(loop)
    try:
        ids = [each.session_id for each in running]
        time.sleep(2)  # so that the collector finds them old: nothing announces that it has looked
        assert set(ids) <= set(place.ids())
        assert place.run("session", "clean", "--older-than", "1s", "--dry-run", "--json").json["purged"] == []
    finally:
        (place.tmp / "stop").touch()
        collector.wait(60)
        place.release()
    ended = [each.process.wait(120) for each in running]
    assert ended == [0] * 20
    assert all(each.out == "survived\n" for each in running)
    assert sorted(ids) == place.ids()
    assert all(place.last_event(session_id)["status"] == "succeeded" for session_id in ids)


@pytest.mark.thorough
def test_two_collectors_at_once(place: Place, write_foreign: ForeignWriter) -> None:
    """Each session is collected by one of them, and neither fails."""
    for session_id in OLD:
        write_foreign(session_id)
    both = [place.start("gc", "--days", "30", "--json") for _ in range(2)]
    done = [each.wait() for each in both]
    assert [each.code for each in done] == [0, 0]
    assert [each.err for each in done] == ["", ""]
    taken = [item["id"] for each in done for item in each.json["retired"]]
    assert sorted(taken) == OLD
    assert (place.ids(), retired(place)) == ([], OLD)


_KILLED = """
import os, signal, sys
count, at = 0, int(sys.argv[1])
NAMES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}

def hook(event, arguments):
    global count
    flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
    if event in NAMES or flags & (os.O_WRONLY | os.O_RDWR):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

from csa.cli.main import main
sys.addaudithook(hook)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.thorough
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "words", [["session", "clean", "--days", "30"], ["session", "clean", "--days", "30", "--purge"]]
)
def test_killed_at_every_step(place: Place, write_foreign: ForeignWriter, words: list[str]) -> None:
    """Whenever a collector is killed, a session is where it was, or retired, or gone; the next pass does the rest."""
    is_purge = "--purge" in words
    for at in range(1, 100):
        write_foreign(OLD[0])
        (place.session(OLD[0]) / "output").mkdir()
        (place.session(OLD[0]) / "output" / "file").write_text("x")
        ended = place.shell([sys.executable, "-c", _KILLED, str(at), *words])
        found = place.ids()
        is_hidden = found == [f".gone-{OLD[0]}"]
        assert found in ([OLD[0]], []) or (is_purge and is_hidden), (at, found)
        if found == [OLD[0]]:
            assert place.state(OLD[0])["description"] == "Foreign work"
            assert (place.session(OLD[0]) / "output" / "file").exists()
        if not found and not is_purge:
            assert retired(place) == [OLD[0]]
            tomllib.loads((place.store / "retired" / OLD[0] / "state.toml").read_text())
            done = place.run("session", "restore", OLD[0])
            assert done.code == 0, done.err
            assert place.ids() == [OLD[0]]
        rest = place.run("session", "clean", "--older-than", "1s", "--purge", "--json")
        assert rest.code == 0, rest.err
        _clear(place)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.err
    else:
        pytest.fail("it never came to its end")
    assert at > 5


def _clear(place: Place) -> None:
    """Remove what the last round has left."""
    subprocess.run(["rm", "-rf", str(place.store / "sessions"), str(place.store / "retired")], check=True)


@pytest.mark.thorough
def test_a_removal_that_was_cut_off_is_finished(place: Place) -> None:
    """What a killed removal left under a hidden name goes with the next pass, once its owner is provably dead."""
    session_id = place.codex("hello").session_id
    gone = place.store / "sessions" / f".gone-{session_id}"
    place.session(session_id).rename(gone)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    owner = {
        "pid": int(ended.stdout),
        "start_time": 1,
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "machine_id": "",
        "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
        "host": "here",
        "tool": "csa",
        "turn": 0,
        "since": "2026-01-01T00:00:00+00:00",
    }
    (gone / "locks" / "session.lock").write_text(json.dumps(owner))
    done = place.run("gc", "--days", "300", "--json").json
    assert [(item["id"], item["reason"]) for item in done["purged"]] == [(session_id, "remains")]
    assert not gone.exists()
