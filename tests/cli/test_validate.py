"""`csa session validate` and `repair`: every problem is found and placed, and what is mended is what is proven."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import ForeignWriter
from tests.support import Json, Place, snapshot

OTHER = "01JH4QWERT0000000000000000"


def problems(place: Place, *words: str, code: int = 6) -> list[Json]:
    """Return what is wrong; validate must not write."""
    before = snapshot(place.state_root)
    done = place.run("session", "validate", *words, "--json")
    assert done.code == code, done.out
    assert snapshot(place.state_root) == before
    found: list[Json] = done.json
    return found


@pytest.mark.thorough
def test_sound_sessions(place: Place, write_foreign: ForeignWriter) -> None:
    """Sessions as runs leave them are without fault; one that runs is, too."""
    place.codex("one", "--name", "a")
    place.codex("two", "--last")
    place.run("run", "--tool", "claude-code", "three")
    assert problems(place, code=0) == []
    place.play(["stderr", "x"], *place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    assert place.run("session", "validate", "--json").json == []
    running.kill()
    place.wait_until_empty(within_s=10)
    assert problems(place, code=0) == []
    assert place.run("session", "validate").out == "3 sessions checked, 0 damaged\n"


@pytest.mark.thorough
def test_every_problem_with_its_place(place: Place, write_foreign: ForeignWriter) -> None:
    """State, transcript, result, layout, modes, names and parents: each problem has its file, and its line."""
    session_id = place.codex("one", "--name", "auth").session_id
    directory = place.session(session_id)
    transcript = directory / "transcript.jsonl"
    lines = transcript.read_text().splitlines(keepends=True)
    lines[1] = "no json\n"
    del lines[3]
    transcript.write_text("".join(lines) + '{"v":1,"seq":99')
    result = directory / "result.toml"
    result.write_text(result.read_text().replace('"succeeded"', '"failed"'))
    (directory / "notes").touch(0o600)
    result.chmod(0o644)
    write_foreign(OTHER, parent="01JH4QWERT1234567890ABCDEF")
    twin = place.codex("two").session_id
    path = place.session(twin) / "state.toml"
    path.write_text(path.read_text().replace("turns = 1\n", 'turns = 0\nname = "auth"\n'))
    broken = place.codex("three").session_id
    path = place.session(broken) / "state.toml"
    path.write_text(path.read_text().replace("depth = 0", "depth = zero"))
    number = path.read_text().splitlines().index("depth = zero") + 1

    found = problems(place)
    told = {(item["session_id"], item["severity"], item["path"].rpartition("/")[2], item["line"]) for item in found}
    assert told >= {
        (session_id, "error", "transcript.jsonl", 2),
        (session_id, "error", "transcript.jsonl", 4),
        (session_id, "warning", "transcript.jsonl", len(lines) + 1),
        (session_id, "error", "result.toml", None),
        (session_id, "info", "notes", None),
        (session_id, "warning", "result.toml", None),
        (twin, "error", "state.toml", None),
        (broken, "error", "state.toml", number),
        (OTHER, "info", "state.toml", None),
    }
    assert sum("also that of session" in item["problem"] for item in found) == 1
    assert sum("the transcript has turn 1" in item["problem"] for item in found) == 1
    assert {item["session_id"] for item in problems(place, "-s", broken)} == {broken}
    text = place.run("session", "validate", "-s", broken)
    assert text.code == 6
    assert f"state.toml, line {number}: is not TOML" in text.out
    assert f"csa repair --dry-run {broken}" in text.err


@pytest.mark.thorough
def test_repair(place: Place) -> None:
    """A line that was cut off, a state that cannot be read and a wrong result are mended; the session goes on."""
    session_id = place.codex("Refactor the login", "--name", "auth").session_id
    place.codex("more", "--last")
    directory = place.session(session_id)
    before = place.state(session_id)
    transcript, state, result = (directory / name for name in ("transcript.jsonl", "state.toml", "result.toml"))
    whole, sound = transcript.read_bytes(), result.read_text()
    transcript.write_bytes(whole + b'{"v":1,"seq":12,"ts":"2026')
    state.write_text(state.read_text().replace("[genealogy]", "[genealogy"))
    broken = state.read_text()
    result.unlink()

    untouched = snapshot(place.store)
    dry = place.run("session", "repair", "-s", session_id, "--dry-run")
    assert (dry.code, snapshot(place.store)) == (0, untouched)
    done = place.run("session", "repair", "-s", session_id)
    assert (done.code, done.err) == (0, "")
    lines = [re.sub("^(repair|keep|kept)(ed)?", "would \\1", line) for line in done.out.splitlines()]
    assert [line.replace("would kept", "would keep")[:40] for line in lines] == [
        line[:40] for line in dry.out.splitlines()
    ]
    assert transcript.read_bytes().startswith(whole)
    assert place.events(session_id)[-1]["data"]["what"] == "repaired"
    assert result.read_text() == sound
    (kept,) = directory.glob("backup/*/state.toml")
    assert kept.read_text() == broken
    after = place.state(session_id)
    for key in (
        "meta_session_id",
        "description",
        "project_path",
        "name",
        "owner",
        "branch",
        "permission",
        "turns",
        "usage",
    ):
        assert after[key] == before[key], key
    assert after["tools"]["codex"] | before["tools"]["codex"] == before["tools"]["codex"] | {
        "updated_at": before["tools"]["codex"]["updated_at"]
    }
    assert problems(place, code=0) == []
    assert place.run("session", "repair", "-s", session_id).out == "Nothing to repair\n"
    assert place.run("run", "--session", "auth", "again").out == "FAKE ECHO: again [turns=3]\n"
    assert json.loads((place.store / "audit.jsonl").read_text().splitlines()[0])["command"] == "session repair"


def test_an_answer_is_made_anew(place: Place) -> None:
    """What a full disk had no room for is written once there is; what was removed with its directory is not."""
    session_id = place.codex("first").session_id
    place.codex("second", "--last")
    first, second = (place.session(session_id) / "output" / f"turn-000{turn}" / "final.md" for turn in (1, 2))
    answer = first.read_text()
    first.unlink()
    second.unlink()
    assert place.run("session", "result", "--turn", "1", session_id).out == f"{answer}\n"
    second.parent.rename(second.parent.with_name("elsewhere"))
    said = "repaired output/turn-0001/final.md: rebuilt from the transcript\n"
    dry = place.run("session", "repair", "--dry-run", session_id)
    assert (dry.out, first.exists()) == (said.replace("repaired", "would repair"), False)
    assert place.run("session", "repair", session_id).out == said
    assert (first.read_text(), second.parent.exists()) == (answer, False)
    assert place.run("session", "repair", session_id).out == "Nothing to repair\n"


@pytest.mark.thorough
def test_genealogy_is_salvaged(place: Place) -> None:
    """The rebuilt record of a child keeps its parent and limits, where their lines can be read."""
    parent, environ = place.agent()
    child = place.codex("hello", env=environ).session_id
    before = place.state(child)
    path = place.session(child) / "state.toml"
    path.write_text(path.read_text().replace("created_at", "created_at ="))
    assert place.run("session", "repair", child).code == 0
    assert place.state(child)["genealogy"] == before["genealogy"]
    assert place.state(child)["genealogy"]["parent_session_id"] == parent


@pytest.mark.thorough
@pytest.mark.parametrize("goes_on", [False, True])
def test_compactions_are_known_again(place: Place, goes_on: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """The rebuilt record says that the conversation was compacted, and whether it went on since."""
    session_id = place.codex("hello").session_id
    assert place.run("session", "compress", session_id).code == 0
    if goes_on:
        place.codex("more", "--session", session_id)
    path = place.session(session_id) / "state.toml"
    before = place.state(session_id)
    assert (before["phase"], before["context_status"]["is_compacted"]) == ("active" if goes_on else "available", True)
    path.write_text("?")
    assert place.run("session", "repair", session_id).code == 0
    after = place.state(session_id)
    assert (after["phase"], after["usage"]) == (before["phase"], before["usage"])
    assert after["context_status"]["is_compacted"]
    assert after["context_status"]["last_compacted_at"][:16] == before["context_status"]["last_compacted_at"][:16]


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["newer", "copied", "no transcript", "middle"])
def test_what_cannot_be_proven_is_left(place: Place, how: str) -> None:
    """A newer csa's record, a copied directory, a state without transcript, a broken line in the middle: untouched."""
    session_id = place.codex("hello").session_id
    directory = place.session(session_id)
    state, transcript = directory / "state.toml", directory / "transcript.jsonl"
    if how == "newer":
        state.write_text(state.read_text().replace("schema = 1", "schema = 3"))
    elif how == "copied":
        directory.rename(place.store / "sessions" / OTHER)
        session_id = OTHER
    elif how == "no transcript":
        transcript.unlink()
        state.write_text("")
    else:
        lines = transcript.read_text().splitlines(keepends=True)
        transcript.write_text("".join([lines[0], "no json\n", *lines[2:]]))
    before = {path: what[2] for path, what in snapshot(place.session(session_id)).items() if not path.endswith(".lock")}
    done = place.run("session", "repair", "-s", session_id)
    assert done.code == 6
    assert "still wrong" in done.err
    after = {path: what[2] for path, what in snapshot(place.session(session_id)).items() if not path.endswith(".lock")}
    assert after == before


def test_a_line_that_is_no_event(place: Place) -> None:
    """What it lacks is told in words."""
    session_id = place.codex("one").session_id
    with (place.session(session_id) / "transcript.jsonl").open("a") as file:
        file.write('{"v":1,"seq":99,"ts":"","type":"usage","turn":1}\n')
    (found,) = problems(place)
    assert found["problem"] == "is not an event (it has no data)"
