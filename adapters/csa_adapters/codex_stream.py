"""Reads `codex exec --json` (seen at 0.169.0): thread.started, then items, then turn.completed or turn.failed.

Traps: an *item* of type `error` is a warning, not a failure; `error` events are retry notices and the final error
alike; usage is that of the whole thread; a resume can silently begin another thread; a failure before the first line is
only on stderr; a turn that a hook blocks is completed, with nothing used; background commands end
with the turn, without a line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from csa.model.adapter import ErrorKind, Outcome, ToolExit, TurnRequest, Update
from csa.model.resets import delay_of
from csa.model.usage import Usage
from csa.structs import replace
from csa_adapters.codex_rollout import Rollouts, rollout_patterns
from csa_adapters.decoder import StreamDecoder, error_update, retry_update, warning_update
from csa_adapters.failures import (
    Failure,
    ending_message,
    kind_of_message,
    kind_of_status,
    rules,
    stderr_message,
    unclean,
    unfinished,
)
from csa_adapters.homes import home_directory
from csa_adapters.jsonlines import Json, count_of, list_of, mapping_of, number_of, text_of

_RETRY = re.compile(r"Reconnecting\.\.\. (?:(\d{1,9})/(\d{1,9})|waiting for network)(?: \((.*)\))?$", re.DOTALL)
_STATUS = re.compile(r"(?:unexpected|last) status:? (\d{3})\b")

# The messages of typed `error` and `turn.failed` events, most specific first.
_MESSAGES = rules(
    (r"ran out of room|context.?window|context_length_exceeded|prompt is too long", "context_overflow"),
    (r"quota|usage.?limit|insufficient credits|billing|with your ChatGPT plan, upgrade", "quota"),
    (r"Missing environment variable|not logged in|log ?in again|refresh token|api.?key|Unauthorized", "auth"),
    (r"model.{0,80}(not found|does not exist|not supported)|invalid_request", "invalid_request"),
    (r"rate.?limit|Too Many Requests", "rate_limit"),
    (r"at capacity|overloaded", "overloaded"),
    (r"high demand|internal server error|server.?error", "server"),  # a 500 comes without its number
    (r"stream disconnected|stream closed|Connection failed|network|timed? ?out|error sending request", "network"),
    (r'^\{"error"', "invalid_request"),  # a 400 is passed on as the provider's body
)
# codex's messages about a thread of which it has no copy, or an empty one, or that only its database knows.
_UNKNOWN = (
    "no rollout found for thread id {0}",
    "invalid paginated history lineage for {0}: missing source rollout",
    "{0}.jsonl is empty",
    "No saved session found with ID {0}",
)
# How its messages about the requested thread begin; the last two are from its interface.
_ASKING = ("thread/resume: ", "thread/fork: ", "Failed to resume session ", "No saved session ")
# stderr of a run that ended before its first event.
_STARTUP = rules(
    (r"no rollout found|already has an active writer|no prompt provided|not inside a trusted dir", "invalid_request"),
    (r"Missing environment variable|not logged in|Unauthorized", "auth"),
    (r"unexpected argument|invalid value|unknown feature", "invalid_request"),
    (r"codex home|config|duplicate key|failed to initialize|No such file|not found", "spawn"),
)
_STATUSES = {"failed": "failed", "declined": "failed"}  # of a completed item
# The end of an MCP call that would have asked: exec never asks. A command its sandbox refuses may have no item at all.
_REFUSED = re.compile(
    r"requires approval, but approval policy is never|user (?:cancelled|rejected) MCP tool call"
    r"|MCP tool call (?:cancelled|rejected)"
)
_CUT = "codex ended it with the turn"
_UNASKED = "codex ended the turn without asking the model; a hook may have blocked the prompt"
_TOTALS = (  # of the thread: csa's name, codex's name
    ("input_tokens", "input_tokens"),
    ("cached_tokens", "cached_input_tokens"),
    ("output_tokens", "output_tokens"),
)


class CodexDecoder(StreamDecoder):
    """The reader of one run."""

    _reads_on = True
    _repeats_ids = True

    def __init__(self, request: TurnRequest) -> None:
        super().__init__()
        self._home = home_directory(request.environ, "CODEX_HOME", ".codex")
        self._asked = request.provider_session_id
        self._forked = request.fork_of
        self._conversation = request.conversation
        self._totals = baseline(request)
        self._completed = False
        self._failure: Failure | None = None  # of the turn
        self._agents: dict[str, None] = {}  # the threads of its sub-agents, in order
        self._rollouts = Rollouts()
        self._events = {
            "thread.started": self._thread_started,
            "turn.started": self._turn_started,
            "turn.completed": self._turn_completed,
            "turn.failed": self._turn_failed,
            "error": self._error_event,
            "item.started": self._item,
            "item.updated": self._item,
            "item.completed": self._item,
        }
        self._items: dict[str, Callable[[Json, str], list[Update] | None]] = {
            "agent_message": self._agent_message,
            "reasoning": self._reasoning,
            "error": self._warning,
            "todo_list": self._plan,
            **dict.fromkeys(_TOOLS, self._tool),
        }

    @property
    def is_finished(self) -> bool:
        """Whether turn.completed or turn.failed was read, and no other turn has begun since."""
        return self._completed or self._failure is not None

    @property
    def records(self) -> tuple[str, ...]:
        """The rollouts of the thread and, as they become known, of its sub-agents."""
        known = (*self._agents, *self._rollouts.threads)
        return rollout_patterns(self._home, dict.fromkeys((self._session, *known))) if self._session else ()

    def feed_record(self, line: bytes) -> None:
        """Take one line of a rollout."""
        self._rollouts.feed(line)

    def close_records(self) -> list[Update]:
        """Correct the usage: the records have it per answer, and for sub-agents; the stream only as differences."""
        told = self._usage
        own = self._rollouts.own or told
        if own is None:
            return []
        updates = self._use(own + self._rollouts.agents)
        return [] if self._usage == told else updates

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        outcome = super().close(end)
        return replace(
            outcome,
            stop_reason="end_turn" if outcome.succeeded else None,
            retry_after_s=delay_of(outcome.error_message or ""),
            totals=self._totals if self._session or self._asked else None,
        )

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._failure is not None:
            return self._failure
        if self._session is None:
            return self._startup_failure(end)
        if self._completed:
            return unclean(end) or self._broken_off()
        return self._error or unfinished(end, "turn.completed")

    def _broken_off(self) -> Failure | None:
        """Judge a completed turn: one that a hook has blocked is completed too."""
        is_unasked = self._usage is not None and self._usage.input_tokens == 0 and not self._text
        return ("permission", _UNASKED) if is_unasked else None

    def _startup_failure(self, end: ToolExit) -> Failure:
        if self._completed:
            return "protocol", "codex did not name the thread of this run"
        if end.signal is None and (gone := self._unknown_thread(end.stderr_tail)):
            return "unknown_conversation", gone
        said = stderr_message(end.stderr_tail)
        kind = kind_of_message(said, _STARTUP) if end.signal is None else None
        return (kind, said) if kind else ("internal", ending_message(end, "thread.started"))

    def _unknown_thread(self, tail: str) -> str | None:
        """Return the stderr line that says that codex has no copy of the thread."""
        lines = (line.strip().removeprefix("Error: ").removeprefix("ERROR: ") for line in tail.splitlines())
        asking = (line for line in lines if line.startswith(_ASKING))
        return next((line for line in asking if is_unknown(line, self._conversation)), None)

    def _thread_started(self, event: Json) -> list[Update] | None:
        thread = text_of(event.get("thread_id"))
        if not thread:
            return None
        known = self._session or self._asked
        if known is None and self._forked is not None and thread.lower() == self._forked.lower():
            return self._refuse(f"codex continued in thread {thread} instead of forking it")
        if known is not None and thread.lower() != known.lower():
            return self._refuse(f"codex runs thread {thread} instead of {known}")
        self._rollouts.thread = self._session or thread
        return self._bind(thread)

    def _turn_started(self, _event: Json) -> list[Update]:
        """Begin a turn; the end of one before it was not the last."""
        self._completed, self._failure = False, None
        return []

    def _turn_completed(self, event: Json) -> list[Update]:
        self._completed = True
        usage, self._totals = usage_between(mapping_of(event.get("usage")), self._totals)
        return self._cut_short() + self._use(usage)

    def _cut_short(self) -> list[Update]:
        """Report commands that codex ends with the turn without a line."""
        updates: list[Update] = []
        for call, title in self._open.items():
            updates.append(Update("tool_call_update", {"id": call, "status": "failed", "content": _CUT}))
            updates.append(warning_update(f"{_CUT}, while it was running: {title}"))
        self._open.clear()
        return updates

    def _turn_failed(self, event: Json) -> list[Update]:
        said = self._error[1] if self._error else ""
        message = text_of(mapping_of(event.get("error")).get("message")) or said or "the turn failed"
        self._failure = kind_of(message), message
        return [] if message == said else [error_update(self._failure)]

    def _error_event(self, event: Json) -> list[Update] | None:
        message = text_of(event.get("message"))
        if not message:
            return None
        retry = _RETRY.match(message)
        return [_retry(retry)] if retry else self._fail(kind_of(message), message)

    def _item(self, event: Json) -> list[Update] | None:
        item = mapping_of(event.get("item"))
        handler = self._items.get(text_of(item.get("type")))
        return handler(item, event["type"]) if handler else None

    def _agent_message(self, item: Json, phase: str) -> list[Update] | None:
        if phase != "item.completed":
            return None
        self._text = text_of(item.get("text"))
        return [Update("agent_message", {"text": self._text})]

    def _reasoning(self, item: Json, phase: str) -> list[Update] | None:
        return [Update("agent_thought", {"text": text_of(item.get("text"))})] if phase == "item.completed" else None

    def _warning(self, item: Json, phase: str) -> list[Update] | None:
        return [warning_update(text_of(item.get("message")))] if phase == "item.completed" else None

    def _plan(self, item: Json, _phase: str) -> list[Update] | None:
        todos = [todo for todo in map(mapping_of, list_of(item.get("items"))) if todo]
        return [Update("plan", {"entries": [_plan_entry(todo) for todo in todos]})]

    def _tool(self, item: Json, phase: str) -> list[Update] | None:
        call = text_of(item.get("id"))
        kind, title, content = _TOOLS[item["type"]](item)
        self._agents |= dict.fromkeys(filter(None, map(text_of, list_of(item.get("receiver_thread_ids")))))
        updates: list[Update] = []
        if call not in self._open:  # a file change may come completed only
            paths = [text_of(mapping_of(change).get("path")) for change in list_of(item.get("changes"))]
            updates = self._begin_call(call, kind, title, **({"paths": paths} if paths else {}))
            if phase == "item.started":
                return updates
        data: Json = {"id": call, "status": "in_progress", "content": content}
        if phase == "item.completed":
            self._open.pop(call, None)
            data["status"] = _STATUSES.get(text_of(item.get("status")), "completed")
            if type(item.get("exit_code")) is int:
                data["exit_code"] = item["exit_code"]
        updates.append(Update("tool_call_update", data))
        if item.get("status") == "declined" or (kind == "other" and _REFUSED.search(content)):
            updates += self._deny(call, title)
        return updates


def is_unknown(message: str, thread: str | None) -> bool:
    """Say whether codex's answer to the request for a thread means that it has no copy of it."""
    return thread is not None and any(words.format(thread) in message for words in _UNKNOWN)


