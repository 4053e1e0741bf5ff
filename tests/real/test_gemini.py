"""What only gemini-cli does, and csa keeps from its users."""

import json
import os
from pathlib import Path

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.test_turns import csa_variables
from tests.real.workplace import GEMINI_CLI, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@pytest.fixture(params=["roots-settings", "own-home"])
def place(place: Workplace, request: pytest.FixtureRequest) -> Workplace:
    """Make the place also as it is for users other than root, where gemini takes no system settings from csa."""
    if request.param == "roots-settings" and os.geteuid() != 0:
        pytest.skip("gemini believes root alone")
    if request.param == "own-home":
        loose = place.base / "loose"
        loose.mkdir()
        loose.chmod(0o777)
        place.state_root = loose / "csa"
        place.env["CSA_STATE_DIR"] = str(place.state_root)
    return place


def test_conversations_survive_its_clean_up(place: Workplace) -> None:
    """A conversation resumed in a later minute than it began in leaves a stub, for which gemini would delete both."""
    first = place.run(GEMINI_CLI, "the first question")
    (file,) = place.conversations(GEMINI_CLI, first["provider_session_id"])
    file.rename(file.with_name(f"session-2026-01-01T00-00-{first['provider_session_id'][:8]}.jsonl"))
    for question in ("the second question", "the third question"):
        place.resume(first["session_id"], question)
        place.run(GEMINI_CLI, "something else")  # where the clean-up would come
    assert place.asked("the third")[0].user_texts[:2] == ["the first question", "the second question"]


@pytest.mark.parametrize("surroundings", [{"GITHUB_SHA": "abc"}, {"SURFACE": "Github"}], ids=str)
def test_github_does_not_take_the_session_from_the_agent(place: Workplace, surroundings: dict[str, str]) -> None:
    """There gemini passes on but a few variables; csa's are among them."""
    place.provider.on("who", tool_call("env | grep CSA_"), text("done"))
    session_id = place.run(GEMINI_CLI, "who are you", env=surroundings)["session_id"]
    found = csa_variables(place.shown(session_id))
    assert (found["CSA_SESSION_ID"], found["CSA_SESSION_DIR"]) == (session_id, str(place.session_dir(session_id)))


@pytest.mark.parametrize("permission", ["read-only", "edit"])
def test_plan_mode_is_no_way_up(place: Workplace, permission: str) -> None:
    """Leaving it without a terminal would allow every command from then on."""
    enter = tool_call(name="enter_plan_mode", arguments={"reason": "to plan"})
    leave = tool_call(name="exit_plan_mode", arguments={"plan_filename": "plan.md"})
    touch = tool_call(name="run_shell_command", arguments={"command": "touch climbed"})
    place.provider.on("climb", enter, leave, touch, text("no"))
    result = place.run(GEMINI_CLI, "climb", "--permission", permission)
    assert result["text"] == "no"
    assert not (place.project / "climbed").exists()


def test_the_users_settings_hold_and_stay(place: Workplace) -> None:
    """Files of the user are read and not written; what he chose is in force beside what csa needs."""
    own = place.home / ".gemini" / "settings.json"
    own.parent.mkdir()
    own.write_text('{"context": {"fileName": "RULES.md"}}')
    system = place.home / "system.json"
    system.write_text('// ours\n{"tools": {"exclude": ["google_web_search"]}}')
    (place.project / "RULES.md").write_text("Rule one.")
    before = {path: path.read_bytes() for path in (own, system)}
    place.run(GEMINI_CLI, "hello", env={"GEMINI_CLI_SYSTEM_SETTINGS_PATH": str(system)})
    (request,) = place.asked("hello")
    assert "Rule one." in json.dumps(request.body)
    assert "csa session" in request.system_text
    if os.geteuid() == 0:  # else gemini passes over a file that root does not own
        assert "google_web_search" not in request.tools
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_of_the_run_is_left(place: Workplace) -> None:
    """The settings of a run, which may hold secrets, go with it."""
    session_id = place.run(GEMINI_CLI, "hello", "--system", "Speak Latin.")["session_id"]
    assert not (place.session_dir(session_id) / "runtime").exists()
    assert [path for path in place.home.rglob("csa-note.md*") if Path(path).is_file()] == []


def test_the_users_home_is_the_agents(place: Workplace) -> None:
    """What the user tells every agent is read, and what gemini keeps is his, wherever csa's settings stand."""
    own = place.home / ".gemini"
    (own / "policies").mkdir(parents=True)
    (own / "GEMINI.md").write_text("Rule zero.")
    first = place.run(GEMINI_CLI, "the first question", "--effort", "high")
    (request,) = place.asked("the first")
    assert "Rule zero." in json.dumps(request.body)
    assert f"You run inside csa session {first['session_id']}" in request.system_text
    assert request.body["generationConfig"]["thinkingConfig"]["thinkingBudget"] == 24576  # of "high"
    assert place.conversations(GEMINI_CLI, first["provider_session_id"])
    assert place.events(first["session_id"], "warning") == []
    assert [path for path in own.rglob("*") if path.is_symlink()] == []


def test_a_project_that_sets_the_clean_up_is_warned_of(place: Workplace) -> None:
    """Its settings are above the user's, so csa cannot keep gemini from deleting there; as root it can."""
    settings = place.project / ".gemini" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"general": {"sessionRetention": {"enabled": true, "maxAge": "30d"}}}')
    session_id = place.run(GEMINI_CLI, "hello")["session_id"]
    told = [warning["message"] for warning in place.events(session_id, "warning")]
    assert [("sessionRetention" in message) for message in told] == ([True] if "CSA_STATE_DIR" in place.env else [])
