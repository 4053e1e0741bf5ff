"""Reads `claude -p --output-format stream-json --verbose` (seen at 2.1.328): init, messages, one result line.

Traps: `subtype: success` and exit 0 both come with failures, so success is a result line, `is_error` false and exit 0
together; `type` is not the first key; every line names its session; an API error comes as an assistant message; lines
of sub-agents carry `parent_tool_use_id`; tokens are of this run but the cost is of the whole conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from csa.model.adapter import ErrorKind, Outcome, ToolExit, TurnRequest, Update
from csa.model.usage import Usage
from csa_adapters.claude_tools import describe_call, plan_entries, text_of_content
from csa_adapters.failures import ended_well, ending_message, kind_of_message, kind_of_status, rules, stderr_message
from csa_adapters.jsonlines import count_of, list_of, mapping_of, number_of, other, read_object, text_of

_Json = dict[str, Any]

# `terminal_reason`, `api_error_type`, `api_error` and `error`, where they say more than the HTTP status.
_NAMES: dict[str, ErrorKind] = {
    "prompt_too_long": "context_overflow",
    "context_length_exceeded": "context_overflow",
    "request_too_large": "context_overflow",
    "insufficient_quota": "quota",
    "usage_limit_reached": "quota",
    "billing_error": "quota",
    "authentication_error": "auth",
    "authentication_failed": "auth",
    "oauth_org_not_allowed": "auth",
    "permission_error": "auth",
    "not_found_error": "invalid_request",
    "model_not_found": "invalid_request",
    "overloaded_error": "overloaded",
    "overloaded": "overloaded",
    "connection_failed": "network",
    "timeout_error": "network",
}
_COARSE_NAMES: dict[str, ErrorKind] = {
    "rate_limit": "rate_limit",
    "server_error": "server",
    "invalid_request": "invalid_request",
}
# The texts of lines the CLI marks as API errors or error results itself.
_LIMITS = rules(
    (r"usage limit|hit your .{0,20}limit|limit reached .{0,3}resets|credit balance|current quota", "quota"),
    (r"^Prompt is too long", "context_overflow"),  # its status, 400, and type say no more than invalid_request
)
_MESSAGES = rules(
    (r"No conversation found|does not match any session|already in use|Invalid session ID", "invalid_request"),
    (r"not logged in|/login|authenticate|API key", "auth"),
    (r"too long", "context_overflow"),
    (r"ECONN|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|connection|network|timed out", "network"),
)
_STARTUP = rules(
    (r"cannot be used with root", "permission"),
    (r"No conversation found|already in use|Invalid session ID|Input must be provided", "invalid_request"),
    (r"unknown option|argument .* is invalid|requires --verbose|missing required", "invalid_request"),
    (r"not logged in|/login|Invalid API key", "auth"),
)
_EXIT_CODE = re.compile(r"Exit code (\d{1,3})\b")


class ClaudeCodeDecoder:
    """The reader of one run."""

    def __init__(self, request: TurnRequest) -> None:
        self._asked = (request.provider_session_id or request.new_provider_id).lower()
        self._resumed = request.provider_session_id is not None
        self._cost = _cost_before(request)  # of the conversation so far; None when unknown
        self._bound = False
        self._fault: str | None = None
        self._result: _Json | None = None
        self._error: tuple[ErrorKind, str] | None = None  # the last API error line
        self._text = ""
        self._usage: Usage | None = None
        self._open: dict[str, str] = {}  # the titles of tool calls begun and not ended
        self._plans: set[str] = set()  # open calls that were told as plans
        self._denied: dict[str, str] = {}
        self._events: dict[str, Callable[[_Json], list[Update] | None]] = {
            "system": self._system,
            "assistant": self._assistant,
            "user": self._user,
            "result": self._result_line,
        }
        self._notices: dict[str, Callable[[_Json], list[Update]]] = {
            "init": self._nothing,
            "status": self._status,
            "thinking_tokens": self._nothing,
            "compact_boundary": self._compaction,
            "api_retry": self._retry,
            "permission_denied": self._permission_denied,
        }
        self._blocks: dict[str, Callable[[_Json, str], list[Update]]] = {
            "text": self._text_block,
            "thinking": self._thinking_block,
            "tool_use": self._tool_block,
            "server_tool_use": self._tool_block,
            "mcp_tool_use": self._tool_block,
            "web_search_tool_result": self._result_block,
            "mcp_tool_result": self._result_block,
        }

    @property
    def is_finished(self) -> bool:
        """Whether a result line was read."""
        return self._result is not None

    @property
    def fault(self) -> str | None:
        """Why this is not the session that was asked for."""
        return self._fault

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
        stop_reason = text_of(self._result.get("stop_reason")) if self._result else ""
        return Outcome(
            succeeded=kind is None,
            text=self._text,
            stop_reason=stop_reason or None,
            error_kind=kind,
            error_message=message,
            usage=self._usage,
            totals=self._totals(),
            denied=tuple(self._denied.values()),
        )

    def _totals(self) -> dict[str, float] | None:
        """Return the conversation's cost, also of a run that said nothing of it: so far is still so far."""
        exists = self._bound or self._resumed
        return {"cost_usd": self._cost} if exists and self._cost is not None else None

    def _verdict(self, end: ToolExit) -> tuple[ErrorKind | None, str | None]:
        if self._fault is not None:
            return "protocol", self._fault
        if self._result is None:
            return self._unfinished(end)
        if self._result.get("is_error") is not False:
            return self._failure(self._result)
        if not self._bound:
            return "protocol", "claude did not name the session of this run"
        return (None, None) if ended_well(end) else ("internal", ending_message(end, "a clean exit"))

    def _unfinished(self, end: ToolExit) -> tuple[ErrorKind, str]:
        """Judge an end without a result line: SIGINT gives one with exit 0, a refused start one with empty stdout."""
        if self._error is not None:
            return self._error
        said = stderr_message(end.stderr_tail)
        kind = kind_of_message(said, _STARTUP) if not self._bound and end.signal is None else None
        if kind is not None:
            return kind, said
        return "internal" if end.signal is not None else "protocol", ending_message(end, "a result line")

    def _failure(self, result: _Json) -> tuple[ErrorKind, str]:
        said = text_of(result.get("result")) or "; ".join(filter(None, map(text_of, list_of(result.get("errors")))))
        message = said or text_of(result.get("terminal_reason")) or text_of(result.get("subtype")) or "the turn failed"
        if self._error is not None and self._error[1] == said:
            return self._error
        return _kind([result.get("terminal_reason")], result.get("api_error_status"), message), message

    def _identify(self, event: _Json) -> list[Update]:
        """Compare the line's own session with the one asked for; bind at the first that is not a failure's."""
        session = event.get("session_id")
        if type(session) is not str:
            return []
        if session.lower() != self._asked:
            self._fault = self._fault or f"claude runs session {session} instead of {self._asked}"
            return [Update("error", {"kind": "protocol", "message": self._fault})]
        if self._bound or event.get("is_error") is True:
            return []
        self._bound = True
        data: _Json = {"provider_session_id": session}
        if text_of(event.get("model")):
            data["model"] = event["model"]
        return [Update("session_bound", data)]

    def _system(self, event: _Json) -> list[Update] | None:
        handler = self._notices.get(text_of(event.get("subtype")))
        return handler(event) if handler else None

    def _nothing(self, _event: _Json) -> list[Update]:
        """Tell nothing: what init says is told by session_bound, the rest is progress."""
        return []

    def _status(self, event: _Json) -> list[Update]:
        if event.get("compact_result") == "failed":
            message = text_of(event.get("compact_error")) or "compaction failed"
            return [Update("warning", {"message": message})]
        return []  # what came of a compaction that succeeded is told by its boundary

    def _compaction(self, event: _Json) -> list[Update]:
        return [Update("compaction", dict(mapping_of(event.get("compact_metadata"))))]

    def _retry(self, event: _Json) -> list[Update]:
        name, status = text_of(event.get("error")), event.get("error_status")
        kind = _kind([name], status, "") if status is not None or name != "unknown" else "network"
        message = f"{name or 'retry'} (status {status})" if status is not None else "no answer from the provider"
        data: _Json = {"kind": kind, "message": message}
        data |= {"attempt": count_of(event.get("attempt")), "max": count_of(event.get("max_retries"))}
        delay = number_of(event.get("retry_delay_ms"))
        if delay is not None:
            data["retry_after_s"] = delay / 1000
        return [Update("retry", data)]

    def _permission_denied(self, event: _Json) -> list[Update]:
        return self._deny(text_of(event.get("tool_use_id")), text_of(event.get("tool_name")))

    def _deny(self, call: str, title: str) -> list[Update]:
        if call in self._denied:
            return []
        self._denied[call] = self._open.get(call) or title
        return [Update("permission", {"id": call, "title": self._denied[call], "status": "denied"})]

    def _assistant(self, event: _Json) -> list[Update] | None:
        message = mapping_of(event.get("message"))
        blocks = message.get("content")
        if event.get("is_api_error_message") is True or text_of(event.get("error")):
            return self._api_error(event, text_of_content(blocks))
        parent = text_of(event.get("parent_tool_use_id"))
        updates: list[Update] = []
        for block in list_of(blocks):
            handler = self._blocks.get(text_of(mapping_of(block).get("type")))
            updates += handler(block, parent) if handler else [Update("other", {"raw": block})]
        return updates

    def _api_error(self, event: _Json, message: str) -> list[Update]:
        names = [event.get("api_error_type"), event.get("api_error"), event.get("error")]
        message = message or f"the provider failed: {next(filter(None, map(text_of, names)), 'it did not say why')}"
        self._error = _kind(names, event.get("api_error_status"), message), message
        return [Update("error", {"kind": self._error[0], "message": message})]

    def _text_block(self, block: _Json, parent: str) -> list[Update]:
        text = text_of(block.get("text"))
        if parent:  # a sub-agent's word is its call's progress, not this turn's answer
            return [Update("tool_call_update", {"id": parent, "status": "in_progress", "content": text})]
        self._text = text
        return [Update("agent_message", {"text": text})]

    def _thinking_block(self, block: _Json, parent: str) -> list[Update]:
        data = {"text": text_of(block.get("thinking"))}
        return [Update("agent_thought", {**data, "parent_id": parent} if parent else data)]

    def _tool_block(self, block: _Json, parent: str) -> list[Update]:
        call, name, given = text_of(block.get("id")), text_of(block.get("name")), mapping_of(block.get("input"))
        entries = plan_entries(name, given)
        if entries is not None and not parent:
            self._plans.add(call)
            return [Update("plan", {"entries": entries})]
        kind, title = describe_call(name, given)
        self._open[call] = title
        data = {"id": call, "title": title, "kind": kind, "status": "in_progress"}
        return [Update("tool_call", {**data, "parent_id": parent} if parent else data)]

    def _result_block(self, block: _Json, _parent: str) -> list[Update]:
        call = text_of(block.get("tool_use_id"))
        failed = block.get("is_error") is True
        if call in self._plans:
            self._plans.discard(call)
            if not failed:
                return []
        self._open.pop(call, None)
        content = text_of_content(block.get("content"))
        data: _Json = {"id": call, "status": "failed" if failed else "completed", "content": content}
        code = _EXIT_CODE.match(content) if failed else None
        if code:
            data["exit_code"] = int(code.group(1))
        return [Update("tool_call_update", data)]

    def _user(self, event: _Json) -> list[Update] | None:
        blocks = list_of(mapping_of(event.get("message")).get("content"))
        results = [block for block in blocks if mapping_of(block).get("type") == "tool_result"]
        if not results:  # what the CLI tells the model itself: an interruption, a sub-agent's task, a summary
            return None
        return [update for block in results for update in self._result_block(block, "")]

    def _result_line(self, event: _Json) -> list[Update] | None:
        updates: list[Update] = []
        for denial in map(mapping_of, list_of(event.get("permission_denials"))):
            _, title = describe_call(text_of(denial.get("tool_name")), mapping_of(denial.get("tool_input")))
            updates += self._deny(text_of(denial.get("tool_use_id")), title)
        self._result = event
        if event.get("is_error") is False:
            self._text = text_of(event.get("result")) or self._text
        else:
            kind, message = self._failure(event)
            if self._error is None or self._error[1] != message:
                updates.append(Update("error", {"kind": kind, "message": message}))
        self._account_for(event)
        if self._usage is not None:
            updates.append(Update("usage", self._usage.to_dict()))
        return updates

    def _account_for(self, event: _Json) -> None:
        """Take the tokens, which are of this run, and the cost, which is of the conversation."""
        reported = mapping_of(event.get("usage"))
        if not self._bound or number_of(reported.get("input_tokens")) is None:
            return  # an unknown session's result counts 0, as if the conversation had cost nothing so far
        cost, before = number_of(event.get("total_cost_usd")), self._cost
        spent = None if cost is None or before is None else round(cost - before, 6)
        cached = count_of(reported.get("cache_read_input_tokens"))
        fresh = count_of(reported.get("input_tokens")) + count_of(reported.get("cache_creation_input_tokens"))
        self._cost = before if cost is None else cost
        self._usage = Usage(
            input_tokens=fresh + cached,
            output_tokens=count_of(reported.get("output_tokens")),
            cached_tokens=cached,
            cost_usd=spent if spent is not None and spent >= 0 else None,
        )


def _cost_before(request: TurnRequest) -> float | None:
    """Return the conversation's cost before this run; None when unknown: a resume of what csa has no figures for.

    A fork begins with what the conversation it is a copy of has cost (2.1.328).
    """
    if request.provider_session_id is None and request.fork_of is None:
        return 0.0
    return number_of((request.previous_totals or {}).get("cost_usd"))


def _kind(names: list[Any], status: Any, message: str) -> ErrorKind:
    """Return the kind of a failure: exact names say most, then the status, then coarse names, then the words."""
    texts = [text_of(name) for name in names]
    named = next((_NAMES[text] for text in texts if text in _NAMES), None)
    coarse = next((_COARSE_NAMES[text] for text in texts if text in _COARSE_NAMES), None)
    return (
        kind_of_message(message, _LIMITS)
        or named
        or kind_of_status(status)
        or coarse
        or kind_of_message(message, _MESSAGES)
        or "internal"
    )


def kind_of_failure(message: str) -> ErrorKind:
    """Return the kind of a failure of which the CLI tells only a message."""
    return _kind([], None, message)
