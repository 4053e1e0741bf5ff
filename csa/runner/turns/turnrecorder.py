"""Everything a turn writes: the session's state and journal, the files of the turn, and the projection of its end.

The recorder holds the session's lock from `begin` to `close`. A write that fails while the turn runs never fails
the turn; the losses are counted and reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from csa.errors import BusyError
from csa.model.adapter import Outcome, Update
from csa.model.events import Event
from csa.model.limits import Spent, spent_by_turn
from csa.model.redaction import Redactor
from csa.model.result import RunResult, json_text, summarise
from csa.model.state import SessionState, ToolState, format_time
from csa.runner.context import seal_after
from csa.runner.secrets import sources_of
from csa.runner.session import refuse_closed
from csa.runner.turns.admission import Warn, holder_of, open_admission
from csa.runner.turns.checks import refuse_changed
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.recorder import Recorder, end_lost_compaction
from csa.runner.turns.window import find_outgrown
from csa.store.artifacts import PROMPT_FILES, SCHEMA_FILE, list_artifacts
from csa.store.atomic import append_private, replace_private, write_atomically, write_private
from csa.store.held import HeldSession, build_session, open_session, store_lock
from csa.store.liveness import probe
from csa.store.parked import forget_parked
from csa.store.project import git_head
from csa.store.queue import claim, drop, lift_hold, unclaim
from csa.store.recovery import caught_up, end_in_result, free_room, reserve_room
from csa.store.results import save_result
from csa.store.slots import pass_slot
from csa.store.strangers import strange_answer, strange_end
from csa.store.taking import RETRY_OR_WAIT
from csa.store.transcript import last_turn_event
from csa.store.trees import leave_tree
from csa.store.turns import NOTHING_USED
from csa.store.unfinished import Unfinished
from csa.store.writer import SessionWriter
from csa.structs import replace


class TurnRecorder(Recorder):
    """The writing side of one turn. Made by `begin`, which makes the session durable and resolvable."""

    def __init__(self, held: HeldSession, plan: TurnPlan, notes: Sequence[Warn] = ()) -> None:
        super().__init__(held)
        self.plan = plan
        self._notes = notes  # of the admission, for the transcript
        last = last_turn_event(held.paths.transcript)
        strange = None if plan.is_new else strange_end(held.paths, last)
        known = [held.state.turns, *(event.turn for event in (last, strange) if event)]
        self.turn = (0 if plan.is_new else max(known)) + 1
        refuse_changed(plan.request, held.state.session_id, turn=self.turn - 1)
        self.journal.turn = self.turn
        self.follows_lost = last is not None and last.type == "run_started"
        self._mark = self.journal.mark()
        self._is_started = False
        self._copies: list[Path] = []  # of what came with the prompt
        unfinished = end_lost_compaction(held)  # `start` writes it
        if last is not None and self.follows_lost:
            self._finish_earlier(last, replace(unfinished, compaction=None))
        if strange is not None:
            self._take_over(strange)
        self.tool_state: ToolState = held.state.tools.get(plan.adapter.name, ToolState())
        self._keep_to_window()

    def _keep_to_window(self) -> None:
        """Leave a conversation that has outgrown the session's context window, which may have changed meanwhile."""
        request = self.plan.request
        window = self.held.state.window.asked(request.context_window, request.context_tokens)
        self.plan = replace(self.plan, state=replace(self.plan.state, window=window))
        self.outgrown = None if self.plan.is_new else find_outgrown(self.plan, self.tool_state, self.paths)
        self._leave_outgrown()

    def _leave_outgrown(self) -> None:
        """Begin a new conversation in place of one that was outgrown, which the record keeps until that is known."""
        self._left = self.tool_state if self.outgrown else None
        if self.outgrown:
            self.tool_state = replace(self.tool_state, provider_session_id=None, totals=None)

    def start(self, argv: list[str], *, handoff: Mapping[str, Any] | None) -> list[Event]:
        """Write state and `run_started` durably, both or neither; only then publish a new session.

        GoneError if the prompt was queued, and does not wait any more.
        """
        if self.plan.queued:
            claim(self.paths, self.plan.queued)
        state = self.held.state
        if not self.plan.is_new:
            state = with_tool(replace(state, **self._changes()), self.plan)
            self.tool_state = state.tools[self.plan.adapter.name]
            self._leave_outgrown()
            state = replace(state, turns=self.turn, last_accessed=datetime.now(UTC), phase="active", closed_at=None)
        request = self.plan.request
        prompt = self.held.redactor.redact(request.prompt)
        path = self.paths.turn_output(self.turn) / "prompt.md"
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        write_private(path, prompt.encode("utf-8", "surrogateescape"))
        asked = {**self._keep_schema(path.parent), **self._keep_attachments(path.parent)}
        events = self.append(
            "run_started",
            {
                "tool": self.plan.adapter.name,
                "model": self.plan.model,
                "effort": self.plan.effort,
                "cwd": self.plan.cwd,
                "argv": argv,
                "pid": os.getpid(),
                "caller": next(iter(self.plan.callers), None),
                "permission": self.plan.permission.value,
                "timeout_s": self.plan.timeout_s,
                "idle_timeout_s": self.plan.idle_timeout_s,
                "origins": dict(self.plan.origins),
                **({"template": request.template.name} if request.template else {}),
                **({"system": request.system} if request.system else {}),
                **({"flags": list(flags)} if (flags := request.plan or request.flags) else {}),
                **({"repair": True} if request.repair else {}),
                **({"secrets": sources_of(request.secrets)} if request.secrets else {}),
                "prompt": prompt,
                "resumed": self.tool_state.provider_session_id,
                **asked,
                "head": git_head(Path(self.plan.cwd)),
                **({"queued": self.plan.queued} if self.plan.queued else {}),
                **({"replayed_from": self.plan.replay.to_event()} if self.plan.replay else {}),
            },
        )
        if handoff or self.outgrown:
            told = handoff or {"to": self.plan.adapter.name, "turns": [], "characters": 0}
            events += self.append("handoff", {**told, **(self.outgrown or {})})
        for note in self._notes:
            events += self.append("warning", note)
        if self.plan.is_new:
            self.held.require()
        else:
            self.held.commit(state, self._mark)
        self._is_started = True
        if not self.plan.is_new:
            forget_parked(self.held.store, self.held.state.session_id)
            self._leave_queue()
        self.held.write_heartbeat()
        reserve_room(self.paths)
        return events

    def _leave_queue(self) -> None:
        """Remove the prompt that this turn sends, and let the others follow."""
        with self.held.losing("the session's queue"):
            if self.plan.queued:
                drop(self.paths, self.plan.queued)
            lift_hold(self.paths)

    def _keep_schema(self, directory: Path) -> dict[str, Any]:
        """Write the schema of the turn beside its prompt; return what `run_started` has of it."""
        if (schema := self.plan.request.schema) is None:
            return {}
        import hashlib  # noqa: PLC0415  # few turns have one

        content = json_text(self.held.redactor.redact_data(schema)).encode("utf-8", "surrogateescape")
        replace_private(directory / SCHEMA_FILE, content)
        how = "native" if self.plan.is_held_to_schema else "asked"
        return {"schema": {"sha256": hashlib.sha256(content).hexdigest(), "how": how}}

    def _keep_attachments(self, directory: Path) -> dict[str, Any]:
        """Copy what comes with the prompt beside it; return what `run_started` has of that."""
        request = self.plan.request
        if not (request.images or request.files):
            return {}
        from csa.runner.attaching import attachments_of, keep_copies  # noqa: PLC0415  # few turns have some

        attachments = attachments_of(request)
        self._copies = keep_copies(attachments, directory / PROMPT_FILES, self.held.redactor)
        return {"attachments": [each.to_event() for each in attachments]}

    def record(self, updates: list[Update]) -> list[Event]:
        """Record what the adapter made of the tool's output."""
        for update in updates:
            if update.type == "session_bound":
                self.bind(str(update.data.get("provider_session_id")))
        return super().record(updates)

    def bind(self, provider_session_id: str) -> None:
        """Write the provider's id to state.toml at once: a crash must not lose it.

        Running totals belong to a conversation: those of a replaced one are dropped.
        """
        if provider_session_id != self.tool_state.provider_session_id:
            self.tool_state = replace(self.tool_state, totals=None)
        self.tool_state = replace(
            self.tool_state,
            provider_session_id=provider_session_id,
            account=self.plan.account,
            updated_at=datetime.now(UTC),
        )
        self._save_state()

    def note(self, text: str) -> None:
        """Write one of csa's own messages to supervisor.log."""
        if not self.held.is_ours():
            return
        line = f"{format_time(datetime.now(UTC))} {self.held.redactor.redact(text)}\n"
        with suppress(OSError):  # what matters is in the transcript
            append_private(self.paths.supervisor_log(self.turn), line.encode("utf-8", "backslashreplace"))

    def finish(self, result: RunResult, outcome: Outcome, *, goes_on: bool = False) -> tuple[RunResult, list[Event]]:
        """Write the end: `run_finished` (durable), then its projections. Each step is tried, whatever failed before.

        With `goes_on`, another turn follows at once, and must see a `cancel` file that appears meanwhile.
        """
        totals = outcome.totals if outcome.totals is not None else self.tool_state.totals
        if not self.held.is_lost:
            free_room(self.paths)
        output = self.held.redactor.redact_data(result.output)
        text = self.held.redactor.redact(result.text) if output is None else json_text(output)
        final = text.encode("utf-8", "surrogateescape")
        self.held.attempt("final.md", lambda: write_atomically(self.paths.turn_output(self.turn) / "final.md", final))
        self.close_logs()
        result = replace(
            result,
            summary=summarise(text) or self.held.redactor.redact(result.error_message or result.status),
            error_message=self.held.redactor.redact(result.error_message) if result.error_message else None,
        )
        if not self.held.is_lost:
            with self.held.losing("the agent's output files", "listed"):
                result = replace(result, artifacts=list_artifacts(self.paths, self.turn))
        events = self.append("run_finished", {**result.to_event(), **({"totals": totals} if totals else {})})
        self.journal.sync()
        self.held.attempt("result.toml", lambda: save_result(self.paths, replace(result, output=output), totals))
        self.tool_state = replace(
            self.tool_state,
            last_action_summary=result.summary,
            last_exit_code=result.tool_exit_code if result.tool_exit_code is not None else result.exit_code,
            updated_at=result.finished_at,
            totals=totals,
        )
        has_begun = result.usage is not None or result.error_kind not in NOTHING_USED
        spent = spent_by_turn(result.usage, result.duration_s) if has_begun else Spent()
        self._save_state(spent=spent, at=result.finished_at)
        self.held.write_heartbeat()
        if not goes_on and not self.held.is_lost:
            with suppress(OSError):  # whoever opens the session next removes it as well
                self.paths.cancel.unlink(missing_ok=True)
        return result, events

    def park(self, until: datetime, *, kind: str | None) -> list[Event]:
        """Record that the session waits until then, for readers too; the next turn's `pass_to` ends that."""
        tool, moment = self.plan.adapter.name, format_time(until)
        events = self.append("parked", {"until": moment, "tool": tool, "kind": kind})
        self.journal.sync()
        with suppress(OSError):  # readers then see a running turn, which is incomplete, but true
            self.held.park(tool, turn=self.turn, until=moment)
        return events

    def pass_to(self, plan: TurnPlan, notes: Sequence[Warn] = ()) -> TurnRecorder:
        """Return the recorder of the next turn, by the tool of `plan`; the session's lock is held throughout.

        What cancels this turn cancels that one: the `cancel` file stays.

        Raises as `HeldSession.pass_to`, and FullError; then this one still has to be closed.
        """
        if self.held.slot:
            root, slot = self.held.store.root, self.held.slot
            pass_slot(root, slot, holder_of(plan), plan.state.limits, callers=plan.callers)
        self.held.pass_to(plan.adapter.name, turn=self.turn + 1)
        if plan.context.secrets != self.plan.context.secrets:  # those of this turn may still be said
            known = (*self.plan.context.secrets.values(), *plan.context.secrets.values())
            self.held.hide_with(Redactor(plan.context.environ, known))
        return TurnRecorder(self.held, plan, notes)

    def close(self) -> None:
        """Release the lock; an ephemeral session is deleted first. A refused turn leaves nothing."""
        if self.settle():
            with self.held.losing("the session", "encrypted"):
                self.seal()
        self.held.close()

    def settle(self) -> bool:
        """Do what comes before the release of the lock; say whether the session is one that may be encrypted."""
        self.withdraw()
        self.journal.flush()
        if self.plan.state.ephemeral or not self.held.is_published:
            self.held.attempt("the tree's list", lambda: leave_tree(self.held.store.root, self.held.state))
        if self.held.is_published and self.plan.state.ephemeral:
            self.held.attempt("the deletion of the ephemeral session", self.held.remove)
        elif self.held.is_published and self.held.is_ours():
            SessionWriter.close(self.held)
            return True
        return False

    def seal(self, heed: Callable[[], None] = lambda: None) -> None:
        """Encrypt it, where it is to be, before anybody who waits for it sees that it is free."""
        seal_after(self.plan.context, self.held, is_held=True, heed=heed)

    def withdraw(self) -> None:
        """Leave nothing of a turn that could not begin; the lock is still held."""
        if self._is_started:
            return
        self.journal.return_to(self._mark)
        self._remove_output()
        if self.plan.queued:
            with suppress(OSError):  # it was not taken
                unclaim(self.paths, self.plan.queued)

    def _remove_output(self) -> None:
        output = self.paths.turn_output(self.turn)
        with suppress(OSError):  # an empty directory is useless
            (output / "prompt.md").unlink(missing_ok=True)
            (output / SCHEMA_FILE).unlink(missing_ok=True)
            for copy in self._copies:
                copy.unlink()
            if self._copies:
                (output / PROMPT_FILES).rmdir()
            output.rmdir()

    def _changes(self) -> dict[str, Any]:
        wanted, now, request = self.plan.state, self.held.state, self.plan.request
        describes = request.description and not (request.is_templates("description") and now.turns)
        return {  # another name or description may have come since the plan was made
            "name": request.name or now.name,
            "description": wanted.description if describes or not now.description else now.description,
            "permission": wanted.permission,
            "extra_writable": wanted.extra_writable,
            "expires_at": wanted.expires_at,
            "limits": wanted.limits,
            "budget": wanted.budget,
            "window": wanted.window,
            "ask": wanted.ask,
            "shared": wanted.shared,
            "task": wanted.task,
        }

    def _save_state(self, *, spent: Spent | None = None, at: datetime | None = None) -> None:
        known = self.tool_state
        if self._left and known.provider_session_id is None:
            known = replace(known, provider_session_id=self._left.provider_session_id, totals=self._left.totals)
        state = replace(
            self.held.state.having_spent(spent or Spent()),
            tools={**self.held.state.tools, self.plan.adapter.name: known},
            last_accessed=at or self.held.state.last_accessed,
        )
        self.held.attempt("state.toml", lambda: self.held.save(state))

    def _take_over(self, end: Event) -> None:
        """Append the answer and end of another implementation's turn: its result.toml will be overwritten soon."""
        journal_turn, self.journal.turn = self.journal.turn, end.turn
        if text := strange_answer(self.paths):
            self.append("agent_message", {"text": text})
        self.append("run_finished", end.data)
        self.journal.turn = journal_turn

    def _finish_earlier(self, started: Event, unfinished: Unfinished) -> None:
        """Append the missing end of the last turn: as result.toml has it, or as lost."""
        kept = end_in_result(self.paths, started)
        if kept is None:
            self._finish_lost(started, unfinished)
            return
        journal_turn, self.journal.turn = self.journal.turn, started.turn
        (event,) = self.append("run_finished", kept)
        self.journal.turn = journal_turn
        self.follows_lost = False
        self.held.state = caught_up(self.paths, self.held.state, event)

    def _finish_lost(self, started: Event, unfinished: Unfinished) -> None:
        """Append the end that the last turn's supervisor could not write because it died."""
        journal_turn, self.journal.turn = self.journal.turn, started.turn
        spent = unfinished.spent()
        self.held.state = self.held.state.having_spent(spent)  # `start` saves it
        lost = RunResult(
            session_id=self.held.state.session_id,
            turn=started.turn,
            tool=str(started.data.get("tool", "")),
            status="lost",
            exit_code=1,
            error_kind="internal",
            error_message="the supervisor ended without writing a result",
            summary="lost",
            usage=unfinished.turn.usage if unfinished.turn else None,
            duration_s=spent.time_s,
            started_at=datetime.fromisoformat(started.ts),
            finished_at=datetime.fromisoformat(started.ts) + timedelta(seconds=spent.time_s),
        )
        self.append("run_finished", lost.to_event())
        self.journal.turn = journal_turn


