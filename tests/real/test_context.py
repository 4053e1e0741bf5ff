"""Context windows with the real CLIs: what the provider was asked shows what each tool was sent."""

import pytest

from fixtures.mock_provider import text
from tests.real.workplace import OF_TWO, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]  # opencode takes 30 s a run on a busy machine


@OF_TWO
def test_a_window_of_two_sends_two_turns(place: Workplace, tool: RealTool) -> None:
    """Once three turns are held, a new conversation begins with the last two; pruned turns are not sent any more."""
    for city in ("Ulm", "Linz", "Bonn"):
        place.provider.on(f"about {city}", text(f"{city} is fine."))
    place.provider.on("the third", text("Third."))
    place.provider.on("the fourth", text("Fourth."))
    place.provider.on("the last", text("Last."))
    session_id = place.run(tool, "about Ulm", "--context-window", "2")["session_id"]
    first = place.resume(session_id, "about Linz")["provider_session_id"]
    place.resume(session_id, "about Bonn")
    fourth = place.resume(session_id, "the fourth")
    assert fourth["provider_session_id"] != first
    (request,) = place.asked("the fourth")
    assert len(request.user_texts) == 1
    assert [city in request.prompt for city in ("Ulm", "Linz", "Bonn")] == [False, True, True]
    assert place.csa("clear", session_id).code == 0
    place.resume(session_id, "the last")
    (request,) = place.asked("the last")
    assert not any(word in request.prompt for word in ("Ulm", "Linz", "Bonn", "the fourth"))
