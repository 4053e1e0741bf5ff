"""The options of a run, as the provider and the disk see them."""

import pytest

from fixtures.mock_provider import slow, text, tool_call
from tests.real.workplace import TOOLS, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]  # opencode takes 30 s a run on a busy machine

MARKER = "project-rule-alpha-seven"
EMPHATIC = 'Answer in verse.\n"Quoted", \\n, ünïcödé ✓ = [x]'


def test_a_session_keeps_its_model_and_effort(place: Workplace, tool: RealTool) -> None:
    """The provider is asked for them, and later turns ask for what the first one did, until they are told otherwise.

    A fork does as well.
    """
    first = place.run(tool, "hello", "--model", tool.model, "--effort", "high")
    assert first["model"] == tool.model
    session_id = first["session_id"]
    place.resume(session_id, "proceed")
    place.csa("run", "--json", "--fork-from", session_id, "and a fork")
    for prompt in ("hello", "proceed", "and a fork"):
        asked = place.asked(prompt)
        assert asked
        assert {(request.model, tool.effort(request.body)) for request in asked} == {("some-model-9", "high")}
    card = place.csa("session", "info", "--session", session_id, "--json").json
    assert (card["tools"][tool.name]["model"], card["tools"][tool.name]["effort"]) == (tool.model, "high")
    place.resume(session_id, "as usual", "--model", "default", "--effort", "default")
    (request,) = place.asked("as usual")
    assert (request.model == "some-model-9") == tool.keeps_model
    assert "model" not in place.state(session_id)["tools"][tool.name]


def test_a_further_directory_can_be_written(place: Workplace, tool: RealTool) -> None:
    """At `edit` an agent writes in what --extra-writable names, also in the next turn, and not beside it."""
    given, beside = place.home / "given", place.home / "beside"
    given.mkdir()
    beside.mkdir()
    place.provider.on("first", *tool.writes(str(given / "one.txt")), text("did"))
    session_id = place.run(tool, "first", "--extra-writable", str(given))["session_id"]
    place.provider.on("second", *tool.writes(str(given / "two.txt")), text("did"))
    place.resume(session_id, "second")
    place.provider.on("third", tool.writes(str(beside / "three.txt"))[-1], text("could not"))
    place.resume(session_id, "third")
    assert sorted(path.name for path in given.iterdir()) == ["one.txt", "two.txt"]
    assert list(beside.iterdir()) == []


def test_read_only_changes_nothing(place: Workplace, tool: RealTool) -> None:
    """Whatever way the agent tries, it writes no file in the project; nor in a later turn that says no level.

    It writes when a later turn allows it: tools do not keep their first level.
    """
    target = place.project / "written.txt"
    before = _files(place)
    place.provider.on("write", *tool.writes(str(target)), text("could not"))
    result = place.run(tool, "write a file", "--permission", "read-only")
    assert result["text"] == "could not"
    assert _files(place) == before
    place.provider.on("again", *tool.writes(str(target)), text("could not either"))
    assert place.resume(result["session_id"], "try again")["text"] == "could not either"
    assert _files(place) == before
    place.provider.on("allowed", *tool.writes(str(target)), text("did"))
    place.resume(result["session_id"], "it is allowed now", "--permission", "edit")
    assert target.read_text().strip() == "x"


def test_edit_writes_in_the_project(place: Workplace, tool: RealTool) -> None:
    """The same attempts succeed at the default level."""
    target = place.project / "written.txt"
    place.provider.on("write", *tool.writes(str(target)), text("did"))
    place.run(tool, "write a file")
    assert target.read_text().strip() == "x"


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.tells_denials], ids=lambda tool: tool.name)
def test_a_denied_command_is_recorded(place: Workplace, tool: RealTool) -> None:
    """What the tool's permissions forbid stands in the transcript and in the result of a turn that succeeds."""
    place.provider.on("fetch", tool_call("python3 -c 'print(1)'"), text("could not"))
    result = place.run(tool, "fetch it")
    assert len(result["denied"]) == 1
    assert [data["status"] for data in place.events(result["session_id"], "permission")] == ["denied"]


def test_what_else_the_model_is_told(place: Workplace, tool: RealTool) -> None:
    """The user's system text, csa's own note, and the tool's own file of instructions; the conversation is kept.

    At a resume the system text replaces the earlier one where the tool can do that; elsewhere the first one stays.
    """
    (place.project / tool.project_file).write_text(f"Remember {MARKER}.\n")
    session_id = place.run(tool, "hello", "--system", EMPHATIC)["session_id"]
    (request,) = place.asked("hello")
    assert EMPHATIC in request.system_text
    assert session_id in request.system_text
    assert MARKER in str(request.body)
    assert len(place.conversations(tool)) == 1
    place.resume(session_id, "go on", "--system", "Speak Greek.")
    (request,) = place.asked("go on")
    assert ("Speak Greek." in request.system_text) == tool.hears_system_again
    assert (EMPHATIC in request.system_text) != tool.hears_system_again


def test_an_ephemeral_run_leaves_nothing(place: Workplace, tool: RealTool) -> None:
    """It reads no project file, gets no note, and leaves neither a session nor a conversation of the tool."""
    (place.project / tool.project_file).write_text(f"Remember {MARKER}.\n")
    prompt = "hello-of-a-fleeting-kind"
    done = place.csa("run", "--ephemeral", "--tool", tool.name, "--system", EMPHATIC, prompt)
    assert (done.code, done.stdout) == (0, f"MOCK ECHO: {prompt} [users=1]\n"), done.stderr
    (request,) = place.asked(prompt)
    assert (MARKER in str(request.body)) == tool.project_file_always
    assert "csa session" not in str(request.body)
    assert EMPHATIC in request.system_text
    assert place.sessions() == []
    assert list(place.session_dir("any").parent.iterdir()) == []
    assert place.conversations(tool) == []
    kept = [path for path in place.home.rglob("*") if path.is_file() and prompt.encode() in path.read_bytes()]
    assert kept == []


def test_a_run_ends_when_its_time_is_up(place: Workplace, tool: RealTool) -> None:
    """A provider that does not answer is waited for as long as asked, and no longer."""
    place.provider.on("wait", slow(90, text("late")))
    done = place.csa("run", "--json", "--tool", tool.name, "--timeout", "3", "wait for it")
    assert done.code == 124, done.stderr
    assert done.json["status"] == "timed_out"
    assert 3 <= done.json["duration_s"] < 8
    assert place.gone_after() == {}
    session_id = done.json["session_id"]
    assert place.only_session()["status"] == "timed_out"
    place.provider.on("go on", text("on it"))
    assert place.resume(session_id, "go on")["text"] == "on it"


def _files(place: Workplace) -> set[str]:
    return {str(path) for path in place.project.rglob("*") if ".git" not in path.parts}
