"""What a session and all below it add up to. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from csa.model.usage import Usage
from csa.structs import Struct, field

Span = tuple[float, float]  # Unix seconds


class Rollup(Struct, frozen=False):
    """Sessions by status, the moments at which any of them ran, and what they have used."""

    statuses: dict[str, int] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    @property
    def sessions(self) -> int:
        return sum(self.statuses.values())

    @property
    def time_s(self) -> float:
        """For how long any of them ran: what ran at once counts once, as a child does in its parent's turn."""
        return sum(end - start for start, end in merge_spans(self.spans))

    def add(self, status: str, spans: Iterable[Span], usage: Usage) -> None:
        """Count a session."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.spans += spans
        self.usage = self.usage + usage

    def merge(self, other: Rollup) -> None:
        """Count all that another one counts."""
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        self.spans = merge_spans([*self.spans, *other.spans])
        self.usage = self.usage + other.usage


def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """Return the spans that cover the same moments without overlapping."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end >= start:
            merged.append((start, end))
    return merged
