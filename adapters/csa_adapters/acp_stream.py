"""Reads what `acp_bridge` writes: `agent`, `session`, then `update` and `permission` lines, and `finished` or `failed`.

Traps: a stop reason other than `end_turn` is not success; codex-acp also sends `end_turn` if the provider failed, and
reports it only to clients that ask for its `sessionFailure`; text comes in chunks, and the answer is the last message;
an agent that is denied something may end the turn silently; input tokens are reported without the cached ones;
output of a command comes between two chunks of one message; a blank message comes after the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from csa.model.adapter import Outcome, StderrReader, ToolExit, TurnRequest, Update
from csa.model.usage import Usage
from csa.structs import replace
from csa_adapters.acp_calls import Calls, text_of_block
from csa_adapters.acp_failures import STOPS, explain_exit, read_failure, read_session_failure
from csa_adapters.decoder import StreamDecoder, asked_of, error_update, plan_update, retry_update, warning_update
from csa_adapters.failures import Failure, unclean, unfinished
from csa_adapters.jsonlines import Json, count_of, mapping_of, number_of, text_of

_ATTEMPT = re.compile(r"\b(\d{1,9})/(\d{1,9})\b")
_SILENT = ("user_message_chunk", "available_commands_update", "current_mode_update", "config_option_update")


class AcpDecoder(StreamDecoder):
    """The reader of one run."""

    _reads_on = True

    def __init__(self, request: TurnRequest, stderr: StderrReader | None = None) -> None:
        super().__init__()
        self._stderr = stderr  # of the native adapter: it may report retries there in this way too
        self._asked = request.provider_session_id
        self._cost_before = _cost_before(request)
        self._had_totals = request.previous_totals is not None
        self._stop: str | None = None
        self._agent_ended = False  # by itself, in the middle of the turn
        self._message: list[str] = []  # the chunks of the current message
        self._said = ""  # the last message before it that was not blank
        self._message_id: object = None
        self._message_ended = False
        self._cost: float | None = None  # of the conversation so far
        self._calls = Calls()
        self._silenced_by: str | None = None  # the denial after which nothing happened
        self._events = {
            "agent": self._ignore,
            "session": self._session_line,
            "update": self._update_line,
            "permission": self._permission_line,
            "notice": lambda line: [warning_update(text_of(line.get("message")))],
            "stray": lambda line: [Update("other", {"raw": text_of(line.get("text"))})],
            "finished": self._finished_line,
            "failed": self._failed_line,
        }
        self._updates: dict[str, Callable[[Json], list[Update]]] = {
            "agent_message_chunk": self._message_chunk,
            "agent_thought_chunk": self._thought_chunk,
            "tool_call": self._tool_call,
            "tool_call_update": self._tool_call_update,
            "plan": self._plan,
            "usage_update": self._usage_update,
            "session_info_update": self._session_info,
            "notice": self._notice,
            "compaction_update": self._compaction,
            **dict.fromkeys(_SILENT, self._ignore),
        }

    @property
    def is_finished(self) -> bool:
        """Whether the bridge has reported the end of the turn."""
        return self._stop is not None or self._error is not None

    def feed_stderr(self, line: bytes) -> list[Update]:
        """Take one line of stderr."""
        return self._stderr.feed_stderr(line) if self._stderr else []

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        return replace(super().close(end), text=self._answer(), stop_reason=self._stop, totals=self._totals())

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._error is not None:
            return explain_exit(self._error, end.stderr_tail) if self._agent_ended else self._error
        if self._stop is None:
            return unfinished(end, "an end of the turn")
        if self._stop != "end_turn":
            return STOPS.get(self._stop) or ("protocol", f"the turn ended with '{self._stop}'")
        return unclean(end)

    def _totals(self) -> dict[str, float] | None:
        """Return the cost so far. This run has made other totals stale, so their adapter gets none."""
        if self._cost is not None:
            return {"cost_usd": self._cost}
        return {} if self._had_totals else None

    # Lines of the bridge

    def _session_line(self, line: Json) -> list[Update]:
        session = text_of(line.get("session_id"))
        if self._asked is not None and session != self._asked:
            return self._refuse(f"the agent runs session {session} instead of {self._asked}")
        return self._bind(session) if session else []

    def _update_line(self, line: Json) -> list[Update]:
        update = mapping_of(line.get("update"))
        if line.get("session_id") not in (None, self._session):
            return [Update("other", {"raw": line})]  # a sub-agent's
        handler = self._updates.get(text_of(update.get("sessionUpdate")))
        return handler(update) if handler else [Update("other", {"raw": update})]

    def _permission_line(self, line: Json) -> list[Update]:
        call = mapping_of(line.get("tool_call"))
        name = text_of(call.get("toolCallId"))
        told = self._calls.tell(name, text_of(call.get("kind")))
        title = text_of(call.get("title")) or self._calls.title_of(name)
        if line.get("pending") is True:
            return [*told, Update("permission", {"id": name, "title": title, "status": "pending", **asked_of(line)})]
        status = "allowed" if line.get("allowed") is True else "denied"
        if status == "denied":
            self._denied[name] = self._silenced_by = title
        return [*told, Update("permission", {"id": name, "title": title, "status": status, **asked_of(line)})]

    def _finished_line(self, line: Json) -> list[Update]:
        result = mapping_of(line.get("result"))
        updates = self._calls.flush() + self._use(self._usage_of(result) or self._usage)
        failure = _session_failure(result)
        if failure and failure.get("severity") != "warning":
            return updates + self._fail(*read_session_failure(failure))
        self._stop = text_of(result.get("stopReason")) or "unknown"
        if self._stop == "end_turn" and self._silenced_by is not None:  # opencode stops where it is denied something
            return updates + self._fail("permission", f"the agent gave up when it was denied: {self._silenced_by}")
        return updates

    def _failed_line(self, line: Json) -> list[Update]:
        self._agent_ended = "exit" in line
        return self._calls.flush() + self._fail(*read_failure(line, self._asked))

    # Updates of the agent

    def _message_chunk(self, update: Json) -> list[Update]:
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

    def _thought_chunk(self, update: Json) -> list[Update]:
        self._message_ended = True
        text = text_of_block(update.get("content"))
        return [Update("agent_thought", {"text": text, "chunk": True})] if text else []

    def _tool_call(self, update: Json) -> list[Update]:
        self._message_ended = self._message_ended or not self._calls.knows(update)
        return self._calls.begin(update)

    def _tool_call_update(self, update: Json) -> list[Update]:
        self._message_ended = self._message_ended or not self._calls.knows(update)
        if update.get("status") == "completed":
            self._silenced_by = None
        return self._calls.go_on(update)

    def _plan(self, update: Json) -> list[Update]:
        return [plan_update(update.get("entries"))]

    def _usage_update(self, update: Json) -> list[Update]:
        cost = mapping_of(update.get("cost"))
        if text_of(cost.get("currency")) not in ("USD", "") or number_of(cost.get("amount")) is None:
            return []
        self._cost = number_of(cost.get("amount"))
        spent = self._spent()
        if not spent or (self._usage and spent == self._usage.cost_usd):
            return []
        return self._use(Usage(cost_usd=spent))  # tokens are reported at the end

    def _session_info(self, update: Json) -> list[Update]:
        """Report codex-acp's retries; titles and states do not belong in the transcript."""
        failure = _session_failure(update)
        if not failure:
            return []
        told = read_session_failure(failure)
        if failure.get("severity") != "warning":
            return [error_update(told)]
        count = _ATTEMPT.search(told[1])
        attempt, most = map(int, count.groups()) if count else (None, None)
        return [retry_update(told, attempt=attempt, most=most)]

    def _notice(self, update: Json) -> list[Update]:
        words = (text_of(update.get("title")), text_of(update.get("description")))
        return [warning_update(": ".join(filter(None, words)))]

    def _compaction(self, update: Json) -> list[Update]:
        status = text_of(update.get("status"))
        if status == "completed":
            return [Update("compaction", {"id": text_of(update.get("compactionId")), "status": status})]
        return [warning_update("the compaction failed")] if status == "failed" else []

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
    """Return the input tokens, including cached ones, and the output tokens, including thoughts.

    Agents count cached tokens apart from the input or in it, and thoughts apart from the output (opencode) or in
    it (codex); their total shows which.
    """
    fresh, said, total = (count_of(told.get(key)) for key in ("inputTokens", "outputTokens", "totalTokens"))
    kept = count_of(told.get("cachedReadTokens")) + count_of(told.get("cachedWriteTokens"))
    thought = count_of(told.get("thoughtTokens"))
    ways = [(used, out) for used in (fresh + kept, fresh) for out in (said + thought, said)]
    unclear = (fresh + kept if fresh + kept + said <= total else fresh, said + thought)
    return next((way for way in ways if sum(way) == total), unclear)


def _cost_before(request: TurnRequest) -> float | None:
    """Return the conversation's cost before this run; None if unknown."""
    if request.provider_session_id is None:
        return 0.0
    return number_of((request.previous_totals or {}).get("cost_usd"))


def _session_failure(holder: Mapping[str, Any]) -> Json:
    air = mapping_of(mapping_of(mapping_of(holder.get("_meta")).get("jetbrains")).get("air"))
    return mapping_of(air.get("sessionFailure"))
