"""Slots: one lock file in the state root for each running turn of this host, held as long as the turn lasts.

The kernel releases a slot, however its holder ends, so that a count of held slots cannot leak. All turns take
one, whether they have a limit or not, so that other turns' limits can count them. Slots are counted and taken under one
lock, `.slots/lock`, held for moments while no other lock is taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from csa.errors import FullError, Obstacle, StateError
from csa.model.limits import PLAN, Limits
from csa.paths import SLOTS
from csa.store.atomic import make_private_directory
from csa.store.locks import Lock, acquire_lock, probe_lock, seems_locked
from csa.structs import Struct, asdict

WAITING_IS_FUTILE = "only the calling session and its ancestors are running: do the work in this session"
_NAMED = 3


class SlotHolder(Struct):
    """The session that runs in a slot; `edits` is the work tree in which its agent may edit, empty if there is none."""

    session_id: str
    tool: str
    edits: str = ""

    def to_bytes(self) -> bytes:
        """Return the content of the slot's file."""
        return json.dumps(asdict(self)).encode()


def take_slot(
    root: Path,
    holder: SlotHolder,
    limits: Limits,
    *,
    callers: Collection[str] = (),
    check: Callable[[list[SlotHolder]], None] = lambda _: None,
) -> Lock:
    """Take a free slot for a turn; it is held until the lock is closed. `callers` are waiting for this turn.

    `check` gets what is running, and may refuse: of two turns that begin at once, one sees the other.

    Raises:
        FullError: a limit on running turns, of this host or of the tool, is reached.
    """
    directory = root / SLOTS
    make_private_directory(directory)
    with acquire_lock(directory / "lock", wait=True):
        slots = list(_look_at_slots(directory))
        _refuse_when_full(root, slots, holder.tool, limits, callers)
        check([held for _, held in slots if held])
        return _take_free(directory, slots, holder)


def _take_free(directory: Path, slots: list[tuple[Path, SlotHolder | None]], holder: SlotHolder) -> Lock:
    for path, held in slots:
        if held is None:
            with suppress(OSError):  # it belongs to another user, or is not a slot
                return _take_slot(path, holder)
    names = {path.name for path, _ in slots}
    return _take_slot(directory / next(name for at in count(1) if (name := f"{at:04}.lock") not in names), holder)


def _take_slot(path: Path, holder: SlotHolder) -> Lock:
    slot = acquire_lock(path)
    try:
        slot.write(holder.to_bytes())
    except BaseException:
        slot.close()
        raise
    return slot


def pass_slot(root: Path, slot: Lock, holder: SlotHolder, limits: Limits, *, callers: Collection[str] = ()) -> None:
    """Keep a slot for another tool's turn of the same session.

    Raises:
        FullError: the limit on running turns of that tool is reached; the slot is unchanged.
    """
    with acquire_lock(root / SLOTS / "lock", wait=True):
        others = [(path, held) for path, held in _look_at_slots(root / SLOTS) if path != slot.path]
        _refuse_when_full(root, others, holder.tool, limits, callers)
        slot.write(holder.to_bytes())


def running_turns(root: Path) -> list[SlotHolder]:
    """Return what is running on this host right now."""
    return [held for _, held in _look_at_slots(root / SLOTS) if held is not None]


def recent_holders(root: Path, seen: dict[str, int]) -> dict[str, bool]:
    """Return the sessions that hold a slot, or took one since the last call with the same `seen`: whether they hold it.

    A slot is written when it is taken, so that a turn that began and ended between two looks is noticed too.
    """
    found: dict[str, bool] = {}
    for path, is_held, content, written_ns in _read_slots(root / SLOTS):
        if is_held or seen.get(path.name) != written_ns:
            session_id = _parse_user(content).session_id
            found[session_id] = is_held or found.get(session_id, False)
        seen[path.name] = written_ns
    return found


def _look_at_slots(directory: Path) -> Iterator[tuple[Path, SlotHolder | None]]:
    """Yield the existing slots, by number, each with its holder; None for a free one."""
    for path, is_held, content, _ in _read_slots(directory):
        yield path, _parse_user(content) if is_held else None


def _read_slots(directory: Path) -> Iterator[tuple[Path, bool, bytes, int]]:
    """Yield the existing slots, by number: whether each is held, what it says, and when it was written.

    One that cannot be read belongs to another user, such as a turn under sudo: the kernel shows whether it is held.
    """
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(".lock"):
            path = directory / name
            with suppress(FileNotFoundError):
                written_ns = os.stat(path).st_mtime_ns  # first: what is written later is noticed next time
                try:
                    is_held, content = probe_lock(path)
                except StateError:
                    is_held, content = seems_locked(path), b""
                yield path, is_held, content, written_ns


def _parse_user(content: bytes) -> SlotHolder:
    try:
        known = json.loads(content)
        return SlotHolder(str(known["session_id"]), str(known["tool"]), str(known.get("edits", "")))
    except (ValueError, TypeError, KeyError, RecursionError):
        return SlotHolder("an unknown session", "")


def _refuse_when_full(
    root: Path, slots: list[tuple[Path, SlotHolder | None]], tool: str, limits: Limits, callers: Collection[str]
) -> None:
    if tool == PLAN:  # it only waits for its tasks, whose turns count
        return
    running = [held for _, held in slots if held is not None and held.tool != PLAN]
    same = [held for held in running if held.tool == tool]
    for name, limit, counted, of_tool in (
        ("max_running", limits.max_running, running, None),
        (f"tools.{tool}.max_running", limits.tools.get(tool, 0), same, tool),
    ):
        if limit and len(counted) >= limit:
            others = [held for held in counted if held.session_id not in callers]
            which = ", ".join(held.session_id for held in counted[:_NAMED]) + (", ..." if counted[_NAMED:] else "")
            what = f"turns of {of_tool}" if of_tool else "turns"
            words = f"{name} is {limit}, and that many {what} are running on this host"
            raise FullError(
                f"{words}: {which}.",
                hint="retry later, or use --wait" if others else WAITING_IS_FUTILE,
                obstacle=Obstacle(words, _has_room(root, limit, of_tool)) if others else None,
            )


def _has_room(root: Path, limit: int, tool: str | None) -> Callable[[], bool]:
    return lambda: sum(held.tool != PLAN and tool in {None, held.tool} for held in running_turns(root)) < limit
