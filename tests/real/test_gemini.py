"""What only gemini-cli does, and csa keeps from its users."""

import json
from pathlib import Path

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.test_turns import csa_variables
from tests.real.workplace import GEMINI_CLI, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


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
    assert "google_web_search" not in request.tools
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_of_the_run_is_left(place: Workplace) -> None:
    """The settings of a run, which may hold secrets, go with it."""
    session_id = place.run(GEMINI_CLI, "hello", "--system", "Speak Latin.")["session_id"]
    assert not (place.session_dir(session_id) / "runtime").exists()
    assert [path for path in place.home.rglob("csa-note.md*") if Path(path).is_file()] == []


def test_without_its_own_settings_a_run_works_and_warns(place: Workplace) -> None:
    """Below /tmp, as for users other than root, gemini takes no settings from csa."""
    settings = place.home / ".gemini" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    loose = place.base / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    place.state_root = loose / "csa"
    place.env["CSA_STATE_DIR"] = str(place.state_root)
    place.provider.on("who", tool_call("env | grep CSA_"), text("done"))
    session_id = place.run(GEMINI_CLI, "who are you", env={"GITHUB_SHA": "abc"})["session_id"]
    assert f"You run inside csa session {session_id}" in place.provider.requests[0].prompt
    assert csa_variables(place.shown(session_id))["CSA_SESSION_ID"] == session_id
    (warning,) = place.events(session_id, "warning")
    assert "sessionRetention" in warning["message"]
