"""csa acp with the protocol's own SDK as its client, over the fakes."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import Place

pytestmark = pytest.mark.thorough


def test_the_sdk_talks_cancels_lists_and_loads(place: Place) -> None:
    from acp import text_block  # noqa: PLC0415  # takes most of a second

    from tests.rpc.sdk import editor  # noqa: PLC0415  # as above

    place.script(
        {"match": "long", "do": [["say", "working"], *place.hold()]},
        {"match": "", "do": [["think", "hm"], ["call", "ls", "a\n"], ["say", "hello"]]},
    )

    async def drive() -> None:
        project = str(place.project)
        async with editor("--tool", "codex", env=place.environment(None), cwd=place.project) as (found, agent, _):
            session = (await agent.new_session(cwd=project, mcp_servers=[])).session_id
            answer = await agent.prompt(session_id=session, prompt=[text_block("hi")])
            assert (answer.stop_reason, found.text(session)) == ("end_turn", "hello")
            assert [each.status for each in found.of(session, "tool_call", "tool_call_update")] == [
                "in_progress",
                "completed",
            ]
            prompt = asyncio.create_task(agent.prompt(session_id=session, prompt=[text_block("long")]))
            await asyncio.to_thread(place.wait_ready)
            await agent.cancel(session_id=session)
            assert (await prompt).stop_reason == "cancelled"
            modes = await agent.set_session_mode(session_id=session, mode_id="read-only")
            assert modes is not None
            await agent.set_config_option(session_id=session, config_id="effort", value="high")
            assert [each.session_id for each in (await agent.list_sessions()).sessions] == [session]
            before = len(found.updates)
            await agent.load_session(session_id=session, cwd=project, mcp_servers=[])
            assert found.updates[before:]
            await agent.close_session(session_id=session)

    asyncio.run(drive())
