"""Changes asked of a running session: many askers at once, each of whom also tidies up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from csa.runner.turns.planning import new_id_now
from csa.store.edits import answer_to, ask_for_edit, forget, take_edits
from csa.store.sessions import Store
from tests.store.support import IDS, finished_session


def test_askers_do_not_disturb_each_other(store: Store) -> None:
    """Each gets its answer, and leaves nothing behind, although the others remove the same directory."""
    finished_session(store, IDS[0])
    paths = store.paths(IDS[0])

    def ask(number: int) -> str:
        edit_id = new_id_now()
        ask_for_edit(paths, edit_id, {"field": "description", "value": str(number), "by": "test"})
        while (answer := answer_to(paths, edit_id)) is None:
            for edit in take_edits(paths):
                edit.finish(value=edit.value)
        forget(paths, edit_id)
        return str(answer["value"])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(100))) == [str(number) for number in range(100)]
    assert not paths.edits.exists()


def test_a_session_that_is_gone(store: Store) -> None:
    """An error: the request is not made for ever."""
    with pytest.raises(FileNotFoundError):
        ask_for_edit(store.paths(IDS[0]), new_id_now(), {})
