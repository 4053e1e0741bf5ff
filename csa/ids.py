"""Session ids: canonical ULIDs (26 characters of Crockford's base32, upper case, 48 bits of milliseconds first)."""

from __future__ import annotations

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ORDER = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ALPHABET, _LETTERS = frozenset(_ORDER), _ORDER.encode()
ID_LENGTH = 26
ENTROPY_BYTES = 10
_TIME_LENGTH = 10


def is_session_id(text: str) -> bool:
    """Say whether `text` is a canonical ULID; anything else in a sessions directory is not a session."""
    return len(text) == ID_LENGTH and text[0] in "01234567" and _ALPHABET.issuperset(text)


def session_ids_in(names: Iterable[str]) -> list[str]:
    """Return those of many names that are canonical ULIDs; usually all, which is found out about all at once."""
    found = [name for name in names if len(name) == ID_LENGTH and name[0] in "01234567"]
    text = "".join(found).encode("ascii", "replace")
    return [*filter(is_session_id, found)] if text.translate(None, _LETTERS) else found


def may_be_id(text: str) -> bool:
    """Say whether `text` may be an id, or the beginning of one, and not a name, or a UUID."""
    return text[:1].isdigit() and "-" not in text


def new_session_id(now_ms: int, entropy: bytes) -> str:
    """Make an id from the time in Unix milliseconds and 10 random bytes."""
    return _spell(now_ms, _TIME_LENGTH) + _spell(int.from_bytes(entropy, "big"), ID_LENGTH - _TIME_LENGTH)


def renew_session_id(session_id: str, entropy: bytes) -> str:
    """Make another id with the same time from 10 random bytes."""
    return session_id[:_TIME_LENGTH] + _spell(int.from_bytes(entropy, "big"), ID_LENGTH - _TIME_LENGTH)


def milliseconds_of(session_id: str) -> int:
    """Return the time in Unix milliseconds that is in an id."""
    number = 0
    for letter in session_id[:_TIME_LENGTH]:
        number = number << 5 | _ORDER.index(letter)
    return number


def _spell(number: int, length: int) -> str:
    """Write a number in base32, as python-ulid does, whose import takes longer than the start of python."""
    return "".join([_ORDER[number >> shift & 31] for shift in range(5 * (length - 1), -1, -5)])


def unique_prefix_length(session_id: str, ordered: Sequence[str], *, minimum: int = 10) -> int:
    """Count the characters that tell `session_id` from its neighbours in the sorted `ordered` (which may have it)."""
    from bisect import bisect_left  # noqa: PLC0415  # few commands show how much of an id is unique

    at = bisect_left(ordered, session_id)
    neighbours = [other for other in ordered[max(0, at - 1) : at + 2] if other != session_id]
    return max([minimum, *(_shared(session_id, other) + 1 for other in neighbours)])


def _shared(left: str, right: str) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
