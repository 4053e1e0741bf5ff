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
from csa.model.schemas.shared import (
    BRANCH,
    MIRROR,
    OLD_ERROR,
    OWNER,
    PIECES,
    REPLAYED_FROM,
    WORKTREE,
    known,
    old_id,
    words,
)

_TOOL_STATE = known(
    "provider_session_id model",
    {
        "since_turn": maybe(integer("the turn since which it has this conversation")),
        "replaces": maybe(text("the conversation that this one replaced")),
        "cwd": maybe(text("its working directory")),
        "account": maybe(text("the account it used")),
        "effort": maybe(text("the requested reasoning effort")),
        "last_action_summary": text("the beginning of its last answer"),
        "last_exit_code": maybe(integer("its last exit code")),
        "updated_at": maybe(moment("when this was recorded")),
    },
)
CARD = known(
    "session_id prefix name description project parent_session_id root_session_id depth status asking phase tool model "
    "turns queued time_s usage created_at last_accessed fault",
    {
        "mirror": MIRROR,
        "id": old_id(),
        "parent_host": maybe(text("the host that has the parent's record, if that is another one")),
        "held": maybe(text("why nothing is taken from its queue; null if the next prompt may begin")),
        "current": flag("it is `@current`"),
        "pinned": flag("clean-up leaves it alone"),
        "tools": mapping(_TOOL_STATE, "the state of each tool that has worked in it"),
        "last_turn": maybe(
            record(
                {
                    **words("turn tool status started_at finished_at duration_s"),
                    "exit_code": maybe(integer("what `csa run` exited with")),
                    "error": maybe(ref("turn_error", "why it failed")),
                    "template": maybe(text("the template it was run with")),
                    "replayed_from": maybe(REPLAYED_FROM),
                },
                "the last turn",
            )
        ),
        "running": maybe(
            known(
                "pid host tool turn since",
                {"errand": maybe(text("an activity that is not a turn: a compaction, an edit, an open interface"))},
                "the process at work in it",
            )
        ),
        "context": maybe(
            record(
                {"turn": integer("the turn that reported it"), **PIECES["usage"]["properties"]},
                "what the last turn read and wrote; tools report no more about their context",
            )
        ),
        "is_compacted": flag("its conversation was compacted"),
        "last_compacted_at": maybe(moment("when")),
        "owner": OWNER,
        "branch": BRANCH,
        "worktree": WORKTREE,
        "permission": maybe(text("what its agent may do: `read-only`, `edit` or `full`")),
        "ask": maybe(flag("whether its agents may ask for what is denied; null is as configured")),
        "shared": maybe(flag("whether other tools may work in it; null is as configured")),
        "extra_writable": texts("extra directories it may write"),
        "project_path": old(text(""), "project"),
        "directory": text("the directory of its files"),
        "fork_of": maybe(text("the session it was forked from")),
        "merged_from": texts("the sessions whose histories it began with"),
        "merged_into": texts("the sessions of the project that began with its history and others"),
        "children": each(
            known("session_id name description status tool", {"mirror": MIRROR, "id": old_id()}),
            "the sessions it has started",
        ),
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
            "the last messages",
        ),
        "denied": each(known("turn", {"what": text("what was denied")}), "what agents were denied"),
    },
)
_OWNER_EVIDENCE = known(
    "pid host tool turn since asking",
    {
        "start_time": integer("when that process started, in clock ticks since boot"),
        "boot_id": text("the kernel's boot"),
        "machine_id": text("the machine"),
        "pid_namespace": integer("the namespace of the PID"),
        "detached": flag("it outlives the process that started it"),
        "errand": maybe(text("an activity that is not a turn")),
        "parked_until": maybe(moment("when a parked turn continues")),
        "asks": texts("the ids of all that it asks"),
        "process": one_of("the state of its process", "running", "stopped", "gone", "reused", "out_of_sight"),
        "verified": flag("that process is certainly the owner"),
        "same_boot": flag("it belongs to this boot"),
        "same_machine": flag("it belongs to this machine"),
        "same_pid_namespace": flag("it is in our pid namespace"),
    },
    "who took the lock, according to the lock file",
)
EVIDENCE = known(
    "session_id name project status fault",
    {
        "mirror": MIRROR,
        "heard_s": maybe(number("how many seconds ago that host was heard of last")),
        "error": OLD_ERROR,
        "why": text("a sentence that explains the status"),
        "lock": record(
            {
                "held": maybe(flag("a process holds it")),
                "holders": each(
                    record({"pid": integer("the process"), "command": text("its command line")}), "its holders"
                ),
            },
            "the session's lock",
        ),
        "another_program": maybe(
            record({**words("pid"), "tool": text("its tool"), "is_seen": flag("the kernel shows its lock")})
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
        "cpu_percent": maybe(number("right now, of one core")),
        "rss_bytes": maybe(integer("the memory they use")),
        "permission": maybe(
            record(
                {
                    "pending": flag("it is unanswered"),
                    "age_s": maybe(number("how long ago")),
                },
                "the last requested permission, as in the event",
                open_=True,
            )
        ),
        "heartbeat": maybe(record({"age_s": maybe(number("its age")), "host": text("who wrote it")})),
        "cancel_asked": maybe(text("who has requested the turn's end")),
        "conversation": maybe(
            known(
                "tool provider_session_id",
                {
                    "since_turn": maybe(integer("the turn since which it has it")),
                    "replaces": maybe(text("the conversation that this one replaced")),
                },
            )
        ),
    },
    "The evidence for a session's status.",
)
KNOWN_OF_ANY = ("session_id", "prefix", "project", "status", "phase", "fault", "id")
STATUS = record(
    {
        **{key: CARD["properties"][key] for key in KNOWN_OF_ANY},
        **{key: maybe(schema) for key, schema in CARD["properties"].items() if key not in KNOWN_OF_ANY},
        "evidence": ref("evidence", "why it has its status"),
    }
)
