"""Reads what `codex_bridge` passes on: the notifications of codex's app-server (seen at 0.169.0) while it compacts.

Proof: the item `contextCompaction` was completed, and so was its turn. The answer to `thread/compact/start` is none: it
comes before anything has happened. Tokens of the context are those of the last request before, and an estimate after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from csa.model.adapter import CompactionOutcome, ErrorKind, ToolExit, TurnRequest, Update
from csa.model.usage import Usage
from csa_adapters.codex_stream import baseline, is_unknown, kind_of, usage_between
from csa_adapters.failures import ended_well, ending_message
from csa_adapters.jsonlines import count_of, mapping_of, number_of, other, read_object, text_of

_Json = dict[str, Any]

_REQUESTS = {1: "initialize", 2: "thread/resume", 3: "thread/compact/start"}
_KEYS = (("input_tokens", "inputTokens"), ("cached_input_tokens", "cachedInputTokens"))


class CodexCompactionDecoder:
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        self._asked = request.provider_session_id
        self._totals = baseline(request)
        self._usage: Usage | None = None
        self._resumed = False
        self._compacted = False
        self._turn_status = ""
        self._failure: tuple[ErrorKind, str] | None = None
        self._fault: str | None = None
        self._before: int | None = None
        self._after: int | None = None
        self._methods: dict[str, Callable[[_Json], list[Update]]] = {
            "thread/tokenUsage/updated": self._token_usage,
            "item/completed": self._item_completed,
            "turn/completed": self._turn_completed,
            "error": self._error,
            "configWarning": self._warning,
        }

    @property
    def is_finished(self) -> bool:
        """Whether the compaction's turn has ended."""
        return bool(self._turn_status)

    @property
    def fault(self) -> str | None:
        """Why this is not the thread that was asked for."""
        return self._fault

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        if event is None:
            return other(line)
        if "method" not in event:
            return self._answer(event)
        handler = self._methods.get(text_of(event.get("method")))
        params = mapping_of(event.get("params"))
        if params.get("threadId") not in (None, self._asked):
            return other(line, event)
        return handler(params) if handler else []

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        kind, message = self._verdict(end)
        return CompactionOutcome(
            succeeded=kind is None,
            error_kind=kind,
            error_message=message,
            usage=self._usage,
            totals=self._totals,
            proof="contextCompaction item completed" if kind is None else None,
            tokens_before=self._before,
            tokens_after=self._after if self._compacted else None,
        )

    def _verdict(self, end: ToolExit) -> tuple[ErrorKind | None, str | None]:
        if self._fault is not None:
            return "protocol", self._fault
        if self._compacted and self._turn_status == "completed":
            return (None, None) if ended_well(end) else ("internal", ending_message(end, "a clean exit"))
        if self._failure is not None:
            return self._failure
        if self._turn_status:
            return "protocol", f"the compaction's turn is {self._turn_status}, and nothing was compacted"
        return "internal" if end.signal is not None else "protocol", ending_message(end, "the end of the compaction")

    def _answer(self, event: _Json) -> list[Update]:
        """Take the answer to a request: which thread it is, or why not."""
        request = _REQUESTS.get(count_of(event.get("id")), "request")
        if "error" in event:
            message = text_of(mapping_of(event.get("error")).get("message")) or "no reason given"
            is_gone = request == "thread/resume" and is_unknown(message, self._asked)
            return self._fail(f"{request}: {message}", "unknown_conversation" if is_gone else "invalid_request")
        thread = mapping_of(mapping_of(event.get("result")).get("thread"))
        if thread and thread.get("id") != self._asked:
            self._fault = f"codex resumed thread {thread.get('id')} instead of {self._asked}"
        return []

    def _token_usage(self, params: _Json) -> list[Update]:
        told = mapping_of(params.get("tokenUsage"))
        total, last = mapping_of(told.get("total")), mapping_of(told.get("last"))
        context = number_of(last.get("totalTokens"))
        if self._before is None:  # told at the resume: the thread's last turn
            self._before = int(context) if context else None
        self._after = None if context is None else int(context)
        reported = {theirs: total.get(camel) for theirs, camel in (*_KEYS, ("output_tokens", "outputTokens"))}
        used, totals = usage_between(reported, self._totals)
        self._usage = self._usage + used if self._usage and used else used or self._usage
        self._totals = totals
        return []

    def _item_completed(self, params: _Json) -> list[Update]:
        item = mapping_of(params.get("item"))
        self._compacted = self._compacted or item.get("type") == "contextCompaction"
        return []

    def _turn_completed(self, params: _Json) -> list[Update]:
        turn = mapping_of(params.get("turn"))
        self._turn_status = text_of(turn.get("status")) or "unknown"
        message = text_of(mapping_of(turn.get("error")).get("message"))
        if message and (self._failure is None or self._failure[1] != message):
            return self._fail(message)
        return []

    def _error(self, params: _Json) -> list[Update]:
        error = mapping_of(params.get("error"))
        message = text_of(error.get("message")) or "codex reported an error"
        if params.get("willRetry") is True:
            return [Update("retry", {"kind": kind_of(message), "message": message})]
        return self._fail(message)

    def _warning(self, params: _Json) -> list[Update]:
        return [Update("warning", {"message": text_of(params.get("summary"))})]

    def _fail(self, message: str, kind: ErrorKind | None = None) -> list[Update]:
        self._failure = (kind or kind_of(message), message)
        return [Update("error", {"kind": self._failure[0], "message": message})]
