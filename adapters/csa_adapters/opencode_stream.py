"""Reads what `opencode_bridge` reports about a turn: the lines of `opencode run --format json` (1.18.33), and its own.

Traps: there is no last line, so success is a last step that ended with `stop` and exit 0; an error may be followed by
a step that succeeds (a context that overflowed is compacted); tokens and cost are per step, those of sub-agents are
reported separately; a cost of 0 may also mean a model without a price; `input` lacks the cached tokens and `output` the
reasoning; a refused tool call and a failed command look like any other at their top.
"""

from __future__ import annotations

import re
from functools import partial

from csa.model.adapter import ErrorKind, Outcome, ToolExit, TurnRequest, Update
from csa.model.resets import delay_of, retry_after
from csa.model.usage import Usage
from csa.structs import replace
from csa_adapters.decoder import StreamDecoder, describe_call, files_of, plan_update, retry_update
from csa_adapters.failures import (
    Failure,
    kind_of_message,
    kind_of_status,
    rules,
    stderr_message,
    unclean,
    unfinished,
)
from csa_adapters.jsonlines import Json, count_of, list_of, mapping_of, number_of, text_of

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
# Final reasons that are not an end, as for ACP agents.
_REASONS: dict[str, ErrorKind] = {"length": "context_overflow", "content-filter": "invalid_request"}
# The messages of error and retry events, which are the provider's own; most specific first.
_LIMITS = rules(
    (r"rate limit reached .*per (sec|min)|\((TPM|RPM)\)", "rate_limit"),  # OpenAI's, which mentions billing
    (r"insufficient_quota|current quota|usage limit|credit balance|billing|free_tier_limit|Free usage", "quota"),
    (r"hit your .{0,20}limit|(session|daily|weekly|monthly) (rate )?limit|limit reached .{0,3}resets", "quota"),
    (r"context_length_exceeded|maximum context length|context window|prompt is too long", "context_overflow"),
)
# For a request that was one too many, or not paid for; elsewhere they may mean anything.
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
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# name -> kind, and the input that distinguishes its calls
_TOOLS: dict[str, tuple[str, str]] = {
    "bash": ("execute", "command"),
    "read": ("read", "filePath"),
    "list": ("search", "path"),
    "glob": ("search", "pattern"),
    "grep": ("search", "pattern"),
    "codesearch": ("search", "query"),
    "websearch": ("search", "query"),
    "edit": ("edit", "filePath"),
    "multiedit": ("edit", "filePath"),
    "write": ("edit", "filePath"),
    "apply_patch": ("edit", ""),
    "webfetch": ("fetch", "url"),
    "task": ("think", "description"),
    "skill": ("other", "name"),
    "invalid": ("other", "tool"),  # a call of an unavailable tool
}
_describe = partial(describe_call, tools=_TOOLS, shell_tool="bash")


