"""Reads what `acp_bridge` reports about an agent that was sent its command `/compact`.

Proof: a `compaction_update` that is completed (codex-acp 2.6.0, with csa's client capability for it), or the completed
call "Compact conversation" (codex-acp without that, claude-agent-acp). A successful turn is not a proof.
"""

from __future__ import annotations

from csa.model.adapter import CompactionOutcome, ToolExit, TurnRequest, Update
from csa_adapters.acp_stream import AcpDecoder
from csa_adapters.decoder import compaction_outcome
from csa_adapters.failures import Failure

_CALL = "Compact conversation"


class AcpCompactionDecoder(AcpDecoder):
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__(request)
        self._compactions: set[str] = set()  # calls
        self._proof = ""
        self._warning = ""

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        updates = super().feed(line)
        for update in updates:
            self._look_at(update)
        return [update for update in updates if update.type not in {"session_bound", "compaction", "usage"}]

    def _look_at(self, update: Update) -> None:
        call = str(update.data.get("id", ""))
        if update.type == "compaction":
            self._proof = "compaction_update completed"
        elif update.type == "tool_call" and update.data.get("title") == _CALL:
            self._compactions.add(call)
        elif (
            update.type == "tool_call_update" and call in self._compactions and update.data.get("status") == "completed"
        ):
            self._proof = self._proof or f"tool call '{_CALL}' completed"
        elif update.type == "warning":
            self._warning = str(update.data.get("message", ""))

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        return compaction_outcome(super().close(end), self._proof)

    def _verdict(self, end: ToolExit) -> Failure | None:
        failure = super()._verdict(end)
        if failure is None and not self._proof:
            return "protocol", self._warning or self._answer() or "the agent did not confirm a compaction"
        return failure
