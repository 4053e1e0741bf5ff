"""Where things are: the state root, a project's store, and the files of a session. Pure: nothing here touches disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csa.structs import Struct


def state_root(environ: Mapping[str, str]) -> Path:
    """Return `$CSA_STATE_DIR`, else `$XDG_STATE_HOME/csa`, else `~/.local/state/csa`."""
    if chosen := environ.get("CSA_STATE_DIR"):
        return Path(chosen).absolute()
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base).absolute() / "csa"
    return home(environ) / ".local" / "state" / "csa"


def user_config_file(environ: Mapping[str, str]) -> Path:
    """Return `$CSA_CONFIG`, else `config.toml` in `$XDG_CONFIG_HOME/csa` or `~/.config/csa`."""
    if chosen := environ.get("CSA_CONFIG"):
        return Path(chosen).absolute()
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else home(environ) / ".config") / "csa" / "config.toml"


def home(environ: Mapping[str, str]) -> Path:
    """Return `$HOME`, or the account's home directory where the variable is missing."""
    chosen = environ.get("HOME")
    return Path(chosen) if chosen else Path.home()


def store_dir(root: Path, project: Path) -> Path:
    """Return the store of an absolute project path: the path itself, below the state root."""
    return root.joinpath(*project.parts[1:])


class SessionPaths(Struct):
    """The files of one session directory (docs/sessions.md describes each)."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state.toml"

    @property
    def transcript(self) -> Path:
        return self.root / "transcript.jsonl"

    @property
    def result(self) -> Path:
        return self.root / "result.toml"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat"

    @property
    def cancel(self) -> Path:
        return self.root / "cancel"

    @property
    def session_lock(self) -> Path:
        return self.root / "locks/session.lock"

    @property
    def tree_lock(self) -> Path:
        return self.root / "locks" / "tree.lock"

    def tool_lock(self, tool: str) -> Path:
        return self.root / "locks" / f"{tool}.lock"

    @property
    def output(self) -> Path:
        return self.root / "output"

    def turn_output(self, turn: int) -> Path:
        return self.root / "output" / f"turn-{turn:04d}"

    def supervisor_log(self, turn: int) -> Path:
        return self.turn_output(turn) / "supervisor.log"
