"""How sessions are named in lines and messages: by name, else by a unique part of the id. Scripts get ids.

Errors and warnings have the whole id, which JSON keeps; `with_names` replaces it for people.
"""

from __future__ import annotations

import sys

from csa.cli.output import cut, one_line, shorten
from csa.errors import CsaError
from csa.paths import CODE
from csa.store.shown import SessionInfo, Siblings

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from csa.runner.client import Csa
    from csa.store.sessions import Store

_LEAST_NAME = 12  # columns
_SAME = 12  # how much of the activity must match the description
_ID = r"(?<![\w/.])[0-7][0-9A-HJKMNP-TV-Z]{25}(?![\w/])"  # not as part of a path
_QUOTED = r"(?<!\w)'[^']*'(?!\w)|(?<!\w)\"[^\"]*\"(?!\w)"  # what a user typed stays
_WORD = r"[\w.-]+"  # characters that need no quotes in a shell


def called(info: SessionInfo, width: int | None) -> str:
    """Return a session's name on a line of that width; in a pipe (None) that is its id.

    The names of other hosts' sessions begin with the host's, as they can be typed.
    """
    if width is None:
        return info.session_id
    name = f"{info.store.host}:{info.name}" if info.name and info.store.host else info.name or ""
    return cut(one_line(name), max(_LEAST_NAME, width // 3)) or info.prefix


def name_host(store: Store, beside: Store) -> str:
    """Say on which host a session is, beside one on another host; empty if it is the same."""
    if store.host == beside.host:
        return ""
    return f"on {store.host}" if store.host else "on this host"


def place_of(store: Store, user_home: Path) -> str:
    """Return what the project of a store is called in a list: `~/app`, or `n1:~/app` for one on another host."""
    return (f"{store.host}:" if store.host else "") + shorten(_project_called(store), user_home)


def label_called(store: Store) -> str:
    """Return the same as `Store.label`, with the project as `place_of` calls it."""
    return (f"{store.host}:" if store.host else "") + _project_called(store)


def _project_called(store: Store) -> str:
    if f"/{CODE}/" not in store.project_pathname:  # as nearly always
        return store.project_pathname
    from csa.store.sentcode import project_called  # noqa: PLC0415  # few lists have code that was sent

    return project_called(store)


def subject_of(info: SessionInfo, width: int | None, *, queued: int | None = None) -> str:
    """Return a session's description, or why its record cannot be read, and what is queued; in a pipe with its name."""
    about = str(info.record.fault) if info.state is None else info.state.description
    queued = info.queued if queued is None else queued  # each look lists a directory
    about = f"({queued} queued) {about}" if queued else about
    return one_line(f"[{info.name}] {about}" if info.name and width is None else about)


def doing_of(info: SessionInfo, width: int | None, *, room: int) -> str:
    """Return a session's activity, after `room` columns of its description if it has no name."""
    doing = one_line(info.doing) or ("starting" if info.is_running else info.status)
    if fate := fate_of(info):
        doing = f"{fate} · {doing}"
    if info.name:
        return doing if width else one_line(f"[{info.name}] {doing}")
    about = one_line(info.state.description) if info.state else ""
    return f"{cut(about, room)} · {doing}" if about and room and about[:_SAME] not in doing else doing


_REFUSED = {"conflict": "conflict", "markers": "conflict", "check": "check failed", "hook": "hook failed"}


def fate_of(info: SessionInfo) -> str:
    """Say what has become of the work of a session's last turn in a worktree of its own; empty if nothing yet."""
    state = info.state
    tree = info.worktree
    if state is None or tree is None or info.is_running:
        return ""
    if refused := tree.refused:
        files = f": {one_line(', '.join(refused.files))}" if refused.files else ""
        return f"{_REFUSED.get(refused.kind, refused.kind)}{files}"
    if not info.has_landed:
        return ""
    return "merged" if state.task else "landed"


def with_names(text: str, stream: IO[str], *, is_command: bool = False) -> str:
    """Return a text with names in place of ids, for sessions that have one; on a terminal other ids are shortened.

    In a command a name is used only if it resolves to the session: not to another, nor where the shell is not.
    """
    import re  # noqa: PLC0415  # lists need none of it

    if not re.search(_ID, text):
        return text
    from csa.runner.client import Csa  # noqa: PLC0415  # most output names no session

    try:
        client = Csa.from_environment()
    except (CsaError, OSError):  # the current directory is gone
        return text

    is_elsewhere = any(word.partition("=")[0] == "--cd" for word in sys.argv)

    def can_type(named: str, session_id: str) -> bool:
        return not is_elsewhere and bool(re.fullmatch(_WORD, named)) and _means(client, named, session_id)

    def name(found: re.Match[str]) -> str:
        if not found["id"]:
            return found[0]
        info = _find(client, found[0])
        named = called(info, sys.maxsize) if info and info.name else ""
        if named and (not is_command or can_type(named, found[0])):
            return named
        return info.prefix if info and stream.isatty() else found[0]

    return re.sub(f"{_QUOTED}|(?P<id>{_ID})", name, text)


def _find(client: Csa, session_id: str) -> SessionInfo | None:
    try:
        session = client.session(session_id, retired=True)
        ids, retired = session.store.ids(), session.store.retired_ids()
        siblings = Siblings(session.store, sorted([*ids, *retired]) if retired else ids)
        return SessionInfo(record=session.record, status="", _beside=siblings)
    except (CsaError, OSError):  # it is gone, never existed, or cannot be read
        return None


def _means(client: Csa, name: str, session_id: str) -> bool:
    """Say whether a name that is typed here finds that session; of deleted ones several may have it."""
    try:
        session = client.session(name)
    except (CsaError, OSError):
        return False
    return session.session_id == session_id and session.store == client.store


def as_read(text: str, stream: IO[str]) -> str:
    """Return text with names on a terminal; in a pipe ids stay, for scripts."""
    return with_names(text, stream) if stream.isatty() else text


def head_of_line(session_id: str) -> tuple[str, str]:
    """Return how a line on stdout about a session begins, and the rest of its identification.

    That is its name, or a unique part of its id; in a pipe its id, which scripts use, and then its name.
    """
    named = with_names(session_id, sys.stdout)
    if sys.stdout.isatty() or named == session_id:
        return named, ""
    return session_id, named
