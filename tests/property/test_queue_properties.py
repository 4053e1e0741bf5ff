"""The queue of a session, against a naive model: its order, and each prompt at most once, wherever a taker dies."""

import json
import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from csa.paths import SessionPaths
from csa.store.queue import GoneError, claim, count_queued, drop, enqueue, entries, move, next_entry, remove, unclaim
from tests.effort import examples

AT = "2026-01-01T00:00:00.000Z"
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.just(0), st.just(0)),
        st.tuples(st.just("move"), st.integers(0, 9), st.integers(1, 10)),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
        st.tuples(st.sampled_from(("run", "die before", "die after", "refuse")), st.just(0), st.just(0)),
    ),
    max_size=30,
)


class Model:
    """A list. `taken` is at its front, of a turn that has not begun; `ghost` there, of one that has."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.taken: str | None = None
        self.ghost: str | None = None
        self.ran: list[str] = []

    @property
    def listed(self) -> list[str]:
        front = self.ghost or self.taken
        return [front, *self.waiting] if front else self.waiting


@given(STEPS)
@examples(40)
def test_order_and_at_most_once(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is added, moved, removed and taken, by takers that die at any step, happens as in a list."""
    with tempfile.TemporaryDirectory() as directory:
        paths = SessionPaths(Path(directory))
        (paths.root / "locks").mkdir()
        model = Model()
        for what, which, position in steps:
            _step(paths, model, what, which=which, position=position)
            assert [entry.entry_id for entry in entries(paths)] == model.listed
            assert count_queued(paths) == len(model.listed)
        assert len(set(model.ran)) == len(model.ran)
        assert model.ran == [json.loads(line)["data"]["queued"] for line in _lines(paths)]


def _step(paths: SessionPaths, model: Model, what: str, *, which: int, position: int) -> None:
    listed = model.listed
    if what == "add":
        entry, place = enqueue(paths, {"request": {"prompt": "p"}}, at=AT, by=None)
        assert place == len(listed) + 1
        model.waiting.append(entry.entry_id)
    elif what == "move" and which < len(model.waiting) and position <= len(listed):
        entry_id = model.waiting[which]
        move(paths, entry_id, position)
        rest = [each for each in listed if each != entry_id]
        rest.insert(position - 1, entry_id)
        model.waiting = [each for each in rest if each in model.waiting]
    elif what == "remove" and which < len(listed):
        remove(paths, listed[which])
        _forget(model, listed[which])
    elif what in {"run", "die before", "die after", "refuse"} and listed:
        _take(paths, model, what)


def _take(paths: SessionPaths, model: Model, how: str) -> None:
    """Take the next prompt, as the next turn does, as far as it gets."""
    entry = next_entry(paths)
    assert entry is not None
    try:
        claim(paths, entry.entry_id)
    except GoneError:
        assert entry.entry_id in model.ran
        model.ghost = None
        return
    assert entry.entry_id == model.listed[0]
    _forget(model, entry.entry_id)
    if how == "refuse":
        unclaim(paths, entry.entry_id)
        model.waiting.insert(0, entry.entry_id)
    elif how == "die before":
        model.taken = entry.entry_id
    else:
        with paths.transcript.open("a") as file:
            data = {"queued": entry.entry_id}
            file.write(json.dumps({"v": 1, "seq": 1, "ts": AT, "type": "run_started", "turn": 1, "data": data}) + "\n")
        model.ran.append(entry.entry_id)
        if how == "run":
            drop(paths, entry.entry_id)
        else:
            model.ghost = entry.entry_id


def _forget(model: Model, entry_id: str) -> None:
    model.waiting = [each for each in model.waiting if each != entry_id]
    model.taken = None if model.taken == entry_id else model.taken
    model.ghost = None if model.ghost == entry_id else model.ghost


def _lines(paths: SessionPaths) -> list[str]:
    return paths.transcript.read_text().splitlines() if os.path.exists(paths.transcript) else []
