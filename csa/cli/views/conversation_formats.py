"""Conversations as documents to read elsewhere: Markdown, HTML, JSON, and JSON lines. Pure: from messages to text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape

from csa.cli.output import one_line, printable
from csa.model.clock import local_clock
from csa.model.conversation import Message, ToolCall, message_to_json
from csa.model.state import parse_time
from csa.structs import Struct

_FENCE = re.compile(r"`{3,}")
_WORDS = {"completed": "", "failed": " — failed", "denied": " — denied", "in_progress": " — not finished"}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --box: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1rem; color: var(--dim); border-top: 1px solid var(--line); padding-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; color: var(--dim); } dd { margin: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: inherit; }
details pre, .system pre { font: 13px/1.4 ui-monospace, monospace; }
.message { margin: 1rem 0; } .user { background: var(--box); border-radius: .5rem; padding: .75rem 1rem; }
.thought { color: var(--dim); font-style: italic; } .system { color: #b60; }
details { margin: .4rem 0; border: 1px solid var(--line); border-radius: .4rem; padding: .3rem .6rem; }
summary { cursor: pointer; font: 13px/1.4 ui-monospace, monospace; } .failed, .denied { color: #c33; }
"""


class Document(Struct):
    """A session as a document: facts about it, and its messages."""

    session_id: str
    about: Mapping[str, object]
    messages: Sequence[Message]

    @property
    def title(self) -> str:
        return str(self.about.get("name") or self.about.get("description") or self.session_id)


def render_jsonl(documents: Iterable[Document]) -> Iterator[str]:
    """Yield a line for each message."""
    for document in documents:
        for message in document.messages:
            yield json.dumps(message_to_json(document.session_id, message), ensure_ascii=False)


def render_json(documents: Iterable[Document]) -> Iterator[str]:
    """Yield an array of sessions with their messages."""
    whole = [
        {**document.about, "messages": [message_to_json(document.session_id, m) for m in document.messages]}
        for document in documents
    ]
    yield json.dumps(whole, ensure_ascii=False, indent=2)


def render_markdown(documents: Iterable[Document]) -> Iterator[str]:
    """Yield Markdown; tool calls are fenced."""
    for index, document in enumerate(documents):
        if index:
            yield "\n---\n"
        yield f"# {one_line(document.title)}\n"
        yield from (f"- {label}: {value}" for label, value in _about(document))
        for message in document.messages:
            yield from _markdown_of(message)


def _markdown_of(message: Message) -> Iterator[str]:
    yield f"\n## {_message_heading(message)}\n"
    if message.content.strip():
        prefix = {"thought": "> ", "system": "> "}.get(message.role, "")
        yield "\n".join(f"{prefix}{line}".rstrip() for line in message.content.strip("\n").split("\n"))
    for call in message.calls:
        content = f"{_call_title(call)}\n{call.content}".rstrip("\n")
        fence = "`" * max([3, *(len(found) + 1 for found in _FENCE.findall(content))])
        yield f"\n**{call.kind}**{_ending(call)}\n\n{fence}\n{content}\n{fence}"


def render_html(documents: Iterable[Document]) -> Iterator[str]:
    """Yield one self-contained page: no scripts, no files."""
    found = list(documents)
    title = escape(one_line(found[0].title) if len(found) == 1 else f"{len(found)} sessions")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>"
    )
    for document in found:
        yield f'<article id="{escape(document.session_id)}">\n<h1>{escape(one_line(document.title))}</h1>\n<dl>'
        yield from (f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in _about(document))
        yield "</dl>"
        for message in document.messages:
            yield from _html_of(message)
        yield "</article>"
    yield "</body>\n</html>"


def _html_of(message: Message) -> Iterator[str]:
    yield f'<section class="message {escape(message.role)}">\n<h2>{escape(one_line(_message_heading(message)))}</h2>'
    if message.content.strip():
        yield f"<pre>{escape(printable(message.content.strip(chr(10))))}</pre>"
    for call in message.calls:
        summary = (
            f'<summary class="{escape(call.status)}">{escape(one_line(_call_title(call) + _ending(call)))}</summary>'
        )
        yield f"<details>{summary}<pre>{escape(printable(call.content))}</pre></details>"
    yield "</section>"


def _about(document: Document) -> Iterator[tuple[str, str]]:
    yield "session", document.session_id
    tools = document.about.get("tools")
    for label, value in (
        ("tools", ", ".join(map(str, tools)) if isinstance(tools, list) else None),
        ("status", document.about.get("status")),
        ("turns", document.about.get("turns")),
        ("branch", document.about.get("branch")),
        ("created", _clock_with_zone(document.about.get("created_at"))),
        ("parent", document.about.get("parent_session_id")),
    ):
        if value:
            yield label, one_line(str(value))


def _message_heading(message: Message) -> str:
    who = {"user": "User", "thought": "Thought", "system": "csa"}.get(message.role) or message.tool or "Agent"
    model = f" ({message.model})" if message.model and message.role == "assistant" else ""
    return f"{who}{model} · turn {message.turn} · {_clock_with_zone(message.timestamp)}"


def _clock_with_zone(stamp: object) -> str:
    """Render a time with its zone: a document may be read elsewhere."""
    return local_clock(parse_time(stamp), "%Y-%m-%d %H:%M:%S %z", otherwise="")


def _call_title(call: ToolCall) -> str:
    return f"$ {call.title}" if call.kind == "execute" else call.title


def _ending(call: ToolCall) -> str:
    return f" — exit {call.exit_code}" if call.exit_code else _WORDS.get(call.status, f" — {call.status}")


FORMATS: Mapping[str, Callable[[Iterable[Document]], Iterator[str]]] = {
    "md": render_markdown,
    "json": render_json,
    "jsonl": render_jsonl,
    "html": render_html,
}