def kind_of(message: str) -> ErrorKind:
    """Return the kind of an error event's message; a status in it decides unless the text is more specific."""
    status = _STATUS.search(message)
    by_words = kind_of_message(message, _MESSAGES)
    if by_words in ("context_overflow", "quota") or status is None:
        return by_words or "internal"
    return kind_of_status(int(status.group(1))) or by_words or "internal"


def baseline(request: TurnRequest) -> Mapping[str, float] | None:
    """Return the thread's totals before this run; None if unknown, as for a thread csa has no figures for.

    A fork starts with the totals of the thread it copies (0.169.0).
    """
    if request.provider_session_id is None and request.fork_of is None:
        return {name: 0 for name, _ in _TOTALS}
    known = request.previous_totals
    return known if known is not None and all(name in known for name, _ in _TOTALS) else None


def usage_between(
    reported: Mapping[str, Any], before: Mapping[str, float] | None
) -> tuple[Usage | None, Mapping[str, float] | None]:
    """Return this run's usage, if known, and the new totals."""
    if number_of(reported.get("input_tokens")) is None:
        return None, before
    totals: dict[str, float] = {name: count_of(reported.get(theirs)) for name, theirs in _TOTALS}
    if before is None:
        return None, totals
    used = {name: int(totals[name] - before[name]) for name in totals}
    return (None if min(used.values()) < 0 else Usage(**used)), totals


