"""Escrow: what a session that goes to another host takes of the budgets above it, booked before it goes.

Under the lock of the tree it is checked as a new turn is, and its allowance against what the budgets leave. Until it is
settled the allowance counts as spent, so that what runs here and what runs there cannot spend the same twice; the other
host refuses what is beyond it. A host that never answers again costs the allowance, until somebody gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from csa.errors import BusyError, NotFoundError, RefusedError, UsageError
from csa.model.config import Engine
from csa.model.limits import Budget, Spent
from csa.model.placement import PLACED, RESERVED, SENT, SETTLED, Placement
from csa.model.state import SessionState, format_time, parse_time
from csa.model.usage import count_of
from csa.paths import MIRRORS
from csa.runner.context import Context
from csa.runner.hosts.passport import passport_of
from csa.runner.turns.admission import check_sessions
from csa.runner.turns.grants import is_not_agents, refuse_too_deep
from csa.runner.turns.planning import new_id_now
from csa.store.genealogy import ancestors, find_record
from csa.store.locks import Lock
from csa.store.mirrors import mirror_for
from csa.store.placements import (
    choose_placement,
    drop_hold,
    find_placement,
    forget_placement,
    hold_placement,
    list_placements,
    save_placement,
)
from csa.store.sessions import Store, is_directory
from csa.store.spending import Account, Ledger, Mirrored, below, spent_here, total
from csa.store.statefile import load_state
from csa.store.stores import find_stores
from csa.store.trees import Member, Tree, open_tree, read_members
from csa.structs import asdict, replace

ON_ITS_WAY_S = 60.0  # an order that was sent may arrive as long as this, though nobody waits for the answer
_AMOUNTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "tokens": ("--allow-tokens", lambda count: f"{int(count):,} tokens"),
    "usd": ("--allow-usd", lambda amount: f"${amount:,.2f}"),
    "time_s": ("--allow-time", lambda seconds: f"{seconds:,.0f} seconds"),
}


class Escrow:
    """A placement of this process: as long as this is open, nobody else settles it."""

    def __init__(self, root: Path, placement: Placement, passport: Mapping[str, Any] | None, lock: Lock) -> None:
        self._root, self._lock = root, lock
        self.placement = placement
        self.passport = passport

    @property
    def id(self) -> str:
        """Its ULID, which is in the order too."""
        return self.placement.id

    @property
    def allowance(self) -> dict[str, Any] | None:
        """What the session, and what is below it, may use there in all: its budget; None if it is given none.

        One that is below another one there keeps its own.
        """
        return asdict(self.placement.held) if self.placement.held and not self.placement.member else None

    def sent(self) -> None:
        """Record, before the first byte of the order is sent, that it may arrive. OSError: it must not be sent."""
        self._save(replace(self.placement, state=SENT, sent_at=_now()))

    def moved(self, host: str) -> None:
        """Record on which host it is, of those that a scheduler had to choose from."""
        self.placement = move(self._root, self.placement, host)

    def placed(self, said: Mapping[str, Any], *, awaits_code: bool = False) -> None:
        """Record what the host has said of the turn: its `session_id`, `project` and `turn`."""
        there, turn = said.get("project"), count_of(said.get("turn")) or None
        self._save(
            replace(
                self.placement,
                state=PLACED,
                session_id=said.get("session_id") or self.placement.session_id,
                there=str(there) if there else None,
                turn=turn,
                awaits_code=awaits_code,
            )
        )

    def ended(self, said: Mapping[str, Any]) -> None:
        """Settle with what the host has said at the turn's end: `spent`, and how many below it are still `running`.

        If some are, or it has not said what was spent, the allowance is held until the host is heard of again.
        """
        is_over = not said.get("running") or self.placement.top is None
        if isinstance(spent := said.get("spent"), Mapping) and is_over:
            self.placement = _close(self._root, self.placement, Spent.from_dict(spent))

    def fetched(self) -> None:
        """Record that its commits are here."""
        self.placement = replace(self.placement, awaits_code=False)
        _note_fetched(self._root, self.id)

    def give_back(self) -> None:
        """Give the allowance back: the order was never sent, or the host has refused it."""
        self.placement = _close(self._root, replace(self.placement, awaits_code=False), None)

    def close(self) -> None:
        """Let go: from now on others may settle it. Harmless when repeated."""
        if self._lock.fd >= 0:
            drop_hold(self._root, self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _save(self, placement: Placement) -> None:
        save_placement(self._root, placement)
        self.placement = placement


def reserve(
    context: Context,
    engine: Engine,
    session_id: str,
    allowance: Budget | None = None,
    *,
    directory: Path | None = None,
) -> Escrow:
    """Book what a session takes along to a host; when this returns it is durable, and the session may be sent.

    Args:
        context: where, and by whom, it is asked for.
        engine: the host.
        session_id: the session there, which is new unless the host's mirror has it.
        allowance: what it and all below it may use there. Of one that goes on it is in all, with what it has used
            before; an amount that is not given is what it had.
        directory: where its commits are to return to; the context's when None.

    Raises:
        UsageError: a budget above it has a limit, and the allowance does not say how much of it goes there; or it is
            below a session there that has an allowance.
        RefusedError: a limit on sessions is reached, or the budgets above leave less than the allowance; or an agent
            asks for one for a session that is not below its own.
        BusyError: it was sent there before, and that is not settled.
        StateError: a record that must be known is damaged.
        OSError: it cannot be written; nothing is booked.
    """
    root, host, allowance = context.store.root, engine.name, allowance or Budget()
    known = _mirrored_state(root, host, session_id)
    top, above = _family(context, host, known)
    _refuse_allowance(context, session_id, allowance, top, above)
    placement = Placement(
        id=new_id_now(),
        session_id=session_id,
        host=host,
        project=above[0].project_path if above else str(context.store.project),
        at=_now(),
        parent=above[0].session_id if above else None,
        top=(above[-1].project_path, above[-1].session_id) if above else None,
        member=top.session_id if top and top.session_id != session_id else None,
        held=_or_else(allowance, top.budget) if top and above else allowance,
        turn=known.turns + 1 if known else None,  # as far as it is known; else one that ended before would settle it
        directory=str(directory or context.directory),
    )
    lock = hold_placement(root, placement.id)
    try:
        reserved = _reserve(context, placement, above, is_new=known is None)
        return Escrow(root, reserved, passport_of(context, session_id), lock)
    except BaseException:
        drop_hold(root, lock)
        raise


def _reserve(context: Context, placement: Placement, above: list[SessionState], *, is_new: bool) -> Placement:
    root = context.store.root
    if not above:
        _refuse_placed(root, placement.session_id)
        save_placement(root, placement)
        return placement
    if is_new:
        refuse_too_deep(context.config, above[0])
    with open_tree(root, above[-1]) as tree:
        _refuse_placed(root, placement.session_id)
        if is_new:
            limits = context.config.limits.tightened_by(above[0].limits).tightened_by(tree.top.limits.of_tree())
            check_sessions(tree, limits, above[0])
        return _book(tree, above, placement, waits=context.caller is not None)


def _book(tree: Tree, above: list[SessionState], placement: Placement, *, waits: bool) -> Placement:
    member = Member(placement.booked, placement.project, placement.parent, placement.host)
    hold = next((each.hold for each in tree.members() if each.session_id == member.session_id), None)
    if hold and not hold.is_settled:
        if member.session_id == placement.session_id:
            raise _is_placed(placement.session_id)
        placement = replace(placement, top=None)  # the session above it there has the allowance, and is at work
    else:
        placement = replace(placement, spent=hold.spent if hold else None)
        _refuse_beyond(tree, above, placement, waits=waits)
    save_placement(tree.root, placement)
    if placement.top:
        try:
            tree.book(member, placement.held)
        except BaseException:
            forget_placement(tree.root, placement.id)
            raise
    return placement


def move(root: Path, placement: Placement, host: str) -> Placement:
    """Record on which host a placement is; whoever calls this holds it."""
    if host == placement.host:
        return placement
    moved = replace(placement, host=host)
    save_placement(root, moved)
    if moved.top and (top := _load(root, *moved.top)):
        with open_tree(root, top) as tree:
            tree.move(Member(moved.booked, moved.project, moved.parent, host))
    return moved


def move_unheld(root: Path, placement: Placement, host: str) -> None:
    """Do so, unless it is settled; BusyError if whoever has placed it is to do that."""
    with suppress(NotFoundError), _holding(root, placement.id) as found:
        if found.host == placement.host:
            move(root, found, host)


def _mirrored_state(root: Path, host: str, session_id: str) -> SessionState | None:
    """Return the record of a session of that host, as its mirror has it."""
    stores = (store for store in mirror_for(str(root), host).stores() if is_directory(store.find(session_id).pathname))
    found = next(stores, None)
    return found.load(session_id) if found else None


def settle(root: Path, placement_id: str, spent: Spent) -> Placement | None:
    """Book what a session on another host, and all below it there, has used, in place of its allowance.

    The placement is kept until its commits are here, and else forgotten. None if it was settled and forgotten before.
    """
    try:
        return _close(root, find_placement(root, placement_id), spent)
    except NotFoundError:
        return None


def fetched(root: Path, placement_id: str) -> None:
    """Record that the commits of a placed session are here; one that is settled is forgotten.

    Nothing is recorded while the process that has placed it is there, which has them too.
    """
    with suppress(NotFoundError, BusyError), _holding(root, placement_id):
        _note_fetched(root, placement_id)


def _note_fetched(root: Path, placement_id: str) -> None:
    with suppress(NotFoundError):
        placement = replace(find_placement(root, placement_id), awaits_code=False)
        forget_placement(root, placement_id) if placement.is_settled else save_placement(root, placement)


def release(root: Path, selector: str, ask: Callable[[Placement], bool], *, force: bool = False) -> Placement:
    """Give back what a placement holds; what was used there, as far as its mirror knows, is booked.

    Args:
        root: the state root.
        selector: of the placement, as `choose_placement` takes it.
        ask: finds out where it is, and records that; brings the mirror of that host up to date, and says whether that
            has refused the order for all time: else one that has just been sent may arrive yet. It raises if nobody can
            be reached.
        force: the host is not asked, and what runs there is not waited for.

    Raises:
        NotFoundError, AmbiguousError: nothing is placed so, or several are.
        BusyError: it is being placed; or runs there, or may arrive there yet, and `force` is not set.
        Others as `ask`.
    """
    with _holding(root, choose_placement(root, selector).id) as found:
        placement = replace(found, awaits_code=False)
        if placement.state == RESERVED:  # nothing was ever sent
            return _close(root, placement, None)
        if placement.is_settled:
            return _close(root, placement, placement.spent)
        is_fenced = force or ask(placement)
        placement = replace(find_placement(root, placement.id), awaits_code=False)
        accounts = mirrored_of(root, placement).accounts()
        if not force:
            _refuse_at_work(placement, accounts, is_fenced=is_fenced)
        return _close(root, placement, total(accounts) if accounts else None)


def give_back(root: Path, placement: Placement) -> None:
    """Give back what a placement holds whose order never begins; BusyError if whoever has placed it is to do that.

    One that was sent meanwhile, or has got to another host, is left as it is.
    """
    with suppress(NotFoundError), _holding(root, placement.id) as found:
        if (found.host, found.state) == (placement.host, placement.state):
            _close(root, replace(found, awaits_code=False), None)


@contextmanager
def _holding(root: Path, placement_id: str) -> Iterator[Placement]:
    lock = hold_placement(root, placement_id)
    try:
        yield find_placement(root, placement_id)
    finally:
        drop_hold(root, lock)


def settle_heard(root: Path, host: str) -> list[Placement]:
    """Settle what has ended on a host and nobody here waits for, according to its mirror, which is up to date."""
    settled = []
    for placement in list_placements(root):
        if placement.host == host and placement.state in {SENT, PLACED}:
            with suppress(BusyError, NotFoundError), _holding(root, placement.id):
                accounts = mirrored_of(root, placement).accounts()
                if accounts and _has_ended(placement, accounts):
                    settled.append(_close(root, placement, total(accounts)))
    return settled


def spent_there(root: Path, project: str, session_id: str) -> dict[str, Any]:
    """Return what a host says at a turn's end, for `Escrow.ended`; StateError if a record of the tree is damaged."""
    spent, running = spent_here(root, Store(root, project).load(session_id))
    return {"spent": spent.to_dict(), "running": running}


