"""Reads `claude -p --output-format stream-json --verbose` (seen at 2.1.328): init, messages, one result line.

Traps: `subtype: success` and exit 0 both come with failures, so success is a result line, `is_error` false and exit 0
together; `type` is not the first key; every line names its session; an API error comes as an assistant message; lines
of sub-agents carry `parent_tool_use_id`.

A result need not be the end. Background commands and sub-agents keep the process running; each one's end wakes
the agent for more work, and another result. After a turn that was killed meanwhile, a result of zero turns comes for
those that were lost, before the prompt's own. So the last result counts, if no work of the agent's own came after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from csa.model.adapter import ErrorKind, Outcome, ToolExit, TurnRequest, Update
from csa.structs import replace
from csa_adapters.claude_failures import STARTUP, broken_off, kind_of
from csa_adapters.claude_usage import ClaudeUsage
from csa_adapters.decoder import (
    StreamDecoder,
    describe_call,
    error_update,
    files_of,
    plan_update,
    retry_update,
    warning_update,
)
from csa_adapters.failures import Failure, kind_of_message, stderr_message, unclean, unfinished
from csa_adapters.jsonlines import Json, count_of, list_of, mapping_of, number_of, text_of

_NAMED_BY = ("terminal_reason", "startup_failure_reason", "api_error", "api_error_type")
# name -> kind, and the input that tells one call from another
_TOOLS: dict[str, tuple[str, str]] = {
    "Bash": ("execute", "command"),
    "BashOutput": ("execute", "bash_id"),
    "KillShell": ("execute", "shell_id"),
    "Read": ("read", "file_path"),
    "NotebookRead": ("read", "notebook_path"),
    "LS": ("search", "path"),
    "Glob": ("search", "pattern"),
    "Grep": ("search", "pattern"),
    "WebSearch": ("search", "query"),
    "web_search": ("search", "query"),
    "ToolSearch": ("search", "query"),
    "Edit": ("edit", "file_path"),
    "MultiEdit": ("edit", "file_path"),
    "Write": ("edit", "file_path"),
    "NotebookEdit": ("edit", "notebook_path"),
    "WebFetch": ("fetch", "url"),
    "Task": ("think", "description"),
    "Agent": ("think", "description"),
    "TaskCreate": ("think", "subject"),
    "TaskUpdate": ("think", "taskId"),
    "TaskGet": ("think", "taskId"),
    "TaskList": ("think", ""),
    "TodoWrite": ("think", ""),
    "ExitPlanMode": ("think", ""),
    "Skill": ("other", "skill"),
}
_describe = partial(describe_call, tools=_TOOLS, shell_tool="Bash")
_EXIT_CODE = re.compile(r"Exit code (\d{1,3})\b")


class ClaudeCodeDecoder(StreamDecoder):
    """The reader of one run."""

    def __init__(self, request: TurnRequest) -> None:
        super().__init__()
        self._asked = (request.provider_session_id or request.new_provider_id).lower()
        self._resumed = request.provider_session_id is not None
        self._unknown = f"No conversation found with session ID: {request.conversation}"
        self._result: Json | None = None  # the prompt's last
        self._is_working = False  # the agent has gone on since then
        self._is_stirring = False  # ... or its helpers have, so it may
        self._tasks: tuple[str, ...] = ()  # what runs in the background
        self._blocked: tuple[str, str] | None = None  # how a hook blocked the prompt, and its message
        self._resets_at: float | None = None  # when the last used-up quota resets
        self._used = ClaudeUsage(request)
        self._plans: set[str] = set()  # open calls that were told as plans
        self._answer_tool = None if request.schema is None else "StructuredOutput"  # its input is the answer
        self._answers: set[str] = set()  # open calls of it
        self._events = {
            "system": self._system,
            "assistant": self._assistant,
            "user": self._user,
            "result": self._result_line,
            "rate_limit_event": self._rate_limit,
        }
        self._notices: dict[str, Callable[[Json], list[Update] | None]] = {
            "init": self._begin,
            "status": self._status,
            "thinking_tokens": self._ignore,
            "compact_boundary": self._compaction,
            "api_retry": self._retry,
            "permission_denied": self._permission_denied,
            "informational": self._informational,
            "background_tasks_changed": self._tasks_changed,
            "task_notification": self._task_ended,
        }
        self._blocks: dict[str, Callable[[Json, str], list[Update]]] = {
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
        """Whether the prompt has a result after which nothing continued, and nothing is running in the background."""
        return self.has_answered and not self._is_stirring and not self._tasks

    @property
    def has_answered(self) -> bool:
        """Whether the prompt has a result after which its agent has done nothing."""
        return self._result is not None and not self._is_working

    @property
    def background(self) -> tuple[str, ...]:
        """What is running in the background."""
        return self._tasks

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        outcome = super().close(end)
        return replace(
            outcome,
            stop_reason=text_of(mapping_of(self._result).get("stop_reason")) or None,
            retry_at=self._resets_at if outcome.error_kind in {"quota", "rate_limit"} else None,
            totals=self._totals(),
        )

    def _totals(self) -> dict[str, float] | None:
        """Return the conversation's cost; a run that does not report it has not changed it."""
        exists, cost = self._session is not None or self._resumed, self._used.cost
        return {"cost_usd": cost} if exists and cost is not None else None

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._result is None or self._is_working:
            return self._unfinished(end)
        if (cause := self._cause(self._result)) is not None:
            return cause
        if self._session is None:
            return "protocol", "claude did not name the session of this run"
        return unclean(end)

    def _cause(self, result: Json) -> Failure | None:
        """Return why the result is not that of a completed turn."""
        if result.get("is_error") is not False:
            return self._failure(result)
        if self._blocked is not None and not count_of(result.get("num_turns")):
            return kind_of([self._blocked[0]], None, ""), self._blocked[1]
        return broken_off(result)

    def _unfinished(self, end: ToolExit) -> Failure:
        """Judge an end without a result line: SIGINT gives one with exit 0, a refused start one with empty stdout."""
        if self._error is not None:
            return self._error
        said = stderr_message(end.stderr_tail)
        if said == self._unknown and self._session is None:  # of older versions, which write no result for it
            return "unknown_conversation", said
        kind = kind_of_message(said, STARTUP) if self._session is None and end.signal is None else None
        if kind is not None:
            return kind, said
        return unfinished(end, "a result line")

    def _failure(self, result: Json) -> Failure:
        said = text_of(result.get("result")) or "; ".join(filter(None, map(text_of, list_of(result.get("errors")))))
        message = said or text_of(result.get("terminal_reason")) or text_of(result.get("subtype")) or "the turn failed"
        if self._error is not None and self._error[1] == said:
            return self._error
        if self._session is None and self._unknown in list_of(result.get("errors")):
            return "unknown_conversation", self._unknown
        names = [result.get(key) for key in _NAMED_BY]
        return self._kind(names, result.get("api_error_status"), message), message

    def _kind(self, names: list[Any], status: Any, message: str) -> ErrorKind:
        """Return the kind of a failure. A limit with a stated reset is a quota."""
        kind = kind_of(names, status, message)
        return "quota" if kind == "rate_limit" and self._resets_at is not None else kind

    def _identify(self, event: Json) -> list[Update]:
        """Compare the line's session with the requested one; bind at the first that is not a failure's."""
        session = event.get("session_id")
        if type(session) is not str:
            return []
        if session.lower() != self._asked:
            return self._refuse(f"claude runs session {session} instead of {self._asked}")
        return [] if event.get("is_error") is True else self._bind(session, event.get("model"))

    def _system(self, event: Json) -> list[Update] | None:
        handler = self._notices.get(text_of(event.get("subtype")))
        return handler(event) if handler else None

    def _begin(self, _event: Json) -> list[Update]:
        """Note that the agent is at work; session_bound has the rest of init."""
        self._is_working = True
        return []

    def _stir(self, event: Json) -> None:
        """Note that the agent has continued; or one of its sub-agents, whose result it will get."""
        if text_of(event.get("parent_tool_use_id")):
            self._is_stirring = True
        else:
            self._is_working = True

    def _task_ended(self, _event: Json) -> None:
        """Note that something in the background has ended, which wakes the agent."""
        self._is_stirring = True

    def _tasks_changed(self, event: Json) -> None:
        """Note what is running in the background now: each such line lists it all. `ambient` entries block nothing."""
        tasks = [task for task in map(mapping_of, list_of(event.get("tasks"))) if task]
        kept = [task for task in tasks if task.get("ambient") is not True]
        self._tasks = tuple(text_of(task.get("description")) or "a task without a name" for task in kept)

    def _informational(self, event: Json) -> list[Update] | None:
        """Note a hook that blocks the prompt: nothing else shows that the turn was not done."""
        said = text_of(event.get("content"))
        if event.get("prevent_continuation") is True:
            outcome = mapping_of(event.get("prompt_submit_outcome"))
            self._blocked = text_of(outcome.get("kind")) or "stopped_by_hook", said or "a hook blocked the prompt"
        return [Update("warning", {"kind": "hook", "message": said})] if event.get("level") == "warning" else None

    def _rate_limit(self, event: Json) -> None:
        about = mapping_of(event.get("rate_limit_info"))
        self._resets_at = number_of(about.get("resetsAt")) if about.get("status") == "rejected" else None

    def _status(self, event: Json) -> list[Update]:
        if event.get("compact_result") == "failed":
            return [warning_update(text_of(event.get("compact_error")) or "compaction failed")]
        return []  # the result of a successful compaction is in its boundary

    def _compaction(self, event: Json) -> list[Update]:
        return [Update("compaction", dict(mapping_of(event.get("compact_metadata"))))]

    def _retry(self, event: Json) -> list[Update]:
        name, status = text_of(event.get("error")), event.get("error_status")
        kind = kind_of([name], status, "") if status is not None or name != "unknown" else "network"
        message = f"{name or 'retry'} (status {status})" if status is not None else "no answer from the provider"
        delay_ms = number_of(event.get("retry_delay_ms"))
        delay_s = None if delay_ms is None else delay_ms / 1000
        attempt, most = count_of(event.get("attempt")), count_of(event.get("max_retries"))
        return [retry_update((kind, message), attempt=attempt, most=most, delay_s=delay_s)]

    def _permission_denied(self, event: Json) -> list[Update]:
        return self._deny(text_of(event.get("tool_use_id")), text_of(event.get("tool_name")))

    def _deny(self, call: str, title: str) -> list[Update]:
        return super()._deny(call, self._open.get(call) or title)

    def _assistant(self, event: Json) -> list[Update] | None:
        self._stir(event)
        message = mapping_of(event.get("message"))
        blocks = message.get("content")
        if event.get("is_api_error_message") is True or text_of(event.get("error")):
            return self._api_error(event, _text_of_content(blocks))
        parent = text_of(event.get("parent_tool_use_id"))
        updates: list[Update] = []
        for block in list_of(blocks):
            handler = self._blocks.get(text_of(mapping_of(block).get("type")))
            updates += handler(block, parent) if handler else [Update("other", {"raw": block})]
        if self._used.add_message(message):
            updates += self._use(self._used.total)
        return updates

    def _api_error(self, event: Json, message: str) -> list[Update]:
        names = [event.get("api_error_type"), event.get("api_error"), event.get("error")]
        message = message or f"the provider failed: {next(filter(None, map(text_of, names)), 'no reason given')}"
        return self._fail(self._kind(names, event.get("api_error_status"), message), message)

    def _text_block(self, block: Json, parent: str) -> list[Update]:
        text = text_of(block.get("text"))
        if parent:  # a sub-agent's message is its call's progress, not this turn's answer
            return [Update("tool_call_update", {"id": parent, "status": "in_progress", "content": text})]
        self._text = text
        return [Update("agent_message", {"text": text})]

    def _thinking_block(self, block: Json, parent: str) -> list[Update]:
        data = {"text": text_of(block.get("thinking"))}
        return [Update("agent_thought", {**data, "parent_id": parent} if parent else data)]

    def _tool_block(self, block: Json, parent: str) -> list[Update]:
        call, name, given = text_of(block.get("id")), text_of(block.get("name")), mapping_of(block.get("input"))
        if name == "TodoWrite" and type(given.get("todos")) is list and not parent:
            self._plans.add(call)
            return [plan_update(given["todos"])]
        if name == self._answer_tool and not parent:
            self._answers.add(call)
            return self._text_block({"text": json.dumps(given, ensure_ascii=False)}, parent)
        kind, title = _describe(name, given)
        return self._begin_call(call, kind, title, **({"parent_id": parent} if parent else {}), **files_of(given))

    def _result_block(self, block: Json, _parent: str) -> list[Update]:
        call = text_of(block.get("tool_use_id"))
        failed = block.get("is_error") is True
        if call in self._plans:
            self._plans.discard(call)
            if not failed:
                return []
        self._open.pop(call, None)
        content = _text_of_content(block.get("content"))
        if call in self._answers:
            self._answers.discard(call)
            return [retry_update(("invalid_output", content))] if failed else []
        data: Json = {"id": call, "status": "failed" if failed else "completed", "content": content}
        code = _EXIT_CODE.match(content) if failed else None
        if code:
            data["exit_code"] = int(code.group(1))
        return [Update("tool_call_update", data)]

    def _user(self, event: Json) -> list[Update] | None:
        self._stir(event)
        blocks = list_of(mapping_of(event.get("message")).get("content"))
        results = [block for block in blocks if mapping_of(block).get("type") == "tool_result"]
        if not results:  # the CLI's own messages to the model: an interruption, a sub-agent's task, a summary
            return None
        return [update for block in results for update in self._result_block(block, "")]

    def _result_line(self, event: Json) -> list[Update] | None:
        updates: list[Update] = []
        for denial in map(mapping_of, list_of(event.get("permission_denials"))):
            _, title = _describe(text_of(denial.get("tool_name")), mapping_of(denial.get("tool_input")))
            updates += self._deny(text_of(denial.get("tool_use_id")), title)
        if self._session is not None and number_of(mapping_of(event.get("usage")).get("input_tokens")) is not None:
            self._used.add_result(event)  # an unknown session's result has 0, as if it had cost nothing so far
        if not self._is_orphans(event):
            self._result = event
            updates += self._told_by(event)
        elif self._result is not None and self._result.get("is_error") is False:
            self._text = text_of(self._result.get("result")) or self._text  # an orphan's leaves the answer as it was
        if self._result is not None:
            self._is_working = self._is_stirring = False
        return updates + self._use(self._used.total)

    def _is_orphans(self, result: Json) -> bool:
        """Recognise a result only for a background task, without a model call: it answers no prompt."""
        origin = text_of(mapping_of(result.get("origin")).get("kind"))
        return origin == "task-notification" and result.get("num_turns") == 0 and result.get("is_error") is False

    def _told_by(self, result: Json) -> list[Update]:
        if result.get("is_error") is False:
            self._text = text_of(result.get("result")) or self._text
            self._error = None
            return []
        failure = self._failure(result)
        return [] if self._error is not None and self._error[1] == failure[1] else [error_update(failure)]


def _text_of_content(content: Any) -> str:
    """Return the text of a message's content: a string, or blocks of which some are not text."""
    if type(content) is str:
        return content
    return "\n".join(filter(None, (_text_of_block(mapping_of(block)) for block in list_of(content))))


def _text_of_block(block: Json) -> str:
    kind = text_of(block.get("type"))
    return text_of(block.get("text")) if kind in ("text", "") else f"[{kind}]"
