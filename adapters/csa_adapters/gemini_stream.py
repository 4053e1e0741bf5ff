"""Reads `gemini -o stream-json` (seen at 0.61.0): init, messages, tool calls, one result line.

Traps: exit 0 comes with signals and failures, so success is a result line whose status is success; a turn that a loop,
a limit or a hook aborted has one too, and only an earlier line shows it, often as a warning; an HTTP error is the exit
code modulo 256; a policy's refusal is an ordinary tool result; a command that fails is a success; retries are reported
only on stderr, and an interrupted stream silently starts again, so that its text is there twice.
"""

from __future__ import annotations

import re
from functools import partial

from csa.model.adapter import ErrorKind, Outcome, ToolExit, TurnRequest, Update
from csa.model.usage import Usage
from csa.structs import replace
from csa_adapters.decoder import StreamDecoder, describe_call, error_update, files_of, retry_update, warning_update
from csa_adapters.failures import (
    MESSAGE_LIMIT,
    Failure,
    kind_of_message,
    kind_of_status,
    rules,
    stderr_message,
    unclean,
    unfinished,
)
from csa_adapters.jsonlines import Json, count_of, mapping_of, number_of, text_of

# The tool's own codes; an HTTP status of 400 to 511 comes as its remainder by 256.
_EXITS: dict[int, ErrorKind] = {
    41: "auth",
    42: "invalid_request",
    44: "spawn",
    52: "invalid_request",
    53: "internal",
    54: "internal",
    55: "permission",
}
_NO_LOGIN = 41
_BAD_INPUT = 42
_FIRST_STATUS = 400 - 256
_LOGIN_HINT = "set GEMINI_API_KEY, or log in with `gemini` once"
_STATUS = re.compile(r'"code": ?(\d{3})\b')
# What it reports on stderr about a refusal, besides the result's message: the delay, and the text it has replaced.
_REPORTED_DELAY = re.compile(r"^\s+retryDelayMs: (\d{1,12}(?:\.\d{1,9})?),?$", re.MULTILINE)
_REPORTED_WORDS = re.compile(r"\b(?:retry|try again) (?:in|at|after) [^'\"\n]{1,80}", re.IGNORECASE)
_WAITED_FOR = ("quota", "rate_limit", "overloaded")  # for other failures, it is from an earlier attempt
_ADVICE = "\nPlease wait and try again later."  # and to ask for more, or for another login in its interface
_REPORTED_STATUS = re.compile(r"^\s+(?:status|code): (\d{3})\b", re.MULTILINE)
# The messages of error and result lines, most specific first. Only those more specific than the status precede it.
_LIMITS = rules(
    (r"input token count .{0,80}exceeds|exceeds the maximum number of tokens|context window", "context_overflow"),
    (r"exceeded your current quota|exhausted your (daily|capacity)|quota limit|billing", "quota"),
    (r"spending (cap|limit)|usage.?limit|credits? .{0,40}(depleted|exhausted)", "quota"),
    (r"API key not valid|API_KEY_INVALID|PERMISSION_DENIED|UNAUTHENTICATED", "auth"),
)
_MESSAGES = rules(
    (r"fetch failed|ECONN|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|network|timed? ?out", "network"),
    (r"without a finish reason|Incomplete JSON|terminated|stream", "network"),
    (r"not found|ModelNotFound", "invalid_request"),
    (r"GEMINI_API_KEY|Auth method|authenticat|log ?in", "auth"),
)
_STARTUP = rules(
    (r"trusted directory|not trusted", "permission"),
    (r"Unknown argument|Not enough arguments|Invalid values|No input provided|Error resuming", "invalid_request"),
    (r"Auth method|authenticat|GEMINI_API_KEY", "auth"),
)
# The start of a turn in a conversation of which gemini has no copy, or one that it cannot read.
_UNKNOWN = (
    "Error resuming session: No previous sessions found for this project.",
    'Error resuming session: Invalid session identifier "{0}".',
)
# Normal output of any run, and of an agent's tools, hooks and servers: never the reason of a failure.
_NOISE = re.compile(
    r"^(?:Warning: |Ripgrep is not|\[STARTUP\]|YOLO mode|Loaded cached|Attempt \d+ failed|    at |[{}]|\s+\w+: "
    r"|Error executing tool |MCP |\[MCP|Error during discovery for |Error connecting to MCP |Error discovering "
    r"|Hook |\[(?:WARNING|INFO)\]|Skill |\(node:|\(Use `node|Cancelling\.\.\.|Approval mode overridden)"
)
# Lines of the stream that end a turn which gemini then calls a success, unless the model continues.
_BREAKS = rules(
    (r"^Loop detected, stopping execution", "internal"),
    (r"^Maximum session turns exceeded", "internal"),
    (r"^Agent execution blocked: ", "permission"),  # by a hook: the prompt, a request to the model, or its last answer
)
_STOPPED = "stop_execution"  # the error of a call that a hook answered with the end of the turn
_UNASKED = "gemini ended the turn without an answer from the model; a hook may have stopped it"
_ATTEMPT = re.compile(r"^Attempt (\d{1,4}) failed(?: with status (\d{3}))?[:.]? ?(.*)$")
_RETRY_DELAY = re.compile(r"Retrying after (\d{1,9})ms")
_LAST_ATTEMPT = "Max attempts reached"
_REFUSALS = ("requires user confirmation",)

