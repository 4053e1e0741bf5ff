"""The chat API of aomi's clients, over csa's sessions: what its routes in the table do.

A client makes a UUID and sends it as `X-Session-Id`. It becomes the name `x-UUID` of a session where the server was
started: as an id it would break the order of ids by time. Any other session is reached by its own id.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from csa.errors import BusyError, NotFoundError, RetiredError, SealedError, StateError, UsageError
from csa.model.configkeys import AUTO
from csa.model.conversation import Message, read_conversation
from csa.model.events import Event
from csa.model.schemas.chat_api import NEW_CHAT, SESSION
from csa.model.schemas.route import ACT
from csa.model.skeleton import is_bare
from csa.model.state import SessionState, format_time
from csa.model.wording import describe
from csa.paths import SessionPaths
from csa.runner.client import Csa
from csa.runner.detach import AppearedError
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.auditing import note_read
from csa.runner.sessions.listing import select_sessions
from csa.runner.toolbox import tool_names
from csa.serve.guard import Receive, Scope, Send
from csa.serve.requests import Asked
from csa.serve.served import Served, client_of
from csa.serve.streams import PING, PING_S, Channel, Channels, EventStream, Watch, body_of, json_of
from csa.store.stores import find_stores
from csa.store.transcript import parse_line, read_events
from csa.structs import replace

_T = TypeVar("_T")
_MARK = "x-"
_OWNER = re.compile(r"[\x21-\x7e]{1,200}")
_DEFAULT_APP = "default"
_MOST = 1000  # messages of a state, and threads of a list
_MOST_STATES, _LARGEST_STATE = 1000, 16 << 10
_SENDERS = {"user": "user", "assistant": "agent", "system": "system"}
_ENDED = {"completed", "failed", "denied"}
_NOTICES = {"run_finished", "warning", "error", "retry", "handoff", "compaction", "parked"}


def say(served: Served, asked: Asked) -> Any:
    """Begin a turn, in a new session or the one there is; queue it if that is busy. Saying is not repeated by csa."""
    typed = _typed(asked)
    found = _find(served, asked, typed, acts=True)
    _keep_user_state(served, asked, typed)
    client = client_of(found) if found else served.client(served.home(), asked)
    request = _request(client, asked)
    try:
        if found:
            client.start(replace(request, session=found.session_id))
        else:
            owner = _owner(asked.query.get("public_key"))
            client.start(replace(request, session_id=_name_of(typed), owner=owner))
    except (BusyError, AppearedError):
        session = found or find_chat(served, asked, acts=True)
        client_of(session).queue(replace(request, session=session.session_id))
    return _state(served, typed, find_chat(served, asked))


def show_state(served: Served, asked: Asked) -> Any:
    typed = _typed(asked)
    found = _find(served, asked, typed, is_read=True)
    _keep_user_state(served, asked, typed)
    return _state(served, typed, found)


def interrupt(served: Served, asked: Asked) -> Any:
    session = find_chat(served, asked, acts=True)
    client_of(session).kill(session.session_id)
    return _state(served, _typed(asked), session)


def make_thread(served: Served, asked: Asked) -> Any:
    typed = _typed(asked)
    found = _find(served, asked, typed, acts=True)
    if not found:
        request = RunRequest(
            prompt="",
            session_id=_name_of(typed),
            owner=_owner(asked.body.get("public_key")),
            description=asked.body.get("title"),
        )
        try:
            found = served.client(served.home(), asked).create(request).session
        except (AppearedError, UsageError):
            if not (found := _find(served, asked, typed, acts=True)):  # else another request was faster
                raise
    return {"session_id": _public_id(found.load()), "title": _title(found.load()) or NEW_CHAT}


def list_threads(served: Served, asked: Asked) -> Any:
    owner = asked.query.get("public_key")
    infos = select_sessions(served.stores(), by_use=True, with_status=False).infos
    states = (info.state for info in infos if info.state)
    return [_thread(state) for state in states if owner in {None, state.owner}][:_MOST]


def show_thread(served: Served, asked: Asked) -> Any:
    return _thread(find_chat(served, asked, is_read=True).load())


def retitle(served: Served, asked: Asked) -> Any:
    session = find_chat(served, asked, acts=True)
    return _thread(client_of(session).describe(session.session_id, asked.body["title"]).after)


def delete_thread(served: Served, asked: Asked) -> Any:
    session = find_chat(served, asked, acts=True)
    shown, client = _public_id(session.load()), client_of(session)
    try:
        client.delete(session.session_id)
    except BusyError:
        client.kill(session.session_id)
        client.delete(session.session_id)
    served.user_states.pop(_name_of(shown) or shown, None)
    return {"session_id": shown, "deleted": True}


CHAT_HANDLERS: Mapping[str, Callable[[Served, Asked], Any]] = {
    "chat": say,
    "chat_state": show_state,
    "interrupt": interrupt,
    "new_thread": make_thread,
    "threads": list_threads,
    "thread": show_thread,
    "retitle": retitle,
    "delete_thread": delete_thread,
}


def find_chat(served: Served, asked: Asked, *, acts: bool = False, is_read: bool = False) -> Session:
    """Return the session that a request means; NotFoundError if there is none, or it is deleted."""
    typed = _typed(asked)
    if session := _find(served, asked, typed, acts=acts, is_read=is_read):
        return session
    raise NotFoundError(f"There is no session {typed}.", hint="POST /api/chat makes it")


def _find(served: Served, asked: Asked, typed: str, *, acts: bool = False, is_read: bool = False) -> Session | None:
    """Return the session of a client's UUID, or None; one that is named otherwise has to be there."""
    name = _name_of(typed)
    wanted = typed if name is None else _id_of(served, name)
    if wanted is None:
        return None
    try:
        session = served.find(replace(asked, path={"id": wanted}), acts=acts)
    except NotFoundError as error:
        if name is None and not isinstance(error, RetiredError):
            raise NotFoundError(error.message, hint="X-Session-Id is a UUID, or the id of a session") from None
        if name is None:
            raise
        return None  # deleted meanwhile
    if is_read:
        note_read(session.context, session.session_id, "session show")
    return session


