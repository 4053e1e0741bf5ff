"""The tools and resources that csa offers to MCP clients, as a table: names, texts for models, schemas. Pure.

Both transports serve these. What clients make of the annotations: codex runs a tool unattended only if it declares to
destroy nothing and to stay in a closed world, and so does csa's own policy for gemini-cli; claude-code shows tools with
that `_meta` to the model at once, not only after a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.model.schemas.kit import Schema, document, each, flag, integer, maybe, number, one_of, record, ref, text, texts
from csa.model.schemas.landing import LANDED
from csa.model.schemas.shared import MIRROR, PIECES, words
from csa.structs import Struct

# The revisions that begin with `initialize`, oldest first.
VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
INSTRUCTIONS = (
    "Sub-agents (codex, claude-code, gemini-cli, opencode and others) as sessions that last. `run` starts one and "
    "waits for its answer; where it says `running`, the sub-agent goes on, and `wait` waits again. A session can be "
    "continued with `run`, by its id or name."
)
LONGEST_WAIT_S, LONGEST_SILENT_WAIT_S = 240, 50  # with and without a progress token

_SESSION = text("the session: its id, a unique prefix of it, its name, or `HOST:` and one of these")
_WAIT = {
    "type": "number",
    "minimum": 0,
    "description": f"seconds to wait for the answer, at most {LONGEST_WAIT_S}; then the status is `running`, and the "
    "sub-agent goes on",
}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 200, "description": "how many at most (20)"}
_ANSWER = record(
    {
        **words("session_id name tool turn status"),
        "doing": text("while it is running: what it is doing"),
        "text": text("the answer"),
        "next": integer("the answer goes on: `show` with this `offset` returns more of it"),
        "output": {"description": "the answer's value, if a schema was asked for and it conforms"},
        "error": ref("turn_error", "why the turn did not succeed"),
        "denied": texts("what the sub-agent was denied"),
        "artifacts": texts("the files it has left, as absolute paths"),
        "duration_s": number("seconds the turn took"),
        "usage": ref("turn_usage", "tokens and cost"),
        "queued": integer("prompts that wait for the session"),
        "hint": text("what to do next"),
    },
    optional="name tool turn doing text next output error denied artifacts duration_s usage queued hint",
)
_LISTED = record(
    {
        **words("session_id name description project parent_session_id status tool turn started_at duration_s"),
        "mirror": MIRROR,
    }
)
_KILLED = record(
    {
        **words("session_id name status"),
        "outcome": one_of("the result", "killed", "not_running", "failed"),
        "error": maybe(ref("error", "why it cannot be ended")),
    }
)
_SHOWN = record(
    {
        **words("session_id name status tool turn"),
        "doing": text("what it is doing, or did last"),
        "text": text("what was asked for"),
        "next": maybe(integer("the `offset` of the rest; null if there is none")),
    }
)


class McpTool(Struct, kw_only=True):
    """One tool."""

    name: str
    title: str
    about: str
    takes: Schema
    returns: Schema
    only_reads: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `tools/list` has of it."""
        returns = document(self.returns, PIECES, title=self.name)
        del returns["$schema"]  # some clients know no dialect by name
        return {
            "name": self.name,
            "title": self.title,
            "description": self.about,
            "inputSchema": self.takes,
            "outputSchema": returns,
            "annotations": {
                "title": self.title,
                "readOnlyHint": self.only_reads,
                "destructiveHint": False,
                "idempotentHint": self.only_reads,
                "openWorldHint": False,
            },
            "_meta": {"anthropic/alwaysLoad": True},
        }


def _takes(keys: Mapping[str, Schema], *, required: str = "") -> Schema:
    return record(keys, optional=" ".join(name for name in keys if name not in required.split()))


