"""Faults of the machine and of what stands around csa: full disks, odd clocks, zombies, locks that outlive their owner.

What is here beside the deaths of test_containment: what a turn meets while it runs, with real processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from csa.model.redaction import Redactor
from csa.store.journal import Journal
from csa.store.locks import acquire_lock, is_locked
from tests.process.test_containment import guardian_of, start_tree
from tests.support import Place, kill_all, wait_for

# A process whose leader has ended while another thread of it goes on: `ps` shows a zombie, and it has no environment.
ZOMBIE_LEADER = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def state_of(pid: int) -> str:
    """Return the letter of a process's state."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.thorough
def test_killed_supervisor_and_guardian(place: Place) -> None:
    """Both at one instant: the session is lost, what nobody could sweep is named by doctor, and the next turn works."""
    running = start_tree(place)
    session_id, guardian = running.session_id, guardian_of(running)
    for pid in (running.pid, guardian):
        os.kill(pid, signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    running.kill()
    lock = place.session(session_id) / "locks" / "session.lock"
    wait_for(lambda: not is_locked(lock), "the lock comes free")
    try:
        assert place.status(session_id) == "lost"
        (leftovers,) = [check for check in place.run("doctor", "--json").json["checks"] if check["name"] == "leftovers"]
        assert leftovers["status"] == "warn"
        assert session_id in leftovers["detail"]
    finally:
        kill_all(place.processes())
    place.play(["say", "again"])
    assert place.run("run", "--session", session_id, "go on").out == "again\n"


@pytest.mark.thorough
def test_a_lock_that_leaked_into_a_survivor(place: Place) -> None:
    """A process that inherited the lock keeps the session alive, though its owner is dead; the next turn is refused."""
    session_id = place.codex().session_id
    path = place.session(session_id) / "locks" / "session.lock"
    with acquire_lock(path) as lock:
        os.set_inheritable(lock.fd, True)  # as a tool that csa did not start might
        survivor = subprocess.Popen(["sleep", "600"], pass_fds=[lock.fd])
    try:
        assert place.run("session", "is-alive", session_id).code == 0
        done = place.run("run", "--session", session_id, "hello")
        assert done.code == 4
        assert session_id in done.err
    finally:
        survivor.kill()
        survivor.wait()
    assert place.run("session", "is-alive", session_id).code == 1
    assert place.run("run", "--session", session_id, "hello").code == 0


@pytest.mark.thorough
def test_a_zombie_leader_is_swept(place: Place) -> None:
    """What the tool left of a process whose first thread has ended has no environment to be found by, and goes."""
    pid_file = place.tmp / "zombie"
    command = f"exec setsid {sys.executable} -c '{ZOMBIE_LEADER}'"
    place.play(
        ["spawn-grandchild", command, {"pid_file": str(pid_file)}],
        *place.hold(),
        ["say", "done"],
    )
    running = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    pid = int(pid_file.read_text())
    wait_for(lambda: state_of(pid) == "Z", "the leader ends")
    place.release()
    assert running.wait().code == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_clock_that_steps_back(tmp_path: Path) -> None:
    """The journal's numbers go on whatever the clock says, so that readers keep the order of what happened."""
    times = iter([2_000_000_000_000_000_000, 1_000_000_000_000_000_000, 3_000_000_000_000_000_000])
    path = tmp_path / "transcript.jsonl"
    journal = Journal(path, Redactor({}), turn=1, clock_ns=lambda: next(times))
    for text in ("first", "second", "third"):
        journal.append("agent_message", {"text": text})
    journal.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["seq"], event["data"]["text"]) for event in events] == [(1, "first"), (2, "second"), (3, "third")]
    assert [event["ts"][:4] for event in events] == ["2033", "2001", "2065"]


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount")
def test_a_disk_that_gets_full(place: Place) -> None:
    """A state root on a disk of one megabyte: the turn keeps its outcome, says what was lost, and others can read."""
    place.play(["emit-many", 6000], ["emit-bytes", 2_000_000], ["say", "done"])
    place.state_root.mkdir(parents=True, exist_ok=True)
    script = f"""
mount -t tmpfs -o size=1m tmpfs "{place.state_root}" || exit 77
csa run --tool codex hello > {place.tmp}/out 2> {place.tmp}/err; echo $? > {place.tmp}/code
csa session list --json > {place.tmp}/list || exit 78
csa run --tool codex again > /dev/null 2> {place.tmp}/second; echo $? > {place.tmp}/second-code
"""
    done = place.shell(["unshare", "-m", "--propagation", "private", "bash", "-c", script])
    if done.code == 77:
        pytest.skip("nothing can be mounted here")
    assert done.code == 0, done.err
    said = (place.tmp / "err").read_text()
    assert (place.tmp / "code").read_text() == "0\n", said
    assert (place.tmp / "out").read_text() == "done\n"
    assert "warning: " in said
    assert "Traceback" not in said + (place.tmp / "second").read_text()
    (found,) = json.loads((place.tmp / "list").read_text())[-1:]
    assert found["status"] in {"succeeded", "lost"}, found


