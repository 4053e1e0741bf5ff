"""The mirror that the connection of an order keeps up to date, and what is done where it cannot."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from csa.runner.hosts.frames import Frame, line_of, read_frame, write_frame
from csa.runner.hosts.watching import SEEN_WITHIN_S
from csa.store.mirrors import Mirror
from csa.store.sessions import Store
from tests.cli.hosts import sync
from tests.cli.test_placing import held, links, order_for, words
from tests.realhosts import Hosts
from tests.support import CSA, Place, wait_for

MINE = "01JH4QWERT0000000000000008"
_LOGGING = '#!/bin/sh\necho "$*" >> {log}\nexec {real} "$@"\n'
_SLOW = """#!/bin/sh
echo "$*" >> {log}
{real} "$@" | {python} -c "
import os, time
while block := os.read(0, 1 << 12):
    os.write(1, block)
    time.sleep(len(block) / 30000)
"
"""
_OLD = """#!/bin/sh
# As the ssh beside it, of a host whose csa does not know of feeds; it ends as soon as it is told anything else.
echo "$*" >> {log}
case "$*" in *supervise*) exec {python} -c "$(cat <<'END'
import json, os, subprocess, sys
there = subprocess.Popen([{real!r}, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
if os.fork() == 0:
    for line in sys.stdin.buffer:
        said = json.loads(line)
        if not said.keys() & {{"code", "order", "beat", "cancel"}}:
            os._exit(there.kill() or 1)
        there.stdin.write(line); there.stdin.flush()
    there.stdin.close()
    os._exit(0)
there.stdin.close()
for line in there.stdout:
    said = json.loads(line) if line.startswith(b"{{") else {{}}
    said.pop("feeds", None)
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\\n" if said else line); sys.stdout.flush()
END
)" "$@";; *) exec {real} "$@";; esac
"""
_SPEAKS = """
import base64, json, sys
print(json.dumps({"csa": "supervise", "protocol": 1, "version": "1", "time": 0, "feeds": True}), flush=True)
if "supervise" in sys.argv:
    asked = next(said for said in map(json.loads, sys.stdin) if "order" in said)["order"]["session_id"]
    begun = {"session_id": asked, "turn": 1, "tool": "codex", "pid": 1, "project": "/srv"}
    print(json.dumps(begun), flush=True)
    sys.stdout.buffer.write(base64.b64decode(sys.argv[1]))
    print(json.dumps({"ended": 0, "turn": 1}), flush=True)
"""


@pytest.fixture
def wrapped(place: Place, remote: Place) -> Callable[[str], Callable[[], list[str]]]:
    """Return what puts a script in the place of ssh, and returns what tells for what that was called."""

    def wrap(script: str) -> Callable[[], list[str]]:
        log, real = place.tmp / "ssh.log", remote.tmp.parent / "bin" / "ssh"
        ssh = place.tmp / "wrapped" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(script.format(log=log, real=str(real), python=sys.executable))
        ssh.chmod(0o700)
        place.env["PATH"] = f"{ssh.parent}:{place.env['PATH']}"
        return lambda: [line.partition(" csa ")[2].split()[0] for line in log.read_text().splitlines()]

    return wrap


def test_one_connection_brings_all(place: Place, remote: Place, wrapped: Any, mirror: Mirror) -> None:
    """A turn's answer, what else there is on its host, and that it was heard of: over the connection of the order."""
    remote.codex("before", "--name", "old")
    called = wrapped(_LOGGING)
    done = place.run(*words(remote, "hello"))
    assert (done.code, called()) == (0, ["supervise"]), done.err
    assert place.run("show", "n1:old").code == 0
    assert mirror.heard_at() is not None
    assert place.run("hosts", "--json").json[0]["tools"] == ["claude-code", "codex", "gemini-cli", "opencode"]
    again = place.run("run", "-s", "n1:old", "more")
    assert (again.code, called()) == (0, ["supervise"] * 2), again.err
    assert sync(place) == "n1: nothing new\n"


@pytest.mark.thorough
def test_a_host_whose_csa_is_older(place: Place, remote: Place, wrapped: Any) -> None:
    """It is told nothing that it does not know, and a second connection brings the mirror."""
    called = wrapped(_OLD)
    done = place.run(*words(remote, "hello"))
    assert (done.code, sorted(called())) == (0, ["outlet", "supervise"]), done
    assert place.run("result", str(done.session_id)).out == done.out


@pytest.mark.thorough
def test_a_csa_that_is_older_here_gets_no_frames(remote: Place) -> None:
    """Who does not say what it has hears of the turn, and of nothing else."""
    with supervised(remote, []) as (_, out):
        said = [json.loads(line) for line in out]
    assert [min(each) for each in said] == ["csa", "pid", "ended"]


@pytest.mark.thorough
def test_a_mirror_that_another_process_keeps(place: Place, remote: Place, wrapped: Any) -> None:
    """That process brings it; when it ends, the command does it, over a connection of its own."""
    called = wrapped(_LOGGING)
    keeps = place.start("sync", "--watch", "n1")
    wait_for(lambda: "connected" in keeps.err, "the mirror is kept up to date")
    done = place.run(*words(remote, "hello"))
    assert (done.code, done.out != "") == (0, True), done.err
    running = held(place, remote)
    before = called().count("outlet")
    keeps.signal(signal.SIGTERM)
    keeps.wait()
    wait_for(lambda: called().count("outlet") > before, "another connection is made")
    remote.release()
    ended = running.wait()
    assert (ended.code, ended.out) == (0, "done\n"), ended.err


@pytest.mark.thorough
def test_much_that_the_mirror_has_and_the_host_has(place: Place, remote: Place, mirror: Mirror) -> None:
    """More than a megabyte to say of what is here, and thousands of sessions to send first: the turn waits for none."""
    many(Path(mirror.pathname), "/gone", 9000)
    many(remote.state_root, str(remote.project), 3000)
    done = place.run(*words(remote, "hello"))
    assert (done.code, done.out) == (0, "FAKE ECHO: hello [turns=1]\n"), done.err
    assert place.run("sync", "n1").code == 0
    assert len(Store(mirror.pathname, str(remote.project)).ids()) == 3001


@pytest.mark.thorough
@pytest.mark.parametrize(
    "spoken",
    [
        [("file", {"name": "../x"}, b"x")],
        [("lines", {"at": 7}, b"{}\n")],
        [("strange", {}, None)],
        [("told", {"s": "../../x"}, b"{}")],
    ],
)
def test_a_host_that_feeds_nonsense(
    place: Place, remote: Place, tmp_path: Path, spoken: list[tuple[str, dict[str, Any], bytes | None]]
) -> None:
    """Nothing of it is taken; the turn's end is heard, and that its answer has not come is said."""
    with (said := tmp_path / "said").open("wb") as stream:
        for kind, more, content in spoken:
            write_frame(stream, kind, content, **{"p": "/srv", "s": MINE, **more})
    (script := tmp_path / "bad.py").write_text(_SPEAKS)
    reach = [sys.executable, str(script), base64.b64encode(said.read_bytes()).decode()]
    (config := tmp_path / "bad.toml").write_text(f'[engines.bad]\ncode = "none"\nreach = {json.dumps(reach)}\n')
    place.env["CSA_CONFIG"] = str(config)
    done = place.run("run", "--on", "bad", "--tool", "codex", "x")
    assert (done.code != 0, "Traceback" in done.err) == (True, False), done.err
    assert "has ended with 0, but its answer has not come" in done.err
    assert not (place.state_root / "x").exists()


@pytest.mark.thorough
def test_nobody_reads_what_is_fed(remote: Place) -> None:
    """A connection that stands still: the leash ends the turn all the same, and then `csa supervise` ends."""
    remote.play(["say", "x" * 100_000], *remote.hold(), ["say", "done"])
    pipe = subprocess.PIPE
    order = order_for(remote, MINE, session_id=MINE).replace(b'"leash_s": 60', b'"leash_s": 2')
    with subprocess.Popen([CSA, "supervise"], env=remote.environment(None), cwd="/", stdin=pipe, stdout=pipe) as there:
        assert there.stdin
        there.stdin.write(order + b"".join(HAVING))
        there.stdin.flush()
        remote.wait_ready()
        there.wait(30)
        assert there.stdout
        rest = there.stdout.read()
    assert b'"ended"' not in rest
    assert remote.status(MINE) == "cancelled"


def test_frames_follow_what_the_intake_has(remote: Place) -> None:
    """First that the turn has begun, then an outlet's greeting and frames, and last of all its end."""
    with supervised(remote, HAVING) as (_, out):
        heads = [json.loads(out.readline()) for _ in range(3)]
        frames, ended = frames_in(out)
    assert [heads[0]["csa"], heads[1]["session_id"], heads[2]["csa"]] == ["supervise", MINE, "outlet"]
    assert ended["ended"] == 0
    told = [json.loads(each.content)["state"] for each in frames if each.kind == "told"]
    assert (told[0], told[-1]) == ("alive", "not_alive")
    assert b'"run_finished"' in b"".join(each.content for each in frames if each.kind == "lines")


@pytest.mark.thorough
def test_a_turn_that_ends_before_it_is_known_what_is_here(remote: Place) -> None:
    """Its end is told only after what there is of it."""
    with supervised(remote, HAVING[:1]) as (said, out):
        wait_for(lambda: remote.published() and remote.status(MINE) == "succeeded", "the turn has ended")
        said(HAVING[1])
        heads = [json.loads(out.readline()) for _ in range(3)]
        frames, ended = frames_in(out)
    assert (heads[2]["csa"], ended["ended"]) == ("outlet", 0)
    assert b'"run_finished"' in b"".join(each.content for each in frames if each.kind == "lines")


@pytest.mark.thorough
def test_a_feed_that_is_not_wanted_any_more(remote: Place) -> None:
    """The mirror has another connection, say: nothing more is sent but the turn's end."""
    remote.play(*remote.hold(), ["say", "done"])
    with supervised(remote, HAVING) as (said, out):
        for _ in range(3):
            out.readline()
        remote.wait_ready()
        said(line_of({"feed": False}))
        time.sleep(1)
        remote.release()
        frames, ended = frames_in(out)
    assert ended["ended"] == 0
    assert b'"run_finished"' not in b"".join(each.content for each in frames if each.kind == "lines")


HAVING = [line_of({"csa": "intake", "protocol": 1}), line_of({"end": True})]


@contextmanager
def supervised(remote: Place, more: list[bytes]) -> Iterator[tuple[Callable[[bytes], None], IO[bytes]]]:
    """Give a `csa supervise` an order, and say more; yield what says more still, and what it says."""
    pipe = subprocess.PIPE
    with subprocess.Popen([CSA, "supervise"], env=remote.environment(None), cwd="/", stdin=pipe, stdout=pipe) as there:
        assert there.stdout

        def say(line: bytes) -> None:
            assert there.stdin
            there.stdin.write(line)
            there.stdin.flush()

        say(order_for(remote, MINE, session_id=MINE) + b"".join(more))
        yield say, there.stdout


def frames_in(out: IO[bytes]) -> tuple[list[Frame], Mapping[str, Any]]:
    """Return the frames, and what comes after them."""
    frames = []
    while (frame := read_frame(out)) and "k" in frame.said:
        frames.append(frame)
    assert frame is not None
    return frames, frame.said


def many(root: Path, project: str, count: int) -> None:
    """Let there be so many finished sessions."""
    sessions = Path(Store(root, project).sessions_dir)
    sessions.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        session_id = f"01JH4Q{number:020d}"
        os.mkdir(sessions / session_id)
        (sessions / session_id / "state.toml").write_text(
            f'schema = 1\nmeta_session_id = "{session_id}"\nproject_path = "{project}"\n'
            "created_at = 2026-01-01T00:00:00Z\nlast_accessed = 2026-01-01T00:00:00Z\n"
        )


@pytest.mark.thorough
def test_a_mirror_that_cannot_be_read(place: Place, remote: Place, mirror: Mirror) -> None:
    """The turn is carried out, and nobody sees a traceback."""
    remote.codex("before")
    sync(place)
    (session_id,) = Store(mirror.pathname, str(remote.project)).ids()
    transcript = Path(Store(mirror.pathname, str(remote.project)).paths(session_id).transcript)
    transcript.unlink()
    transcript.symlink_to("/nowhere")
    done = place.run(*words(remote, "hello"))
    assert "Traceback" not in done.err
    assert "has ended with 0" in done.err, done


@pytest.mark.thorough
def test_the_state_root_there_is_deleted(place: Place, remote: Place) -> None:
    """It is not said that nothing had begun, and what that was is not known to be lost."""
    running = held(place, remote)
    shutil.rmtree(remote.state_root)
    remote.release()
    done = running.wait()
    assert done.code == 4, done.err
    assert "n1 has no record of it any more" in done.err
    assert "Nothing has begun" not in done.err


@pytest.mark.thorough
def test_ssh_is_stopped_while_much_is_said(place: Place, remote: Place, mirror: Mirror) -> None:
    """What waits to be written into its full pipe holds up nobody who leaves."""
    many(Path(mirror.pathname), "/gone", 9000)
    running = held(place, remote)
    (ssh,) = links(running, "supervise")
    os.kill(ssh, signal.SIGSTOP)
    remote.release()
    assert running.wait().code == 0
    assert not Path(f"/proc/{ssh}").exists()


@pytest.mark.thorough
def test_a_frame_that_takes_long(place: Place, remote: Place, wrapped: Any) -> None:
    """A slow connection is not a silent one: it is not made twice, and Ctrl-C is heeded there at once."""
    called = wrapped(_SLOW)
    remote.play(["say", "x" * 280_000], *remote.hold(), ["say", "done"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    running = place.start(*words(remote, "long"))
    remote.wait_ready()
    (session_id,) = remote.published()
    running.signal(signal.SIGINT)
    wait_for(lambda: remote.status(session_id) == "cancelled", "it has ended there")
    assert running.process.poll() is None
    assert running.wait().code == 128 + signal.SIGINT
    assert called() == ["supervise"]


@pytest.mark.hosts
@pytest.mark.thorough
def test_what_has_the_order_stands_still(hosts: Hosts) -> None:
    """A third Ctrl-C leaves, though ssh is well; what had the order ends the turn when it goes on."""
    a, n1 = hosts.up("a", "n1")
    n1.play(*n1.hold(), ["say", "done"])
    a.env["FAKE_TOOL_SCRIPT"] = n1.env["FAKE_TOOL_SCRIPT"]
    running = a.start("run", "--on", "n1", "--tool", "codex", "--cd", str(n1.project), "long")
    n1.wait_ready()
    stopped = [pid for pid in n1.everyone() if b"supervis" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for _ in range(2):
        running.signal(signal.SIGINT)
        time.sleep(SEEN_WITHIN_S / 2 + 0.5)
    assert running.process.poll() is None
    running.signal(signal.SIGINT)
    done = running.wait()
    assert (done.code, "is away" in done.err) == (128 + signal.SIGINT, True), done.err
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    (session_id,) = n1.published()
    wait_for(lambda: n1.status(session_id) == "cancelled", "it has ended there")
    assert a.run("sync", "n1").code == 0
