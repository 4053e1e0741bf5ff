"""A session that goes on with another tool."""

import pytest

from fixtures.mock_provider import text
from tests.real.workplace import CLAUDE_CODE, CODEX, GEMINI_CLI, OPENCODE, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

PAIRS = pytest.mark.parametrize(
    "pair",
    [(CODEX, CLAUDE_CODE), (CLAUDE_CODE, CODEX), (GEMINI_CLI, CODEX), (OPENCODE, CODEX), (CLAUDE_CODE, OPENCODE)],
    ids=lambda pair: ">".join(tool.name for tool in pair),
)


@PAIRS
def test_another_tool_is_told_what_was_said(place: Workplace, pair: tuple[RealTool, RealTool]) -> None:
    """The second tool's request holds the first one's turn; back at the first, its own conversation goes on."""
    first, second = pair
    place.provider.on("capital", text("It is Ulm."))
    place.provider.on("river", text("The Danube."))
    session_id = place.run(first, "Name the capital.")["session_id"]
    middle = place.resume(session_id, "Name the river.", "--tool", second.name)
    (request,) = place.asked("Name the river.")
    assert request.path.startswith(second.request_path)
    assert len(request.user_texts) == 1
    assert "Name the capital." in request.prompt
    assert "It is Ulm." in request.prompt
    back = place.resume(session_id, "Thank you.", "--tool", first.name)
    assert (middle["text"], back["turn"]) == ("The Danube.", 3)
    (request,) = place.asked("Thank you.")
    assert request.path.startswith(first.request_path)
    assert request.user_texts[0] == "Name the capital."
    assert "The Danube." in request.prompt
    state = place.state(session_id)
    ids = {name: tool["provider_session_id"] for name, tool in state["tools"].items()}
    assert set(ids) == {first.name, second.name}
    assert all(place.conversations(tool, ids[tool.name]) for tool in pair)
