"""Reads what `opencode_bridge` says of a turn: the lines of `opencode run --format json` (1.18.33), and its own.

Traps: there is no last line, so success is a last step that ended with `stop` and exit 0; an error may be followed by
a step that succeeds (a context that overflowed is compacted); tokens and cost are of each step, those of sub-agents are
told besides; a cost of 0 is that of a model without a price as well; `input` lacks the cached tokens and `output` the
reasoning; a refused tool call and a failed command look like any other at their top.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from csa.model.adapter import ErrorKind, Outcome, ToolExit, TurnRequest, Update
from csa.model.resets import delay_of
from csa.model.usage import Usage
from csa_adapters.failures import (
    ended_well,
    ending_message,
    kind_of_message,
    kind_of_status,
    rules,
    stderr_message,
)
from csa_adapters.jsonlines import count_of, list_of, mapping_of, number_of, other, read_object, text_of
from csa_adapters.opencode_tools import describe_call, plan_entries

_Json = dict[str, Any]

_NAMES: dict[str, ErrorKind] = {
    "ProviderAuthError": "auth",
    "ContextOverflowError": "context_overflow",
    "MessageOutputLengthError": "invalid_request",
    "StructuredOutputError": "invalid_request",
    "NotFoundError": "invalid_request",
    "ServerStartError": "spawn",
    "ServerError": "protocol",
    "NothingToCompactError": "invalid_request",
    "ContentFilterError": "invalid_request",
    "UnfinishedStepsError": "protocol",  # the bridge's
}
# What a last step ended with, that was not the end: as an ACP agent's reasons are understood.
_REASONS: dict[str, ErrorKind] = {"length": "context_overflow", "content-filter": "invalid_request"}
# The messages of error and retry events, which are the provider's own; most telling first.
_LIMITS = rules(
    (r"rate limit reached .*per (sec|min)|\((TPM|RPM)\)", "rate_limit"),  # OpenAI's, which names billing as a way out
    (r"insufficient_quota|current quota|usage limit|credit balance|billing|free_tier_limit|Free usage", "quota"),
    (r"hit your .{0,20}limit|(session|daily|weekly|monthly) (rate )?limit|limit reached .{0,3}resets", "quota"),
    (r"context_length_exceeded|maximum context length|context window|prompt is too long", "context_overflow"),
)
# Said of a request that was one too many, or not paid for; elsewhere they may mean anything.
_QUOTAS = rules(
    (r"quota|(insufficient|not enough|out of|no more|exceeded) (\w+ )?(credit|balance|fund)", "quota"),
    (r"(spend(ing)?|daily|weekly|monthly|plan'?s?|account|credit|session) (\w+ )?(limit|cap|allowance)\b", "quota"),
    (r"upgrade (to|your)\b|payment required", "quota"),
)
_TOO_MANY = (402, 429)
_MESSAGES = rules(
    (r"API key|not logged in|unauthorized|authentication|credentials", "auth"),
    (r"(Model|Agent|Session|Provider) not found", "invalid_request"),
    (r"rate.?limit|too.?many.?requests|rate increased too quickly|\b429\b", "rate_limit"),
    (r"overloaded|exhausted|at capacity|unavailable|\b(503|529)\b", "overloaded"),
    (r"server.?error|internal.?error|bad gateway|\b5\d\d\b", "server"),
    (r"connect|connection|socket|network|fetch failed|timed? ?out|ECONN|ENOTFOUND|EAI_AGAIN|terminated", "network"),
)
_REFUSED = re.compile(r"The user (has specified a rule which prevents you from using|rejected permission to use) this ")
_DELAY = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?")
_MILLISECONDS = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class OpencodeDecoder:
    """The reader of one run."""

    def __init__(self, request: TurnRequest) -> None:
        self._asked = request.provider_session_id
        self._unknown = f"Session not found: {request.conversation}"
        self._session: str | None = None
        self._fault: str | None = None
        self._error: tuple[ErrorKind, str] | None = None
        self._again: tuple[float | None, float | None] = None, None  # after how many seconds, or when
        self._reason = ""  # why the last step ended
        self._texts: list[str] = []  # of the last message that had any
        self._text_message = ""
        self._usage: Usage | None = None
        self._open: set[str] = set()
        self._denied: dict[str, str] = {}
        self._events: dict[str, Callable[[_Json], list[Update] | None]] = {
            "session": self._nothing,
            "step_start": self._nothing,
            "step_finish": self._step_finish,
            "text": self._text,
            "reasoning": self._reasoning,
            "tool_use": self._tool_use,
            "permission": self._permission,
            "compaction": self._compaction,
            "retry": self._retry,
            "error": self._error_event,
        }

    @property
    def is_finished(self) -> bool:
        """Never: a step that stopped may be followed by another. The bridge says it by its exit."""
        return False

    @property
    def fault(self) -> str | None:
        """Why this is not the session that was asked for."""
        return self._fault

    @property
    def failed(self) -> bool:
        """Whether an error was read that no step has followed, or another session than asked for, or none at all."""
        return self._fault is not None or self._error is not None or self._session is None

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        if event is None:
            return other(line)
        updates = self._identify(event)
        if self._fault is not None:
            return updates
        handler = self._events.get(text_of(event.get("type")))
        told = handler(event) if handler else None
        return updates + (other(line, event) if told is None else told)

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        kind, message = self._verdict(end)
        return Outcome(
            succeeded=kind is None,
            text="\n".join(self._texts),
            stop_reason=self._reason or None,
            error_kind=kind,
            error_message=message,
            retry_after_s=self._again[0] if self._error else None,
            retry_at=self._again[1] if self._error else None,
            usage=self._usage,
            denied=tuple(self._denied.values()),
        )

    def _verdict(self, end: ToolExit) -> tuple[ErrorKind | None, str | None]:
        if self._fault is not None:
            return "protocol", self._fault
        if self._error is not None:
            kind, message = self._error
            said = stderr_message(_COLOUR.sub("", end.stderr_tail)) if self._session is None else ""
            return kind, f"{message}: {said}" if said and kind == "spawn" else message
        if self._session is None:
            return self._without_session(end)
        if self._reason == "stop" and ended_well(end):
            return None, None
        if end.signal is None and self._reason not in ("", "stop"):
            kind = _REASONS.get(self._reason, "protocol")
            return kind, f"the last step ended with '{self._reason}' instead of 'stop'"
        return "internal" if end.signal is not None else "protocol", ending_message(end, "a last step")

    def _without_session(self, end: ToolExit) -> tuple[ErrorKind, str]:
        if stderr_message(_COLOUR.sub("", end.stderr_tail)) == self._unknown:  # so says its interface
            return "unknown_conversation", self._unknown
        return "internal" if end.signal is not None else "protocol", ending_message(end, "a session")

    def _identify(self, event: _Json) -> list[Update]:
        """Compare the line's own session with the one asked for, else with the first one named; bind at that."""
        session = event.get("sessionID")
        if type(session) is not str or not session:
            return []
        wanted = self._session or self._asked
        if wanted is not None and session != wanted:
            self._fault = self._fault or f"opencode runs session {session} instead of {wanted}"
            return [Update("error", {"kind": "protocol", "message": self._fault})]
        if self._session is not None:
            return []
        self._session = session
        return [Update("session_bound", {"provider_session_id": session})]

    def _nothing(self, _event: _Json) -> list[Update]:
        return []

    def _text(self, event: _Json) -> list[Update]:
        part = mapping_of(event.get("part"))
        text, message = text_of(part.get("text")), text_of(part.get("messageID"))
        if message != self._text_message or not message:
            self._text_message, self._texts = message, []
        self._texts.append(text)
        return [Update("agent_message", {"text": text})]

    def _reasoning(self, event: _Json) -> list[Update]:
        return [Update("agent_thought", {"text": text_of(mapping_of(event.get("part")).get("text"))})]

    def _tool_use(self, event: _Json) -> list[Update]:
        part = mapping_of(event.get("part"))
        state = mapping_of(part.get("state"))
        call, name, given = text_of(part.get("callID")), text_of(part.get("tool")), mapping_of(state.get("input"))
        entries = plan_entries(name, given)
        if entries is not None:
            return [Update("plan", {"entries": entries})] if state.get("status") == "completed" else []
        kind, title = describe_call(name, given)
        updates: list[Update] = []
        if call not in self._open:  # `run` tells a tool only when it has ended
            self._open.add(call)
            updates = [Update("tool_call", {"id": call, "title": title, "kind": kind, "status": "in_progress"})]
        if state.get("status") in ("completed", "error"):
            updates += self._tool_end(call, title, state)
        return updates

    def _tool_end(self, call: str, title: str, state: _Json) -> list[Update]:
        self._open.discard(call)
        problem = text_of(state.get("error"))
        code = mapping_of(state.get("metadata")).get("exit")
        failed = state.get("status") == "error" or (type(code) is int and code != 0)
        data: _Json = {"id": call, "status": "failed" if failed else "completed"}
        data["content"] = text_of(state.get("output")) or problem
        if type(code) is int:
            data["exit_code"] = code
        denied = self._deny(call, title) if _REFUSED.match(problem) else []
        return [Update("tool_call_update", data), *denied]

    def _permission(self, event: _Json) -> list[Update]:
        """Take a request that was refused; the call itself may be a sub-agent's, of which no more is told."""
        patterns = " ".join(filter(None, map(text_of, list_of(event.get("patterns")))))
        title = f"{text_of(event.get('permission'))} {patterns}".strip()
        return self._deny(text_of(mapping_of(event.get("tool")).get("callID")), title)

    def _deny(self, call: str, title: str) -> list[Update]:
        if call in self._denied:
            return []
        self._denied[call] = title
        return [Update("permission", {"id": call, "title": title, "status": "denied"})]

    def _compaction(self, event: _Json) -> list[Update]:
        part = mapping_of(event.get("part"))
        return [Update("compaction", {"auto": part.get("auto") is True, "overflow": part.get("overflow") is True})]

    def _retry(self, event: _Json) -> list[Update]:
        message = text_of(event.get("message"))
        limit = mapping_of(event.get("action")).get("reason")
        data: _Json = {"kind": _kind_of_retry(message, limit), "message": message}
        data |= {"attempt": count_of(event.get("attempt")), "max": count_of(event.get("max"))}
        delay = number_of(event.get("retry_after_s"))
        if delay is not None:
            data["retry_after_s"] = delay
        return [Update("retry", data)]

    def _error_event(self, event: _Json) -> list[Update]:
        error = mapping_of(event.get("error"))
        data = mapping_of(error.get("data"))
        name = text_of(error.get("name"))
        message = text_of(data.get("message")) or name or "the turn failed"
        if name == "RetriesEndedError":
            kind: ErrorKind = _kind_of_retry(message, data.get("limit"))
        elif name == "NotFoundError" and message == self._unknown and self._session is None:
            kind = "unknown_conversation"
        else:
            kind = _kind_of_error(name, data, message)
        self._error = kind, message
        delay_s, moment = _retry_after(data)
        self._again = (delay_of(message) if delay_s is None and moment is None else delay_s), moment
        return [Update("error", {"kind": kind, "message": message})]

    def _step_finish(self, event: _Json) -> list[Update]:
        """Add up the step. One of our own that ends after an error shows that the turn went on."""
        part = mapping_of(event.get("part"))
        if not event.get("child"):
            self._error = None
            if event.get("summary") is not True:
                self._reason = text_of(part.get("reason"))
        before = self._usage.to_dict() if self._usage else None
        self._account_for(part)
        now = self._usage.to_dict() if self._usage else None
        return [Update("usage", now)] if now is not None and now != before else []

    def _account_for(self, part: _Json) -> None:
        tokens = mapping_of(part.get("tokens"))
        if number_of(tokens.get("input")) is None:
            return
        cache = mapping_of(tokens.get("cache"))
        cached = count_of(cache.get("read"))
        step = Usage(
            input_tokens=count_of(tokens.get("input")) + cached + count_of(cache.get("write")),
            output_tokens=count_of(tokens.get("output")) + count_of(tokens.get("reasoning")),
            cached_tokens=cached,
            cost_usd=number_of(part.get("cost")) or None,  # 0 where it knows no price
        )
        self._usage = self._usage + step if self._usage else step


