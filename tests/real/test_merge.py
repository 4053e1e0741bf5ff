"""Merges, and sessions that several tools share, with the real CLIs: what the provider was asked shows who got what."""

import pytest

from fixtures.mock_provider import text
from tests.real.workplace import CLAUDE_CODE, CODEX, GEMINI_CLI, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def test_a_merge_goes_on_with_both_histories(place: Workplace) -> None:
    """One request to the tool that goes on has what codex and claude-code have said, in the order of time, once."""
    for city in ("Ulm", "Linz", "Bonn"):
        place.provider.on(f"about {city}", text(f"{city} is fine."))
    place.provider.on("which is best", text("Ulm."))
    one = place.run(CODEX, "about Ulm")["session_id"]
    two = place.run(CLAUDE_CODE, "about Linz")["session_id"]
    place.resume(one, "about Bonn")
    done = place.csa("merge", one, two, "--tool", CLAUDE_CODE.name)
    assert done.code == 0, done.stderr
    merged = done.stdout.strip()
    assert place.resume(merged, "which is best")["text"] == "Ulm."
    (request,) = place.asked("which is best")
    assert request.path.startswith(CLAUDE_CODE.request_path)
    said = [f"{city} is fine." for city in ("Ulm", "Linz", "Bonn")]
    places = [request.prompt.index(words) for words in said]
    assert places == sorted(places)
    assert [request.prompt.count(words) for words in said] == [1, 1, 1]
    assert request.prompt.index("Bonn is fine.") < request.prompt.index("which is best")


def test_each_tool_of_a_session_gets_the_missing_turns_once(place: Workplace) -> None:
    """codex, claude-code, gemini-cli and codex again: each is told the turns that its conversation lacks, each once."""
    tools = (CODEX, CLAUDE_CODE, GEMINI_CLI, CODEX)
    prompts = ("about Ulm", "about Linz", "about Bonn", "about Kiel")
    for prompt in prompts:
        place.provider.on(prompt, text(f"{prompt.split()[1]} is fine."))
    session_id = place.run(CODEX, prompts[0])["session_id"]
    for tool, prompt in zip(tools[1:], prompts[1:], strict=True):
        place.resume(session_id, prompt, "--tool", tool.name)
    missing: tuple[list[int], ...] = ([], [0], [0, 1], [1, 2])
    for tool, prompt, told in zip(tools, prompts, missing, strict=True):
        (request,) = (each for each in place.asked(prompt) if f"User: {prompt}\n" not in each.prompt)
        assert request.path.startswith(tool.request_path)
        assert [request.prompt.count(f"User: {each}\n") for each in prompts] == [
            int(index in told) for index in range(len(prompts))
        ]
    assert request.user_texts[0] == prompts[0]  # codex's own conversation goes on
