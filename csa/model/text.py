"""Texts from people and agents as they can be shown: on one line, without control characters, cut to a width. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class _Visible(dict[int, int]):
    """The replacement of each character, for `str.translate`: only for those that a terminal would act on.

    These are control characters, those that change the text direction, and line separators; and halves of
    characters, which stand for undecodable bytes.
    """

    def __missing__(self, code: int) -> int:
        is_control = code < 0x20 or 0x7F <= code < 0xA0  # noqa: PLR2004  # C0, DEL and C1
        turns = 0x2028 <= code <= 0x202E or 0x2066 <= code <= 0x2069  # noqa: PLR2004  # as above
        is_half = 0xD800 <= code < 0xE000  # noqa: PLR2004  # as above
        self[code] = 0xFFFD if is_control or turns or is_half else code
        return self[code]


_IN_TEXT = _Visible((ord(c), ord(c)) for c in "\n\t")
_IN_LINE = _Visible((ord(c), ord(" ")) for c in "\t\n\v\f\r\x85\u2028\u2029")


def one_line(text: str) -> str:
    """Collapse blanks and lines, and make control characters visible."""
    if not text.isprintable():  # as most are; a long list needs thousands
        text = text.translate(_IN_LINE)
    return " ".join(filter(None, text.split(" ")))


def printable(text: str) -> str:
    """Make control characters visible; lines and tabs stay."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return text.replace("\r\n", "\n").translate(_IN_TEXT)


def cut(text: str, width: int | None) -> str:
    """Shorten to a number of columns; None keeps the whole text. Wide characters count as two."""
    if width is None or len(text) * 2 <= width:
        return text
    if width == 0:
        return ""
    if display_width(text) <= width:
        return text
    used, kept = 0, []
    for character in text:
        used += display_width(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept) + "…"


def shortened(text: str, most: int) -> str:
    """Cut to a number of characters, for what is recorded."""
    return text if len(text) <= most else text[: most - 1] + "…"


def display_width(text: str) -> int:
    """Count the columns of a text."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # noqa: PLC0415  # only for text that needs it

    return sum(0 if category(c) in {"Mn", "Me", "Cf"} else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def count_of(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def some_names(names: Sequence[str], *, most: int = 5) -> str:
    """Name the first few of many, and say how many more there are; what is not UTF-8 is replaced."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    shown = (name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names[:most])
    return ", ".join(shown) + more