def mirrored_of(root: Path, placement: Placement) -> Mirrored:
    """Return what the mirror here knows of a placed session, and of all below it there."""
    return Mirrored(root, placement.host, placement.booked, None if placement.member else placement.there)


def _family(context: Context, host: str, known: SessionState | None) -> tuple[SessionState | None, list[SessionState]]:
    """Return the session there whose allowance is concerned, if it exists, and the ancestors that are here.

    A new session has its caller above it, one that goes on those of its topmost ancestor there: what the list of a tree
    here says of it, as whoever writes the mirror could name any session as its parent.
    """
    root = context.store.root
    if known is None:
        parent = context.caller.state if context.caller and not context.caller.host else None
        return None, [parent, *ancestors(root, parent)] if parent else []
    top = [known, *ancestors(root / MIRRORS / host, known)][-1]
    if not (top.parent_host and top.parent_project and top.parent_session_id):
        return top, []
    parent = _load(root, top.parent_project, top.parent_session_id)
    above = [parent, *ancestors(root, parent)] if parent else []
    listed = read_members(root, above[-1])[0] if above else []
    is_known = any(
        (each.session_id, each.host, each.parent) == (top.session_id, host, top.parent_session_id) for each in listed
    )
    return top, above if is_known else []


def _refuse_allowance(
    context: Context, session_id: str, allowance: Budget, top: SessionState | None, above: list[SessionState]
) -> None:
    """Raise for a session there that is not to be given another budget: by that agent, or by nobody here."""
    if not top or not allowance:
        return
    if context.caller and all(each.session_id != context.caller.session_id for each in above):
        raise is_not_agents(session_id, context.caller)
    if top.session_id != session_id:
        raise UsageError(
            f"Session {session_id} is below {top.session_id}, which has the allowance for both.",
            hint=f"leave --allow-* out, or go on with {top.session_id}",
        )


