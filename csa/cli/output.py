"""What csa prints: errors, JSON, and styled text. Styles appear on a terminal, unless they are forced or forbidden."""

from __future__ import annotations

import json
import os
import sys

from csa.errors import CsaError, StateError
from csa.ids import is_session_id
from csa.model.text import count_of as count_of  # noqa: PLC0414  # their home is below; commands take them from here
from csa.model.text import cut as cut  # noqa: PLC0414  # as above
from csa.model.text import display_width as display_width  # noqa: PLC0414  # as above
from csa.model.text import one_line as one_line  # noqa: PLC0414  # as above
from csa.model.text import printable as printable  # noqa: PLC0414  # as above

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import IO, Any

_INFINITY = float("inf")
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
KINDS = {
    "csa": "dim",
    "worktree": "dim",
    "setup": "dim",
    "hint": "cyan",
    "warning": "yellow",
    "error": "red",
}  # of messages on stderr
_OFF = {"", "0", "false"}
_WIDEST = 65_535  # columns; no terminal can be wider
STATUS_STYLES = {
    "running": "cyan",
    "asking": "yellow",
    "open": "cyan",
    "succeeded": "green",
    "failed": "red",
    "killed": "red",
    "lost": "red",
    "damaged": "red",
    "timed_out": "yellow",
    "cancelled": "yellow",
    "unknown": "yellow",
    "away": "yellow",
    "closed": "dim",
    "retired": "dim",
}


def print_error(error: CsaError, *, as_json: bool) -> None:
    """Print a failure: to stderr as text, or to stdout as the error object."""
    if as_json:
        print_json({"error": error_to_json(error)})
        return
    print_problem(error.message, hint=hint_of(error))


def error_to_json(error: CsaError) -> dict[str, object]:
    """Return the error object, with the next step."""
    return {**error.to_json(), "hint": hint_of(error)}


def tell(kind: str, words: str, *, by_name: bool = True) -> None:
    """Print `KIND: WORDS` to stderr, the only form of messages there. `csa` is for anything that is not a problem.

    The ids of sessions in it become their names.
    """
    if by_name:
        from csa.cli.views.naming import with_names  # noqa: PLC0415  # most commands print no message

        words = with_names(words, sys.stderr, is_command=kind == "hint")
    with lossy(sys.stderr):
        print(f"{Style(sys.stderr)(f'{kind}:', KINDS[kind])} {printable(words)}", file=sys.stderr, flush=True)


def hint_of(error: CsaError) -> str | None:
    """Return the next step: an error's own, and for a damaged record the command that repairs it."""
    if error.hint or not isinstance(error, StateError):
        return error.hint
    session_id = next((part for part in str(error.path).split("/")[::-1] if is_session_id(part)), None)
    return f"csa repair --dry-run {session_id}" if session_id else None


def print_problem(message: str, *, hint: str | None = None) -> None:
    """Print `error: ...` and `hint: ...` to stderr."""
    tell("error", message)
    if hint:
        tell("hint", hint)


def warn(losses: Iterable[str]) -> None:
    """Print warnings to stderr."""
    for loss in losses:
        tell("warning", loss)


def print_act(arguments: argparse.Namespace, words: str, facts: Mapping[str, Any], losses: Iterable[str] = ()) -> None:
    """Print what was done: as text, or as an object."""
    if arguments.json:
        print_json(facts)
    else:
        from csa.cli.views.naming import as_read  # noqa: PLC0415  # most commands do nothing

        print(as_read(words, sys.stdout))
    warn(losses)


