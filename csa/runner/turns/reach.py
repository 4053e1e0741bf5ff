"""Which extra directories an agent may write at `edit`: given with --extra-writable, kept by the session.

Against an agent that sets out to get around it this is a guard rail, like everything csa reads from records.
"""

from __future__ import annotations

import os

from csa.errors import NotFoundError, RefusedError, UsageError
from csa.model.configkeys import NATIVE
from csa.model.permission import Permission
from csa.runner.caller import Caller
from csa.runner.context import Context
from csa.runner.request import RunRequest
from csa.runner.toolbox import ToolChoice


def extra_writable(
    context: Context, request: RunRequest, choice: ToolChoice, permission: Permission, kept: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the directories of the session: those asked for, in place of those `kept`.

    Raises:
        UsageError: this turn, or its tool, cannot have any; or one is not a valid directory name.
        NotFoundError: there is no such directory.
        RefusedError: a requested one is outside what the calling session may write.
    """
    found = _directories(context, request, kept)
    if request.extra_writable and permission is Permission.READ_ONLY:
        raise UsageError("--extra-writable needs --permission edit.")
    if found and permission is Permission.EDIT and not choice.adapter.capabilities.extra_writable:
        raise UsageError(
            f"{choice.adapter.name}{' over ACP' if choice.transport != NATIVE else ''} has no way to allow extra "
            "writable directories at --permission edit.",
            hint="use --permission full, another tool, or drop them with --extra-writable ''",
        )
    return found


def _directories(context: Context, request: RunRequest, kept: tuple[str, ...]) -> tuple[str, ...]:
    allowed = _allowed(context.caller)
    if request.extra_writable is None:
        return tuple(path for path in kept if _is_within(path, allowed))
    found = tuple(dict.fromkeys(_resolve(context, name) for name in request.extra_writable if name))
    for path in found:
        if not _is_within(path, allowed):
            assert context.caller is not None  # which nothing else limits
            raise RefusedError(
                f"{path} is outside the directories that session {context.caller.session_id} may write.",
                hint="whoever started this tree can use --extra-writable",
            )
    return found


def _resolve(context: Context, name: str) -> str:
    path = os.path.realpath(os.path.join(context.directory, name))
    if "\0" in name or not path.isprintable():
        raise UsageError("--extra-writable needs a path of printable characters.")
    if not os.path.isdir(path):
        raise NotFoundError(f"--extra-writable: there is no directory {path}.")
    return path


def _allowed(caller: Caller | None) -> tuple[str, ...] | None:
    """Return the directories that the caller may write, or None if nothing limits it."""
    if caller is None or caller.permission is Permission.FULL:
        return None
    if caller.permission is Permission.READ_ONLY:
        return ()
    state = caller.state
    tool = state.tools.get(state.last_tool or "")
    own = (tool.cwd if tool and tool.cwd else state.project_path), *state.extra_writable
    return tuple(map(os.path.realpath, own))


def _is_within(path: str, allowed: tuple[str, ...] | None) -> bool:
    if allowed is None:
        return True
    return any(os.path.commonpath([path, above]) == above for above in allowed)
