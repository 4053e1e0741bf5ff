"""The current session of a project: the id in the store's file `current`, if one was chosen."""

from __future__ import annotations

from csa.errors import StateError
from csa.ids import ID_LENGTH, is_session_id
from csa.store.atomic import open_regular
from csa.store.sessions import Store

_FILE = "current"


def read_current(store: Store) -> str | None:
    """Return the chosen id, whether the session still exists or not; None if none was chosen.

    Raises:
        StateError: the file contains something else.
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

    make_private_directory(store.path)  # the session may be in another project, and this one have no store
    write_atomically(store.path / _FILE, f"{session_id}\n".encode())


def clear_current(store: Store) -> None:
    """Forget the current session."""
    (store.path / _FILE).unlink(missing_ok=True)
