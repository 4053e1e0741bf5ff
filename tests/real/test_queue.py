"""A queue over two real CLIs."""

import pytest

from fixtures.mock_provider import slow, text
from tests.real.workplace import CLAUDE_CODE, CODEX, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def test_queued_prompts_go_to_their_tools_in_order(place: Workplace) -> None:
    """One supervisor runs codex, then claude-code with a summary, then codex again in its own conversation."""
    place.provider.on("the first", slow(2, text("One.")))
    place.provider.on("the second", text("Two."))
    place.provider.on("the third", text("Three."))
    started = place.csa("run", "--detach", "--json", "--tool", CODEX.name, "the first").json["session_id"]
    for prompt, tool in (("the second", CLAUDE_CODE), ("the third", CODEX)):
        queued = place.csa("run", "--queue", "--json", "-s", started, "--tool", tool.name, prompt)
        assert (queued.code, queued.json["started"]) == (0, None), queued
    (ending,) = place.csa("wait", started, "--json").json
    assert (ending["status"], ending["turn"], ending["queued"]) == ("succeeded", 3, 0)
    turns = place.events(started, "run_started")
    assert [(turn["tool"], turn["prompt"]) for turn in turns] == [
        ("codex", "the first"),
        ("claude-code", "the second"),
        ("codex", "the third"),
    ]
    assert len({turn["pid"] for turn in turns}) == 1
    second, (third,) = place.asked("the second")[0], place.asked("the third")
    assert second.path.startswith(CLAUDE_CODE.request_path)
    assert "One." in second.prompt
    assert third.user_texts[0] == "the first"
    assert "Two." in third.prompt
