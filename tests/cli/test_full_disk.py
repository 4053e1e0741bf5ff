"""Where the transcript cannot grow: what is refused changes nothing, and what is done all the same says what was lost.

A limit on the size of files stands for the full disk: the transcript is beyond it, and state.toml is not.
"""

from __future__ import annotations

import json

import pytest

from tests.cli.terminal import Terminal
from tests.support import CSA, Done, Place

LIMIT_KIB = 16
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # Python would leave halves of it
LOSS = "warning: events of the transcript were lost (1): File too large\n"


def full_session(place: Place, *, room: int = 0) -> str:
    """Return a session whose transcript has so many bytes of room, or none."""
    session_id = place.codex().session_id
    transcript = place.session(session_id) / "transcript.jsonl"
    *lines, last = transcript.read_bytes().splitlines(keepends=True)
    size = (LIMIT_KIB << 10) - room - transcript.stat().st_size
    end = json.loads(last)
    filler = {**end, "type": "other", "data": {"raw": ""}}
    filler["data"]["raw"] = "x" * (size - len(json.dumps(filler)) - 1)
    end["seq"] += 1
    content = b"".join([*lines, *(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in (filler, end))])
    transcript.write_bytes(content)
    assert abs(len(content) - size - len(b"".join([*lines, last]))) < 200
    return session_id


def on_full_disk(place: Place, *words: str) -> Done:
    """Run csa where no file may grow beyond the limit."""
    return place.shell(["bash", "-c", f'ulimit -f {LIMIT_KIB}; exec "$0" "$@"', CSA, *words], env=NO_BYTECODE)


def told(place: Place, session_id: str) -> list[str]:
    """What the transcript says of changes."""
    events = place.events(session_id)
    return [event["data"].get("what", event["type"]) for event in events if event["type"] != "other"]


@pytest.mark.thorough
def test_what_is_refused_changes_nothing(place: Place) -> None:
    """A change of the record, a turn and a compaction need their events: without, exit 1, and no tool is started."""
    session_id = full_session(place)
    directory = place.session(session_id)
    before = {name: (directory / name).read_bytes() for name in ("state.toml", "result.toml", "transcript.jsonl")}
    place.play(["touch", str(place.ready)])
    for words in (
        ("session", "rename", session_id, "named"),
        ("session", "describe", session_id, "another"),
        ("session", "pin", session_id),
        ("run", "--session", session_id, "more"),
        ("session", "compress", session_id),
    ):
        done = on_full_disk(place, *words)
        assert (done.code, done.out) == (1, ""), (words, done)
        assert "transcript.jsonl" in done.err, (words, done.err)
        assert "File too large" in done.err
        assert {name: (directory / name).read_bytes() for name in before} == before, words
    assert not place.ready.exists()
    assert not list((directory / "output").glob("compaction-*"))
    assert place.run("session", "validate", session_id).code == 0


@pytest.mark.thorough
def test_what_is_done_says_what_was_lost(place: Place) -> None:
    """A checkpoint, a repair and a session that is brought back are there, and a warning says what does not tell."""
    session_id = full_session(place)
    directory = place.session(session_id)
    done = on_full_disk(place, "session", "checkpoint", session_id)
    assert (done.code, done.err) == (0, LOSS)
    assert place.run("session", "checkpoints", session_id, "--json").json[0]["commit"] == done.out.strip()
    (directory / "result.toml").unlink()
    done = on_full_disk(place, "session", "repair", session_id)
    assert (done.code, done.err) == (0, LOSS)
    assert (directory / "result.toml").exists()
    assert place.run("session", "delete", session_id).code == 0
    done = on_full_disk(place, "session", "restore", session_id)
    assert done.code == 0
    assert "transcript" in done.err
    assert told(place, session_id)[-1] == "run_finished"


@pytest.mark.thorough
def test_a_compaction_whose_end_is_lost(place: Place) -> None:
    """The tool has compacted, which the state says; the next turn records that its end is lost, and counts it once."""
    session_id = full_session(place, room=450)
    done = on_full_disk(place, "session", "compress", session_id)
    assert done.code == 0, done
    assert "warning: events of the transcript were lost" in done.err
    assert place.state(session_id)["context_status"]["is_compacted"] is True
    assert place.run("run", "--session", session_id, "more").code == 0
    ends = [event["data"]["status"] for event in place.events(session_id) if event["type"] == "compaction"]
    assert ends == ["started", "lost"]
    assert place.state(session_id)["usage"]["turns_unmeasured"] == 1
    assert place.run("session", "validate", session_id).code == 0


def test_an_interface_is_not_opened_unrecorded(place: Place) -> None:
    """That it was open has to be in the transcript: else it is not opened."""
    session_id = full_session(place)
    before = (place.session(session_id) / "state.toml").read_bytes()
    script = f"ulimit -f {LIMIT_KIB}; exec {CSA} session attach -i {session_id}"
    with Terminal(place, "bash", "-c", script, env={**NO_BYTECODE}) as terminal:
        assert terminal.end() == 1
    assert "transcript.jsonl" in terminal.text
    assert (place.session(session_id) / "state.toml").read_bytes() == before
