"""Who calls csa: an agent inside a session, found through the records that the `CSA_*` variables name.

The variables only point; depth, parent, limits and permission come from the records. If a variable is set and does
not lead to a session's record, the call is refused: it must not become a new root. If none is set, the variables of
the process's ancestors are used (csa/runner/ancestry.py).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.errors import RefusedError, StateError
from csa.ids import is_session_id
from csa.model.permission import Permission
from csa.model.recordkeys import RecordFault
from csa.model.state import SessionState, parse_limits
from csa.paths import SessionPaths
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.store.genealogy import ancestors, find_record
from csa.store.liveness import probe
from csa.store.statefile import load_state
from csa.structs import Struct, replace


class Caller(Struct):
    """The session in which csa was called.

    If it is on another `host`, `state` is what its passport says, there are no files, and `above` are it and its
    ancestors (csa/runner/hosts/passport.py). `repository` is one that it may use, as that host has found it:
    with the link to its git directory, if it is a worktree.
    """

    state: SessionState
    paths: SessionPaths
    root: Path  # the state root
    host: str | None = None
    above: tuple[str, ...] = ()
    repository: tuple[str, str | None] | None = None

    @property
    def session_id(self) -> str:
        return self.state.session_id

    @property
    def permission(self) -> Permission:
        """The highest permission a child may have; a record without one allows the lowest."""
        try:
            return Permission(self.state.permission)
        except ValueError:
            return Permission.READ_ONLY

    @property
    def ceiling(self) -> dict[str, Any]:
        """What its permission and its limits are now, for `below` at another time."""
        return {"permission": self.permission.value, "limits": self.state.limits.to_record()}

    def below(self, ceiling: Mapping[str, Any]) -> Caller:
        """Return it with no more permission, and no wider limits, than at the time of `ceiling`.

        RefusedError if that is damaged.
        """
        try:
            highest, limits = Permission(ceiling["permission"]), parse_limits(ceiling["limits"])
        except (RecordFault, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _refused(f"what it might do when it queued this is damaged: {error}") from error
        permission = self.permission.at_most(highest).value
        state = replace(self.state, permission=permission, limits=self.state.limits.tightened_by(limits))
        return replace(self, state=state)

    def lineage(self) -> Iterator[str]:
        """Return the caller's own id, its parent's, and so on up to the root, which every record names.

        If a record is gone or damaged, what is between it and the root is unknown.
        """
        known = self._records()
        ids = [*(state.session_id for state in known), *known[-1].above, *self.above]
        ids += [known[-1].parent_session_id or "", self.state.root_session_id or ""]
        return iter(dict.fromkeys(filter(None, ids)))

    def unfinished(self) -> set[str]:
        """Return sessions whose turns end after the caller's command: its own, and up to the first detached one."""
        found = set[str]()
        for state in self._records():
            found.add(state.session_id)
            paths = find_record(self.root, state.project_path, state.session_id)
            liveness = probe(paths) if paths else None
            if liveness is None or liveness.state != "alive" or liveness.owner is None or liveness.owner.detached:
                break
        return found

    def project_of(self, session_id: str) -> Path | None:
        """Return the project of the caller or of an ancestor; None if the records do not say."""
        projects = {state.session_id: state.project_path for state in self._records()}
        return Path(projects[session_id]) if session_id in projects else None

    @property
    def host_above(self) -> str | None:
        """The host from which its tree was placed on this one; None if all of it is here."""
        return self.host or self._records()[-1].parent_host

    def _records(self) -> list[SessionState]:
        """Return the records of the caller and its ancestors, as far as they can be read."""
        known = [self.state]
        with suppress(StateError):
            for state in ancestors(self.root, self.state):
                known.append(state)  # noqa: PERF402  # the ones before a damaged one are kept
        return known


