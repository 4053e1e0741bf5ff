"""What a word was meant to be that is none of those known: one they begin with, or one or two slips of the finger away.

A suggestion that is nonsense is worse than none, so that short words are given little room.
"""

from __future__ import annotations

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHORT, _LONG = 3, 6  # letters up to which the first one must be right, and from which there may be two slips
_NAMED = 3  # in a hint
_BEGINNING = 3  # letters that are enough to begin a word


def nearest(typed: str, known: Iterable[str]) -> list[str]:
    """Return the known words that may have been meant, all equally near; none when nothing is."""
    word = typed.lower().strip("-")
    if not word:
        return []
    found: dict[int, list[str]] = {}
    for each in dict.fromkeys(known):
        other = each.lower().strip("-")
        if len(word) >= _BEGINNING and (
            other.startswith(word) or (len(other) > _SHORT and word.startswith(f"{other}-"))
        ):
            found.setdefault(1, []).append(each)
        elif len(word) > _SHORT or other[:1] == word[0]:
            slips = _count_slips(word, other)
            if slips <= (1 if len(word) < _LONG else 2):
                found.setdefault(slips, []).append(each)
    return found[min(found)] if found else []


def _count_slips(word: str, other: str) -> int:
    """Count the letters that are missing, too many, wrong or swapped with the next one."""
    before: list[int] = []
    row: list[int] = [*range(len(other) + 1)]
    for i, letter in enumerate(word):
        before, above = row, before
        row = [i + 1]
        for j, wanted in enumerate(other):
            slips = min(before[j] + (letter != wanted), before[j + 1] + 1, row[j] + 1)
            if above and j and letter == other[j - 1] and wanted == word[i - 1]:
                slips = min(slips, above[j - 1] + 1)
            row.append(slips)
    return row[-1]


def did_you_mean(typed: str, known: Iterable[str]) -> str | None:
    """Return the hint; None when nothing is near."""
    found = [f"'{each}'" for each in nearest(typed, known)[:_NAMED]]
    return f"did you mean {' or '.join(found)}?" if found else None