def _id_of(served: Served, name: str) -> str | None:
    """Return the id of the session with a name: in the server's own project first."""
    home = served.home_store()
    known = {store.project_pathname: store for store in (home, *find_stores(Path(served.root)))}
    for store in known.values():
        if served.fleet.is_served(store.project_pathname) and (found := store.find_name(name)):
            return found
    return None


def _typed(asked: Asked) -> str:
    typed = asked.path.get("id") or asked.headers.get(SESSION) or asked.query.get("session_id")
    if not typed:
        raise UsageError("No session is named.", hint="the header X-Session-Id, with a UUID")
    return str(typed)


def _name_of(typed: str) -> str | None:
    """Return the name of the session for a client's UUID; None for what is none."""
    try:
        return f"{_MARK}{uuid.UUID(typed)}" if "-" in typed else None
    except ValueError:
        return None


def _public_id(state: SessionState) -> str:
    """Return what clients call a session: the UUID that one of them has made, or its own id."""
    name = state.name or ""
    return name.removeprefix(_MARK) if name == _name_of(name.removeprefix(_MARK)) else state.session_id


def _request(client: Csa, asked: Asked) -> RunRequest:
    message, app = asked.query["message"], asked.query.get("app", _DEFAULT_APP)
    if not message.strip():
        raise UsageError("The message is empty.")
    if app == _DEFAULT_APP:
        return RunRequest(prompt=message)
    try:
        return client.from_template(app, message)
    except NotFoundError:
        if app in {AUTO, *tool_names(client.context.config)}:
            return RunRequest(prompt=message, tool=app)
        hint = "csa template list, csa tools; app=default takes what is configured"
        raise NotFoundError(f"There is no template and no tool named '{app}'.", hint=hint) from None