def find_caller(environ: Mapping[str, str], root: Path) -> Caller | None:
    """Return the session that `environ` belongs to; None for a call from outside any session.

    Raises:
        RefusedError: some identity variable is set, but they do not lead to a session's record below `root`.
    """
    present = [name for name in IDENTITY_VARIABLES if name in environ]
    if not present:
        return None
    session_id = environ.get("CSA_SESSION_ID", "")
    directory = Path(environ.get("CSA_SESSION_DIR", ""))
    if not is_session_id(session_id):
        raise _refused(f"CSA_SESSION_ID is '{session_id}', which is not a session id")
    if not directory.is_absolute():
        raise _refused("CSA_SESSION_DIR is missing or not an absolute path")
    directory = directory.resolve()
    if not directory.is_relative_to(root.resolve()):
        raise _refused(f"CSA_SESSION_DIR is not in the state root {root}")
    if directory.name != session_id:
        raise _refused("CSA_SESSION_DIR is not the directory of CSA_SESSION_ID")
    paths = SessionPaths(directory)
    try:
        return Caller(load_state(paths.state), paths, root.resolve())
    except StateError as error:
        raise _refused(f"its record cannot be read: {error.problem}") from error


def _refused(reason: str) -> RefusedError:
    return RefusedError(
        f"csa was called inside a session whose record it cannot find: {reason}.",
        hint="what an agent starts belongs to its session; in a shell of your own, "
        "unset " + " ".join(IDENTITY_VARIABLES),
    )


def refuse_own_lineage(caller: Caller | None, session_id: str, *, verb: str = "resume") -> None:
    """Refuse what an agent may not do to its own session, or to one that it works for.

    Raises:
        RefusedError: it is the calling session or one of its ancestors.
    """
    if caller is None:
        return
    if session_id == caller.session_id:
        hint = "start a new session for the sub-task" if verb == "resume" else "leave that to whoever started it"
        raise RefusedError(f"Session {session_id} cannot {verb} itself.", hint=hint)
    if session_id in caller.lineage():
        raise RefusedError(
            f"Session {session_id} is an ancestor of the calling session {caller.session_id}, which cannot {verb} it."
        )


def refuse_command(caller: Caller | None, what: str, hint: str) -> None:
    """Refuse a shell command of an agent that may not do everything: it would run outside of what confines that.

    Args:
        caller: who names it; the commands of a plan were looked at when somebody started that.
        what: what it is called, with its article.
        hint: the next step.

    Raises:
        RefusedError: the caller is such an agent.
    """
    if caller is None or caller.permission is Permission.FULL or caller.state.last_tool == "plan":
        return
    raise RefusedError(
        f"Session {caller.session_id} may not name {what}: nothing would confine it.", hint=f"leave it out; {hint}"
    )


def refuse_setup(caller: Caller | None) -> None:
    """Refuse a command that prepares a worktree; raises as `refuse_command`."""
    refuse_command(caller, "a setup command", "what is configured runs (worktree_setup)")


def refuse_check(caller: Caller | None) -> None:
    """Refuse a command that checks work before it lands; raises as `refuse_command`."""
    refuse_command(caller, "a command as a check", "check the work before, in the shell")


def refuse_endless_wait(caller: Caller | None, session_id: str, *, verb: str = "wait for") -> None:
    """Raise RefusedError for a turn that cannot end before the calling agent's command has."""
    if caller is not None and session_id in caller.unfinished():
        raise RefusedError(
            f"Session {caller.session_id} cannot {verb} {session_id}: its turn is waiting for this command to end.",
            hint="csa is-alive, status, show and logs show it without waiting",
        )


def owner_name(environ: Mapping[str, str]) -> str:
    """Name the user and host on whose behalf csa acts."""
    return f"{user_name(environ)}@{os.uname().nodename}".encode("utf-8", "replace").decode()


def user_name(environ: Mapping[str, str]) -> str:
    """Name the user, by the environment, else by the system; services and cron jobs may have no USER."""
    if name := environ.get("USER") or environ.get("LOGNAME"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
