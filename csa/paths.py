"""Paths: the state root, a project's store, and the files of a session. Pure: nothing here touches the disk.

Lists scan path strings, and a Path is made only on demand: making one takes longer than
most uses of it, and importing pathlib takes a third of python's start-up time.
"""

from __future__ import annotations

import os

from csa.ids import is_session_id
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


SESSIONS, RETIRED = "sessions", "retired"
SESSION_DIRECTORIES = {SESSIONS, RETIRED}
WORKTREES = "worktrees"  # of a store: a directory for each session with a worktree of its own
NEW_PREFIX, GONE_PREFIX = ".new-", ".gone-"  # of sessions that are being created or deleted
SLOTS = ".slots"  # of the state root
SERVE = ".serve"  # likewise: the server's lock and tokens
INDEX = ".index"  # likewise: the search index
MIRRORS = ".mirrors"  # likewise: what was seen of other hosts, a state root for each
PLACED = ".placed"  # likewise: what was given to other hosts
ORDERS = ".orders"  # likewise: what other hosts have given to this one
CODE = ".code"  # likewise: repositories of which they have sent commits
OWN = ".mirror"  # of a mirror: what is about itself
NO_PROJECTS = frozenset({MIRRORS, PLACED, ORDERS, CODE, OWN})  # none of the directories below is a project's store
SEALED_FILE = "sealed.age"  # of a session: what has text, encrypted
CHECKPOINTS = "audit.git"
CURRENT, CURRENT_OF_TERMINALS = "current", "current.d"
CHAT_HISTORY = "chat_history"
STORE_FILES = frozenset(
    {
        "store.lock",
        CURRENT,
        CURRENT_OF_TERMINALS,
        CHAT_HISTORY,
        "audit.jsonl",
        CHECKPOINTS,
        "usage_stats.toml",
        "usage_stats.lock",
        "usage_stats.toml.damaged",
    }
)
_TAKEN = {*STORE_FILES, *SESSION_DIRECTORIES, SLOTS, SERVE}


def make_path(pathname: str) -> Path:
    """Return a Path, importing pathlib on first use."""
    from pathlib import Path  # noqa: PLC0415  # see above

    return Path(pathname)


def state_root(environ: Mapping[str, str]) -> str:
    """Return `$CSA_STATE_DIR`, else `$XDG_STATE_HOME/csa`, else `~/.local/state/csa`.

    A leading `~` is the home directory, even if no shell has expanded it.
    """
    chosen = expand_home(environ.get("CSA_STATE_DIR", ""), environ)
    if not chosen:
        chosen = f"{_base_directory(environ, 'XDG_STATE_HOME', '.local/state')}/csa"
    return chosen if os.path.isabs(chosen) else os.path.join(os.getcwd(), chosen)


def other_state_root(environ: Mapping[str, str]) -> Path:
    """Return where the other implementation of the format keeps its sessions."""
    return make_path(f"{_base_directory(environ, 'XDG_STATE_HOME', '.local/state')}/cli-sub-agent")


def user_config_file(environ: Mapping[str, str]) -> Path:
    """Return `$CSA_CONFIG`, else `config.toml` in `$XDG_CONFIG_HOME/csa` or `~/.config/csa`."""
    if chosen := expand_home(environ.get("CSA_CONFIG", ""), environ):
        return make_path(chosen).absolute()
    return user_config_directory(environ) / "config.toml"


