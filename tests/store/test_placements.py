"""Escrow: what goes to another host is booked before, counts until it is settled, and is neither doubled nor lost."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from csa.errors import BusyError, NotFoundError, RefusedError, UsageError
from csa.model.config import Engine, Layer, combine_layers
from csa.model.limits import Budget, Limits, Spent
from csa.model.placement import Placement, PlacementFault, placement_from_json
from csa.model.usage import Usage
from csa.runner.caller import Caller, find_caller
from csa.runner.context import Context
from csa.runner.environment import session_environment
from csa.runner.hosts import escrow
from csa.runner.hosts.escrow import Escrow
from csa.runner.hosts.passport import caller_of, passport_of
from csa.runner.request import RunRequest
from csa.runner.turns.admission import open_admission
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_turn
from csa.runner.turns.worktree import refuse_foreign
from csa.store.checking import check_session
from csa.store.genealogy import ancestors
from csa.store.held import build_session
from csa.store.placements import find_placement, list_placements, save_placement
from csa.store.sessions import Store
from csa.store.spending import Ledger, total
from csa.store.trees import begin_members, open_tree, read_members
from csa.store.worktrees import link_of
from csa.structs import replace
from tests.process.tracing import can_trace, run_until_change
from tests.store.support import IDS, NOON, PLAIN, finished_session

ROOT, CHILD, AWAY, MORE, LOCAL = IDS[:5]
ASKED = RunRequest(prompt="do it", tool="codex")


class Reserve(Protocol):
    """Reserves as `escrow.reserve`."""

    def __call__(
        self, session_id: str = ..., tokens: int = ..., *, inside: str | None = ..., config: dict[str, Any] | None = ...
    ) -> Escrow: ...


def used(tokens: int) -> Spent:
    return Spent(Usage(input_tokens=tokens), 1.0)


@pytest.fixture
def family(store: Store) -> Store:
    """A root with a budget of 100 tokens, 10 of them used, and its child."""
    finished_session(
        store, ROOT, max_depth=5, budget=Budget(tokens=100), usage=Usage(input_tokens=10), permission="edit"
    )
    begin_members(store.paths(ROOT))
    finished_session(store, CHILD, parent_session_id=ROOT, root_session_id=ROOT, depth=1, max_depth=5)
    with open_tree(store.root, store.load(ROOT)) as tree:
        tree.add(store.load(CHILD))
    return store


def context_of(store: Store, caller: Caller | str | None, config: dict[str, Any] | None = None) -> Context:
    """Return what an agent of a session, or of one on another host, calls csa with."""
    environ = dict(os.environ)
    if isinstance(caller, str):
        environ |= session_environment(store.load(caller), store.paths(caller), turn=1, tool="codex", root=store.root)
    return Context(
        store=store,
        environ=environ,
        directory=store.project,
        config=lambda _: combine_layers([Layer("user", config or {})]),
        caller=lambda: caller if isinstance(caller, Caller) else find_caller(environ, store.root),
    )


@pytest.fixture
def reserve(family: Store) -> Iterator[Reserve]:
    """Reserve for a session on n1, as a process that lives until the end of the test."""
    with ExitStack() as stack:

        def reserve(
            session_id: str = AWAY, tokens: int = 0, *, inside: str | None = ROOT, config: dict[str, Any] | None = None
        ) -> Escrow:
            context = context_of(family, inside, config)
            return stack.enter_context(escrow.reserve(context, Engine("n1"), session_id, Budget(tokens=tokens)))

        yield reserve


def tokens_of(store: Store) -> int:
    top = store.load(ROOT)
    return total(Ledger(store.root).accounts(*read_members(store.root, top))).tokens


def plan(context: Context, new_id: str = LOCAL) -> TurnPlan:
    return plan_turn(context, ASKED, new_id=new_id, now=NOON)


def mirrored(store: Store, session_id: str, tokens: int = 0, **changes: Any) -> Path:
    """Let the mirror of n1 have a session that ran there; return its directory."""
    node, mirror = (Store(root, Path("/srv/there")) for root in (store.root.parent / "n1", store.root / ".mirrors/n1"))
    finished_session(node, session_id, root_session_id=ROOT, usage=Usage(input_tokens=tokens), **changes)
    (mirror.root / ".mirror").mkdir(parents=True, exist_ok=True)
    (mirror.root / ".mirror" / "heard").touch()
    shutil.copytree(node.paths(session_id).root, mirror.paths(session_id).root)
    return mirror.paths(session_id).root


def placed_there(store: Store, tokens: int) -> Path:
    """Do so with the session that was placed, and its budget."""
    known = {"parent_host": "home", "parent_project": str(store.project), "depth": 1, "budget": Budget(tokens=60)}
    return mirrored(store, AWAY, tokens, parent_session_id=ROOT, **known)


def ask_nobody(placement: Placement) -> bool:
    pytest.fail(f"{placement.host} was asked")


def tell(session: Path, state: str) -> None:
    """Say of a session in a mirror whether it runs."""
    (session / "home.json").write_text(json.dumps({"state": state, "owner": None}))


def test_an_allowance_counts_until_it_is_settled(family: Store, reserve: Reserve) -> None:
    """It is booked, and listed, before anything is sent; then what was used counts in its place, once."""
    escrowed = reserve(tokens=60)
    placement = escrowed.placement
    assert list_placements(family.root) == [placement]
    assert (placement.parent, placement.top, placement.state) == (ROOT, (str(family.project), ROOT), "reserved")
    assert tokens_of(family) == 70
    escrowed.sent()
    escrowed.placed({"session_id": AWAY, "project": "/srv/there", "turn": 1})
    assert (find_placement(family.root, escrowed.id).state, tokens_of(family)) == ("placed", 70)
    escrowed.ended({"ended": 0, "spent": used(20).to_dict(), "running": 1})
    assert tokens_of(family) == 70
    for _ in range(2):
        escrowed.ended({"ended": 0, "spent": used(25).to_dict(), "running": 0})
        assert (tokens_of(family), list_placements(family.root)) == (35, [])


def test_more_than_is_left_is_refused(family: Store, reserve: Reserve) -> None:
    """Whoever asks says how much goes there; never more than all budgets above leave, and something stays."""
    with pytest.raises(UsageError) as caught:
        reserve()
    assert caught.value.hint == "--allow-tokens N: 90 tokens left"
    reserve(tokens=60)
    for tokens in (31, 30):
        with pytest.raises(RefusedError, match="leaves 30 tokens"):
            reserve(MORE, tokens)
    assert [each.session_id for each in list_placements(family.root)] == [AWAY]
    reserve(MORE, 29, inside=CHILD)
    assert tokens_of(family) == 99
    with pytest.raises(BusyError, match="not settled"):
        reserve(tokens=1)


def test_what_is_reserved_is_not_there_for_turns_here(family: Store, reserve: Reserve) -> None:
    """And no local turn begins, once the rest is used."""
    reserve(tokens=60)
    state = family.load(ROOT)
    with open_tree(family.root, state) as tree:
        tree.leave(LOCAL, used(0))
    with open_admission(plan(context_of(family, ROOT))):
        pass
    reserve(MORE, 29)
    finished_session(family, IDS[6], parent_session_id=ROOT, root_session_id=ROOT, usage=Usage(input_tokens=1))
    with open_tree(family.root, state) as tree:
        tree.add(family.load(IDS[6]))
    with pytest.raises(RefusedError, match="used up"), open_admission(plan(context_of(family, ROOT))):
        pass


def test_limits_on_sessions_count_what_is_elsewhere(family: Store, reserve: Reserve) -> None:
    """As for any child, before anything is booked; what was given back does not count."""
    config: dict[str, Any] = {"max_children": 2}
    escrowed = reserve(tokens=5, config=config)
    with pytest.raises(RefusedError, match="max_children is 2"):
        reserve(MORE, 5, config=config)
    escrowed.give_back()
    reserve(MORE, 5, config=config)
    with pytest.raises(RefusedError, match="max_depth is 1"):
        reserve(LOCAL, 5, inside=CHILD, config={"max_depth": 1})


def test_what_was_not_sent_is_given_back_without_asking(family: Store, reserve: Reserve) -> None:
    """What is being placed is not."""
    with reserve(tokens=60), pytest.raises(BusyError, match="is still there"):
        escrow.release(family.root, AWAY, ask_nobody)
    escrow.release(family.root, AWAY, ask_nobody)
    assert (tokens_of(family), os.listdir(family.root / ".placed")) == (10, [])
    with pytest.raises(NotFoundError):
        escrow.release(family.root, AWAY, ask_nobody)


def test_what_was_sent_after_somebody_has_looked_is_not_given_back(family: Store, reserve: Reserve) -> None:
    """Who takes it for what a dead process was about to send finds that it is not."""
    escrowed = reserve(tokens=60)
    (seen,) = list_placements(family.root)
    escrowed.sent()
    escrowed.close()
    escrow.give_back(family.root, seen)
    assert tokens_of(family) == 70


def test_what_was_sent_is_asked_for(family: Store, reserve: Reserve) -> None:
    """It may run there, or arrive late; what a host that turned up again has used counts after all."""
    escrowed, asked = reserve(tokens=60), list[str]()
    escrowed.sent()
    escrowed.close()

    def ask(placement: Placement) -> bool:
        asked.append(placement.host)
        return False

    with pytest.raises(BusyError, match="may yet arrive"):
        escrow.release(family.root, AWAY, ask)
    tell(placed_there(family, 20), "alive")
    with pytest.raises(BusyError, match="runs on n1"):
        escrow.release(family.root, AWAY, ask)
    assert (asked, tokens_of(family)) == (["n1", "n1"], 70)
    escrow.release(family.root, AWAY, ask, force=True)
    assert tokens_of(family) == 30
    mirrored(family, MORE, 7, parent_session_id=AWAY)
    mirrored(family, LOCAL, 9, parent_session_id=ROOT, parent_host="home")  # another's
    assert tokens_of(family) == 37


def test_what_nobody_waits_for_is_settled_when_its_host_is_heard(family: Store, reserve: Reserve) -> None:
    """A detached one, say; not while it runs, or its placer is there. Its commits may still have to come."""
    escrowed = reserve(tokens=60)
    escrowed.sent()
    assert escrow.settle_heard(family.root, "n1") == []
    session = placed_there(family, 20)
    tell(session, "alive")
    assert escrow.settle_heard(family.root, "n1") == []
    tell(session, "not_alive")
    escrowed.placed({"project": "/srv/there", "turn": 1}, awaits_code=True)
    assert escrow.settle_heard(family.root, "n1") == []
    escrowed.close()
    (settled,) = escrow.settle_heard(family.root, "n1")
    assert (settled.spent, tokens_of(family)) == (Spent(Usage(input_tokens=20)), 30)
    assert list_placements(family.root) == [settled]
    escrow.fetched(family.root, settled.id)
    assert list_placements(family.root) == []


def test_a_session_that_goes_on_takes_its_allowance_along_again(family: Store, reserve: Reserve) -> None:
    """The whole, of which it has used a part; for one below it there, that above it is booked."""
    escrow.settle(family.root, reserve(tokens=60).id, used(20))
    placed_there(family, 20)
    mirrored(family, MORE, parent_session_id=AWAY)
    for session_id, inside in ((AWAY, None), (MORE, None), (AWAY, CHILD)):
        with reserve(session_id, inside=inside) as escrowed:
            assert (escrowed.placement.booked, tokens_of(family)) == (AWAY, 70)
            own = {"tokens": 60, "usd": 0, "time_s": 0}
            assert escrowed.allowance == (own if session_id == AWAY else None)
            escrowed.give_back()
        assert tokens_of(family) == 30
    with pytest.raises(RefusedError, match="leaves 90 tokens"):
        reserve(AWAY, 91, inside=None)
    reserve(AWAY, 15)  # which is less than it has used: its host refuses the turn
    assert tokens_of(family) == 30


def test_a_project_that_has_moved_pays_all_the_same(family: Store, reserve: Reserve) -> None:
    """Its root is found where it was adopted, to settle and to book."""
    placement = reserve(tokens=60).placement
    save_placement(family.root, replace(placement, top=("/moved/from", ROOT)))
    escrow.settle(family.root, placement.id, used(20))
    assert tokens_of(family) == 30
    known = {"parent_host": "home", "parent_project": "/moved/from", "budget": Budget(tokens=60)}
    mirrored(family, AWAY, 20, parent_session_id=ROOT, **known)
    reserve(inside=None)
    assert tokens_of(family) == 70


def test_outside_of_any_tree_it_is_only_listed(family: Store, reserve: Reserve) -> None:
    """A root there has its own budget there, and no budget here."""
    escrowed = reserve(inside=None)
    assert (escrowed.placement.parent, escrowed.passport, escrowed.allowance, tokens_of(family)) == (
        None,
        None,
        None,
        10,
    )
    assert escrow.settle(family.root, escrowed.id, used(5))
    assert (escrow.settle(family.root, escrowed.id, used(5)), tokens_of(family)) == (None, 10)


def test_the_passport_makes_a_caller_of_a_session_that_is_not_here(family: Store, tmp_path: Path) -> None:
    """Depth, permission and limits bind there as here; the record says where its parent is, and is not damaged."""
    context = context_of(family, CHILD, {"max_tree_sessions": 4, "max_running": 3})
    passport = json.loads(json.dumps(passport_of(context)))
    assert passport["lineage"] == [CHILD, ROOT]
    assert passport["limits"]["max_tree_sessions"] == 2
    assert passport["limits"]["max_running"] is None
    node = Store(tmp_path / "node", family.project)
    caller = caller_of(passport, node.root)
    there = context_of(node, caller)
    with pytest.raises(RefusedError, match="more than the 'read-only'"):
        plan_turn(there, replace(ASKED, permission="full"), new_id=AWAY)
    made = plan(there, AWAY)
    with open_admission(made) as admission:
        held = build_session(node, made.state, PLAIN, tool="codex")
        admission.admit(held)
        held.publish()
        held.close()
    state = node.load(AWAY)
    assert (state.parent_session_id, state.parent_project, state.depth) == (CHILD, str(family.project), 2)
    assert (state.parent_host, state.root_session_id) == (os.uname().nodename, ROOT)
    assert state.limits == Limits(max_tree_sessions=2)
    assert list(ancestors(node.root, state)) == []
    assert check_session(node, node.paths(AWAY)) == []
    with pytest.raises(RefusedError, match="max_depth is 2"):
        plan(context_of(node, AWAY, {"max_depth": 2}))
    for wrong in ({"limits": {"max_children": -1}}, {"permission": "all"}, {"depth": "0"}, {"lineage": ["x"]}):
        with pytest.raises(RefusedError, match="damaged"):
            caller_of({**passport, **wrong}, node.root)
    assert passport_of(context_of(family, None)) is None


def test_a_repository_that_an_agent_has_changed_on_the_way_is_used_nowhere(family: Store, tmp_path: Path) -> None:
    """Its worktree on shared files is the one that was seen here only with the same link to git's directory."""
    top = tmp_path / "tree"
    top.mkdir()
    (top / ".git").write_text(f"gitdir: {tmp_path}/its\n")
    seen = {"repository": str(top), "link": link_of(str(top))}
    passport = {**passport_of(context_of(family, CHILD)), **seen}  # type: ignore[dict-item]  # it is an agent's
    node = Store(tmp_path / "node", family.project)
    there = context_of(node, caller_of(json.loads(json.dumps(passport)), node.root))
    refuse_foreign(there, str(top))
    (top / ".git").write_text(f"gitdir: {tmp_path}/another\n")
    with pytest.raises(RefusedError, match="may not use"):
        refuse_foreign(there, str(top))


