"""Makes the script of what stands in for a tool (csa/process/replayer.py) from a recorded turn.

The tool's recorded lines are sent as they are, with the ids of this replay in place of the recorded ones; the adapter's
decoder reads them as it reads the tool's. The log has no times: a line's time is that of the first event that the
decoder makes of it. By these times the lines are put in order with the beginnings and ends of nested runs.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from csa.errors import NotFoundError, RefusedError
from csa.ids import ENTROPY_BYTES, is_session_id, new_session_id
from csa.model.adapter import Decoder, Invocation, StderrReader, TurnRequest, Update
from csa.model.events import Event
from csa.model.pacing import AT_ONCE, parse_speed, pause_s
from csa.model.result import SIGNAL_EXITS
from csa.model.state import parse_time
from csa.process import replayer
from csa.runner.context import REPLAY, REPLAY_SPEED
from csa.runner.session import find_session
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.recorded import Replay, replays_below
from csa.runner.turns.verdict import Stop
from csa.store.recording import Call, RecordedTurn, Start
from csa.structs import Struct

Step = list[Any]
_SCRIPT = "replay.jsonl"
_END, _LINE, _BEGIN = range(3)  # the order of what has the same time
_PIECE = 1 << 18  # bytes of lines that are sent at once
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ENDED = re.compile(r"csa ended the tool \((.*?)\)", re.DOTALL)
_OF_RECORDS = frozenset({"usage"})  # events that adapters make of a tool's own files


class StandIn(Struct):
    """What is started in place of a tool.

    `records` is what its adapter had read from the tool's own files, which a replay does not have; `stop` is why csa
    had ended the tool, which it does again when the recorded output is over.
    """

    invocation: Invocation
    records: list[Update]
    stop: Stop | None


def make_stand_in(plan: TurnPlan, replay: Replay, asked: TurnRequest, *, start: int) -> StandIn:
    """Make what stands in for the tool of a plan; `start` counts how often the tool was started before in the turn.

    Raises:
        RefusedError: csa starts the tool more often than it was recorded, or the agent had continued a session that
            this replay does not have.
        NotFoundError, UsageError: as `find_session` and `parse_speed`.
    """
    starts = replay.turn.starts or []
    if start >= len(starts):
        raise RefusedError(f"The recording has {len(starts)} starts of the tool, and this would be another one.")
    recorded = starts[start]
    calls = [call for call in replay.calls if recorded.begun <= call.first.started.ts < recorded.ended]
    ids = {**_ids(plan, replay, calls, is_again=start > 0), **_conversations(replay, recorded, asked)}
    speed = parse_speed(plan.context.environ.get(REPLAY_SPEED) or "max")
    lines = _Lines(recorded, plan.adapter.decoder(asked), ids)
    moments = sorted(
        [*lines.moments, *(each for call in calls for each in _call_moments(plan, replay, call, ids, speed))],
        key=lambda moment: moment[:2],
    )
    stop = _stop_of(replay.turn) if recorded is starts[-1] else None
    steps = [*paced(moments, recorded.begun, speed), _last_step(recorded, stop)]
    script = "".join(json.dumps(step) + "\n" for step in steps)
    argv = (*replayer.COMMAND, os.path.join(asked.run_directory, _SCRIPT))
    return StandIn(Invocation(argv, b"", files={_SCRIPT: script}), lines.records, stop)


Moment = tuple[str, int, list[Step]]  # when it happened, its rank among others of that time, and what is done


class _Lines:
    """The recorded lines, each with its time; `records` are the events that are of no line, at the end."""

    def __init__(self, start: Start, decoder: Decoder, ids: dict[str, str]) -> None:
        self._clock = _Clock(start)
        out = [*self._moments("out", start.stdout, ids, decoder.feed)]
        reader = decoder.feed_stderr if isinstance(decoder, StderrReader) else _unread
        self._clock.rewind()
        self.moments: list[Moment] = [*out, *self._moments("err", start.stderr, ids, reader)]
        self.records = self._clock.left()

    def _moments(
        self, stream: str, content: bytes, ids: dict[str, str], feed: Callable[[bytes], list[Update]]
    ) -> Iterator[Moment]:
        for recorded, given in ids.items():
            content = content.replace(recorded.encode(), given.encode())
        for line in _lines_of(content):
            bare = line.removesuffix(b"\n")
            when = self._clock.when(feed(bare) if bare else [])
            yield when, _LINE, [[stream, line.decode("utf-8", "surrogateescape")]]


def _lines_of(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _unread(_line: bytes) -> list[Update]:
    return []


class _Clock:
    """Tells when a line was written: when the first event that the decoder makes of it was recorded.

    Each event is of one line, and their order is that of the lines; some events are csa's own. A line without events
    has the time of the one before.
    """

    def __init__(self, start: Start) -> None:
        self._events = start.events
        self._begin = self._now = start.begun
        self._at = 0
        self._taken: set[int] = set()
        self._absent: set[str] = set()  # types that do not come any more

    def rewind(self) -> None:
        """Begin with another stream, whose lines have events of their own."""
        self._at, self._now = 0, self._begin
        self._absent.clear()

    def when(self, updates: Iterable[Update]) -> str:
        """Return the time of a line with these updates."""
        found = [event for update in updates if (event := self._next(update.type))]
        self._now = max([self._now, *(event.ts for event in found[:1])])
        return self._now

    def left(self) -> list[Update]:
        """Return the events of the turn's end that were read from the tool's own files."""
        last = max(self._taken, default=-1)
        return [Update(event.type, dict(event.data)) for event in self._events[last + 1 :] if event.type in _OF_RECORDS]

    def _next(self, kind: str) -> Event | None:
        if kind in self._absent:
            return None
        for at in range(self._at, len(self._events)):
            if self._events[at].type == kind and at not in self._taken:
                self._taken.add(at)
                self._at = at + 1
                return self._events[at]
        self._absent.add(kind)
        return None


def _call_moments(plan: TurnPlan, replay: Replay, call: Call, ids: dict[str, str], speed: float) -> Iterator[Moment]:
    """Yield the beginning of a nested run, and its end, unless it went on when the turn had ended."""
    finished, ended = call.last.finished, replay.turn.span.finished
    outlives = finished is None or ended is None or finished.ts > ended.ts
    recorded, begun = call.session.session_id, call.first.started.ts
    name = f"{recorded}, turn {call.first.number},"
    argv = [plan.context.command, "run", "--session-id" if call.begins else "--session", ids[recorded]]
    argv += ["--detach", "--json"] if outlives else ["--stream-json", "--quiet"]
    if (source := call.fork_of) is not None:
        if source not in ids and (replay.archive or not is_session_id(source)):
            raise RefusedError(f"The recorded agent forked session {source}, which is not in the recording.")
        argv += ["--fork-from", ids.get(source, source)]
    env = {REPLAY: replay.selector_of(call), REPLAY_SPEED: str(speed)}
    yield begun, _BEGIN, [["begin", name, {"argv": argv, "env": env, "cwd": _directory(plan, replay, call)}]]
    if finished is not None:
        code = 0 if outlives else finished.data.get("exit_code") or 0
        yield begun if outlives else finished.ts, _BEGIN if outlives else _END, [["end", name, code]]


def _directory(plan: TurnPlan, replay: Replay, call: Call) -> str:
    """Return where a nested run starts: below the turn's directory, where it was below the recorded turn's."""
    cwds = (str(span.started.data.get("cwd") or "/") for span in (replay.turn.span, call.first))
    above, its = map(os.path.normpath, cwds)
    if its.startswith(above.rstrip("/") + "/"):
        its = os.path.join(plan.cwd, os.path.relpath(its, above))
    elif its == above or replay.archive:
        its = plan.cwd
    return its if os.path.isdir(its) else plan.cwd


def paced(moments: Sequence[Moment], begin: str, speed: float) -> Iterator[Step]:
    """Yield the steps in order, with the pauses between them; lines that follow at once are put together."""
    now, lines = begin, _Pieces()
    for when, _, steps in moments:
        if speed != AT_ONCE and (seconds := pause_s(seconds_between(now, when), speed)):
            yield from lines.take()
            yield ["sleep", seconds]
        now = max(now, when)
        for step in steps:
            if not lines.add(step):
                yield from lines.take()
                yield from [] if lines.add(step) else [step]
    yield from lines.take()


class _Pieces:
    """Lines of one stream that are sent at once."""

    def __init__(self) -> None:
        self._stream = ""
        self._texts: list[str] = []
        self._size = 0

    def add(self, step: Step) -> bool:
        """Add a step, if it is another line of the stream and there is room."""
        stream, text = step[0], step[1]
        if stream not in {"out", "err"} or (self._texts and (stream != self._stream or self._size > _PIECE)):
            return False
        self._stream, self._size = stream, self._size + len(text)
        self._texts.append(text)
        return True

    def take(self) -> Iterator[Step]:
        """Yield the step that sends them, if there are any."""
        if self._texts:
            yield [self._stream, "".join(self._texts)]
        self._texts, self._size = [], 0


def seconds_between(earlier: str, later: str) -> float:
    """Return the time between two recorded moments."""
    first, second = parse_time(earlier), parse_time(later)
    return (second - first).total_seconds() if first and second else 0.0


def _last_step(start: Start, stop: Stop | None) -> Step:
    """Return how the tool ended: by itself, or when csa ended it."""
    if stop is not None:
        return ["hang", start.exit_code, start.signal]
    return ["die", start.signal] if start.signal is not None else ["exit", start.exit_code or 0]


def _stop_of(turn: RecordedTurn) -> Stop | None:
    """Return why csa had ended the tool; None if it had ended by itself."""
    data = turn.span.finished.data if turn.span.finished else {}
    error = data.get("error") if isinstance(data.get("error"), dict) else {}
    message = str((error or {}).get("message") or "")
    status, kind = data.get("status"), (error or {}).get("kind")
    if status == "cancelled":
        names = {code: name for name, code in SIGNAL_EXITS.items()}
        return Stop("cancelled", names.get(data.get("exit_code") or 0), message)
    if status == "timed_out":
        return Stop("timed_out", None, message, kind if kind in {"timeout", "idle_timeout"} else None)
    if kind == "budget":
        return Stop("budget", None, message)
    for event in turn.events:
        if event.type == "warning" and event.data.get("kind") == "ended":
            found = _ENDED.match(str(event.data.get("message")))
            return Stop("reaped", None, found[1] if found else "")
    return None


def _ids(plan: TurnPlan, replay: Replay, calls: Sequence[Call], *, is_again: bool) -> dict[str, str]:
    """Return the recorded ids of sessions, and those in this replay; `is_again`: the tool was started before."""
    recorded, state = replay.turn.session.state, plan.state
    known = {recorded.parent_session_id: state.parent_session_id, recorded.root_session_id: state.root_session_id}
    ids = {old: new for old, new in known.items() if old and new}
    if is_again or not plan.is_new or any(call.fork_of or not call.begins for call in calls):
        ids = {**_earlier_replays(plan), **ids}
    ids[recorded.session_id] = state.session_id
    now_ms = time.time_ns() // 1_000_000
    for number, call in enumerate(calls):
        name = call.session.session_id
        if call.begins:  # after its parent, and in order
            ids[name] = new_session_id(now_ms + 1 + number, os.urandom(ENTROPY_BYTES))
        elif name not in ids:
            raise RefusedError(f"The recorded agent continued session {name}, which this replay has not run.")
    return ids


def _earlier_replays(plan: TurnPlan) -> dict[str, str]:
    """Return the sessions of this replay's tree, by the recorded ones."""
    try:
        top = find_session(plan.context, plan.state.root_session_id or plan.state.session_id)
    except NotFoundError:  # it has not begun
        return {}
    return replays_below(top.target)


def _conversations(replay: Replay, start: Start, asked: TurnRequest) -> dict[str, str]:
    """Return the tool's ids of conversations; a new one is never that of the recorded, real conversation."""
    data, ids = replay.turn.span.started.data, {}
    if data.get("resumed") and asked.provider_session_id:
        ids[str(data["resumed"])] = asked.provider_session_id
    forked = next((event.data.get("of") for event in replay.turn.events if event.type == "fork"), None)
    if forked and asked.fork_of:
        ids[str(forked)] = asked.fork_of
    for event in start.events:
        name = str(event.data.get("provider_session_id") or "") if event.type == "session_bound" else ""
        if name and name not in ids:
            ids[name] = asked.provider_session_id or _invented(name, asked.new_provider_id)
    return ids


def _invented(recorded: str, fresh: str) -> str:
    """Return another id of the same form, made from a fresh UUID."""
    if _UUID.fullmatch(recorded):
        return fresh
    head, mark, tail = recorded.rpartition("_")
    letters = fresh.replace("-", "") * (len(tail) // 32 + 1)
    return head + mark + letters[: len(tail)]
