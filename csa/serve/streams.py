"""Streams of events (SSE) that are pulled: a client has a position and never a queue, so that a slow one costs nothing.

Transcript lines go out as they are, in blocks that all who are at the same place share; `id:` is the event's number.
The tree of all sessions sends states, so that a slow client gets several changes as one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio
import anyio.to_thread

from csa.errors import CsaError
from csa.paths import SessionPaths
from csa.runner.atrest import Opened
from csa.runner.content import stamp_of_sealed
from csa.runner.sessions.fleet import Fleet, Key
from csa.serve.guard import Receive, Scope, Send
from csa.store.lines import Lines, head_of
from csa.store.mirrors import split_label
from csa.store.transcript import parse_line

LOOK_S, REST_S = 0.2, 1.0  # between looks at all sessions, with clients and without
FOLLOW_S, SLOWEST_S = 0.1, 0.5  # between looks at a transcript: while it grows, and after a while of silence
PING_S = 15.0
PING = b": ping\n\n"
_KEPT_BLOCKS = 4
_NO_JSON = re.compile(rb"\b(?:NaN|Infinity)\b")  # as numbers, or in a text
_PIECE = 16 << 10  # a connection holds at most one that was not taken yet


class Source:
    """Something to be pulled from, which says when there is more."""

    def __init__(self) -> None:
        self.clients = 0
        self.is_old = False  # nothing more will come; something else has taken its place
        self.changed = asyncio.Event()

    def wake(self) -> None:
        """Say that there is more."""
        self.changed.set()
        self.changed = asyncio.Event()


class Watch(Source):
    """All sessions, looked at once for all clients; each has the number of the look that has seen its last change."""

    def __init__(self, fleet: Fleet, boot: str) -> None:
        super().__init__()
        self.fleet = fleet
        self._boot = boot
        self._number = 0
        self._rows: dict[Key, tuple[int, dict[str, Any] | None]] = {}  # None: it is gone
        self._one = anyio.CapacityLimiter(1)
        self._asked = asyncio.Event()
        self._frames: OrderedDict[tuple[int | None, int], bytes] = OrderedDict()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                found = await anyio.to_thread.run_sync(self._look, limiter=self._one, abandon_on_cancel=True)
            except Exception as error:  # noqa: BLE001  # one look that fails must not end the server
                logging.getLogger(__name__).warning("the sessions could not be looked at: %s", error)
                found = {}
            if found:
                self._number += 1
                self._rows |= {key: (self._number, row) for key, row in found.items()}
                self.wake()
            with anyio.move_on_after(LOOK_S if self.clients or not self.fleet.is_complete else REST_S):
                await self._asked.wait()
            self._asked.clear()

    def _look(self) -> dict[Key, dict[str, Any] | None]:
        return {key: info.to_row() if info else None for key, info in self.fleet.look().items()}

    def look_soon(self) -> None:
        """Look at once: something was done through this server."""
        self._asked.set()

    @property
    def position(self) -> str:
        return f"{self._boot}-{self._number}"

    def number_of(self, position: str | None) -> int | None:
        """Return the number in a position that this server has given; None for what it has not."""
        boot, _, number = (position or "").rpartition("-")
        is_given = boot == self._boot and number.isdecimal() and len(number) < 16  # noqa: PLR2004
        return int(number) if is_given and int(number) <= self._number else None

    def state(self) -> dict[str, Any]:
        """Return all sessions."""
        rows = [row for _, row in self._rows.values() if row]
        return {"complete": self.fleet.is_complete, "sessions": rows, "position": self.position}

    async def pull(self, at: int | None) -> tuple[int | None, bytes]:
        """Return what is new for a client that has seen up to a look; everything for one that has seen nothing."""
        if at is not None and at >= self._number:
            return at, b""
        known = self._frames.get((at, self._number))
        if known is None:
            known = self._frames[at, self._number] = self._frame(at)
            while len(self._frames) > _KEPT_BLOCKS:
                self._frames.popitem(last=False)
        return self._number, known

    def _frame(self, at: int | None) -> bytes:
        if at is None:
            return frame("snapshot", self.state(), self.position)
        late = [(key, row) for key, (number, row) in self._rows.items() if number > at]
        changes = {
            "complete": self.fleet.is_complete,
            "sessions": [row for _, row in late if row],
            "removed": [_named(key) for key, row in late if row is None],
        }
        return frame("changes", changes, self.position)


def _named(key: Key) -> dict[str, Any]:
    host, project = split_label(key[0])
    return {"project": project, "session_id": key[1], "mirror": host}


class Channel(Source):
    """One transcript, looked at once for all who follow it. It ends when nobody does.

    It is old once another file has taken the transcript's place, as when the session is encrypted or opened. It may be
    what was opened of a sealed file: then it is old when that is another one, or gone.
    """

    def __init__(self, paths: SessionPaths) -> None:
        super().__init__()
        self._sealed = paths.sealed if isinstance(paths, Opened) else ""
        self._stamp = stamp_of_sealed(self._sealed)
        self.lines = Lines(paths.transcript)
        self.end = self.lines.end()
        self._size = self.lines.size()
        self._blocks: OrderedDict[tuple[int, int], tuple[int, bytes]] = OrderedDict()

    async def run(self) -> None:
        """Look as long as there are clients."""
        pause_s = FOLLOW_S
        while self.clients:
            await asyncio.sleep(pause_s)
            is_old = self._is_replaced()  # asked first, or its last lines could be missed
            try:
                size = self.lines.size()
                end = self.lines.end() if size != self._size else self.end
            except (CsaError, OSError):
                continue
            if size < self._size:  # a partial last line was dropped, or another file has taken its place
                self._blocks.clear()
            pause_s = FOLLOW_S if size != self._size else min(1.1 * pause_s, SLOWEST_S)
            self._size = size
            if end != self.end or is_old:
                self.end, self.is_old = end, is_old
                self.wake()
        self.lines.close()

    def _is_replaced(self) -> bool:
        return self.lines.is_replaced() or stamp_of_sealed(self._sealed) != self._stamp

    async def pull(self, at: int) -> tuple[int, bytes]:
        """Return the frames of the lines from a place on, at most about a block, and where they end."""
        if at >= self.end:
            return at, b""
        known = self._blocks.get((at, self.end))
        if known is None:
            block = self.lines.block(at, self.end)
            known = self._blocks[at, self.end] = at + len(block), frames_of(block)
            while len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return known


class Channels:
    """The transcripts that are followed."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._open: dict[str, Channel] = {}

    def enter(self, paths: SessionPaths) -> Channel:
        """Return the channel of a transcript, where that is now, with one more client."""
        channel = self._open.get(paths.pathname)
        if channel is None or channel.is_old:
            channel = self._open[paths.pathname] = Channel(paths)
            channel.clients = 1
            self._tasks.start_soon(self._run, paths.pathname, channel)
        else:
            channel.clients += 1
        return channel

    async def _run(self, name: str, channel: Channel) -> None:
        try:
            while channel.clients:
                await channel.run()
        finally:
            if self._open.get(name) is channel:
                del self._open[name]


