"""Which sessions work in a turn of opencode (1.18.33), including sub-agents; is it over, and does it make progress?

An idle session is not the end: a background sub-agent (`OPENCODE_EXPERIMENTAL_BACKGROUND_SUBAGENTS`)
continues, and its result begins the session's next step. opencode can loop for ever in two ways: it asks again
after each step whose provider gives no reason for its end, and it keeps compacting a conversation that never fits.

It only uses the server's events.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from csa_adapters.bridges import Json

QUIET_TIMES = 2
IDLE_STEPS = 5  # a summary and the answer after it make two
_NOTIFICATION = re.compile(r'<task id="(ses_\w+)" state="(?:completed|error)">')
_UNFINISHED = frozenset({"tool-calls", "unknown"})


class Family:
    """The sessions of one turn, by their ids."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._members = {root}
        self._busy: set[str] = set()
        self.has_begun = False
        self._quiet_times = 0  # in a row that the server reported nobody working
        self._background: set[str] = set()  # sub-agents whose end the session does not know yet
        self._callers: set[str] = set()  # messages that call a tool
        self._idle_steps: dict[str, int] = {}  # steps in a row that called none
        self._failing: dict[str, float] = {}  # since when

    def __contains__(self, session: object) -> bool:
        return session in self._members

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody is working, and nobody will."""
        return not self._busy and not self._background

    @property
    def at_work(self) -> list[str]:
        """The session itself, and its working sub-agents."""
        return [self._root, *sorted(self._busy - {self._root})]

    def take_session(self, info: Json) -> None:
        """Note a new session."""
        if info.get("parentID") in self._members:
            self._members.add(info["id"])

    def take_status(self, session: str, kind: str) -> None:
        """Note that a session is working, waiting to retry, or idle."""
        if kind == "idle":
            self._busy.discard(session)
        elif session in self._members:
            self._busy.add(session)
            self.has_begun = True

    def take_truth(self, busy: Collection[str]) -> bool:
        """Take the server's list of busy sessions; say whether none of ours was on it, now and the last time.

        Once may be the moment between a sub-agent's end and its notification.
        """
        self._quiet_times = 0 if self._members.intersection(busy) else self._quiet_times + 1
        return self._quiet_times >= QUIET_TIMES

    def take_part(self, part: Json) -> None:
        """Note a sub-agent's session, even from an earlier turn, and its end in the background."""
        found = _NOTIFICATION.match(part["text"]) if part["type"] == "text" and part.get("synthetic") else None
        if found and found[1] in self._background:
            self._background.remove(found[1])
            self._busy.add(part["sessionID"])  # the step that uses it comes at once, perhaps after the idle event
            self._idle_steps.pop(part["sessionID"], None)
        if part["type"] != "tool":
            return
        self._callers.add(part["messageID"])
        state = part["state"]
        metadata = state.get("metadata") or {}
        sub_agent = metadata.get("sessionId")
        if part["tool"] == "task" and sub_agent and state["status"] == "running":  # a later report may be history
            self._members.add(sub_agent)
            if metadata.get("background") is True:
                self._background.add(sub_agent)

    def take_step(self, part: Json, *, is_summary: bool) -> str | None:
        """Note a step's end; return the problem if too many made no progress."""
        session, reason = part["sessionID"], part.get("reason")
        self._failing.pop(session, None)  # the beginning of a text is not progress: it may be cut off every time
        if part["messageID"] in self._callers:
            self._idle_steps.pop(session, None)
            return None
        count = self._idle_steps[session] = self._idle_steps.get(session, 0) + 1
        if count < IDLE_STEPS or (reason not in _UNFINISHED and not is_summary):
            return None
        if is_summary:
            return "the conversation is compacted again and again: it does not fit the model's context"
        return (
            f"{count} steps in a row called no tool and ended with '{reason}', and opencode would ask for ever: "
            "the provider gives no reason why it stops"
        )

    def failing_since(self, session: str, now: float) -> float:
        """Return when a session's step began to fail."""
        return self._failing.setdefault(session, now)