TOOLS: tuple[McpTool, ...] = (
    McpTool(
        name="run",
        title="Run a sub-agent",
        about="Start a sub-agent on a task, or continue one, and wait for its answer. It knows nothing of this "
        "conversation: the prompt has to say all that it needs. To have several work at once, start each with wait_s "
        "0, then use `wait`. It ends with you unless `detach` is set.",
        takes=_takes(
            {
                "prompt": text("what the sub-agent is to do"),
                "tool": text(
                    "codex, claude-code, gemini-cli, opencode or another that `csa tools` lists; `auto`, the default, "
                    "chooses one, of another vendor than yours if there is one"
                ),
                "session": text("continue this session (id, unique prefix or name) instead of starting a new one"),
                "name": text("a name for the new session, unique in the project"),
                "description": text("what it is about, in a few words"),
                "model": text("the model"),
                "effort": text("the reasoning effort"),
                "permission": one_of("what the sub-agent may do, at most what you may", "read-only", "edit", "full"),
                "schema": {"type": "object", "description": "a JSON Schema that the answer has to conform to"},
                "directory": text("the absolute path of the directory to work in; by default the one csa runs in"),
                "worktree": text(
                    "have the new session work in a git worktree of its own, on the new branch `csa/` and this name; "
                    "empty: named by its id. What it leaves there is committed, and `csa land` brings it in"
                ),
                "timeout_s": number("seconds after which the sub-agent is ended"),
                "budget_tokens": integer("tokens that it and all it starts may use"),
                "on": text("run it on this other host, or by this scheduler; `list` with `host` shows what is there"),
                "repair": flag("with a session: hand back what `land` has refused; the prompt may be empty"),
                "detach": flag("let it go on when you end"),
                "wait_s": _WAIT,
            },
            required="prompt",
        ),
        returns=_ANSWER,
    ),
    McpTool(
        name="wait",
        title="Wait for sub-agents",
        about="Wait until sub-agents have finished, and return their answers. Those whose status is still `running` go "
        "on: wait again.",
        takes=_takes(
            {
                "sessions": {**texts("the sessions: ids, unique prefixes or names"), "minItems": 1, "maxItems": 50},
                "any": flag("return as soon as one has finished"),
                "wait_s": _WAIT,
            },
            required="sessions",
        ),
        returns=record({"sessions": each(_ANSWER, "the sessions, in the order of the request")}),
        only_reads=True,
    ),
    McpTool(
        name="list",
        title="List sessions",
        about="List the sessions of the project, the last used first.",
        takes=_takes(
            {
                "status": text("only sessions with this status, as `running` or `failed`"),
                "parent": text("only sub-agents of this session (`@self` are your own)"),
                "host": text("those of this other host instead, of all projects, as it was heard of last"),
                "limit": _LIMIT,
            }
        ),
        returns=record(
            {"sessions": each(_LISTED, "the sessions"), "more": integer("how many more there are")},
        ),
        only_reads=True,
    ),
    McpTool(
        name="show",
        title="Show a session",
        about="Show the answer of a session, or its whole conversation, a part at a time.",
        takes=_takes(
            {
                "session": _SESSION,
                "what": one_of("what to show: the answer, unless given", "answer", "conversation"),
                "turn": integer("only this turn"),
                "offset": integer("the character at which to begin: `next` of the part before"),
            },
            required="session",
        ),
        returns=_SHOWN,
        only_reads=True,
    ),
    McpTool(
        name="kill",
        title="Stop a sub-agent",
        about="Stop what is running in a session, with all the processes it has started. The session stays, and can be "
        "continued.",
        takes=_takes({"session": _SESSION, "tree": flag("also stop all sessions it has started")}, required="session"),
        returns=record({"sessions": each(_KILLED, "what was stopped")}),
    ),
    McpTool(
        name="land",
        title="Land the work of a sub-agent",
        about="Bring what a sub-agent has committed or left in its `worktree`, or on another host, into the checkout "
        "you work in: your branch is fast-forwarded. If it conflicts, nothing is changed, and the error says in what.",
        takes=_takes(
            {
                "session": _SESSION,
                "directory": text("a directory in the checkout; by default the one csa runs in"),
                "squash": flag("as one commit"),
                "dry_run": flag("say what would be landed, and what is in the way, and change nothing"),
            },
            required="session",
        ),
        returns=LANDED,
    ),
)
BY_NAME: Mapping[str, McpTool] = {tool.name: tool for tool in TOOLS}

SCHEME = "csa://sessions"
LIST = {
    "uri": SCHEME,
    "name": "sessions",
    "title": "Sessions",
    "description": "The sessions of the project, the last used first.",
    "mimeType": "application/json",
}
TEMPLATES: tuple[dict[str, str], ...] = (
    {
        "uriTemplate": f"{SCHEME}/{{id}}/answer",
        "name": "answer",
        "title": "Answer",
        "description": "The answer of a session's last finished turn.",
        "mimeType": "text/markdown",
    },
    {
        "uriTemplate": f"{SCHEME}/{{id}}/transcript",
        "name": "transcript",
        "title": "Transcript",
        "description": "What happened in a session, an event a line; of a long one the end.",
        "mimeType": "application/x-ndjson",
    },
    {
        "uriTemplate": f"{SCHEME}/{{id}}/artifacts/{{+name}}",
        "name": "artifact",
        "title": "Artifact",
        "description": "A file that the agents of a session have left.",
    },
)