def frame(event: str, data: object, position: str) -> bytes:
    """Return one event of a stream."""
    return f"id: {position}\nevent: {event}\ndata: ".encode() + json_of(data) + b"\n\n"


def json_of(value: object) -> bytes:
    """Return a value as JSON; numbers that it has not, and Python writes all the same, are null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(json.loads(json.dumps(value), parse_constant=_nothing), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def _nothing(_: str) -> None:
    """Stand for a number."""


def frames_of(block: bytes) -> bytes:
    """Return whole lines of a transcript as events of a stream."""
    parts: list[bytes] = []
    for line in block.split(b"\n"):
        if line and (head := head_of(line)):
            parts += [f"id: {head[0]}\nevent: {head[1]}\ndata: ".encode(), _as_json(line), b"\n\n"]
    return b"".join(parts)


def _as_json(line: bytes) -> bytes:
    if not _NO_JSON.search(line):
        return line.replace(b"\r", b"")
    event = parse_line(line)
    return json_of(event.to_dict() if event else None)


class EventStream:
    """An answer that goes on: sends what `pull` returns from a position on, until the client is gone or we end."""

    def __init__(
        self,
        source: Source,
        at: Any,
        pull: Callable[[Any], Awaitable[tuple[Any, bytes]]],
        *,
        may_go_on: Callable[[], bool],
        ending: asyncio.Event,
    ) -> None:
        self._source = source
        self._at = at
        self._pull = pull
        self._may_go_on = may_go_on
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the source's count of clients, which has this one, is lowered at the end."""
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body"})
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when, tasks, _gone(receive))
                tasks.start_soon(_cancel_when, tasks, self._ending.wait())
                await self._send_all(send)
                tasks.cancel_scope.cancel()
            with anyio.move_on_after(0.1):
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._source.clients -= 1

    async def _send_all(self, send: Send) -> None:
        await send(body_of(b"retry: 1000\n\n"))
        while self._may_go_on():
            changed = self._source.changed
            self._at, block = await self._pull(self._at)
            for start in range(0, len(block), _PIECE):
                await send(body_of(block[start : start + _PIECE]))
                await asyncio.sleep(0)  # others may send, too
            if not block and self._source.is_old:
                return
            if not block:
                with anyio.move_on_after(PING_S) as limit:
                    await changed.wait()
                if limit.cancelled_caught:
                    await send(body_of(PING))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel_when(tasks: anyio.abc.TaskGroup, condition: Awaitable[object]) -> None:
    await condition
    tasks.cancel_scope.cancel()


def body_of(content: bytes) -> MutableMapping[str, Any]:
    """Return a piece of an answer that goes on."""
    return {"type": "http.response.body", "body": content, "more_body": True}
