"""Budgets over hosts, against a naive model: in whatever order, no allowance is booked twice or lost."""

import shutil
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.errors import BusyError, CsaError, RefusedError
from csa.model.config import Engine, combine_layers
from csa.model.limits import Budget
from csa.model.placement import Placement
from csa.model.usage import Usage
from csa.runner.caller import Caller
from csa.runner.context import Context
from csa.runner.hosts import escrow
from csa.runner.hosts.escrow import Escrow
from csa.store.placements import list_placements
from csa.store.sessions import Store
from csa.store.spending import Ledger, below, total
from csa.store.statefile import save_state
from csa.store.trees import begin_members, open_tree, read_members
from csa.structs import replace
from tests.effort import examples
from tests.store.support import IDS, finished_session

ROOT, CHILD, *AWAY = IDS[:5]
LIMITS = {ROOT: 100, CHILD: 60}
STEPS = 30
ANYTIME = ("reserve", "here", "sync", "release", "force")
OF_A_PLACER = {
    "": ("kill",),
    "reserved": ("send", "send", "send", "give back", "kill"),
    "sent": ("place", "place", "kill"),
    "placed": ("end", "kill"),
}


class Away:
    """What the model knows of one session on n1, of which every second is the child's."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.placer: Escrow | None = None
        self.asked = 0  # while it is not settled
        self.held = 0  # likewise: with what it had used before
        self.settled = 0
        self.used = 0  # there, in truth
        self.is_lost = False  # it was given back by force: nothing of it is heard any more
        self.state = ""  # "", reserved, sent, placed


class World:
    """A tree of two sessions on this host, with budgets, and the mirror of n1."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "here", Path("/p"))
        self.node = Store(root / "n1", Path("/srv"))
        self.mirror = Store(root / "here/.mirrors/n1", Path("/srv"))
        finished_session(self.store, ROOT, budget=Budget(tokens=LIMITS[ROOT]), max_depth=5)
        begin_members(self.store.paths(ROOT))
        finished_session(
            self.store,
            CHILD,
            parent_session_id=ROOT,
            root_session_id=ROOT,
            budget=Budget(tokens=LIMITS[CHILD]),
            depth=1,
        )
        with open_tree(self.store.root, self.store.load(ROOT)) as tree:
            tree.add(self.store.load(CHILD))
        self.spent = {ROOT: 0, CHILD: 0}
        self.away = {each: Away((ROOT, CHILD)[at % 2]) for at, each in enumerate(AWAY)}

    def recorded(self, session_id: str) -> int:
        """Return what counts against a budget."""
        accounts = Ledger(self.store.root).accounts(*read_members(self.store.root, self.store.load(ROOT)))
        return total(below(accounts, session_id)).tokens

    def expected(self, session_id: str) -> int:
        whose = {ROOT, CHILD} if session_id == ROOT else {CHILD}
        there = [each.held or each.settled for each in self.away.values() if each.parent in whose]
        return sum(self.spent[each] for each in whose) + sum(there)

    def truth(self, session_id: str) -> int:
        """Return what was used, as far as it can ever be heard."""
        whose = {ROOT, CHILD} if session_id == ROOT else {CHILD}
        there = [each.used for each in self.away.values() if each.parent in whose and not each.is_lost]
        return sum(self.spent[each] for each in whose) + sum(there)

    def left(self, session_id: str) -> int:
        return min(LIMITS[each] - self.expected(each) for each in {ROOT, session_id})

    def hear(self) -> None:
        """Bring the mirror up to date."""
        (self.mirror.root / ".mirror").mkdir(parents=True, exist_ok=True)
        (self.mirror.root / ".mirror" / "heard").touch()
        for session_id, away in self.away.items():
            if away.used and not away.is_lost:
                self._run(session_id, away)
                at = self.mirror.paths(session_id).root
                shutil.rmtree(at, ignore_errors=True)
                shutil.copytree(self.node.paths(session_id).root, at)

    def _run(self, session_id: str, away: Away) -> None:
        if not self.node.has(session_id):
            finished_session(self.node, session_id, parent_session_id=away.parent, parent_host="h", parent_project="/p")
        state = self.node.load(session_id)
        save_state(self.node.paths(session_id).state, replace(state, usage=Usage(input_tokens=away.used)))

    def close(self) -> None:
        for away in self.away.values():
            if away.placer:
                away.placer.close()


