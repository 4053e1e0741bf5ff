"""The current session of a user: what `csa run` and `csa switch` leave, and `--continue` and `@current` mean.

There is one for each project, or with `CSA_CURRENT` one for each terminal. It belongs to the user: an agent has none,
and neither reads nor changes it.
"""

from __future__ import annotations

from csa.errors import NotFoundError, RefusedError, StateError, UsageError
from csa.ids import is_session_id
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.store.current import MAX_WORD, choose_current, clear_current, is_word, pointer_path, read_current
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.context import Context
    from csa.store.sessions import Store

VARIABLE = "CSA_CURRENT"


class Pointer(Struct):
    """Where the current session is noted: under a terminal's word, or the project's; or `session_id` is it, fixed."""

    word: str = ""
    session_id: str | None = None

    def read(self, store: Store) -> str | None:
        """Return the id of the current session in a project; raises as `read_current`."""
        return self.session_id or read_current(store, self.word)

    def write(self, store: Store, session_id: str | None) -> None:
        """Note the current session, or None; StateError if that is not possible."""
        try:
            if session_id is None:
                clear_current(store, self.word)
            else:
                choose_current(store, session_id, self.word)
        except OSError as error:
            raise StateError.denied(pointer_path(store, self.word), "cannot be written", error) from error


def find_pointer(context: Context) -> Pointer:
    """Return where the current session is noted.

    Raises:
        UsageError: CSA_CURRENT is neither an id nor a word.
        NotFoundError: an agent asks.
    """
    if _is_agents(context):
        raise NotFoundError(
            "Inside a session there is no current session: it belongs to the user's shell.",
            hint="use @self, @parent, @root, or @last for the last one that this session has started",
        )
    text = context.environ.get(VARIABLE, "")
    if is_session_id(text.upper()):
        return Pointer(session_id=text.upper())
    if text and not is_word(text):
        raise UsageError(
            f"{VARIABLE} is '{text}', which is neither a full session id nor a word.",
            hint=f"a word has up to {MAX_WORD} letters, digits, dots, dashes and underscores, and no dot in front; "
            f"or unset {VARIABLE}",
        )
    return Pointer(word=text)


def current_id(context: Context, store: Store) -> str | None:
    """Return the id of a project's current session for views, which pass over what is wrong with it."""
    try:
        return find_pointer(context).read(store)
    except (StateError, OSError, UsageError, NotFoundError):  # `csa current` says so
        return None


def make_current(context: Context, session_id: str) -> str | None:
    """Make the session of a turn that a user has begun the current one; return why that failed, as a warning.

    An agent's turn changes nothing, and neither does a replay, or one where CSA_CURRENT is a session's id.
    """
    if _is_agents(context) or context.replay:
        return None
    try:
        pointer = find_pointer(context)
        if pointer.session_id is None:
            pointer.write(context.store, session_id)
    except (StateError, UsageError) as error:
        return f"this session could not be made the current one: {error.message}"
    return None


def leave_current(context: Context, session_id: str) -> str | None:
    """Forget the current session if it is that one; return why that failed, as a warning."""
    try:
        if not _is_agents(context) and find_pointer(context).read(context.store) == session_id:
            change_current(context, None)
    except (StateError, UsageError) as error:
        return f"the current session could not be forgotten: {error.message}"
    return None


def change_current(context: Context, session_id: str | None) -> None:
    """Make a session the current one, as the user asks; None forgets it.

    Raises as `find_pointer`, and:
        RefusedError: an agent asks.
        UsageError: CSA_CURRENT is a session's id.
        StateError: it cannot be written.
    """
    if _is_agents(context):
        raise RefusedError(
            "The current session belongs to the user's shell; an agent cannot change it.",
            hint="name the session: csa run --session ID, or @last",
        )
    pointer = find_pointer(context)
    if pointer.session_id:
        raise UsageError(
            f"{VARIABLE} is the session {pointer.session_id}, so that is the current one here.",
            hint=f"unset {VARIABLE}, or set it to a word",
        )
    pointer.write(context.store, session_id)


def _is_agents(context: Context) -> bool:
    """Say whether csa was called inside a session; lists need not look up which one."""
    return any(name in context.environ for name in IDENTITY_VARIABLES)
