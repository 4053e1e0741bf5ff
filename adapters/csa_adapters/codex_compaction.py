"""Reads what `codex_bridge` passes on: the notifications of codex's app-server (seen at 0.169.0) while it compacts.

Proof: the item `contextCompaction` and its turn were completed. The answer to `thread/compact/start` is not a proof: it
comes before anything has happened. Tokens of the context are those of the last request before, and an estimate after.
"""

from __future__ import annotations

from csa.model.adapter import CompactionOutcome, ToolExit, TurnRequest, Update
from csa.structs import replace
from csa_adapters.codex_stream import baseline, is_unknown, kind_of, usage_between
from csa_adapters.decoder import StreamDecoder, compaction_outcome, retry_update, warning_update
from csa_adapters.failures import Failure, unclean, unfinished
from csa_adapters.jsonlines import Json, count_of, mapping_of, number_of, other, read_object, text_of

_REQUESTS = {1: "initialize", 2: "thread/resume", 3: "thread/compact/start"}
_KEYS = (("input_tokens", "inputTokens"), ("cached_input_tokens", "cachedInputTokens"))


class CodexCompactionDecoder(StreamDecoder):
    """The reader of one compaction."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__()
        self._asked = request.provider_session_id
        self._totals = baseline(request)
        self._compacted = False
        self._turn_status = ""
        self._before: int | None = None
        self._after: int | None = None
        self._events = {
            "thread/tokenUsage/updated": self._token_usage,
            "item/completed": self._item_completed,
            "turn/completed": self._turn_completed,
            "error": self._error_event,
            "configWarning": self._warning,
        }

    @property
    def is_finished(self) -> bool:
        """Whether the compaction's turn has ended."""
        return bool(self._turn_status)

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        if event is None:
            return other(line)
        if "method" not in event:
            return self._answer(event)
        handler = self._events.get(text_of(event.get("method")))
        params = mapping_of(event.get("params"))
        if params.get("threadId") not in (None, self._asked):
            return other(line, event)
        return (handler(params) if handler else None) or []

    def close(self, end: ToolExit) -> CompactionOutcome:
        """Judge the compaction."""
        after = self._after if self._compacted else None
        outcome = replace(super().close(end), totals=self._totals)
        return compaction_outcome(outcome, "contextCompaction item completed", before=self._before, after=after)

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._compacted and self._turn_status == "completed":
            return unclean(end)
        if self._error is not None:
            return self._error
        if self._turn_status:
            return "protocol", f"the compaction's turn is {self._turn_status}, but nothing was compacted"
        return unfinished(end, "the end of the compaction")

    def _answer(self, event: Json) -> list[Update]:
        """Take the answer to a request: the thread, or an error."""
        request = _REQUESTS.get(count_of(event.get("id")), "request")
        if "error" in event:
            message = text_of(mapping_of(event.get("error")).get("message")) or "no reason given"
            is_gone = request == "thread/resume" and is_unknown(message, self._asked)
            return self._fail("unknown_conversation" if is_gone else "invalid_request", f"{request}: {message}")
        thread = mapping_of(mapping_of(event.get("result")).get("thread"))
        if thread and thread.get("id") != self._asked:
            self._fault = f"codex resumed thread {thread.get('id')} instead of {self._asked}"
        return []

    def _token_usage(self, params: Json) -> list[Update]:
        told = mapping_of(params.get("tokenUsage"))
        total, last = mapping_of(told.get("total")), mapping_of(told.get("last"))
        context = number_of(last.get("totalTokens"))
        if self._before is None:  # sent at the resume: the thread's last turn
            self._before = int(context) if context else None
        self._after = None if context is None else int(context)
        reported = {theirs: total.get(camel) for theirs, camel in (*_KEYS, ("output_tokens", "outputTokens"))}
        used, totals = usage_between(reported, self._totals)
        self._usage = self._usage + used if self._usage and used else used or self._usage
        self._totals = totals
        return []

    def _item_completed(self, params: Json) -> list[Update]:
        item = mapping_of(params.get("item"))
        self._compacted = self._compacted or item.get("type") == "contextCompaction"
        return []

    def _turn_completed(self, params: Json) -> list[Update]:
        turn = mapping_of(params.get("turn"))
        self._turn_status = text_of(turn.get("status")) or "unknown"
        message = text_of(mapping_of(turn.get("error")).get("message"))
        is_new = message and (self._error is None or self._error[1] != message)
        return self._fail(kind_of(message), message) if is_new else []

    def _error_event(self, params: Json) -> list[Update]:
        error = mapping_of(params.get("error"))
        message = text_of(error.get("message")) or "codex reported an error"
        if params.get("willRetry") is True:
            return [retry_update((kind_of(message), message))]
        return self._fail(kind_of(message), message)

    def _warning(self, params: Json) -> list[Update]:
        return [warning_update(text_of(params.get("summary")))]
