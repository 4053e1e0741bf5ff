"""Which session is the current one: a pointer in the store's file `current`, and in `current.d` those of terminals.

A pointer holds an id. It is replaced as a whole, and need not survive a power cut: an empty one is none.
"""

from __future__ import annotations

import os

from csa.errors import StateError
from csa.ids import ID_LENGTH, is_session_id
from csa.paths import CURRENT, CURRENT_OF_TERMINALS, make_path
from csa.store.atomic import open_regular
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from datetime import datetime

MAX_WORD = 64
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def is_word(text: str) -> bool:
    """Say whether a text can name the pointer of a terminal; hidden files are temporary ones."""
    return 0 < len(text) <= MAX_WORD and text[0] != "." and _LETTERS.issuperset(text)


def read_current(store: Store, word: str = "") -> str | None:
    """Return the chosen id, whether the session still exists or not; None if none was chosen.

    Raises:
        StateError: the file contains something else, or cannot be read.
    """
    path = pointer_path(store, word)
    try:
        text = _content(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    if text and not is_session_id(text):
        raise StateError(path, "does not contain a session id", hint="csa current --clear")
    return text or None


def choose_current(store: Store, session_id: str, word: str = "") -> None:
    """Make a session the current one; nothing is written if it is already.

    Raises:
        OSError: what is there cannot be read, or replaced.
    """
    from csa.store.atomic import make_private_directory, replace_private  # noqa: PLC0415  # reading needs none of it

    path = make_path(pointer_path(store, word))
    try:
        if _content(str(path)) == session_id:
            return
    except FileNotFoundError:
        pass
    make_private_directory(path.parent)  # the session may be in another project, and this one have no store
    replace_private(path, f"{session_id}\n".encode())


def clear_current(store: Store, word: str = "") -> None:
    """Forget the current session."""
    try:  # noqa: SIM105  # readers load this module, and contextlib takes as long as the rest of it
        os.unlink(pointer_path(store, word))
    except FileNotFoundError:
        pass


def forget_unused(store: Store, before: datetime) -> None:
    """Remove the pointers of terminals that were set before that moment, if their session was not used since."""
    directory = f"{store.pathname}/{CURRENT_OF_TERMINALS}"
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        path = f"{directory}/{name}"
        try:
            if os.stat(path).st_mtime < before.timestamp() and not _is_used(store, _content(path), before):
                os.unlink(path)
        except OSError:  # another process was first, or it is none of ours
            continue


def _is_used(store: Store, session_id: str, before: datetime) -> bool:
    state = store.record(session_id).state if is_session_id(session_id) else None
    return state is not None and state.last_accessed >= before


def pointer_path(store: Store, word: str) -> str:
    """Return where the current session is noted: for a word of a terminal, or for the project."""
    return f"{store.pathname}/{CURRENT_OF_TERMINALS}/{word}" if word else f"{store.pathname}/{CURRENT}"


def _content(path: str) -> str:
    with open(open_regular(path), "rb") as file:
        return file.read(2 * ID_LENGTH).decode("utf-8", "replace").strip()
