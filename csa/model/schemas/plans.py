"""What `csa plan status` and `csa plan drop` print with `--json`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.schemas.kit import each, flag, integer, maybe, moment, number, one_of, record, ref, text, texts

# The states of a task, as in `csa.model.planstates`: what each means, and what another run of the plan does then.
STATES: Mapping[str, tuple[str, str]] = {
    "to_do": ("nothing has been done yet", "runs it"),
    "waiting": ("a task that it needs is not merged yet", "runs it when that is merged"),
    "running": ("its agent works", "waits for it"),
    "repairing": ("its agent resolves a conflict, or what the check has found", "waits for it"),
    "away": ("it was working on a host that was not heard of lately", "asks the host, and goes on there"),
    "parked": ("a quota is used up; it goes on in its session when that resets", "goes on when it has reset"),
    "finished": ("its agent is done; its work is to be merged", "merges it"),
    "to_choose": ("a race is over: somebody chooses whose work is merged", "nothing, without `--take TASK.TOOL`"),
    "merged": ("its work is in the plan's branch", "nothing"),
    "done": ("it only reads, and has answered", "nothing"),
    "conflict": ("its work conflicts with what other tasks have merged", "merges it, and has it repaired"),
    "check_failed": ("the check fails on the combined tree", "likewise"),
    "failed": ("its agent has failed", "goes on in its session"),
    "stopped": ("its turn was ended before it was over", "goes on in its session"),
    "changed": ("the plan says something else than its session was told", "goes on in its session, or in a new one"),
    "blocked": ("a task that it needs has failed, or is in conflict", "runs it once that is merged"),
}
_STATE = {
    "state": one_of("what has become of it", *STATES),
    "words": text("the same for people, as `waiting for api`"),
}
_COST = {
    "usage": ref("usage", "tokens and cost, with everything below"),
    "time_s": number("how long anything of it was running"),
}
_SESSION = record(
    {
        "name": text("the task, and in a race the tool, as `review.codex`"),
        "session_id": text("the session"),
        **_STATE,
        "mirror": maybe(text("the host that it is on; null for this one")),
        "tool": maybe(text("the tool of its last turn")),
        "added": maybe(integer("lines that it adds; null without a worktree")),
        "removed": maybe(integer("lines that it removes; likewise")),
        **_COST,
    }
)
_TASK = record(
    {
        "task": text("its name"),
        **_STATE,
        "others": texts("the tasks that it waits for, is blocked by, or is in conflict with"),
        "files": texts("those in conflict"),
        "until": maybe(moment("until when it is parked")),
        "needs": texts("the tasks whose work it begins with"),
        "host": maybe(text("where the plan has it run, if not here")),
        **_COST,
        "attempts": integer("how many sessions worked on it, those below it included"),
        "sessions": each(_SESSION, "its session, or those of a race"),
    }
)
STATUS = record(
    {
        "plan": text("what its sessions are named by"),
        "file": maybe(text("the file")),
        "session_id": maybe(text("its own session; null if it never ran")),
        "status": maybe(text("how its last run has ended, or `running`")),
        "tasks": each(_TASK, "in the order of the plan"),
        "would_conflict": each(
            record(
                {
                    "sessions": texts("the names of two, or of one that would conflict with what is merged"),
                    "files": texts("those in conflict"),
                }
            ),
            "what of the work that is not merged would conflict now",
        ),
        "unchecked_pairs": integer("pairs of tasks that were not looked at, as there are too many"),
        **_COST,
        "notes": texts("what could not be told"),
    }
)
DROPPED = record(
    {
        "session_id": text("whose worktree it is"),
        "name": text("its name"),
        "dropped": flag("it was taken away"),
        "branch": maybe(text("its branch")),
        "tip": maybe(text("the last commit of its work, which a ref keeps")),
        "aside": maybe(text("where the directory is until `undo_days` are over")),
        "unlanded": texts("what of its work had not landed"),
        "warnings": texts("what could not be kept"),
        "error": maybe(ref("error", "why it stays")),
    }
)
