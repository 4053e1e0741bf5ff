"""The real CLIs when their own copy of a conversation is gone, or the whole of their homes."""

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

from fixtures.mock_provider import status, text
from tests.real.test_attach import begin, open_on
from tests.real.test_attach import place as trusted  # noqa: F401  # a fixture
from tests.real.workplace import CODEX, OPENCODE, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]  # opencode takes 30 s a run on a busy machine


def lose_one(place: Workplace, tool: RealTool) -> None:
    place.forget_conversations(tool)


def lose_home(place: Workplace, tool: RealTool) -> None:
    """Leave what a person has configured, as on a new machine."""
    for name in (".codex", ".claude", ".gemini", ".local/share/opencode", ".local/state/opencode", ".cache"):
        shutil.rmtree(place.home / name, ignore_errors=True)
    for name, content in tool.files(place.provider.url).items():
        (place.home / name).parent.mkdir(parents=True, exist_ok=True)
        (place.home / name).write_text(content)


LOSSES = pytest.mark.parametrize("lose", [lose_one, lose_home])


@LOSSES
def test_a_session_goes_on(place: Workplace, tool: RealTool, lose: Callable[[Workplace, RealTool], None]) -> None:
    """In a new conversation, in the same turn: with all that was said, the model it had, and figures of its own."""
    place.provider.on("capital", text("It is Ulm.", usage=(1000, 100, 0)))
    place.provider.on("river", text("The Danube.", usage=(300, 30, 0)))
    place.provider.on("lake", text("None.", usage=(500, 50, 0)))
    first = place.run(tool, "Name the capital.", "--model", tool.model)
    session_id, gone = first["session_id"], first["provider_session_id"]
    place.run(tool, "something else")
    lose(place, tool)
    second = place.csa("run", "--json", "--session", session_id, "Name the river.")
    assert second.code == 0, second
    assert (second.json["turn"], second.json["text"]) == (2, "The Danube.")
    assert f"{tool.name} no longer knows its conversation {gone}" in second.stderr
    (request,) = place.asked("Name the river.")
    assert len(request.user_texts) == 1
    assert all(words in request.prompt for words in ("Name the capital.", "It is Ulm."))
    model = request.body.get("model") or request.path
    assert tool.model.rpartition("/")[2] in model
    new = second.json["provider_session_id"]
    assert (new != gone, place.state(session_id)["tools"][tool.name]["provider_session_id"]) == (True, new)
    assert place.state(session_id)["turns"] == 2
    (told,) = place.events(session_id, "handoff")
    assert (told["replaces"], told["turns"]) == (gone, [1])
    third = place.resume(session_id, "Name the lake.")
    assert third["provider_session_id"] == new
    assert place.asked("Name the lake.")[-1].user_texts[-1].strip() == "Name the lake."
    assert (second.json["usage"]["input_tokens"], third["usage"]["input_tokens"]) == (300, 500)
    card = place.csa("session", "info", session_id, "--json").json["tools"][tool.name]
    assert (card["since_turn"], card["replaces"]) == (2, gone)


@pytest.mark.parametrize("lose", [lose_one, pytest.param(lose_home, marks=pytest.mark.slow)])
def test_a_fork_becomes_a_handoff(
    place: Workplace, tool: RealTool, lose: Callable[[Workplace, RealTool], None]
) -> None:
    """What cannot be copied is told."""
    place.provider.on("capital", text("It is Ulm."))
    source = place.run(tool, "Name the capital.")["session_id"]
    lose(place, tool)
    done = place.csa("run", "--json", "--fork-from", source, "Name the river.")
    assert (done.code, done.json["turn"]) == (0, 1), done
    (request,) = place.asked("Name the river.")
    assert "It is Ulm." in request.prompt
    assert place.events(done.json["session_id"], "fork")[-1]["how"] == "handoff"
    assert place.state(source)["turns"] == 1


def test_without_a_handoff_it_is_refused(place: Workplace, tool: RealTool) -> None:
    """Nobody is asked anything, and the recorded conversation stays; compacting is refused likewise."""
    before = place.run(tool, "hello")
    session_id = before["session_id"]
    place.forget_conversations(tool)
    done = place.csa("run", "--json", "--session", session_id, "--no-handoff", "go on")
    assert (done.code, done.json["error"]["kind"]) == (1, "unknown_conversation"), done
    assert done.json["provider_session_id"] == before["provider_session_id"]
    assert place.asked("go on") == []
    compressed = place.csa("session", "compress", "--json", "-s", session_id)
    assert (compressed.code, compressed.json["error"]["kind"]) == (1, "unknown_conversation"), compressed
    assert f'hint: csa run --session {session_id} --tool {tool.name} "go on"' in compressed.stderr
    assert place.csa("run", "--session", session_id, "go on", env={"CSA_CONF_HANDOFF": "on"}).code == 0


def test_an_emptied_copy_is_none(place: Workplace, tool: RealTool) -> None:
    """A disk that was full leaves an empty file: there is nothing in it to go on from."""
    if tool is OPENCODE:
        pytest.skip("it keeps a database")
    place.provider.on("capital", text("It is Ulm."))
    first = place.run(tool, "Name the capital.")
    (path,) = place.conversations(tool, first["provider_session_id"])
    path.write_bytes(b"")
    place.resume(first["session_id"], "Name the river.")
    assert "It is Ulm." in place.asked("Name the river.")[0].prompt


def test_a_provider_that_knows_nothing_is_no_such_case(place: Workplace, tool: RealTool) -> None:
    """A 404 and an answer in the tool's own words leave the conversation what it is."""
    first = place.run(tool, "hello")
    session_id, known = first["session_id"], first["provider_session_id"]
    words = f"No conversation found with session ID: {known}\nError: no rollout found for thread id {known}"
    place.provider.on("refuse", status(404, message=words))
    place.provider.on("quote", text(f'{words} Session not found: {known} Invalid session identifier "{known}".'))
    assert place.csa("run", "--session", session_id, "--retries", "0", "refuse").code == 1
    assert place.resume(session_id, "quote")["provider_session_id"] == known
    assert place.events(session_id, "handoff") == []


def test_its_interface_says_what_to_do(trusted: Workplace, tool: RealTool) -> None:  # noqa: F811  # the fixture
    """The tool's own interface leaves with its words, and csa adds what helps."""
    session_id = begin(trusted, tool)
    lose_one(trusted, tool)
    with open_on(trusted, session_id) as terminal:
        assert terminal.end() == 1
        shown = terminal.words_since(0)
    assert f"{tool.name} does not know conversation" in shown
    assert f"csa run --session {session_id[:10]}" in shown


def test_an_archived_thread_is_not_replaced(place: Workplace) -> None:
    """codex knows it, and says how to have it back."""
    first = place.run(CODEX, "hello")
    command = ["codex", "archive", first["provider_session_id"]]
    subprocess.run(command, cwd=place.project, env=place.env, check=True, capture_output=True)
    refused = place.csa("run", "--json", "--session", first["session_id"], "go on")
    assert (refused.code, "codex unarchive" in json.dumps(refused.json)) == (1, True)
    assert place.events(first["session_id"], "handoff") == []
