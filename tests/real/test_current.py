"""The current session with a real CLI: made without a turn, continued, and none of an agent's business."""

import shlex

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CODEX, CSA, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def test_a_session_made_without_a_turn_goes_on(place: Workplace) -> None:
    """Its first turn asks for its model, the second continues it; what the agent makes leaves it current."""
    csa = shlex.quote(str(CSA))
    nested = f"(echo pane=[$CSA_CURRENT]; {csa} new; {csa} current; {csa} run --continue x) 2>&1"
    place.provider.on("about Ulm", tool_call(nested), text("Ulm is fine."))
    place.provider.on("about Linz", text("Linz is fine."))
    user = {"CSA_CURRENT": "pane1"}
    made = place.csa(
        "new", "--tool", CODEX.name, "--model", CODEX.model, "--permission", "full", env=user
    ).stdout.strip()
    first = place.csa("run", "--continue", "--json", "about Ulm", env=user).json
    second = place.csa("run", "--continue", "--json", "about Linz", env=user).json
    assert (first["session_id"], second["session_id"], second["turn"]) == (made, made, 2)
    assert first["provider_session_id"] == second["provider_session_id"]
    (request,) = place.asked("about Linz")
    assert (request.model, "about Ulm" in str(request.body)) == (CODEX.model, True)
    said = str(request.body)
    assert "pane=[]" in said
    assert said.count("belongs to the user's shell") == 2
    (child,) = [each for each in place.sessions() if each["session_id"] != made]
    assert (child["parent_session_id"], child["status"]) == (made, "idle")
    assert place.csa("current", env=user).stdout.startswith(made)