@pytest.mark.thorough
@given(st.integers(0, 1 << 32))
@examples(16)
def test_nothing_is_booked_twice_or_lost(seed: int) -> None:
    """Sessions are placed, killed, settled and given back, turns run here and there: no budget is ever exceeded."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            for _ in range(STEPS):
                session_id = random.choice(AWAY)
                what = random.choice(_choices(world.away[session_id]))
                _step(world, what, session_id, random.randint(1, 40))
                for session_id, limit in LIMITS.items():
                    assert world.truth(session_id) <= world.recorded(session_id) <= limit, what
                    assert world.recorded(session_id) == world.expected(session_id), what
                listed = {each.session_id: each.held.tokens for each in list_placements(world.store.root)}
                assert listed == {each: away.asked for each, away in world.away.items() if away.held}
        finally:
            world.close()


def _choices(away: Away) -> list[str]:
    """Return what may happen to a session, the likelier the more often."""
    found = [*ANYTIME, *(OF_A_PLACER[away.state] * 3 if away.placer else ())]
    return found + ["there"] * 4 if away.state in {"sent", "placed"} else found


def _step(world: World, what: str, session_id: str, amount: int) -> None:
    away = world.away[session_id]
    if what == "reserve":
        _reserve(world, session_id, away, amount)
    elif what == "here":
        _spend(world, away.parent, amount)
    elif what == "there" and away.state in {"sent", "placed"} and not away.is_lost:
        away.used += max(0, min(amount, away.asked - away.used))  # the node refuses what is beyond
    elif what == "sync":
        world.hear()
        for placement in escrow.settle_heard(world.store.root, "n1"):
            _settled(world.away[placement.session_id])
    elif what in {"release", "force"}:
        _release(world, session_id, away, force=what == "force")
    elif away.placer:
        away.placer = _go_on(away, away.placer, what)


def _go_on(away: Away, placer: Escrow, what: str) -> Escrow | None:
    """Let the process that has placed it go on; return it if it is still there."""
    if what == "kill":
        placer.close()
        return None
    if what == "send" and away.state == "reserved":
        placer.sent()
        away.state = "sent"
    elif what == "place" and away.state == "sent":
        placer.placed({"project": "/srv", "turn": 1})
        away.state = "placed"
    elif what == "end" and away.state == "placed":
        placer.ended({"spent": {"tokens": away.used}, "running": 0})
        _settled(away)
    elif what == "give back" and away.state == "reserved":
        placer.give_back()
        _settled(away, away.settled)
    return placer


def _reserve(world: World, session_id: str, away: Away, amount: int) -> None:
    state = world.store.load(away.parent)
    caller = Caller(state, world.store.paths(away.parent), world.store.root)
    context = Context(
        store=world.store, environ={}, directory="/p", config=lambda _: combine_layers([]), caller=lambda: caller
    )
    if away.is_lost or (away.used and not world.mirror.has(session_id)):
        return  # it would be called new
    others = away.settled if world.mirror.has(session_id) else 0
    can = not away.held and max(amount, others) < world.left(away.parent) + others
    try:
        placer = escrow.reserve(context, Engine("n1"), session_id, Budget(tokens=amount))
    except (RefusedError, BusyError):
        assert not can
        return
    assert can
    if away.placer:
        away.placer.close()
    away.placer, away.state, away.asked, away.held = placer, "reserved", amount, max(amount, away.settled)


def _spend(world: World, session_id: str, amount: int) -> None:
    amount = min(amount, max(0, world.left(session_id)))  # a turn is ended when nothing is left
    world.spent[session_id] += amount
    state = world.store.load(session_id)
    save_state(world.store.paths(session_id).state, replace(state, usage=Usage(input_tokens=world.spent[session_id])))


def _settled(away: Away, used: int | None = None) -> None:
    away.settled, away.held, away.state = away.used if used is None else used, 0, ""


def _release(world: World, session_id: str, away: Away, *, force: bool) -> None:
    def ask(_: Placement) -> bool:
        world.hear()
        return away.used == 0

    try:
        escrow.release(world.store.root, session_id, ask, force=force)
    except CsaError:
        return
    if force and away.state != "reserved":
        away.is_lost = True
        seen = world.mirror.load(session_id).usage.tokens if world.mirror.has(session_id) else 0
        _settled(away, max(seen, away.settled))
    else:
        _settled(away, away.settled if away.state == "reserved" else away.used)
