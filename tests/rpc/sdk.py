"""csa acp driven by the protocol's own SDK, whose connection decodes every frame."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from acp import PROTOCOL_VERSION, Client, spawn_agent_process
from acp.client.connection import ClientSideConnection
from acp.schema import AllowedOutcome, RequestPermissionResponse

from tests.support import CSA


class Editor(Client):
    """An editor that notes all updates, and allows what is asked."""

    def __init__(self) -> None:
        self.updates: list[tuple[str, Any]] = []
        self.asked: list[Any] = []

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append((session_id, update))

    async def request_permission(self, **asked: Any) -> RequestPermissionResponse:  # type: ignore[override]
        self.asked.append(asked)
        return RequestPermissionResponse(outcome=AllowedOutcome(option_id="allow", outcome="selected"))

    def of(self, session: str, *kinds: str) -> list[Any]:
        """Return a session's updates of these kinds."""
        return [each for name, each in self.updates if name == session and each.session_update in kinds]

    def text(self, session: str) -> str:
        return "".join(each.content.text for each in self.of(session, "agent_message_chunk"))


@asynccontextmanager
async def editor(
    *words: str, env: Mapping[str, str], cwd: Path
) -> AsyncIterator[tuple[Editor, ClientSideConnection, Any]]:
    """Start csa acp and shake hands."""
    found: Any = Editor()  # type: ignore[abstract]  # it has what csa calls
    async with spawn_agent_process(found, CSA, "acp", *words, env=env, cwd=cwd) as (connection, process):
        hello = await connection.initialize(protocol_version=PROTOCOL_VERSION)
        assert hello.agent_info
        assert hello.agent_info.name == "csa"
        yield found, connection, process
