"""Writes docs/http-api.md from the table of routes: what each takes and answers, with a line of curl for each.

The lines are run by a test, in this order, against a server with a session named `demo`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from csa.model.schemas.api import ERRORS, IN_PATH, OWN, ROUTES
from csa.model.schemas.route import ACT, PREFIX, ROOT, Route

_EXAMPLES: Mapping[str, Any] = {
    "create": {"prompt": "Say hello", "tool": "codex", "directory": "/path/of/project", "session_id": "demo"},
    "edit": {"description": "Says hello", "pinned": False},
    "turn": {"prompt": "Say it again", "after_turn": 1, "wait_s": 60},
    "enqueue": {"prompt": "And again"},
    "fork": {"prompt": "Say it louder", "name": "demo-loud"},
    "cancel": {"tree": False},
    "compress": {"timeout_s": 300},
    "answer": {"ask": "5f2c1d0e9b8a7766", "allow": True},
    "checkpoint": {"label": "before the change"},
    "land": {"into": "/path/of/project"},
    "new_thread": {"public_key": "alice"},
    "retitle": {"title": "Greetings"},
}
_CHAT = "550e8400-e29b-41d4-a716-446655440000"
_QUERIES = {
    "chat": "message=hello",
    "threads": "public_key=alice",
    "search": "q=hello",
    "logs": "tail=5",
    "events": "after=0&limit=10",
    "sessions": "limit=10",
    "delete": "force=true",
}
_ELSE = {
    "answer": " || test $? = 22  # it was answered already",
    "land": " || test $? = 22  # it has no worktree of its own",
    "diff": " || test $? = 22  # it is in no git repository",
}
_ORDER = (
    *(
        "health",
        "version",
        "openapi",
        "projects",
        "hosts",
        "tools",
        "create",
        "sessions",
        "session",
        "edit",
        "messages",
    ),
    *(
        "conversation",
        "events",
        "result",
        "why",
        "budget",
        "artifacts",
        "artifact",
        "logs",
        "diff",
        "land",
        "asks",
        "answer",
        "turn",
        "enqueue",
        "fork",
        "cancel",
    ),
    *("compress", "checkpoint", "search", "stats", "tree", "delete", "restore"),
    *("new_thread", "chat", "chat_state", "updates", "interrupt", "threads", "thread", "retitle", "delete_thread"),
)


def render() -> str:
    """Return the whole page."""
    parts = [
        "# HTTP API",
        "",
        "The routes of [`csa serve`](serve.md). This page is made (`make docs`) from the table with which the server",
        "checks requests; so is `/api/v1/openapi.json`. Answers are the objects that the command line prints with",
        "`--json`: see [json.md](json.md).",
        "",
        "In the examples `$URL` and `$TOKEN` are the parts of what `csa serve url` prints, and `demo` is a session.",
        "",
        "```sh",
        "api() {",
        """  curl -sS --fail-with-body -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' "$@\"""",
        "}",
        "```",
        "",
        'Errors have the body `{"error": {...}}`, with the [error object](json.md#error):',
        "",
        "| status | meaning |",
        "|---|---|",
        *(f"| {status} | {meaning} |" for status, meaning in ERRORS.items()),
    ]
    known = {route.name: route for route in ROUTES}
    assert {*known} == {*_ORDER}
    for name in _ORDER:
        parts += _section(known[name])
    return "\n".join(parts) + "\n"


def _section(route: Route) -> Iterator[str]:
    path = route.place.removeprefix(PREFIX).replace(":path", "")
    yield from ("", f"## {route.method} {path}", "", f"{route.about}. {_access(route)}{_answer(route)}")
    names = [("path", name, IN_PATH[name]["description"]) for name in route.parameters]
    names += [("query", name, schema["description"]) for name, schema in route.query.items()]
    names += [("header", name, schema["description"]) for name, schema in route.headers.items()]
    body = route.body["properties"] if route.body else {}
    needed = route.body["required"] if route.body else []
    names += [("body", name, schema["description"] + (" (needed)" * (name in needed))) for name, schema in body.items()]
    if names:
        yield from ("", "| in | name | meaning |", "|---|---|---|")
        yield from (f"| {place} | `{name}` | {about} |" for place, name, about in names)
    if route.answer or not route.streams:
        yield from ("", "```sh", _curl(route), "```")
    if route.streams:
        words = ["--no-buffer --max-time 2 -H 'Accept: text/event-stream'", *_session(route), _url(route, "")]
        line = f"api {' '.join(words)} || test $? = 28"
        yield from ("", "As a stream, for two seconds:", "", "```sh", line, "```")


def _access(route: Route) -> str:
    return "Needs a token that may act. " if route.access == ACT else ""


def _answer(route: Route) -> str:
    if not route.answer:
        return "" if route.streams else "Answers with the file."
    if route.answer in OWN:
        keys = OWN[route.answer].get("properties") or OWN[route.answer].get("items", {}).get("properties", {})
        said = "; ".join(
            f"`{name}`: {schema['description']}" for name, schema in keys.items() if "description" in schema
        )
        return f"Answers {route.status}" + (f" with {said}." if said else ".")
    one = "one of the objects" if route.is_item else "the object"
    return f"Answers {route.status} with {one} of [csa {route.answer}](json.md)."


def _url(route: Route, query: str) -> str:
    path = route.place.replace("{id}", _CHAT if route.prefix == ROOT else "demo").replace(
        "{name:path}", "turn-0001/notes.md"
    )
    return f'"$URL{path}{"?" + query if query else ""}"'


def _session(route: Route) -> list[str]:
    return [f"-H 'X-Session-Id: {_CHAT}'"] if route.headers and "id" not in route.parameters else []


def _curl(route: Route) -> str:
    words = ["api"] if route.method == "GET" or (route.method == "POST" and route.body) else ["api", "-X", route.method]
    words += _session(route)
    if route.name in _EXAMPLES:
        words += ["-X", route.method] if route.method == "PATCH" and "-X" not in words else []
        words += ["-d", f"'{json.dumps(_EXAMPLES[route.name])}'"]
    return " ".join([*words, _url(route, _QUERIES.get(route.name, ""))]) + _ELSE.get(route.name, "")
