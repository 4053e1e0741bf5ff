"""A tree recorded with the real CLIs runs again without them."""

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CLAUDE_CODE, CODEX, CSA, GEMINI_CLI, TOOLS, Workplace
from tests.replays import normalised

pytestmark = [pytest.mark.real, pytest.mark.timeout(200)]
WAIT = {"yield_time_ms": 60_000}  # codex would tell its model before that the command still runs


def test_a_real_tree_is_replayed(place: Workplace) -> None:
    """Recorded once, replayed twice: three times the same transcripts, but for times and ids, and no request more."""
    calls = [
        tool_call(f"csa run --permission full --tool {tool.name} '{tool.name} please'", arguments=WAIT)
        for tool in (CLAUDE_CODE, GEMINI_CLI)
        if tool in TOOLS
    ]
    place.provider.on("the whole", *calls, text("all of it"))
    place.provider.on("claude-code please", tool_call("echo from claude; exit 3"), text("claude is done"))
    place.provider.on("gemini-cli please", tool_call("echo from gemini"), text("gemini is done"))
    place.provider.on("and more", text("more of it"))
    recorded = place.run(CODEX, "the whole", "--permission", "full")
    place.resume(recorded["session_id"], "and more")
    sessions = place.session_dir(recorded["session_id"]).parent
    was = normalised(sessions, recorded["session_id"])
    assert len(was) == 1 + len(calls)
    asked = len(place.provider.requests)
    for _ in range(2):
        env = {"CSA_REPLAY": recorded["session_id"], "PATH": f"{CSA.parent}:/usr/bin:/bin"}
        first = place.csa("run", "--json", env=env)
        assert first.code == 0, first
        session_id = first.json["session_id"]
        assert (first.json["text"], first.json["usage"]) == (recorded["text"], recorded["usage"])
        second = place.csa("run", "--json", "--session", session_id, "and more", env=env)
        assert (second.code, second.json["text"]) == (0, "more of it"), second
        assert normalised(sessions, session_id) == was
    assert len(place.provider.requests) == asked