class OpencodeDecoder(StreamDecoder):
    """The reader of one run."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__()
        self._asked = request.provider_session_id
        self._unknown = f"Session not found: {request.conversation}"
        self._again: tuple[float | None, float | None] = None, None  # after how many seconds, or when
        self._reason = ""  # why the last step ended
        self._texts: list[str] = []  # of the last message with text
        self._text_message = ""
        self._events = {
            "session": self._ignore,
            "step_start": self._ignore,
            "step_finish": self._step_finish,
            "text": self._text_part,
            "reasoning": self._reasoning,
            "tool_use": self._tool_use,
            "permission": self._permission,
            "compaction": self._compaction,
            "retry": self._retry,
            "error": self._error_event,
        }

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        return replace(
            super().close(end),
            text="\n".join(self._texts),
            stop_reason=self._reason or None,
            retry_after_s=self._again[0] if self._error else None,
            retry_at=self._again[1] if self._error else None,
        )

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._error is not None:
            kind, message = self._error
            said = stderr_message(_COLOUR.sub("", end.stderr_tail)) if self._session is None else ""
            return kind, f"{message}: {said}" if said and kind == "spawn" else message
        if self._session is None:
            return self._without_session(end)
        if self._reason == "stop" and unclean(end) is None:
            return None
        if end.signal is None and self._reason not in ("", "stop"):
            kind = _REASONS.get(self._reason, "protocol")
            return kind, f"the last step ended with '{self._reason}' instead of 'stop'"
        return unfinished(end, "a last step")

    def _without_session(self, end: ToolExit) -> Failure:
        if stderr_message(_COLOUR.sub("", end.stderr_tail)) == self._unknown:  # as its interface says
            return "unknown_conversation", self._unknown
        return unfinished(end, "a session")

    def _identify(self, event: Json) -> list[Update]:
        """Compare the line's session with the requested one, else with the first one named, which is bound."""
        session = event.get("sessionID")
        if type(session) is not str or not session:
            return []
        wanted = self._session or self._asked
        if wanted is not None and session != wanted:
            return self._refuse(f"opencode runs session {session} instead of {wanted}")
        return self._bind(session)

    def _text_part(self, event: Json) -> list[Update]:
        part = mapping_of(event.get("part"))
        text, message = text_of(part.get("text")), text_of(part.get("messageID"))
        if message != self._text_message or not message:
            self._text_message, self._texts = message, []
        self._texts.append(text)
        return [Update("agent_message", {"text": text})]

    def _reasoning(self, event: Json) -> list[Update]:
        return [Update("agent_thought", {"text": text_of(mapping_of(event.get("part")).get("text"))})]

    def _tool_use(self, event: Json) -> list[Update]:
        part = mapping_of(event.get("part"))
        state = mapping_of(part.get("state"))
        call, name, given = text_of(part.get("callID")), text_of(part.get("tool")), mapping_of(state.get("input"))
        if name == "todowrite" and type(given.get("todos")) is list:
            return [plan_update(given["todos"])] if state.get("status") == "completed" else []
        kind, title = _describe(name, given)
        updates: list[Update] = []
        if call not in self._open:  # `run` reports a tool only when it has ended
            updates = self._begin_call(call, kind, title, **files_of(given))
        if state.get("status") in ("completed", "error"):
            updates += self._tool_end(call, title, state)
        return updates

    def _tool_end(self, call: str, title: str, state: Json) -> list[Update]:
        self._open.pop(call, None)
        problem = text_of(state.get("error"))
        code = mapping_of(state.get("metadata")).get("exit")
        failed = state.get("status") == "error" or (type(code) is int and code != 0)
        data: Json = {"id": call, "status": "failed" if failed else "completed"}
        data["content"] = text_of(state.get("output")) or problem
        if type(code) is int:
            data["exit_code"] = code
        denied = self._deny(call, title) if _REFUSED.match(problem) else []
        return [Update("tool_call_update", data), *denied]

    def _permission(self, event: Json) -> list[Update]:
        """Take a refused request; the call itself may be a sub-agent's, which is not reported."""
        patterns = " ".join(filter(None, map(text_of, list_of(event.get("patterns")))))
        title = f"{text_of(event.get('permission'))} {patterns}".strip()
        return self._deny(text_of(mapping_of(event.get("tool")).get("callID")), title)

    def _compaction(self, event: Json) -> list[Update]:
        part = mapping_of(event.get("part"))
        return [Update("compaction", {"auto": part.get("auto") is True, "overflow": part.get("overflow") is True})]

    def _retry(self, event: Json) -> list[Update]:
        message = text_of(event.get("message"))
        limit = mapping_of(event.get("action")).get("reason")
        failure: Failure = _kind_of_retry(message, limit), message
        delay_s = number_of(event.get("retry_after_s"))
        attempt, most = count_of(event.get("attempt")), count_of(event.get("max"))
        return [retry_update(failure, attempt=attempt, most=most, delay_s=delay_s)]

    def _error_event(self, event: Json) -> list[Update]:
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
        known_s = number_of(data.get("retryAfterS"))
        delay_s, moment = retry_after(mapping_of(data.get("responseHeaders"))) if known_s is None else (known_s, None)
        self._again = (delay_of(message) if delay_s is None and moment is None else delay_s), moment
        return self._fail(kind, message)

    def _step_finish(self, event: Json) -> list[Update]:
        """Add up the step. One of our own that ends after an error shows that the turn continued."""
        part = mapping_of(event.get("part"))
        if not event.get("child"):
            self._error = None
            if event.get("summary") is not True:
                self._reason = text_of(part.get("reason"))
        used = self._account_for(part)
        return [] if used == self._usage else self._use(used)

    def _account_for(self, part: Json) -> Usage | None:
        tokens = mapping_of(part.get("tokens"))
        if number_of(tokens.get("input")) is None:
            return self._usage
        cache = mapping_of(tokens.get("cache"))
        cached = count_of(cache.get("read"))
        step = Usage(
            input_tokens=count_of(tokens.get("input")) + cached + count_of(cache.get("write")),
            output_tokens=count_of(tokens.get("output")) + count_of(tokens.get("reasoning")),
            cached_tokens=cached,
            cost_usd=number_of(part.get("cost")) or None,  # 0 if it knows no price
        )
        return self._usage + step if self._usage else step


def _kind_of_retry(message: str, limit: object) -> ErrorKind:
    """Return the kind of a failure that opencode retries. Its status is not reported; most unspecific ones are 5xx.

    `limit` is opencode's name for a limit of its own provider, if it is one.
    """
    if text_of(limit).endswith("_limit"):  # free_tier_limit, account_rate_limit: of hours and days
        return "quota"
    tables = (_LIMITS, _QUOTAS, _MESSAGES)
    return next((kind for kind in (kind_of_message(message, table) for table in tables) if kind), "server")


def _kind_of_error(name: str, data: Json, message: str) -> ErrorKind:
    said, status = f"{message}\n{text_of(data.get('responseBody'))}", data.get("statusCode")
    return (
        _NAMES.get(name)
        or kind_of_message(said, _LIMITS)
        or (kind_of_message(said, _QUOTAS) if status in _TOO_MANY else None)
        or kind_of_status(status)
        or kind_of_message(message, _MESSAGES)
        or "internal"
    )
