"""Collecting while others work: what was planned is judged again once it is held, and what was used meanwhile stays."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

import pytest

from csa.model.collection import Rule
from csa.runner.client import Csa
from csa.runner.sessions.collecting import Item, Report, collect
from csa.store.held import open_session
from csa.store.retiring import bring_back, hold, retire
from csa.store.sessions import Store
from csa.structs import replace
from tests.store.support import IDS, NOON, PLAIN, begin, finish, finished_session

ID, OTHER = IDS[:2]
LATER = NOON + timedelta(days=100)
OLD = Rule(days=30, damaged=True)
Between = Callable[[Store], object]


def collect_while(store: Store, between: Between, *, rule: Rule = OLD) -> Report:
    """Collect; between the plan and the moment at which a session is taken, something is done with it."""

    def interfere(_item: Item) -> None:
        between(store)

    context = Csa(store.project, root=store.root).context
    return collect(context, rule, [store], command="gc", now=LATER, dry_run=False, progress=interfere)


def use(store: Store) -> None:
    with open_session(store, ID, PLAIN) as held:
        begin(held, turn=2)
        finish(held, turn=2)
        held.save(replace(held.state, last_accessed=LATER))


def pin(store: Store) -> None:
    with open_session(store, ID, PLAIN, errand="change") as held:
        held.save(replace(held.state, pinned=True))


@pytest.mark.parametrize("purge", [False, True], ids=["retire", "purge"])
@pytest.mark.parametrize("between", [use, pin])
def test_what_is_used_between_the_plan_and_its_turn_stays(store: Store, between: Between, *, purge: bool) -> None:
    """A session that was resumed, or pinned, after it was found to be old is in its place, and is not reported."""
    finished_session(store, ID)
    report = collect_while(store, between, rule=replace(OLD, purge=purge))
    assert store.ids() == [ID]
    assert (report.retired, report.purged, report.failures) == ([], [], [])
    assert store.record(ID).status == "succeeded"


def test_what_nobody_uses_meanwhile_goes(store: Store) -> None:
    """The other old session goes, so that it is the use that keeps one."""
    finished_session(store, ID)
    finished_session(store, OTHER)
    report = collect_while(store, use)
    assert (store.ids(), [item.session_id for item in report.retired]) == ([ID], [OTHER])


def test_what_is_taken_between_the_plan_and_its_turn_stays(store: Store) -> None:
    """Whoever holds a session keeps it, and that is no failure of the collector."""
    finished_session(store, ID)
    with ExitStack() as taken:
        report = collect_while(store, lambda store: taken.enter_context(open_session(store, ID, PLAIN)))
        assert (store.ids(), report.retired, report.failures) == ([ID], [], [])


def test_what_is_repaired_between_the_plan_and_its_turn_stays(store: Store) -> None:
    """A damaged session whose record can be read again, and is young, is damaged no more."""
    finished_session(store, ID, last_accessed=LATER)
    paths = store.paths(ID)
    sound = paths.state.read_bytes()
    paths.state.write_bytes(b"not toml")
    for path in (*paths.root.iterdir(), paths.root):
        os.utime(path, (NOON.timestamp(),) * 2)
    rule = replace(OLD, purge=True)
    report = collect_while(store, lambda _: paths.state.write_bytes(sound), rule=rule)
    assert (store.ids(), report.purged, report.failures) == ([ID], [], [])


def test_what_is_retired_anew_between_the_plan_and_its_turn_can_be_undone(store: Store) -> None:
    """A retired session whose time is over was restored, used, and retired again: it has a week from then."""
    finished_session(store, ID)
    with hold(store.paths(ID)):
        retire(store, store.paths(ID), NOON)

    def again(store: Store) -> None:
        with hold(store.retired_paths(ID)):
            bring_back(store, store.retired_paths(ID), LATER)
        with hold(store.paths(ID)):
            retire(store, store.paths(ID), LATER)

    report = collect_while(store, again)
    assert (store.retired_ids(), report.purged, report.failures) == ([ID], [], [])
