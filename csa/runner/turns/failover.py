"""When the provider of a turn fails: whether csa retries, and which tool takes over otherwise.

A turn is retried only while it has had no effect: no tool was called, nothing was refused. If another
tool takes over, that is the next turn of the session, and gets a summary of the work so far (`handoff`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from csa.errors import CsaError
from csa.model.adapter import Outcome, ToolExit
from csa.model.events import Event
from csa.runner.request import going_on
from csa.runner.session import Session
from csa.runner.turns.fallback import split_fallback
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_resume
from csa.structs import Struct, replace

TRANSIENT_KINDS = frozenset({"rate_limit", "overloaded", "server", "network"})
LONGEST_RETRY_AFTER_S = 60.0
PATIENCE_S = 10.0  # a provider that has been failing for longer, including the tool's own retries, is not asked again
_EFFECTS = frozenset({"tool_call", "tool_call_update", "permission"})
_SIGNS_OF_LIFE = frozenset({"agent_message", "agent_thought"})


class Tried(Struct):
    """One process of the tool: its outcome according to the adapter, and how it ended."""

    outcome: Outcome
    end: ToolExit
    peak_rss_bytes: int | None = None


def peak_rss(tried: Iterable[Tried]) -> int | None:
    """Return the memory of the largest process of all attempts."""
    return max((one.peak_rss_bytes for one in tried if one.peak_rss_bytes is not None), default=None)


class RetryGate:
    """What a turn has shown so far, as far as it decides about a retry."""

    def __init__(self) -> None:
        self._has_acted = False
        self._failing_since: float | None = None

    def note(self, events: Sequence[Event], now: float) -> None:
        """Take note of what was recorded."""
        for event in events:
            if event.type in _EFFECTS:
                self._has_acted = True
            elif event.type in _SIGNS_OF_LIFE:
                self._failing_since = None
            elif event.type == "retry" and self._failing_since is None:
                self._failing_since = now

    def excuse(self, seconds: float) -> None:
        """Do not count a pause that the provider asked for."""
        if self._failing_since is not None:
            self._failing_since += seconds

    @property
    def has_acted(self) -> bool:
        """Whether a tool was called, or refused."""
        return self._has_acted

    def allows_retry(self, outcome: Outcome, now: float) -> bool:
        """Say whether the turn may be retried after an attempt that ended this way."""
        if self._failing_since is None:
            self._failing_since = now
        return (
            not outcome.succeeded
            and outcome.error_kind in TRANSIENT_KINDS
            and (outcome.retry_after_s or 0.0) <= LONGEST_RETRY_AFTER_S
            and not self._has_acted
            and not outcome.denied
            and now - self._failing_since <= PATIENCE_S
        )


def plan_fallback(failed: TurnPlan, *, kind: str) -> tuple[TurnPlan | None, list[str]]:
    """Plan the turn that takes over from `failed`; None if no tool is left that can.

    Also returns why tools were skipped.
    """
    left, problems = failed.fallback, []
    while left:
        name, model = split_fallback(left[0])
        left = left[1:]
        # Effort, transport and flags were for the first tool.
        wanted = going_on(failed.request, tool=name, transport=None, model=model, flags=None, fallback=())
        try:
            plan = plan_resume(Session(failed.context, failed.state.session_id), wanted, now=datetime.now(UTC))
        except CsaError as error:
            problems.append(f"{name} cannot take over: {error.message}")
            continue
        cwd = plan.cwd if plan.tool_state.provider_session_id else failed.cwd
        why = f"fallback: {kind} of {failed.adapter.name}"
        fork = failed.fork.for_another_tool() if failed.fork else None
        return replace(plan, why_tool=why, fallback=left, cwd=cwd, fork=fork), problems
    return None, problems
