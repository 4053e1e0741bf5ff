"""The transcript's events as schemas: each type has its data. Pure.

These are records on disk: a key that says nothing is left out, where commands would say null.
"""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.schemas.kit import (
    Schema,
    anything,
    each,
    flag,
    integer,
    mapping,
    maybe,
    moment,
    number,
    one_of,
    record,
    ref,
    text,
    texts,
)
from csa.model.schemas.shared import TURN_STATUSES

_KIND = text("what kind, as a word")
_MESSAGE = text("the same in a sentence")
_TURN_USAGE = ref("turn_usage", "tokens and cost")
_CHUNK = flag("true where the tool streams: this continues the text before")
_PARENT = text("the tool call of a sub-agent that said it")
_TOTALS = mapping({"type": "number"}, "running totals of the conversation, for tools that report no others")
_CHAIN = each(
    record(
        {
            "turn": integer("its number"),
            "tool": text("its tool"),
            "status": one_of("how it ended", *TURN_STATUSES),
            "error_kind": maybe(text("why it failed")),
        }
    ),
    "the turns of a run that fell back from tool to tool, the last one included",
)
_CALL = {
    "id": text("the call"),
    "title": text("what is to be done, for example the command line"),
    "kind": text("`read`, `edit`, `delete`, `move`, `search`, `execute`, `think`, `fetch`, `other`, ..."),
    "status": text("`in_progress`, `completed`, `failed` or `denied`"),
    "content": text("what came of it"),
    "exit_code": integer("of a shell command"),
    "parent_id": _PARENT,
}
_SAID = {"text": text("what was said"), "chunk": _CHUNK, "parent_id": _PARENT}
_NOTE = {
    "kind": _KIND,
    "message": _MESSAGE,
    "attempt": integer("which attempt failed"),
    "max": integer("how many there are at most"),
    "retry_after_s": number("seconds until the next"),
    "by": text("`csa` where csa tries again, and not the tool"),
}

