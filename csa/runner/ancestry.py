"""The session whose agent started this process, found through its ancestors when the `CSA_*` variables are gone.

The kernel shows the environment a living ancestor was started with. It is trusted as little as a variable: it must
lead to a record (`find_caller`), and here also to a session that is running right now, so that a shell that has
outlived its session belongs to none. The search ends at the boundary of the pid namespace. Ancestors that csa may not
inspect (another user's) are skipped.
"""

from __future__ import annotations

from csa.errors import StateError
from csa.paths import SessionPaths, make_path
from csa.procfs import ancestors_of, environment_of, own_ancestors
from csa.store.locks import is_locked

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

IDENTITY_VARIABLES = ("CSA_SESSION_ID", "CSA_SESSION_DIR", "CSA_DEPTH", "CSA_PARENT_SESSION")
_ADOPTED = ("CSA_SESSION_ID", "CSA_SESSION_DIR", "CSA_STATE_DIR")


def with_identity(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ`; if it names no session, with the variables of the nearest ancestor's running session.

    The state root comes too, unless `environ` names one: `env -i` has lost that as well.
    """
    if any(name in environ for name in IDENTITY_VARIABLES):
        return dict(environ)
    found = next(_identities(own_ancestors()), {})
    return {**found, **environ}


def with_surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` with its session's variables, and what else the client that has started this process has.

    For servers: some clients give theirs a short list of variables, without `CSA_*` and without keys. The client is the
    nearest ancestor in the same session, or outside of any; what it lacks itself, because of `env_drop`, stays away.
    """
    known = with_identity(environ)
    session = known.get("CSA_SESSION_ID")
    for pid in own_ancestors():
        variables = environment_of(pid)
        if variables and variables.get("CSA_SESSION_ID") == session:
            return {**variables, **known}
    return known


def identity_of(pid: int) -> dict[str, str]:
    """Return the variables that say to which session another process belongs: its own, else its nearest ancestor's.

    Its own are returned as they are, and must lead to a record; empty if it belongs to none. Where somebody
    has killed its guardian, it is a child of the process that runs the turn, whose open lock names the session.
    """
    variables = environment_of(pid)
    if own := {name: variables[name] for name in IDENTITY_VARIABLES if name in variables}:
        return own
    above = ancestors_of(pid)
    return next(_identities(above), {}) or next(filter(None, map(_supervised, above)), {})


def _supervised(pid: int) -> dict[str, str]:
    """Return the variables of the session whose turn a process runs; empty if it runs none."""
    from csa.process.guardian import session_lock_of  # noqa: PLC0415  # few processes ask for others

    lock = session_lock_of(pid)
    if lock is None:
        return {}
    directory = make_path(lock).parent.parent
    return {"CSA_SESSION_ID": directory.name, "CSA_SESSION_DIR": str(directory)}


def _identities(pids: Iterable[int]) -> Iterator[dict[str, str]]:
    for pid in pids:
        variables = environment_of(pid)
        found = {name: variables[name] for name in _ADOPTED if name in variables}
        if len(found) == len(_ADOPTED) and _runs(found):
            yield found


def _runs(identity: Mapping[str, str]) -> bool:
    directory = make_path(identity["CSA_SESSION_DIR"])
    if directory.name != identity["CSA_SESSION_ID"] or not directory.is_relative_to(identity["CSA_STATE_DIR"]):
        return False
    try:
        return is_locked(SessionPaths(directory).session_lock)
    except StateError:
        return False
