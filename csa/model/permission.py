"""Permission levels, from least to most. Each adapter maps them to its tool's flags."""

from __future__ import annotations

from enum import Enum


class Permission(Enum):
    """What an agent may do: read, change files of its project, or everything."""

    READ_ONLY = "read-only"
    EDIT = "edit"
    FULL = "full"

    @property
    def rank(self) -> int:
        """0 for the lowest."""
        return _ORDER.index(self)

    def at_most(self, ceiling: Permission) -> Permission:
        """Return the lower of the two."""
        return min(self, ceiling, key=lambda level: level.rank)


def grant(token: str, ask: str) -> str:
    """Return the answer that allows what an agent asks for: only who knows the turn's token can make it."""
    from hashlib import sha256  # noqa: PLC0415  # few turns ask
    from hmac import new  # noqa: PLC0415  # as above

    return new(token.encode(), ask.encode(), sha256).hexdigest()


_ORDER = [Permission.READ_ONLY, Permission.EDIT, Permission.FULL]
