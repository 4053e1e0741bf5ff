"""Reads what `gemini_bridge` says of a compaction: `state` lines, then `compressed` or `failed`.

Proof: the bridge has seen the conversation's file begin with a state snapshot that was not there before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.model.adapter import CompactionOutcome, ErrorKind, ToolExit, TurnRequest, Update
from csa_adapters.failures import ended_well, ending_message, kind_of_status
from csa_adapters.gemini_stream import is_unknown, kind_of_words
from csa_adapters.jsonlines import count_of, number_of, other, read_object, text_of

_KINDS: Mapping[str, ErrorKind] = {
    "auth": "auth",
    "nothing": "invalid_request",
    "spawn": "spawn",
    "protocol": "protocol",
}


class GeminiCompactionDecoder:
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        self._asked = request.provider_session_id
        self._proven = False
        self._failure: tuple[ErrorKind, str] | None = None
        self._tokens: tuple[float | None, float | None] = (None, None)

    @property
    def is_finished(self) -> bool:
        """Whether the bridge has told the end."""
        return self._proven or self._failure is not None

    @property
    def fault(self) -> str | None:
        """Nothing: gemini does not say which conversation it shows, but its file does."""
        return None

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        kind = text_of((event or {}).get("type"))
        if event is None or kind not in {"state", "retry", "compressed", "failed"}:
            return other(line, event)
        if kind == "retry":
            return [_retry(event)]
        if kind == "compressed":
            self._proven = event.get("session") == self._asked
            self._tokens = number_of(event.get("tokens_before")), number_of(event.get("tokens_after"))
        if kind == "failed":
            return self._fail(event)
        return []

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        kind, message = self._verdict(end)
        before, after = self._tokens
        return CompactionOutcome(
            succeeded=kind is None,
            error_kind=kind,
            error_message=message,
            proof="state snapshot in the conversation's file" if kind is None else None,
            tokens_before=None if before is None else int(before),
            tokens_after=None if after is None else int(after),
        )

    def _verdict(self, end: ToolExit) -> tuple[ErrorKind | None, str | None]:
        if self._failure is not None:
            return self._failure
        if self._proven and ended_well(end):
            return None, None
        return "internal" if end.signal is not None else "protocol", ending_message(end, "a compressed history")

    def _fail(self, event: dict[str, Any]) -> list[Update]:
        why, message = text_of(event.get("why")), text_of(event.get("message"))
        said = f"there is nothing to compact ({message})" if why == "nothing" else message
        is_gone = why == "start" and is_unknown(message, self._asked)
        self._failure = ("unknown_conversation" if is_gone else _KINDS.get(why) or _kind(event), said)
        return [Update("error", {"kind": self._failure[0], "message": said})]


def _retry(event: dict[str, Any]) -> Update:
    counts = {"attempt": count_of(event.get("attempt")), "max": count_of(event.get("max"))}
    return Update("retry", {"kind": _kind(event), "message": text_of(event.get("message")), **counts})


def _kind(event: dict[str, Any]) -> ErrorKind:
    return kind_of_status(event.get("status")) or kind_of_words(text_of(event.get("message")))
