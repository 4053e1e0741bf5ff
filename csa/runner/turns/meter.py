"""A turn's usage over all attempts: each is a process of the tool that reports only its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.model.usage import Usage, counted
from csa.structs import replace


class Meter:
    """Adds up the attempts of one turn."""

    def __init__(self) -> None:
        self._ended: list[Usage | None] = []
        self._current: Usage | None = None

    def note(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Take the running attempt's usage so far; return the turn's."""
        self._current = Usage.from_dict(data)
        assert self.total is not None
        return {**data, **self.total.to_dict()}

    def settle(self, told: Usage | None) -> None:
        """Note that an attempt is over; if its end does not report usage (`told`), its last report counts."""
        self._ended.append(self._current if told is None else told)
        self._current = None

    @property
    def total(self) -> Usage | None:
        """The known usage of the turn; None if nothing is known. Attempts without a report are in its two counts."""
        parts = [*self._ended, *([self._current] if self._current else [])]
        if all(part is None for part in parts):
            return None
        if len(parts) == 1:
            return parts[0]
        whole = sum(map(counted, parts), Usage())
        is_priced_in_part = whole.cost_usd is not None and whole.turns_unpriced > 0
        return replace(whole, turns_unmeasured=min(1, whole.turns_unmeasured), turns_unpriced=int(is_priced_in_part))
