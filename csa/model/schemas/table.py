"""A schema for everything csa prints as JSON, by command and the option that decides about the output. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.schemas import card, outputs, plans, upkeep
from csa.model.schemas.events import event_schema
from csa.model.schemas.kit import Schema, document, each, record, ref
from csa.model.schemas.landing import LANDED
from csa.model.schemas.shared import PIECES as SHARED

PIECES = {**SHARED, "evidence": card.EVIDENCE}
_EVENT = event_schema()
# The name is the command's, without `session`; a further option is one of the command line's words.
OUTPUTS: Mapping[str, tuple[str, Schema]] = {
    "error": ("what any command prints when it fails: with `--json` on stdout", record({"error": ref("error")})),
    "event": ("a line of `csa run --stream-json` and of `csa logs --json`", _EVENT),
    "run": ("the turn, after its end", outputs.RESULT),
    "run --detach": ("the turn that was started", outputs.DETACHED),
    "run --dry-run --on": ("what would be run on another host", outputs.PLAN_THERE),
    "run --dry-run": ("what would be run", outputs.PLAN),
    "run --queue": ("where the prompt waits, or the turn that was started", outputs.QUEUED),
    "queue": ("the prompts that wait for a session", outputs.QUEUE),
    "retry": ("the turn, after its end", outputs.RESULT),
    "retry --detach": ("the turn that was started", outputs.DETACHED),
    "retry --dry-run": ("what would be run", outputs.PLAN),
    "plan run": ("the turn of the plan's session, after its end", outputs.RESULT),
    "plan run --detach": ("the turn that was started", outputs.DETACHED),
    "plan run --dry-run": ("the tasks in order, and what would be done", each(outputs.TASK, "")),
    "plan status": ("what has become of a plan's tasks", plans.STATUS),
    "plan drop": ("the worktrees of a plan, and what was done with each", each(plans.DROPPED, "")),
    "attach": ("the turn, after its end", outputs.RESULT),
    "answer": ("what agents wait to be allowed", each(outputs.ASK, "")),
    "answer --allow": ("the answer that counts", outputs.ANSWERED),
    "wait": ("how each session ended, in order of their ends", each(outputs.ENDING, "")),
    "kill": ("the result for each session", each(outputs.KILLED, "")),
    "list": ("the sessions, the last used first", each(outputs.SESSION, "")),
    "list --tree": ("the sessions, children after their parents", each(outputs.IN_TREE, "")),
    "show": ("the conversation", each(ref("message"), "")),
    "search": ("the messages and tool calls that were found, newest first", each(outputs.HIT, "")),
    "result": ("the last finished turn", outputs.RESULT),
    "info": ("everything about a session", card.CARD),
    "status": ("everything about a session, with the evidence for its status", card.STATUS),
    "why": ("the evidence for a session's status", ref("evidence")),
    "diff": ("what a session's turns have changed", upkeep.CHANGES),
    "land": ("the work that was landed", each(LANDED, "")),
    "artifacts": ("the files that agents have left", each(upkeep.ARTIFACT, "")),
    "is-alive": ("whether a session is running", outputs.ALIVE),
    "budget": ("the usage of a session and everything below it", outputs.BUDGET),
    "top": ("what is running, in all projects", each(outputs.RUNNING, "")),
    "ps": ("what is running, in all projects, with its processes", each(outputs.PROCESS, "")),
    "top --once": ("the same as `ps`", each(outputs.PROCESS, "")),
    "stats": ("what sessions have done and used", outputs.STATS),
    "stats --landed": ("what landed work has cost", outputs.LANDED),
    "rename": ("the session's name", upkeep.RENAMED),
    "describe": ("the session's description", upkeep.DESCRIBED),
    "pin": ("whether the session is pinned", upkeep.PINNED),
    "new": ("the session that was made", upkeep.CREATED),
    "close": ("the session that is closed", upkeep.CLOSED),
    "current": ("the current session", upkeep.CURRENT),
    "merge": ("the new session", upkeep.MERGED),
    "context": ("what the next turn sends of earlier turns", upkeep.CONTEXT),
    "prune": ("from which turn on earlier turns are sent", upkeep.PRUNED),
    "clear": ("from which turn on earlier turns are sent", upkeep.PRUNED),
    "compress": ("the compaction", upkeep.COMPACTION),
    "index status": ("the search index", upkeep.SEARCH_INDEX),
    "checkpoint": ("the checkpoint that was saved", upkeep.CHECKPOINT),
    "checkpoints": ("the checkpoints, newest first", each(upkeep.CHECKPOINT, "")),
    "checkpoints --show": ("one checkpoint, with its contents", upkeep.CHECKPOINT_SHOWN),
    "log": ("the session's git history, newest first", each(upkeep.HISTORY, "")),
    "export": ("with `-o FILE`: what was written", upkeep.EXPORTED),
    "export --format json": ("the sessions with their conversations", each(upkeep.DOCUMENT, "")),
    "import": ("the sessions that were imported", each(upkeep.IMPORTED, "")),
    "delete": ("the result for each session", each(upkeep.DELETED, "")),
    "restore": ("the session that is back", upkeep.RESTORED),
    "restore --tree": ("the sessions that are back, parents before children", each(upkeep.RESTORED, "")),
    "clean": ("what was cleaned up", upkeep.CLEANED),
    "gc": ("what was cleaned up", upkeep.COLLECTED),
    "adopt": ("the sessions that were adopted", upkeep.ADOPTED),
    "validate": ("what is wrong", each(ref("problem"), "")),
    "repair": ("what was repaired", upkeep.REPAIRED),
    "fetch": ("what has come of the session's work", outputs.BROUGHT),
    "hosts": ("the other hosts", each(outputs.REMOTE, "")),
    "hosts --placed": ("what was placed on other hosts", each(outputs.PLACEMENT, "")),
    "hosts --release": ("what was given back", outputs.PLACEMENT),
    "tools": ("the tools that csa can run", each(upkeep.TOOL, "")),
    "doctor": ("the checks", upkeep.DIAGNOSIS),
    "config show": ("the settings", upkeep.SETTINGS),
    "config validate": ("which files are valid", upkeep.VALID),
    "template list": ("the templates", each(upkeep.TEMPLATE, "")),
    "template show": ("the template", upkeep.TEMPLATE),
    "template save": ("the template", upkeep.TEMPLATE),
    "template delete": ("the template that was deleted", upkeep.DELETED_TEMPLATE),
    "serve token": ("the tokens for csa serve", each(upkeep.TOKEN, "")),
    "schema": ("the names of these schemas", each(upkeep.LISTED, "")),
}


def schema_of(name: str) -> Schema:
    """Return a self-contained schema; KeyError if there is none with that name."""
    about, schema = OUTPUTS[name]
    return document(schema, PIECES, title=f"csa {name}: {about}")
