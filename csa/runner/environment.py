"""What a tool gets: its environment, and the note that explains csa to its agent."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

from csa.errors import UsageError
from csa.model.adapter import Invocation
from csa.model.config import ToolConfig
from csa.model.redaction import NAMES_VARIABLE
from csa.model.state import SessionState
from csa.paths import WORKTREES, SessionPaths
from csa.process.session_processes import KEEP_VARIABLE
from csa.runner.ancestry import IDENTITY_VARIABLES
from csa.runner.context import REPLAY, REPLAY_SPEED, Context
from csa.runner.current import VARIABLE as CURRENT_VARIABLE
from csa.store.inherited import without_descriptors
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.worktree import Worktree

_OWN_VARIABLES = (
    *IDENTITY_VARIABLES,
    *("CSA_PROJECT_ROOT", "CSA_OUTPUT_DIR", "CSA_TOOL", KEEP_VARIABLE, CURRENT_VARIABLE),
    *(REPLAY, REPLAY_SPEED),
    "CSA_WORKTREE",
)


def refuse_in_replay(context: Context, what: str) -> None:
    """Raise UsageError for what would start a real tool while turns are replayed."""
    if context.replay:
        raise UsageError(f"{REPLAY} is set, and {what} cannot be replayed.", hint=f"unset {REPLAY}")


def base_environment(environ: Mapping[str, str], markers: Iterable[str], configured: ToolConfig) -> dict[str, str]:
    """Return the environment a tool starts with, as the user's settings change it.

    It lacks an outer agent's markers, an outer session's identity, the user's terminal, and variables that name the
    caller's descriptors.
    """
    dropped = {*markers, *_OWN_VARIABLES}
    inherited = without_descriptors(environ)
    return configured.environment({name: value for name, value in inherited.items() if name not in dropped})


def with_secrets(environ: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with secrets, which a csa that is called there knows to be some."""
    known = filter(None, environ.get(NAMES_VARIABLE, "").split(","))
    names = {NAMES_VARIABLE: ",".join(dict.fromkeys([*known, *secrets]))} if secrets else {}
    return {**environ, **secrets, **names}


def session_environment(
    state: SessionState,
    paths: SessionPaths,
    *,
    turn: int,
    tool: str,
    root: Path,
    keep_background: bool = False,
    worktree: Worktree | None = None,
) -> dict[str, str]:
    """Return the `CSA_*` variables that say which session this is; `worktree` is the one it works in."""
    variables = {
        "CSA_SESSION_ID": state.session_id,
        "CSA_DEPTH": str(state.depth),
        "CSA_PROJECT_ROOT": state.project_path,
        "CSA_SESSION_DIR": str(paths.root),
        "CSA_OUTPUT_DIR": str(paths.turn_output(turn)),
        "CSA_TOOL": tool,
        "CSA_STATE_DIR": str(root),
    }
    if state.parent_session_id:
        variables["CSA_PARENT_SESSION"] = state.parent_session_id
    if worktree:
        variables["CSA_WORKTREE"] = str(worktree.number)
    if keep_background:
        variables[KEEP_VARIABLE] = "1"
    return variables


def apply_changes(base: Mapping[str, str], invocation: Invocation, cwd: str) -> dict[str, str]:
    """Return the whole environment of the tool: what the adapter changes, and PWD where the tool really starts."""
    merged: dict[str, str | None] = {**base, **invocation.env, "PWD": cwd}
    return {name: value for name, value in merged.items() if value is not None}


def worktree_around(store: Store, directory: str) -> Worktree | None:
    """Return the worktree of a session of this project that a directory lies in, whichever session that is."""
    top = f"{os.path.realpath(store.pathname)}/{WORKTREES}/"
    if not directory.startswith(top):
        return None
    state = store.record(directory[len(top) :].partition("/")[0]).state
    return state.worktree if state else None


def system_note(
    state: SessionState,
    *,
    csa_command: str,
    max_depth: int,
    worktree: Worktree | None = None,
    makes_branches: bool = True,
) -> str:
    """Return what an agent needs to know about csa, as briefly as possible.

    `worktree` is the one it works in; `makes_branches` says whether it can give others one.
    """
    lines = [
        f"You run inside csa session {state.session_id} (depth {state.depth}).",
        "Put files for others into the directory $CSA_OUTPUT_DIR.",
    ]
    if worktree:
        lines.append(
            f"You work in a git worktree, on the branch {worktree.branch}. Leave your changes as they are: "
            "csa commits them on that branch."
        )
    csa_command = shlex.quote(csa_command)
    if state.depth < max_depth:
        lines.append(
            f'To give part of the work to a sub-agent, run in the shell: {csa_command} run "task". '
            "It prints the sub-agent's answer on stdout when it has finished. "
            f'`{csa_command} run --session ID "more"` continues that sub-agent; see also `{csa_command} run --help`. '
            f'If your shell kills long commands, or to work on meanwhile: `{csa_command} run --detach "task"` prints '
            f"an ID at once, `{csa_command} wait ID --timeout 100` waits (exit code 4: call it again), and "
            f"`{csa_command} result ID` prints the answer. "
            "With --summary, run and result print only about 200 tokens of a long answer."
        )
        if worktree and makes_branches:
            lines.append(
                f"`{csa_command} run --worktree` gives a sub-agent that edits beside you a worktree of its own, "
                f"and `{csa_command} land ID` brings its work into yours."
            )
    return "\n".join(lines)


def outer_sandbox() -> str | None:
    """Name the tool in whose sandbox this process runs: codex's is a pid namespace whose first process shows it."""
    try:
        words = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return "codex" if words[0].endswith(b"codex-linux-sandbox") else None
