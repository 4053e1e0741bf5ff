"""Reads what `opencode_bridge` reports about a compaction (opencode 1.18.33): a turn's lines, then `compacted`.

Proof: the server announced `session.compacted`, and the session's own record then ends with a complete summary.
It does not report the new size of the context.
"""

from __future__ import annotations

from csa.model.adapter import CompactionOutcome, ToolExit, TurnRequest, Update
from csa_adapters.decoder import compaction_outcome
from csa_adapters.failures import Failure, unclean, unfinished
from csa_adapters.jsonlines import Json, mapping_of, text_of
from csa_adapters.opencode_stream import OpencodeDecoder


class OpencodeCompactionDecoder(OpencodeDecoder):
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__(request)
        self._compacted: Json | None = None
        self._events["compacted"] = self._take_compacted

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        updates = super().feed(line)
        return [update for update in updates if update.type not in {"session_bound", "compaction", "usage"}]

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        told = mapping_of(self._compacted)
        proof = f"summary message {text_of(told.get('messageID'))}"
        return compaction_outcome(super().close(end), proof, before=told.get("tokensBefore") or None)

    def _take_compacted(self, event: Json) -> list[Update]:
        self._compacted = event
        return []

    def _verdict(self, end: ToolExit) -> Failure | None:
        """Take the turn's verdict unless it only lacks a last step: in a compaction that does not count."""
        if self._error is not None or self._session is None:
            return super()._verdict(end)
        return None if self._compacted is not None and unclean(end) is None else unfinished(end, "a summary")
