"""csa acp over the fake tools, as an editor sees it; all frames are valid."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.rpc.client import Client, Json
from tests.support import Place, wait_for

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    """A client of csa acp --tool codex, whose frames are checked at its end."""
    place.script()
    with Client(place, "--tool", "codex") as found:
        yield found
        found.check_frames()


def test_a_conversation_from_the_handshake_to_the_end(place: Place) -> None:
    """What is said, done and planned comes as updates; nothing is on disk before the first prompt."""
    place.play(["think", "hm"], ["call", "make test", "ok\n", 1], ["say", "one"], ["say", "two"], ["usage", 10, 2, 3])
    with Client(place, "--tool", "codex") as client:
        assert client.ask("initialize", protocolVersion=7)["protocolVersion"] == 1
        session = client.new()
        assert place.ids() == []
        answer = client.prompt(session, "go")
        assert answer["stopReason"] == "end_turn"
        assert answer["usage"] == {"inputTokens": 10, "outputTokens": 2, "totalTokens": 12, "cachedReadTokens": 3}
        assert client.text(session) == "one\n\ntwo"
        call = client.updates(session, "tool_call", "tool_call_update")
        assert [(each["kind"], each["status"]) for each in call] == [("execute", "in_progress"), ("execute", "failed")]
        assert call[1]["content"][0]["content"]["text"] == "ok\n"
        assert client.leave() == 0
    assert place.published() == [session]
    assert client.err.read_text() == ""


@pytest.mark.thorough
def test_the_history_is_told_as_it_was(client: Client) -> None:
    """By an id, a prefix or a name; calls have ids of their own in each turn."""
    client.place.play(["call", "ls", "a\n"], ["say", "done"])
    session = client.new()
    client.prompt(session, "first")
    client.prompt(session, "second")
    lived = client.updates(session, "tool_call", "agent_message_chunk")
    for name in (session[:20], session):
        before = len(client.updates(name))
        assert client.reopen("load", name)["modes"]["currentModeId"] == "edit"
        told = client.updates(name)[before:]
        assert [each for each in told if each["sessionUpdate"] in {"tool_call", "agent_message_chunk"}] == lived
        asked = [each["content"]["text"] for each in told if each["sessionUpdate"] == "user_message_chunk"]
        assert asked == ["first", "second"]
    assert len({each["toolCallId"] for each in lived if "toolCallId" in each}) == 2
    before = len(client.updates(session))
    client.reopen("resume", session)
    assert len(client.updates(session)) == before
    assert client.prompt(session[:20], "third")["_meta"]["csa"] | {"turn": 3} == client.prompt(session, "x")["_meta"][
        "csa"
    ] | {"turn": 3}


@pytest.mark.thorough
def test_cancelling_ends_the_turn_at_once(client: Client) -> None:
    """Also while it starts; the session goes on."""
    place, session = client.place, client.new()
    number = client.send_prompt(session, "never mind")
    client.notify("session/cancel", sessionId=session)
    assert client.answer(number)["result"]["stopReason"] == "cancelled"
    place.play(["say", "working"], *place.hold())
    number = client.send_prompt(session, "long")
    place.wait_ready()
    client.notify("session/cancel", sessionId=session)
    assert client.answer(number)["result"]["stopReason"] == "cancelled"
    assert place.status(session) == "cancelled"
    place.play(["say", "fine"])
    assert client.prompt(session, "go on")["stopReason"] == "end_turn"
    place.play(["say", "working"], *place.hold())
    place.ready.unlink()
    number = client.send_prompt(session, "long")
    place.wait_ready()
    client.notify("$/cancel_request", requestId=number)
    assert client.answer(number)["result"]["stopReason"] == "cancelled"
    client.notify("session/cancel", sessionId=session)  # nothing runs
    client.notify("session/cancel", sessionId="nobody")
    assert client.ask("session/list", cwd=str(place.project))["sessions"][0]["sessionId"] == session


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_when_csa_acp_ends_and_the_session_goes_on(place: Place, how: str) -> None:
    place.play(["say", "working"], *place.hold())
    client = Client(place, "--tool", "codex")
    session = client.new()
    client.send_prompt(session, "long")
    place.wait_ready()
    if how == "stdin":
        assert client.leave() == 0
    else:
        client.process.send_signal(getattr(signal, how))
        client.leave()
        assert client.process.returncode == (128 + signal.SIGTERM if how == "SIGTERM" else -signal.SIGKILL)
    place.wait_until_empty(within_s=10)
    assert place.status(session) == "cancelled"
    place.play(["say", "back"])
    with Client(place) as other:
        other.reopen("resume", session)
        other.prompt(session, "go on")
        assert other.text(session) == "back"
        other.check_frames()


@pytest.mark.thorough
def test_two_prompts_at_once_in_one_session_and_in_two(client: Client) -> None:
    place = client.place
    place.script({"match": "wait", "do": place.hold()}, {"match": "", "do": [["say", "quick"]]})
    one, two = client.new(), client.new()
    first = client.send_prompt(one, "wait")
    place.wait_ready()
    error = client.fail("session/prompt", sessionId=one, prompt=[{"type": "text", "text": "me too"}])
    assert (error["data"]["kind"], "csa run --queue" in error["data"]["hint"]) == ("busy", True)
    assert client.prompt(two, "quick")["stopReason"] == "end_turn"
    place.release()
    assert client.answer(first)["result"]["stopReason"] == "end_turn"


@pytest.mark.thorough
def test_a_session_that_runs_elsewhere_is_shown_as_it_goes_and_is_busy(client: Client) -> None:
    place = client.place
    place.play(["say", "before"], *place.hold(), ["say", "after"])
    running = place.start("run", "--tool", "codex", "long")
    session = running.session_id
    place.wait_ready()
    place.wait_noted(session, "before")
    client.reopen("load", session)
    assert client.text(session) == "before"
    error = client.fail("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "x"}])
    assert error["data"]["kind"] == "busy"
    assert error["data"]["hint"]
    place.release()
    client.wait_update(session, lambda each: "after" in str(each.get("content")), "what came after")
    running.wait()


@pytest.mark.thorough
def test_what_is_wrong_is_an_error_with_the_next_step(client: Client) -> None:
    project = str(client.place.project)
    session = client.new()
    cases: list[tuple[str, Json, int]] = [
        ("session/new", {"cwd": "relative", "mcpServers": []}, -32602),
        ("session/new", {"cwd": "/no/such/place", "mcpServers": []}, -32002),
        ("session/load", {"sessionId": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "cwd": project, "mcpServers": []}, -32002),
        ("session/resume", {"sessionId": "nobody", "cwd": project}, -32002),
        ("session/prompt", {"sessionId": "nobody", "prompt": []}, -32002),
        ("session/prompt", {"sessionId": session, "prompt": []}, -32602),
        ("session/prompt", {"sessionId": session, "prompt": [{"type": "audio", "data": "", "mimeType": "x"}]}, -32602),
        ("session/prompt", {"sessionId": session, "prompt": [{"type": "image", "data": "?", "mimeType": "x"}]}, -32602),
        ("session/set_mode", {"sessionId": session, "modeId": "all"}, -32602),
        ("session/set_config_option", {"sessionId": session, "configId": "nothing", "value": "x"}, -32602),
        ("session/set_config_option", {"sessionId": session, "configId": "agent", "value": "nobody"}, -32602),
        ("session/new", {"cwd": project, "additionalDirectories": 5, "mcpServers": []}, -32602),
        ("session/list", {"cursor": "x"}, -32602),
        ("session/delete", {"sessionId": "nobody"}, -32002),
        ("session/close", {"sessionId": "nobody"}, -32002),
        ("session/delete", {}, -32602),
        ("nes/start", {}, -32601),
    ]
    for method, params, code in cases:
        error = client.fail(method, **params)
        assert error["code"] == code, (method, params, error)
        assert error["message"]
    client.place.play(["fail", "401"])
    error = client.fail("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "x"}])
    assert (error["code"], error["data"]["kind"], error["data"]["turn"]) == (-32000, "auth", 1)
    assert client.err.read_text() == ""


@pytest.mark.thorough
def test_the_options_are_kept_and_used(client: Client) -> None:
    """The mode is the permission; another agent has another model and effort; a session keeps all that."""
    place, session = client.place, client.new()
    assert client.ask("session/set_mode", sessionId=session, modeId="read-only") == {}
    changes = {"agent": "claude-code", "model": "opus-x", "effort": "high"}
    for option, value in changes.items():
        found = client.ask("session/set_config_option", sessionId=session, configId=option, value=value)
        assert {each["id"]: each["currentValue"] for each in found["configOptions"]}[option] == value
    client.prompt(session, "hello")
    state = place.state(session)
    assert (state["permission"], list(state["tools"])) == ("read-only", ["claude-code"])
    started = place.events(session)[0]["data"]
    assert (started["model"], started["effort"]) == ("opus-x", "high")
    options = {each["id"]: each["currentValue"] for each in client.reopen("resume", session)["configOptions"]}
    assert options == {"mode": "read-only", **changes}
    client.ask("session/set_config_option", sessionId=session, configId="agent", value="codex")
    client.prompt(session, "and you?")
    assert place.events(session)[-1]["data"]["tool"] == "codex"
    assert client.updates(session, "config_option_update")


@pytest.mark.thorough
def test_images_files_and_mentions_go_along(client: Client, tmp_path: Path) -> None:
    place = client.place
    place.play(["write-attached", str(tmp_path / "attached")], ["write-stdin", str(tmp_path / "stdin")], ["say", "ok"])
    session = client.new()
    client.prompt(
        session,
        "look at ",
        {"type": "resource_link", "name": "a b.py", "uri": "file:///tmp/a%20b.py"},
        " and ",
        {"type": "resource", "resource": {"uri": "file:///x/notes.md#L1-2", "text": "remember\n"}},
        {"type": "image", "data": base64.b64encode(PNG).decode(), "mimeType": "image/png"},
        " or ",
        {"type": "resource_link", "name": "", "uri": "http://[odd/x.md"},
    )
    started = place.events(session)[0]["data"]
    said, _, quoted = started["prompt"].partition("\n\n")
    files = "[a b.py](/tmp/a b.py) and [notes.md#L1-2](/x/notes.md#L1-2)"
    assert said == f"look at {files} or [x.md](http://[odd/x.md)"
    assert quoted == '<resource uri="file:///x/notes.md#L1-2">\nremember\n\n</resource>'
    assert [each["media_type"] for each in started["attachments"]] == ["image/png"]
    assert "remember" in (tmp_path / "stdin").read_text()


@pytest.mark.thorough
def test_sub_agents_show_as_calls_that_tell_what_they_do(client: Client) -> None:
    place = client.place
    place.script(
        {"match": "child", "do": [["call", "make", "ok"], ["sleep", 0.6], ["say", "child is done"]]},
        {"match": "", "do": [["run", "csa run --tool codex 'the child'"], ["say", "all done"]]},
    )
    session = client.new()
    client.prompt(session, "parent")
    calls = [each for each in client.updates(session) if str(each.get("toolCallId")).startswith("csa-")]
    assert calls[0]["title"] == "codex: the child"
    assert {calls[0]["sessionUpdate"], calls[0]["status"]} == {"tool_call", "in_progress"}
    assert (calls[-1]["status"], calls[-1]["content"][0]["content"]["text"]) == ("completed", "child is done")
    child = calls[0]["_meta"]["csa"]
    assert child["parent_session_id"] == session
    assert child["session_id"] in place.published()
    before = os.listdir(f"/proc/{client.process.pid}/fd")
    client.prompt(session, "parent")
    wait_for(lambda: len(os.listdir(f"/proc/{client.process.pid}/fd")) <= len(before), "all files are closed")


@pytest.mark.thorough
def test_a_fork_a_close_and_a_deletion(client: Client) -> None:
    place, session = client.place, client.new()
    client.prompt(session, "one")
    fork = client.ask("session/fork", sessionId=session, cwd=str(place.project))["sessionId"]
    client.prompt(fork, "two")
    assert place.state(fork)["genealogy"]["fork_of"] == session
    assert client.prompt(fork, "three")["_meta"]["csa"]["turn"] == 2
    place.play(*place.hold())
    number = client.send_prompt(session, "long")
    place.wait_ready()
    client.ask("session/close", sessionId=session)
    assert client.answer(number)["result"]["stopReason"] == "cancelled"
    assert client.fail("session/prompt", sessionId=session, prompt=[])["code"] == -32002
    client.ask("session/delete", sessionId=session)
    client.ask("session/delete", sessionId=client.new())
    listed = client.ask("session/list")["sessions"]
    assert [each["sessionId"] for each in listed] == [fork]


@pytest.mark.thorough
def test_a_deletion_spares_what_runs_elsewhere_and_what_is_pinned(client: Client) -> None:
    """A click in an editor ends no work of others; what it may delete itself is still open after a refusal."""
    place = client.place
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "long")
    session = running.session_id
    place.wait_ready()
    for name in (session, session[:20]):
        error = client.fail("session/delete", sessionId=name)
        assert (error["data"]["kind"], session in error["data"]["hint"]) == ("busy", True)
        client.reopen("load", session)
    place.release()
    assert running.wait().code == 0
    assert place.run("session", "pin", session).code == 0
    assert client.fail("session/delete", sessionId=session)["data"]["kind"] == "refused"
    assert client.prompt(session, "more")["stopReason"] == "end_turn"
    assert place.run("session", "pin", "--off", session).code == 0
    client.ask("session/delete", sessionId=session)
    assert place.published() == []


@pytest.mark.thorough
def test_a_turn_whose_supervisor_is_killed_is_lost(client: Client) -> None:
    """The answer says so: that something is not found would have clients begin another session."""
    place, session = client.place, client.new()
    place.play(*place.hold())
    number = client.send_prompt(session, "long")
    place.wait_ready()
    (supervisor,) = (pid for pid, words in place.processes().items() if "csa.runner.supervisor" in words)
    os.kill(supervisor, signal.SIGKILL)
    error = client.answer(number)["error"]
    assert (error["code"], error["data"]["status"], error["data"]["turn"]) == (-32603, "lost", 1)
    wait_for(lambda: set(place.processes()) <= {client.process.pid}, "nothing of the turn is left")
    place.play(["say", "fine"])
    assert client.prompt(session, "go on")["stopReason"] == "end_turn"


@pytest.mark.thorough
def test_sessions_of_all_projects_are_listed_page_by_page_and_opened_from_anywhere(
    client: Client, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    there, here = client.new(other), client.new()
    client.prompt(there, "there")
    client.prompt(here, "here")
    assert [each["sessionId"] for each in client.ask("session/list")["sessions"]] == [here, there]
    listed = client.ask("session/list", cwd=str(other))["sessions"]
    assert [(each["sessionId"], each["cwd"], each["title"]) for each in listed] == [(there, str(other), "there")]
    client.ask("session/close", sessionId=there)
    client.reopen("load", there)
    client.prompt(there, "again")
    assert client.place.ids(other) == [there]


@pytest.mark.thorough
def test_an_agent_that_starts_csa_acp_is_the_parent_of_its_sessions(place: Place) -> None:
    parent, environ = place.agent("--permission", "edit")
    place.play(*place.hold())
    running = place.start("run", "--session", parent, "go on")
    place.wait_ready()
    place.play(["say", "hi"])
    with Client(place, "--tool", "codex", env=environ) as client:
        modes = client.ask("session/new", cwd=str(place.project), mcpServers=[])
        assert [each["id"] for each in modes["modes"]["availableModes"]] == ["read-only", "edit"]
        client.prompt(modes["sessionId"], "child")
        assert place.state(modes["sessionId"])["genealogy"]["parent_session_id"] == parent
        client.check_frames()
    place.release()
    running.wait()


@pytest.mark.thorough
def test_a_template_makes_the_first_request_and_a_printing_child_does_no_harm(place: Place) -> None:
    assert place.run("template", "save", "careful", "--tool", "codex", "--permission", "read-only").code == 0
    with Client(place, "--as", "careful") as client:
        session = client.new()
        client.prompt(session, "hello")
        assert place.state(session)["permission"] == "read-only"
        client.check_frames()
    done = place.run("acp", "--as", "nobody", stdin=b'{"jsonrpc":"2.0","id":1,"method":"session/new"}\n')
    assert '"error"' in done.out
    with Client(place, "--tool", "codecks") as client:
        error = client.fail("session/new", cwd=str(place.project), mcpServers=[])
        assert (error["code"], "codex" in error["data"]["hint"]) == (-32602, True)


ALLOW: Json = {"outcome": {"outcome": "selected", "optionId": "allow"}}
REJECT: Json = {"outcome": {"outcome": "selected", "optionId": "reject"}}
ODD: Json = {"outcome": 7}


def _given(answer: Json, _: Json) -> Json:
    return answer


@pytest.mark.thorough
def test_what_the_agent_asks_reaches_the_user_and_the_answer_comes_back(place: Place) -> None:
    config = place.tmp / "config.toml"
    config.write_text('[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"]\n')
    place.env["CSA_CONFIG"] = str(config)
    place.play(["ask", "execute", "curl example.org"], ["say", "asked"])
    with Client(place, "--tool", "goose") as client:
        session = client.new()
        client.ask("session/set_mode", sessionId=session, modeId="read-only")
        for answer, status in ((ALLOW, "allowed"), (REJECT, "denied"), (ODD, "denied")):
            client.allow = partial(_given, answer)
            client.prompt(session, "go")
            decided = [each["data"] for each in place.events(session) if each["type"] == "permission"][-1]
            assert (decided["status"], decided["via"]) == (status, "acp")
        asked = [each["params"] for each in client.frames if each.get("method") == "session/request_permission"]
        assert {each["toolCall"]["title"] for each in asked} == {"curl example.org"}
        client.allow = lambda _: None
        number = client.send_prompt(session, "go")
        wait_for(lambda: len([f for f in client.frames if f.get("method") == "session/request_permission"]) > 3, "ask")
        client.notify("session/cancel", sessionId=session)
        assert client.answer(number)["result"]["stopReason"] == "cancelled"
        client.check_frames()
