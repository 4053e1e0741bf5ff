"""The usage of turns and sessions, known and unknown; and numbers from records, which may contain anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from csa.structs import Struct, asdict, fields, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any


LARGEST = (1 << 63) - 1
CHARS_PER_TOKEN = 4  # an estimate, where no tool has counted


class Usage(Struct):
    """Tokens (input includes cached) and US dollars, of a turn, or of several added up.

    An unknown cost is None, never 0. `turns_unmeasured` and `turns_unpriced` count the turns (or
    compactions) that did not report tokens, or cost, or not for all attempts: the sum is a lower bound.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_usd: float | None = None
    turns_unmeasured: int = 0
    turns_unpriced: int = 0

    @property
    def tokens(self) -> int:
        """In and out."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        unpriced = self.turns_unpriced + other.turns_unpriced
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            _known(round(sum(costs), 6) if costs else None, unpriced),
            self.turns_unmeasured + other.turns_unmeasured,
            unpriced,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the four keys of a `usage` event, and the counts of unknowns for a partly known turn."""
        return {key: value for key, value in self.to_sum().items() if value or not key.startswith("turns_")}

    def to_sum(self) -> dict[str, Any]:
        """Return the six keys of a sum; an unknown cost is None."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Usage:
        """Read the keys of `to_sum`; missing or invalid ones count as none."""
        known: dict[str, Any] = {key: count_of(data[key]) for key in data if key in _COUNTS}
        if (cost := number_of(data.get("cost_usd"))) is not None:
            known["cost_usd"] = _known(float(cost), known.get("turns_unpriced", 0))
        return cls(**known)


_COUNTS = frozenset(fields(Usage)) - {"cost_usd"}


def counted(usage: Usage | None) -> Usage:
    """Return what one turn adds to a sum: without reported usage or cost it counts as unmeasured or unpriced."""
    if usage is None:
        return Usage(turns_unmeasured=1, turns_unpriced=1)
    is_unpriced = usage.cost_usd is None or usage.turns_unpriced > 0
    return replace(usage, turns_unmeasured=min(1, usage.turns_unmeasured), turns_unpriced=int(is_unpriced))


def counted_once(usages: Iterable[tuple[str, Usage]]) -> Usage:
    """Add up the usage of sessions; of one in several projects only the copy with the highest usage counts."""
    most: dict[str, Usage] = {}
    for session_id, usage in usages:
        known = most.get(session_id)
        if known is None or (usage.tokens, usage.cost_usd or 0) > (known.tokens, known.cost_usd or 0):
            most[session_id] = usage
    return sum(most.values(), Usage())


def _known(cost: float | None, unpriced: int) -> float | None:
    """Return the cost; None if all that is known is that some turns have one."""
    return None if cost == 0 and unpriced else cost


def number_of(value: object) -> float | None:
    """Return a number between 0 and TOML's largest (true is not a number); None for anything else."""
    if type(value) is not int and type(value) is not float:
        return None
    return value if 0 <= value <= LARGEST else None


def count_of(value: object) -> int:
    """Return a count; 0 if it is not one."""
    return int(number_of(value) or 0)