def _or_else(allowance: Budget, had: Budget) -> Budget:
    return Budget(**{name: amount or getattr(had, name) for name, amount in asdict(allowance).items()})


def _refuse_beyond(tree: Tree, above: list[SessionState], placement: Placement, *, waits: bool) -> None:
    """Raise if a budget does not leave the allowance, or is not in it; `waits`: a turn here waits for the session."""
    budgeted = [state for state in above if state.budget]
    if not budgeted:
        return
    accounts = Ledger(tree.root).accounts(tree.members(), tree.gone())
    others = [account for account in accounts if account.member.session_id != placement.booked]
    for name, (option, words) in _AMOUNTS.items():
        limits = [(each, getattr(each.budget, name)) for each in budgeted if getattr(each.budget, name)]
        if not limits:
            continue
        lefts = [
            (limit - (getattr(total(below(others, each.session_id)), name) or 0), each.session_id)
            for each, limit in limits
        ]
        left, whose = min(lefts)
        left, asked = max(0, round(left, 6)), getattr(placement.held, name)
        if not asked:
            raise UsageError(
                f"The budget of session {whose} has to say how much of it goes to {placement.host}.",
                hint=f"{option} N: {words(left)} left",
            )
        taken = max(asked, getattr(placement.spent, name, 0) or 0)  # it may have used more than it may
        if taken > left or (waits and taken == left):
            nothing = ", and what waits for it here needs some, too" if taken == left else ""
            raise RefusedError(
                f"The budget of session {whose} leaves {words(left)}, not the {words(asked)} for "
                f"{placement.host}{nothing}.",
                hint=f"{option} with less; csa budget {whose} shows who used it, csa hosts --placed what is reserved",
            )


