"""What the commands that run and show sessions print with `--json`. Pure."""

from __future__ import annotations

from csa.model.landed import STATES as LANDED_STATES
from csa.model.schemas.events import CHAIN
from csa.model.schemas.kit import (
    anything,
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
from csa.model.schemas.shared import BRANCH, MIRROR, OLD_ERROR, VOCABULARY, WORKTREE, known, old_id, words

_AMOUNTS = {
    "tokens": maybe(integer("input and output tokens")),
    "usd": maybe(number("US dollars")),
    "time_s": maybe(number("total seconds of all turns")),
}
_UNMEASURED = {
    "turns_unmeasured": maybe(integer("turns that did not report tokens")),
    "turns_unpriced": maybe(integer("turns that did not report cost")),
}
_NAMES = "session_id prefix name description project parent_session_id status asking phase tool turn queued"
_SPAN = "started_at duration_s usage"

RESULT = known(
    "session_id name project turn tool model provider_session_id status exit_code started_at finished_at duration_s "
    "usage",
    {
        "text": text("the answer, whole"),
        "output": anything("the answer's value, if `--schema` asked for one and it conforms; else null"),
        "summary": text("its beginning, on one line"),
        "error": maybe(ref("turn_error", "why the turn did not succeed; null if it did, or was cancelled")),
        "tool_exit_code": maybe(integer("the tool's own exit code")),
        "denied": texts("what the agent was denied"),
        "head": maybe(text("the project's commit when the turn had ended; of a session with a worktree, its last one")),
        "commit": maybe(text("the one that csa has made of what the turn had left in the session's worktree")),
        "artifacts": texts("the files it left in the session's output"),
        "chain": CHAIN,
    },
)
TASK = record(
    {
        "task": text("its name"),
        "state": text("what has become of it"),
        "would": text("what a run would do, once what it needs is there"),
        "needs": texts("the tasks whose work it begins with"),
        "host": maybe(text("where it would run, if not here")),
        "tools": texts("the tools that it asks for; several are a race"),
        "sessions": texts("the ids of its sessions by now"),
    },
)
PLAN = record(
    {
        "session_id": maybe(text("the session that would be continued; null for a new one")),
        **words("name project tool parent_session_id depth model"),
        "session": old(text("`new`, or the session's id"), "session_id"),
        "why": text("why this tool"),
        "transport": text("how csa would talk to it"),
        "command": text("the command line, for a shell"),
        "cwd": text("its working directory"),
        "worktree": maybe(
            record(
                {
                    "path": text("its directory"),
                    "branch": text("its branch"),
                    "base": text("the commit that it would begin with"),
                    "target": maybe(text("the branch of the checkout; null if its head is detached")),
                    "setup": maybe(text("the command that would prepare it")),
                    "with_changes": flag("whether it would begin with what is not committed, too"),
                    "dirty": texts("what is not committed in the checkout"),
                },
                "the worktree that would be made for the session; null if none would",
            )
        ),
        "permission": text("what the agent may do"),
        "effort": maybe(text("the reasoning effort asked for")),
        "schema": maybe(one_of("how the answer would be held to a schema", "native", "asked")),
        "template": maybe(text("the template; `origins` has its file")),
        "flags": texts("the user's own words on the tool's command line"),
        "secrets": texts("the secrets the tool would get: the variable, and where its value comes from"),
        "env_drop": texts("variables the tool would not get"),
        "attachments": texts("the images and files that would come with the prompt"),
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
PLAN_THERE = record(
    {
        "session_id": maybe(text("the session that would be continued; null for a new one")),
        "mirror": text("the host"),
        "reach": texts("what would call csa there"),
        "code": maybe(one_of("how the code would get there; null if none would go", "bundle", "shared")),
        "directory": maybe(text("where the agent would work there; null if that depends on the code")),
        "tool": maybe(text("the tool; null if the host's configuration says it")),
        "leash_s": number("after how many seconds without csa run the turn would end"),
    },
)
HIT = record(
    {
        **words("session_id name project turn tool"),
        "mirror": MIRROR,
        "at": maybe(VOCABULARY["at"]),
        "role": one_of("who said it, or that it was done", "user", "assistant", "thought", "tool"),
        "text": text("the message; for a tool call its title and its output"),
    },
)
DETACHED = known("session_id project turn tool pid", {"mirror": MIRROR})
_HELD = maybe(text("why nothing is taken from the queue; null if the next prompt may begin"))
QUEUED = known(
    "session_id name project",
    {
        "entry_id": maybe(text("the id of the queued prompt, a ULID; null for a new session, which has no queue")),
        "position": integer("its place in the queue, from 1"),
        "started": maybe({**DETACHED, "description": "the turn that has begun at once; null if a turn was running"}),
        "held": _HELD,
    },
)
_PROMPT = record(
    {
        "id": text("its id, a ULID"),
        "position": integer("its place, from 1"),
        "prompt": text("the prompt, redacted; it is sent as it was typed"),
        "at": maybe(moment("when it was queued")),
        "by": maybe(text("the session whose agent has queued it")),
        "tool": maybe(text("the tool that was asked for")),
        "fault": maybe(text("why it cannot be read")),
    },
)
QUEUE = known(
    "session_id name project",
    {
        "held": _HELD,
        "prompts": each(_PROMPT, "the prompts that wait, the next one first"),
        "started": maybe({**DETACHED, "description": "the turn that --resume has begun"}),
    },
)
ENDING = known(
    "session_id name project status exit_code tool turn duration_s queued",
    {"error": maybe(ref("turn_error", "why it failed, or why csa cannot wait for it"))},
)
KILLED = known(
    "session_id name project status tool turn queued",
    {
        "mirror": MIRROR,
        "outcome": one_of("the result", "killed", "not_running", "failed"),
        "forced": flag("its supervisor was killed too"),
        "error": maybe(ref("error", "why it cannot be ended")),
    },
)
SESSION = known(
    f"{_NAMES} turns depth root_session_id {_SPAN} created_at last_accessed fault",
    {
        "mirror": MIRROR,
        "id": old_id(),
        "tools": texts("all tools that have worked in it"),
        "children": maybe(integer("how many sessions of the project it has started")),
        "merged_from": texts("the sessions whose histories it began with"),
        "merged_into": texts("the sessions of the project that began with its history and others"),
        "branch": BRANCH,
        "worktree": WORKTREE,
        "error": OLD_ERROR,
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
                "time_s": number("seconds during which any of them was running"),
                "usage": ref("usage", "their usage"),
            },
            "the session and everything below it",
        ),
    },
    "required": [*SESSION["required"], "subtree"],
}
RUNNING = known(
    f"{_NAMES} {_SPAN} elapsed_s",
    {
        "id": old_id(),
        "parent": old(maybe(text("")), "parent_session_id"),
        "mirror": MIRROR,
        "doing": text("what the agent is doing, as text"),
    },
)
PROCESS = {
    **RUNNING,
    "properties": {
        **RUNNING["properties"],
        **words("pid host since"),
        "detached": maybe(flag("it outlives the process that started it")),
        "processes": maybe(integer("how many processes it has, including sub-agents'")),
        "cpu_s": maybe(number("the CPU time they have used")),
        "rss_bytes": maybe(integer("the memory they use")),
    },
    "required": [*RUNNING["required"], "pid", "host", "since", "detached", "processes", "cpu_s", "rss_bytes"],
}
_ASKED = {"ask": text("the id of what is asked"), "title": text("what for, on one line")}
ASK = known(
    "session_id turn tool since",
    {
        **_ASKED,
        "kind": text("the kind of call: `execute`, `edit`, `delete`, ..."),
        "command": maybe(text("the command line")),
        "paths": texts("the paths it names"),
        "options": each(
            record({"id": text("its id"), "name": text("its text"), "kind": text("`allow_once`, `reject_once`, ...")}),
            "what the agent itself offers",
        ),
    },
)
ANSWERED = known("session_id", {**_ASKED, "allowed": flag("it may")})
ALIVE = known(
    "session_id project tool turn pid since fault",
    {
        "mirror": MIRROR,
        "state": one_of("the answer", "alive", "not_alive", "unknown"),
        "errand": maybe(text("an activity that is not a turn")),
        "parked_until": maybe(moment("when a parked turn continues")),
        "another_program": flag("another program than csa is running it"),
        "error": OLD_ERROR,
    },
)
_BUDGET = {
    "budget": record(_AMOUNTS, "the limits; null: none"),
    "used": record({**_AMOUNTS, **_UNMEASURED}, "by the session and everything below it"),
    "reserved": record(_AMOUNTS, "for sessions on other hosts, until what they have used is settled; null: none"),
    "left": record(_AMOUNTS, "what is left"),
}
BUDGET = known(
    "session_id",
    {
        **_BUDGET,
        "above": each(known("session_id", _BUDGET), "budgets of its ancestors, which apply to it too"),
        "sessions": each(
            record(
                {
                    **words("session_id project parent_session_id"),
                    "mirror": MIRROR,
                    "state": one_of(
                        "what it is doing; `reserved`: on another host", "running", "at_rest", "gone", "reserved"
                    ),
                    "known": flag("its usage is known"),
                    **_AMOUNTS,
                    **_UNMEASURED,
                },
            ),
            "the session and everything below it",
        ),
    },
)
_ROW = {
    "sessions": integer("how many had a turn"),
    "messages": integer("how many messages"),
    "turns": integer("how many turns"),
    "succeeded": integer("how many of them succeeded"),
    "success_rate": maybe(number("the success rate of finished turns")),
    "average_context_tokens": maybe(integer("what a turn read on average")),
    "compactions": integer("how many compactions"),
    "usage": ref("usage", "tokens and cost"),
    "time_s": VOCABULARY["time_s"],
    "share": maybe(number("the share of all turns")),
    "p95_peak_rss_bytes": maybe(integer("the peak memory that 95 of 100 turns did not exceed")),
}
STATS = record(
    {
        "by": text("what rows are grouped by: `tool`, `day`, `tree` or `owner`"),
        "since": maybe(moment("from when")),
        "rows": each(record({"key": text("the tool, day, tree or owner"), **_ROW}), "the rows"),
        "total": record(_ROW, "all of them"),
        "running": integer("how many of the turns are running"),
        "most_active_tool": maybe(text("the tool with most turns")),
        "replayed_turns": integer("turns that are not counted, since recorded ones stood in for their tools"),
    }
)
REMOTE = record(
    {
        "host": text("its name"),
        "kind": text("what reaches it: `ssh`"),
        "reach": texts("the command that starts csa there, without its arguments"),
        "reached": maybe(flag("there is a csa that fits; null without `--check`")),
        "version": maybe(text("its csa's version")),
        "tools": texts("the tools that are installed there"),
        "running": integer("how many turns run there, as far as was heard"),
        "sessions": integer("how many sessions its mirror has"),
        "heard_at": maybe(moment("when its sessions were seen last")),
        "heard_s": maybe(number("how many seconds ago that was")),
        "skew_s": maybe(number("how many seconds its clock is ahead")),
        "error": maybe(text("why it was not reached")),
    }
)
PLACEMENT = record(
    {
        **words("session_id parent_session_id"),
        "id": text("of the placement: a session can be placed for several turns"),
        "mirror": text("the host"),
        "state": one_of("how far it has come", "reserved", "sent", "placed", "settled"),
        "project": text("its parent's, or where it was placed"),
        "held": record(_AMOUNTS, "what it holds of the budgets here; null: none"),
        "used": maybe(record({**_AMOUNTS, **_UNMEASURED}, "before, and when it was settled")),
        "at": moment("when it was reserved"),
        "awaits_code": flag("its commits are still to be fetched"),
    }
)
BROUGHT = known(
    "session_id",
    {
        "mirror": MIRROR,
        "base": text("the commit that its work begins with: your work tree as it was sent"),
        "target": maybe(text("the branch that you were on; null if none")),
        "tip": maybe(text("the last commit of its work; null if there is none yet")),
        "refs": each(
            record(
                {
                    "ref": text("the ref here"),
                    "commit": text("its commit"),
                    "status": one_of(
                        "it was not here, was moved forward, was here, or is beside another that had its name",
                        "new",
                        "moved",
                        "same",
                        "aside",
                    ),
                }
            ),
            "what keeps its work",
        ),
        "is_clean": flag("`base` is in what you have checked out: `git merge` takes the work"),
        "problems": texts("what did not come"),
    },
)
_LANDED = {
    "commits": integer("how many commits are in the history"),
    "added": maybe(integer("lines that they add; null if others' work is in all of them")),
    "removed": maybe(integer("lines that they remove; likewise")),
    "sessions": integer("how many sessions had a turn"),
    "turns": integer("how many turns"),
    "usage": ref("usage", "tokens and cost"),
    "time_s": VOCABULARY["time_s"],
}
_WORKS = {"works": integer("how many works"), **_LANDED}
LANDED = record(
    {
        "since": maybe(moment("from when")),
        "histories": each(
            record(
                {
                    **words("project"),
                    "directory": text("the checkout"),
                    "branch": maybe(text("its branch; null if none is checked out")),
                    "head": text("its commit"),
                }
            ),
            "where commits were looked for",
        ),
        "works": each(
            record(
                {
                    **words("session_id name description project parent_session_id"),
                    "task": maybe(text("the plan's task")),
                    "state": one_of("what has become of it", *LANDED_STATES),
                    "attempts": texts("the sessions with its worktrees, oldest first"),
                    **_LANDED,
                    "commits": texts("its commits in the history"),
                    "shared_commits": texts("those of them that hold others' work as well"),
                }
            ),
            "the works, newest first; those that a work has started follow it",
        ),
        "landed": record(_WORKS, "the sum of what is in the history; a commit counts once"),
        "not_landed": record(_WORKS, "the sum of what is not"),
        "notes": texts("what could not be told"),
    }
)
