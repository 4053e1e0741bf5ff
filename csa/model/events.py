"""The transcript's vocabulary: the Agent Client Protocol's session updates, and csa's own lifecycle events."""

from __future__ import annotations

from collections.abc import Mapping

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any, Literal

    EventType = Literal[
        "run_started",
        "session_bound",
        "user_message",
        "agent_message",
        "agent_thought",
        "tool_call",
        "tool_call_update",
        "plan",
        "permission",
        "usage",
        "retry",
        "warning",
        "error",
        "compaction",
        "fork",
        "handoff",
        "checkpoint",
        "session_updated",
        "run_finished",
        "parked",
        "other",
    ]

TRANSCRIPT_VERSION = 1


class Event(Struct):
    """One line of a transcript. `seq` is contiguous over the session's life; `ts` is RFC 3339 UTC, milliseconds.

    `turn` is 0 if the line has none, as another implementation's lines.
    """

    seq: int
    ts: str
    type: str  # one of EventType; a newer csa may have written others
    turn: int
    data: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of the line."""
        return {
            "v": TRANSCRIPT_VERSION,
            "seq": self.seq,
            "ts": self.ts,
            "type": self.type,
            "turn": self.turn,
            "data": dict(self.data),
        }

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Event:
        """Read a line's object; KeyError, TypeError or ValueError if it is not an event."""
        data = line["data"]
        if not isinstance(data, dict):
            raise TypeError("data is not an object")
        return cls(int(line["seq"]), str(line["ts"]), str(line["type"]), int(line.get("turn") or 0), data)

    @staticmethod
    def fault_of(line: Mapping[str, Any]) -> str:
        """Say why `from_dict` has refused a line's object."""
        if missing := [key for key in ("seq", "ts", "type", "data") if key not in line]:
            return f"it has no {' and no '.join(missing)}"
        wrong = [key for key in ("seq", "turn") if not isinstance(line.get(key, 0), int)]
        return f"{wrong[0]} is not a whole number" if wrong else "data is not an object"