FULL = """
mount -t tmpfs -o size=1m tmpfs "{root}" || exit 77
csa run --tool codex --print-id first > {tmp}/id 2> {tmp}/err
csa run --session $(cat {tmp}/id) second > {tmp}/out 2>> {tmp}/err & wait=$!
while [ ! -e {ready} ]; do sleep 0.05; done
dd if=/dev/zero of="{root}/fill" bs=1k count=2000 2> {tmp}/dd
touch {go}
wait $wait; echo $? > {tmp}/code
cp -r "{root}" {tmp}/kept
dd if=/dev/zero of="{root}/more" bs=1k count=2000 2>> {tmp}/dd
csa session rename -s $(cat {tmp}/id) named > {tmp}/renamed 2>&1; echo $? >> {tmp}/renamed
csa run --session $(cat {tmp}/id) third > {tmp}/third 2>&1; echo $? >> {tmp}/third
cp -r "{root}" {tmp}/later
"""


@pytest.mark.thorough
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount")
def test_the_end_of_a_turn_on_a_full_disk(place: Place) -> None:
    """There is room for it: the turn succeeds. What is refused meanwhile changes nothing, and no turn is counted."""
    place.play(["say", "done"], *place.hold(), ["say", "and done"])
    place.state_root.mkdir(parents=True, exist_ok=True)
    go = next(str(step[1]) for step in place.hold() if step[0].startswith("wait"))
    script = FULL.format(root=place.state_root, tmp=place.tmp, ready=place.ready, go=go)
    script = script.replace("csa run --tool", "FAKE_TOOL_SCRIPT= csa run --tool")
    done = place.shell(["unshare", "--mount", "sh", "-c", script])
    if done.code == 77:
        pytest.skip("no tmpfs can be mounted here")
    assert (place.tmp / "code").read_text() == "0\n", (place.tmp / "err").read_text()
    session_id = (place.tmp / "id").read_text().strip()
    place.env["CSA_STATE_DIR"] = str(place.tmp / "kept")
    info = place.run("session", "info", session_id, "--json").json
    assert (info["status"], info["turns"]) == ("succeeded", 2)
    for name in ("renamed", "third"):
        assert (place.tmp / name).read_text().splitlines()[-1] == "1"
    place.env["CSA_STATE_DIR"] = str(place.tmp / "later")
    info = place.run("session", "info", session_id, "--json").json
    assert (info["status"], info["turns"], info["name"]) == ("succeeded", 2, None)
    assert place.run("session", "validate").code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("missing", ["state", "end"])
@pytest.mark.parametrize("way", ["repair", "run", "rename"])
def test_what_the_end_of_a_turn_told_is_recovered(place: Place, missing: str, way: str) -> None:
    """state.toml learns from the transcript, and that from result.toml, what a full disk has kept from them."""
    session_id = place.codex("one").session_id
    directory = place.session(session_id)
    whole = (directory / "state.toml").read_text()
    begun = whole[: whole.index("[tools.codex]")] + '[tools.codex]\ncwd = "/"\nupdated_at = 2020-01-01T00:00:00Z\n'
    (directory / "state.toml").write_text(begun.replace('cwd = "/"', f'cwd = "{place.project}"'))
    if missing == "end":
        lines = (directory / "transcript.jsonl").read_text().splitlines(keepends=True)
        assert '"run_finished"' in lines[-1]
        (directory / "transcript.jsonl").write_text("".join(lines[:-1]))
    assert place.run("session", "validate", session_id).code == 6
    if way == "repair":
        assert place.run("session", "repair", "--dry-run", session_id).code == 0
        assert place.run("session", "repair", session_id).code == 0
    elif way == "rename":
        assert place.run("session", "rename", "-s", session_id, "named").code == 0
    if way != "rename" or missing == "state":
        place.play(["expect-arg", "resume"], ["say", "two"])
        done = place.run("run", "--session", session_id, "two")
        assert done.code == 0, done.err
        ends = [event["data"]["status"] for event in place.events(session_id) if event["type"] == "run_finished"]
        assert ends == ["succeeded", "succeeded"]
        stated = place.run("session", "info", session_id, "--json").json["usage"]
        used = [event["data"]["usage"] for event in place.events(session_id) if event["type"] == "run_finished"]
        assert stated["input_tokens"] == sum(each["input_tokens"] for each in used)
        assert place.run("session", "validate", session_id).code == 0
