"""What a session is called, on lines and in messages: its name, else as much of its id as is enough. Scripts get ids.

Whoever raises an error, or warns, gives the whole id, which JSON keeps; `with_names` is for where a person reads it.
"""

from __future__ import annotations

import sys

from csa.cli.output import cut, one_line
from csa.errors import CsaError
from csa.store.shown import SessionInfo, Siblings

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import IO

    from csa.runner.client import Csa

_LEAST_NAME = 12  # columns
_SAME = 12  # characters by which what is done tells what the session is about
_ID = r"(?<![\w/.])[0-7][0-9A-HJKMNP-TV-Z]{25}(?![\w/])"  # not as part of a path
_WORD = r"[\w.-]+"  # what a shell takes as it is


def called(info: SessionInfo, width: int | None) -> str:
    """Return what a session is called on a line of that width; in a pipe (None) that is its id."""
    if width is None:
        return info.session_id
    return cut(one_line(info.name or ""), max(_LEAST_NAME, width // 3)) or info.prefix


def subject_of(info: SessionInfo, width: int | None) -> str:
    """Return what a session is about, or why its record cannot be read; in a pipe its name is before that."""
    about = str(info.record.fault) if info.state is None else info.state.description
    return one_line(f"[{info.name}] {about}" if info.name and width is None else about)


def doing_of(info: SessionInfo, width: int | None, *, room: int) -> str:
    """Return what is done in a session, behind `room` columns of what it is about where no name says that."""
    doing = one_line(info.doing) or ("starting" if info.is_running else info.status)
    if info.name:
        return doing if width else one_line(f"[{info.name}] {doing}")
    about = one_line(info.state.description) if info.state else ""
    return f"{cut(about, room)} · {doing}" if about and room and about[:_SAME] not in doing else doing


def with_names(text: str, stream: IO[str], *, is_command: bool = False) -> str:
    """Return text with names for the ids of sessions that have one; on a terminal other ids are cut to what is enough.

    In a command a name is used only where it means the session: in its own project, if that is where the shell is.
    """
    import re  # noqa: PLC0415  # lists need none of it

    if not re.search(_ID, text):
        return text
    from csa.runner.client import Csa  # noqa: PLC0415  # most of what is printed names no session

    try:
        client = Csa.from_environment()
    except (CsaError, OSError):  # the current directory is gone
        return text

    is_elsewhere = any(word.partition("=")[0] == "--cd" for word in sys.argv)

    def name(found: re.Match[str]) -> str:
        info = _find(client, found[0])
        named = called(info, sys.maxsize) if info and info.name else ""
        can_type = info and info.store == client.store and not is_elsewhere and re.fullmatch(_WORD, named)
        if named and (can_type or not is_command):
            return named
        return info.prefix if info and stream.isatty() else found[0]

    return re.sub(_ID, name, text)


def _find(client: Csa, session_id: str) -> SessionInfo | None:
    try:
        session = client.session(session_id, retired=True)
        return SessionInfo(record=session.record, status="", _beside=Siblings(session.store, session.store.ids()))
    except (CsaError, OSError):  # it is gone, never was, or cannot be looked at
        return None


def as_read(text: str, stream: IO[str]) -> str:
    """Return text with names on a terminal; in a pipe ids stay, for scripts."""
    return with_names(text, stream) if stream.isatty() else text


def head_of_line(session_id: str) -> tuple[str, str]:
    """Return how a line on stdout about a session begins, and what else it says of who that is.

    That is its name, or as much of its id as is enough; in a pipe its id, by which scripts know it, and then its name.
    """
    named = with_names(session_id, sys.stdout)
    if sys.stdout.isatty() or named == session_id:
        return named, ""
    return session_id, named