def _retry_after(data: _Json) -> tuple[float | None, float | None]:
    """Return after how many seconds the provider, or opencode's schedule, can be asked again; or at which moment."""
    known = number_of(data.get("retryAfterS"))
    if known is not None:
        return known, None
    headers = {name.lower(): text_of(value).strip() for name, value in mapping_of(data.get("responseHeaders")).items()}
    exact, header = headers.get("retry-after-ms", ""), headers.get("retry-after", "")
    if _MILLISECONDS.fullmatch(exact):
        return float(exact) / 1000, None
    delay = _DELAY.fullmatch(header)
    if header and delay:
        hours, minutes, seconds = (float(each or 0) for each in delay.groups())
        return hours * 3600 + minutes * 60 + seconds, None
    return None, _moment(header)


def _moment(text: str) -> float | None:
    """Return the moment that an HTTP date names, in seconds since the epoch."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  # few turns fail, and fewer with a date

    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _kind_of_retry(message: str, limit: object) -> ErrorKind:
    """Return the kind of a failure that opencode retries. Its status is not told; most that say nothing are 5xx.

    `limit` is opencode's own word for a limit of its own provider, where it is one.
    """
    if text_of(limit).endswith("_limit"):  # free_tier_limit, account_rate_limit: of hours and days
        return "quota"
    tables = (_LIMITS, _QUOTAS, _MESSAGES)
    return next((kind for kind in (kind_of_message(message, table) for table in tables) if kind), "server")


def _kind_of_error(name: str, data: _Json, message: str) -> ErrorKind:
    said, status = f"{message}\n{text_of(data.get('responseBody'))}", data.get("statusCode")
    return (
        _NAMES.get(name)
        or kind_of_message(said, _LIMITS)
        or (kind_of_message(said, _QUOTAS) if status in _TOO_MANY else None)
        or kind_of_status(status)
        or kind_of_message(message, _MESSAGES)
        or "internal"
    )
