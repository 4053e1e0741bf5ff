"""Escrow: what a session that goes to another host takes of the budgets above it, booked before it goes.

Under the lock of the tree it is checked as a new turn is, and its allowance against what the budgets leave. Until it is
settled the allowance counts as spent, so that what runs here and what runs there cannot spend the same twice; the other
host refuses what is beyond it. A host that never answers again costs the allowance, until somebody gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from csa.errors import BusyError, NotFoundError, RefusedError, UsageError
from csa.model.limits import Budget, Spent
from csa.model.placement import PLACED, RESERVED, SENT, SETTLED, Placement
from csa.model.state import SessionState, format_time, parse_time
from csa.paths import MIRRORS
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.turns.admission import check_sessions
from csa.runner.turns.planning import refuse_too_deep
from csa.store.genealogy import ancestors, find_record
from csa.store.placements import (
    find_placement,
    forget_placement,
    hold_placement,
    is_placed,
    list_placements,
    save_placement,
)
from csa.store.spending import Account, Ledger, Mirrored, below, total
from csa.store.statefile import load_state
from csa.store.trees import Member, Tree, open_tree
from csa.structs import asdict, replace

ON_ITS_WAY_S = 60.0  # an order that was sent may arrive as long as this, though nobody waits for the answer
_AMOUNTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "tokens": ("--allow-tokens", lambda count: f"{int(count):,} tokens"),
    "usd": ("--allow-usd", lambda amount: f"${amount:,.2f}"),
    "time_s": ("--allow-time", lambda seconds: f"{seconds:,.0f} seconds"),
}


def reserve(
    context: Context,
    request: RunRequest,
    session_id: str,
    host: str,
    allowance: Budget,
    *,
    known: SessionState | None = None,
) -> Placement:
    """Book what a session takes along to a host; when this returns it is durable, and the session may be sent.

    Args:
        context: where, and by whom, it is asked for.
        request: what is asked for.
        session_id: the session there, which is new unless it is `known`.
        host: the host.
        allowance: what it and all below it may use there. Of one that goes on it is in all, with what it has used
            before; an amount that is not given is what it had.
        known: the record of a session there that goes on, as its mirror has it.

    Raises:
        UsageError: a budget above it has a limit, and the allowance does not say how much of it goes there.
        RefusedError: a limit on sessions is reached, or the budgets above leave less than the allowance.
        BusyError: it was sent there before, and that is not settled.
        StateError: a record that must be known is damaged.
        OSError: it cannot be written; nothing is booked.
    """
    root = context.store.root
    top, above = _family(context, host, known)
    placement = Placement(
        session_id=session_id,
        host=host,
        project=above[0].project_path if above else str(context.store.project),
        at=_now(),
        parent=above[0].session_id if above else None,
        top=(above[-1].project_path, above[-1].session_id) if above else None,
        member=top.session_id if top and top.session_id != session_id else None,
        held=_or_else(allowance, top.budget) if top else allowance,
        directory=str(request.directory or context.directory),
    )
    if not above:
        _refuse_placed(root, session_id)
        save_placement(root, placement)
        return placement
    if known is None:
        refuse_too_deep(context.config, above[0])
    with open_tree(root, above[-1]) as tree:
        _refuse_placed(root, session_id)
        if known is None:
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
        _refuse_beyond(tree, above, placement, waits=waits)
        placement = replace(placement, spent=hold.spent if hold else None)
    save_placement(tree.root, placement)
    if placement.top:
        try:
            tree.book(member, placement.held)
        except BaseException:
            forget_placement(tree.root, placement.session_id)
            raise
    return placement


@contextmanager
def holding(root: Path, session_id: str) -> Iterator[None]:
    """Keep a placement from being given back by others in this block, from before it is reserved.

    BusyError if another process does.
    """
    with hold_placement(root, session_id) as lock:
        try:
            yield
        finally:
            if not is_placed(root, session_id):
                lock.path.unlink(missing_ok=True)  # nobody else has it, and who opens it now looks again


def note_sent(root: Path, placement: Placement) -> Placement:
    """Record, before the first byte of its order is sent, that it may arrive; RefusedError if it was given back."""
    if find_placement(root, placement.session_id).state != RESERVED:
        raise _is_placed(placement.session_id)
    return _save(root, replace(placement, state=SENT, sent_at=_now()))


def note_placed(
    root: Path,
    placement: Placement,
    there: str,
    *,
    directory_there: str | None = None,
    turn: int | None = None,
    awaits_code: bool = False,
) -> Placement:
    """Record that its host has the session: in which project, and whether its commits are to come back."""
    placed = replace(placement, state=PLACED, there=there, directory_there=directory_there)
    return _save(root, replace(placed, turn=turn, awaits_code=awaits_code))


def settle(root: Path, session_id: str, spent: Spent) -> Placement | None:
    """Book what a session on another host, and all below it there, has used, in place of its allowance.

    The placement is kept until its commits are here, and else forgotten. None if it was settled and forgotten before.
    """
    try:
        placement = find_placement(root, session_id)
    except NotFoundError:
        return None
    return _close(root, placement, spent)


def fetched(root: Path, session_id: str) -> None:
    """Record that the commits of a placed session are here; one that is settled is forgotten."""
    with suppress(NotFoundError):
        placement = replace(find_placement(root, session_id), awaits_code=False)
        _forget(root, placement) if placement.is_settled else save_placement(root, placement)


def withdraw(root: Path, session_id: str) -> None:
    """Give an allowance back whose order was never sent, or refused by its host: nothing was used."""
    with suppress(NotFoundError):
        placement = find_placement(root, session_id)
        _close(root, replace(placement, awaits_code=False), None)


def release(root: Path, session_id: str, ask: Callable[[str], None], *, force: bool = False) -> Placement:
    """Give back what a placement holds; what was used there, as far as its mirror knows, is booked.

    Args:
        root: the state root.
        session_id: of the placement.
        ask: brings the mirror of a host up to date; raises if the host cannot be reached.
        force: the host is not asked, and what runs there is not waited for.

    Raises:
        NotFoundError: nothing is placed so.
        BusyError: it is being placed; or runs there, or may arrive there yet, and `force` is not set.
        Others as `ask`.
    """
    find_placement(root, session_id)
    with holding(root, session_id):
        placement = replace(find_placement(root, session_id), awaits_code=False)
        if placement.state == RESERVED:  # nothing was ever sent
            return _close(root, placement, None)
        if placement.is_settled:
            return _close(root, placement, placement.spent)
        if not force:
            ask(placement.host)
        accounts = mirrored_of(root, placement).accounts()
        if not force:
            _refuse_at_work(placement, accounts)
        return _close(root, placement, total(accounts) if accounts else None)


def settle_heard(root: Path, host: str) -> list[Placement]:
    """Settle what has ended on a host and nobody here waits for, according to its mirror, which is up to date."""
    settled = []
    for placement in list_placements(root):
        if placement.host == host and placement.state in {SENT, PLACED}:
            with suppress(BusyError), holding(root, placement.session_id):
                accounts = mirrored_of(root, placement).accounts()
                if accounts and _has_ended(placement, accounts):
                    settled.append(_close(root, placement, total(accounts)))
    return settled


def unsettled_below(root: Path | str, session_id: str) -> list[Placement]:
    """Return what a session, or an agent of the tree that it is the root of, has on other hosts and is not settled."""
    return [
        each
        for each in list_placements(root)
        if not each.is_settled and (each.parent == session_id or (each.top and each.top[1] == session_id))
    ]


def mirrored_of(root: Path, placement: Placement) -> Mirrored:
    """Return what the mirror here knows of a placed session, and of all below it there."""
    return Mirrored(root, placement.host, placement.booked, placement.there)


def _family(context: Context, host: str, known: SessionState | None) -> tuple[SessionState | None, list[SessionState]]:
    """Return the session there whose allowance is concerned, if it exists, and the ancestors that are here.

    A new session has its caller above it, one that goes on those of its topmost ancestor there.
    """
    root = context.store.root
    if known is None:
        parent = context.caller.state if context.caller and not context.caller.host else None
        return None, [parent, *ancestors(root, parent)] if parent else []
    top = [known, *ancestors(root / MIRRORS / host, known)][-1]
    if not (top.parent_host and top.parent_project and top.parent_session_id):
        return top, []
    paths = find_record(root, top.parent_project, top.parent_session_id)
    parent = load_state(paths.state) if paths else None
    return top, [parent, *ancestors(root, parent)] if parent else []


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
        if asked > left or (waits and asked == left):
            nothing = ", and what waits for it here needs some, too" if asked == left else ""
            raise RefusedError(
                f"The budget of session {whose} leaves {words(left)}, not the {words(asked)} for "
                f"{placement.host}{nothing}.",
                hint=f"{option} with less; csa budget {whose} shows who used it, csa hosts --placed what is reserved",
            )


def _refuse_placed(root: Path, session_id: str) -> None:
    with suppress(NotFoundError):
        if not find_placement(root, session_id).is_settled:
            raise _is_placed(session_id)


def _is_placed(session_id: str) -> BusyError:
    return BusyError(
        f"Session {session_id} is placed on another host, and that is not settled.",
        hint="csa hosts --placed lists what is; csa hosts --release gives it back",
    )


def _refuse_at_work(placement: Placement, accounts: list[Account]) -> None:
    """Raise BusyError for a session that its host has, and runs, or may yet get."""
    session_id, host = placement.session_id, placement.host
    if any(account.is_running for account in accounts):
        raise BusyError(f"Session {session_id} runs on {host}.", hint=f"csa kill --tree {host}:{session_id}")
    sent_at = parse_time(placement.sent_at)
    since_s = (datetime.now(UTC) - sent_at).total_seconds() if sent_at else ON_ITS_WAY_S
    if not accounts and since_s < ON_ITS_WAY_S:
        raise BusyError(
            f"The order for session {session_id} was sent {since_s:.0f} s ago, and may yet arrive on {host}.",
            hint=f"try again in {ON_ITS_WAY_S - since_s:.0f} s",
        )


def _has_ended(placement: Placement, accounts: list[Account]) -> bool:
    state = accounts[0].state
    return bool(state and state.turns >= (placement.turn or 1) and not any(each.is_running for each in accounts))


def _close(root: Path, placement: Placement, spent: Spent | None) -> Placement:
    """Settle a placement; without `spent` it was never there, and what was used before counts."""
    before, is_new = placement.spent, placement.spent is None
    known = (spent or Spent()).at_least(before) if before else spent or Spent()
    settled = replace(placement, state=SETTLED, spent=known)
    with ExitStack() as stack:
        if placement.top and (top := _top_of(root, placement)):
            with suppress(RefusedError):  # it was purged, and the list with it
                tree = stack.enter_context(open_tree(root, top))
                tree.settle(placement.booked, known, project=placement.there, released=spent is None and is_new)
        if settled.awaits_code:
            save_placement(root, settled)
        else:
            forget_placement(root, placement.session_id)
    return settled


def _top_of(root: Path, placement: Placement) -> SessionState | None:
    assert placement.top
    paths = find_record(root, *placement.top)
    return load_state(paths.state) if paths else None


def _save(root: Path, placement: Placement) -> Placement:
    save_placement(root, placement)
    return placement


def _forget(root: Path, placement: Placement) -> None:
    forget_placement(root, placement.session_id)


def _now() -> str:
    return format_time(datetime.now(UTC))
