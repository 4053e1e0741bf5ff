"""One prompt of a client: its turn runs in a process of its own that ends with csa acp; its events go to the client."""

from __future__ import annotations

import select
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Any

from csa.errors import BusyError, CsaError, NotFoundError
from csa.model.events import Event
from csa.model.result import RunResult
from csa.model.state import format_time
from csa.rpc.acp.permissions import Permissions
from csa.rpc.acp.subagents import SubAgents
from csa.rpc.acp.updates import Updates
from csa.rpc.jsonrpc import INTERNAL_ERROR, Json, Pending, RpcError
from csa.runner.attached import Attached
from csa.runner.client import Csa
from csa.runner.request import RunRequest
from csa.store.following import Follower
from csa.structs import replace

AUTH_REQUIRED = -32000
_LOOK_MS = 50
_STOP_REASONS = frozenset({"end_turn", "max_tokens", "max_turn_requests", "refusal"})


class Turn:
    """A prompt from the moment it was read; `cancel` is for any moment, and any thread."""

    def __init__(
        self,
        client: Csa,
        session_id: str,
        *,
        update: Callable[[Json], None],
        request: Callable[[str, Json], Pending],
        withdraw: Callable[[Pending], None],
    ) -> None:
        self._client, self._id, self._update = client, session_id, update
        self._updates = Updates(session_id, with_prompts=False)
        self._permissions = Permissions(client, session_id, request, withdraw)
        self._attached: Attached | None = None
        self.is_cancelled = False
        self.has_begun = False  # so that the session exists

    def cancel(self) -> None:
        """End the turn as cancelled; returns at once."""
        self.is_cancelled = True
        if self._attached:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._attached.fileno(), signal.SIGTERM)

    def run(self, request: RunRequest) -> Json:
        """Run the turn to its end, and return the answer to the prompt; raises what csa run does, and RpcError."""
        try:
            result = self._run(request)
        except CsaError:
            if self.is_cancelled:
                return {"stopReason": "cancelled"}
            raise
        return {"stopReason": "cancelled"} if result is None else self._answer(result)

    def _run(self, request: RunRequest) -> RunResult | None:
        if self.is_cancelled:
            return None
        store, is_new = self._client.store, not self._exists()
        if not is_new:
            store = self._client.session(self._id).store
        paths = store.paths(self._id)
        with closing(SubAgents(store, self._id)) as children, ExitStack() as files:
            follower = None if is_new else files.enter_context(Follower(paths.transcript, tail=0))
            self._attached = attached = self._start(request)
            self.has_begun = True
            self._cancel_late()
            follower = follower or files.enter_context(Follower(paths.transcript))
            last = self._follow(attached, follower, children)
            for update in children.look(is_last=True):
                self._update(update)
        return self._result(last)

    def _result(self, turn: int) -> RunResult:
        try:
            return self._client.result(self._id, turn=turn)
        except NotFoundError as error:
            if not self._exists():
                raise
            about = {"session_id": self._id, "turn": turn, "status": "lost", "hint": f"csa why {self._id}"}
            raise RpcError(INTERNAL_ERROR, "The turn is lost: its supervisor has died", about) from error

    def _start(self, request: RunRequest) -> Attached:
        try:
            return self._client.start_attached(self._asking(request))
        except BusyError as error:
            error.hint = error.hint or f'wait for its end, or: csa run --queue --session {self._id} "..."'
            raise

    def _asking(self, request: RunRequest) -> RunRequest:
        """Return the request with an agent that asks, if it can, unless somebody has said whether it should."""
        is_open = request.ask is None and self._client.context.config.values["ask"][1] == "default"
        if not is_open or self._client.caller:  # what an agent does widens nothing
            return request
        return replace(request, ask=True) if self._client.plan(request).adapter.capabilities.asks else request

    def _cancel_late(self) -> None:
        """Do what was asked for while the turn was starting."""
        if self.is_cancelled:
            self.cancel()

    def _exists(self) -> bool:
        try:
            self._client.session(self._id)
        except NotFoundError:
            return False
        return True

    def _follow(self, attached: Attached, follower: Follower, children: SubAgents) -> int:
        """Tell what happens until the prompt has its answer; return the number of the turn that has given it."""
        ended = select.poll()
        ended.register(attached.fileno(), select.POLLIN)
        turn, is_over = attached.turn, False
        while True:
            is_over = bool(ended.poll(_LOOK_MS))  # before reading: what was written last is read, too
            for event in follower.read():
                if event.turn < attached.turn:
                    continue
                if event.type == "run_started" and event.data.get("queued"):
                    return turn  # another prompt's, under the same supervisor
                turn = max(turn, event.turn)
                self._tell(event)
            for update in children.look():
                self._update(update)
            self._permissions.look()
            if is_over:
                self._permissions.withdraw_all()
                return turn

    def _tell(self, event: Event) -> None:
        for update in self._updates.of(event):
            self._update(update)
        if event.type == "permission":
            self._permissions.take(event)

    def _answer(self, result: RunResult) -> Json:
        if result.status == "succeeded" and result.text and not self._updates.has_answered:
            content = {"type": "text", "text": result.text}
            self._update({"sessionUpdate": "agent_message_chunk", "content": content})
        state = self._client.session(self._id).load()
        title = state.name or state.description
        self._update(
            {"sessionUpdate": "session_info_update", "title": title, "updatedAt": format_time(state.last_accessed)}
        )
        about = {"session_id": result.session_id, "turn": result.turn, "tool": result.tool, "status": result.status}
        if self.is_cancelled or result.status == "cancelled":
            return {"stopReason": "cancelled", **_usage(result), "_meta": {"csa": about}}
        if result.status != "succeeded":
            code = AUTH_REQUIRED if result.error_kind == "auth" else INTERNAL_ERROR
            message = result.error_message or f"The turn has {result.status.replace('_', ' ')}"
            hint = f"csa why {result.session_id}"
            raise RpcError(code, message, {**about, "kind": result.error_kind, "hint": hint})
        reason = result.stop_reason if result.stop_reason in _STOP_REASONS else "end_turn"
        cost = result.usage.cost_usd if result.usage else None
        more: dict[str, Any] = {"cost_usd": cost, "denied": list(result.denied)}
        return {"stopReason": reason, **_usage(result), "_meta": {"csa": {**about, **more}}}


def _usage(result: RunResult) -> Json:
    used = result.usage
    if used is None:
        return {}
    counts = {"inputTokens": used.input_tokens, "outputTokens": used.output_tokens, "totalTokens": used.tokens}
    return {"usage": {**counts, "cachedReadTokens": used.cached_tokens}}
