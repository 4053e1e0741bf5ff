"""The one writer of a session that is held: both an event and the state it tells of or neither, and no silent loss."""

from __future__ import annotations

import errno
import os

import pytest

from csa.errors import BusyError, StateError
from csa.store.held import open_session
from csa.store.locks import is_locked
from csa.store.sessions import Store
from csa.store.statefile import load_state
from csa.store.writer import SessionWriter
from csa.structs import replace
from tests.store.support import IDS, PLAIN, child, finished_session
from tests.support import snapshot

ID = IDS[0]


def test_an_event_and_the_state_it_tells_of(store: Store) -> None:
    """Both are there, the event with the number of the last turn."""
    finished_session(store, ID)
    with open_session(store, ID, PLAIN) as held:
        (event,) = held.record("session_updated", {"what": "renamed"}, replace(held.state, name="auth"))
    assert (event.type, event.turn) == ("session_updated", 1)
    assert (load_state(held.paths.state).name, held.losses) == ("auth", [])
    assert held.paths.transcript.read_bytes().endswith(b'{"what":"renamed"}}\n')


def test_neither_where_the_state_cannot_be_written(store: Store) -> None:
    """A record that was damaged meanwhile is left as it is, and the transcript does not tell of what was not done."""
    finished_session(store, ID)
    with open_session(store, ID, PLAIN) as held:
        held.paths.state.write_text("no TOML at all")
        before = snapshot(held.paths.root)
        with pytest.raises(StateError):
            held.record("session_updated", {"what": "renamed"}, replace(held.state, name="auth"))
        assert snapshot(held.paths.root) == before
        assert held.losses == []


def test_neither_where_the_lock_was_lost(store: Store) -> None:
    """Who finds another lock in the place of its own writes nothing, and says so."""
    finished_session(store, ID)
    with open_session(store, ID, PLAIN) as held:
        held.paths.session_lock.unlink()
        held.paths.session_lock.touch()
        before = held.paths.transcript.read_bytes()
        with pytest.raises(BusyError, match="was lost; nothing was written"):
            held.record("session_updated", {"what": "renamed"}, replace(held.state, name="auth"))
    assert held.paths.transcript.read_bytes() == before
    assert load_state(held.paths.state).name is None


def test_what_cannot_be_written_is_told(store: Store) -> None:
    """With a limit on the size of files in place of a full disk: refused where it is needed, else a loss at the end."""
    finished_session(store, ID)
    code = """
        import resource, signal
        from csa.paths import SessionPaths
        from csa.store.writer import SessionWriter
        from tests.store.support import PLAIN
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        paths = SessionPaths(Path(args[0]))
        with SessionWriter(paths, PLAIN) as writer:
            writer.append("checkpoint", {})
        say(writer.losses)
        with SessionWriter(paths, PLAIN) as writer:
            writer.append("checkpoint", {})
            try:
                writer.require()
            except OSError as error:
                say(error.filename == str(paths.transcript))
    """
    with child(code, store.paths(ID).root) as writer:
        assert writer.hear() == "['events of the transcript were lost (1): File too large']"
        assert writer.hear() == "True"


def test_a_step_that_fails_takes_no_other_with_it(store: Store) -> None:
    """Each step of an end is tried, and each failure is a loss in words."""
    finished_session(store, ID)
    writer = SessionWriter(store.paths(ID), PLAIN)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    writer.attempt("final.md", fail)
    with writer.losing("the checkpoint", "made"):
        int("")
    writer.close()
    assert writer.losses == [
        "final.md could not be written: [Errno 28] No space left on device",
        "the checkpoint could not be made: invalid literal for int() with base 10: ''",
    ]


def test_a_transcript_that_cannot_be_closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that says so only then (EDQUOT on NFS) is a loss, and keeps no lock."""
    finished_session(store, ID)
    held = open_session(store, ID, PLAIN)
    held.append("other", {})
    close, refusing = os.close, [OSError]

    def refused(fd: int) -> None:
        close(fd)
        if refusing:
            raise refusing.pop()(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("csa.store.journal.os.close", refused)
    held.close()
    assert held.losses == ["the end of the transcript could not be written: [Errno 122] Disk quota exceeded"]
    assert not is_locked(held.paths.session_lock)
