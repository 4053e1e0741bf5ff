"""Placements: sessions that run on another host because somebody on this one asked for it. Pure: values and their JSON.

A placement is `reserved` before anything is sent, `sent` from the moment in which its order may arrive, `placed` once
the host has said that the session is there, and `settled` when what it has spent is booked.
"""

from __future__ import annotations

from collections.abc import Mapping

from csa.ids import is_session_id
from csa.model.limits import Budget, Spent
from csa.model.usage import count_of, number_of
from csa.structs import Struct, asdict, field

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

RESERVED, SENT, PLACED, SETTLED = "reserved", "sent", "placed", "settled"
STATES = (RESERVED, SENT, PLACED, SETTLED)


class PlacementFault(ValueError):  # noqa: N818  # a fault of the record, which the store reports as a StateError
    """A placement's record makes no sense."""


class Placement(Struct, kw_only=True):
    """One session on another host, `host`, which is called so in [engines] or by ssh.

    Attributes:
        id: a ULID of its own: a session may be placed for several turns, one after the other.
        parent: the session whose agent asked for it; None for a root.
        project: where that is, or where the prompt was given.
        top: the project and id of the root whose list has it; None outside of any tree of this host.
        member: the session above it on its host that has its allowance from here, if that is another one.
        held: what of the budgets here it may use there, it and everything below it.
        spent: what it had used when it was reserved, and then when it was settled; None if that is unknown.
        directory: where the prompt was given: there its commits return to.
        there: the project there, once that is known.
        awaits_code: whether its commits are still to be fetched: until then it is kept, although it is settled.
    """

    id: str
    session_id: str
    host: str
    project: str
    at: str
    state: str = RESERVED
    parent: str | None = None
    top: tuple[str, str] | None = None
    member: str | None = None
    held: Budget = field(default_factory=Budget)
    directory: str | None = None
    there: str | None = None
    directory_there: str | None = None
    turn: int | None = None
    sent_at: str | None = None
    spent: Spent | None = None
    awaits_code: bool = False

    @property
    def booked(self) -> str:
        """The session as which it is in the list of its tree."""
        return self.member or self.session_id

    @property
    def is_settled(self) -> bool:
        return self.state == SETTLED

    def to_json(self) -> dict[str, Any]:
        """Return its record."""
        told = {**asdict(self), "held": asdict(self.held), "spent": self.spent and self.spent.to_dict()}
        return {**told, "top": self.top and list(self.top)}


def placement_from_json(record: Mapping[str, Any]) -> Placement:
    """Read what `to_json` made, by this csa or a later one; PlacementFault names what is wrong."""
    try:
        parent, top, spent = record.get("parent"), record.get("top"), record.get("spent")
        if record["state"] not in STATES:
            raise PlacementFault(f"{record['state']!r} is no state of one")  # the others raise too
        return Placement(
            id=_as_id(record["id"]),
            session_id=_as_id(record["session_id"]),
            host=str(record["host"]),
            project=str(record["project"]),
            at=str(record["at"]),
            state=record["state"],
            parent=None if parent is None else _as_id(parent),
            member=None if record.get("member") is None else _as_id(record["member"]),
            top=(str(top[0]), _as_id(top[1])) if top else None,
            held=budget_from_json(record.get("held") or {}),
            spent=Spent.from_dict(spent) if spent else None,
            turn=count_of(record.get("turn")) or None,
            awaits_code=record.get("awaits_code") is True,
            **{name: _text(record.get(name)) for name in ("directory", "there", "directory_there", "sent_at")},
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise PlacementFault(f"{type(error).__name__}: {error}") from error


def _as_id(value: object) -> str:
    if not isinstance(value, str) or not is_session_id(value):
        raise PlacementFault(f"{value!r} is no session")
    return value


def budget_from_json(record: Mapping[str, Any]) -> Budget:
    """Read an allowance; missing or invalid amounts are none."""
    return Budget(
        tokens=count_of(record.get("tokens")),
        usd=float(number_of(record.get("usd")) or 0),
        time_s=float(number_of(record.get("time_s")) or 0),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
