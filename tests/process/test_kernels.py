"""Kernels and file systems that lack what most have, by having system calls fail: csa works there all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import CSA, Done, Place

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")


def failing(place: Place, calls: str, error: str, *words: str, path: Path | None = None) -> Done:
    """Run csa with system calls failing, all of them or those about a path; the processes it starts included."""
    options = ["-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}"]
    if path is not None:
        options += ["-P", str(path)]
    done = subprocess.run(
        ["strace", *options, CSA, *words],
        cwd=place.project,
        env=place.environment({"PYTHONDONTWRITEBYTECODE": "1"}),  # the first file renamed must not be Python's
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
        check=False,
    )
    if b"ptrace" in done.stderr:
        pytest.skip("nothing can be traced here")
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.thorough
@pytest.mark.parametrize("error", ["EINVAL", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_fsync(place: Place, error: str) -> None:
    """On CIFS and shared folders fsync of a directory, or of anything, is refused: that is no failure."""
    place.play(["say", "done"])
    done = failing(place, "fsync,fdatasync", error, "run", "--tool", "codex", "hello")
    assert (done.code, done.out, "warning" in done.err) == (0, "done\n", False), done.err
    session_id = place.run("session", "list", "--json").json[0]["id"]
    for words in (
        ("run", "--session", session_id, "again"),
        ("session", "rename", "-s", session_id, "named"),
        ("session", "export", "--all", "-o", str(place.tmp / "x")),
        ("session", "delete", session_id),
        ("session", "restore", session_id),
    ):
        done = failing(place, "fsync,fdatasync", error, *words)
        assert (done.code, "warning" in done.err) == (0, False), (words, done.err)
    assert place.run("session", "validate").code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("calls", ["pidfd_open", "pidfd_open,pidfd_send_signal"])
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EMFILE"])
def test_a_kernel_without_pidfds(place: Place, calls: str, error: str) -> None:
    """The answer is printed, the turn ends as it does elsewhere, and what the tool has left behind is swept."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], ["say", "done"])
    done = failing(place, calls, error, "run", "--tool", "codex", "hello")
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert place.run("session", "list", "--json").json[0]["status"] == "succeeded"


@pytest.mark.thorough
def test_a_pidfd_that_takes_no_signal(place: Place) -> None:
    """Where a filter forbids only that, signals go by pid: a turn is ended all the same."""
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    done = failing(place, "pidfd_send_signal", "EPERM", "session", "kill", "--force", running.session_id)
    assert done.code == 0, done.err
    assert place.status(running.session_id) == "lost"
    running.wait()


@pytest.mark.thorough
def test_sessions_in_another_layer_of_an_overlay(place: Place) -> None:
    """A directory there cannot be renamed: it is copied, and then removed."""
    session_id = place.codex("one").session_id
    os.mkfifo(place.session(session_id) / "output" / "pipe")
    renames = "rename,renameat,renameat2"
    told = (place.session(session_id) / "transcript.jsonl").read_bytes()
    live, retired = place.session(session_id), place.store / "retired" / session_id
    done = failing(place, renames, "EXDEV", "session", "delete", session_id, path=live)
    assert (done.code, live.exists(), retired.is_dir()) == (0, False, True), done.err
    done = failing(place, renames, "EXDEV", "session", "restore", session_id, path=retired)
    assert (done.code, live.is_dir(), retired.exists(), "warning" in done.err) == (0, True, False, False), done.err
    assert (live / "transcript.jsonl").read_bytes().startswith(told)
    assert place.run("session", "validate").code == 0
    other = place.tmp / "other"
    other.mkdir()
    before, place.project = place.project, other
    done = failing(place, renames, "EXDEV", "session", "adopt", "--force", str(before), path=live)
    assert (done.code, live.exists()) == (0, False), done.err
    assert place.run("run", "--session", session_id, "again").code == 0
    moved = place.state_root / str(other).strip("/") / "sessions" / session_id
    done = failing(place, renames, "EXDEV", "session", "delete", "--purge", session_id, path=moved)
    assert (done.code, moved.exists()) == (0, False), done.err


@pytest.mark.parametrize("words", [("session", "rename", "-s", "ID", "named"), ("run", "--session", "ID", "again")])
@pytest.mark.parametrize(
    ("call", "name"), [("rename", None), ("fsync", "transcript.jsonl"), ("pwrite64", "transcript.jsonl")]
)
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS", "EIO"])
def test_what_is_refused_has_changed_nothing(
    place: Place, words: tuple[str, ...], call: str, name: str | None, error: str
) -> None:
    """A name is given, or a turn counted, in the record and in the transcript, or in neither."""
    session_id = place.codex("one").session_id
    directory = place.session(session_id)
    records = [directory / each for each in ("state.toml", "transcript.jsonl", "result.toml")]
    before = [record.read_bytes() for record in records]
    command = [session_id if word == "ID" else word for word in words]
    path = directory / name if name else None  # the first file that is renamed is the record
    done = failing(place, call, f"{error}:when=1" if path is None else error, *command, path=path)
    assert done.code == 1, done.err
    assert [record.read_bytes() for record in records] == before, done.err
    assert [path.name for path in directory.glob(".*")] == []
    assert not (directory / "output" / "turn-0002").exists()
    assert place.run("session", "validate").code == 0
    assert place.run("run", "--session", session_id, "again").code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_flock(place: Place, error: str) -> None:
    """It is there for other programs alone: no run is refused for want of it, and doctor says so."""
    session_id = place.codex("one").session_id
    lock = place.session(session_id) / "locks" / "codex.lock"
    done = failing(place, "flock", error, "run", "--session", session_id, "again", path=lock)
    assert done.code == 0, done.err
    checks = failing(place, "flock", error, "doctor", "--json").json["checks"]
    assert [check["status"] for check in checks if check["name"] == "locks"] == ["warn"]


@pytest.mark.thorough
@pytest.mark.parametrize("limit", [9, 14, 20])
def test_too_few_descriptors(place: Place, limit: int) -> None:
    """A turn that could begin, but not be attended to, is refused: it is not counted, and nothing is lost."""
    session_id = place.codex("one").session_id
    done = place.shell(["sh", "-c", f"ulimit -n {limit}; csa run --session {session_id} again"])
    assert (done.code, "Too many open files" in done.err, "Traceback" in done.err) == (1, True, False), done.err
    info = place.run("session", "info", session_id, "--json").json
    assert (info["turns"], info["status"]) == (1, "succeeded")