def _refuse_placed(root: Path, session_id: str) -> None:
    if any(each.session_id == session_id and not each.is_settled for each in list_placements(root)):
        raise _is_placed(session_id)


def _is_placed(session_id: str) -> BusyError:
    return BusyError(
        f"Session {session_id} is placed on another host, and that is not settled.",
        hint="csa hosts --placed lists what is; csa hosts --release gives it back",
    )


def _refuse_at_work(placement: Placement, accounts: list[Account], *, is_fenced: bool) -> None:
    """Raise BusyError for a session that its host has, and runs, or may yet get."""
    session_id, host = placement.session_id, placement.host
    if any(account.is_running for account in accounts):
        raise BusyError(f"Session {session_id} runs on {host}.", hint=f"csa kill --tree {host}:{session_id}")
    sent_at = parse_time(placement.sent_at)
    since_s = (datetime.now(UTC) - sent_at).total_seconds() if sent_at else ON_ITS_WAY_S
    if not accounts and is_fenced and placement.state == PLACED:
        words = f"{host} has had session {session_id}, and knows nothing of it any more: nobody knows what it has used."
        raise BusyError(words, hint=f"csa hosts --release {placement.id} --force")
    if not accounts and not is_fenced and since_s < ON_ITS_WAY_S:
        raise BusyError(
            f"The order for session {session_id} was sent {since_s:.0f} s ago, and may yet arrive on {host}.",
            hint=f"try again in {ON_ITS_WAY_S - since_s:.0f} s",
        )


