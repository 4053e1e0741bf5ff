"""What csa prints: errors, JSON, and styled text. Styles appear on a terminal only, and never under NO_COLOR."""

from __future__ import annotations

import json
import os
import sys

from csa.errors import CsaError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO, Any

_INFINITY = float("inf")
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
STATUS_STYLES = {
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "killed": "red",
    "lost": "red",
    "damaged": "red",
    "timed_out": "yellow",
    "cancelled": "yellow",
    "unknown": "yellow",
    "retired": "dim",
}


def print_error(error: CsaError, *, as_json: bool) -> None:
    """Print a failure: to stderr in words, or to stdout as the error object."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return
    print_problem(error.message, hint=error.hint)


def print_problem(message: str, *, hint: str | None = None) -> None:
    """Print `error: ...` and `hint: ...` to stderr."""
    style = Style(sys.stderr)
    lines = [f"{style('error:', 'red')} {message}"]
    if hint:
        lines.append(f"{style('hint:', 'cyan')} {hint}")
    print("\n".join(lines), file=sys.stderr)


def warn(losses: Iterable[str]) -> None:
    """Say on stderr what was lost, or should be known."""
    with lossy(sys.stderr):
        for loss in losses:
            print(f"warning: {loss}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print one JSON value on one line; what a record has of numbers that JSON has not is null."""
    is_utf8 = sys.stdout.encoding.lower() in {"utf-8", "utf8"}  # else JSON's escapes, not Python's
    try:
        text = json.dumps(value, ensure_ascii=not is_utf8, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=not is_utf8)
    print(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not -_INFINITY < value < _INFINITY else value


class lossy:  # noqa: N801  # as contextlib.suppress, without importing what makes such functions
    """Print to a stream that may fail; from then on it is dropped, rather than failing a run. Notes why in `faults`."""

    def __init__(self, stream: IO[str], faults: list[OSError] | None = None) -> None:
        self._stream = stream
        self._faults = faults

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, OSError):
            return False
        silence(self._stream)
        if self._faults is not None:
            self._faults.append(error)
        return True


def silence(stream: IO[str]) -> None:
    """Send a stream that nobody reads to /dev/null, or Python would complain again when it closes it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Style:
    """Wraps text in terminal attributes, where the stream is a terminal that wants them."""

    def __init__(self, stream: IO[str]) -> None:
        self.is_terminal = stream.isatty()
        self.enabled = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, *names: str) -> str:
        codes = ";".join(_CODES[name] for name in names if name)
        return f"\033[{codes}m{text}\033[0m" if self.enabled and codes else text


def can_redraw(stream: IO[str]) -> bool:
    """Say whether the stream is a terminal that obeys more than a line feed."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"", "dumb"}


def terminal_width(stream: IO[str]) -> int | None:
    """Return the columns of the terminal (or COLUMNS); None when the stream is none."""
    if not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def terminal_size(stream: IO[str]) -> tuple[int, int]:
    """Return columns and lines of a terminal as it is now; COLUMNS does not count, which knows of no resize."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, lines = 0, 0
    return columns or 80, lines or 24


def one_line(text: str) -> str:
    """Fold white space, and make control characters visible rather than obeyed."""
    if text.isprintable():  # as most are; a long list asks for thousands
        return " ".join(text.split())
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text).split())


def printable(text: str) -> str:
    """Make control characters visible rather than obeyed; lines and tabs stay."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    kept = "\n\t"
    return "".join(
        c if c.isprintable() or c in kept else "\N{REPLACEMENT CHARACTER}" for c in text.replace("\r\n", "\n")
    )


def cut(text: str, width: int | None) -> str:
    """Shorten to a number of columns; None leaves the text whole. Wide characters count as two."""
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


def cut_behind(head: str, text: str, width: int | None) -> str:
    """Shorten a line behind its head, which stays whole: an id must, wherever it is to be copied from."""
    return head + (text if width is None else cut(text, max(0, width - display_width(head))))


def display_width(text: str) -> int:
    """Count the columns that a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width  # noqa: PLC0415  # only for text that needs it

    return sum(0 if category(c) in {"Mn", "Me"} else 2 if east_asian_width(c) in "WF" else 1 for c in text)
