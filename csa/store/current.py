"""The current session of a project: the id in the store's file `current`, when one was chosen."""

from __future__ import annotations

from csa.errors import StateError
from csa.ids import ID_LENGTH, is_session_id
from csa.store.atomic import open_regular
from csa.store.sessions import Store

_FILE = "current"


def read_current(store: Store) -> str | None:
    """Return the id that was chosen, whether there still is such a session or not; None when none was.

    Raises:
        StateError: the file holds something else.
    """
    path = f"{store.pathname}/{_FILE}"
    try:
        with open(open_regular(path), "rb") as file:
            text = file.read(2 * ID_LENGTH).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    if not is_session_id(text):
        raise StateError(path, "does not contain a session id", hint="csa current --clear")
    return text


def choose_current(store: Store, session_id: str) -> None:
    """Make a session the current one."""
    from csa.store.atomic import make_private_directory, write_atomically  # noqa: PLC0415  # reading needs none of it

    make_private_directory(store.path)  # the session may be of another project, and this one have none
    write_atomically(store.path / _FILE, f"{session_id}\n".encode())


def clear_current(store: Store) -> None:
    """Make no session the current one."""
    (store.path / _FILE).unlink(missing_ok=True)
