"""What the commands that edit, manage and clean up sessions print with `--json`. Pure."""

from __future__ import annotations

from csa.model.schemas.kit import (
    anything,
    each,
    flag,
    integer,
    mapping,
    maybe,
    moment,
    old,
    one_of,
    record,
    ref,
    text,
    texts,
)
from csa.model.schemas.outputs import SESSION
from csa.model.schemas.shared import MIRROR, known, old_id, words

ARTIFACT = record(
    {
        **words("turn"),
        "path": text("the file"),
        "name": text("its name in output/"),
        "size_bytes": integer("its size"),
        "modified_at": moment("when it was last written"),
        "leads_out": flag("it is a link to something outside the output"),
        "copied_to": maybe(text("with --copy-to, the copy")),
    },
)
RENAMED = known("session_id project name", {"before": maybe(text("the previous name"))})
DESCRIBED = known("session_id project description", {"before": maybe(text("the previous description"))})
PINNED = known("session_id project", {"pinned": flag("clean-up leaves it alone")})
CREATED = known(
    "session_id project name description parent_session_id tool model",
    {"permission": text("the permission of its turns"), "current": flag("it is the current session now")},
)
CLOSED = known("session_id project", {"closed_at": moment("when it was closed")})
CURRENT = record({"session_id": maybe(text("the current session; null if none is chosen"))})
MERGED = known(
    "session_id name project tool description",
    {"merged_from": each(known("session_id name project turns"), "the sessions whose histories it begins with")},
)
_TURN_NUMBERS = {"type": "integer"}
CONTEXT = record(
    {
        **words("session_id tool"),
        "window": record(
            {
                "turns": integer("how many of the newest turns are sent at most; 0: all"),
                "tokens": integer("how many tokens are sent at most; 0: no limit"),
                "since_turn": integer("turns before this one are not sent; 0: all are"),
            },
            "the effective context window",
        ),
        "conversation": maybe(text("the tool's conversation that continues; null if a new one begins")),
        "why_new": maybe(text("why the existing conversation does not continue")),
        "sent_turns": each(_TURN_NUMBERS, "the turns that are sent, in the conversation or in the summary"),
        "summary_turns": each(_TURN_NUMBERS, "those in the summary"),
        "summary_sources": each(
            record({**words("session_id"), "turns": each(_TURN_NUMBERS, "its turns")}),
            "what the summary has of sessions that this one began with",
        ),
        "tokens": integer("the size of both"),
        "tokens_are_estimated": flag("it is (partly) an estimate, not the tool's figure"),
        "oldest_at": maybe(moment("when the oldest of the turns began")),
        "summary": maybe(text("the summary, as the tool gets it")),
    },
)
PRUNED = known("session_id project turns", {"since_turn": integer("turns before this one are not sent; 0: all are")})
COMPACTION = record(
    {
        **words("session_id tool duration_s usage"),
        "status": one_of("how it ended", "succeeded", "failed", "cancelled", "timed_out"),
        "proof": maybe(text("how the tool confirmed it")),
        "tokens_before": maybe(integer("the conversation's size before")),
        "tokens_after": maybe(integer("and after")),
        "error": maybe(ref("turn_error", "why it did not succeed")),
        "last_compacted_at": maybe(moment("when the conversation was last compacted")),
    },
)
_CHECKPOINT = {
    "commit": text("the checkpoint's commit"),
    "turn": integer("the last turn it covers; 0: none"),
    "status": maybe(text("the session's status then")),
    "label": maybe(text("its label")),
    "automatic": flag("made by `checkpoint_every_turns`"),
    "sha256": text("the transcript's hash"),
    "events": integer("how many events it covers"),
    "bytes": integer("and how many bytes"),
    "verified": maybe(
        one_of(
            "with --verify or --show: the result",
            "ok",
            "changed",
            "truncated",
            "gone",
            "unbound",
        )
    ),
}
SEARCH_INDEX = record(
    {
        "path": maybe(text("its file; null if there is none")),
        "size_bytes": integer("its size"),
        "sessions": integer("how many sessions are in it"),
        "stale": integer("how many sessions have changed since, or are not in it: searches read those"),
        "is_used": flag("searches use it"),
        "why": maybe(text("why they do not")),
    }
)
CHECKPOINT = record({**words("session_id created_at tool"), **_CHECKPOINT})
CHECKPOINT_SHOWN = record(
    {
        **CHECKPOINT["properties"],
        "files": record(
            {"state.toml": maybe(text("its content")), "result.toml": maybe(text("its content"))}, "what it keeps"
        ),
    }
)
HISTORY = known(
    "at turn",
    {
        "kind": one_of(
            "a commit of the project, a checkpoint, or that the project's head moved", "commit", "checkpoint", "head"
        ),
        "commit": text("the commit"),
        "subject": text("its first line"),
        "author": maybe(text("who made it")),
    },
)
CHANGES = record(
    {
        "session_id": text("the session"),
        "turns": each(integer("its number"), "the turns whose changes these are"),
        "directory": text("the work tree"),
        "base": maybe(text("the commit before the first turn; null if there was none")),
        "files": each(
            record(
                {
                    "path": text("the file, in the work tree"),
                    "status": one_of("what was done to it", "added", "modified", "deleted", "renamed"),
                    "renamed_from": maybe(text("its earlier path")),
                    "added": maybe(integer("lines added; null for what is binary, large or a submodule")),
                    "removed": maybe(integer("likewise lines removed")),
                }
            ),
            "the files that were changed",
        ),
        "diff": text("the changes, as git shows them"),
        "truncated": flag("the diff is longer than 8 MiB, and was cut"),
        "unclear": texts("files that were changed at another time, too, and are left out"),
        "also": texts("other sessions that ran there meanwhile, and may have made some of the changes"),
        "notes": texts("what else could not be told"),
    }
)
EXPORTED = record(
    {
        "file": text("the file that was written"),
        "format": text("its format"),
        "bytes": integer("its size"),
        "sessions": texts("the ids of the sessions in it"),
        "left_out": each(record({"what": text("what"), "why": text("why")}), "what was left out"),
    }
)
DOCUMENT = record(
    {
        **SESSION["properties"],
        "owner": maybe(text("the user, as user@host")),
        "exported_at": moment("when"),
        "messages": each(ref("exported_message"), "the conversation"),
    }
)
IMPORTED = known(
    "session_id project description",
    {
        "id": old_id(),
        "old_id": text("its id in the archive"),
        "dropped_name": maybe(text("the name it lost, as another session has it")),
        "is_copy": flag("another session has the same tools' conversations, so it starts its own"),
    },
)
DELETED = known(
    "session_id name project",
    {
        "done": maybe(one_of("`removed` can be restored", "removed", "purged")),
        "provider_copies": texts("with --provider: the tools' own copies that were deleted"),
        "error": maybe(ref("error", "why it was not deleted")),
    },
)
RESTORED = known("session_id project phase name")
CLEANED = known(
    "dry_run",
    {
        "retired": each(ref("collected"), "moved to the trash"),
        "purged": each(ref("collected"), "deleted for good"),
        "damaged": each(
            known("session_id fault", {"id": old_id(), "error": old(text(""), "fault.message")}),
            "damaged sessions, which stay",
        ),
        "running": texts("the ids of sessions that stay because they are running"),
        "kept": each(
            known("session_id project", {"why": text("what of its work has not landed")}),
            "sessions that stay although they are old enough, because of what is in their worktrees",
        ),
        "retired_bytes": integer("the size of what went to the trash"),
        "freed_bytes": integer("the size of what was deleted for good"),
        "failures": texts("what could not be deleted"),
    },
)
COLLECTED = record(
    {
        **CLEANED["properties"],
        "processes": each(
            known("session_id pid", {"command": text("its command line")}),
            "processes that finished sessions have left running",
        ),
        "reaped": integer("how many of these were ended"),
        "forgotten": each(
            known("session_id", {"mirror": MIRROR}), "what other hosts have deleted, and is no longer mirrored"
        ),
        "encrypted": texts("the ids of sessions that were encrypted: `[store] encrypt`"),
        "woken": texts("the ids of sessions that continue: parked ones, and those with queued prompts"),
    }
)
ADOPTED = known(
    "dry_run project",
    {
        "old_project": text("where the sessions were"),
        "moved": texts("the ids of those that were adopted"),
        "left": each(known("session_id", {"why": text("why")}), "those that were not moved"),
        "renamed": each(known("session_id name"), "those that lost their name to another session"),
    },
)
REPAIRED = known(
    "session_id dry_run",
    {
        "done": texts("what was repaired, as text"),
        "left": each(ref("problem"), "what is still wrong"),
        "backup": maybe(text("where the changed files are as they were, in the session's directory")),
        "kept": texts("their names"),
    },
)
TOOL = known(
    "tool model",
    {
        "is_default": flag("`csa run` uses it by default"),
        "installed": flag("its command exists"),
        "version": maybe(text("its version, as it reports it")),
        "problem": maybe(text("why its version is unknown")),
        "logged_in": maybe(flag("whether it would send credentials; null if unknown")),
        "login": maybe(text("what shows that, or what is missing")),
        "command": texts("its command line; empty if it is not installed"),
    },
)
TEMPLATE = known(
    "description tool model fault",
    {
        "template": text("its name"),
        "place": text("its file"),
        "whose": one_of("where it comes from", "user", "project"),
        "hidden": flag("one of the user's has the same name, and is used"),
        "variables": texts("what `--var` must give"),
        "effort": maybe(text("the reasoning effort to ask for")),
        "permission": maybe(text("what the agent may do")),
        "worktree": {
            "type": ["boolean", "string", "null"],
            "description": "whether new sessions get a git worktree, or what names its branch",
        },
        "system": maybe(text("text for the tool's system prompt")),
        "opening": maybe(text("text that comes before the first prompt of a session")),
        "schema": maybe(text("a JSON Schema, as JSON, that answers must conform to")),
        "prompt": maybe(text("the prompt, with `{{prompt}}` where what is typed goes")),
        "context_window": maybe(integer("how many earlier turns a turn sends at most")),
        "context_tokens": maybe(integer("how many tokens of earlier turns a turn sends at most")),
    },
)
DELETED_TEMPLATE = record({"template": text("its name"), "place": text("the file that was deleted")})
DIAGNOSIS = record(
    {
        "ok": flag("a run could work here"),
        "checks": each(
            record(
                {
                    "topic": one_of("the topic", "setup", "tools", "state", "system"),
                    "name": text("what was checked"),
                    "level": one_of("the result", "ok", "warn", "fail"),
                    "status": old(text(""), "level"),
                    "detail": text("what was found"),
                    "next_step": maybe(text("what to do about it")),
                    "blocks_runs": flag("no run works until this is fixed"),
                }
            ),
            "the checks, in the order in which they are shown",
        ),
    }
)
_SETTING = {
    "value": anything("the value; secrets are redacted"),
    "origin": text("where it was set, or `default`"),
}
SETTINGS = mapping(
    record(
        {
            **_SETTING,
            "ignored": maybe(record(_SETTING, "what a project's file asked for in vain")),
        }
    ),
    "the settings by their names, such as `tool` or `tools.codex.command`",
)
VALID = record({"valid": flag("always true; otherwise csa exits 6 with an error"), "sources": texts("what was read")})
TOKEN = record(
    {
        "name": text("its name"),
        "level": one_of("what it allows", "read", "act"),
        "created_at": moment("when it was made"),
    }
)
LISTED = record({"name": text("the argument for `csa schema`"), "about": text("what it describes")})
