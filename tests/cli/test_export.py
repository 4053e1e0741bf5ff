"""`session export` and `import`: archives that are safe to give away and to take in, and documents to read."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path

import pytest

import csa.store.archive as archive_module
from csa.store.archive import ArchiveWriter
from csa.store.sessions import Store
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place, read_transcript, snapshot

SECRET = "hunter2-hunter2-hunter2"
EVENTS = (
    ("tool_call", {"id": "c1", "title": "echo '</script><b>'", "kind": "execute", "status": "in_progress"}),
    ("tool_call_update", {"id": "c1", "status": "completed", "content": "```\n<b>\n", "exit_code": 0}),
)


@pytest.fixture
def store(place: Place) -> Store:
    """A parent (1) with a child (2) and a grandchild (3), and a session that has nothing to do with them (4)."""
    store = store_of(place)
    write_session(store, 1, name="auth", events=EVENTS, text=f"see {session_id(2)}")
    write_session(store, 2, parent_session_id=session_id(1), root_session_id=session_id(1), depth=1)
    write_session(store, 3, parent_session_id=session_id(2), root_session_id=session_id(1), depth=2)
    write_session(store, 4)
    output = store.paths(session_id(1)).turn_output(1)
    (output / "plan.md").write_text(f"the agent's: {session_id(2)}")
    (output / "out").symlink_to("/etc/hostname")
    return store


@pytest.fixture
def elsewhere(place: Place) -> dict[str, str | None]:
    """Another machine: an environment with a state root of its own."""
    return {"CSA_STATE_DIR": str(place.tmp / "elsewhere")}


def export(place: Place, *words: str) -> Path:
    """Export to a file that is there in the end."""
    target = place.tmp / "archive.tar.gz"
    done = place.run("session", "export", *words, "-o", str(target))
    assert done.code == 0, done.err
    return target


def names_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_round_trip(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """What was exported is the same after the import elsewhere: ids, status, answer, transcript, artifacts."""
    archive = export(place, "auth", "--tree")
    done = place.run("session", "import", str(archive), "--json", env=elsewhere)
    assert [item["id"] for item in done.json] == [session_id(1), session_id(2), session_id(3)]
    listed = place.run("session", "list", "--json", env=elsewhere).json
    before = {item["id"]: item for item in place.run("session", "list", "--json").json}
    assert listed == [before[session_id(number)] for number in (3, 2, 1)]
    assert place.run("session", "result", "auth", env=elsewhere).out == f"see {session_id(2)}\n"
    artifacts = place.run("session", "artifacts", "auth", env=elsewhere).out.split()
    assert [Path(path).name for path in artifacts] == ["plan.md"]  # links stay behind
    root = Path(str(elsewhere["CSA_STATE_DIR"]))
    (transcript,) = root.rglob(f"{session_id(1)}/transcript.jsonl")
    old = read_transcript(store.paths(session_id(1)).transcript, is_made_up=True)
    *events, last = read_transcript(transcript, is_made_up=True)
    assert events == old
    assert (last["type"], last["data"]["what"]) == ("session_updated", "imported")
    modes = {path: path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert {mode for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)} == set()
    assert not list(root.rglob(".new-*"))


@pytest.mark.thorough
def test_all_through_pipes(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """`export --all > file` and `import -` work through stdout and stdin."""
    script = "csa session export --all > all.tgz && CSA_STATE_DIR=$OTHER csa session import - < all.tgz"
    done = place.shell(["bash", "-c", script], env={"OTHER": elsewhere["CSA_STATE_DIR"]})
    assert (done.code, len(done.out.splitlines())) == (0, 4), done.err
    assert done.err.count("left out: ") == 1  # the link
    assert len(place.run("session", "list", "--json", env=elsewhere).json) == 4


@pytest.mark.thorough
def test_new_ids(place: Place, store: Store) -> None:
    """`--new-ids` copies: ids differ everywhere csa wrote them, the tree is the same, and nothing old is touched."""
    archive = export(place, "auth", "--tree")
    before = snapshot(Path(store.sessions_dir))
    done = place.run("session", "import", str(archive), "--new-ids", "--json")
    ids = {item["old_id"]: item["id"] for item in done.json}
    after = snapshot(Path(store.sessions_dir))
    assert {path: found for path, found in after.items() if path in before} == before
    assert set(ids) == {session_id(1), session_id(2), session_id(3)}
    assert not set(ids) & set(ids.values())
    listed = {item["id"]: item for item in place.run("session", "list", "--json").json}
    assert listed[ids[session_id(3)]]["parent_session_id"] == ids[session_id(2)]
    assert listed[ids[session_id(3)]]["root_session_id"] == ids[session_id(1)]
    assert (listed[ids[session_id(1)]]["name"], listed[session_id(1)]["name"]) == (None, "auth")
    assert done.json[0]["dropped_name"] == "auth"
    assert place.run("session", "result", ids[session_id(1)]).out == f"see {ids[session_id(2)]}\n"
    copy = store.paths(ids[session_id(1)])
    assert (copy.turn_output(1) / "plan.md").read_text() == f"the agent's: {session_id(2)}"
    state = tomllib.loads(copy.state.read_text())
    assert "provider_session_id" not in state["tools"]["codex"]  # a conversation belongs to one session


@pytest.mark.thorough
def test_import_never_overwrites(place: Place, store: Store) -> None:
    """When one of the sessions is there, collected or not, nothing is imported, and the store is as it was."""
    archive = export(place, "--all")
    for number in (1, 2, 3):
        store.paths(session_id(number)).root.rename(place.tmp / str(number))
    retire(store, session_id(4))
    before = snapshot(place.state_root)
    done = place.run("session", "import", str(archive))
    assert (done.code, done.err.splitlines()[1]) == (2, "hint: --new-ids imports a copy")
    assert snapshot(place.state_root) == before


def test_imported_sessions_go_on(place: Place, elsewhere: dict[str, str | None]) -> None:
    """An imported session is resumed in the project to which it came."""
    session = place.codex("one").session_id
    archive = export(place, session)
    other = place.tmp / "moved"
    (other / ".csa").mkdir(parents=True)
    assert place.run("session", "import", str(archive), env=elsewhere, cwd=other).code == 0
    done = place.run("run", "--session", session, "two", env=elsewhere, cwd=other)
    assert (done.code, done.out) == (0, "FAKE ECHO: two [turns=2]\n")
    (state,) = Path(str(elsewhere["CSA_STATE_DIR"])).rglob("state.toml")
    assert tomllib.loads(state.read_text())["tools"]["codex"]["cwd"] == str(other)


@pytest.mark.thorough
def test_import_into_another_project_here(place: Place, store: Store) -> None:
    """A session that another project has as well is a copy: it does not share the tool's conversation."""
    archive = export(place, session_id(4))
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    (item,) = place.run("session", "import", str(archive), "--json", cwd=other).json
    assert (item["id"], item["is_copy"]) == (session_id(4), True)