def test_an_older_csa_takes_it_for_a_deleted_session(family: Store, reserve: Reserve) -> None:
    """One that has spent the allowance, or what was settled: its budgets hold, and it counts no child too many."""
    escrowed = reserve(tokens=60)
    assert old_reading(family.paths(ROOT).tree_lock) == {AWAY: 60}
    escrow.settle(family.root, escrowed.id, used(25))
    assert old_reading(family.paths(ROOT).tree_lock) == {AWAY: 25}


def old_reading(roll: Path) -> dict[str, int]:
    """Read a list as csa did before there were hosts: the last `gone` of each member counts."""
    members, gone = dict[str, str](), dict[str, int]()
    for line in roll.read_text().splitlines():
        entry = json.loads(line)
        if "gone" in entry:
            gone[entry["id"]] = Spent.from_dict(entry["gone"]).tokens
        elif "id" in entry:
            members[entry["id"]] = entry["project"]
    assert members.keys() >= gone.keys()
    return gone


def test_a_line_that_was_cut_off_books_nothing(family: Store, reserve: Reserve) -> None:
    """At whatever byte of it: a member without its allowance would be one that costs nothing."""
    roll = family.paths(ROOT).tree_lock
    before = roll.read_bytes()
    reserve(tokens=60)
    after = roll.read_bytes()
    for end in range(len(before), len(after)):
        roll.write_bytes(after[:end])
        assert tokens_of(family) in ({10} if end < len(after) - 1 else {10, 70}), after[:end]
        with open_tree(family.root, family.load(ROOT)) as tree:
            assert sum(member.is_there(family.root) for member in tree.members()) <= (
                2 if tokens_of(family) == 10 else 3
            )