def _owner(public_key: str | None) -> str | None:
    if public_key and not _OWNER.fullmatch(public_key):
        raise UsageError("public_key has other characters than ASCII without blanks, or more than 200.")
    return public_key or None


def _keep_user_state(served: Served, asked: Asked, typed: str) -> None:
    """Remember what a client sends along: of the sessions that were asked for last."""
    content = asked.query.get("user_state")
    if content is None:
        return
    try:
        state = json.loads(content)
        json.dumps(state, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"user_state is not JSON: {error}.") from error
    if not isinstance(state, dict) or len(content) > _LARGEST_STATE:
        raise UsageError(f"user_state is not a JSON object of at most {_LARGEST_STATE >> 10} KiB.")
    if asked.access != ACT:  # others would see it
        return
    key = _name_of(typed) or typed
    served.user_states.pop(key, None)
    served.user_states[key] = state
    while len(served.user_states) > _MOST_STATES:
        served.user_states.pop(next(iter(served.user_states)), None)


def _state(served: Served, typed: str, session: Session | None) -> dict[str, Any]:
    user_state = served.user_states.get(_name_of(typed) or typed)
    if session is None:
        empty: dict[str, Any] = {"messages": [], "system_events": [], "title": None}
        return {**empty, "is_processing": False, "user_state": user_state}
    info = session.record.examine()
    if info.state is None:
        raise info.record.fault or StateError(session.paths.state, "it cannot be read")
    is_processing = info.is_running or info.queued > 0
    shown, events = _conversation(session)
    messages = [*shown]
    if is_processing and messages and messages[-1]["sender"] == "agent":
        messages[-1] = {**messages[-1], "is_streaming": True}
    return {
        "messages": messages,
        "system_events": [*events],
        "title": _title(info.state),
        "is_processing": is_processing,
        "user_state": user_state,
    }


def _conversation(session: Session) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, str], ...]]:
    """Return a conversation as clients show it, and what csa says about its last turn."""
    try:
        known = os.stat(session.content.transcript)
    except FileNotFoundError:
        return (), ()
    return _rendered(str(session.content.transcript), known.st_ino, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=16)  # clients ask every second, mostly without anything being new
def _rendered(path: str, *_: int) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, str], ...]]:
    messages = [message for message in read_conversation(read_events(Path(path))) if message.role in _SENDERS]
    last = messages[-1].turn if messages else 0
    notices = [message for message in messages if message.role == "system" and message.turn == last]
    found = [shown for message in messages for shown in _shown(message)]
    return tuple(found[-_MOST:]), tuple(map(_system_event, notices))


def _shown(message: Message) -> Iterator[dict[str, Any]]:
    base = {"sender": _SENDERS[message.role], "timestamp": message.timestamp, "is_streaming": False}
    if message.content or not message.calls:
        yield {**base, "content": message.content, "tool_result": None}
    for call in message.calls:
        yield {**base, "content": "", "tool_result": [call.title, call.content]}


def _system_event(message: Message) -> dict[str, str]:
    is_failure = message.content.startswith(f"turn {message.turn} ")  # what `read_conversation` says of one
    return {"SystemError" if is_failure else "SystemNotice": message.content}


def _title(state: SessionState) -> str | None:
    return state.description or None


def _thread(state: SessionState) -> dict[str, Any]:
    used = format_time(state.last_accessed)
    return {
        "session_id": _public_id(state),
        "title": _title(state) or NEW_CHAT,
        "is_archived": state.closed_at is not None,
        "created_at": format_time(state.created_at),
        "updated_at": used,
        "last_active_at": used,
    }


