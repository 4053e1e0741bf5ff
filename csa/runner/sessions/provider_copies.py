"""Deleting a vendor's copy of a conversation, if the tool can."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from pathlib import Path

from csa.model.adapter import Removal, RemovalRequest, Remover
from csa.model.state import SessionState, ToolState
from csa.runner.context import Context
from csa.runner.environment import base_environment
from csa.runner.toolbox import find_command, loadable_adapters

_LIMIT_S = 60.0
_WORDS = 200


def remove_provider_copies(context: Context, state: SessionState) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Delete the tools' copies of a session's conversations; return what was deleted, and what was not and why."""
    adapters, _ = loadable_adapters(context.config)
    by_name = {adapter.name: adapter for adapter in adapters}
    done, problems = [], []
    for name, known in state.tools.items():
        adapter = by_name.get(name)
        if known.provider_session_id is None:
            continue
        if adapter is None or not isinstance(adapter, Remover):
            problems.append(f"{name} cannot delete its copy of conversation {known.provider_session_id}")
            continue
        markers = (marker for other in adapters for marker in other.outer_markers)
        environ = base_environment(context.environ, markers, context.config.for_tool(name))
        if known.account and known.account != adapter.account(environ):
            problems.append(f"{name}'s copy belongs to the account {known.account}, not to the one in use")
            continue
        command = find_command(adapter, context.config, context.environ) or ()
        removal = adapter.removal(RemovalRequest(command, known.provider_session_id, environ))
        problem = _remove_copy(removal, environ, _starting_directory(known, state), is_installed=bool(command))
        if problem:
            problems.append(f"{name}'s copy of conversation {known.provider_session_id} was not deleted: {problem}")
        else:
            done.append(f"{name} {known.provider_session_id}")
    return tuple(done), tuple(problems)


def _starting_directory(known: ToolState, state: SessionState) -> str:
    """Return where to start the tool: in the directory of the conversation, if that still exists."""
    places = (known.cwd, state.project_path, "/")
    return next(place for place in places if place and os.path.isdir(place))


def _remove_copy(removal: Removal | None, environ: dict[str, str], directory: str, *, is_installed: bool) -> str | None:
    """Run the tool's command, or delete the files of the conversation; return what went wrong."""
    if removal is None:
        return "that is not an id of the tool"
    if removal.files:
        found = [Path(path) for pattern in removal.files for path in glob.glob(pattern)]
        try:
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError as error:
            return str(error)
        return None if found else "it does not exist"
    if not is_installed:
        return "the tool is not installed"
    try:
        ended = subprocess.run(
            removal.argv,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    words = " ".join((ended.stderr or ended.stdout).decode(errors="replace").split())[:_WORDS]
    return None if ended.returncode == 0 else f"exit {ended.returncode}: {words}"
