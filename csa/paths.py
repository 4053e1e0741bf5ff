"""Where things are: the state root, a project's store, and the files of a session. Pure: nothing here touches disk.

What lists look through is named by strings, and a Path is made where one is asked for: making one takes longer than
most of what is done with it, and importing pathlib a third of the start of python.
"""

from __future__ import annotations

import os

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def make_path(pathname: str) -> Path:
    """Return a Path, importing pathlib when the first is asked for."""
    from pathlib import Path  # noqa: PLC0415  # see above

    return Path(pathname)


def state_root(environ: Mapping[str, str]) -> Path:
    """Return `$CSA_STATE_DIR`, else `$XDG_STATE_HOME/csa`, else `~/.local/state/csa`."""
    return make_path(state_root_pathname(environ))


def state_root_pathname(environ: Mapping[str, str]) -> str:
    """Return the same as a string."""
    chosen, base = environ.get("CSA_STATE_DIR"), environ.get("XDG_STATE_HOME")
    if not chosen:
        chosen = os.path.join(base, "csa") if base else os.path.join(home_pathname(environ), ".local/state/csa")
    return chosen if os.path.isabs(chosen) else os.path.join(os.getcwd(), chosen)


def user_config_file(environ: Mapping[str, str]) -> Path:
    """Return `$CSA_CONFIG`, else `config.toml` in `$XDG_CONFIG_HOME/csa` or `~/.config/csa`."""
    if chosen := environ.get("CSA_CONFIG"):
        return make_path(chosen).absolute()
    base = environ.get("XDG_CONFIG_HOME")
    return (make_path(base) if base else home(environ) / ".config") / "csa" / "config.toml"


def home(environ: Mapping[str, str]) -> Path:
    """Return `$HOME`, or the account's home directory where the variable is missing."""
    return make_path(home_pathname(environ))


def home_pathname(environ: Mapping[str, str]) -> str:
    """Return the same as a string."""
    return environ.get("HOME") or os.path.expanduser("~")


def store_dir(root: Path, project: Path) -> Path:
    """Return the store of an absolute project path: the path itself, below the state root."""
    return make_path(store_pathname(str(root), str(project)))


def store_pathname(root: str, project: str) -> str:
    """Return the same as a string."""
    return os.path.join(root, project.strip("/")).rstrip("/")


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
    def heartbeat(self) -> Path:
        return self._of("heartbeat")

    @property
    def cancel(self) -> Path:
        return self._of("cancel")

    @property
    def session_lock(self) -> Path:
        return self._of("locks/session.lock")

    @property
    def tree_lock(self) -> Path:
        return self._of("locks/tree.lock")

    def tool_lock(self, tool: str) -> Path:
        return self._of(f"locks/{tool}.lock")

    @property
    def output(self) -> Path:
        return self._of("output")

    def turn_output(self, turn: int) -> Path:
        return self._of(f"output/turn-{turn:04d}")

    def supervisor_log(self, turn: int) -> Path:
        return self.turn_output(turn) / "supervisor.log"
