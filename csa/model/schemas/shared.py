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

REPLAYED_FROM = record(
    {"session": text("its id"), "turn": integer("its turn")},
    "the recorded turn that stood in for the tool, in a replay",
)
TURN_STATUSES = ("succeeded", "failed", "cancelled", "timed_out", "killed", "lost")
STATUSES = ("running", "open", "idle", *TURN_STATUSES, "unknown", "away", "damaged", "retired", "removed")
MIRROR = maybe(text("the other host whose session it is, seen in its mirror; null for those of this host"))
VOCABULARY: Mapping[str, Schema] = {
    "session_id": text("the session's full id, a ULID"),
    "prefix": text("the shortest unique prefix of the id, at least 10 characters"),
    "name": maybe(text("the session's name")),
    "description": maybe(text("one line of description; by default the beginning of its prompt")),
    "project": text("the absolute path of the session's project"),
    "parent_session_id": maybe(text("the session whose agent started this one; null for a root")),
    "root_session_id": maybe(text("the root of its tree; null for a root")),
    "depth": maybe(integer("0 for a root, 1 for its children, ...")),
    "status": one_of(
        "what the session is doing, or how its last turn ended: `running`; `open` (the tool's own interface is open); "
        "`idle` (it never ran); `succeeded`, `failed`, `cancelled`, `timed_out`, `killed`, `lost`; `unknown` (not "
        "visible from here); `away` (it ran on another host, which was not heard of lately); "
        "`damaged`; `retired` (in the trash); `removed` (it was ephemeral)",
        *STATUSES,
    ),
    "asking": maybe(text("what its agent waits to be allowed (`csa answer`); null if nothing")),
    "phase": text("`active`, `available` (its conversation was compacted), `closed` or `retired` (in the trash)"),
    "tool": maybe(text("the tool of the turn; for a session, of its last turn")),
    "turn": maybe(integer("the turn's number, from 1")),
    "turns": maybe(integer("how many turns the session has had")),
    "model": maybe(text("the model, if the tool or the caller has named it")),
    "provider_session_id": maybe(text("the tool's own id of the conversation")),
    "exit_code": integer("the exit code of `csa run`; in `csa wait`, that of waiting for it; for an error, of csa"),
    "started_at": maybe(moment("when the turn began")),
    "finished_at": maybe(moment("when the turn ended")),
    "duration_s": maybe(number("seconds the turn took; null while it is running")),
    "elapsed_s": maybe(number("seconds the turn has been running; after its end, the same as `duration_s`")),
    "time_s": number("total seconds of all finished turns"),
    "at": moment("when it happened"),
    "created_at": maybe(moment("when it was created")),
    "last_accessed": maybe(moment("when the session was last used")),
    "usage": maybe(ref("usage", "tokens and cost")),
    "fault": maybe(ref("error", "why csa cannot read the session; null if it can")),
    "pid": maybe(integer("the pid of its process, in that process's pid namespace")),
    "host": maybe(text("the machine it is running on")),
    "since": maybe(moment("when it started there")),
    "queued": maybe(integer("how many prompts wait for the session")),
    "dry_run": flag("true: nothing was done, the rest says what would be"),
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


BRANCH = maybe(text("the git branch the session was created on"))
WORKTREE = maybe(ref("worktree", "its own worktree; null if it has none"))
OWNER = maybe(text("the user, as user@host"))
OLD_ERROR = old(maybe(text("")), "fault.message")
_USAGE = {
    "input_tokens": integer("input tokens, including cached ones"),
    "output_tokens": integer("tokens written"),
    "cached_tokens": integer("input tokens that came from a cache"),
    "cost_usd": maybe(number("US dollars; null if unknown, never 0")),
    "turns_unmeasured": integer("turns (or compactions) that did not report tokens; the figures are a minimum"),
    "turns_unpriced": integer("turns (or compactions) that did not report cost; the cost is a minimum"),
}
_ERROR_KIND = text(
    "`usage`, `not_found`, `ambiguous`, `busy`, `refused`, `full`, `damaged`, `denied`, `config`, `tool` (it cannot be "
    "used), `unfinished`, `appeared` or `error`"
)
_TURN_ERROR_KIND = text(
    "`auth`, `rate_limit`, `quota`, `overloaded`, `network`, `server`, `invalid_request`, `context_overflow`, "
    "`permission`, `protocol`, `spawn`, `setup`, `tasks`, `internal`, `fenced`, `unknown_conversation`, `budget`, "
    "`invalid_output`, `timeout` or `idle_timeout`; where csa could not even look, the kind of an [error](#error)"
)
_ERROR_MESSAGE = text("what went wrong, as a sentence")
_MESSAGE = {
    "id": text("an id of the message: the session's, a dash, and the number of its first event"),
    "role": one_of("who: the agent is the `assistant`, csa the `system`", "user", "assistant", "thought", "system"),
    "content": text("the text"),
    "tool_calls": each(
        record({"id": text("the call"), "title": text("the call"), "kind": text("which kind")}),
        "the agent's tool calls after it",
    ),
    "tool_results": each(
        record(
            {
                "id": text("the call"),
                "status": text("`completed`, `failed`, `denied` or `in_progress`"),
                "content": text("its result"),
                "exit_code": maybe(integer("of a shell command")),
            }
        ),
        "the results of these calls, in the same order",
    ),
}

PIECES: Mapping[str, Schema] = {
    "usage": record(_USAGE, "Tokens and cost, of one turn or the sum of several."),
    "turn_usage": record(
        _USAGE,
        "Tokens and cost of one turn; the last two keys are left out if they are 0.",
        optional="turns_unmeasured turns_unpriced",
    ),
    "worktree": record(
        {
            "path": text("its directory"),
            "branch": text("its branch"),
            "base": text("the commit that the session's own work begins after"),
            "checkout": text("the work tree that it was made from, where its work is to land"),
            "target": maybe(text("the branch that was checked out there; null if the head was detached")),
            "number": integer("`CSA_WORKTREE`: a number of its own among those of the project"),
            "setup": maybe(text("the command that prepares it")),
            "landed": maybe(text("the last commit of the work when it was landed; null if it was not")),
            "is_ready": flag("that command has succeeded, or there is none"),
            "landed_at": maybe(moment("when")),
            "refused": maybe(
                record(
                    {
                        "kind": one_of("what was in the way", "conflict", "markers", "check", "hook"),
                        "files": texts("the files in conflict, or with conflict markers"),
                        "onto": maybe(text("the commit that it was to follow")),
                        "message": text("the last lines of what the check or the hook said"),
                    },
                    "why its work could not be landed, or committed, last",
                )
            ),
        },
        "The git worktree of a session (docs/worktrees.md).",
    ),
    "error": record(
        {
            "kind": _ERROR_KIND,
            "message": _ERROR_MESSAGE,
            "hint": maybe(text("what to do about it")),
            "exit_code": VOCABULARY["exit_code"],
            "code": old(text(""), "kind"),
        },
        "Why csa could not do something, or refused it.",
    ),
    "turn_error": record(
        {
            "kind": _TURN_ERROR_KIND,
            "message": _ERROR_MESSAGE,
            "retry_at": maybe(moment("when the provider can be used again, if stated")),
        },
        "How a turn failed.",
    ),
    "message": record(
        {**words("session_id turn tool model at"), **_MESSAGE, "timestamp": old(text(""), "at")},
        "A message, with the tool calls that followed.",
    ),
    "exported_message": record(
        {**words("session_id model"), **_MESSAGE, "timestamp": moment("when it was sent")},
        "A message as it is exported; also the line of `--format jsonl`.",
    ),
    "collected": known(
        "session_id project name description last_accessed",
        {
            "id": old_id(),
            "action": one_of("to the trash, or for good", "retire", "purge"),
            "reason": text(
                "why: `old`, `expired`, `ephemeral`, `damaged`, `retired`, `remains`, `runtime`, `backup` or `worktree`"
            ),
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
        "A problem with a session's files.",
    ),
}
