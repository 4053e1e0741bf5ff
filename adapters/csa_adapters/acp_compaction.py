"""Reads what `acp_bridge` says of an agent that was given its command `/compact`.

Proof: a `compaction_update` that is completed (codex-acp 2.6.0, with csa's client capability for it), or the completed
call "Compact conversation" (codex-acp without that, claude-agent-acp). That the turn has ended well is none.
"""

from __future__ import annotations

from csa.model.adapter import CompactionOutcome, ErrorKind, ToolExit, TurnRequest, Update
from csa_adapters.acp_stream import AcpDecoder

_CALL = "Compact conversation"


class AcpCompactionDecoder:
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        self._turn = AcpDecoder(request)
        self._calls: set[str] = set()
        self._proof: str | None = None
        self._warning = ""

    @property
    def is_finished(self) -> bool:
        """Whether the bridge has told the end."""
        return self._turn.is_finished

    @property
    def fault(self) -> str | None:
        """Why this is not the conversation that was asked for."""
        return self._turn.fault

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        updates = self._turn.feed(line)
        for update in updates:
            self._look_at(update)
        return [update for update in updates if update.type not in {"session_bound", "compaction", "usage"}]

    def _look_at(self, update: Update) -> None:
        call = str(update.data.get("id", ""))
        if update.type == "compaction":
            self._proof = "compaction_update completed"
        elif update.type == "tool_call" and update.data.get("title") == _CALL:
            self._calls.add(call)
        elif update.type == "tool_call_update" and call in self._calls and update.data.get("status") == "completed":
            self._proof = self._proof or f"tool call '{_CALL}' completed"
        elif update.type == "warning":
            self._warning = str(update.data.get("message", ""))

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        turn = self._turn.close(end)
        kind: ErrorKind | None = turn.error_kind
        message = turn.error_message
        if kind is None and self._proof is None:
            kind, message = "protocol", self._warning or turn.text or "the agent announced no compaction"
        return CompactionOutcome(
            succeeded=kind is None,
            error_kind=kind,
            error_message=message,
            usage=turn.usage,
            totals=turn.totals,
            proof=self._proof if kind is None else None,
        )
