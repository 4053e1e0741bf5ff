"""csa as an agent of the Agent Client Protocol, version 1: what each method does.

Session ids are csa's. A session that is new in the protocol begins, with that id, with its first prompt: until then
nothing is written. What a client says of one that it has opened applies to that, whatever its project is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from csa import __version__
from csa.errors import BusyError, CsaError, NotFoundError, UsageError
from csa.model.configkeys import AUTO
from csa.model.state import format_time
from csa.rpc.acp.options import MODE, MODEL, Options
from csa.rpc.acp.prompts import read_prompt
from csa.rpc.acp.turns import Turn
from csa.rpc.acp.updates import Updates
from csa.rpc.jsonrpc import INVALID_PARAMS, Call, Connection, Json, Later, Method, Pending, RpcError
from csa.runner.client import Csa
from csa.runner.request import RunRequest, going_on
from csa.runner.sessions.auditing import note_read
from csa.runner.sessions.listing import select_sessions
from csa.runner.toolbox import find_adapter
from csa.runner.turns.planning import new_id_now
from csa.store.following import follow
from csa.store.stores import find_stores
from csa.structs import replace

PROTOCOL_VERSION = 1
_PAGE = 100
_FOLLOW_S = 0.1
_ENDING_S = 10.0
_CAPABILITIES: Json = {
    "loadSession": True,
    "promptCapabilities": {"image": True, "audio": False, "embeddedContext": True},
    "mcpCapabilities": {"http": False, "sse": False},
    "sessionCapabilities": {
        name: {} for name in ("list", "resume", "close", "delete", "fork", "additionalDirectories")
    },
}


class Opened:
    """A session as the client has opened it. `name` is what the client calls it."""

    def __init__(self, name: str, session_id: str, client: Csa, options: Options) -> None:
        self.name, self.session_id, self.client, self.options = name, session_id, client, options
        self.turn: Turn | None = None
        self.has_begun = False  # the session is there
        self.ended = threading.Event()  # the turn, if there is one
        self.closed = threading.Event()


class Agent:
    """The sessions that a client has opened. `make_request` returns what a prompt's request is, from the first one.

    It gets the client of the session's project, the request so far and the prompt, and may use a template.
    """

    def __init__(
        self,
        make_client: Callable[[str], Csa],
        base: RunRequest,
        make_request: Callable[[Csa, RunRequest], RunRequest],
    ) -> None:
        self._make_client, self._base, self._make_request = make_client, base, make_request
        self._opened: dict[str, Opened] = {}
        self.connection: Connection  # set before anything is called

    def methods(self) -> Mapping[str, Method]:
        """Return what the client can call."""
        return {
            "initialize": self.initialize,
            "authenticate": lambda _, __: {},
            "session/new": self.new,
            "session/load": self.load,
            "session/resume": lambda params, _: self._settings(self._reopen(params)),
            "session/fork": self.fork,
            "session/list": lambda params, _: Later(lambda: self.list(params)),
            "session/prompt": self.prompt,
            "session/cancel": self.cancel,
            "session/set_mode": self.set_mode,
            "session/set_model": self.set_model,
            "session/set_config_option": self.set_option,
            "session/close": self.close,
            "session/delete": self.delete,
            "$/cancel_request": lambda params, _: self.connection.cancel(params.get("requestId")),
        }

    def initialize(self, _params: Json, _: Call) -> Json:
        """Say what csa can do. There is one version of the protocol; a client that wants another one leaves."""
        about = {"name": "csa", "title": "csa", "version": __version__}
        known = {"protocolVersion": PROTOCOL_VERSION, "agentInfo": about, "authMethods": []}
        return {**known, "agentCapabilities": _CAPABILITIES}

    # Sessions

    def new(self, params: Json, _: Call) -> Json:
        """Open a session that begins with its first prompt."""
        opened = self._open(params, new_id_now())
        if self._base.tool and self._base.tool != AUTO:  # as the editor's settings have it: the first to be wrong
            find_adapter(self._base.tool, opened.client.context.config, self._base.transport)
        return {"sessionId": opened.name, **self._settings(opened)}

    def fork(self, params: Json, _: Call) -> Json:
        """Open a session that begins with a copy of another one's conversation, as soon as it is prompted."""
        source = self._opened.get(_id_of(params)) or self._reopen(params)
        opened = self._open(params, new_id_now())
        source_id = source.session_id if self._is_there(source) else None
        kept = going_on(source.options.request, fork_from=source_id)
        opened.options = Options(opened.client, kept, source.session_id)
        return {"sessionId": opened.name, **self._settings(opened)}

    def load(self, params: Json, _: Call) -> Later:
        """Open a session there is, and tell all that happened in it; if it runs elsewhere, also what happens."""
        opened = self._reopen(params)

        def replay() -> Json:
            session = opened.client.session(opened.session_id, retired=True)
            note_read(session.context, session.session_id, "session show")
            updates = Updates(opened.session_id, with_prompts=True)
            looks = follow(session.content)
            self._tell_all(opened, updates, next(looks))
            if session.liveness().state == "alive" and opened.turn is None:
                threading.Thread(target=self._go_on, args=(opened, updates, looks), daemon=True).start()
            return self._settings(opened)

        return Later(replay)

    def _go_on(self, opened: Opened, updates: Updates, looks: Any) -> None:
        """Tell what happens in a session that somebody else runs, until that ends, or the client prompts it."""
        for events in looks:
            for event in events:
                if event.type == "run_started" and opened.turn is not None:
                    return
                self._tell_all(opened, updates, [event])
            if opened.closed.wait(_FOLLOW_S) or self.connection.is_closed:
                return

    def _tell_all(self, opened: Opened, updates: Updates, events: Any) -> None:
        for event in events:
            for update in updates.of(event):
                self._update(opened, update)

    def list(self, params: Json) -> Json:
        """List sessions, those used last first: of the project of `cwd`, or of all."""
        cwd = params.get("cwd")
        client = self._make_client(_directory(cwd) if cwd is not None else os.getcwd())
        start = _cursor(params.get("cursor"))
        stores = [client.store] if cwd is not None else list(find_stores(client.store.root))
        found = select_sessions(stores, limit=start + _PAGE + 1, by_use=True, with_status=False).infos
        rows = [
            {
                "sessionId": info.session_id,
                "cwd": info.state.project_path,
                "title": info.state.name or info.state.description,
                "updatedAt": format_time(info.state.last_accessed),
                "_meta": {"csa": {"tools": list(info.state.tools), "parent_session_id": info.parent}},
            }
            for info in found[start : start + _PAGE]
            if info.state
        ]
        return {"sessions": rows, **({"nextCursor": str(start + _PAGE)} if len(found) > start + _PAGE else {})}

    def close(self, params: Json, _: Call) -> Later:
        """End what runs in a session for this client, and forget it here; it stays on disk."""
        opened = self._known(params)
        return Later(lambda: self._forget(opened))

    def delete(self, params: Json, _: Call) -> Later:
        """Move a session to the trash; one that has not begun is forgotten. What runs elsewhere or is pinned stays."""
        name = _id_of(params)
        opened = self._opened.get(name)
        client = opened.client if opened else self._make_client(os.getcwd())

        def work() -> None:
            if opened:
                self._end_turn(opened)
            if opened is None or self._is_there(opened):
                client.delete(opened.session_id if opened else client.session(name).session_id)
            if opened:
                self._forget(opened)

        return Later(work)

    def _end_turn(self, opened: Opened) -> None:
        if turn := opened.turn:
            turn.cancel()
            opened.ended.wait(_ENDING_S)

    def _forget(self, opened: Opened) -> None:
        self._end_turn(opened)
        opened.closed.set()
        self._opened.pop(opened.name, None)

    # Prompts

    def prompt(self, params: Json, call: Call) -> Later:
        """Run a turn."""
        opened = self._known(params)
        if opened.turn:
            raise BusyError(
                f"Session {opened.session_id} is running a turn.",
                hint=f'wait for its end, cancel it, or: csa run --queue --session {opened.session_id} "..."',
            )
        prompt = read_prompt(params.get("prompt"))
        opened.ended.clear()
        opened.turn = turn = Turn(
            opened.client,
            opened.session_id,
            update=lambda update: self._update(opened, update),
            request=lambda method, more: self.connection.request(method, {"sessionId": opened.name, **more}),
            withdraw=self._withdraw,
        )
        call.on_cancel(turn.cancel)

        def work() -> Json:
            try:
                request = replace(opened.options.request, prompt=prompt.text, images=prompt.images, files=prompt.files)
                return turn.run(self._place(opened, request))
            finally:
                if turn.has_begun:
                    self._has_begun(opened)
                opened.turn = None
                opened.ended.set()

        return Later(work)

    def _place(self, opened: Opened, request: RunRequest) -> RunRequest:
        """Return the request for the session: it goes on with that, or begins it."""
        if self._is_there(opened):
            return replace(request, session=opened.session_id)
        return self._make_request(opened.client, replace(request, session_id=opened.session_id))

    def _has_begun(self, opened: Opened) -> None:
        opened.has_begun = True
        opened.options.request = going_on(opened.options.request)

    def cancel(self, params: Json, _: Call) -> None:
        """End the turn that runs for this client; what runs elsewhere is left alone."""
        opened = self._opened.get(_id_of(params))
        turn = opened.turn if opened else None  # which ends in its own thread
        if turn:
            turn.cancel()

    def _withdraw(self, pending: Pending) -> None:
        """Say that an answer is not needed any more."""
        self.connection.notify("$/cancel_request", {"requestId": pending.id})

    # Options

    def set_mode(self, params: Json, _: Call) -> Json:
        """Set the permission, from the next turn on."""
        opened = self._known(params)
        opened.options.choose(MODE, params.get("modeId"))
        self._update(opened, {"sessionUpdate": "config_option_update", "configOptions": opened.options.to_json()})
        return {}

    def set_model(self, params: Json, _: Call) -> Json:
        """Set the model, as clients do that do not know options."""
        self._known(params).options.choose(MODEL, params.get("modelId"))
        return {}

    def set_option(self, params: Json, _: Call) -> Json:
        """Set any option, from the next turn on."""
        opened = self._known(params)
        option, value = params.get("configId"), params.get("value")
        opened.options.choose(str(option), value)
        if option == MODE:
            self._update(opened, {"sessionUpdate": "current_mode_update", "currentModeId": value})
        return {"configOptions": opened.options.to_json()}

    # Ways

    def _open(self, params: Json, session_id: str, name: str = "") -> Opened:
        client = self._make_client(_directory(params.get("cwd")))
        more = params.get("additionalDirectories") or []
        if not isinstance(more, list):
            raise RpcError(INVALID_PARAMS, "additionalDirectories is not a list")
        base = replace(self._base, directory=Path(params["cwd"]))
        if more:
            base = replace(base, extra_writable=tuple(map(_directory, more)))
        opened = Opened(name or session_id, session_id, client, Options(client, base, session_id))
        opened.options.to_json()  # what is wrong with the configuration is an error now
        if before := self._opened.get(opened.name):
            before.closed.set()
        self._opened[opened.name] = opened
        return opened

    def _reopen(self, params: Json) -> Opened:
        """Return a session there is, opened anew; the client may call it by a prefix of its id, or its name."""
        name = _id_of(params)
        if (before := self._opened.get(name)) and (before.turn or not self._is_there(before)):
            return before
        found = self._make_client(_directory(params.get("cwd"))).session(name)
        opened = self._open(params, found.session_id, name)
        opened.client.context = found.context
        opened.options = Options(opened.client, _as_kept(opened.options.request), found.session_id)
        opened.has_begun = True
        return opened

    def _known(self, params: Json) -> Opened:
        name = _id_of(params)
        if opened := self._opened.get(name):
            return opened
        raise NotFoundError(f"No session '{name}' is open.", hint="session/load or session/resume opens it")

    def _is_there(self, opened: Opened) -> bool:
        if not opened.has_begun:
            try:
                opened.client.session(opened.session_id)
            except CsaError:
                return False
            opened.has_begun = True
        return True

    def _settings(self, opened: Opened) -> Json:
        return {"configOptions": opened.options.to_json(), "modes": opened.options.modes()}

    def _update(self, opened: Opened, update: Json) -> None:
        self.connection.notify("session/update", {"sessionId": opened.name, "update": update})


def _as_kept(request: RunRequest) -> RunRequest:
    """Return the request for a session there is, which keeps what csa acp was started with for new ones."""
    return going_on(request, tool=None, model=None, permission=None, transport=None, directory=None)


def _id_of(params: Json) -> str:
    named = params.get("sessionId")
    if not isinstance(named, str) or not named:
        raise RpcError(INVALID_PARAMS, "sessionId is not a string")
    return named


def _directory(given: Any) -> str:
    if not isinstance(given, str) or not os.path.isabs(given):
        raise UsageError(f"{given!r} is not an absolute path.")
    if not os.path.isdir(given):
        raise NotFoundError(f"There is no directory {given}.")
    return given


def _cursor(given: Any) -> int:
    if given is None:
        return 0
    if not isinstance(given, str) or not given.isdecimal() or len(given) > 9:  # noqa: PLR2004  # digits
        raise RpcError(INVALID_PARAMS, f"{given!r} is no cursor of csa's")
    return int(given)
