"""What `csa status` prints with `--json`: the card of a session, and the evidence for its status. Pure."""

from __future__ import annotations

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
from csa.model.schemas.shared import BRANCH, OLD_ERROR, OWNER, PIECES, known, old_id, words

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
        "owner": OWNER,
        "branch": BRANCH,
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
        "errand": maybe(text("what is done that is no turn")),
        "parked_until": maybe(moment("when a parked turn goes on")),
        "process": one_of("what its process is now", "running", "stopped", "gone", "reused", "out_of_sight"),
        "verified": flag("that process is surely the one"),
        "same_boot": flag("it belongs to this boot"),
        "same_machine": flag("it belongs to this machine"),
        "same_pid_namespace": flag("its PIDs are ours"),
    },
    "who took the lock, by its own account",
)
EVIDENCE = known(
    "session_id name project status fault",
    {
        "error": OLD_ERROR,
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
    "What shows that a session is in its status.",
)
KNOWN_OF_ANY = ("session_id", "prefix", "project", "status", "phase", "fault", "id")
STATUS = record(
    {
        **{key: CARD["properties"][key] for key in KNOWN_OF_ANY},
        **{key: maybe(schema) for key, schema in CARD["properties"].items() if key not in KNOWN_OF_ANY},
        "evidence": ref("evidence", "why it has its status"),
    }
)