def _retry(notice: re.Match[str]) -> Update:
    attempt, most, reason = notice.groups()
    failure: Failure = (kind_of(reason), reason) if reason else ("network", notice.group(0))
    numbers = {"attempt": int(attempt), "most": int(most)} if attempt else {}
    return retry_update(failure, delay_s=delay_of(reason or ""), **numbers)


def _plan_entry(todo: Json) -> dict[str, str]:
    return {"content": text_of(todo.get("text")), "status": "completed" if todo.get("completed") is True else "pending"}


def _command(item: Json) -> tuple[str, str, str]:
    return "execute", _inner_command(text_of(item.get("command"))), text_of(item.get("aggregated_output"))


def _inner_command(command: str) -> str:
    """Return what a person would have typed: codex reports the shell it wraps around every command."""
    shell, _, rest = command.partition(" ")
    if not shell.endswith(("/bash", "/sh", "/zsh")) or not rest.startswith(("-lc ", "-c ")):
        return command
    script = rest.partition(" ")[2]
    if script.count("'") == 2 and script[0] == script[-1] == "'":  # noqa: PLR2004  # one quoted word, ten times as fast
        return script[1:-1]
    if script.isalnum():
        return script
    try:
        words = shlex.split(rest)
    except ValueError:  # an unbalanced quote: show it unchanged
        return command
    return words[1] if len(words) == 2 else command  # noqa: PLR2004  # the flag and one script


