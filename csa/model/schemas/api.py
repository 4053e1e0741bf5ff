"""The HTTP API as a table: what each route takes and answers. Routing, checks, OpenAPI and docs are made from it. Pure.

Answers are the objects that the command line prints as JSON, by the names that `csa schema` has for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from csa.model.schemas.chat_api import CHAT_OWN, CHAT_ROUTES
from csa.model.schemas.kit import Schema, each, flag, integer, maybe, moment, number, one_of, record, ref, text, texts
from csa.model.schemas.outputs import RUNNING
from csa.model.schemas.route import ACT, READ, Route
from csa.model.schemas.shared import TURN_STATUSES, words
from csa.model.schemas.table import OUTPUTS, PIECES

_PERMISSION = one_of("what the agent may do", "read-only", "edit", "full")
_TURN: Mapping[str, Schema] = {
    "prompt": text("what the agent is to do"),
    "tool": text("the tool, or `auto`"),
    "model": text("the model, which the session keeps"),
    "effort": text("the reasoning effort, kept likewise"),
    "permission": _PERMISSION,
    "ask": flag("the agent may ask for what its permission denies, from now on (`POST .../answer`)"),
    "ask_timeout_s": number("how long it waits for an answer, before it is denied; 0 is as long as its turn lasts"),
    "system": text("text to add to the tool's system prompt"),
    "schema": {"type": "object", "description": "a JSON Schema that the answer has to conform to"},
    "timeout_s": number("seconds after which the turn is ended"),
    "idle_timeout_s": number("seconds without output or CPU use after which it is ended"),
    "fallback": texts("TOOL or TOOL:MODEL of those that take over when the provider fails"),
    "budget_tokens": integer("tokens that the session and all below it may use"),
    "budget_usd": number("likewise in US dollars"),
    "budget_time_s": number("likewise in seconds of all turns"),
    "wait_s": number("how long to wait for a busy session, or while too many turns run, at most 600"),
}
_NEW: Mapping[str, Schema] = {
    **_TURN,
    "on": text("the host, or the scheduler, that runs it; the code in `directory` goes along, as `csa run --on` does"),
    "directory": text("where the session starts; its project must be served"),
    "session_id": text("a ULID, a UUID or a name: if there is such a session, it is returned, and nothing is started"),
    "name": text("a name, unique in the project"),
    "description": text("one line of description"),
    "worktree": text("work in a new git worktree, on the branch `csa/` and this; empty: named by the session's id"),
    "with_changes": flag("begin it with what is not committed in `directory`, too"),
}
_ITEM = record(
    {
        "seq": integer("the number of its first event"),
        "turn": integer("its turn"),
        "role": one_of("whose it is", "user", "assistant", "thought", "system", "note", "ask", "end"),
        "at": moment("when"),
        "text": text("what is said, or its beginning; empty if there is `html`"),
        "is_cut": flag("there is more of it"),
        "length": integer("how many characters it has as a whole"),
        "html": maybe(text("the Markdown of an agent as HTML, without any HTML of its own")),
        "tool": maybe(text("the tool")),
        "model": maybe(text("the model")),
        "calls": each(
            record(
                {
                    "id": text("the call"),
                    "title": text("the call, for example the command line"),
                    "kind": text("`read`, `edit`, `execute`, ..."),
                    "status": text("`in_progress`, `completed`, `failed` or `denied`"),
                    "exit_code": maybe(integer("of a shell command")),
                    "content": text("its output, or the beginning"),
                    "length": integer("how many characters that has as a whole"),
                }
            ),
            "the tool calls that followed",
        ),
        "ask": maybe(
            record(
                {
                    "ask": text("what an answer names"),
                    "status": text("`pending`, `allowed`, `denied`, or `expired` with its turn"),
                    "kind": text("of the call"),
                },
                "of an `ask`: a request for a permission, which a person may answer",
            )
        ),
        "end": maybe(
            record(
                {
                    "status": one_of("how", *TURN_STATUSES),
                    "message": text("why"),
                    "kind": maybe(text("the kind of failure")),
                    "hint": maybe(text("what to do about it")),
                    "used": text("tokens and cost, in words"),
                    "duration_s": maybe(number("how long the turn took")),
                },
                "of an `end`: how the turn ended",
            )
        ),
    }
)
_TICKING = {"elapsed_s", "id", "parent"}  # keys of `csa top` that change by themselves, or are deprecated
ROW = record(
    {
        **{name: schema for name, schema in RUNNING["properties"].items() if name not in _TICKING},
        **words("last_accessed"),
        "pinned": flag("clean-up leaves it alone"),
        "heard_at": maybe(moment("of a session that is `away`: when its host was heard of last")),
    }
)
_STATE = {
    "complete": flag("every session has been looked at since the server started"),
    "sessions": each(ref("row"), "the sessions; in an event `changes` those that are different from before"),
}
OWN: Mapping[str, Schema] = {
    "health": record({"ok": flag("always true")}),
    "version": record(
        {
            "version": text("csa's version"),
            "api": integer("the version of this API"),
            "root": text("the state root"),
            "access": one_of("what this token may do here", READ, ACT),
        }
    ),
    "projects": each(
        record(
            {
                "project": text("its directory"),
                "sessions": integer("how many sessions it has"),
                "running": integer("how many of them are running"),
            }
        ),
        "the projects that are served",
    ),
    "served_hosts": each(
        record(
            {
                "host": text("what it is called"),
                "kind": text("how it is reached, or which scheduler it is: `ssh`, `slurm`, ..."),
                "heard_at": maybe(moment("when it was heard of last; null if never")),
            }
        ),
        "the hosts",
    ),
    "page_of_events": record(
        {
            "events": each(ref("event"), "the events, in order"),
            "next": maybe(integer("`after` for the next page; null if there is no more now")),
        }
    ),
    "conversation": record(
        {
            "messages": each(_ITEM, "the messages and what is around them, in order"),
            "older": maybe(integer("`before` for what is earlier; null if there is nothing")),
        }
    ),
    "tree": record({**_STATE, "position": text("what `after` or `Last-Event-ID` continues from")}),
    "kept": record({"session_id": text("the session that existed already"), "created": flag("always false")}),
    "openapi": {"type": "object", "description": "this API as an OpenAPI 3.1 document"},
    **CHAT_OWN,
}


def schema_of(route: Route) -> Schema:
    """Return the schema of a route's answer, whose references lead into PIECES, OWN and "event"."""
    found = OWN[route.answer] if route.answer in OWN else OUTPUTS[route.answer][1]
    return dict(found["items"]) if route.is_item else found