def begin(plan: TurnPlan) -> TurnRecorder:
    """Take the session's lock, building a new session, if the limits of its tree and of the host allow.

    Raises:
        RefusedError, FullError: as `open_admission`.
        BusyError: a supervisor holds the session.
        ChangedError: another turn was first (`RunRequest.after_turn`).
        StateError: its record is damaged.
        OSError: nothing can be written there.
    """
    try:
        held, notes = _take(plan)
    except BusyError:
        _refuse_if_changed(plan)
        raise
    try:
        if not (plan.is_new or plan.request.reopen):
            refuse_closed(held.state)  # as it is, now that it is ours
        return TurnRecorder(held, plan, notes)
    except BaseException:
        held.close()
        raise


def _take(plan: TurnPlan) -> tuple[HeldSession, Sequence[Warn]]:
    """Return the session, held and admitted, and what the admission has noted."""
    tool, context = plan.adapter.name, plan.context
    with open_admission(plan) as admission:
        if plan.is_new:
            held = build_session(
                context.store,
                with_tool(replace(plan.state, turns=1), plan),
                context.redactor,
                tool=tool,
                detached=context.is_detached,
                max_sessions=context.config.max_sessions,
            )
        else:
            held = open_session(
                context.store,
                plan.state.session_id,
                context.redactor,
                tool=tool,
                detached=context.is_detached,
                advice=RETRY_OR_WAIT,
                steal=plan.request.steal,
                keys=lambda: context.keys.found,
            )
        admission.admit(held)
    return held, admission.warnings


def _refuse_if_changed(plan: TurnPlan) -> None:
    """Raise ChangedError where a session is busy with a turn that the sender did not know of."""
    if plan.request.after_turn is None:
        return
    store, session_id = plan.context.store, plan.state.session_id
    found = probe(store.paths(session_id))
    running = found.owner.turn if found.runs_turn and found.owner else 0
    refuse_changed(plan.request, session_id, turn=max(running, store.load(session_id).turns))


def with_tool(state: SessionState, plan: TurnPlan) -> SessionState:
    """Record the tool that is about to run, and where, so that the session is known to be its, whatever happens."""
    known = state.tools.get(plan.adapter.name, ToolState())
    known = replace(known, cwd=plan.cwd, model=plan.model, effort=plan.effort, updated_at=datetime.now(UTC))
    return replace(state, tools={**state.tools, plan.adapter.name: known})


def publish(held: HeldSession) -> None:
    """Make a new session visible; its name is checked again under the project's lock."""
    state, store = held.state, held.store
    if not state.name:
        held.publish()
        return
    with store_lock(store):
        if store.find_name(state.name):
            raise BusyError(f"Another run has just created a session named '{state.name}'.")
        held.publish()
