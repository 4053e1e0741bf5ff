"""Opening a tool's own interface on a session's conversation, under the session's lock and in its environment.

Only the tool knows what is said there: the transcript records that, and when, the session was open.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

from csa.errors import BusyError, CsaError, NotFoundError, ToolUnavailableError
from csa.model.adapter import InteractiveTool, Invocation, TurnRequest
from csa.model.configkeys import NATIVE
from csa.model.permission import Permission
from csa.model.result import UNKNOWN_CONVERSATION
from csa.process.launch import SpawnError, become_subreaper
from csa.process.terminal import TerminalEnd, run_in_terminal
from csa.process.tool import processes_below
from csa.runner.context import seal_after
from csa.runner.environment import apply_changes, refuse_in_replay, session_environment
from csa.runner.namedfiles import read_named_files
from csa.runner.request import RunRequest
from csa.runner.session import Session, refuse_closed
from csa.runner.sessions.ending import who_asks
from csa.runner.toolbox import loadable_adapters
from csa.runner.turns.attempt import FIRST_BEAT_S, HEARTBEAT_S
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_resume
from csa.runner.turns.toolcommand import tool_environment
from csa.runner.turns.window import refuse_pruned
from csa.runner.turns.worktree import have_worktree
from csa.store.held import HeldSession, open_session
from csa.store.owner import INTERFACE
from csa.store.taking import refuse_busy
from csa.structs import replace

# What a terminal gets besides text: colours, which are within a line, and everything else.
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_MOVES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[\x00-\x1f]")


class Interaction:
    """A session that can be opened: it has a conversation, and its tool an interface. Nothing is written before `run`.

    Raises:
        BusyError: a turn runs, or someone else has the session open.
        NotFoundError, RefusedError, ToolUnavailableError: as `plan_resume`, and if there is nothing to open.
    """

    def __init__(self, session: Session, *, tool: str | None = None, reopen: bool = False) -> None:
        session_id, context = session.session_id, session.context
        request = RunRequest(prompt="(interactive)", session=session_id, tool=tool, transport=NATIVE, reopen=reopen)
        self.losses: list[str] = []  # what could not be written of it, once it has run
        self._context = context
        self._beat_at = 0.0
        refuse_in_replay(context, "a tool's interface")
        refuse_busy(session.paths)  # before judging a record that its turn is about to change
        self.plan = plan_resume(session, request, now=datetime.now(UTC))
        self._conversation = self.plan.tool_state.provider_session_id
        name = self.plan.adapter.name
        if not isinstance(self.plan.adapter, InteractiveTool):
            raise ToolUnavailableError(f"csa cannot open {name} on a terminal.")
        if self._conversation is None:
            raise NotFoundError(
                f"Session {session_id} has no conversation with {name} to open.",
                hint=f'csa run --session {session_id} --tool {name} "..."',
            )
        refuse_pruned(self.plan.state, self.plan.tool_state, name, session.content)
        self._request = _request(self.plan)
        self.invocation: Invocation = self.plan.adapter.interactive(self._request)

    def run(self) -> TerminalEnd:
        """Open it on our terminal, which must be one, until the tool ends; for a process that is csa's own.

        Raises:
            BusyError: a turn runs, or someone else has the session open.
            CsaError: the tool cannot be started, or does not know the conversation.
            OSError: the transcript cannot be written; nothing was started.
        """
        name, session_id = self.plan.adapter.name, self.plan.state.session_id
        context, keys = self._context, lambda: self._context.keys.found
        with ExitStack() as ending:
            held = open_session(context.store, session_id, context.redactor, tool=name, errand=INTERFACE, keys=keys)
            ending.callback(self._seal, held)
            ending.enter_context(held)
            self.losses = held.losses
            if not self.plan.request.reopen:
                refuse_closed(held.state)  # somebody has closed it since
            have_worktree(held, self._context.environ, directory=self.plan.cwd)
            self._note(held, "attached", provider_session_id=self._conversation)
            held.require()
            if held.state.closed_at is not None:
                held.attempt("state.toml", lambda: held.save(replace(held.state, closed_at=None)))
            began = time.monotonic()
            try:
                end = self._open(held)
            except SpawnError as error:
                self._note(held, "detached", error=str(error))
                raise CsaError(f"{self.plan.adapter.name} cannot be started: {error.reason}.") from error
            if not held.is_ours():
                raise BusyError(
                    f"The lock of session {session_id} was lost; {name} was ended.",
                    hint=f"csa status {session_id}",
                )
            seconds = round(time.monotonic() - began, 3)
            self._note(
                held,
                "detached",
                exit_code=end.end.code,
                signal=end.end.signal,
                stopped_by=end.stopped_by,
                duration_s=seconds,
            )
            after = replace(held.state, last_accessed=datetime.now(UTC), phase="active")
            held.attempt("state.toml", lambda: held.save(after))
            held.attempt("the end of a cancellation", lambda: held.paths.cancel.unlink(missing_ok=True))
        if end.end.code and self._is_unknown(end):
            raise CsaError(
                f"{name} does not know conversation {self._conversation} of session {session_id} any more.",
                hint=f'csa run --session {session_id} --tool {name} "continue" starts a new one, with a summary',
            )
        return end

    def _seal(self, held: HeldSession) -> None:
        with held.losing("the session", "encrypted"):
            seal_after(self._context, held)

    def _is_unknown(self, end: TerminalEnd) -> bool:
        """Say whether the tool's last output means, according to its adapter, that it has no such conversation."""
        words = _MOVES.sub("\n", _COLOURS.sub("", end.end.stderr_tail))
        outcome = self.plan.adapter.decoder(self._request).close(replace(end.end, stderr_tail=words))
        return outcome.error_kind == UNKNOWN_CONVERSATION

    def _open(self, held: HeldSession) -> TerminalEnd:
        become_subreaper()
        held.write_heartbeat()
        self._beat_at = time.monotonic() + FIRST_BEAT_S
        return run_in_terminal(
            self.invocation.argv,
            cwd=self.plan.cwd,
            env=self._environment(held),
            shared_fds=(held.session_lock.fd,),
            is_to_end=partial(self._look, held),
        )

    def _environment(self, held: HeldSession) -> dict[str, str]:
        base = tool_environment(self.plan, loadable_adapters(self._context.config)[0])
        own = session_environment(
            held.state,
            held.paths,
            turn=max(1, held.state.turns),
            tool=self.plan.adapter.name,
            root=self._context.store.root,
            worktree=held.state.worktree,
        )
        return apply_changes({**base, **own}, self.invocation, self.plan.cwd)

    def _note(self, held: HeldSession, what: str, **data: Any) -> None:
        by = who_asks("session attach --interactive", self._context.environ)
        held.append("session_updated", {"what": what, "tool": self.plan.adapter.name, **data, "by": by})
        held.journal.sync()

    def _look(self, held: HeldSession, guardian_pid: int) -> bool:
        """Say whether it must end, on request or because the lock was lost; and touch the heartbeat in time."""
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + HEARTBEAT_S
            held.beat(processes_below(guardian_pid))
        return not held.is_ours() or held.paths.cancel.exists()


def _request(plan: TurnPlan) -> TurnRequest:
    base = tool_environment(plan, loadable_adapters(plan.context.config)[0])
    return TurnRequest(
        prompt="",
        cwd=plan.cwd,
        command=plan.command,
        provider_session_id=plan.tool_state.provider_session_id,
        new_provider_id="",
        permission=plan.permission,
        model=plan.model,
        effort=plan.effort,
        extra_writable=plan.state.extra_writable if plan.permission is Permission.EDIT else (),
        environ=base,
        is_root=os.geteuid() == 0,
        files=read_named_files(plan.adapter.capabilities.reads, base, plan.cwd),
    )
