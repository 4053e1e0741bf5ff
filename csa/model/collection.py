"""Which sessions are cleaned up: the rule as a value, and its verdict on a session. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from csa.model.state import SessionState
from csa.structs import Struct

Reason = Literal["old", "expired", "ephemeral", "damaged"]
_NEVER = datetime.min.replace(tzinfo=UTC)
_MANY_DAYS = 10_000_000


class Rule(Struct, kw_only=True):
    """What to clean up. At most one of `days` and `older_than` is given; with neither, only expired sessions.

    days: sessions not used for more than this many whole days; exactly that many days old stays.
    older_than: the same, to the second.
    tools: only sessions all of whose tools are among them; empty: any.
    damaged: also damaged sessions whose files have not changed for that long.
    purge: delete for good at once, also what is in the trash, instead of moving to the trash.
    undo_days: how long deleted sessions stay in the trash.
    """

    days: int | None = None
    older_than: timedelta | None = None
    tools: frozenset[str] = frozenset()
    damaged: bool = False
    purge: bool = False
    undo_days: int = 7

    @property
    def has_age(self) -> bool:
        """Whether old sessions are selected."""
        return self.days is not None or self.older_than is not None

    def last_kept(self, now: datetime) -> datetime:
        """Return the time since which a last use keeps a session."""
        if self.days is not None:  # exactly that old is deleted, younger stays
            return _before(now, timedelta(days=min(self.days, _MANY_DAYS) + 1)) + timedelta(microseconds=1)
        return _NEVER if self.older_than is None else _before(now, self.older_than)

    def verdict(self, state: SessionState, now: datetime) -> Reason | None:
        """Say why a session is to be deleted, whether it is running or not; None if it stays."""
        if state.pinned or not self.is_of_tools(state):
            return None
        if state.ephemeral:
            return "ephemeral"  # it is deleted with its run, so a remaining one was interrupted
        if state.expires_at is not None and state.expires_at <= now:
            return "expired"
        return "old" if state.last_accessed < self.last_kept(now) else None

    def takes_damaged(self, changed_at: datetime, now: datetime) -> bool:
        """Say whether a damaged session is to be deleted, given when its files were last changed."""
        return self.damaged and not self.tools and changed_at < self.last_kept(now)

    def takes_retired(self, state: SessionState | None, retired_at: datetime, now: datetime) -> bool:
        """Say whether a session that was deleted at that time is purged now."""
        if now - retired_at >= timedelta(days=self.undo_days):
            return True
        return self.purge and state is not None and self.is_of_tools(state)

    def is_of_tools(self, state: SessionState) -> bool:
        """Say whether a session has used no other tools than the named ones; any has, if none are."""
        return not self.tools or (bool(state.tools) and self.tools.issuperset(state.tools))


def _before(now: datetime, time: timedelta) -> datetime:
    try:
        return now - time
    except OverflowError:
        return _NEVER
