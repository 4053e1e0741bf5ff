"""Results: read from the journal, with the answer and what the agent left."""

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from csa.errors import NotFoundError, RefusedError, StateError
from csa.model.usage import Usage
from csa.paths import SessionPaths
from csa.store.artifacts import copy_artifacts, find_artifacts, list_artifacts, open_below
from csa.store.held import open_session
from csa.store.journal import Journal
from csa.store.results import load_result
from csa.store.sessions import Store
from tests.store.support import IDS, PLAIN, begin, finish, finished_session, publish
from tests.support import snapshot

ID = IDS[0]


def test_the_last_turn_or_the_one_asked_for(store: Store) -> None:
    """Each turn keeps its result and its text."""
    with publish(store, ID) as held:
        first = finish(held, text="one", usage=Usage(1, 2, 0, 0.1))
        begin(held, turn=2)
        second = finish(held, turn=2, text="two", status="failed", exit_code=8, error_kind="quota", error_message="no")
    paths = store.paths(ID)
    assert load_result(paths, ID) == second
    assert load_result(paths, ID, turn=2) == second
    assert load_result(paths, ID, turn=1) == first
    with pytest.raises(NotFoundError, match="has no turn 3"):
        load_result(paths, ID, turn=3)


def test_the_journal_is_the_truth(store: Store) -> None:
    """A result.toml that says something else, or nothing, changes no answer."""
    finished_session(store, ID)
    paths = store.paths(ID)
    assert tomllib.loads(paths.result.read_text())["status"] == "succeeded"
    paths.result.write_text('status = "failed"')
    assert load_result(paths, ID).status == "succeeded"
    paths.result.unlink()
    assert load_result(paths, ID).text == "done"


def test_an_answer_that_could_not_be_written(store: Store) -> None:
    """Without its final.md a turn's answer is the last that was said, streamed or not; one that is empty stays so."""
    with publish(store, ID) as held:
        finish(held, text="one")
        begin(held, turn=2)
        journal = Journal(held.paths.transcript, PLAIN, turn=2)
        for text in ("first", "streamed"):
            for part in (text[:3], text[3:]):
                journal.append("agent_message", {"text": part, "chunk": True})
            journal.append("tool_call", {"id": text, "title": "ls"})
        journal.close()
        finish(held, turn=2, text="")
    paths = store.paths(ID)
    assert load_result(paths, ID).text == ""
    for turn in (1, 2):
        (paths.turn_output(turn) / "final.md").unlink()
    assert [load_result(paths, ID, turn=turn).text for turn in (1, 2)] == ["one", "streamed"]


def test_a_lost_turn_has_no_answer(store: Store) -> None:
    """Nobody lived to say which of its messages was one."""
    with publish(store, ID) as held:
        finish(held, text="on the way", status="lost", exit_code=1)
    (store.paths(ID).turn_output(1) / "final.md").unlink()
    assert load_result(store.paths(ID), ID).text == ""


def test_a_turn_that_runs_has_no_result_yet(store: Store) -> None:
    """Before the first end there is no result; during the second turn it is that of the first."""
    with publish(store, ID) as held:
        for turn, problem, command in (
            (None, f"No turn of session {ID} has finished.", "is-alive"),
            (1, f"Turn 1 of session {ID} has not finished.", "is-alive"),
            (2, f"Session {ID} has no turn 2.", "status"),
            (0, f"Session {ID} has no turn 0.", "status"),
        ):
            with pytest.raises(NotFoundError) as caught:
                load_result(held.paths, ID, turn=turn)
            assert (caught.value.message, caught.value.hint) == (problem, f"csa {command} {ID}")
        finish(held)
    with open_session(store, ID, PLAIN) as held:
        begin(held, turn=2)
        assert load_result(held.paths, ID).turn == 1


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"status": "succeeded", "exit_code": "none"},
        {"status": "failed", "exit_code": 1, "error": "it broke"},
        {"status": "failed", "exit_code": 1, "usage": 5},
        {"status": "failed", "exit_code": 1, "denied": 5},
        {"status": "failed", "exit_code": 1, "duration_s": "long"},
        {"status": "failed", "exit_code": 1e999},
    ],
)
def test_an_end_that_makes_no_sense_is_damage(store: Store, data: dict[str, object]) -> None:
    """A run_finished event of another shape is a state error that names the transcript."""
    finished_session(store, ID)
    paths = store.paths(ID)
    line = {"v": 1, "seq": 9, "ts": "2026-01-01T00:00:00.000Z", "type": "run_finished", "turn": 1, "data": data}
    with paths.transcript.open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(StateError) as caught:
        load_result(paths, ID)
    assert caught.value.path == paths.transcript