def print_json(value: Any) -> None:
    """Print one JSON value on one line; numbers that JSON does not have become null."""
    print(to_json(value))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Render one JSON value for stdout's encoding, on one line unless indented."""
    is_utf8 = sys.stdout.encoding.lower() in {"utf-8", "utf8"}  # else JSON's escapes, not Python's
    try:
        text = json.dumps(value, ensure_ascii=not is_utf8, allow_nan=False, indent=indent)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=not is_utf8, indent=indent)
    return text_for(sys.stdout, text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not -_INFINITY < value < _INFINITY else value


class lossy:  # noqa: N801  # as contextlib.suppress, without importing contextlib
    """Print to a stream that may fail; after a failure, noted in `faults`, output is dropped and the run goes on."""

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
    """Redirect a stream without a reader to /dev/null, or Python would complain again when closing it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no descriptor is left; then Python complains
        return
    os.dup2(null, stream.fileno())
    os.close(null)


def has_room(stream: IO[str]) -> bool:
    """Say whether PIPE_BUF bytes can be written at once: not to a full pipe, or a terminal after Ctrl-S."""
    import select  # noqa: PLC0415  # only code that must not block needs it

    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return bool(poll.poll(0))


class Style:
    """Wraps text in terminal attributes, if requested, or if the stream is a terminal that supports them."""

    when = "auto"  # or "always", "never": the value of --color, for the whole process

    def __init__(self, stream: IO[str]) -> None:
        self.enabled = _wants_colour(stream) if self.when == "auto" else self.when == "always"

    def __call__(self, text: str, *names: str) -> str:
        codes = ";".join(_CODES[name] for name in names if name)
        return f"\033[{codes}m{text}\033[0m" if self.enabled and codes else text


def _wants_colour(stream: IO[str]) -> bool:
    """Judge by the environment: forcing colour overrides forbidding it, since it is set for one command."""
    environ = os.environ
    if any(environ.get(name, "0") not in _OFF for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    if environ.get("NO_COLOR") or environ.get("CLICOLOR") == "0":
        return False
    return stream.isatty() and environ.get("TERM") != "dumb"


def is_in_background(stream: IO[str]) -> bool:
    """Say whether we are a shell's background job: then the terminal is not ours to draw on."""
    try:
        return os.tcgetpgrp(stream.fileno()) != os.getpgrp()
    except (OSError, ValueError):  # no terminal, or not a controlling one: then there are no jobs
        return False


def can_redraw(stream: IO[str]) -> bool:
    """Say whether the stream is a terminal that supports more than line feeds."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"", "dumb"}


def terminal_width(stream: IO[str]) -> int | None:
    """Return the columns of the terminal (or COLUMNS); None if the stream is not a terminal."""
    if not stream.isatty():
        return None
    return _columns_asked() or terminal_size(stream)[0]


def help_width() -> int:
    """Return the width of help: that of the terminal (or COLUMNS), within readable limits; 80 in a pipe."""
    return max(40, _columns_asked() or min(100, terminal_size(sys.stdout)[0]))


def _columns_asked() -> int:
    try:
        return min(max(0, int(os.environ.get("COLUMNS", ""))), _WIDEST)
    except ValueError:
        return 0


def terminal_size(stream: IO[str]) -> tuple[int, int]:
    """Return the current columns and lines of a terminal; not COLUMNS, which does not follow a resize."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except OSError:
        columns, lines = 0, 0
    return columns or 80, lines or 24


def text_for(stream: IO[Any], text: str) -> str:
    """Return a text from an agent or an archive for output: on a terminal without control characters.

    In a pipe or a file it stays as it is.
    """
    return printable(text) if stream.isatty() else text


def fold(text: str, width: int | None) -> list[str]:
    """Wrap a text at blanks to a number of columns; a longer word, such as a path, is broken anywhere."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if width is None or display_width(longer) <= width:
            line = longer
            continue
        lines += [line] if line else []
        line = ""
        for character in word:
            if display_width(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line]


def shorten(path: Path | str, user_home: Path) -> str:
    """Render a path as a shell prompt does, with `~` for the home directory."""
    shown, above = str(path), str(user_home)
    is_inside = above != "/" and f"{shown}/".startswith(f"{above}/")
    return one_line(f"~{shown[len(above) :]}" if is_inside else shown)


def cut_behind(head: str, text: str, width: int | None) -> str:
    """Shorten a line after its head, which stays complete: an id must, so that it can be copied."""
    return head + (text if width is None else cut(text, max(0, width - display_width(head))))
