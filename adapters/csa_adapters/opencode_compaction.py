"""Reads what `opencode_bridge` says of a compaction (opencode 1.18.33): a turn's lines, and at last `compacted`.

Proof: the server announced `session.compacted`, and the session's own record then ends with a summary that is whole.
What the context has shrunk to it does not tell.
"""

from __future__ import annotations

from typing import Any

from csa.model.adapter import CompactionOutcome, ErrorKind, ToolExit, TurnRequest, Update
from csa_adapters.failures import ended_well, ending_message
from csa_adapters.jsonlines import number_of, read_object, text_of
from csa_adapters.opencode_stream import OpencodeDecoder

_Json = dict[str, Any]


class OpencodeCompactionDecoder:
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        self._turn = OpencodeDecoder(request)
        self._compacted: _Json | None = None

    @property
    def is_finished(self) -> bool:
        """Never: the bridge says it by its exit."""
        return False

    @property
    def fault(self) -> str | None:
        """Why this is not the session that was asked for."""
        return self._turn.fault

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        if event is not None and event.get("type") == "compacted":
            self._compacted = event
            return []
        updates = self._turn.feed(line)
        return [update for update in updates if update.type not in {"session_bound", "compaction", "usage"}]

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        turn = self._turn.close(end)
        kind, message = self._verdict(end, turn.error_kind, turn.error_message)
        before = number_of((self._compacted or {}).get("tokensBefore"))
        return CompactionOutcome(
            succeeded=kind is None,
            error_kind=kind,
            error_message=message,
            usage=turn.usage,
            proof=f"summary message {text_of((self._compacted or {}).get('messageID'))}" if kind is None else None,
            tokens_before=int(before) if before else None,
        )

    def _verdict(
        self, end: ToolExit, kind: ErrorKind | None, message: str | None
    ) -> tuple[ErrorKind | None, str | None]:
        """Take the turn's verdict but where it only misses a last step: a compaction has none that counts."""
        if self._turn.failed:
            return kind, message
        if self._compacted is not None and ended_well(end):
            return None, None
        return "internal" if end.signal is not None else "protocol", ending_message(end, "a summary")
