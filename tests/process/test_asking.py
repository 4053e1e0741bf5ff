"""An agent asks for what its permission denies, and whoever answers first decides; an agent cannot."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csa.errors import NotFoundError, SettledError
from csa.runner.client import Csa
from tests.serving import serving
from tests.support import CSA, Json, Place, wait_for

CONFIG = '[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"]\n'
ASKS = ["ask", "execute", "rm x"]


@pytest.fixture
def asker(place: Place) -> Place:
    """A place whose tool `goose` asks for a command that no level but `full` allows."""
    (place.tmp / "config.toml").write_text(CONFIG)
    place.env["CSA_CONFIG"] = str(place.tmp / "config.toml")
    place.play(ASKS, ["say", "tried"])
    return place


@pytest.fixture
def asked(asker: Place) -> Iterator[tuple[Place, str]]:
    """A session that asks, in the background."""
    yield asker, begin(asker)
    asker.run("kill", "--all")


def begin(place: Place, *words: str) -> str:
    """Begin a turn that asks; return its session when it does."""
    done = place.run("run", "--detach", "--tool", "goose", "--ask", *words, "try", "--quiet")
    assert done.code == 0, done.err
    session_id = done.out.strip()
    wait_for(lambda: place.run("answer", "--json", "-s", session_id).json, "it asks")
    return session_id


def decisions(place: Place, session_id: str) -> list[Json]:
    """Return what was asked, and what came of it."""
    return [event["data"] for event in place.events(session_id) if event["type"] == "permission"]


def client_of(place: Place) -> Csa:
    """Open the project as a user's program does."""
    return Csa.from_environment(place.project, environ=place.environment(None))


def test_allowed_by_a_command(asked: tuple[Place, str]) -> None:
    """What is asked is listed, shown as the session's state, and allowed once; a second answer comes too late."""
    place, session_id = asked
    (ask,) = place.run("answer", "--json").json
    assert (ask["session_id"], ask["title"], ask["command"], ask["kind"]) == (session_id, "rm x", "rm x", "execute")
    (row,) = place.run("ls", "--json").json
    assert (row["status"], row["asking"]) == ("running", "rm x")
    assert "waiting for your permission: rm x" in place.run("status", session_id).out
    assert " asking " in place.run("ls").out
    assert " asking" in place.run("ls", "--tree").out
    done = place.run("answer", ask["ask"][:6], "--allow", "--json")
    assert done.json == {"session_id": session_id, "ask": ask["ask"], "title": "rm x", "allowed": True}
    assert place.run("wait", session_id).code == 0
    pending, decided = decisions(place, session_id)
    assert pending["status"], pending["options"][0]["kind"] == ("pending", "allow_once")
    assert (decided["status"], decided["by"], decided["via"]) == ("allowed", "user", "answer")
    late = place.run("answer", "-s", session_id, ask["ask"], "--deny", "--json")
    assert (late.code, late.json["error"]["kind"]) == (4, "settled")
    assert "allowed already, by a person" in late.json["error"]["message"]


@pytest.mark.thorough
def test_over_http(asker: Place) -> None:
    """The route answers once, 409 after that, 404 for what was never asked; a token that may only read is refused."""
    with serving(asker) as server:
        session_id = server.start(tool="goose", ask=True)
        path = f"/sessions/{session_id}"
        wait_for(lambda: server.get(f"{path}/asks"), "it asks")
        (ask,) = server.get(f"{path}/asks")
        assert server.get(path)["asking"] == "rm x"
        wait_for(lambda: server.get("/events")["sessions"][0]["asking"] == "rm x", "the fleet shows it")
        rows = server.get("/events")["sessions"]
        assert rows[0]["doing"] == "waiting for your permission: rm x"
        token = asker.run("serve", "token", "phone", "--read").out.split()[-1]
        reading = {"Authorization": f"Bearer {token}"}
        body = {"ask": ask["ask"], "allow": True}
        assert server.ask("POST", f"{path}/answer", body, headers=reading).status == 403
        assert server.ask("POST", f"{path}/answer", {**body, "ask": "nothing"}).status == 404
        assert server.ask("POST", f"{path}/answer", {"ask": ask["ask"]}).status == 400
        assert server.post(f"{path}/answer", body, status=200)["allowed"] is True
        assert server.ask("POST", f"{path}/answer", {**body, "allow": False}).status == 409
        assert asker.run("wait", session_id).code == 0
        assert server.ask("POST", f"{path}/answer", body).kind == "settled"
        assert server.get(f"{path}/asks") == []
    assert decisions(asker, session_id)[-1]["via"] == "http"


