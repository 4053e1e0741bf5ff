"""The vocabulary of csa's JSON: keys that mean the same in the output of every command, and the pieces they share."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.schemas.kit import (
    Schema,
    each,
    flag,
    integer,
    maybe,
    moment,
    number,
    old,
    one_of,
    record,
    ref,
    text,
    texts,
)

TURN_STATUSES = ("succeeded", "failed", "cancelled", "timed_out", "killed", "lost")
STATUSES = ("running", "open", "idle", *TURN_STATUSES, "unknown", "damaged", "retired", "removed")
VOCABULARY: Mapping[str, Schema] = {
    "session_id": text("the session's full id, a ULID"),
    "prefix": text("the shortest prefix of the id that names the session, at least 10 characters"),
    "name": maybe(text("the session's name")),
    "description": maybe(text("what the session is about: one line, at first the beginning of its prompt")),
    "project": text("the directory of the session's project, an absolute path"),
    "parent_session_id": maybe(text("the session whose agent started this one; null for a root")),
    "root_session_id": maybe(text("the root of its tree; null for a root")),
    "depth": maybe(integer("0 for a root, 1 for its children, ...")),
    "status": one_of(
        "what the session is doing, or how its last turn ended: `running`; `open` (somebody has the tool itself open); "
        "`idle` (it never ran); `succeeded`, `failed`, `cancelled`, `timed_out`, `killed`, `lost`; `unknown` (it "
        "cannot be known from here); `damaged`; `retired`; `removed` (it was ephemeral)",
        *STATUSES,
    ),
    "phase": text("`active`, `available` (its conversation was compacted) or `retired` (in the trash)"),
    "tool": maybe(text("the tool of the turn, of the last one where the object is about a session")),
    "turn": maybe(integer("the turn's number, from 1")),
    "turns": maybe(integer("how many turns the session has had")),
    "model": maybe(text("the model, as far as the tool or the caller has named it")),
    "provider_session_id": maybe(text("the tool's own id of the conversation")),
    "exit_code": integer("what `csa run` exits with for this, or has; of an error, what csa exits with"),
    "started_at": maybe(moment("when the turn began")),
    "finished_at": maybe(moment("when the turn ended")),
    "duration_s": maybe(number("seconds that the turn took; null while it runs")),
    "elapsed_s": maybe(number("seconds that the turn has run so far; once it has ended, the same as `duration_s`")),
    "time_s": number("seconds of all finished turns, added up"),
    "at": moment("when it happened"),
    "created_at": maybe(moment("when it was created")),
    "last_accessed": maybe(moment("when the session was last used")),
    "usage": maybe(ref("usage", "tokens and cost")),
    "fault": maybe(ref("error", "why csa cannot read the session; null when it can")),
    "pid": maybe(integer("the process that runs it, in its own pid namespace")),
    "host": maybe(text("the machine on which it runs")),
    "since": maybe(moment("since when it has been at work there")),
    "dry_run": flag("true where nothing was done, and the rest tells what would be"),
}


def words(names: str) -> dict[str, Schema]:
    """Keys of the vocabulary, in this order."""
    return {name: VOCABULARY[name] for name in names.split()}


def known(names: str, own: Mapping[str, Schema] | None = None, about: str = "") -> Schema:
    """A record with keys of the vocabulary, then keys of its own."""
    own = own or {}
    if taken := [name for name in own if name in VOCABULARY]:
        raise ValueError(f"{taken[0]} is a word of the vocabulary")
    return record({**words(names), **own}, about)


def old_id() -> Schema:
    """The key `id`, where it is a session's."""
    return old(text(""), "session_id")


BRANCH = maybe(text("the git branch on which the session began"))
OWNER = maybe(text("the user, as user@host"))
OLD_ERROR = old(maybe(text("")), "fault.message")
_USAGE = {
    "input_tokens": integer("tokens read, cached ones included"),
    "output_tokens": integer("tokens written"),
    "cached_tokens": integer("those of the tokens read that came from a cache"),
    "cost_usd": maybe(number("US dollars; null when unknown, never 0 for that")),
    "turns_unmeasured": integer("turns (or compactions) that did not tell their tokens; the figures are a minimum"),
    "turns_unpriced": integer("turns (or compactions) that did not tell their cost; the cost is a minimum"),
}
_ERROR_KIND = text("what kind of error, as a word: `usage`, `not_found`, `busy`, `auth`, `quota`, ...")
_ERROR_MESSAGE = text("what went wrong, in a sentence")
_MESSAGE = {
    "id": text("an id of the message: the session's, a dash, and the number of its first event"),
    "role": one_of("who: the agent is the `assistant`, csa the `system`", "user", "assistant", "thought", "system"),
    "content": text("what was said"),
    "tool_calls": each(
        record({"id": text("the call"), "title": text("what was to be done"), "kind": text("which kind")}),
        "what the agent did with tools after saying it",
    ),
    "tool_results": each(
        record(
            {
                "id": text("the call"),
                "status": text("`completed`, `failed`, `denied` or `in_progress`"),
                "content": text("what came of it"),
                "exit_code": maybe(integer("of a shell command")),
            }
        ),
        "what came of these calls, in the same order",
    ),
}

PIECES: Mapping[str, Schema] = {
    "usage": record(_USAGE, "Tokens and cost, of a turn or of several added up."),
    "turn_usage": record(
        _USAGE,
        "Tokens and cost of one turn; the last two keys are left out where they are 0.",
        optional="turns_unmeasured turns_unpriced",
    ),
    "error": record(
        {
            "kind": _ERROR_KIND,
            "message": _ERROR_MESSAGE,
            "hint": maybe(text("what to do about it")),
            "exit_code": VOCABULARY["exit_code"],
            "code": old(text(""), "kind"),
        },
        "Why csa could not, or would not, do something.",
    ),
    "turn_error": record(
        {
            "kind": _ERROR_KIND,
            "message": _ERROR_MESSAGE,
            "retry_at": maybe(moment("when the provider can be asked again, where that was stated")),
        },
        "How a turn failed.",
    ),
    "message": record(
        {**words("session_id turn tool model at"), **_MESSAGE, "timestamp": old(text(""), "at")},
        "Something that was said, with the tool calls that followed.",
    ),
    "exported_message": record(
        {**words("session_id model"), **_MESSAGE, "timestamp": moment("when it was said")},
        "A message as it is exported; also the line of `--format jsonl`.",
    ),
    "collected": known(
        "session_id project name description last_accessed",
        {
            "id": old_id(),
            "action": one_of("to the trash, or for good", "retire", "purge"),
            "reason": text("why: `old`, `expired`, `ephemeral`, `damaged`, `retired`, `remains` or `runtime`"),
            "tools": texts("the tools that worked in it"),
        },
        "A session, or remains of one, that was cleaned up.",
    ),
    "problem": known(
        "session_id",
        {
            "severity": one_of("an `error` is damage, a `warning` may become one", "error", "warning", "info"),
            "path": text("the file"),
            "line": maybe(integer("the line in it")),
            "problem": text("what is wrong"),
        },
        "Something that is wrong with a session's files.",
    ),
}