def user_config_directory(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_CONFIG_HOME/csa`, else `~/.config/csa`."""
    return make_path(f"{_base_directory(environ, 'XDG_CONFIG_HOME', '.config')}/csa")


def home(environ: Mapping[str, str]) -> Path:
    """Return `$HOME`, or the account's home directory if the variable is missing."""
    return make_path(home_pathname(environ))


def home_pathname(environ: Mapping[str, str]) -> str:
    """Return the same as a string; `/` if neither is known."""
    if not (found := environ.get("HOME")):
        import pwd  # noqa: PLC0415  # HOME is nearly always set

        try:
            found = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a container's made-up user
            found = ""
    return found or "/"


def expand_home(pathname: str, environ: Mapping[str, str]) -> str:
    """Expand a `~` that no shell has expanded, as in a service's environment file."""
    if pathname == "~" or pathname.startswith("~/"):
        return home_pathname(environ).rstrip("/") + pathname[1:]
    return os.path.expanduser(pathname)  # ~somebody


def _base_directory(environ: Mapping[str, str], variable: str, default: str) -> str:
    """Return one of the XDG base directories: by their specification, a relative path in a variable is ignored."""
    chosen = environ.get(variable, "")
    return chosen if os.path.isabs(chosen) else os.path.join(home_pathname(environ), default)


def is_project_path(name: object) -> bool:
    """Say whether another host's word for a project can be its path, and leads nowhere else."""
    if not (isinstance(name, str) and name.startswith("/") and "\0" not in name and os.path.normpath(name) == name):
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def store_dir(root: str, project: str) -> str:
    """Return the store of an absolute project path: the path itself, in the state root.

    A project directory named like a file of the enclosing project's store gets a `=` in front.
    """
    names = project.strip("/").split("/")
    if _TAKEN.isdisjoint(names) and "=" not in project:  # as nearly always
        return plain_store_dir(root, project)
    return os.path.join(root, *("=" * _is_taken(names, at) + name for at, name in enumerate(names))).rstrip("/")


def plain_store_dir(root: str, project: str) -> str:
    """Return where an older csa kept the store of a project: without these signs."""
    return os.path.join(root, project.strip("/")).rstrip("/")


def project_of_store(root: str, store: str) -> str:
    """Return the project of a store, which is the state root or below it."""
    names = store[len(root) :].strip("/").split("/")
    plain = [name[1:] if name.startswith("=") and _is_taken(names, at) else name for at, name in enumerate(names)]
    return os.path.normpath(f"/{'/'.join(plain)}")


def _is_taken(names: Sequence[str], at: int) -> bool:
    """Say whether a name, without any signs, is one of a store's own."""
    name = names[at].lstrip("=")
    if name in STORE_FILES or (at == 0 and name == SLOTS):
        return True
    return at > 0 and names[at - 1] in {*SESSION_DIRECTORIES, WORKTREES} and is_of_session(name)


def is_of_session(name: str) -> bool:
    """Say whether a directory's name is a session's, or of one being created or deleted."""
    return is_session_id(name.removeprefix(NEW_PREFIX).removeprefix(GONE_PREFIX))


class SessionPaths(Struct, frozen=False):
    """The files of one session directory, `root` (docs/sessions.md describes each)."""

    pathname: str

    def __init__(self, root: Path | str) -> None:
        self.pathname = str(root)

    @property
    def session_id(self) -> str:
        """The name of the directory."""
        return self.pathname.rpartition("/")[2]

    @property
    def root(self) -> Path:
        return make_path(self.pathname)

    def _of(self, name: str) -> Path:
        return make_path(f"{self.pathname}/{name}")

    @property
    def state(self) -> Path:
        return self._of("state.toml")

    @property
    def transcript(self) -> Path:
        return self._of("transcript.jsonl")

    @property
    def result(self) -> Path:
        return self._of("result.toml")

    @property
    def reserve(self) -> Path:
        return self._of(".reserve")

    @property
    def heartbeat(self) -> Path:
        return self._of("heartbeat")

    @property
    def cancel(self) -> Path:
        return self._of("cancel")

    @property
    def edits(self) -> Path:
        return self._of("edits")

    @property
    def session_lock(self) -> Path:
        return self._of("locks/session.lock")

    @property
    def tree_lock(self) -> Path:
        return self._of("locks/tree.lock")

    @property
    def queue(self) -> Path:
        return self._of("queue")

    def tool_lock(self, tool: str) -> Path:
        return self._of(f"locks/{tool}.lock")

    @property
    def output(self) -> Path:
        return self._of("output")

    def turn_output(self, turn: int) -> Path:
        return self._of(f"output/turn-{turn:04d}")

    def supervisor_log(self, turn: int) -> Path:
        return self.turn_output(turn) / "supervisor.log"
