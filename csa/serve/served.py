"""What the routes work with: which sessions are served, here and on other hosts, and on whose behalf they act."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from csa.errors import CsaError, MirroredError, NotFoundError, RetiredError, UsageError
from csa.ids import may_be_id
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.hosts.watching import Keeping
from csa.runner.session import LONG_PREFIX, Session, find_anywhere, find_session
from csa.runner.sessions.fleet import Fleet
from csa.serve.peer import identity_of_peer
from csa.serve.problems import NotServedError
from csa.serve.requests import Asked
from csa.store.mirrors import find_mirror, find_mirrors, split_label, stores_everywhere
from csa.store.project import find_project
from csa.store.sessions import Store
from csa.store.stores import find_stores

ELSEWHERE = "-:/"  # stands for any project of another host: all are served, or none


class Served:
    """What the routes work with: the state root, its projects, and the environment agents get."""

    def __init__(self, root: str, fleet: Fleet, environ: Mapping[str, str], *, command: str, directory: str) -> None:
        self.root = root
        self.fleet = fleet
        self._environ = {name: value for name, value in environ.items() if name not in IDENTITY_VARIABLES}
        self._environ["CSA_STATE_DIR"] = root
        self._command = command
        self._directory = directory
        self.keeping = Keeping(root)
        self.user_states: dict[str, Any] = {}  # what clients of the chat API have sent along, by session

    def client(self, directory: str | None = None, asked: Asked | None = None) -> Csa:
        """Return a client for a directory; with `asked`, on behalf of the session whose agent asks."""
        identity: dict[str, str] = {}
        if asked:
            identity = identity_of_peer(asked.client, asked.server)
        environ = {**self._environ, **identity}
        return Csa.from_environment(directory or self._directory, environ=environ, command=self._command)

    def stores(self, query: Mapping[str, Any] | None = None) -> list[Store]:
        """Return the stores that are served; by a query, that of one project, or also those of other hosts."""
        project, host, all_hosts = map((query or {}).get, ("project", "host", "all_hosts"))
        if project is not None:
            if host or all_hosts:
                raise UsageError("project names one of this host.", hint="leave host and all_hosts out")
            return [Store(self.root, self.require(project))]
        if host:
            found: Iterable[Store] = find_mirror(self.root, host).stores()
        else:
            found = stores_everywhere(Path(self.root)) if all_hosts else find_stores(Path(self.root))
        return [store for store in found if self.fleet.is_served(store.label)]

    def places(self) -> list[Store]:
        """Return the stores in which sessions can be begun, ordered by project: also in that of `home`."""
        found = {store.project_pathname: store for store in self.stores()}
        own = self.home_store()
        if self.fleet.is_served(own.project_pathname):
            found.setdefault(own.project_pathname, own)
        return [found[project] for project in sorted(found)]

    def require(self, directory: str) -> str:
        """Return the project of a directory; NotServedError if it is not served."""
        if not os.path.isabs(directory):
            raise UsageError(f"{directory} is not an absolute path.")
        if not os.path.isdir(directory):
            raise NotFoundError(f"There is no directory {directory}.")
        project = find_project(directory)
        self.refuse_others(project)
        return project

    def home(self) -> str:
        """Return the directory of who names none: where the server was started, or else the first that it serves."""
        return self._directory

    def home_store(self) -> Store:
        """Return the store of the project of `home`."""
        return Store(self.root, find_project(self._directory))

    def refuse_others(self, project: str) -> None:
        """Raise NotServedError for a project, by its store's label, that is not served."""
        if not self.fleet.is_served(project):
            if split_label(project)[0]:
                raise NotServedError("With --project, no other hosts are served.", hint="csa serve, without --project")
            raise NotServedError(f"{project} is not served.", hint=f"csa serve --project {project}")

    def find(self, asked: Asked, *, acts: bool = False, retired: bool = False, mirrored: bool = False) -> Session:
        """Return the session in the path; with `acts`, on behalf of who asks.

        One of another host is returned to who reads, and with `mirrored` to who acts.

        Raises:
            NotServedError: it is in a project that is not served.
            MirroredError: it is another host's. Else as `find_anywhere`.
        """
        context, typed = self.client(asked=asked if acts else None).context, asked.path["id"]
        found = self._find(context, typed, retired=retired)
        self.refuse_others(found.store.label)
        if (host := found.store.host) and acts and not mirrored:
            raise MirroredError(host, found.session_id)
        return found

    def is_elsewhere(self, typed: str) -> bool:
        """Say whether what is in a path means a session of another host; it looks at many files."""
        try:
            return ":" in typed or self._find(self.client().context, typed, retired=True).store.host is not None
        except CsaError:  # whoever acts on it is told
            return False

    def _find(self, context: Context, typed: str, *, retired: bool) -> Session:
        if ":" in typed:  # in no name and no id
            return find_session(context, typed, retired=True)
        known = [store for store in self.fleet.stores if store.has(typed)]
        here = [store for store in known if not store.host]
        stores = here or known or find_stores(Path(self.root), with_retired=True)
        try:
            return find_anywhere(context, typed, stores, retired=retired)
        except NotFoundError as error:
            if isinstance(error, RetiredError) or not (may_be_id(typed) and len(typed) >= LONG_PREFIX):
                raise
            mirrors = [store for mirror in find_mirrors(self.root) for store in mirror.stores()]
            try:
                return find_anywhere(context, typed, mirrors, retired=True)
            except NotFoundError:
                raise error from None


def client_of(session: Session) -> Csa:
    """Return the client that works where a session is."""
    client = Csa(session.project, root=session.store.root)
    client.context = session.context
    return client
