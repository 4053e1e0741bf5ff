"""What a turn's agent asks to be allowed, passed on to the client's user, and the answers passed back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from csa.errors import CsaError
from csa.model.events import Event
from csa.model.permission import asked_for
from csa.rpc.acp.updates import KINDS
from csa.rpc.jsonrpc import ClosedError, Json, Pending, RpcError
from csa.runner.client import Csa

_ALLOW, _REJECT = "allow", "reject"
_OPTIONS = [
    {"optionId": _ALLOW, "name": "Allow once", "kind": "allow_once"},
    {"optionId": _REJECT, "name": "Reject", "kind": "reject_once"},
]


class Permissions:
    """The asks of one turn that are not answered yet."""

    def __init__(
        self,
        client: Csa,
        session_id: str,
        request: Callable[[str, Json], Pending],
        withdraw: Callable[[Pending], None],
    ) -> None:
        self._client, self._id = client, session_id
        self._request, self._withdraw = request, withdraw
        self._pending: dict[str, Pending] = {}

    def take(self, event: Event) -> None:
        """Take an event: something is asked, or was decided, perhaps by somebody else."""
        data, ask = event.data, str(event.data.get("ask") or "")
        if data.get("status") != "pending" and (pending := self._pending.pop(ask, None)):
            self._withdraw(pending)
        elif data.get("status") == "pending" and ask:
            kind = str(data.get("kind"))
            call: Json = {
                "toolCallId": f"{event.turn}-{data.get('id') or ask}",
                "title": asked_for(data),
                "kind": kind if kind in KINDS else "other",
                "status": "pending",
            }
            self._pending[ask] = self._request("session/request_permission", {"toolCall": call, "options": _OPTIONS})

    def look(self) -> None:
        """Pass on the answers that have come."""
        for ask, pending in list(self._pending.items()):
            if pending.done.is_set():
                del self._pending[ask]
                with suppress(CsaError):  # it was decided meanwhile, or the turn has ended
                    self._client.answer(self._id, ask, allow=_is_allowed(pending), via="acp")

    def withdraw_all(self) -> None:
        """Withdraw what nobody has answered."""
        for pending in self._pending.values():
            self._withdraw(pending)
        self._pending.clear()


def _is_allowed(pending: Pending) -> bool:
    """Say whether the user has allowed it; without a valid answer it is not."""
    try:
        outcome = pending.result(0)["outcome"]
        return bool(outcome["outcome"] == "selected" and outcome["optionId"] == _ALLOW)
    except (RpcError, ClosedError, TimeoutError, KeyError, TypeError):
        return False
