"""The summary a tool gets of turns it has not seen: made from the (redacted) transcript, within a token limit.

The newest turn is included in full if it fits; the older a turn, the less room it gets. A tool call is reduced to its
title and how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from csa.model.events import Event
from csa.model.result import UNKNOWN_CONVERSATION, kind_in_words
from csa.paths import SessionPaths
from csa.store.results import read_final_text
from csa.store.transcript import read_events, read_events_backwards
from csa.structs import Struct, field

CHARS_PER_TOKEN = 4  # an estimate
_LEAST_ROOM = 240  # a turn that has less is left out, and so are those before it
_SHARE = 0.75  # of the remaining room, for a turn that has others before it
_MOST_CALLS = 200
_TITLE_CHARS = 160
_STREAMED_CHARS = 4000
_CHANGES = frozenset({"edit", "delete", "move"})
_CUT = "\n[...]\n"
FORKED = "This conversation began in another session. What happened there, oldest first:\n\n"
_BEFORE = "What happened earlier in this session, with other tools or in other conversations, oldest first:\n\n"
_OPENING_EVENTS = 50  # which include the fork


class DigestLimits(Struct):
    """How much is included; a token counts as four characters."""

    turns: int = 20
    tokens: int = 6000
    since: int = 0  # turns with a lower number are left out


class Origin(Struct):
    """The session that another was forked from, as it was after `turns` turns."""

    paths: SessionPaths
    turns: int
    since: int = 0  # turns with a lower number had been pruned


class Digest(Struct):
    """The text, and the numbers of the turns it covers, oldest first."""

    text: str
    turns: tuple[int, ...]


class Handoff(Struct):
    """The text that goes before the prompt, and the data of the `handoff` event."""

    text: str
    data: dict[str, Any]


def make_handoff(
    paths: SessionPaths,
    tool: str,
    limits: DigestLimits,
    *,
    turn: int,
    conversation: str | None,
    prompt: str,
    origin: Origin | None = None,
) -> Handoff | None:
    """Summarise for `tool`, before turn `turn`, what its conversation does not know; None if that is nothing.

    `conversation` is the tool's own that is resumed; without it all turns are covered, its own included, and, as far
    as there is room, those of the session that this one was forked from. `prompt` is the (redacted) prompt of the
    turn: an earlier turn that failed with the same one does not repeat it.
    """
    told = digest(paths, limits, before=turn, known_to=tool if conversation else None, prompt=prompt)
    parts = [f"{_BEFORE}{told.text}"] if told else []
    left = limits.tokens - (len(told.text) // CHARS_PER_TOKEN if told else 0)
    if origin and not conversation and not limits.since:  # else the origin was pruned, too
        room = DigestLimits(limits.turns - len(told.turns if told else ()), left, origin.since)
        first = digest(origin.paths, room, before=origin.turns + 1)
        parts = [*([f"{FORKED}{first.text}"] if first else []), *parts]
    if not parts:
        return None
    text = "\n\n".join([*parts, "Continue from there with the following."])
    return Handoff(text, {"to": tool, "turns": list(told.turns) if told else [], "characters": len(text)})


def origin_of(paths: SessionPaths) -> tuple[str, int, int] | None:
    """Return the session that one was forked from, its turns then, and the first not pruned; None if no fork."""
    for event in islice(read_events(paths.transcript), _OPENING_EVENTS):
        data = event.data
        if event.type == "fork" and type(data.get("turns")) is int:
            return str(data.get("from")), data["turns"], data["since"] if type(data.get("since")) is int else 0
    return None


def digest(
    paths: SessionPaths,
    limits: DigestLimits,
    *,
    before: int | None = None,
    known_to: str | None = None,
    prompt: str | None = None,
) -> Digest | None:
    """Summarise the turns of a session; None if there are none.

    Args:
        paths: the session.
        limits: how many turns, and how long a text.
        before: only turns with a lower number.
        known_to: only turns since the last one in which this tool's conversation was at work.
        prompt: where a turn was asked just this, that is said instead of repeating it.
    """
    told: list[_Turn] = []
    for turn in _turns_backwards(paths):
        if before is not None and turn.number >= before:
            continue
        if (known_to and turn.tool == known_to and turn.is_bound) or len(told) == limits.turns:
            break
        if turn.number < limits.since:
            break
        told.append(turn)
    parts: list[str] = []
    room = limits.tokens * CHARS_PER_TOKEN
    for index, turn in enumerate(told):
        if room < _LEAST_ROOM:
            break
        share = room if index == len(told) - 1 else max(_LEAST_ROOM, int(room * _SHARE))
        parts.append(_render(turn, share, prompt))
        room -= len(parts[-1]) + 2
    if not parts:
        return None
    return Digest("\n\n".join(reversed(parts)), tuple(turn.number for turn in reversed(told[: len(parts)])))


class _Turn(Struct, frozen=False):
    """A turn as read so far, from its end to its beginning."""

    number: int
    tool: str = ""
    prompt: str = ""
    answer: str = ""
    streamed: str = ""  # the end of a streaming tool's text
    is_bound: bool = False  # the tool had a conversation, which knows the turn
    is_void: bool = False  # the tool did not know the conversation, and got no other
    end: str = "has no recorded end: csa itself was killed"
    calls: list[tuple[str, str]] = field(default_factory=list)  # kind and line, newest first
    more_calls: int = 0
    ends: dict[str, str] = field(default_factory=dict)


def _turns_backwards(paths: SessionPaths) -> Iterator[_Turn]:
    turn: _Turn | None = None
    for event in read_events_backwards(paths.transcript):
        if turn is None or turn.number != event.turn:
            turn = _Turn(event.turn, answer=read_final_text(paths, event.turn).strip())
        if event.type == "run_started":
            turn.tool = str(event.data.get("tool", ""))
            turn.prompt = str(event.data.get("prompt", "")).strip()
            turn.is_bound = turn.is_bound or bool(event.data.get("resumed"))
            turn.answer = turn.answer or turn.streamed.strip()
            if not turn.is_void:
                yield turn
        else:
            _take(turn, event)


def _take(turn: _Turn, event: Event) -> None:
    data = event.data
    if event.type == "tool_call_update" and str(data.get("status")) in {"completed", "failed"}:
        code = data.get("exit_code")
        turn.ends.setdefault(str(data.get("id")), f"exit {code}" if code else str(data["status"]))
    elif event.type == "tool_call":
        _take_call(turn, event)
    elif event.type == "session_bound":
        turn.is_bound = True
    elif event.type == "agent_message" and not turn.answer:
        _take_message(turn, event)
    elif event.type == "run_finished":
        turn.end = _describe_end(event)
        error = event.data.get("error")
        turn.is_void = isinstance(error, Mapping) and error.get("kind") == UNKNOWN_CONVERSATION


def _take_message(turn: _Turn, event: Event) -> None:
    """Take the last message of a turn that left no answer."""
    text = str(event.data.get("text", ""))
    if not event.data.get("chunk"):
        turn.answer = turn.streamed.strip() or text.strip()
    elif len(turn.streamed) < _STREAMED_CHARS:
        turn.streamed = text + turn.streamed


def _take_call(turn: _Turn, event: Event) -> None:
    if len(turn.calls) == _MOST_CALLS:
        turn.more_calls += 1
        return
    kind = str(event.data.get("kind", "other"))
    title = " ".join(str(event.data.get("title") or kind).split())
    title = title if len(title) <= _TITLE_CHARS else title[: _TITLE_CHARS - 1] + "…"
    end = turn.ends.pop(str(event.data.get("id")), "unfinished")
    turn.calls.append((kind, f"- {'$ ' if kind == 'execute' else ''}{title} ({end})"))


def _describe_end(event: Event) -> str:
    status = str(event.data.get("status"))
    if status == "succeeded":
        return ""
    error = event.data.get("error")
    error = error if isinstance(error, dict) else {}
    return f"ended as {status}{kind_in_words(status, error.get('kind'))}: {error.get('message', '')}".rstrip(": ")


def _render(turn: _Turn, room: int, prompt: str | None) -> str:
    """Render a turn in at most `room` characters."""
    asked = "(the same as below)" if prompt is not None and turn.prompt == prompt else turn.prompt
    head = f"Turn {turn.number}, with {turn.tool}."
    end = f"The turn {_shorten(turn.end, 300)}" if turn.end else ""
    left = room - len(head) - len(end) - len("User: \nDid:\nAnswer: \n") - 8
    calls = "\n".join(line for _, line in reversed(turn.calls))
    if turn.more_calls:
        calls = f"- ({turn.more_calls} earlier calls)\n{calls}"
    if len(asked) + len(calls) + len(turn.answer) > left:
        third = max(0, left // 3)
        answer = _shorten(turn.answer, max(third, left - len(asked) - len(calls)))
        calls = _shorten_calls(turn, max(third, left - len(asked) - len(answer)), calls)
        asked = _shorten(asked, max(0, left - len(answer) - len(calls)))
    else:
        answer = turn.answer
    parts = [head, f"User: {asked}", f"Did:\n{calls}" if calls else "", f"Answer: {answer}" if answer else "", end]
    return "\n".join(part for part in parts if part)


def _shorten_calls(turn: _Turn, room: int, whole: str) -> str:
    """Keep what changed files, then the newest of the rest."""
    if len(whole) <= room:
        return whole
    kept: set[int] = set()
    left = room - len("- (12345 other calls)\n")
    for changes in (True, False):
        for index, (kind, line) in enumerate(turn.calls):
            if (kind in _CHANGES) is changes and len(line) + 1 <= left:
                kept.add(index)
                left -= len(line) + 1
    others = len(turn.calls) - len(kept) + turn.more_calls
    lines = [line for index, (_, line) in enumerate(turn.calls) if index in kept]
    return "\n".join([f"- ({others} other calls)", *reversed(lines)])


def _shorten(text: str, room: int) -> str:
    """Keep both ends of a text."""
    if len(text) <= room:
        return text
    half = (room - len(_CUT)) // 2
    return f"{text[:half]}{_CUT}{text[-half:]}" if half > 0 else ""
