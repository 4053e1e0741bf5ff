"""Reads `/compact`, run by `claude -p --resume` (seen at 2.1.328): a status, a `compact_boundary`, a result line.

Trap: a compaction that failed ends with exit 0, `is_error: false` and `subtype: success`. Only `compact_result` and the
boundary show it, and the boundary is the proof.
"""

from __future__ import annotations

from csa.model.adapter import CompactionOutcome, ToolExit, TurnRequest, Update
from csa_adapters.claude_failures import kind_of_failure
from csa_adapters.claude_stream import ClaudeCodeDecoder
from csa_adapters.decoder import compaction_outcome
from csa_adapters.failures import Failure
from csa_adapters.jsonlines import Json, mapping_of, text_of

_NOTHING = ("not enough messages", "no messages to compact")


class ClaudeCompactionDecoder(ClaudeCodeDecoder):
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__(request)
        self._boundary: Json | None = None
        self._refusal = ""

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        return [update for update in super().feed(line) if update.type != "session_bound"]

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        size = mapping_of(self._boundary)
        proof = "compact_boundary event"
        return compaction_outcome(
            super().close(end), proof, before=size.get("pre_tokens"), after=size.get("post_tokens")
        )

    def _status(self, event: Json) -> list[Update]:
        if event.get("compact_result") == "failed":
            self._refusal = text_of(event.get("compact_error")) or "claude gave no reason"
        return super()._status(event)

    def _compaction(self, event: Json) -> list[Update]:
        self._boundary = mapping_of(event.get("compact_metadata"))
        return []

    def _verdict(self, end: ToolExit) -> Failure | None:
        failure = super()._verdict(end)
        if failure is not None or (self._boundary is not None and not self._refusal):
            return failure
        said = self._refusal or self._text or "claude did not confirm a compaction"
        if any(words in said.lower() for words in _NOTHING):
            return "invalid_request", f"there is nothing to compact ({said.removeprefix('Error: ').rstrip('.')})"
        return kind_of_failure(said), said
