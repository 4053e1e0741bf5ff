"""Reads `/compact`, run by `claude -p --resume` (seen at 2.1.328): a status, a `compact_boundary`, a result line.

Trap: a compaction that failed ends with exit 0, `is_error: false` and `subtype: success`. Only `compact_result` and the
boundary tell, and the boundary is the proof.
"""

from __future__ import annotations

from typing import Any

from csa.model.adapter import CompactionOutcome, ErrorKind, ToolExit, TurnRequest, Update
from csa_adapters.claude_failures import kind_of_failure
from csa_adapters.claude_stream import ClaudeCodeDecoder
from csa_adapters.jsonlines import mapping_of, number_of, read_object, text_of

_Json = dict[str, Any]

_NOTHING = ("not enough messages", "no messages to compact")


class ClaudeCompactionDecoder:
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        self._turn = ClaudeCodeDecoder(request)
        self._boundary: _Json | None = None
        self._failure = ""

    @property
    def is_finished(self) -> bool:
        """Whether a result line was read."""
        return self._turn.is_finished

    @property
    def fault(self) -> str | None:
        """Why this is not the session that was asked for."""
        return self._turn.fault

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        updates = self._turn.feed(line)
        event = read_object(line) or {}
        if event.get("subtype") == "compact_boundary":
            self._boundary = mapping_of(event.get("compact_metadata"))
        if event.get("compact_result") == "failed":
            self._failure = text_of(event.get("compact_error")) or "claude did not say why"
        return [update for update in updates if update.type not in {"session_bound", "compaction"}]

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        turn = self._turn.close(end)
        kind, message = self._verdict(turn.error_kind, turn.error_message, turn.text)
        boundary = self._boundary or {}
        return CompactionOutcome(
            succeeded=kind is None,
            error_kind=kind,
            error_message=message,
            usage=turn.usage,
            totals=turn.totals,
            proof="compact_boundary event" if kind is None else None,
            tokens_before=_count(boundary.get("pre_tokens")),
            tokens_after=_count(boundary.get("post_tokens")),
        )

    def _verdict(self, kind: ErrorKind | None, message: str | None, text: str) -> tuple[ErrorKind | None, str | None]:
        if kind is not None:
            return kind, message
        if self._boundary is not None and not self._failure:
            return None, None
        said = self._failure or text or "claude announced no compaction"
        if any(words in said.lower() for words in _NOTHING):
            return "invalid_request", f"there is nothing to compact ({said.removeprefix('Error: ').rstrip('.')})"
        return kind_of_failure(said), said


def _count(value: Any) -> int | None:
    number = number_of(value)
    return None if number is None else int(number)
