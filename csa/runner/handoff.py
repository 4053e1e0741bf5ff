"""What a tool is told of the turns other tools have run in its session: a digest of the (redacted) transcript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from csa.paths import SessionPaths
from csa.store.results import read_final_text
from csa.store.transcript import read_events_backwards

MAX_DIGEST_CHARS = 24_000  # about 6,000 tokens
_MAX_MESSAGE_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class Handoff:
    """The text that goes before the prompt, and the data of the `handoff` event."""

    text: str
    data: dict[str, Any]


def make_handoff(paths: SessionPaths, tool: str) -> Handoff | None:
    """Digest what happened since the last turn of `tool`; None when no other tool has worked since."""
    parts: list[str] = []
    turns: list[int] = []
    size = 0
    for event in read_events_backwards(paths.transcript):
        if event.type != "run_started":
            continue
        if event.data.get("tool") == tool:
            break
        prompt = _shorten(str(event.data.get("prompt", "")))
        answer = _shorten(read_final_text(paths, event.turn))
        part = f"User: {prompt}\n\n{event.data.get('tool')}: {answer or '(no answer)'}"
        size += len(part)
        if size > MAX_DIGEST_CHARS:
            break
        parts.append(part)
        turns.append(event.turn)
    if not parts:
        return None
    text = (
        "This conversation was continued with other tools meanwhile. What was said, oldest first:\n\n"
        + "\n\n".join(reversed(parts))
        + "\n\nGo on from there with the following."
    )
    return Handoff(text, {"to": tool, "turns": sorted(turns), "characters": len(text)})


def _shorten(text: str) -> str:
    if len(text) <= _MAX_MESSAGE_CHARS:
        return text
    half = _MAX_MESSAGE_CHARS // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"
