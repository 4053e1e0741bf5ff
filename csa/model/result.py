"""How a turn ended: the data of `run_finished`, and what every command derives from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from csa.model.limits import PLAN
from csa.model.state import format_time, parse_time
from csa.model.text import shortened
from csa.model.usage import CHARS_PER_TOKEN, Usage, count_of, number_of
from csa.structs import Struct, asdict

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any, Literal, TypeVar

    _T = TypeVar("_T")

    Status = Literal["succeeded", "failed", "cancelled", "timed_out", "killed", "lost"]

SIGNAL_EXITS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
_STATUS_EXITS = {"succeeded": 0, "timed_out": 124, "cancelled": 130}
_KIND_EXITS = {"auth": 7, "rate_limit": 8, "quota": 8, "budget": 5}
SUMMARY_LENGTH = 200
ABRIDGED_LENGTH = 800
_ENDS = ("\n\n", ".\n", ". ", "! ", "? ", "\n", " ")  # of paragraphs, sentences, lines and words: best first


UNKNOWN_CONVERSATION = "unknown_conversation"  # the kind of error
NO_NEW_CONVERSATION = "no new one could be started"


def next_step(session_id: str, tool: str, kind: str, message: str, *, is_known_to_tool: bool) -> str | None:
    """Return what to do after an unsuccessful turn, by the kind of its error; None if nothing helps."""
    if tool == PLAN and kind != "budget":
        return f"csa show {session_id} says what happened; csa plan run goes on with what is not done"
    hints = {
        "auth": f"log in with {tool}, or set its key",
        "context_overflow": f"csa compress {session_id}",
        "quota": f'csa run --session {session_id} --tool ANOTHER "go on", or use --fallback next time',
        "budget": f"csa budget {session_id} shows who used it, and whose it is; csa run sets another",
        UNKNOWN_CONVERSATION: _after_unknown(session_id, tool, message),
    }
    return hints.get(kind) if kind in hints or not is_known_to_tool else f'csa run --session {session_id} "go on"'


def _after_unknown(session_id: str, tool: str, message: str) -> str:
    """Return the hint for a conversation that the tool does not know: csa could not, or may not, start another."""
    if NO_NEW_CONVERSATION in message:
        return f'csa run --tool {tool} "..." starts a new session'
    again = f'CSA_CONF_HANDOFF=on csa run --session {session_id} "go on"'
    return f"{again} (without --no-handoff) continues in a new conversation, with a summary of this one"


class Link(Struct, kw_only=True):
    """One turn of a run that fell back from tool to tool."""

    turn: int
    tool: str
    status: str
    error_kind: str | None = None


def told_error(error: object) -> dict[str, Any] | None:
    """Return the error of a record as every `--json` has it: with all of its keys; None where there is none."""
    if not isinstance(error, Mapping):
        return None
    told = {name: text_of(error.get(name)) for name in ("kind", "message", "retry_at")}
    return {**told, "kind": told["kind"] or "", "message": told["message"] or ""}


class RunResult(Struct, kw_only=True):
    """The outcome of one turn.

    Attributes:
        session_id: the session's ULID.
        name: its name; None if it has none, or if not requested.
        project: the directory of its project; None if not requested.
        turn: the turn's number in the session, from 1 on.
        tool: the tool that ran it.
        status: "succeeded", "failed", "cancelled", "timed_out", "killed" or "lost".
        exit_code: what `csa run` exits with.
        tool_exit_code: the tool's own; None when it had none.
        signal: the number of the signal that ended the tool, if one did.
        model: the model that answered, as far as the tool says.
        provider_session_id: the tool's own name for the conversation.
        stop_reason: why the model stopped, in the tool's words.
        text: the answer; of a turn with a schema, `output` as JSON.
        output: its value, if a schema was asked for and it conforms.
        summary: its first line, cut to 200 characters.
        error_kind: "auth", "rate_limit", "quota", "budget" and others; None for a success.
        error_message: what is wrong, in one sentence.
        retry_at: when the provider can be used again, if stated.
        usage: tokens and cost; None if the tool does not report them.
        duration_s: seconds of wall time.
        started_at: when it began, in UTC.
        finished_at: when it ended, in UTC.
        peak_rss_bytes: the most memory that the tool and all it started had at once.
        denied: what the agent was not allowed to do.
        artifacts: names of the turn's files among the session's artifacts.
        head: the project's git commit when the turn had ended.
        commit: the one that csa has made of what the turn had left in the session's worktree; None if it left nothing.
        chain: the turns of the run, this one last, if a fallback made more than one.
    """

    session_id: str
    name: str | None = None
    project: str | None = None
    turn: int
    tool: str
    status: Status
    exit_code: int
    tool_exit_code: int | None = None
    signal: int | None = None
    model: str | None = None
    provider_session_id: str | None = None
    stop_reason: str | None = None
    text: str = ""
    output: Any = None
    summary: str = ""
    error_kind: str | None = None
    error_message: str | None = None
    retry_at: datetime | None = None
    usage: Usage | None = None
    duration_s: float = 0.0
    started_at: datetime
    finished_at: datetime
    peak_rss_bytes: int | None = None
    denied: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    head: str | None = None
    commit: str | None = None
    chain: tuple[Link, ...] = ()

    @property
    def error(self) -> dict[str, str] | None:
        """The error as an object with `kind` and `message`; None for a success, and for a turn that was cancelled.

        It has `retry_at` if the provider, or its tool, has stated when it can be used again.
        """
        if self.error_kind is None:
            return None
        stated = {"retry_at": format_time(self.retry_at)} if self.retry_at else {}
        return {"kind": self.error_kind, "message": self.error_message or "", **stated}

    def to_event(self) -> dict[str, Any]:
        """Return the data of `run_finished`; it has `chain` if a fallback made more than one turn, and `output`."""
        chain = {"chain": [asdict(link) for link in self.chain]} if self.chain else {}
        more = {name: value for name in ("commit", "output") if (value := getattr(self, name)) is not None}
        return {**self._values(_EVENT), **more, **chain}

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa run --json` and `csa result --json` print: see docs/json.md."""
        return {
            "session_id": self.session_id,
            "name": self.name,
            "project": self.project,
            **self.to_record(),
            "text": self.text,
            "output": self.output,
            "error": told_error(self.error),
            "usage": self.usage and self.usage.to_sum(),
            "artifacts": list(self.artifacts),
            "chain": [asdict(link) for link in self.chain],
        }

    def to_record(self) -> dict[str, Any]:
        """Return the content of result.toml, without `chain`."""
        return self._values(_RECORD)

    def _values(self, names: Iterable[str]) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in names}


