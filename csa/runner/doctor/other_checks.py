"""What `csa doctor` says about the other implementation of the format: its store, and its command of the same name."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from csa.model.check import Check
from csa.paths import other_state_root

_OURS = b"csa.cli"  # in the launcher of every csa of this kind
_LAUNCHER_BYTES = 4096


def check_other_store(root: Path, environ: Mapping[str, str]) -> list[Check]:
    """Say where its sessions are, if there are any."""
    other = other_state_root(environ)
    if not other.is_dir() or os.path.realpath(other) == os.path.realpath(root):
        return []
    detail = f"another program (cli-sub-agent) keeps its sessions in {other}; csa does not use them"
    step = f"CSA_STATE_DIR={shlex.quote(str(other))} csa list shows those of this project"
    return [Check("state", "other store", "warn", detail, step)]


def check_command(environ: Mapping[str, str]) -> list[Check]:
    """Check what `csa` means in a shell: for an agent that is told to call csa, and for you."""
    found = shutil.which("csa", path=environ.get("PATH"))
    if found is None or _is_ours(found):
        return []
    detail = f"the first csa on the PATH, {found}, is another program"
    return [Check("setup", "command", "warn", detail, "put this csa's directory before it on the PATH")]


def _is_ours(command: str) -> bool:
    try:
        with open(command, "rb") as file:
            return _OURS in file.read(_LAUNCHER_BYTES)
    except OSError:
        return True  # it cannot be judged