def test_export_of_other_projects_below(place: Place, store: Store) -> None:
    """`--tree` takes children in other projects along; imported together they have their parent at hand."""
    other = Store(place.state_root, place.tmp / "web")
    project = str(place.project)
    write_session(other, 9, parent_session_id=session_id(3), parent_project=project, depth=3)
    archive = export(place, "auth", "--tree")
    assert f"sessions/{session_id(9)}/state.toml" in names_in(archive)
    assert f"sessions/{session_id(4)}/state.toml" not in names_in(archive)


@pytest.mark.thorough
def test_no_archive_for_a_terminal(place: Place, store: Store) -> None:
    """An archive is not written to a terminal, nor read from one; documents are."""
    with Terminal(place, "session", "export", "auth") as terminal:
        assert terminal.end() == 2
    assert "-o FILE" in terminal.text
    with Terminal(place, "session", "import", "-") as terminal:
        assert terminal.end() == 2
    with Terminal(place, "session", "export", "auth", "--format", "md") as terminal:
        assert terminal.end() == 0


@pytest.mark.thorough
def test_what_is_no_regular_file_is_written_to(place: Place, store: Store) -> None:
    """A pipe, a descriptor and a device get the output and stay what they are; `-` is stdout."""
    markdown = place.run("session", "export", "auth", "--format", "md").out
    assert place.run("session", "export", "auth", "--format", "md", "-o", "-").out == markdown
    assert place.run("session", "export", "auth", "--json", "-o", "-").code == 2
    pipe = place.tmp / "pipe"
    os.mkfifo(pipe)
    for target in (str(pipe), f">(cat >{pipe})"):
        reading = place.popen(["bash", "-c", f"cat {pipe} >{place.tmp}/read"])
        done = place.shell(["bash", "-c", f"exec csa session export auth --format md -o {target}"])
        assert (done.code, done.err, reading.wait(10)) == (0, "", 0)
        assert (place.tmp / "read").read_text() == markdown
    assert pipe.is_fifo()
    assert not [path for path in place.tmp.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
def test_a_device_is_written_to(place: Place, store: Store) -> None:
    """It is not replaced by a file."""
    for name, minor in (("null", 3), ("full", 7)):
        os.mknod(place.tmp / name, 0o600 | stat.S_IFCHR, os.makedev(1, minor))
    assert place.run("session", "export", "auth", "-o", str(place.tmp / "null")).code == 0
    full = place.run("session", "export", "auth", "-o", str(place.tmp / "full"))
    assert (full.code, "No space left" in full.err) == (1, True)
    assert [(place.tmp / name).is_char_device() for name in ("null", "full")] == [True, True]


@pytest.mark.thorough
def test_links_stay_and_what_they_lead_to_is_replaced(place: Place, store: Store) -> None:
    """Also where there is nothing yet; a descriptor of a file that has no name any more is written to."""
    old, new = place.tmp / "real" / "old.md", place.tmp / "real" / "new.md"
    old.parent.mkdir()
    old.write_text("old " * 10_000)
    number = old.stat().st_ino
    for target in (old, new):
        link = place.project / f"link-to-{target.name}"
        link.symlink_to(target)
        assert place.run("session", "export", "auth", "--format", "md", "-o", link.name).code == 0
        assert link.is_symlink()
        assert target.read_text().startswith("# ")
        assert target.stat().st_mode & 0o777 == 0o600
    assert old.stat().st_ino != number
    assert sorted(path.name for path in old.parent.iterdir()) == ["new.md", "old.md"]
    script = f"exec 7<>{new} && rm {new} && csa session export auth --format md -o /dev/fd/7 && cat /dev/fd/7"
    assert place.shell(["bash", "-c", script]).out == old.read_text()
    assert not new.exists()


@pytest.mark.parametrize("words", [[], ["--all", "auth"], ["--all", "--tree"], ["a", "-s", "b"], ["none-such"]])
def test_wrong_words(place: Place, store: Store, words: list[str]) -> None:
    """One session or all of them must be named."""
    done = place.run("session", "export", *words, "-o", "x")
    assert done.code in {2, 3}
    assert not (place.project / "x").exists()
    assert not list(place.project.glob(".x*"))


@pytest.mark.thorough
def test_running_sessions_are_not_exported(place: Place) -> None:
    """While a turn runs its session is not exported, exit 4, and no file appears; it can be read."""
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    for words in (["--all"], [running.session_id]):
        done = place.run("session", "export", *words, "-o", str(place.tmp / "x"))
        assert (done.code, "is running" in done.err) == (4, True)
    assert place.run("session", "export", running.session_id, "--format", "md").code == 0
    assert not list(place.tmp.glob("*x*"))
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_a_backup_while_agents_work(place: Place) -> None:
    """`--skip-running` leaves out what runs, and says so, as it does of what was deleted; the rest can be imported."""
    first, deleted = place.codex("one").session_id, place.codex("two").session_id
    assert place.run("session", "delete", deleted).code == 0
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    backup = place.tmp / "backup.tar.gz"
    done = place.run("session", "export", "--all", "--skip-running", "--json", "-o", str(backup))
    assert done.code == 0, done.err
    assert done.json["sessions"] == [first]
    assert [item["what"] for item in done.json["left_out"]] == [deleted, running.session_id]
    done = place.run("session", "export", "--all", "--skip-running", "-o", str(backup))
    assert f"warning: left out: {running.session_id}: " in done.err
    place.release()
    assert running.wait().code == 0
    place.env["CSA_STATE_DIR"] = str(place.tmp / "elsewhere")
    assert place.run("session", "import", str(backup)).code == 0
    assert [session["id"] for session in place.run("session", "list", "--json").json] == [first]


def test_damaged_sessions(place: Place, store: Store) -> None:
    """Damage stops an export, naming file and line; `--skip-corrupted` leaves out what is damaged, and says so."""
    store.paths(session_id(4)).state.write_text("[[")
    transcript = store.paths(session_id(2)).transcript
    lines = transcript.read_text().splitlines(keepends=True)
    transcript.write_text("".join([lines[0], "broken\n", *lines[1:], '{"partial']))
    done = place.run("session", "export", "--all", "-o", "x")
    assert (done.code, "state.toml" in done.err, "--skip-corrupted" in done.err) == (6, True, True)
    done = place.run("session", "export", session_id(2), "-o", "x")
    assert (done.code, "transcript.jsonl, line 2" in done.err) == (6, True)
    assert list(place.project.glob("*x*")) == []
    done = place.run("session", "export", "--all", "--skip-corrupted", "-o", "x")
    assert done.code == 0
    assert f"warning: left out: {session_id(4)}" in done.err
    assert "line 2: it is not an event" in done.err
    with tarfile.open(place.project / "x") as tar:
        member = tar.extractfile(f"sessions/{session_id(2)}/transcript.jsonl")
        assert member
        assert member.read().decode() == "".join(lines)


@pytest.fixture
def private(place: Place) -> Path:
    """A directory of the user's, which is nobody's business."""
    private = place.tmp / "private"
    private.mkdir()
    for name in ("notes.md", "result.toml"):
        (private / name).write_text("private = 1\n")
    return private


@pytest.mark.thorough
def test_links_are_not_followed(place: Place, store: Store, private: Path) -> None:
    """Neither the output itself, nor a directory or a file in it, nor a record: each is left out, and named."""
    paths = store.paths(session_id(4))
    paths.result.unlink()
    paths.result.symlink_to(private / "result.toml")
    for name, target in (("dir", private), ("turn-0002", private), ("turn-0001/file", private / "notes.md")):
        (paths.output / name).symlink_to(target)
    os.mkfifo(paths.output / "pipe")
    done = place.run("session", "export", session_id(4), "-o", "x")
    left = [paths.result, *(paths.output / name for name in ("dir", "pipe", "turn-0002", "turn-0001/file"))]
    assert (done.code, done.err.splitlines()) == (
        0,
        [f"warning: left out: {path}: it is not a regular file" for path in left],
    )
    names = names_in(place.project / "x")
    assert [name for name in names if "result" in name or not name.startswith(("sessions", "csa-export"))] == []
    paths.output.rename(place.tmp / "output")
    paths.output.symlink_to(private)
    done = place.run("session", "export", session_id(4), "-o", "x", "--json")
    assert [item["what"] for item in done.json["left_out"]] == [str(paths.result), str(paths.output)]
    below = f"sessions/{session_id(4)}"
    assert names_in(place.project / "x")[1:-1] == [f"{below}/state.toml", f"{below}/transcript.jsonl"]


@pytest.mark.parametrize("name", ["state.toml", "transcript.jsonl"])
def test_linked_records_are_damage(place: Place, store: Store, name: str) -> None:
    """Without them a session cannot be imported, and what a link leads to may be anything."""
    path = store.paths(session_id(4)).root / name
    path.rename(place.tmp / name)
    path.symlink_to(place.tmp / name)
    done = place.run("session", "export", session_id(4), "-o", "x")
    assert (done.code, f"{name}: is a link" in done.err) == (6, True)
    done = place.run("session", "export", "--all", "--skip-corrupted", "-o", "x")
    assert (done.code, f"warning: left out: {session_id(4)}: " in done.err) == (0, True)
    assert not [found for found in names_in(place.project / "x") if session_id(4) in found]


@pytest.mark.thorough
def test_redacted_once_more(place: Place, store: Store) -> None:
    """What is a secret here and was none when it was written leaves neither in the archive nor in a document."""
    transcript = store.paths(session_id(1)).transcript
    transcript.write_text(transcript.read_text().replace("do work 1", f"do {SECRET}"))
    output = store.paths(session_id(1)).turn_output(1)
    (output / "plan.md").write_text(f"key = {SECRET}, password = open")
    (output / "image.png").write_bytes(b"\x89PNG\xff\x00" + SECRET.encode() + b"\xfe")
    env: dict[str, str | None] = {"DEPLOY_TOKEN": SECRET}
    archive = place.tmp / "x"
    assert place.run("session", "export", "auth", "-o", str(archive), env=env).code == 0
    with tarfile.open(archive) as tar:
        content = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar}
    assert not [name for name, found in content.items() if SECRET.encode() in found]
    files = {Path(name).name: found for name, found in content.items()}
    assert files["plan.md"] == b"key = [REDACTED], password = open"  # an agent's file stays as it is otherwise
    assert files["image.png"] == b"\x89PNG\xff\x00[REDACTED]\xfe"
    for kind in ("md", "json", "jsonl", "html"):
        done = place.run("session", "export", "auth", "--format", kind, env=env)
        assert SECRET not in done.out
        assert "REDACTED" in done.out


