"""Reads what `gemini_bridge` reports about a compaction: `state` lines, then `compressed` or `failed`.

Proof: the bridge has found a new state snapshot at the beginning of the conversation's file.
"""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.adapter import CompactionOutcome, ErrorKind, ToolExit, TurnRequest, Update
from csa_adapters.decoder import StreamDecoder, compaction_outcome, retry_update
from csa_adapters.failures import Failure, kind_of_status, unclean, unfinished
from csa_adapters.gemini_stream import is_unknown, kind_of_words
from csa_adapters.jsonlines import Json, count_of, text_of

_KINDS: Mapping[str, ErrorKind] = {
    "auth": "auth",
    "nothing": "invalid_request",
    "spawn": "spawn",
    "protocol": "protocol",
}


class GeminiCompactionDecoder(StreamDecoder):
    """The reader of one compaction. gemini does not say which conversation it shows, but its file does."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__()
        self._asked = request.provider_session_id
        self._compressed: Json | None = None
        self._events = {
            "state": self._ignore,
            "retry": self._retry,
            "compressed": self._take_compressed,
            "failed": self._failed,
        }

    @property
    def is_finished(self) -> bool:
        """Whether the bridge has reported the end."""
        return self._compressed is not None or self._error is not None

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        told = self._compressed or {}
        proof = "state snapshot in the conversation's file"
        return compaction_outcome(
            super().close(end), proof, before=told.get("tokens_before"), after=told.get("tokens_after")
        )

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._error is not None:
            return self._error
        is_proven = self._compressed is not None and self._compressed.get("session") == self._asked
        return None if is_proven and unclean(end) is None else unfinished(end, "a compressed history")

    def _retry(self, event: Json) -> list[Update]:
        failure = _kind(event), text_of(event.get("message"))
        return [retry_update(failure, attempt=count_of(event.get("attempt")), most=count_of(event.get("max")))]

    def _take_compressed(self, event: Json) -> list[Update]:
        self._compressed = event
        return []

    def _failed(self, event: Json) -> list[Update]:
        why, message = text_of(event.get("why")), text_of(event.get("message"))
        said = f"there is nothing to compact ({message})" if why == "nothing" else message
        is_gone = why == "start" and is_unknown(message, self._asked)
        return self._fail("unknown_conversation" if is_gone else _KINDS.get(why) or _kind(event), said)


def _kind(event: Json) -> ErrorKind:
    return kind_of_status(event.get("status")) or kind_of_words(text_of(event.get("message")))