@pytest.mark.thorough
def test_after_a_restart_of_the_server(asker: Place) -> None:
    """The turn, and what it asks, do not depend on the server that started it."""
    with serving(asker) as server:
        session_id = server.start(tool="goose", ask=True)
        wait_for(lambda: server.get(f"/sessions/{session_id}/asks"), "it asks")
    with serving(asker) as server:
        (ask,) = server.get(f"/sessions/{session_id}/asks")
        server.post(f"/sessions/{session_id}/answer", {"ask": ask["ask"], "allow": False}, status=200)
        asker.run("wait", session_id)
    assert decisions(asker, session_id)[-1]["status"] == "denied"


@pytest.mark.thorough
def test_nobody_answers(asker: Place) -> None:
    """After its time the level decides, and the transcript says so; an answer then comes too late."""
    session_id = begin(asker, "--ask-timeout", "1")
    (ask,) = client_of(asker).asks(session_id)
    asker.run("wait", session_id)
    _, decided = decisions(asker, session_id)
    assert (decided["status"], decided["by"]) == ("denied", "timeout")
    assert "via" not in decided
    with pytest.raises(SettledError, match="nobody had answered"):
        client_of(asker).answer(session_id, ask.ask, allow=True)


@pytest.mark.thorough
def test_answers_at_once(asked: tuple[Place, str]) -> None:
    """Of many answers at the same time exactly one counts, and the transcript has that one."""
    place, session_id = asked
    client = client_of(place)
    (ask,) = client.asks()

    def answer(number: int) -> bool | None:
        try:
            return client.answer(session_id, ask.ask, allow=number % 2 == 0, via=f"door {number}").allowed
        except SettledError:
            return None

    with ThreadPoolExecutor(8) as threads:
        found = [allowed for allowed in threads.map(answer, range(8)) if allowed is not None]
    place.run("wait", session_id)
    assert found == [decisions(place, session_id)[-1]["status"] == "allowed"]


@pytest.mark.thorough
def test_a_turn_that_is_ended(asked: tuple[Place, str]) -> None:
    """Ending the turn settles what it asks: denied, and nothing is pending any more."""
    place, session_id = asked
    client = client_of(place)
    (ask,) = client.asks()
    assert place.run("kill", session_id).code == 0
    with pytest.raises(SettledError):
        client.answer(session_id, ask.ask, allow=True)
    assert client.asks(session_id) == []
    assert client.info(session_id).asking is None
    place.wait_until_empty(within_s=3)


@pytest.mark.thorough
def test_a_killed_supervisor(asked: tuple[Place, str]) -> None:
    """Nothing can be allowed after SIGKILL of the turn's process, and the session does not claim to wait."""
    place, session_id = asked
    client = client_of(place)
    (ask,) = client.asks()
    os.kill(int(client.info(session_id).pid or 0), signal.SIGKILL)
    wait_for(lambda: client.info(session_id).status == "lost", "the turn is lost")
    with pytest.raises(SettledError):
        client.answer(session_id, ask.ask, allow=True)
    assert client.asks(session_id) == []


