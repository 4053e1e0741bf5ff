"""A transcript that is read while it grows, and the families of sessions."""

from __future__ import annotations

from pathlib import Path

from csa.paths import SessionPaths
from csa.store.family import family_of
from csa.store.following import Follower, follow
from csa.store.journal import Journal
from csa.store.sessions import Store
from tests.store.support import IDS, PLAIN, finished_session, publish


def seqs(follower: Follower) -> list[int]:
    return [event.seq for event in follower.read()]


def test_what_is_added_is_read_once(tmp_path: Path) -> None:
    """Each event is seen once, whole, in order, also one that is longer than a block."""
    path = tmp_path / "transcript.jsonl"
    with Follower(path) as follower:
        assert seqs(follower) == []
        journal = Journal(path, PLAIN, turn=1)
        for text in ("a", "b", "x" * (3 << 20)):
            journal.append("agent_message", {"text": text})
        journal.flush()
        assert seqs(follower) == [1, 2, 3]
        assert seqs(follower) == []
        journal.append("agent_message", {"text": "c"})
        journal.close()
        assert seqs(follower) == [4]


def test_a_partial_line_is_waited_for(tmp_path: Path) -> None:
    """A line is not read before its end is there; one that is cut off by the next writer is never read."""
    path = tmp_path / "transcript.jsonl"
    journal = Journal(path, PLAIN, turn=1)
    journal.append("agent_message", {"text": "a"})
    journal.close()
    with Follower(path) as follower:
        with path.open("ab") as file:
            file.write(b'{"v":1,"seq":2,"ts":"2026-01-01T00:00:00')
        assert seqs(follower) == [1]
        journal = Journal(path, PLAIN, turn=2)
        journal.append("agent_message", {"text": "b"})
        journal.close()
        (event,) = follower.read()
        assert (event.seq, event.turn) == (2, 2)


def test_a_tail_begins_late(tmp_path: Path) -> None:
    """Of what was there only the last are read, or none; what comes is read whatever the tail."""
    path = tmp_path / "transcript.jsonl"
    journal = Journal(path, PLAIN, turn=1)
    for text in "abc":
        journal.append("agent_message", {"text": text})
    journal.flush()
    with Follower(path, tail=2) as two, Follower(path, tail=0) as none, Follower(path, tail=9) as many:
        assert (seqs(two), seqs(none), seqs(many)) == ([2, 3], [], [1, 2, 3])
        journal.append("agent_message", {"text": "d"})
        journal.close()
        assert (seqs(two), seqs(none), seqs(many)) == ([4], [4], [4])


def test_following_ends_with_the_turn(tmp_path: Path) -> None:
    """A session at rest is looked at once; one that runs as long as it does."""
    store = Store(tmp_path / "root", tmp_path / "project")
    finished_session(store, IDS[0])
    paths = store.paths(IDS[0])
    assert [[event.type for event in look] for look in follow(paths)] == [
        ["run_started", "agent_message", "run_finished"]
    ]
    held = publish(store, IDS[1])
    looks = follow(SessionPaths(held.paths.root))
    assert [event.type for event in next(looks)] == ["run_started"]
    assert list(next(looks)) == []
    held.close()
    assert [list(look) for look in looks] == [[]]


def test_a_family_spans_projects(tmp_path: Path) -> None:
    """Descendants are found in all projects, parents first, new ones too, whatever their ids; strangers are not."""
    root = tmp_path / "root"
    one, two = Store(root, tmp_path / "one"), Store(root, tmp_path / "two")
    finished_session(one, IDS[5])
    finished_session(two, IDS[1], parent_session_id=IDS[5], depth=1)
    finished_session(one, IDS[0], parent_session_id=IDS[1], depth=2)
    finished_session(one, IDS[6], description=f'parent_session_id = "{IDS[5]}"')
    family = family_of([(one, IDS[5])])
    assert family.look() == [(two, IDS[1]), (one, IDS[0])]
    finished_session(two, IDS[7], parent_session_id=IDS[0], depth=3)
    assert family.look() == [(two, IDS[1]), (one, IDS[0]), (two, IDS[7])]
    one.paths(IDS[0]).state.write_text(one.paths(IDS[0]).state.read_text() + "\n[broken")
    assert family_of([(one, IDS[1])]).look() == [(one, IDS[0]), (two, IDS[7])]