_COMPONENTS = "#/components/schemas/"
IN_PATH = {
    "id": text("the session: its id, a unique prefix of it, its name, or `HOST:` and one of these"),
    "name": text("the file's name in output/"),
}
_TURN_NUMBER = {"turn": integer("only this turn")}
_PROJECT = {"project": text("only this project")}
_HOSTS = {
    "host": text("those of this other host, as it was heard of last"),
    "all_hosts": flag("those of all projects, here and on all other hosts"),
}
_ONE = "/sessions/{id}"
_OPTIONAL_TURN = " ".join(name for name in _TURN if name != "prompt")
_POSITION = {
    "after": integer("only events with a higher `seq`; as a stream it begins there, `Last-Event-ID` comes before it"),
    "before": integer("only events with a lower `seq`"),
    "limit": integer("how many at most (100): the first after `after`, else the last ones"),
}
_RANGE = {"range": text("`bytes=FIRST-LAST`: only this part; 206, or 416 if there is none")}
ROUTES: tuple[Route, ...] = (
    Route(method="GET", path="/health", name="health", about="Say that the server is there", answer="health"),
    Route(method="GET", path="/version", name="version", about="Say which csa this is", answer="version"),
    Route(method="GET", path="/openapi.json", name="openapi", about="Return this API's description", answer="openapi"),
    Route(
        method="GET", path="/projects", name="projects", about="List the projects that are served", answer="projects"
    ),
    Route(
        method="GET",
        path="/hosts",
        name="hosts",
        about="List the other hosts: those that are configured, and those of which there is a mirror",
        answer="served_hosts",
    ),
    Route(
        method="GET",
        path="/tools",
        name="tools",
        about="List the tools: installed, version, logged in",
        answer="tools",
        query={"project": text("as this project's settings have it")},
    ),
    Route(
        method="GET",
        path="/sessions",
        name="sessions",
        about="List sessions, the last used first",
        answer="list",
        query={
            **_PROJECT,
            **_HOSTS,
            "status": text("only sessions with this status; several with commas"),
            "tool": text("only sessions in which this tool worked; several with commas"),
            "limit": integer("how many at most (100)"),
        },
    ),
    Route(
        method="POST",
        path="/sessions",
        name="create",
        about="Start an agent in a new session, in the background",
        answer="run --detach",
        access=ACT,
        status=201,
        body=record(_NEW, optional=" ".join(name for name in _NEW if name not in {"prompt", "directory"})),
    ),
    Route(method="GET", path=_ONE, name="session", about="Show everything about a session", answer="info"),
    Route(
        method="PATCH",
        path=_ONE,
        name="edit",
        about="Change a session's name, description or pin",
        answer="info",
        access=ACT,
        body=record(
            {
                "name": maybe(text("the new name; null removes it")),
                "description": text("the new description"),
                "pinned": flag("clean-up leaves it alone"),
            },
            optional="name description pinned",
        ),
    ),
    Route(
        method="DELETE",
        path=_ONE,
        name="delete",
        about="Delete a session; it can be restored for some days",
        answer="delete",
        is_item=True,
        access=ACT,
        query={
            "force": flag("end it first if it is running, and delete it if it is pinned"),
            "purge": flag("delete it for good, at once"),
        },
    ),
    Route(
        method="POST",
        path=f"{_ONE}/restore",
        name="restore",
        about="Restore a deleted session",
        answer="restore",
        access=ACT,
    ),
    Route(
        method="POST",
        path=f"{_ONE}/turns",
        name="turn",
        about="Send a prompt to a session, in the background",
        answer="run --detach",
        access=ACT,
        status=202,
        body=record(
            {
                **_TURN,
                "after_turn": integer("the last turn the sender knows: 412 if there is another by now"),
                "repair": flag("hand back what landing has refused; the prompt may be empty"),
            },
            optional=f"{_OPTIONAL_TURN} after_turn repair",
        ),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/queue",
        name="enqueue",
        about="Queue a prompt; it begins at once if the session is not running",
        answer="run --queue",
        access=ACT,
        status=202,
        body=record(
            {name: each_ for name, each_ in _TURN.items() if name != "wait_s"},
            optional=" ".join(name for name in _TURN if name not in {"prompt", "wait_s"}),
        ),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/fork",
        name="fork",
        about="Start a new session with a copy of this one's conversation",
        answer="run --detach",
        access=ACT,
        status=201,
        body=record(
            {**_TURN, "name": text("a name, unique in the project"), "description": text("one line of description")},
            optional=f"{_OPTIONAL_TURN} name description",
        ),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/cancel",
        name="cancel",
        about="End what is running in a session",
        answer="kill",
        is_item=True,
        access=ACT,
        body=record({"tree": flag("end its descendants too")}, optional="tree"),
    ),
    Route(
        method="GET",
        path=f"{_ONE}/asks",
        name="asks",
        about="List what the agent of a running turn waits to be allowed",
        answer="answer",
    ),
    Route(
        method="POST",
        path=f"{_ONE}/answer",
        name="answer",
        about="Allow once what the agent asks for, or deny it; 409 if that was decided already, or the turn has ended",
        answer="answer --allow",
        access=ACT,
        body=record({"ask": text("the id of what it asks"), "allow": flag("it may")}),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/land",
        name="land",
        about="Bring the work of a session's worktree into a checkout; 409 if it conflicts, or the check fails",
        answer="land",
        is_item=True,
        access=ACT,
        body=record(
            {
                "into": text("a directory in the checkout; its project must be served"),
                "squash": flag("as one commit"),
                "check": text("a shell command that has to succeed in the worktree before"),
                "dry_run": flag("say what would be landed, and change nothing"),
                "keep": flag("leave the worktree and its branch where they are"),
            },
            optional="squash check dry_run keep",
        ),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/checkpoint",
        name="checkpoint",
        about="Save a checkpoint",
        answer="checkpoint",
        access=ACT,
        status=201,
        body=record({"label": text("a label")}, optional="label"),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/compress",
        name="compress",
        about="Have the tool compact the conversation, and answer when that has ended; it ends with the server",
        answer="compress",
        access=ACT,
        body=record(
            {"tool": text("the tool whose conversation it is"), "timeout_s": number("seconds it may take")},
            optional="tool timeout_s",
        ),
    ),
    Route(
        method="GET",
        path=f"{_ONE}/messages",
        name="messages",
        about="Show the conversation",
        answer="show",
        query={**_TURN_NUMBER, "limit": integer("how many at most (200), the last ones")},
    ),
    Route(
        method="GET",
        path=f"{_ONE}/conversation",
        name="conversation",
        about="Show the conversation in pages, the newest first, with the agents' Markdown as HTML; long texts are cut",
        answer="conversation",
        query={
            "before": integer("only what is before this `seq`"),
            "since": integer("instead: everything from the message with this `seq` on"),
            "whole": integer("instead: the message with this `seq`, with all of its text and output"),
            "limit": integer("how many at most (60); fewer if they are long"),
        },
    ),
    Route(
        method="GET",
        path=f"{_ONE}/events",
        name="events",
        about="Show what happened, event by event, or stream it",
        answer="page_of_events",
        query=_POSITION,
        streams=True,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/result",
        name="result",
        about="Show how the last finished turn ended, with its answer",
        answer="result",
        query=_TURN_NUMBER,
    ),
    Route(method="GET", path=f"{_ONE}/why", name="why", about="Show the evidence for a session's status", answer="why"),
    Route(
        method="GET",
        path=f"{_ONE}/budget",
        name="budget",
        about="Show what a session and all below it have used",
        answer="budget",
    ),
    Route(
        method="GET",
        path=f"{_ONE}/logs",
        name="logs",
        about="Return the tool's own output, or the log of the turn's supervisor, redacted, as text",
        answer="",
        query={
            "turn": integer("of this turn; else of the last one"),
            "kind": one_of("which of them (`raw`)", "raw", "system"),
            "tail": integer("only so many lines at the end"),
        },
        headers=_RANGE,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/diff",
        name="diff",
        about="Show what a session's turns have changed in the project",
        answer="diff",
        query=_TURN_NUMBER,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/artifacts",
        name="artifacts",
        about="List the files that agents have left",
        answer="artifacts",
        query=_TURN_NUMBER,
    ),
    Route(
        method="GET",
        path=f"{_ONE}/artifacts/{{name:path}}",
        name="artifact",
        about="Return one of these files, as an attachment",
        answer="",
        headers=_RANGE,
    ),
    Route(
        method="GET",
        path="/events",
        name="tree",
        about="Show all sessions as they are now, or stream their changes",
        answer="tree",
        query={"after": text("a position; as a stream it begins there, `Last-Event-ID` comes before it")},
        streams=True,
    ),
    Route(
        method="GET",
        path="/search",
        name="search",
        about="Find words in all conversations",
        answer="search",
        query={
            "q": text("the words: all of them must occur"),
            **_PROJECT,
            **_HOSTS,
            "tool": text("only in turns of this tool; several with commas"),
            "limit": integer("how many at most (50)"),
        },
        needs=frozenset({"q"}),
    ),
    Route(
        method="GET",
        path="/stats",
        name="stats",
        about="Sum up turns, tokens and cost",
        answer="stats",
        query={**_PROJECT, **_HOSTS, "by": one_of("what rows are", "tool", "day", "tree", "owner")},
    ),
    *CHAT_ROUTES,
)
ERRORS: Mapping[int, str] = {
    400: "The request is wrong.",
    401: "No token, or one that is not known.",
    403: "A limit, a budget or the token forbids it, or the project is not served.",
    404: "There is no such session, turn or route.",
    405: "The route does not have this method.",
    408: "The body did not come within 30 s.",
    409: "The session is busy, the name means several, what is answered was decided already, or work conflicts.",
    412: "There is another turn than the sender knew.",
    413: "The body is larger than 4 MiB.",
    415: "The body is not JSON.",
    416: "There is no such part of the file.",
    421: "The Host is not one that is served.",
    424: "The tool cannot be used; or another host cannot be reached; or no key opens what is encrypted.",
    429: "Too many turns are running, or a scheduler's queue is too long.",
    500: "A record is damaged, or csa has failed.",
    507: "The disk is full.",
}