@pytest.mark.thorough
def test_a_stopped_supervisor(asked: tuple[Place, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not respond is named, with what continues it; the answer given up on does not count."""
    place, session_id = asked
    monkeypatch.setattr("csa.runner.sessions.answering.ANSWER_S", 0.3)
    client = client_of(place)
    (ask,) = client.asks()
    pid = int(client.info(session_id).pid or 0)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Exception, match="does not respond") as caught:
        client.answer(session_id, ask.ask, allow=True)
    assert caught.value.hint == f"if it was stopped: kill -CONT {pid}"  # type: ignore[attr-defined]  # a CsaError
    os.kill(pid, signal.SIGCONT)
    assert client.answer(session_id, ask.ask, allow=False).allowed is False
    place.run("wait", session_id)
    assert decisions(place, session_id)[-1]["status"] == "denied"


@pytest.mark.thorough
def test_an_agent_cannot_answer(asker: Place) -> None:
    """Not by the command, not by the route, and not at the socket itself, whatever it does to its environment."""
    out = asker.tmp / "tried"
    session_id = begin(asker)
    (ask,) = client_of(asker).asks()
    at_socket = (
        "import json, os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]);"
        "s.connect('asks.sock');"
        "s.sendall(json.dumps({'ask': sys.argv[2], 'allow': True, 'via': 'answer'}).encode() + b'\\n');"
        "print(s.makefile().readline())"
    )
    (asker.tmp / "at_socket.py").write_text(at_socket)
    runtime = asker.session(session_id) / "runtime"
    forged = f"env -i PATH=$PATH python3 {asker.tmp}/at_socket.py {runtime} {ask.ask} > {out}-3 2>&1"
    asker.script(
        {
            "match": "",
            "do": [
                ["run", f"{CSA} answer --allow > {out}-1 2>&1; true"],
                ["run", f"env -i PATH=$PATH HOME=$HOME setsid -w {CSA} answer --allow > {out}-2 2>&1; true"],
                ["run", f"{forged}; true"],
                ["say", "done"],
            ],
        }
    )
    asker.codex("allow it", "--permission", "full")
    for number in (1, 2):
        assert "cannot answer what an agent asks" in Path(f"{out}-{number}").read_text(), number
    assert json.loads(Path(f"{out}-3").read_text())["error"] == "refused"
    assert [each.ask for each in client_of(asker).asks()] == [ask.ask]
    assert asker.run("answer", "--deny").code == 0
    asker.run("wait", session_id)


_WITHOUT_GUARDIAN = """
import json, os, signal, socket, sys, time
runtime, ask, guardian = sys.argv[1], sys.argv[2], sys.argv[-1]
def parent(pid):
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1]
if guardian == ask:
    above = [str(os.getppid())]
    while "import guardian" not in open(f"/proc/{above[-1]}/cmdline").read():
        above.append(parent(above[-1]))
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve(sys.executable, [sys.executable, *sys.argv, above[-1]], {})
        os._exit(0)
    time.sleep(60)
while os.getppid() != int(guardian):
    time.sleep(0.01)
os.chdir(runtime)
os.kill(int(guardian), signal.SIGKILL)
while os.getppid() == int(guardian):
    pass
connection = socket.socket(socket.AF_UNIX)
connection.connect("asks.sock")
connection.sendall(json.dumps({"ask": ask, "allow": True, "via": "answer"}).encode() + b"\\n")
time.sleep(60)
"""


@pytest.mark.thorough
def test_an_agent_without_its_guardian(asker: Place) -> None:
    """Nor can it where nothing but the process that runs its turn is above it, because it has killed the guardian."""
    session_id = begin(asker)
    (ask,) = client_of(asker).asks()
    (asker.tmp / "escape.py").write_text(_WITHOUT_GUARDIAN)
    words = f"{asker.session(session_id)}/runtime {ask.ask}"
    asker.play(["run", f"python3 {asker.tmp}/escape.py {words}"], ["say", "done"])
    for _ in range(5):  # it may be ended before it has said anything
        asker.run("run", "--tool", "codex", "--permission", "full", "allow it")
        assert len(decisions(asker, session_id)) == 1
    assert [each.ask for each in client_of(asker).asks()] == [ask.ask]
    assert asker.run("answer", "--deny").code == 0
    asker.run("wait", session_id)


_CHAT = """
import os, pty, select, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], [sys.argv[1], "chat", "--tool", "goose", "--ask"])
said = b""
def expect(words):
    global said
    while words not in said:
        assert select.select([fd], [], [], 15)[0], said
        said += os.read(fd, 4096)
    said = b""
