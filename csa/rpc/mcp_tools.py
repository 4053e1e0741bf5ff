"""What the MCP tools do, whatever the transport: the library's verbs, with answers that fit a model's context.

`Tools.call` returns the result of `tools/call`. What csa refuses is such a result too, with a sentence, the hint, and
csa's error object: the model reads them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, takewhile
from typing import Any

from csa.errors import BusyError, CsaError, NotFoundError, SealedError, StateError, UsageError
from csa.model.schemas.checking import check_object
from csa.model.schemas.mcp import BY_NAME, LONGEST_SILENT_WAIT_S, LONGEST_WAIT_S
from csa.model.wording import describe
from csa.rpc.jsonrpc import UnwantedError
from csa.runner.caller import refuse_endless_wait
from csa.runner.client import Csa
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.auditing import note_read
from csa.runner.sessions.listing import PHASES, STATUSES, Selection, select_sessions
from csa.runner.sessions.waiting import WaitResult, await_endings
from csa.store.observer import Observer
from csa.store.transcript import started_after
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.rpc.mcp_elsewhere import Elsewhere

Json = dict[str, Any]
MOST_BYTES = 75_000  # of a result: 25,000 tokens, of which none has more than 3 bytes on average, in any script
_LEAST_BYTES = 1_500  # of each answer, where there are many
_REPORT_S = 10.0
_LONGEST_REPORT = 200
_SAID = (
    *("prompt", "tool", "session", "name", "description", "model", "effort", "permission", "schema", "timeout_s"),
    *("budget_tokens", "worktree", "repair"),
)
_RESULT = ("text", "output", "error", "denied", "artifacts", "duration_s", "usage")
_SHORT = ("session_id", "name", "description", "project", "parent_session_id", "status")
_LISTED = (*_SHORT, "mirror", "tool", "turn", "started_at", "duration_s")


class Watch(Struct):
    """How a call is waited for: what cancels it, and who hears how it goes on, if anybody.

    `report` gets the seconds since the call began, and what is going on.
    """

    cancelled: threading.Event
    report: Callable[[float, str], None] | None = None

    @property
    def longest_s(self) -> float:
        """For how long the client waits: one that is told of progress, longer."""
        return LONGEST_WAIT_S if self.report else LONGEST_SILENT_WAIT_S


class Tools:
    """The tools, for who is behind `client_for`, which opens a project by a directory in it, or the usual one."""

    def __init__(self, client_for: Callable[[str | None], Csa], elsewhere: Elsewhere, *, attaches: bool) -> None:
        """With `attaches`, what is started ends with this process, unless it is asked to be detached."""
        self._client_for = client_for
        self._elsewhere = elsewhere
        self._attaches = attaches

    def call(self, name: str, arguments: Mapping[str, Any], watch: Watch) -> Json:
        """Return the result of a call.

        Raises:
            KeyError: there is no such tool.
            UnwantedError: it was cancelled; what was started goes on.
        """
        act, tool = _ACTS[name], BY_NAME[name]
        try:
            check_object(arguments, tool.takes)
            found = act(self, arguments, watch)
        except CsaError as error:
            if isinstance(error, BusyError) and not error.hint:
                error.hint = "call wait with that session first"
            return {"content": [_sentence(error), _text({"error": error.to_json()})], "isError": True}
        return {"content": [_text(found)], "structuredContent": found, "isError": False}

    def run(self, arguments: Mapping[str, Any], watch: Watch) -> Json:
        if not (arguments["prompt"].strip() or arguments.get("repair")):
            raise UsageError("The prompt is empty.")
        client = self._client_for(arguments.get("directory"))
        request = RunRequest(**{name: arguments[name] for name in _SAID if name in arguments})
        is_detached = arguments.get("detach", False) or not self._attaches
        host, request = _place_of(client, request, arguments.get("on"))
        if host is not None:
            name = self._elsewhere.start(client.context, request, host, is_detached=is_detached)
            there = client.session(name, mirrored=True)
            return _await([there], watch, arguments.get("wait_s"))[0]
        started = client.start(request) if is_detached else client.start_attached(request)
        session = client.session(started.session_id)
        own = _OwnTurns(session, started.turn, started.pid)
        try:
            (answer,) = _await([session], watch, arguments.get("wait_s"), check=own.check)
        except _PassedError:
            return own.answer()
        return answer if answer["status"] == "running" or answer.get("turn") == own.last() else own.answer()

    def land(self, arguments: Mapping[str, Any], _: Watch) -> Json:
        import anyio  # noqa: PLC0415  # only this needs an event loop

        from csa.runner.sessions.landing import refuse_to_land  # noqa: PLC0415  # as above
        from csa.runner.sessions.landing_outcome import outcome_to_json  # noqa: PLC0415  # as above

        client = self._client_for(arguments.get("directory"))
        session = client.session(arguments["session"], mirrored=True)
        if session.store.host:
            refuse_to_land(session, client.context.directory)
            with suppress(CsaError, OSError):  # what is here already is landed
                client.fetch(arguments["session"])
        options = {name: arguments[name] for name in ("squash", "dry_run") if name in arguments}
        landed = anyio.run(partial(client.land, arguments["session"], **options))
        return outcome_to_json(session.session_id, landed)

    def wait(self, arguments: Mapping[str, Any], watch: Watch) -> Json:
        client = self._client_for(None)
        sessions = [client.session(selector, retired=True) for selector in arguments["sessions"]]
        for session in sessions:
            self._elsewhere.watch(client.context, session)
        for session in sessions:
            refuse_endless_wait(client.caller, session.session_id)
        is_any = arguments.get("any", False)
        return {"sessions": _await(sessions, watch, arguments.get("wait_s"), first_only=is_any)}

    def list(self, arguments: Mapping[str, Any], _: Watch) -> Json:
        client = self._client_for(None)
        return list_sessions(
            client,
            status=arguments.get("status"),
            parent=arguments.get("parent"),
            host=arguments.get("host"),
            limit=arguments.get("limit", 20),
        )

    def show(self, arguments: Mapping[str, Any], _: Watch) -> Json:
        session = self._client_for(None).session(arguments["session"], retired=True)
        turn, offset = arguments.get("turn"), arguments.get("offset", 0)
        info = Observer(session.store, describe).look(session.session_id) or session.record.examine()
        if arguments.get("what") == "conversation":
            note_read(session.context, session.session_id, "session show")
            text = "".join(_conversation(session, turn))
        else:
            note_read(session.context, session.session_id, "session result")
            text = session.result(turn=turn).text
        part, following = _part(text, offset, MOST_BYTES - 2_000)
        known = {"session_id": session.session_id, "name": session.record.name, "status": info.status}
        more = {"tool": info.tool or None, "turn": info.turn or None, "doing": info.doing}
        return {**known, **more, "text": part, "next": following}

    def kill(self, arguments: Mapping[str, Any], _: Watch) -> Json:
        found = self._client_for(None).kill(arguments["session"], tree=arguments.get("tree", False))
        keys = ("session_id", "name", "status", "outcome", "error")
        return {"sessions": [{key: killed.to_json()[key] for key in keys} for killed in found]}


_ACTS: Mapping[str, Callable[[Tools, Mapping[str, Any], Watch], Json]] = {
    "run": Tools.run,
    "wait": Tools.wait,
    "list": Tools.list,
    "show": Tools.show,
    "kill": Tools.kill,
    "land": Tools.land,
}


def _place_of(client: Csa, request: RunRequest, on: str | None) -> tuple[str | None, RunRequest]:
    """Return the host that is to run it, one that is asked for, or where its session is; None for this one."""
    if on is not None or request.session is None:
        return None if on == "here" else on, request
    session = client.session(request.session, mirrored=True)
    if (host := session.store.host) is None:
        return None, request
    return host, replace(request, session=f"{host}:{session.session_id}")


def list_sessions(
    client: Csa, *, status: str | None = None, parent: str | None = None, host: str | None = None, limit: int = 20
) -> Json:
    """Return what the tool `list` does: the sessions used last, and how many more there are."""
    if status is not None and status not in {*STATUSES, *PHASES}:
        raise UsageError(f"There is no status '{status}'.", hint=", ".join((*STATUSES, *PHASES)))
    selection = Selection(statuses=frozenset({status} if status else ()))
    above = client.resolve(parent) if parent else None
    listing = select_sessions(client.stores(host), selection, limit=None if above else limit, by_use=True)
    infos = [info for info in listing.infos if above in {None, info.parent}]
    shown, more = infos[:limit], listing.more + len(infos[limit:])
    rows: list[Json] = []
    left = MOST_BYTES
    for info in shown:
        row = {key: value for key, value in info.to_json().items() if key in _LISTED}
        left -= len(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
        if left < 0:
            break
        rows.append(row)
    return {"sessions": rows, "more": more + len(shown) - len(rows)}


def _sentence(error: CsaError) -> Json:
    """Say what is wrong: gemini-cli (0.61.0) would hold a first text that is JSON against the tool's outputSchema."""
    return {"type": "text", "text": f"Error: {error.message}" + (f"\nHint: {error.hint}" if error.hint else "")}


