"""Looking at sessions again and again: what is seen, and that nothing is read which has not changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from csa.model.usage import Usage
from csa.model.wording import describe
from csa.store.held import HeldSession, open_session
from csa.store.journal import Journal
from csa.store.observer import Observer
from csa.store.sessions import Store
from csa.store.shown import SessionInfo
from csa.structs import replace
from tests.conftest import ForeignWriter
from tests.store.support import IDS, PLAIN, begin, finish, finished_session, publish
from tests.support import snapshot

ID = IDS[0]


@pytest.fixture
def observer(store: Store) -> Observer:
    return Observer(store, describe)


def look(observer: Observer, session_id: str = ID) -> SessionInfo:
    info = observer.look(session_id)
    assert info
    return info


def tell(held: HeldSession, *events: tuple[str, Mapping[str, object]], turn: int = 1) -> None:
    journal = Journal(held.paths.transcript, PLAIN, turn=turn)
    for kind, data in events:
        journal.append(kind, data)
    journal.close()


def test_a_turn_is_followed_from_its_beginning_to_its_end(store: Store, observer: Observer) -> None:
    """Each look says what is being done now; the use is the session's, with the running turn's."""
    with publish(store, ID, usage=Usage(1000, 10)) as held:
        first = look(observer)
        assert (first.status, first.tool, first.turn, first.doing) == ("running", "codex", 1, "started codex: hello")
        assert first.started_at is not None
        assert first.duration_s is None
        tell(held, ("tool_call", {"title": "ls", "kind": "execute"}), ("tool_call_update", {"status": "completed"}))
        assert look(observer).doing == "$ ls"
        tell(held, ("usage", {"input_tokens": 500, "output_tokens": 5, "cost_usd": 0.5}))
        assert look(observer).doing == "$ ls"
        assert look(observer).usage == Usage(1500, 15, 0, 0.5)
        finish(held, text="all is well")
        assert look(observer).status == "running"  # until the lock is free
    last = look(observer)
    assert (last.status, last.doing, last.duration_s) == ("succeeded", "succeeded: all is well", 0.0)
    assert last.usage == Usage(1000, 10)


def test_a_streamed_message_is_shown_as_a_whole(store: Store, observer: Observer) -> None:
    """Chunks are put together, also those that were seen before."""
    with publish(store, ID) as held:
        tell(held, *(("agent_message", {"text": part, "chunk": True}) for part in ("I will ", "now ")))
        assert look(observer).doing == "I will now"
        tell(held, ("agent_message", {"text": "begin", "chunk": True}))
        assert look(observer).doing == "I will now begin"


def test_a_long_turn_is_read_from_its_end_only(store: Store, observer: Observer) -> None:
    """Of a turn of many events its beginning is taken from the lock, and what is said of it stays."""
    with publish(store, ID) as held:
        tell(held, *(("tool_call", {"title": f"step {n}", "kind": "execute"}) for n in range(1000)))
        seen = look(observer)
        assert (seen.doing, seen.tool, seen.turn) == ("$ step 999", "codex", 1)
        assert seen.started_at is not None
        tell(held, ("usage", {"input_tokens": 7}), *(("other", {"raw": {}}) for _ in range(10)))
        again = look(observer)
        assert again.usage is not None
        assert (again.doing, again.started_at, again.usage.input_tokens) == ("$ step 999", seen.started_at, 7)


def test_a_session_at_rest_is_not_read_again(store: Store, observer: Observer) -> None:
    """As long as its files look the same the same object is returned, whatever is in them."""
    finished_session(store, ID)
    seen = look(observer)
    transcript = store.paths(ID).transcript
    before = transcript.stat()
    transcript.write_text(transcript.read_text().replace("succeeded", "cancelled"))
    os.utime(transcript, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look(observer) is seen
    os.utime(transcript)
    assert look(observer).status == "cancelled"


def test_a_session_that_is_resumed_is_seen_to_run(store: Store, observer: Observer) -> None:
    """Its next turn writes to the transcript; before that it is nothing to look at."""
    finished_session(store, ID)
    assert not observer.is_running(ID)
    with open_session(store, ID, PLAIN, tool="claude-code") as held:
        begin(held, turn=2, tool="claude-code")
        assert observer.is_running(ID)
        info = look(observer)
        assert (info.status, info.tool, info.turn) == ("running", "claude-code", 2)
    assert look(observer).status == "lost"
    assert look(observer).doing == "lost: started claude-code: hello"
    assert look(observer).duration_s == 0.0


def test_a_change_of_the_record_alone_is_seen(store: Store, observer: Observer) -> None:
    """A session that is renamed while it rests is shown with its new name."""
    finished_session(store, ID)
    assert look(observer).record.state
    with open_session(store, ID, PLAIN) as held:
        held.save(replace(held.state, name="auth"))
    state = look(observer).record.state
    assert state
    assert state.name == "auth"


def test_sessions_come_and_go(store: Store, observer: Observer) -> None:
    """New ones are listed at the next look, removed ones are not, and the list is the same as long as it holds."""
    assert observer.ids() == []
    for session_id in IDS[:3]:
        finished_session(store, session_id)
        assert observer.ids()[-1] == session_id
    assert observer.ids() is observer.ids()
    with open_session(store, IDS[1], PLAIN) as held:
        held.remove()
    assert observer.ids() == [IDS[0], IDS[2]]
    assert observer.look(IDS[1]) is None


def test_what_cannot_be_read_is_shown_as_such(
    store: Store, observer: Observer, write_foreign: ForeignWriter, project: Path
) -> None:
    """Damaged records, other programs' records and nonsense in a transcript end no view."""
    write_foreign(IDS[0], text="schema = ")
    write_foreign(IDS[1], tools={"codex": {"last_exit_code": 1}})
    write_foreign(IDS[2]).transcript.write_text(
        f'{{"v":9,"seq":1,"ts":"never","type":"run_finished","turn":1,"data":{{"duration_s":"{project}"}}}}\n'
    )
    assert look(observer, IDS[0]).status == "damaged"
    assert (look(observer, IDS[1]).status, look(observer, IDS[1]).doing) == ("failed", "failed: Foreign work")
    assert (look(observer, IDS[2]).status, look(observer, IDS[2]).duration_s) == ("failed", 0.0)


def test_observing_writes_nothing(store: Store, observer: Observer) -> None:
    """The store is byte-identical after any number of looks, while a turn runs and when it is over."""
    finished_session(store, IDS[1])
    with publish(store, ID):
        before = snapshot(store.root)
        for _ in range(3):
            assert [look(observer, session_id).status for session_id in observer.ids()] == ["running", "succeeded"]
        assert snapshot(store.root) == before
