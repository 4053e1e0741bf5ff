"""Permission levels, from least to most. Each adapter maps them to its tool's flags."""

from __future__ import annotations

from enum import Enum

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


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


def asked_for(data: Mapping[str, Any]) -> str:
    """Return what the event of a request says that it is for."""
    return str(data.get("title") or data.get("command") or "something")


def write_answer(token: str, ask: str, *, allow: bool, by: str) -> str:
    """Return the line that answers what an agent asks for; only who knows the turn's token can make it.

    `by` is who decided: `user DOOR`, or `timeout`.
    """
    said = f"{_ALLOW if allow else _DENY} {by}"
    return f"{_sign(token, ask, said)} {said}\n"


def read_answer(token: str, ask: str, line: str) -> tuple[bool, str]:
    """Return whether an answer allows it, and who decided; one that is forged does not, and nobody did."""
    from hmac import compare_digest  # noqa: PLC0415  # few turns ask

    signature, _, said = line.rstrip("\n").partition(" ")
    if not compare_digest(signature.encode(), _sign(token, ask, said).encode()):
        return False, ""
    verdict, _, by = said.partition(" ")
    return verdict == _ALLOW, by


def _sign(token: str, ask: str, said: str) -> str:
    from hashlib import sha256  # noqa: PLC0415  # few turns ask
    from hmac import new  # noqa: PLC0415  # as above

    return new(token.encode(), f"{ask} {said}".encode(), sha256).hexdigest()


_ALLOW, _DENY = "allow", "deny"


_ORDER = [Permission.READ_ONLY, Permission.EDIT, Permission.FULL]