CHAIN = _CHAIN
DATA: Mapping[str, tuple[str, Schema]] = {
    "run_started": (
        "A turn began.",
        record(
            {
                "tool": text("the tool"),
                "model": maybe(text("the model asked for")),
                "effort": maybe(text("the reasoning effort asked for")),
                "cwd": text("where the tool works"),
                "argv": texts("the tool's command line"),
                "pid": integer("the supervisor"),
                "permission": text("what the agent may do"),
                "timeout_s": maybe(number("the turn's time limit")),
                "idle_timeout_s": maybe(number("the limit of its silence")),
                "origins": mapping({"type": "string"}, "where each of these settings came from"),
                "prompt": text("the prompt, redacted"),
                "resumed": maybe(text("the tool's conversation that is continued")),
                "head": maybe(text("the project's commit")),
            },
            optional="effort timeout_s idle_timeout_s origins head",
        ),
    ),
    "session_bound": (
        "The tool named its conversation.",
        record({"provider_session_id": text("its id"), "model": text("the model")}, optional="model"),
    ),
    "user_message": ("What the tool was told.", record(_SAID, optional="chunk parent_id")),
    "agent_message": ("What the agent said.", record(_SAID, optional="chunk parent_id")),
    "agent_thought": ("What the agent thought.", record(_SAID, optional="chunk parent_id")),
    "tool_call": ("The agent uses a tool.", record(_CALL, optional="content exit_code parent_id")),
    "tool_call_update": (
        "How a tool call goes on, or ended.",
        record(_CALL, optional="title kind status content exit_code parent_id"),
    ),
    "plan": (
        "The agent's plan, whole.",
        record(
            {
                "entries": each(
                    record(
                        {"content": text("what"), "status": text("how far"), "priority": text("how urgent")},
                        optional="status priority",
                    ),
                    "its steps",
                )
            }
        ),
    ),
    "permission": (
        "The agent asked for something, or was denied it.",
        record(
            {
                "id": text("the call"),
                "title": text("what for"),
                "status": text("`pending`, `denied`, `allowed`, ..."),
                "message": text("why"),
                "kind": _KIND,
            },
            optional="id title status message kind",
        ),
    ),
    "usage": ("What the turn has used so far, failed attempts included.", _TURN_USAGE),
    "retry": (
        "A try failed, and there will be another.",
        record(_NOTE, optional="kind message attempt max retry_after_s by"),
    ),
    "warning": (
        "What the user should know.",
        record(_NOTE, optional="kind attempt max retry_after_s by"),
    ),
    "error": ("What failed, as the tool said.", record(_NOTE, optional="attempt max retry_after_s by")),
    "handoff": (
        "The tool was given a summary of earlier turns.",
        record(
            {
                "to": text("the tool"),
                "turns": each({"type": "integer"}, "the turns told of"),
                "characters": integer("the summary's length"),
                "reason": text("why a new conversation began"),
                "replaces": maybe(text("the conversation that it replaces")),
                "message": text("what of the context window was exceeded"),
            },
            optional="reason replaces message",
        ),
    ),
    "fork": (
        "The session was forked from another.",
        record(
            {
                "from": text("the other session"),
                "turns": integer("how many of its turns"),
                "how": one_of("a copy by the tool itself, or a summary", "native", "handoff"),
                "of": maybe(text("the other's conversation")),
                "since": integer("the first of its turns that was not pruned"),
            },
            optional="since",
        ),
    ),
    "compaction": (
        "The conversation was compacted: by `csa compress` with all keys, else what the tool told of it.",
        record(
            {
                "status": text("`started`, `succeeded`, `failed`, `cancelled`, `timed_out` or `lost`"),
                "tool": text("the tool"),
                "argv": texts("its command line"),
                "proof": maybe(text("how the tool confirmed it")),
                "tokens_before": maybe(integer("the conversation's size before")),
                "tokens_after": maybe(integer("and after")),
                "usage": maybe(_TURN_USAGE),
                "error": maybe(record({"kind": _KIND, "message": _MESSAGE})),
                "duration_s": number("seconds it took"),
            },
            optional="status tool argv proof tokens_before tokens_after usage error duration_s",
            open_=True,
        ),
    ),
    "checkpoint": (
        "A checkpoint was saved.",
        record(
            {
                "commit": text("its commit"),
                "label": maybe(text("its label")),
                "automatic": flag("made by `checkpoint_every_turns`"),
                "sha256": text("the transcript's hash up to here"),
                "events": integer("how many events it covers"),
                "bytes": integer("and how many bytes"),
            }
        ),
    ),
    "session_updated": (
        "The session's record was changed; further keys say from what to what.",
        record(
            {
                "what": text("`renamed`, `described`, `budgeted`, `pinned`, `restored`, `adopted`, `attached`, ..."),
                "by": text("who did it"),
            },
            optional="by",
            open_=True,
        ),
    ),
    "run_finished": (
        "A turn ended.",
        record(
            {
                "status": one_of("how", *TURN_STATUSES),
                "exit_code": integer("of `csa run`"),
                "tool": text("the tool"),
                "model": maybe(text("the model")),
                "provider_session_id": maybe(text("the tool's conversation")),
                "tool_exit_code": maybe(integer("the tool's own")),
                "signal": maybe(integer("that ended the tool")),
                "stop_reason": maybe(text("why the agent stopped, in the tool's words")),
                "error": maybe(
                    record(
                        {"kind": _KIND, "message": _MESSAGE, "retry_at": moment("when to try again")},
                        optional="retry_at",
                    )
                ),
                "summary": text("the beginning of the answer"),
                "duration_s": number("seconds it took"),
                "usage": maybe(_TURN_USAGE),
                "peak_rss_bytes": maybe(integer("the most memory its processes used")),
                "denied": texts("what the agent was not allowed"),
                "head": maybe(text("the project's commit")),
                "started_at": moment("when it began"),
                "finished_at": moment("when it ended"),
                "chain": _CHAIN,
                "totals": _TOTALS,
                "by": text("another program, whose turn it was"),
            },
            optional="model provider_session_id tool_exit_code signal stop_reason error summary duration_s usage "
            "peak_rss_bytes denied head started_at finished_at chain totals by",
        ),
    ),
    "parked": (
        "After a `run_finished`: the next turn begins by itself.",
        record({"until": moment("when"), "tool": text("the tool"), "kind": maybe(_KIND)}),
    ),
    "other": ("What csa's adapter for the tool did not recognise.", record({"raw": anything("as the tool said it")})),
}


def event_schema() -> Schema:
    """Return the schema of one event: a line of a transcript."""
    keys = {
        "v": integer("the format's version, 1"),
        "seq": integer("1, 2, 3, ... over the life of the session"),
        "ts": moment("when; the record's own word for `at`"),
        "type": text("what happened, see `data`"),
        "turn": integer("the turn's number; 0 where a foreign line does not say"),
        "data": {"type": "object", "description": "what belongs to the type"},
    }
    cases = [
        {"if": {"properties": {"type": {"const": name}}}, "then": {"properties": {"data": schema}}}
        for name, (_, schema) in DATA.items()
    ]
    return {**record(keys), "allOf": cases}
