"""What the commands that run and show sessions print with `--json`. Pure."""

from __future__ import annotations

from csa.model.schemas.events import CHAIN
from csa.model.schemas.kit import (
    each,
    flag,
    integer,
    mapping,
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
from csa.model.schemas.shared import PIECES, VOCABULARY, known, old_id, words

_AMOUNTS = {
    "tokens": maybe(integer("tokens, in and out")),
    "usd": maybe(number("US dollars")),
    "time_s": maybe(number("seconds of all turns, added up")),
}
_UNMEASURED = {
    "turns_unmeasured": maybe(integer("turns that did not tell their tokens")),
    "turns_unpriced": maybe(integer("turns that did not tell their cost")),
}
_BRANCH = maybe(text("the git branch on which the session began"))
_OWNER = maybe(text("the user, as user@host"))
_OLD_ERROR = old(maybe(text("")), "fault.message")
_NAMES = "session_id prefix name description project parent_session_id status phase tool turn"
_SPAN = "started_at duration_s usage"

RESULT = known(
    "session_id project turn tool model provider_session_id status exit_code started_at finished_at duration_s usage",
    {
        "text": text("the answer, whole"),
        "summary": text("its beginning, on one line"),
        "error": maybe(ref("turn_error", "why the turn did not succeed; null when it did, or was cancelled")),
        "tool_exit_code": maybe(integer("what the tool itself exited with")),
        "denied": texts("what the agent was not allowed to do"),
        "artifacts": texts("the files it left in the session's output"),
        "chain": CHAIN,
    },
)
PLAN = record(
    {
        "session_id": maybe(text("the session that would be continued; null for a new one")),
        **words("project tool parent_session_id depth model"),
        "session": old(text("`new`, or the session's id"), "session_id"),
        "why": text("why this tool"),
        "transport": text("how csa would speak to it"),
        "command": text("the command line, for a shell"),
        "cwd": text("where it would work"),
        "permission": text("what the agent might do"),
        "effort": maybe(text("the reasoning effort asked for")),
        "extra_writable": texts("directories in which it could write, too"),
        "timeout_s": maybe(number("the time limit")),
        "idle_timeout_s": maybe(number("the limit of its silence")),
        "retries": integer("how often csa would try again"),
        "fallback": texts("the tools that would take over"),
        "on_quota": maybe(text("what would be done about a used-up quota")),
        "parent": old(maybe(text("")), "parent_session_id"),
        "resumes": maybe(text("the tool's conversation that would be continued")),
        "fork_of": maybe(text("the session that would be forked")),
        "origins": mapping({"type": "string"}, "where each of these settings comes from"),
    },
)
DETACHED = known("session_id project turn tool pid")
ENDING = known(
    "session_id project status exit_code tool turn duration_s",
    {"error": maybe(ref("turn_error", "why it failed, or cannot be waited for"))},
)
KILLED = known(
    "session_id project status tool turn",
    {
        "outcome": one_of("what came of it", "killed", "not_running", "failed"),
        "forced": flag("its supervisor was killed, too"),
        "error": maybe(ref("error", "why it cannot be ended")),
    },
)
SESSION = known(
    f"{_NAMES} turns depth root_session_id {_SPAN} created_at last_accessed fault",
    {
        "id": old_id(),
        "tools": texts("all tools that have worked in it"),
        "children": maybe(integer("how many sessions of the project it has started")),
        "branch": _BRANCH,
        "error": _OLD_ERROR,
    },
)
IN_TREE = {
    **SESSION,
    "properties": {
        **SESSION["properties"],
        "subtree": record(
            {
                "sessions": integer("how many"),
                "statuses": mapping({"type": "integer"}, "how many of each status"),
                "time_s": number("seconds in which any of them ran"),
                "usage": ref("usage", "what they have used"),
            },
            "the session and all below it",
        ),
    },
    "required": [*SESSION["required"], "subtree"],
}
RUNNING = known(
    f"{_NAMES} {_SPAN} elapsed_s",
    {
        "id": old_id(),
        "parent": old(maybe(text("")), "parent_session_id"),
        "doing": text("what the agent is doing, in words"),
    },
)
PROCESS = {
    **RUNNING,
    "properties": {
        **RUNNING["properties"],
        **words("pid host since"),
        "detached": maybe(flag("it goes on when whoever started it ends")),
        "processes": maybe(integer("how many processes it has, sub-agents' included")),
        "cpu_s": maybe(number("the CPU time they have used")),
        "rss_bytes": maybe(integer("the memory they use")),
    },
    "required": [*RUNNING["required"], "pid", "host", "since", "detached", "processes", "cpu_s", "rss_bytes"],
}
_TOOL_STATE = known(
    "provider_session_id model",
    {
        "since_turn": maybe(integer("the turn from which it has had this conversation")),
        "replaces": maybe(text("the conversation that this one took the place of")),
        "cwd": maybe(text("where it works")),
        "account": maybe(text("which login it used")),
        "effort": maybe(text("the reasoning effort asked for")),
        "last_action_summary": text("the beginning of its last answer"),
        "last_exit_code": maybe(integer("what it last exited with")),
        "updated_at": maybe(moment("when this was noted")),
    },
)
CARD = known(
    "session_id prefix name description project parent_session_id root_session_id depth status phase tool model turns "
    "time_s usage created_at last_accessed fault",
    {
        "id": old_id(),
        "current": flag("it is `@current`"),
        "pinned": flag("clean-up leaves it alone"),
        "tools": mapping(_TOOL_STATE, "what each tool that has worked in it keeps"),
        "last_turn": maybe(
            record(
                {
                    **words("turn tool status started_at finished_at duration_s"),
                    "exit_code": maybe(integer("what `csa run` exited with")),
                    "error": maybe(ref("turn_error", "why it failed")),
                },
                "the last turn",
            )
        ),
        "running": maybe(
            known(
                "pid host tool turn since",
                {"errand": maybe(text("what is done that is no turn: a compaction, a change, an open interface"))},
                "who is at work in it",
            )
        ),
        "context": maybe(
            record(
                {"turn": integer("the turn that told it"), **PIECES["usage"]["properties"]},
                "what the last turn read and wrote, which is all that tools say of their context",
            )
        ),
        "is_compacted": flag("its conversation was compacted"),
        "last_compacted_at": maybe(moment("when")),
        "owner": _OWNER,
        "branch": _BRANCH,
        "permission": maybe(text("what its agent may do: `read-only`, `edit` or `full`")),
        "extra_writable": texts("directories in which it may write, too"),
        "project_path": old(text(""), "project"),
        "directory": text("where its files are"),
        "fork_of": maybe(text("the session of which it is a fork")),
        "children": each(known("session_id name description status tool", {"id": old_id()}), "whom it has started"),
        "expires_at": maybe(moment("when it may be cleaned up, after `--ttl`")),
        "last_activity": maybe(known("at", {"type": text("which event")}, "the last event")),
        "messages": each(
            known(
                "turn at",
                {
                    "role": text("`user` or `assistant`"),
                    "content": text("its first 2,000 characters"),
                    "timestamp": old(text(""), "at"),
                },
            ),
            "what was said last",
        ),
        "denied": each(known("turn", {"what": text("what was denied")}), "what agents were not allowed to do"),
    },
)
_OWNER_EVIDENCE = known(
    "pid host tool turn since",
    {
        "start_time": integer("when that process started, in clock ticks since boot"),
        "boot_id": text("the kernel's boot"),
        "machine_id": text("the machine"),
        "pid_namespace": integer("the namespace of the PID"),
        "detached": flag("it goes on when whoever started it ends"),
        "errand": text("what is done that is no turn"),
        "parked_until": text("when a parked turn goes on"),
        "process": one_of("what its process is now", "running", "stopped", "gone", "reused", "out_of_sight"),
        "verified": flag("that process is surely the one"),
        "same_boot": flag("it belongs to this boot"),
        "same_machine": flag("it belongs to this machine"),
        "same_pid_namespace": flag("its PIDs are ours"),
    },
    "who took the lock, by its own account",
)
EVIDENCE = known(
    "session_id project status fault",
    {
        "error": _OLD_ERROR,
        "why": text("the status, and what it follows from, in a sentence"),
        "lock": record(
            {
                "held": maybe(flag("somebody holds it")),
                "holders": each(
                    record({"pid": integer("the process"), "command": text("its command line")}), "who holds it"
                ),
            },
            "the session's lock",
        ),
        "another_program": maybe(
            record(
                {**words("pid"), "tool": text("its tool"), "is_seen": flag("the kernel shows that it holds its lock")}
            )
        ),
        "owner": maybe(_OWNER_EVIDENCE),
        "last_event": maybe(
            known(
                "turn at",
                {
                    "seq": integer("its number"),
                    "type": text("which"),
                    "age_s": maybe(number("how long ago")),
                    "ts": old(text(""), "at"),
                },
            )
        ),
        "silence_s": maybe(number("since the tool's last output")),
        "processes": maybe(integer("how many processes it has")),
        "cpu_s": maybe(number("the CPU time they have used")),
        "cpu_percent": maybe(number("just now, of one core")),
        "rss_bytes": maybe(integer("the memory they use")),
        "permission": maybe(
            record(
                {
                    "pending": flag("it is not answered"),
                    "age_s": maybe(number("how long ago")),
                },
                "the last permission asked for, as in the event",
                open_=True,
            )
        ),
        "heartbeat": maybe(record({"age_s": maybe(number("its age")), "host": text("who wrote it")})),
        "cancel_asked": maybe(text("who has asked for the turn's end")),
        "conversation": maybe(
            known(
                "tool provider_session_id",
                {
                    "since_turn": maybe(integer("the turn from which it has had it")),
                    "replaces": maybe(text("the conversation that this one took the place of")),
                },
            )
        ),
    },
)
KNOWN_OF_ANY = ("session_id", "prefix", "project", "status", "phase", "fault", "id")
STATUS = record(
    {
        **{key: CARD["properties"][key] for key in KNOWN_OF_ANY},
        **{key: maybe(schema) for key, schema in CARD["properties"].items() if key not in KNOWN_OF_ANY},
        "evidence": EVIDENCE,
    }
)
HIT = record(
    {
        **words("session_id name project turn tool"),
        "at": maybe(VOCABULARY["at"]),
        "role": text("who: `user`, `assistant`, ..."),
        "text": text("what was said, on one line"),
    }
)
ALIVE = known(
    "session_id project tool turn pid since fault",
    {
        "state": one_of("the answer", "alive", "not_alive", "unknown"),
        "errand": maybe(text("what is done that is no turn")),
        "parked_until": maybe(moment("when a parked turn goes on")),
        "another_program": flag("a program other than csa runs it"),
        "error": _OLD_ERROR,
    },
)
_BUDGET = {
    "budget": record(_AMOUNTS, "the limits; null is none"),
    "used": record({**_AMOUNTS, **_UNMEASURED}, "by the session and all below it"),
    "left": record(_AMOUNTS, "what is left"),
}
BUDGET = known(
    "session_id",
    {
        **_BUDGET,
        "above": each(known("session_id", _BUDGET), "budgets of sessions above it, which bind it as well"),
        "sessions": each(
            record(
                {
                    **words("session_id project parent_session_id"),
                    "state": one_of("what it is doing", "running", "at_rest", "gone"),
                    "known": flag("what it has used is known"),
                    **_AMOUNTS,
                    **_UNMEASURED,
                },
            ),
            "the session and all below it",
        ),
    },
)
_ROW = {
    "sessions": integer("how many had a turn"),
    "messages": integer("how many messages"),
    "turns": integer("how many turns"),
    "succeeded": integer("how many of them succeeded"),
    "success_rate": maybe(number("the share of the ended turns that succeeded")),
    "average_context_tokens": maybe(integer("what a turn read on average")),
    "compactions": integer("how many compactions"),
    "usage": ref("usage", "tokens and cost"),
    "time_s": VOCABULARY["time_s"],
    "share": maybe(number("the share of all turns")),
    "p95_peak_rss_bytes": maybe(integer("the peak memory that 95 of 100 turns did not exceed")),
}
STATS = record(
    {
        "by": text("what a row is of: `tool`, `day`, `tree` or `owner`"),
        "since": maybe(moment("from when")),
        "rows": each(record({"key": text("of which tool, day, tree or owner"), **_ROW}), "the rows"),
        "total": record(_ROW, "all of them"),
    }
)