def openapi(version: str) -> dict[str, Any]:
    """Return the API as an OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        place = route.place.replace(":path", "")
        paths.setdefault(place, {})[route.method.lower()] = _operation(route)
    pieces = {**PIECES, "row": ROW, "event": OUTPUTS["event"][1]}
    found: dict[str, Any] = _rooted(
        {
            "openapi": "3.1.0",
            "info": {"title": "csa serve", "version": version},
            "security": [{"token": []}],
            "paths": paths,
            "components": {
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
                "schemas": pieces,
                "responses": {
                    "error": {
                        "description": "; ".join(f"{status}: {what}" for status, what in ERRORS.items()),
                        "content": {"application/json": {"schema": record({"error": ref("error")})}},
                    }
                },
            },
        }
    )
    return found


def _operation(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.answer or not route.streams:
        content = {"application/json": {"schema": schema_of(route)}} if route.answer else {"*/*": {}}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    places = [(name, "path", IN_PATH[name]) for name in route.parameters]
    places += [(name, "query", schema) for name, schema in route.query.items()]
    places += [(name, "header", schema) for name, schema in route.headers.items()]
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "parameters": [
            {
                "name": name,
                "in": place,
                "required": place == "path" or name in route.needs,
                "schema": schema,
            }
            for name, place, schema in places
        ],
        "responses": {
            str(route.status): {"description": "done", "content": content},
            "default": {"$ref": "#/components/responses/error"},
        },
    }
    if route.name == "create":
        found["responses"]["200"] = {
            "description": "the session existed already",
            "content": {"application/json": {"schema": OWN["kept"]}},
        }
    if route.body is not None:
        is_needed = bool(route.body["required"])
        found["requestBody"] = {"required": is_needed, "content": {"application/json": {"schema": route.body}}}
    return found


def _rooted(value: Any) -> Any:
    """Return a document whose references lead to the shared pieces of OpenAPI."""
    if isinstance(value, list):
        return [_rooted(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item.replace("#/$defs/", _COMPONENTS) if key == "$ref" and isinstance(item, str) else _rooted(item)
        for key, item in value.items()
    }
