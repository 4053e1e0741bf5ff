"""The transcript's events as schemas: each type has its data. Pure.

These are records on disk: unknown keys are left out, while commands print null.
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
from csa.model.schemas.shared import REPLAYED_FROM, TURN_STATUSES

_KIND = text("the kind, as a keyword")
_MESSAGE = text("the same as a sentence")
_TURN_USAGE = ref("turn_usage", "tokens and cost")
_CHUNK = flag("true if the tool streams: this continues the previous text")
_PARENT = text("the sub-agent's tool call it came from")
_TOTALS = mapping({"type": "number"}, "running totals of the conversation, for tools that only report those")
_CHAIN = each(
    record(
        {
            "turn": integer("its number"),
            "tool": text("its tool"),
            "status": one_of("how it ended", *TURN_STATUSES),
            "error_kind": maybe(text("why it failed")),
        }
    ),
    "the turns of a run with fallbacks, including the last one",
)
_CALL = {
    "id": text("the call"),
    "title": text("the call, for example the command line"),
    "kind": text("`read`, `edit`, `delete`, `move`, `search`, `execute`, `think`, `fetch`, `other`, ..."),
    "status": text("`in_progress`, `completed`, `failed` or `denied`"),
    "content": text("its result"),
    "exit_code": integer("of a shell command"),
    "paths": texts("the files it names"),
    "changes": each(
        record({"path": text("the file"), "old": maybe(text("what is replaced; null: all")), "new": text("by what")}),
        "how it changes files, unless that is long",
    ),
    "parent_id": _PARENT,
}
_SAID = {"text": text("the text"), "chunk": _CHUNK, "parent_id": _PARENT}
_SOURCE = record({"session_id": text("one that it began with"), "turns": each({"type": "integer"}, "its turns")})
_NOTE = {
    "kind": _KIND,
    "message": _MESSAGE,
    "attempt": integer("which attempt failed"),
    "max": integer("the maximum number of attempts"),
    "retry_after_s": number("seconds until the next attempt"),
    "by": text("`csa` if csa retries, not the tool"),
}
_PROCESS = record(
    {
        "exit_code": maybe(integer("its exit code")),
        "signal": maybe(integer("the signal it died of")),
        "stdout_bytes": integer("where its output ends in stdout.log"),
        "stderr_bytes": integer("where it ends in stderr.log"),
    },
    "the tool's process that has ended, if csa starts another one in the same turn",
)

CHAIN = _CHAIN
DATA: Mapping[str, tuple[str, Schema]] = {
    "run_started": (
        "A turn began.",
        record(
            {
                "tool": text("the tool"),
                "model": maybe(text("the requested model")),
                "effort": maybe(text("the requested reasoning effort")),
                "cwd": text("the tool's working directory"),
                "argv": texts("the tool's command line"),
                "pid": integer("the supervisor"),
                "caller": maybe(text("the session whose agent asked for the turn; null outside of agents")),
                "permission": text("what the agent may do"),
                "timeout_s": maybe(number("the turn's time limit")),
                "idle_timeout_s": maybe(number("the limit on silence")),
                "origins": mapping({"type": "string"}, "where each of these settings came from"),
                "template": text("the template it was run with; `origins` has its file"),
                "system": text("what was added to the tool's system prompt"),
                "flags": texts("the user's own words on the tool's command line"),
                "repair": flag("whether it repairs what kept the session's work from being landed; absent if not"),
                "secrets": each(
                    record({"name": text("the variable"), "source": text("`env:VARIABLE` or `file:FILE`")}),
                    "what `--secret` gave to the tool; the values are stored nowhere",
                ),
                "prompt": text("the prompt, redacted"),
                "resumed": maybe(text("the tool's conversation that is resumed")),
                "schema": record(
                    {
                        "sha256": text("its hash, as stored in the turn's schema.json"),
                        "how": one_of("held to it by the tool itself, or asked in the prompt", "native", "asked"),
                    },
                    "the schema of the answer",
                ),
                "attachments": each(
                    record(
                        {
                            "name": text("its file's name"),
                            "media_type": text("its type, by its content"),
                            "size_bytes": integer("its size"),
                            "sha256": text("its hash"),
                        }
                    ),
                    "images and files that came with the prompt; copies are in the turn's `prompt-files/`",
                ),
                "head": maybe(text("the project's commit")),
                "queued": text("the id of the queued prompt that it sends"),
                "replayed_from": REPLAYED_FROM,
            },
            optional="effort timeout_s idle_timeout_s origins caller template system flags secrets schema attachments "
            "head queued replayed_from repair",
        ),
    ),
    "session_bound": (
        "The tool named its conversation.",
        record({"provider_session_id": text("its id"), "model": text("the model")}, optional="model"),
    ),
    "user_message": ("A message to the tool.", record(_SAID, optional="chunk parent_id")),
    "agent_message": ("A message from the agent.", record(_SAID, optional="chunk parent_id")),
    "agent_thought": ("A thought of the agent.", record(_SAID, optional="chunk parent_id")),
    "tool_call": ("The agent uses a tool.", record(_CALL, optional="content exit_code paths changes parent_id")),
    "tool_call_update": (
        "Progress or end of a tool call.",
        record(_CALL, optional="title kind status content exit_code paths changes parent_id"),
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
        "The agent requested a permission, or was denied one.",
        record(
            {
                "id": text("the call"),
                "title": text("what for"),
                "status": text("`pending`, `denied`, `allowed`, ..."),
                "message": text("why"),
                "kind": _KIND,
                "ask": text("the id of what a person is asked, and is named in the answer"),
                "command": maybe(text("the command line it would run")),
                "paths": texts("the paths it names"),
                "options": each(
                    record({"id": text("its id"), "name": text("its text"), "kind": text("its kind")}),
                    "what the agent itself offers",
                ),
                "by": text("who decided what was asked: `user`, `timeout`, or `end` (of the turn)"),
                "via": text("through which door the user did: `answer`, `chat`, `http`, `acp`, ..."),
            },
            optional="id title status message kind ask command paths options by via",
        ),
    ),
    "usage": ("The turn's usage so far, including failed attempts.", _TURN_USAGE),
    "retry": (
        "An attempt failed, and there will be another.",
        record({**_NOTE, "process": _PROCESS}, optional="kind message attempt max retry_after_s by process"),
    ),
    "warning": (
        "A warning for the user.",
        record(_NOTE, optional="kind attempt max retry_after_s by"),
    ),
    "error": ("A failure, as reported by the tool.", record(_NOTE, optional="attempt max retry_after_s by")),
    "handoff": (
        "The tool got a summary of earlier turns.",
        record(
            {
                "to": text("the tool"),
                "turns": each({"type": "integer"}, "the summarised turns"),
                "characters": integer("the summary's length"),
                "reason": text("why a new conversation began"),
                "vendor": text("the vendor that got it, if it had not run those turns"),
                "replaces": maybe(text("the conversation that it replaces")),
                "message": text("how the context window was exceeded"),
                "sources": each(_SOURCE, "summarised turns of other sessions"),
                "process": _PROCESS,
            },
            optional="reason replaces message sources vendor process",
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
        "The conversation was compacted: by `csa compress` (all keys), or by the tool itself.",
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
        "The session's record was changed; further keys have the old and new values.",
        record(
            {
                "what": text(
                    "`created`, `renamed`, `described`, `pinned`, `closed`, `restored`, `attached`, `merged`, ..."
                ),
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
                "signal": maybe(integer("the signal that ended the tool")),
                "stop_reason": maybe(text("why the agent stopped, according to the tool")),
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
                "denied": texts("what the agent was denied"),
                "head": maybe(text("the project's commit")),
                "commit": text("the commit that csa has made of what the turn had left in the session's worktree"),
                "output": anything("the answer's value, if a schema asked for one and it conforms"),
                "started_at": moment("when it began"),
                "finished_at": moment("when it ended"),
                "chain": _CHAIN,
                "totals": _TOTALS,
                "by": text("the other program that ran the turn"),
            },
            optional="model provider_session_id tool_exit_code signal stop_reason error summary duration_s usage "
            "peak_rss_bytes denied head commit output started_at finished_at chain totals by",
        ),
    ),
    "parked": (
        "After a `run_finished`: the next turn begins by itself.",
        record({"until": moment("when"), "tool": text("the tool"), "kind": maybe(_KIND)}),
    ),
    "other": (
        "What csa's adapter for the tool did not recognise.",
        record({"raw": anything("the tool's original data")}),
    ),
}


def event_schema() -> Schema:
    """Return the schema of one event: a line of a transcript."""
    keys = {
        "v": integer("the format's version, 1"),
        "seq": integer("1, 2, 3, ... over the life of the session"),
        "ts": moment("when; the record's name for `at`"),
        "type": text("what happened, see `data`"),
        "turn": integer("the turn's number; 0 if a foreign line has none"),
        "data": {"type": "object", "description": "the data of this type"},
    }
    cases = [
        {"if": {"properties": {"type": {"const": name}}}, "then": {"properties": {"data": schema}}}
        for name, (_, schema) in DATA.items()
    ]
    return {**record(keys), "allOf": cases}