def _file_change(item: Json) -> tuple[str, str, str]:
    changes = [(text_of(c.get("kind")), text_of(c.get("path"))) for c in map(mapping_of, list_of(item.get("changes")))]
    kinds = {kind for kind, _ in changes}
    paths = ", ".join(path for _, path in changes)
    summary = "\n".join(f"{kind} {path}" for kind, path in changes)
    return ("delete", f"Delete {paths}", summary) if kinds == {"delete"} else ("edit", f"Edit {paths}", summary)


def _mcp_call(item: Json) -> tuple[str, str, str]:
    blocks = list_of(mapping_of(item.get("result")).get("content"))
    said = "\n".join(filter(None, (text_of(mapping_of(block).get("text")) for block in blocks)))
    failed = text_of(mapping_of(item.get("error")).get("message"))
    return "other", f"{text_of(item.get('server'))}.{text_of(item.get('tool'))}", said or failed


def _collaboration(item: Json) -> tuple[str, str, str]:
    return "think", text_of(item.get("tool")) or "sub-agent", text_of(item.get("prompt"))


def _web_search(item: Json) -> tuple[str, str, str]:
    return "search", f"Search {text_of(item.get('query'))}", ""


_TOOLS: dict[str, Callable[[Json], tuple[str, str, str]]] = {
    "command_execution": _command,
    "file_change": _file_change,
    "mcp_tool_call": _mcp_call,
    "collab_tool_call": _collaboration,
    "web_search": _web_search,
}