def test_times_that_are_missing_are_the_events(store: Store) -> None:
    """A sparse end of a newer or older csa is read, with the event's time."""
    finished_session(store, ID)
    paths = store.paths(ID)
    data = {"status": "of the future", "exit_code": 1, "more": True}
    line = {"v": 1, "seq": 9, "ts": "2026-01-01T00:00:00.000Z", "type": "run_finished", "turn": 1, "data": data}
    with paths.transcript.open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert load_result(paths, ID).finished_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_artifacts_are_what_agents_left(store: Store) -> None:
    """Files below output/ are artifacts, csa's own and those of other turns are not."""
    finished_session(store, ID)
    paths = store.paths(ID)
    kept: list[Path] = []
    for name in ("report.md", "deep/data.csv", "turn-0001/chart.svg", "turn-0001/sub/final.md", "final.md"):
        path = paths.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        kept.append(path)
    for name in ("prompt.md", "stdout.log", "stderr.log", "supervisor.log"):
        (paths.turn_output(1) / name).touch()
    paths.turn_output(2).mkdir()
    (paths.turn_output(2) / "other.txt").touch()
    assert list_artifacts(paths, 1) == tuple(sorted(map(str, kept)))
    assert load_result(paths, ID).artifacts == list_artifacts(paths, 1)


def test_reading_a_result_changes_nothing(store: Store) -> None:
    """Results are read without a trace."""
    finished_session(store, ID)
    before = snapshot(store.root)
    load_result(store.paths(ID), ID)
    assert snapshot(store.root) == before


def test_what_has_become_a_link_is_not_read(tmp_path: Path) -> None:
    """An agent that changes its files while they are copied leads nobody out: neither by a directory nor by a file."""
    root, private = tmp_path / "session" / "output", tmp_path / "private"
    for directory in (root / "plots", private):
        directory.mkdir(parents=True)
        (directory / "a.png").write_text(directory.name)
    (artifact,) = find_artifacts(SessionPaths(root.parent))
    (root / "plots").rename(tmp_path / "plots")
    (root / "plots").symlink_to(private)
    with pytest.raises(RefusedError, match="no longer a file"):
        copy_artifacts([artifact], tmp_path / "to")
    assert open_below(root, "plots/a.png") is None
    (root / "plots").unlink()
    (root / "plots").mkdir()
    (root / "plots" / "a.png").symlink_to(private / "a.png")
    with pytest.raises(RefusedError, match="no longer a file"):
        copy_artifacts([artifact], tmp_path / "to")
    assert open_below(root, "plots/a.png") is None
    root.rename(tmp_path / "output")
    root.symlink_to(tmp_path / "output")
    assert open_below(root, "plots/a.png") is None
    assert not (tmp_path / "to").exists()


def test_the_ends_of_lines_stay(store: Store) -> None:
    """The answer is read as it was written, with whichever ends its lines have."""
    finished_session(store, ID)
    paths = store.paths(ID)
    answer = "a\r\nb\rc\n"
    (paths.turn_output(1) / "final.md").write_bytes(answer.encode())
    assert load_result(paths, ID).text == answer