@pytest.mark.thorough
def test_large_artifacts(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """They go along and come in whole in little memory, redacted wherever a secret stands."""
    artifact = store.paths(session_id(1)).turn_output(1) / "large.bin"
    block = b"\xff line\n" * 200_000
    with artifact.open("wb") as file:
        for number in range(60):
            file.write(block[: len(block) - number * 5000] + SECRET.encode())
    script = f"ulimit -v 200000; csa session export auth -o {place.tmp}/x && csa session import {place.tmp}/x"
    done = place.shell(["bash", "-c", script], env={"DEPLOY_TOKEN": SECRET})
    assert done.code == 2, done.err  # it is here already
    assert place.run("session", "import", str(place.tmp / "x"), env=elsewhere).code == 0
    (copy,) = Path(str(elsewhere["CSA_STATE_DIR"])).rglob("large.bin")
    assert copy.read_bytes() == artifact.read_bytes().replace(SECRET.encode(), b"[REDACTED]")


@pytest.mark.thorough
def test_what_is_larger_than_an_import_takes(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """A file of more than 4 GiB is left out by name, and the archive can be imported."""
    artifact = store.paths(session_id(4)).turn_output(1) / "huge.bin"
    with artifact.open("wb") as file:
        file.truncate((4 << 30) + 1)
    done = place.run("session", "export", session_id(4), "-o", "x")
    why = "it is larger than 4 GiB, too large for an archive"
    assert (done.code, done.err) == (0, f"warning: left out: {artifact}: {why}\n")
    told = place.run("session", "export", session_id(4), "-o", "y", "--json")
    assert told.json["left_out"] == [{"what": str(artifact), "why": why}]
    assert place.run("session", "import", "x", env=elsewhere).code == 0


def test_what_redacting_makes_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large only once it is redacted is left out too, and the archive is whole."""
    monkeypatch.setattr(archive_module, "MAX_FILE_BYTES", 5)
    with (tmp_path / "x").open("wb") as file, ArchiveWriter(file, {}, now=0) as archive:
        assert not archive.add(session_id(1), "output/a", [b"abc", b"def"], mtime=0)
        assert archive.add(session_id(1), "output/b", [b"abc"], mtime=0)
    with tarfile.open(tmp_path / "x") as tar:
        assert [(m.name, m.size) for m in tar][1:-1] == [(f"sessions/{session_id(1)}/output/b", 3)]
        end = tar.extractfile("csa-export.end")
        assert end is not None
        assert json.load(end) == {"files": 1}


def member(name: str, content: bytes = b"x", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    found = tarfile.TarInfo(name)
    found.size = len(content)
    for key, value in changes.items():
        setattr(found, key, value)
    return found, content


def manifest(**changes: object) -> tuple[tarfile.TarInfo, bytes]:
    return member("csa-export.json", json.dumps({"format": 1, **changes}).encode())


BELOW = f"sessions/{session_id(8)}"
EVIL: dict[str, Callable[[], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "absolute": lambda: [manifest(), member("/tmp/evil")],
    "above": lambda: [manifest(), member(f"{BELOW}/output/../../../../evil")],
    "other name": lambda: [manifest(), member(f"{BELOW}/locks/session.lock")],
    "no session": lambda: [manifest(), member("sessions/nothing/state.toml")],
    "output is a file": lambda: [manifest(), member(f"{BELOW}/output")],
    "link": lambda: [manifest(), member(f"{BELOW}/output/x", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": lambda: [
        manifest(),
        member(f"{BELOW}/output/x", b"", type=tarfile.LNKTYPE, linkname="csa-export.json"),
    ],
    "device": lambda: [manifest(), member(f"{BELOW}/output/x", b"", type=tarfile.CHRTYPE)],
    "directory": lambda: [manifest(), member(f"{BELOW}/output", b"", type=tarfile.DIRTYPE)],
    "twice": lambda: [manifest(), member(f"{BELOW}/state.toml"), member(f"{BELOW}/state.toml")],
    "below a file": lambda: [manifest(), member(f"{BELOW}/output/x"), member(f"{BELOW}/output/x/y")],
    "not normal": lambda: [manifest(), member(f"{BELOW}//state.toml")],
    "no manifest": lambda: [member(f"{BELOW}/state.toml")],
    "odd manifest": lambda: [member("csa-export.json", b"[]")],
    "newer": lambda: [manifest(format=99)],
    "no state": lambda: [manifest(), member(f"{BELOW}/transcript.jsonl")],
    "broken state": lambda: [manifest(), member(f"{BELOW}/state.toml", b"[[")],
    "other id": lambda: [
        manifest(),
        member(
            f"{BELOW}/state.toml",
            f'meta_session_id = "{session_id(7)}"\nproject_path = "/x"\ncreated_at = 2024-01-01T00:00:00Z\n'
            "last_accessed = 2024-01-01T00:00:00Z\n".encode(),
        ),
    ],
    "nothing in it": lambda: [manifest()],
    "after its end": lambda: [manifest(), member("csa-export.end", b'{"files": 0}')],
    "wrong end": lambda: [manifest(), member("csa-export.end", b"[]")],
    "empty": list,
    "deep": lambda: [manifest(), member(f"{BELOW}/output/{'d/' * 1500}x")],
    "long path": lambda: [manifest(), member(f"{BELOW}/output/{'/'.join(['d' * 200] * 30)}")],
    "long name": lambda: [manifest(), member(f"{BELOW}/output/{'x' * 300}")],
    "large record": lambda: [manifest(), member(f"{BELOW}/state.toml", bytes(2 << 20))],
    "sparse": lambda: [
        manifest(),
        member(f"{BELOW}/output/x", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 9}),
    ],
}


@pytest.mark.parametrize("kind", EVIL)
def test_archives_that_are_not_taken_in(place: Place, kind: str) -> None:
    """What csa does not write is not taken in: a clear error, and nothing is left anywhere."""
    archive = place.tmp / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        members = EVIL[kind]()
        end = json.dumps({"files": len(members) - 1}).encode()
        for info, content in [*members, *([member("csa-export.end", end)] if members else [])]:
            tar.addfile(info, io.BytesIO(content))
    done = place.run("session", "import", str(archive))
    assert done.code == (3 if kind == "nothing in it" else 6), done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert not list(place.state_root.rglob("*/sessions/*"))
    assert list((place.home.parent / "tmp").iterdir()) == []


def chain_of_headers(count: int) -> bytes:
    """Each of which is about the next one."""
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    return header.tobuf(tarfile.USTAR_FORMAT) * count


BOMBS: dict[str, Callable[[], Iterable[bytes]]] = {
    "header": lambda: [
        member("csa-export.json", b"", pax_headers={"comment": "A" * (200 << 20)})[0].tobuf(tarfile.PAX_FORMAT)
    ],
    "long name": lambda: [member("A" * (200 << 20), b"")[0].tobuf(tarfile.GNU_FORMAT)],
    "chain": lambda: [chain_of_headers(100_000)],
    "header behind a file": lambda: [
        manifest()[0].tobuf(),
        manifest()[1].ljust(512, b"\0"),
        member("x", b"", pax_headers={"comment": "A" * (200 << 20)})[0].tobuf(tarfile.PAX_FORMAT),
    ],
    "line": lambda: [
        manifest()[0].tobuf(),
        manifest()[1].ljust(512, b"\0"),
        member(f"{BELOW}/transcript.jsonl", bytes(200 << 20))[0].tobuf(),
        *[bytes(1 << 20)] * 200,
    ],
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", BOMBS)
def test_small_archives_of_large_things(place: Place, kind: str) -> None:
    """What is read as a whole is bounded: a small archive does not fill the memory, nor the stack."""
    archive = place.tmp / "bomb.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        for part in BOMBS[kind]():
            file.write(part)
    done = place.shell(["bash", "-c", f"ulimit -v 200000; exec csa session import {archive}"])
    assert done.code == 6, done.err
    assert done.err.startswith("error: This is not an archive that csa imports: ")
    assert ("longer than 64 MiB" if kind == "line" else "header of more than 64 KiB") in done.err
    assert list((place.home.parent / "tmp").iterdir()) == []


@pytest.mark.thorough
def test_deep_directories_are_left_out(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """What no import would take is named, and the archive can be imported; with as much as goes it is."""
    output = store.paths(session_id(4)).output
    script = (
        "import os; [os.mkdir('d') or os.chdir('d') or n in {126, 127, 1499} and open('f', 'w') for n in range(1500)]"
    )
    assert place.shell([sys.executable, "-c", script], cwd=output).code == 0
    told = place.run("session", "export", session_id(4), "-o", "x", "--json").json
    assert len(told["left_out"]) == 2
    assert {item["why"] for item in told["left_out"]} == {"its path is too long or too deep for an archive"}
    assert place.run("session", "import", "x", "--new-ids", env=elsewhere).code == 0
    assert len(place.run("session", "artifacts", session_id(4)).out.splitlines()) == 3
    (copied,) = Path(str(elsewhere["CSA_STATE_DIR"])).rglob("state.toml")
    assert sum(1 for _ in copied.parent.rglob("f")) == 1
    subprocess.run(["rm", "-rf", str(output)], check=True)  # pytest would not get down there


def replaced(archive: Path, name: str, content: bytes | None) -> Path:
    """Return a copy of an archive in which a file says something else, or is missing."""
    copy = archive.with_name("changed.tar.gz")
    with tarfile.open(archive) as tar, tarfile.open(copy, "w:gz") as changed:
        for found in tar:
            old = tar.extractfile(found)
            assert old is not None
            data = old.read()
            if found.name == "csa-export.end" and content is None:
                data = json.dumps({"files": json.loads(data)["files"] - 1}).encode()
            if found.name.endswith(name):
                if content is None:
                    continue
                data = content
            found.size = len(data)
            changed.addfile(found, io.BytesIO(data))
    return copy


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("transcript.jsonl", b"garb\xffage\n{}\n", "transcript.jsonl, line 1: is not JSON"),
        ("transcript.jsonl", b"{}\n", "transcript.jsonl, line 1: is not an event"),
        ("transcript.jsonl", None, "transcript.jsonl: is missing"),
        ("result.toml", b"= 1\n", "result.toml, line 1: is not TOML"),
    ],
)
@pytest.mark.usefixtures("store")
def test_damaged_records_are_not_taken_in(
    place: Place, elsewhere: dict[str, str | None], name: str, content: bytes | None, problem: str
) -> None:
    """What `session validate` would call damage is refused like a bad state.toml, with its place."""
    archive = replaced(export(place, session_id(2)), f"{session_id(2)}/{name}", content)
    done = place.run("session", "import", str(archive), env=elsewhere)
    assert (done.code, done.out) == (6, "")
    assert f"sessions/{session_id(2)}/{problem}" in done.err
    assert "nothing was imported" in done.err
    assert place.run("session", "list", "--json", env=elsewhere).json == []


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b\x08\x00rubbish"])
def test_files_that_are_no_archives(place: Place, content: bytes) -> None:
    """Rubbish, and an archive that was cut off, are refused."""
    (place.project / "x").write_bytes(content)
    assert place.run("session", "import", "x").code == 6
    assert place.run("session", "import", "-", stdin=content).code == 6
    assert place.run("session", "import", "no-such-file").code == 3


@pytest.mark.thorough
def test_an_archive_that_was_cut_off(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """An archive that was cut off anywhere imports nothing, also where it was cut between two files."""
    archive = export(place, "--all")
    content = archive.read_bytes()
    cut = place.tmp / "cut.tar"
    with tarfile.open(archive) as tar, tarfile.open(cut, "w:gz") as short:
        for found in list(tar)[:-2]:
            short.addfile(found, tar.extractfile(found))
    for part in (content[: len(content) * 2 // 3], content[:-1], cut.read_bytes(), b""):
        done = place.run("session", "import", "-", stdin=part, env=elsewhere)
        assert (done.code, done.out) == (6, "")
    assert place.run("session", "list", "--json", env=elsewhere).json == []


@pytest.mark.thorough
def test_an_import_that_fails_leaves_nothing(place: Place, store: Store, elsewhere: dict[str, str | None]) -> None:
    """When the disk is full half-way, no session is there, nor remains of one."""
    (store.paths(session_id(4)).output / "large.bin").write_bytes(bytes(300 << 10))
    archive = export(place, "--all")
    done = place.shell(["bash", "-c", f"ulimit -f 200; exec csa session import {archive}"], env=elsewhere)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert not list(Path(str(elsewhere["CSA_STATE_DIR"])).rglob("state.toml"))
    assert list((place.home.parent / "tmp").iterdir()) == []


def test_jsonl(place: Place, store: Store) -> None:
    """A message a line, with the keys of the contract."""
    lines = [json.loads(line) for line in place.run("session", "export", "auth", "--format", "jsonl").out.splitlines()]
    keys = {"id", "session_id", "role", "content", "tool_calls", "tool_results", "timestamp", "model"}
    assert all(set(line) == keys for line in lines)
    assert [line["role"] for line in lines] == ["user", "assistant", "assistant"]
    assert len({line["id"] for line in lines}) == 3
    assert lines[1]["tool_calls"][0]["kind"] == "execute"
    every = place.run("session", "export", "--all", "--format", "jsonl").out.splitlines()
    assert len({json.loads(line)["session_id"] for line in every}) == 4


def test_json_document(place: Place, store: Store) -> None:
    """An array of sessions with their messages."""
    (item,) = place.run("session", "export", "auth", "--format", "json").json
    assert (item["id"], item["project"], len(item["messages"])) == (session_id(1), str(place.project), 3)


def test_markdown(place: Place, store: Store) -> None:
    """Tool calls are fenced, with a fence longer than any in them."""
    out = place.run("session", "export", "auth", "--format", "md").out
    assert out.startswith("# auth\n")
    assert "````\n$ echo '</script><b>'\n```\n<b>\n````" in out


class Tags(HTMLParser):
    """Checks that tags nest, and collects them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html(place: Place, store: Store) -> None:
    """The page is whole, escaped, and needs nothing else."""
    out = place.run("session", "export", "auth", "--tree", "--format", "html").out
    tags = Tags()
    tags.feed(out)
    tags.close()
    assert tags.open == []
    assert not tags.seen & {"script", "b", "link", "img", "iframe"}
    assert "&lt;/script&gt;" in out
    assert out.count("<article") == 3


def test_html_has_no_control_characters(place: Place, store: Store) -> None:
    """What a page has no place for is a mark in it, in titles and summaries too."""
    call = {"id": "c1", "title": "call\x1b[2J", "kind": "execute", "status": "completed", "content": "\x9b2J"}
    write_session(store, 5, name="odd", description="work\x1b", events=(("tool_call", call),), text="a\r\nb\x07")
    out = place.run("session", "export", "odd", "--format", "html").out
    assert "call\ufffd[2J" in out
    assert not {"\x1b", "\x9b", "\x07", "\r"} & {*out}


@pytest.mark.thorough
def test_export_into_a_file_replaces_it_whole(place: Place, store: Store) -> None:
    """`-o` replaces an old file only when the new one is whole, and is the owner's alone."""
    target = place.tmp / "archive.tar.gz"
    target.write_text("old")
    store.paths(session_id(4)).transcript.write_text("broken\n")
    assert place.run("session", "export", session_id(4), "-o", str(target)).code == 6
    assert target.read_text() == "old"
    export(place, "auth")
    assert tarfile.is_tarfile(target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert place.run("session", "export", "auth", "-o", str(place.tmp)).code == 2


@pytest.mark.thorough
def test_export_as_json(place: Place, store: Store) -> None:
    """With -o, `--json` prints what was written; without it stdout is the archive, and --json is refused."""
    store.paths(session_id(4)).state.write_text("[[")
    done = place.run("session", "export", "--all", "--skip-corrupted", "-o", "x", "--json")
    assert (done.code, done.err) == (0, "")
    told = done.json
    assert set(told) == {"file", "format", "bytes", "sessions", "left_out"}
    archive = place.project / "x"
    assert (told["file"], told["format"], told["bytes"]) == (str(archive), "archive", archive.stat().st_size)
    assert session_id(2) in told["sessions"]
    assert told["left_out"][0]["what"] == session_id(4)
    done = place.run("session", "export", "auth", "--format", "md", "-o", "y", "--json")
    assert (done.json["format"], len(done.json["sessions"]), done.json["left_out"]) == ("md", 1, [])
    for words in ((), ("--format", "json")):
        done = place.run("session", "export", "auth", "--json", *words)
        assert (done.code, done.json["error"]["code"]) == (2, "usage")
        assert "--json -o FILE" in done.json["error"]["hint"]