_TOOLS: dict[str, tuple[str, str]] = {  # name -> kind, and the parameter that distinguishes its calls
    "run_shell_command": ("execute", "command"),
    "read_file": ("read", "file_path"),
    "read_many_files": ("read", "include"),
    "list_directory": ("search", "dir_path"),
    "glob": ("search", "pattern"),
    "grep_search": ("search", "pattern"),
    "google_web_search": ("search", "query"),
    "web_fetch": ("fetch", "prompt"),
    "write_file": ("edit", "file_path"),
    "replace": ("edit", "file_path"),
    "invoke_agent": ("think", "agent_name"),
    "update_topic": ("think", "title"),
    "write_todos": ("think", ""),
    "activate_skill": ("other", "name"),
}
_describe = partial(describe_call, tools=_TOOLS, shell_tool="run_shell_command")


class GeminiDecoder(StreamDecoder):
    """The reader of one run."""

    _repeats_ids = True

    def __init__(self, request: TurnRequest) -> None:
        super().__init__()
        self._resumed = request.provider_session_id
        self._asked = (request.provider_session_id or request.new_provider_id).lower()
        self._result: Json | None = None
        self._break: Failure | None = None  # what aborted the turn, unless the model has continued since
        self._parts: list[str] = []  # of the current message
        self._attempt: re.Match[str] | None = None  # an incomplete retry notice
        self._events = {
            "init": self._init,
            "message": self._message,
            "tool_use": self._tool_use,
            "tool_result": self._tool_result,
            "error": self._error_line,
            "result": self._result_line,
        }

    @property
    def is_finished(self) -> bool:
        """Whether a result line was read, and nothing of the model's since."""
        return self._result is not None

    def feed_stderr(self, line: bytes) -> list[Update]:
        """Take one line of stderr, where retries are reported; a notice may span several."""
        text = line.decode("utf-8", "replace")
        self._attempt = _ATTEMPT.match(text) or self._attempt
        if self._attempt is None or _LAST_ATTEMPT in text:
            self._attempt = None
            return []
        if "Retrying" not in text:
            return []
        notice, self._attempt = self._attempt, None
        return [_retry(notice, text)]

    def close(self, end: ToolExit) -> Outcome:
        """Judge the run."""
        outcome = super().close(end)
        return replace(
            outcome,
            text="".join(self._parts) or self._text,
            stop_reason="end_turn" if outcome.succeeded else None,
            retry_after_s=_delay_in(end.stderr_tail) if outcome.error_kind in _WAITED_FOR else None,
        )

    def _verdict(self, end: ToolExit) -> Failure | None:
        if self._result is None:
            return self._unfinished(end)
        if self._result.get("status") != "success":
            return self._failure(self._result, end)
        if self._session is None:
            return "protocol", "gemini did not name the session of this run"
        return unclean(_without_noise(end)) or self._broken_off()

    def _broken_off(self) -> Failure | None:
        """Judge a success: gemini also reports it for turns that ended early."""
        if self._break is not None:
            return self._break
        stats = mapping_of(mapping_of(self._result).get("stats"))
        is_unasked = stats.get("models") == {} and not (self._parts or self._text)
        return ("permission", _UNASKED) if is_unasked else None

    def _unfinished(self, end: ToolExit) -> Failure:
        """Judge an end without a result line: a signal gives one with exit 0, a refused start one with empty stdout."""
        told = _without_noise(end)
        said = stderr_message(told.stderr_tail)
        if end.code == _BAD_INPUT and self._session is None:
            lines = map(str.strip, end.stderr_tail.splitlines())
            if gone := next((line for line in lines if is_unknown(line, self._resumed)), None):
                return "unknown_conversation", gone
        kind = _kind_of_exit(end.code) or (None if self._session else kind_of_message(said, _STARTUP))
        if end.code == _NO_LOGIN:
            return "auth", f"{said or 'no login'}; {_LOGIN_HINT}"
        ending = unfinished(told, "a result line")
        if kind is not None:
            return kind, said or ending[1]
        return self._error or ending

    def _failure(self, result: Json, end: ToolExit) -> Failure:
        message = text_of(mapping_of(result.get("error")).get("message"))
        if not message:
            return self._error or ("internal", "the turn failed without a reason from gemini")
        reported = _REPORTED_STATUS.findall(end.stderr_tail)
        status = kind_of_status(int(reported[-1])) if reported else None
        kind = kind_of_message(message, _LIMITS) or _kind_in(message) or _kind_of_exit(end.code) or status
        kind = kind or kind_of_message(message, _MESSAGES) or "internal"
        message = message.partition(_ADVICE)[0]
        return kind, (_with_reset(message, end.stderr_tail) if kind in _WAITED_FOR else message)[:MESSAGE_LIMIT]

    def _init(self, event: Json) -> list[Update]:
        session = text_of(event.get("session_id"))
        if session.lower() != self._asked:
            return self._refuse(f"gemini runs session {session or 'without an id'} instead of {self._asked}")
        return self._bind(session, event.get("model"))

    def _message(self, event: Json) -> list[Update] | None:
        if event.get("role") == "user":  # the prompt, which is already recorded
            return []
        if event.get("role") != "assistant":
            return None
        text = text_of(event.get("content"))
        self._go_on()
        if event.get("delta") is not True:
            self._end_message()
        self._parts.append(text)
        data: Json = {"text": text}
        return [Update("agent_message", {**data, "chunk": True} if event.get("delta") is True else data)]

    def _go_on(self) -> None:
        """Revoke an announced end: the model is working."""
        self._break = self._result = None

    def _end_message(self) -> None:
        self._text = "".join(self._parts) or self._text
        self._parts = []

    def _tool_use(self, event: Json) -> list[Update]:
        self._end_message()
        self._go_on()
        call, name, given = (
            text_of(event.get("tool_id")),
            text_of(event.get("tool_name")),
            mapping_of(event.get("parameters")),
        )
        return self._begin_call(call, *_describe(name, given), **files_of(given))

    def _tool_result(self, event: Json) -> list[Update]:
        self._end_message()
        call, error = text_of(event.get("tool_id")), mapping_of(event.get("error"))
        title = self._open.pop(call, "")
        content = text_of(event.get("output")) or text_of(error.get("message"))
        failed = event.get("status") != "success"
        updates = [
            Update("tool_call_update", {"id": call, "status": "failed" if failed else "completed", "content": content})
        ]
        if error.get("type") == _STOPPED:
            self._break = "permission", content
        if error.get("type") == "policy_violation" or any(word in text_of(error.get("message")) for word in _REFUSALS):
            updates += self._deny(call, title)
        return updates

    def _error_line(self, event: Json) -> list[Update]:
        message = text_of(event.get("message"))
        broken = kind_of_message(message, _BREAKS)
        if broken:  # later text is another answer
            self._end_message()
            self._break = broken, message[:MESSAGE_LIMIT]
        if event.get("severity") != "error":
            return [warning_update(message)]
        kind = broken or kind_of_message(message, _MESSAGES) or "internal"
        return self._fail(kind, message or "gemini reported an error")

    def _result_line(self, event: Json) -> list[Update]:
        self._result = event
        updates: list[Update] = []
        message = text_of(mapping_of(event.get("error")).get("message"))
        if event.get("status") != "success" and message:
            kind = self._failure(event, ToolExit(None, None))[0]
            updates.append(error_update((kind, message.partition(_ADVICE)[0][:MESSAGE_LIMIT])))
        return updates + self._use(_usage(mapping_of(event.get("stats"))))