_EVENT = (
    *("status", "exit_code", "tool", "model", "provider_session_id", "tool_exit_code", "signal", "stop_reason"),
    *("error", "summary", "duration_s", "usage", "peak_rss_bytes", "denied", "head", "started_at", "finished_at"),
)
_RECORD = (
    *("session_id", "turn", "tool", "model", "provider_session_id", "status", "exit_code", "tool_exit_code"),
    *("summary", "error", "denied", "usage", "duration_s", "started_at", "finished_at", "head", "commit"),
)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, Usage):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def json_text(value: Any) -> str:
    """Write a value on one line, as JSON."""
    import json  # noqa: PLC0415  # few turns have one

    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def link_of(result: RunResult) -> Link:
    """Return a turn's place in the chain of its run."""
    return Link(turn=result.turn, tool=result.tool, status=result.status, error_kind=result.error_kind)


def exit_code_for(status: str, *, error_kind: str | None = None, signal_name: str | None = None) -> int:
    """Return the exit code of `csa run` for a turn with this end; `signal_name` is the signal csa was sent."""
    if status == "cancelled" and signal_name in SIGNAL_EXITS:
        return SIGNAL_EXITS[signal_name]
    if status == "failed" and error_kind in _KIND_EXITS:
        return _KIND_EXITS[error_kind]
    return _STATUS_EXITS.get(status, 1)


