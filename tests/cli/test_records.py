"""Records as others left them: damaged, foreign, newer. Readers change nothing; what is damaged stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from csa.store.owner import current_owner
from tests.support import Place, snapshot

OLD = "01JH4QWERT1234567890ABCDEF"
OTHER = "01JH4QWERT1234567890ABCDEG"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: content.index(b"created_at") + 20],
    "empty": lambda _: b"",
    "binary": lambda content: b"\xff\xfe" + content,
    "newer": lambda content: content.replace(b"schema = 1", b"schema = 99"),
    "no-id": lambda content: content.replace(b"meta_session_id", b"something_else"),
}


def test_damaged_state(place: Place) -> None:
    """A damaged state.toml is shown as damaged, never repaired: a resume exits 6, and the file stays byte for byte."""
    good = place.codex("good").session_id
    damaged: dict[str, bytes] = {}
    for number, damage in enumerate(DAMAGES.values()):
        bad = OLD[:-1] + str(number)
        shutil.copytree(place.session(good), place.session(bad))
        content = damage((place.session(good) / "state.toml").read_bytes().replace(good.encode(), bad.encode()))
        (place.session(bad) / "state.toml").write_bytes(content)
        damaged[bad] = content
    before = snapshot(place.state_root)

    shown = place.run("session", "list")
    assert shown.code == 0
    assert {line.split()[0] for line in shown.out.splitlines() if "damaged" in line} == set(damaged)
    assert good in place.run("session", "list", "--tree").out
    listed = {item["id"]: item for item in place.run("session", "list", "--json").json}
    assert listed[good]["status"] == "succeeded"
    for bad, content in damaged.items():
        assert listed[bad]["status"] == "damaged"
        assert "state.toml" in listed[bad]["error"]
        done = place.run("run", "--session", bad, "more")
        assert done.code == 6
        assert str(place.session(bad) / "state.toml") in done.err
        assert (place.session(bad) / "state.toml").read_bytes() == content
    assert place.run("run", "--session-id", bad, "more").code == 6
    assert snapshot(place.state_root) == before
    assert place.run("run", "--last", "more").session_id == good


@pytest.mark.thorough
def test_missing_state(place: Place) -> None:
    """A session directory without a record is damaged too, and nothing is put there."""
    place.codex("good")
    bad = place.store / "sessions" / OLD
    bad.mkdir()
    listed = {item["id"]: item["status"] for item in place.run("session", "list", "--json").json}
    assert listed[OLD] == "damaged"
    assert place.run("run", "--session", OLD, "more").code == 6
    assert list(bad.iterdir()) == []


def test_damaged_transcript(place: Place) -> None:
    """A transcript with a broken line and a partial last one is read past them; the next turn goes on numbering."""
    session_id = place.codex("one").session_id
    transcript = place.session(session_id) / "transcript.jsonl"
    lines = transcript.read_bytes().splitlines(keepends=True)
    transcript.write_bytes(b"".join([*lines[:1], b"not json\n", *lines[1:], b'{"v":1,"seq":99,"ty']))
    assert place.status(session_id) == "succeeded"
    assert place.run("session", "logs", session_id).code == 0
    assert place.codex("two", "--session", session_id).out == "FAKE ECHO: two [turns=2]\n"
    after = transcript.read_bytes()
    assert after.startswith(b"".join([*lines[:1], b"not json\n", *lines[1:]]))
    numbers = [json.loads(line)["seq"] for line in after.splitlines() if line != b"not json"]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.thorough
def test_missing_transcript(place: Place) -> None:
    """A session whose transcript is gone is damaged, and runs again."""
    session_id = place.codex("one").session_id
    (place.session(session_id) / "transcript.jsonl").unlink()
    assert place.status(session_id) == "damaged"
    assert place.codex("two", "--session", session_id).out == "FAKE ECHO: two [turns=2]\n"
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
def test_result_file_is_a_projection(place: Place) -> None:
    """A result.toml that contradicts the transcript changes nothing: the journal is the truth."""
    session_id = place.codex("one").session_id
    (place.session(session_id) / "result.toml").write_text('status = "failed"\n')
    assert place.status(session_id) == "succeeded"
    assert place.run("session", "result", session_id, "--json").json["status"] == "succeeded"


def make_foreign(place: Place, write_foreign: Callable[..., SessionPaths]) -> SessionPaths:
    """Write a record as another implementation would, of a conversation that the tool knows."""
    own = place.codex("begun elsewhere").session_id
    provider_id = place.state(own)["tools"]["codex"]["provider_session_id"]
    shutil.rmtree(place.session(own))
    keys = {"provider_session_id": provider_id, "last_action_summary": "x", "last_exit_code": 0, "novel": "kept"}
    paths = write_foreign(OLD, tools={"codex": keys})
    paths.state.write_text('novelty = "kept too"  # and this\n' + paths.state.read_text())
    return paths


@pytest.mark.thorough
def test_foreign_record(place: Place, write_foreign: Callable[..., SessionPaths]) -> None:
    """A record with only the minimal keys lists with the status its exit code tells, and resumes; all of it is kept."""
    paths = make_foreign(place, write_foreign)
    (listed,) = place.run("session", "list", "--json").json
    assert (listed["id"], listed["status"], listed["tools"]) == (OLD, "succeeded", ["codex"])
    done = place.run("run", "--session", OLD[:10].lower(), "go on", "--json")
    assert (done.code, done.json["text"]) == (0, "FAKE ECHO: go on [turns=2]")
    assert done.json["usage"] is None  # the totals of a conversation that csa did not begin are unknown
    record = paths.state.read_text()
    assert 'novelty = "kept too"  # and this' in record
    assert place.state(OLD)["tools"]["codex"]["novel"] == "kept"
    assert place.codex("more", "--session", OLD, "--json").json["usage"]["input_tokens"] > 0


@pytest.mark.parametrize(("code", "status"), [(0, "succeeded"), (1, "failed"), (None, "idle")])
def test_status_of_a_foreign_record(
    place: Place, write_foreign: Callable[..., SessionPaths], code: int | None, status: str
) -> None:
    """Without a transcript the status comes from last_exit_code: never `lost`."""
    write_foreign(
        OLD, tools={"codex": {"last_action_summary": "x"} | ({} if code is None else {"last_exit_code": code})}
    )
    assert place.status(OLD) == status


def test_foreign_tree_with_a_cycle(place: Place, write_foreign: Callable[..., SessionPaths]) -> None:
    """Records whose parents form a cycle hang neither list nor tree."""
    write_foreign(OLD, parent=OTHER, depth=1)
    write_foreign(OTHER, parent=OLD, depth=1)
    shown = place.run("session", "list", "--tree").out
    assert OLD in shown
    assert OTHER in shown


@pytest.mark.parametrize(
    ("age_s", "has_ended", "word", "code"),
    [(0, False, "alive: codex", 0), (60, False, "unknown: codex", 4), (60, True, "not alive", 1)],
)
def test_session_of_another_machine(place: Place, age_s: int, *, has_ended: bool, word: str, code: int) -> None:
    """On a shared store the lock of another machine tells nothing: a fresh heartbeat does, an old one does not."""
    session_id = place.codex("one").session_id
    lock = place.session(session_id) / "locks" / "session.lock"
    owner = json.loads(current_owner(tool="codex", turn=1, since="2026-01-01T10:02:00+00:00").to_bytes())
    lock.write_text(json.dumps({**owner, "boot_id": "elsewhere", "machine_id": "another", "host": "far"}))
    transcript = place.session(session_id) / "transcript.jsonl"
    if not has_ended:
        transcript.write_text("".join(transcript.read_text().splitlines(keepends=True)[:-1]))
    then = time.time() - age_s
    os.utime(place.session(session_id) / "heartbeat", (then, then))
    done = place.run("session", "is-alive", session_id)
    assert (done.code, done.out.startswith(word)) == (code, True), done.out


READING = [
    ["session", "list"],
    ["session", "list", "--tree"],
    ["session", "list", "--json"],
    ["session", "list", "--limit", "1"],
    ["session", "result", "{}"],
    ["session", "result", "{}", "--json"],
    ["session", "logs", "{}"],
    ["session", "logs", "{}", "--json"],
    ["session", "is-alive", "{}"],
    ["session", "is-alive", "{}", "--json"],
    ["config", "show"],
    ["config", "show", "--json"],
    ["config", "validate"],
    ["run", "--dry-run", "--session", "{}", "x"],
]


@pytest.mark.thorough
def test_readers_change_nothing(place: Place, write_foreign: Callable[..., SessionPaths]) -> None:
    """Reading commands leave the store byte for byte, and with its times, whatever state its sessions are in."""
    good = place.codex("good").session_id
    place.play(["touch", str(place.ready)], ["sleep", 60])
    running = place.start("run", "--tool", "codex", "to be lost")
    place.wait_ready()
    lost = running.session_id
    running.kill()
    place.wait_until_empty(within_s=2)
    write_foreign(OLD, tools={"codex": {"last_exit_code": 0}})
    write_foreign(OTHER, text="broken = ")
    before = snapshot(place.state_root)
    for command in READING:
        for session_id in (good, lost) if "{}" in command else (good,):
            done = place.run(*(word.format(session_id) for word in command))
            assert done.code in {0, 1, 3}, (command, done.err)
            assert snapshot(place.state_root) == before, command
    assert place.status(lost) == "lost"


def test_store_that_cannot_be_written(place: Place) -> None:
    """Without write access to the state root a run is refused with a hint before the tool starts."""
    place.play(["touch", str(place.ready)])
    place.state_root.parent.mkdir(parents=True)
    place.state_root.write_text("a file where the directory should be")
    done = place.run("run", "--tool", "codex", "hello")
    assert done.code != 0
    assert done.err.startswith("error: ")
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert not place.ready.exists()


@pytest.mark.thorough
def test_transcript_that_cannot_grow(place: Place) -> None:
    """A disk that is full for the transcript: the turn keeps its real outcome, and the loss is reported."""
    place.play(["emit-many", 4000], ["say", "done"])
    limited = "ulimit -f 200; exec csa run --tool codex hello"
    done = place.shell(["bash", "-c", limited])
    assert (done.code, done.out) == (0, "done\n")
    assert "warning: " in done.err
    transcript: Path = place.session(done.session_id) / "transcript.jsonl"
    assert os.stat(transcript).st_size <= 200 * 1024
    lines = transcript.read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))
