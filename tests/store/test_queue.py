"""The files of a queue: what is held, and the order of ids when the clock is set back."""

from __future__ import annotations

import time

import pytest

from csa.paths import SessionPaths
from csa.store.checking import check_session
from csa.store.queue import HeldError, claim, enqueue, entries, hold, lift_hold, move, why_held
from csa.store.sessions import Store
from tests.store.support import IDS, finished_session

ORDER = {"request": {"prompt": "p"}}
AT = "2026-01-01T00:00:00.000Z"


@pytest.fixture
def paths(store: Store) -> SessionPaths:
    finished_session(store, IDS[0])
    return store.paths(IDS[0])


def test_a_queue_that_is_held_meanwhile(paths: SessionPaths) -> None:
    """Who has planned the next turn does not begin it when the queue was held since; nothing is not held."""
    hold(paths, "nothing waits")
    assert why_held(paths) is None
    entry, _ = enqueue(paths, ORDER, at=AT, by=None)
    hold(paths, "session kill")
    assert why_held(paths) == "session kill"
    with pytest.raises(HeldError, match="session kill"):
        claim(paths, entry.entry_id)
    lift_hold(paths)
    claim(paths, entry.entry_id)


def test_a_clock_that_is_set_back(paths: SessionPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued later is later."""
    ids = []
    for hour in (3, 2, 1):
        monkeypatch.setattr(time, "time_ns", lambda hour=hour: hour * 3600 * 10**9)
        ids.append(enqueue(paths, ORDER, at=AT, by=None)[0].entry_id)
    assert [entry.entry_id for entry in entries(paths)] == ids


@pytest.mark.parametrize("content", [b"", b"{", b'{"order": {"request": {}}}', b"[" * 100_000], ids=range(4))
def test_what_a_check_finds(paths: SessionPaths, store: Store, content: bytes) -> None:
    """A prompt that cannot be read is damage, its order only worth a warning; each names its file."""
    ids = [enqueue(paths, ORDER, at=AT, by=None)[0].entry_id for _ in range(2)]
    move(paths, ids[1], 1)
    (paths.queue / f"{ids[1]}.json").write_bytes(content)
    (paths.queue / "order").write_bytes(content)
    found = {
        problem.path.name: problem for problem in check_session(store, paths) if problem.path.parent == paths.queue
    }
    kinds = {name: problem.severity for name, problem in found.items()}
    assert kinds == {f"{ids[1]}.json": "error"} | ({} if content.startswith(b'{"') else {"order": "warning"})
    assert f"csa queue {IDS[0]} --remove {ids[1]}" in found[f"{ids[1]}.json"].text
    assert [entry.entry_id for entry in entries(paths)] == sorted(ids)