def kind_in_words(status: str, kind: str | None) -> str:
    """Return ` (kind)`, to follow the status in text; empty if the status or the message already says it."""
    return f" ({kind})" if kind and status != "timed_out" else ""


def summarise(text: str) -> str:
    """Return the first line that is not blank, cut to 200 characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return shortened(line, SUMMARY_LENGTH)


def abridge(text: str, way: str) -> str:
    """Return a text of at most about 200 tokens whole, and the beginning and the end of a longer one.

    Both are cut after a paragraph, else a sentence, a line or a word. A line between them says how much is left out,
    and the `way` to all of it.
    """
    if len(text) <= ABRIDGED_LENGTH:
        return text
    half = ABRIDGED_LENGTH // 2
    head, tail = text[: _end_of_part(text[:half])].rstrip(), text[-half:]
    tail = tail[_start_of_part(tail) :].lstrip()
    left = max(1, (len(text) - len(head) - len(tail)) // CHARS_PER_TOKEN)
    return f"{head}\n\n[... about {left:,} tokens left out; `{way}` prints all ...]\n\n{tail}"


def _end_of_part(text: str) -> int:
    """Return where to cut the end of a text off: after the last good place in its second half."""
    for end in _ENDS:
        if (at := text.rfind(end, len(text) // 2)) >= 0:
            return at + len(end)
    return len(text)


def _start_of_part(text: str) -> int:
    """Return where to cut the beginning of a text off: after the first good place in its first half."""
    for end in _ENDS:
        if (at := text.find(end, 0, len(text) // 2)) >= 0:
            return at + len(end)
    return 0


def result_from_event(session_id: str, turn: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a RunResult's keyword arguments from a `run_finished` event (without text and artifacts).

    Raises:
        KeyError, TypeError, ValueError, OverflowError: it is not a result.
    """
    error, usage = _typed(data.get("error"), dict), _typed(data.get("usage"), dict)
    denied, chain = _typed(data.get("denied"), list), _typed(data.get("chain"), list)
    code, memory = data.get("tool_exit_code"), number_of(data.get("peak_rss_bytes"))
    if (duration_s := number_of(data.get("duration_s", 0.0))) is None:
        raise ValueError(f"duration_s is {data['duration_s']!r}")
    error = error or {}
    return {
        "session_id": session_id,
        "turn": turn,
        "tool": text_of(data.get("tool")) or "",
        "status": str(data["status"]),
        "exit_code": int(data["exit_code"]),
        "tool_exit_code": code if type(code) is int else None,
        "signal": count_of(data.get("signal")) or None,
        "model": text_of(data.get("model")),
        "provider_session_id": text_of(data.get("provider_session_id")),
        "stop_reason": text_of(data.get("stop_reason")),
        "summary": text_of(data.get("summary")) or "",
        "error_kind": text_of(error.get("kind")),
        "error_message": text_of(error.get("message")),
        "retry_at": parse_time(error.get("retry_at")),
        "usage": Usage.from_dict(usage) if usage else None,
        "duration_s": float(duration_s),
        "started_at": parse_time(data.get("started_at")),
        "finished_at": parse_time(data.get("finished_at")),
        "peak_rss_bytes": None if memory is None else int(memory),
        "denied": tuple(map(str, denied or ())),
        "head": text_of(data.get("head")),
        "commit": text_of(data.get("commit")),
        "output": data.get("output"),
        "chain": tuple(map(_link, chain or ())),
    }


def text_of(value: object) -> str | None:
    """Return a text from a record; None if there is none."""
    return value if isinstance(value, str) else None


def _typed(value: Any, kind: type[_T]) -> _T | None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{value!r} is not a {kind.__name__}")
    return value


def _link(data: Mapping[str, Any]) -> Link:
    return Link(
        turn=int(data["turn"]),
        tool=str(data["tool"]),
        status=str(data["status"]),
        error_kind=text_of(data.get("error_kind")),
    )