def has_arrived(placement: Placement, accounts: list[Account]) -> bool:
    """Say whether the turn that was placed has begun, by what the mirror of its host has."""
    states = (each.state for each in accounts if each.member.session_id == placement.session_id)
    return any(state.turns >= (placement.turn or 1) for state in states if state)


def _has_ended(placement: Placement, accounts: list[Account]) -> bool:
    return has_arrived(placement, accounts) and not any(each.is_running for each in accounts)


def _close(root: Path, placement: Placement, spent: Spent | None) -> Placement:
    """Settle a placement; without `spent` it was never there, and what was used before counts."""
    before, is_new = placement.spent, placement.spent is None
    known = (spent or Spent()).at_least(before) if before else spent or Spent()
    settled = replace(placement, state=SETTLED, spent=known)
    with ExitStack() as stack:
        if placement.top and (top := _load(root, *placement.top)):
            with suppress(RefusedError):  # it was purged, and the list with it
                tree = stack.enter_context(open_tree(root, top))
                tree.settle(placement.booked, known, project=placement.there, released=spent is None and is_new)
        if settled.awaits_code:
            save_placement(root, settled)
        else:
            forget_placement(root, placement.id)
    return settled


def _load(root: Path, project: str, session_id: str) -> SessionState | None:
    """Return a record of this host; its project may have moved meanwhile, and been adopted."""
    paths = find_record(root, project, session_id)
    if paths is None:
        places = (store.find(session_id) for store in find_stores(root, with_retired=True))
        paths = next((place for place in places if is_directory(place.pathname)), None)
    return load_state(paths.state) if paths else None


def _now() -> str:
    return format_time(datetime.now(UTC))