class Updates(EventStream):
    """What happens in a session from now on, or after the event that a client has seen last.

    A session that is not there yet is waited for; all of what happens in it is sent.
    """

    def __init__(
        self,
        watch: Watch,
        channels: Channels,
        find: Callable[[], Session],
        limiter: anyio.CapacityLimiter,
        last: str | None,
        **go_on: Any,
    ) -> None:
        super().__init__(watch, 0, self._pull_updates, **go_on)
        watch.clients += 1
        self._channels = channels
        self._find = find
        self._limiter = limiter
        self._last = int(last) if last is not None and last.isdecimal() and len(last) < 19 else None  # noqa: PLR2004
        self._session: Session | None = None
        self._channel: Channel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what is wrong with the request is an answer of its own."""
        try:
            await self._in_thread(self._look_for_it)
            if self._session:
                await self._in_thread(partial(_place_of, self._session, self._last))  # or there is no key, say
        except BaseException:
            self._source.clients -= 1
            raise
        await super().__call__(scope, receive, send)

    async def _send_all(self, send: Send) -> None:
        is_new = self._session is None
        if is_new:
            await send(body_of(PING))  # the client learns that it is connected
        while self._session is None and self._may_go_on():
            changed = self._source.changed
            await self._in_thread(self._look_for_it)
            if self._session is None:
                with anyio.move_on_after(PING_S) as limit:
                    await changed.wait()
                if limit.cancelled_caught:
                    await send(body_of(PING))
        if self._session is None:
            return
        self._last = 0 if is_new else self._last
        while self._may_go_on():  # the transcript is another file when the session is encrypted, and when it is opened
            try:
                await self._enter(self._session)
                await super()._send_all(send)
            except (SealedError, StateError):
                return  # the client asks again, and is told why
            if not self._channel.is_old:
                return
            self._last = await self._in_thread(partial(self._channel.lines.last, self._at))

    async def _enter(self, session: Session) -> None:
        """Go on with the transcript that there is now, after the last event that was sent, or at its end."""
        paths = await self._in_thread(partial(_place_of, session, self._last))
        channel = self._channels.enter(paths)
        self._source.clients -= 1
        self._source = self._channel = channel
        place = partial(channel.lines.after, self._last or 0, channel.end)
        self._at = channel.end if self._last is None else await self._in_thread(place)

    def _look_for_it(self) -> None:
        try:
            self._session = self._find()
        except NotFoundError:
            self._session = None

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)

    async def _pull_updates(self, at: int) -> tuple[int, bytes]:
        assert self._session is not None
        if at >= self._channel.end:
            return at, b""
        block = self._channel.lines.block(at, self._channel.end)
        events = filter(None, map(parse_line, block.split(b"\n")))
        frames = [_frame(event, told) for event in events if not is_bare(event) for told in _told(event, self._session)]
        return at + len(block), b"".join(frames) or b": \n\n"


def _place_of(session: Session, seen: int | None) -> SessionPaths:
    """Return where what comes after an event can be read: in memory only if that was encrypted before it was seen."""
    state = session.record.state
    is_hidden = seen is not None and state is not None and (state.sealed_seq or 0) > seen
    return session.content.now() if is_hidden else session.files


def _frame(event: Event, told: Mapping[str, Any]) -> bytes:
    """Return one event without a name, as `onmessage` of an EventSource has it."""
    return f"id: {event.seq}\ndata: ".encode() + json_of(told) + b"\n\n"


def _told(event: Event, session: Session) -> Iterator[dict[str, Any]]:
    """Yield what a client is told of an event."""
    whose = {"session_id": _public_id_of(session)}
    if event.type in {"tool_call", "tool_call_update"}:
        status = str(event.data.get("status") or "in_progress")
        kind = "tool_complete" if status in _ENDED else "tool_update"
        more = {"call_id": event.data.get("id"), "tool_name": event.data.get("title"), "status": status}
        yield {"type": kind, **whose, **more, "content": event.data.get("content")}
    elif event.type == "session_updated" and event.data.get("what") == "described":
        yield {"type": "title_changed", **whose, "new_title": event.data.get("description")}
    elif event.type == "run_started" and event.turn == 1:
        yield {"type": "title_changed", **whose, "new_title": session.record.state and session.record.state.description}
    elif event.type in _NOTICES and (words := describe(event)):
        yield {"type": "system_notice", **whose, "kind": event.type, "turn": event.turn, "message": words}


def _public_id_of(session: Session) -> str:
    state = session.record.state
    return _public_id(state) if state else session.session_id