def _text(value: Json) -> Json:
    return {"type": "text", "text": json.dumps(value, ensure_ascii=False)}


def _await(
    sessions: Sequence[Session],
    watch: Watch,
    wait_s: float | None,
    *,
    first_only: bool = False,
    check: Callable[[], None] = lambda: None,
) -> list[Json]:
    """Wait as long as is asked for, at most as long as the client does; return each session as it is then.

    What `check` raises, which is called now and then, ends the waiting.
    """
    progress = _Progress(sessions, watch, check)
    limit = watch.longest_s if wait_s is None else min(wait_s, watch.longest_s)
    targets = list({session.paths.pathname: session.target for session in sessions}.values())
    found = {
        (ending.project, ending.session_id): ending
        for ending in await_endings(targets, first_only=first_only, timeout_s=limit, sleep=progress.sleep)
    }
    most = max(_LEAST_BYTES, MOST_BYTES // len(sessions))
    return [
        _answer(session, found.get((session.store.project_pathname, session.session_id)), most, progress)
        for session in sessions
    ]


class _PassedError(Exception):
    """The session has gone on to somebody else's prompt."""


class _OwnTurns:
    """The turns that answer a prompt: the one that it began, and those that its supervisor tried after that.

    Another turn may follow at once, of a queued prompt or of another client's: its answer is another one.
    """

    def __init__(self, session: Session, first: int, supervisor: int) -> None:
        self._session, self._first, self._supervisor = session, first, supervisor
        self._seen = first

    def check(self) -> None:
        """Raise _PassedError if another prompt's turn runs."""
        owner = self._session.liveness().owner
        if owner and owner.turn and owner.turn > self._seen:
            self._seen = owner.turn
            if self.last() < owner.turn:
                raise _PassedError

    def last(self) -> int:
        """Return the number of the last of them."""
        later = started_after(self._session.files.transcript, self._first)
        own = takewhile(lambda event: event.data.get("pid") == self._supervisor and not event.data.get("queued"), later)
        return max((event.turn for event in own), default=self._first)

    def answer(self) -> Json:
        """Return what the last of them has answered."""
        session, turn = self._session, self.last()
        found = {"session_id": session.session_id, "name": session.record.name, "turn": turn, "status": "lost"}
        with suppress(NotFoundError):  # its supervisor was killed
            result = session.result(turn=turn).to_json()
            found |= {key: result[key] for key in ("tool", "status", *_RESULT)}
        return _fitted(found, MOST_BYTES)


class _Progress:
    """Tells now and then what the agents do that are waited for."""

    def __init__(self, sessions: Sequence[Session], watch: Watch, check: Callable[[], None]) -> None:
        self._watch, self._check = watch, check
        self._sessions = sessions
        self._observers: dict[str, Observer] = {}
        self._began = self._told = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass; UnwantedError when the call is cancelled meanwhile."""
        if self._watch.cancelled.wait(seconds):
            raise UnwantedError
        self._check()
        now = time.monotonic()
        if self._watch.report and now - self._told >= _REPORT_S:
            self._told = now
            self._watch.report(round(now - self._began, 1), self._words())

    def doing(self, session: Session) -> str:
        """Return what an agent is doing."""
        store = session.store
        observer = self._observers.setdefault(store.project_pathname, Observer(store, describe))
        info = observer.look(session.session_id)
        return info.doing if info and info.is_running else ""

    def _words(self) -> str:
        shown = {session.record.name or session.session_id: self.doing(session) for session in self._sessions}
        running = [f"{name}: {doing}" for name, doing in shown.items() if doing]
        each = max(20, _LONGEST_REPORT // max(1, len(running)))
        return " · ".join(words[:each] for words in running)[:_LONGEST_REPORT] or f"waiting for {', '.join(shown)}"


def _answer(session: Session, ending: WaitResult | None, most: int, progress: _Progress) -> Json:
    """Return how a session's turn ended; None: it was not waited for any longer."""
    known = {"session_id": session.session_id, "name": session.record.name}
    if ending is None or ending.status == "running":
        owner = session.liveness().owner
        turn = {"tool": owner.tool, "turn": owner.turn} if owner else {}
        hint = f'it goes on: call wait with sessions ["{session.session_id}"]'
        return _without_nothing({**known, **turn, "status": "running", "doing": progress.doing(session), "hint": hint})
    told = ending.to_json()
    keys = ("tool", "turn", "status", "duration_s", "error", "queued")
    return _fitted({**known, **{key: told[key] for key in keys}, **_result(session, ending)}, most)


def _result(session: Session, ending: WaitResult) -> Json:
    try:
        result = session.result(turn=ending.turn or None).to_json()
    except (NotFoundError, StateError):  # the ending has why
        return {}
    except SealedError as error:  # how it has ended needs no key
        return {"hint": f"{error.message} {error.hint or ''}".rstrip()}
    return {key: result[key] for key in _RESULT}


def _fitted(found: Json, most: int) -> Json:
    """Return an answer without what is empty, and not longer than that: of many files some are named."""
    files = found.get("artifacts") or []
    shown = {**found, "artifacts": _first(files, most // 4), "denied": _first(found.get("denied") or [], most // 4)}
    if len(shown["artifacts"]) < len(files):
        shown["hint"] = f"there are {len(files)} files: csa artifacts {found['session_id']}"
    return _without_nothing({**shown, **_fitting(str(found.get("text", "")), shown, most)})


def _first(texts: Sequence[str], most: int) -> list[str]:
    """Return as many of the texts as take at most so many bytes."""
    ends = accumulate(len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")) + 2 for text in texts)
    return [text for text, end in zip(texts, ends, strict=True) if end <= most]


def _fitting(text: str, found: Json, most: int) -> Json:
    """Return the beginning of an answer that has room in the result; what it is the text of is then left out."""
    rest = {key: value for key, value in found.items() if key not in {"text", "output"}}
    room = most - len(json.dumps(rest, ensure_ascii=False).encode("utf-8", "replace")) - 200
    value = json.dumps(found.get("output"), ensure_ascii=False) if found.get("output") is not None else ""
    least = _LEAST_BYTES // 2
    part, following = _part(text, 0, max(least, room - len(value.encode("utf-8", "replace"))))
    if following is None:
        return {"text": part}
    part, following = _part(text, 0, max(least, room))
    if following is None:
        return {"text": part, "output": None}
    hint = f'the answer goes on: call show with session "{found["session_id"]}" and offset {following}'
    return {"text": part, "next": following, "output": None, "hint": hint}


def _part(text: str, offset: int, most: int) -> tuple[str, int | None]:
    """Return a part of a text that takes at most so many bytes as JSON, and where the next begins; None: nowhere."""
    window = text[offset : offset + most]
    end = len(window)
    while end and len(json.dumps(window[:end], ensure_ascii=False).encode("utf-8", "replace")) > most:
        end = end * 9 // 10
    return window[:end], offset + end if offset + end < len(text) else None


def _without_nothing(found: Json) -> Json:
    """Leave out what is empty, but an answer that is, and a value that a schema asked for."""
    kept = {key: value for key, value in found.items() if value not in (None, "", [], 0)}
    output = {"output": found["output"]} if found.get("output") is not None else {}
    answer = {"text": found["text"]} if found["status"] == "succeeded" and "text" in found else {}
    return {**kept, **answer, **output}


def _conversation(session: Session, turn: int | None) -> Iterator[str]:
    from csa.model.conversation import read_conversation  # noqa: PLC0415  # only this needs it
    from csa.store.transcript import read_events  # noqa: PLC0415  # as above

    for message in read_conversation(read_events(session.content.transcript)):
        if turn in {None, message.turn}:
            yield f"## Turn {message.turn}, {message.tool if message.role == 'assistant' else message.role}\n\n"
            yield f"{message.content.strip()}\n\n" if message.content.strip() else ""
            for call in message.calls:
                yield f"- {call.kind}: {call.title} ({call.status})\n"
            yield "\n" if message.calls else ""
