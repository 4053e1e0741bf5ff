"""Reads what `acp_bridge` writes: `agent`, `session`, then `update` and `permission` lines, and `finished` or `failed`.

Traps: a stop reason other than `end_turn` is no success; codex-acp says `end_turn` also when the provider failed, and
tells that only to clients that ask for its `sessionFailure`; text comes in chunks, and the answer is the last message;
an agent that is denied something may end the turn without a word; input tokens are told without the cached ones;
output of a command comes between two chunks of one message; a blank message comes after the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from csa.model.adapter import ErrorKind, Outcome, StderrReader, ToolExit, TurnRequest, Update
from csa.model.usage import Usage
from csa_adapters.acp_calls import Calls, text_of_block
from csa_adapters.acp_failures import STOPS, explain_exit, read_failure, read_session_failure
from csa_adapters.failures import ended_well, ending_message
from csa_adapters.jsonlines import count_of, list_of, mapping_of, number_of, other, read_object, text_of

_Json = dict[str, Any]

_PLAN_STATUSES = frozenset({"pending", "in_progress", "completed"})
_ATTEMPT = re.compile(r"\b(\d{1,9})/(\d{1,9})\b")
_SILENT = ("user_message_chunk", "available_commands_update", "current_mode_update", "config_option_update")


class AcpDecoder:
    """The reader of one run."""

    def __init__(self, request: TurnRequest, stderr: StderrReader | None = None) -> None:
        self._stderr = stderr  # of the tool's own adapter: it may tell of retries there in this way too
        self._asked = request.provider_session_id
        self._cost_before = _cost_before(request)
        self._had_totals = request.previous_totals is not None
        self._session: str | None = None
        self._fault: str | None = None
        self._stop: str | None = None
        self._failure: tuple[ErrorKind, str] | None = None
        self._agent_ended = False  # by itself, in the middle of the turn
        self._message: list[str] = []  # the chunks of the message that is being said
        self._said = ""  # the last message before it that was not blank
        self._message_id: object = None
        self._message_ended = False
        self._usage: Usage | None = None
        self._cost: float | None = None  # of the conversation so far
        self._calls = Calls()
        self._denied: dict[str, str] = {}
        self._silenced_by: str | None = None  # the denial after which nothing was said or done
        self._lines: dict[str, Callable[[_Json], list[Update]]] = {
            "agent": lambda _line: [],
            "session": self._session_line,
            "update": self._update_line,
            "permission": self._permission_line,
            "notice": lambda line: [_warning(text_of(line.get("message")))],
            "stray": lambda line: [Update("other", {"raw": text_of(line.get("text"))})],
            "finished": self._finished_line,
            "failed": self._failed_line,
        }
        self._updates: dict[str, Callable[[_Json], list[Update]]] = {
            "agent_message_chunk": self._message_chunk,
            "agent_thought_chunk": self._thought_chunk,
            "tool_call": self._tool_call,
            "tool_call_update": self._tool_call_update,
            "plan": self._plan,
            "usage_update": self._usage_update,
            "session_info_update": self._session_info,
            "notice": self._notice,
            "compaction_update": self._compaction,
            **dict.fromkeys(_SILENT, lambda _update: []),
        }

    @property
    def is_finished(self) -> bool:
        """Whether the bridge has told the end of the turn."""
        return self._stop is not None or self._failure is not None

    @property
    def fault(self) -> str | None:
        """Why this is not the conversation that was asked for."""
        return self._fault

    def feed(self, line: bytes) -> list[Update]:
        """Take one line."""
        event = read_object(line)
        if event is None:
            return other(line)
        handler = self._lines.get(text_of(event.get("type")))
        return handler(event) if handler else other(line, event)

    def feed_stderr(self, line: bytes) -> list[Update]:
        """Take one line of stderr."""
        return self._stderr.feed_stderr(line) if self._stderr else []

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        kind, message = self._verdict(end)
        return Outcome(
            succeeded=kind is None,
            text=self._answer(),
            stop_reason=self._stop,
            error_kind=kind,
            error_message=message,
            usage=self._usage,
            totals=self._totals(),
            denied=tuple(self._denied.values()),
        )

    def _verdict(self, end: ToolExit) -> tuple[ErrorKind | None, str | None]:
        if self._fault is not None:
            return "protocol", self._fault
        if self._failure is not None:
            return explain_exit(self._failure, end.stderr_tail) if self._agent_ended else self._failure
        if self._stop is None:
            return "internal" if end.signal is not None else "protocol", ending_message(end, "an end of the turn")
        if self._stop != "end_turn":
            return STOPS.get(self._stop) or ("protocol", f"the turn ended with '{self._stop}'")
        return (None, None) if ended_well(end) else ("internal", ending_message(end, "a clean exit"))

    def _totals(self) -> dict[str, float] | None:
        """Return the cost so far. Other totals this run has made stale: their adapter then knows that it knows none."""
        if self._cost is not None:
            return {"cost_usd": self._cost}
        return {} if self._had_totals else None

    # Lines of the bridge

    def _session_line(self, line: _Json) -> list[Update]:
        session = text_of(line.get("session_id"))
        if self._asked is not None and session != self._asked:
            self._fault = f"the agent runs session {session} instead of {self._asked}"
            return [Update("error", {"kind": "protocol", "message": self._fault})]
        if not session or self._session is not None:
            return []
        self._session = session
        return [Update("session_bound", {"provider_session_id": session})]

    def _update_line(self, line: _Json) -> list[Update]:
        update = mapping_of(line.get("update"))
        if line.get("session_id") not in (None, self._session):
            return [Update("other", {"raw": line})]  # a sub-agent's
        handler = self._updates.get(text_of(update.get("sessionUpdate")))
        return handler(update) if handler else [Update("other", {"raw": update})]

    def _permission_line(self, line: _Json) -> list[Update]:
        call = mapping_of(line.get("tool_call"))
        name = text_of(call.get("toolCallId"))
        told = self._calls.tell(name, text_of(call.get("kind")))
        title = text_of(call.get("title")) or self._calls.title_of(name)
        status = "allowed" if line.get("allowed") is True else "denied"
        if status == "denied":
            self._denied[name] = self._silenced_by = title
        return [*told, Update("permission", {"id": name, "title": title, "status": status})]

    def _finished_line(self, line: _Json) -> list[Update]:
        result = mapping_of(line.get("result"))
        self._usage = self._usage_of(result) or self._usage
        updates = self._calls.flush() + ([Update("usage", self._usage.to_dict())] if self._usage else [])
        failure = _session_failure(result)
        if failure and failure.get("severity") != "warning":
            return updates + self._fail(read_session_failure(failure))
        self._stop = text_of(result.get("stopReason")) or "unknown"
        if self._stop == "end_turn" and self._silenced_by is not None:  # opencode stops where it is denied something
            return updates + self._fail(("permission", f"the agent gave up when it was denied: {self._silenced_by}"))
        return updates

    def _failed_line(self, line: _Json) -> list[Update]:
        self._agent_ended = "exit" in line
        return self._calls.flush() + self._fail(read_failure(line, self._asked))

    def _fail(self, failure: tuple[ErrorKind, str]) -> list[Update]:
        self._failure = failure
        return [Update("error", {"kind": failure[0], "message": failure[1]})]

    # Updates of the agent

    def _message_chunk(self, update: _Json) -> list[Update]:
        """Add to the message, or begin another: with a new id, or, without ids, after a new call or a thought."""
        text, number = text_of_block(update.get("content")), update.get("messageId")
        if number != self._message_id or (self._message_ended and number is None):
            self._said = self._answer()
            self._message = []
        self._message_ended, self._message_id = False, number
        self._message.append(text)
        self._silenced_by = None
        return [Update("agent_message", {"text": text, "chunk": True})] if text else []

    def _answer(self) -> str:
        """Return the last message that is not blank."""
        text = "".join(self._message)
        return text if text.strip() else self._said

    def _thought_chunk(self, update: _Json) -> list[Update]:
        self._message_ended = True
        text = text_of_block(update.get("content"))
        return [Update("agent_thought", {"text": text, "chunk": True})] if text else []

    def _tool_call(self, update: _Json) -> list[Update]:
        self._message_ended = self._message_ended or not self._calls.knows(update)
        return self._calls.begin(update)

    def _tool_call_update(self, update: _Json) -> list[Update]:
        self._message_ended = self._message_ended or not self._calls.knows(update)
        if update.get("status") == "completed":
            self._silenced_by = None
        return self._calls.go_on(update)

    def _plan(self, update: _Json) -> list[Update]:
        entries = [entry for entry in map(mapping_of, list_of(update.get("entries"))) if entry]
        return [Update("plan", {"entries": [_plan_entry(entry) for entry in entries]})]

    def _usage_update(self, update: _Json) -> list[Update]:
        cost = mapping_of(update.get("cost"))
        if text_of(cost.get("currency")) not in ("USD", "") or number_of(cost.get("amount")) is None:
            return []
        self._cost = number_of(cost.get("amount"))
        spent = self._spent()
        if not spent or (self._usage and spent == self._usage.cost_usd):
            return []
        self._usage = Usage(cost_usd=spent)  # tokens are told at the end
        return [Update("usage", self._usage.to_dict())]

    def _session_info(self, update: _Json) -> list[Update]:
        """Tell codex-acp's retries; titles and states are not the transcript's."""
        failure = _session_failure(update)
        if not failure:
            return []
        kind, message = read_session_failure(failure)
        if failure.get("severity") != "warning":
            return [Update("error", {"kind": kind, "message": message})]
        data: _Json = {"kind": kind, "message": message}
        count = _ATTEMPT.search(message)
        if count:
            data |= {"attempt": int(count.group(1)), "max": int(count.group(2))}
        return [Update("retry", data)]

    def _notice(self, update: _Json) -> list[Update]:
        words = (text_of(update.get("title")), text_of(update.get("description")))
        return [_warning(": ".join(filter(None, words)))]

    def _compaction(self, update: _Json) -> list[Update]:
        status = text_of(update.get("status"))
        if status == "completed":
            return [Update("compaction", {"id": text_of(update.get("compactionId")), "status": status})]
        return [_warning("the compaction failed")] if status == "failed" else []

    def _usage_of(self, result: Mapping[str, Any]) -> Usage | None:
        told = mapping_of(result.get("usage"))
        if number_of(told.get("inputTokens")) is not None:
            used, said = _tokens_of(told)
            return Usage(used, said, count_of(told.get("cachedReadTokens")), self._spent())
        counts = mapping_of(mapping_of(mapping_of(result.get("_meta")).get("quota")).get("token_count"))
        if number_of(counts.get("input_tokens")) is None:
            return None
        return Usage(count_of(counts["input_tokens"]), count_of(counts.get("output_tokens")), 0, self._spent())

    def _spent(self) -> float | None:
        if self._cost is None or self._cost_before is None:
            return None
        spent = round(self._cost - self._cost_before, 6)
        return spent if spent >= 0 else None


def _tokens_of(told: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens that went in, with cached ones, and came out, with thoughts.

    Agents count cached tokens apart from the input or with it, and thoughts apart from the output (opencode) or with it
    (codex); their total tells which.
    """
    fresh, said, total = (count_of(told.get(key)) for key in ("inputTokens", "outputTokens", "totalTokens"))
    kept = count_of(told.get("cachedReadTokens")) + count_of(told.get("cachedWriteTokens"))
    thought = count_of(told.get("thoughtTokens"))
    ways = [(used, out) for used in (fresh + kept, fresh) for out in (said + thought, said)]
    unclear = (fresh + kept if fresh + kept + said <= total else fresh, said + thought)
    return next((way for way in ways if sum(way) == total), unclear)


def _cost_before(request: TurnRequest) -> float | None:
    """Return the conversation's cost before this run; None when unknown."""
    if request.provider_session_id is None:
        return 0.0
    return number_of((request.previous_totals or {}).get("cost_usd"))


def _warning(message: str) -> Update:
    return Update("warning", {"message": message})


def _session_failure(holder: Mapping[str, Any]) -> _Json:
    air = mapping_of(mapping_of(mapping_of(holder.get("_meta")).get("jetbrains")).get("air"))
    return mapping_of(air.get("sessionFailure"))


def _plan_entry(entry: _Json) -> dict[str, str]:
    status = text_of(entry.get("status"))
    return {"content": text_of(entry.get("content")), "status": status if status in _PLAN_STATUSES else "pending"}
