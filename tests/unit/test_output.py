"""Text of agents and of records as it is shown: what a terminal would obey is only shown, the rest stays."""

import pytest

from csa.cli.output import cut, display_width, one_line, printable

MARK = "\N{REPLACEMENT CHARACTER}"
PERSIAN = "می\N{ZERO WIDTH NON-JOINER}خواهم"
ORDINARY = f"Voilà\N{NO-BREAK SPACE}: 日\N{IDEOGRAPHIC SPACE}本 👩\N{ZERO WIDTH JOINER}💻 {PERSIAN} \ue0a0"
OBEYED = ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u202a", "\u202e", "\u2066", "\u2069", "\ud800", "\udcff"]


def test_ordinary_text_stays() -> None:
    """Blanks of any width, joiners, and characters of private use are no control characters."""
    assert printable(ORDINARY) == one_line(ORDINARY) == ORDINARY


@pytest.mark.parametrize("character", OBEYED, ids=ascii)
def test_what_a_terminal_obeys_is_shown(character: str) -> None:
    """Controls, changes of direction and halves of characters become a mark each."""
    assert printable(f"a{character}é") == one_line(f"a{character}é") == f"a{MARK}é"


def test_lines() -> None:
    """A text keeps its lines and tabs; in one line they are blanks, as are all separators of lines."""
    text = " a\tb\r\n\n c\rd\u2028e\x85f  g\n"
    assert printable(text) == f" a\tb\n\n c{MARK}d{MARK}e{MARK}f  g\n"
    assert one_line(text) == "a b c d e f g"


def test_joiners_take_no_column() -> None:
    """What joins characters is not counted, so that columns behind it stay in line."""
    assert display_width(PERSIAN) == 7
    assert cut(ORDINARY, 5) == "Voil…"