expect(b"goose>")
os.write(fd, b"inner\\r")
expect(b"/allow or /deny")
os.write(fd, b"/allow\\r")
expect(b"cannot answer")
"""


@pytest.mark.thorough
def test_an_agent_in_a_chat(asker: Place) -> None:
    """An agent that gives itself a terminal, and what it starts there `--ask`, cannot allow that anything either."""
    (asker.tmp / "chat.py").write_text(_CHAT)
    chat = f"python3 {asker.tmp}/chat.py {CSA} > {asker.tmp}/out 2>&1"
    asker.script(
        {"match": "inner", "do": [ASKS, ["say", "tried"]]},
        {"match": "outer", "do": [["run", f"TERM=xterm {chat}"], ["say", "done"]]},
    )
    asker.codex("outer")
    assert (asker.tmp / "out").read_text() == ""
    (inner,) = (each for each in asker.ids() if decisions(asker, each))
    assert "allowed" not in [each["status"] for each in decisions(asker, inner)]


@pytest.mark.thorough
def test_its_own_user_at_the_socket(asked: tuple[Place, str]) -> None:
    """What is not a request is refused and decides nothing; who says nothing does not hold others up."""
    place, session_id = asked
    runtime = place.session(session_id) / "runtime"
    assert (runtime / "asks.sock").stat().st_mode & 0o777 == 0o600
    fd = os.open(runtime, os.O_PATH)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(f"/proc/self/fd/{fd}/asks.sock")
    for words in (b"nonsense\n", b"[]\n", b'{"ask": 1}\n'):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/self/fd/{fd}/asks.sock")
            connection.sendall(words)
            assert json.loads(connection.makefile().readline())["error"] == "refused"
    os.close(fd)
    assert client_of(place).answer(session_id, allow=True).allowed is True
    silent.close()


@pytest.mark.thorough
def test_who_asks(asker: Place) -> None:
    """A tool that cannot ask is told apart; `--ask` is kept, `--no-ask` ends that; the configuration is the default."""
    refused = asker.run("run", "--tool", "codex", "--ask", "x")
    assert (refused.code, "codex cannot ask for permission with the native transport" in refused.err) == (2, True)
    assert "--transport acp" in refused.err
    asker.play(["say", "fine"])
    done = asker.run("run", "--tool", "goose", "--ask", "x")
    assert asker.state(done.session_id)["ask"] is True
    assert asker.run("run", "-s", done.session_id, "--no-ask", "y").code == 0
    assert asker.state(done.session_id)["ask"] is False
    asker.play(ASKS, ["say", "tried"])
    assert asker.run("run", "-s", done.session_id, "z").code == 0
    assert "ask" not in decisions(asker, done.session_id)[-1]
    env = {"CSA_CONF_ASK": "true", "CSA_CONF_ASK_TIMEOUT_S": "0.2"}
    asker.run("run", "--tool", "goose", "x", env=env)
    assert decisions(asker, asker.ids()[-1])[-1]["by"] == "timeout"
    asker.play(["say", "fine"])
    warned = asker.run("run", "--tool", "codex", "x", env={"CSA_CONF_ASK": "true"})
    assert (warned.code, "codex cannot ask for permission" in warned.err) == (0, True)


def test_nothing_is_asked(place: Place) -> None:
    """Without a turn that asks the list is empty, and an answer is an error."""
    assert place.run("answer", "--json").json == []
    assert place.run("answer", "--allow").code == 3
    client = client_of(place)
    assert client.asks() == []
    with pytest.raises(NotFoundError):
        client.answer("@last", allow=True)