def _usage(stats: Json) -> Usage | None:
    """Return this run's usage: the total includes thinking, which `output_tokens` lacks; cached tokens are input."""
    given = number_of(stats.get("input_tokens"))
    if given is None:
        return None
    beside = count_of(stats.get("total_tokens")) - int(given)
    return Usage(
        input_tokens=int(given),
        output_tokens=max(count_of(stats.get("output_tokens")), beside),
        cached_tokens=count_of(stats.get("cached")),
    )


def _retry(notice: re.Match[str], line: str) -> Update:
    attempt, status, rest = notice.groups()
    message = re.sub(r"\.? *Retrying (?:after|with).*?\.\.\.(?: _?\w*Error:)? ?", "", rest).strip()
    known = kind_of_status(int(status)) if status else kind_of_message(message, _MESSAGES)
    delay = _RETRY_DELAY.search(line)
    failure: Failure = known or "rate_limit", message or f"status {status}"
    return retry_update(failure, attempt=int(attempt), delay_s=int(delay.group(1)) / 1000 if delay else None)


def _delay_in(tail: str) -> float | None:
    """Return the delay after which the provider can be used again, from gemini's report of its last error."""
    found = _REPORTED_DELAY.findall(tail)
    return float(found[-1]) / 1000 if found else None


def _with_reset(message: str, tail: str) -> str:
    """Add when the provider can be used again, if gemini has replaced its message."""
    found = _REPORTED_WORDS.findall(tail)
    return message if not found or found[-1] in message else f"{message} ({found[-1].rstrip('. ')})"


def _without_noise(end: ToolExit) -> ToolExit:
    """Drop gemini's usual stderr output, and the help after a wrong flag."""
    told = end.stderr_tail.partition("\nUsage: gemini ")[0]
    return replace(end, stderr_tail="\n".join(line for line in told.splitlines() if not _NOISE.match(line)))


def _kind_in(message: str) -> ErrorKind | None:
    """Return the kind of the status in the provider's own error object."""
    found = _STATUS.search(message)
    return kind_of_status(int(found.group(1))) if found else None


def _kind_of_exit(code: int | None) -> ErrorKind | None:
    if code is None:
        return None
    return _EXITS.get(code) or (kind_of_status(code + 256) if code >= _FIRST_STATUS else None)


def is_unknown(message: str, session: str | None) -> bool:
    """Say whether gemini's refusal to start means that it has no copy of the conversation."""
    return session is not None and message in [words.format(session) for words in _UNKNOWN]


def kind_of_words(message: str) -> ErrorKind:
    """Return the kind of a failure for which gemini only has a message."""
    kind = kind_of_message(message, _LIMITS) or _kind_in(message) or kind_of_message(message, _STARTUP)
    return kind or kind_of_message(message, _MESSAGES) or "internal"