@pytest.mark.parametrize("changes", [{"state": "lost"}, {"session_id": 3}, {"top": ["/p", "x"]}, {"parent": "x"}])
def test_a_damaged_record_is_no_placement(family: Store, reserve: Reserve, changes: dict[str, Any]) -> None:
    """It may be an allowance, so that nobody passes over it."""
    placement = reserve(tokens=60).placement
    record = {**placement.to_json(), "new": "key"}
    assert placement_from_json(record) == find_placement(family.root, placement.id) == placement
    with pytest.raises(PlacementFault):
        placement_from_json({**record, **changes})


RESERVES = """
import sys
from pathlib import Path
from csa.model.config import Engine, combine_layers
from csa.model.limits import Budget
from csa.runner.caller import Caller
from csa.runner.context import Context
from csa.runner.hosts import escrow
from csa.store.sessions import Store
root, project, parent, away = sys.argv[1:]
store = Store(Path(root), Path(project))
caller = Caller(store.load(parent), store.paths(parent), store.root)
config = combine_layers([])
context = Context(store=store, environ={}, directory=project, config=lambda _: config, caller=lambda: caller)
escrow.reserve(context, Engine("n1"), away, Budget(tokens=60)).sent()
"""


@pytest.mark.thorough
@pytest.mark.skipif(not can_trace(), reason="ptrace is not allowed here, or this is no x86-64")
def test_a_kill_at_any_change_leaves_nothing_or_what_can_be_given_back(family: Store) -> None:
    """Between all of its system calls that write: what is booked is listed, and only what is listed was sent."""
    argv = [sys.executable, "-c", RESERVES, str(family.root), str(family.project), ROOT]

    def run(session_id: str, kill_at: int | None) -> list[str]:
        env = {**os.environ, "PYTHONPATH": str(Path(escrow.__file__).parents[3])}
        return run_until_change([*argv, session_id], env=env, cwd=Path("/"), root=family.root, kill_at=kill_at).changes

    changes = run(IDS[9], None)
    assert len(changes) > 10, changes
    assert [each.session_id for each in list_placements(family.root)] == [IDS[9]]
    with pytest.raises(BusyError):
        escrow.release(family.root, IDS[9], lambda _: False)
    escrow.release(family.root, IDS[9], ask_nobody, force=True)
    seen = set[tuple[str, ...]]()
    for number in range(1, len(changes) + 1):
        run(IDS[10 + number % 20], number)
        listed = list_placements(family.root)
        booked = tokens_of(family) - 10
        assert booked in ({0, 60} if listed else {0}), changes[number - 1]
        assert booked or not any(each.state == "sent" for each in listed), changes[number - 1]
        seen.add((*(each.state for each in listed), str(booked)))
        for each in listed:
            escrow.release(family.root, each.id, ask_nobody, force=each.state == "sent")
        assert (tokens_of(family), list_placements(family.root)) == (10, [])
    assert {("0",), ("reserved", "0"), ("reserved", "60")} <= seen
    assert {name for name in os.listdir(family.root / ".placed") if name.endswith(".json")} == set()
