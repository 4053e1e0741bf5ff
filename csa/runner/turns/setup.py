"""The command that prepares a session's worktree: run as part of the turn, before the tool, under a guardian as well.

So all that ends a tool ends it, too. Its output goes to the turn's stderr.log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from csa.model.adapter import Invocation, Outcome, ToolExit, Update
from csa.model.events import Event
from csa.process.launch import SpawnError, launch_tool
from csa.process.tool import attend_tool
from csa.runner.turns.attempt import Attempt
from csa.runner.turns.starting import StartedTurn
from csa.runner.turns.stopping import Stopping
from csa.structs import replace


class _Unread:
    """The decoder of a command whose output means nothing to csa."""

    is_finished = False
    fault = None

    def feed(self, line: bytes) -> list[Update]:  # noqa: ARG002  # as every decoder
        return []

    def close(self, end: ToolExit) -> Outcome:
        return Outcome(succeeded=end.code == 0)


async def run_setup(
    command: str,
    started: StartedTurn,
    stopping: Stopping,
    deliver: Callable[[list[Event]], Awaitable[None]],
    *,
    spent_s: float,
    budgets: Callable[[Stopping, Callable[[str], None]], Coroutine[Any, Any, None]],
) -> ToolExit:
    """Run the command at the top of the worktree, with the tool's environment; that it succeeded is recorded.

    The limits of the turn apply to it.
    """
    recorder, plan = started.recorder, started.plan
    tree = recorder.held.state.worktree
    assert tree is not None
    argv = ("/bin/sh", "-c", f"exec 1>&2\n{command}")  # stdout.log is the tool's
    environment = {**started.command.environment, "PWD": tree.path}
    recorder.note(f"setup: {command}")
    try:
        launched = launch_tool(argv, cwd=tree.path, env=environment, shared_fds=recorder.held.shared_fds)
        async with attend_tool(launched, owns_process=plan.context.owns_process) as shell:
            end = await Attempt(shell, _Unread(), recorder, stopping, deliver).run(
                Invocation(argv=argv, stdin=b""),
                timeout_s=plan.limit_s("timeout_s"),
                spent_s=spent_s,
                idle_timeout_s=plan.limit_s("idle_timeout_s"),
                budgets=budgets,
            )
    except SpawnError as error:
        return ToolExit(None, None, str(error))
    if end.code == 0 and stopping.stop is None:
        with recorder.held.losing("that the worktree is prepared", "recorded"):
            recorder.held.save(replace(recorder.held.state, worktree=replace(tree, is_ready=True)))
    return end


def fault_of_setup(command: str, end: ToolExit) -> str | None:
    """Say why the worktree is not prepared; None if it is."""
    if end.code == 0:
        return None
    how = f"exited with code {end.code}" if end.code is not None else "did not finish"
    said = next((line.strip() for line in reversed(end.stderr_tail.splitlines()) if line.strip()), "")
    return f"setup {how} ({command}){f': {said}' if said else ''}"
