"""csa serve: who is answered, what is answered, and that nothing is lost whatever ends."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validate

from csa.model.schemas.api import ROUTES, ROW
from csa.model.schemas.kit import document
from csa.model.schemas.table import PIECES
from csa.serve.chatapi import CHAT_HANDLERS
from csa.serve.handlers import HANDLERS
from tests.conftest import REPOSITORY
from tests.schemas import check
from tests.serving import API, Server, serving
from tests.support import Place, allowing, wait_for


@pytest.mark.thorough
def test_an_agent_is_started_watched_and_continued(place: Place) -> None:
    """What the command line does, over HTTP, with its objects; asking for the same session again starts nothing."""
    place.play(["say", "Hello yourself."])
    with serving(place) as server:
        _go_through_a_session(place, server)


def _go_through_a_session(place: Place, server: Server) -> None:
    session_id = server.start(session_id="api")
    with server.stream(f"/sessions/{session_id}/events") as events:
        seen = [next(events)]
        while seen[-1].name != "run_finished":
            seen.append(next(events))
    assert [event.data for event in seen] == place.events(session_id)
    assert [event.id for event in seen] == [str(number) for number in range(1, len(seen) + 1)]
    place.run("wait", "api")
    again = server.ask("POST", "/sessions", {"prompt": "x", "session_id": "api", "directory": str(place.project)})
    assert (again.status, again.json) == (200, {"session_id": session_id, "created": False})
    check("list", listed := server.get("/sessions"))
    assert [(each["name"], each["turns"], each["status"]) for each in listed] == [("api", 1, "succeeded")]
    check("info", server.get("/sessions/api"))
    check("result", result := server.get(f"/sessions/{session_id[:12]}/result"))
    assert result["text"] == "Hello yourself."
    check("show", server.get("/sessions/api/messages"))
    page = server.get("/sessions/api/events?after=1&limit=2")
    assert ([event["seq"] for event in page["events"]], page["next"]) == ([2, 3], 3)
    check("run --detach", server.post("/sessions/api/turns", {"prompt": "more", "after_turn": 1}, status=202))
    place.run("wait", "api")
    late = server.ask("POST", "/sessions/api/turns", {"prompt": "more", "after_turn": 1})
    assert (late.status, late.kind) == (412, "changed")
    renamed = server.ask("PATCH", "/sessions/api", {"name": "web", "pinned": True}).json
    assert (renamed["name"], renamed["pinned"]) == ("web", True)
    assert server.ask("DELETE", "/sessions/web").status == 403
    assert server.ask("POST", "/sessions/web/answer", {"ask": "", "allow": True}).status == 404
    deleted = server.ask("DELETE", "/sessions/web?force=true")
    check("delete", [deleted.json])
    assert server.ask("GET", "/sessions/web").json["phase"] == "retired"
    check("restore", server.post("/sessions/web/restore", status=200))


REFUSED: tuple[tuple[str, str, Mapping[str, str | None], bytes | None, int], ...] = (
    ("GET", "/health", {}, None, 200),
    ("GET", "/health", {"Host": "localhost"}, None, 200),
    ("GET", "/health", {"Host": "LOCALHOST:1"}, None, 200),
    ("GET", "/health", {"Host": "evil.example"}, None, 421),
    ("GET", "/health", {"Host": "127.0.0.1.evil.example"}, None, 421),
    ("GET", "/health", {"Host": "192.0.2.1"}, None, 421),
    ("GET", "/health", {"Host": ""}, None, 421),
    ("GET", "/health", {"Host": "evil.example", "Authorization": None}, None, 421),
    ("GET", "/health", {"Host": "localhost", "Origin": "http://localhost"}, None, 200),
    ("GET", "/health", {"Host": "localhost", "Origin": "http://localhost:8000"}, None, 403),
    ("GET", "/health", {"Origin": "null"}, None, 403),
    ("GET", "/health", {"Origin": "https://evil.example"}, None, 403),
    ("OPTIONS", "/health", {"Origin": "https://evil.example", "Authorization": None}, None, 403),
    ("OPTIONS", "/health", {}, None, 405),
    ("GET", "/health", {"Authorization": None}, None, 401),
    ("GET", "/health", {"Authorization": "Bearer "}, None, 401),
    ("GET", "/health", {"Authorization": "Bearer sk-csa-wrong"}, None, 401),
    ("GET", "/health", {"Authorization": None, "Cookie": "token=x"}, None, 401),
    ("GET", "/nothing", {}, None, 404),
    ("GET", "/nothing", {"Authorization": None}, None, 401),
    ("GET", "/api", {"Authorization": None}, None, 401),
    ("GET", "/api%2Fv1/health", {"Authorization": None}, None, 401),
    ("POST", "/mcp", {"Authorization": None}, b"{}", 401),
    ("POST", "/mcp%0A", {"Authorization": None}, b"{}", 401),
    ("GET", "/mcp/", {"Authorization": None}, None, 401),
    ("GET", "/api/updates", {"Accept": "text/event-stream"}, None, 400),
    ("PUT", "/sessions", {}, b"{}", 405),
    ("POST", "/sessions", {"Content-Type": "text/plain"}, b'{"prompt": "x"}', 415),
    ("POST", "/sessions", {"Content-Type": None}, b'{"prompt": "x"}', 415),
    ("POST", "/sessions", {"Content-Type": "application/x-www-form-urlencoded"}, b"prompt=x", 415),
    ("POST", "/sessions", {"Origin": "https://evil.example", "Content-Type": "text/plain"}, b"{}", 403),
    ("POST", "/sessions", {}, b"", 400),
    ("POST", "/sessions", {}, b"{", 400),
    ("POST", "/sessions", {}, b"[]", 400),
    ("POST", "/sessions", {}, b'{"prompt": 1, "directory": "/"}', 400),
    ("POST", "/sessions", {}, b'{"prompt": "x", "directory": "/", "colour": "red"}', 400),
    ("POST", "/sessions", {}, b'{"prompt": "x", "directory": "relative"}', 400),
    ("POST", "/sessions", {}, b'{"prompt": "x\\u0000", "directory": "/"}', 400),
    ("POST", "/sessions", {}, b'{"prompt": "\\ud800", "directory": "/"}', 400),
    ("POST", "/sessions", {}, b'{"prompt": "x", "directory": "/", "permission": "root"}', 400),
    ("POST", "/sessions", {}, b'{"prompt": "x", "directory": "/no/such/place"}', 404),
    ("POST", "/sessions", {}, b'{"prompt": "x", "directory": "/usr"}', 403),
    ("POST", "/sessions", {}, b"[" * 100_000, 400),
    ("POST", "/sessions", {"Content-Length": str(5 << 20)}, b"{", 413),
    ("GET", "/sessions?limit=0", {}, None, 400),
    ("GET", "/sessions?limit=x", {}, None, 400),
    ("GET", "/sessions?colour=red", {}, None, 400),
    ("GET", "/sessions?status=gone", {}, None, 400),
    ("GET", "/sessions/nobody", {}, None, 404),
    ("GET", "/sessions/@last", {}, None, 404),
    ("GET", "/sessions/%00", {}, None, 404),
    ("GET", "/sessions/%0A", {}, None, 400),
    ("GET", "/search", {}, None, 400),
)


def test_who_and_what_is_refused(server: Server) -> None:
    """Host, Origin, token, method, content type and body, in this order; each refusal is an error object."""
    wrong = []
    for method, path, headers, body, status in REFUSED:
        answer = server.ask(method, path, raw=body, headers=headers)
        if answer.status != status:
            wrong.append((method, path, headers, body and body[:80], status, answer))
        elif status != 200:
            check("error", answer.json)
        assert "nosniff" in answer.headers["x-content-type-options"]
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in answer.headers
        assert "set-cookie" not in answer.headers
    assert not wrong
    assert server.get("/sessions") == []
    allowed = server.ask("OPTIONS", "/sessions/x").headers["allow"]
    assert {method.strip() for method in allowed.split(",")} == {"GET", "HEAD", "PATCH", "DELETE"}


@pytest.mark.thorough
def test_doubled_headers_are_refused(server: Server) -> None:
    """What two programs might read differently is not read at all."""
    lengths = "Content-Length: 5\r\nTransfer-Encoding: chunked"
    cases = (
        (lengths, b"400"),
        ("Host: x", b"400"),
        ("Origin: null\r\nOrigin: null", b"403"),
        ("Authorization: Bearer x", b"401"),
    )
    for more, status in cases:
        with socket.create_connection(("127.0.0.1", server.port)) as own:
            head = f"Host: localhost\r\nAuthorization: Bearer {server.token}\r\n{more}"
            own.sendall(f"GET {API}/health HTTP/1.1\r\n{head}\r\n\r\n".encode())
            assert own.recv(100).split()[1] in {status, b"421"}


@pytest.mark.thorough
def test_tokens_are_named_limited_and_revoked(place: Place, server: Server) -> None:
    """A token for reading starts nothing, and a revoked one gets nothing. Only hashes are kept."""
    reading = place.run("serve", "token", "phone", "--read").out.strip()
    kept = place.state_root / ".serve" / "tokens.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert reading not in kept.read_text()
    with_it = {"Authorization": f"Bearer {reading}"}
    assert server.ask("GET", "/sessions", headers=with_it).status == 200
    body = {"prompt": "x", "directory": str(place.project)}
    assert server.ask("POST", "/sessions", body, headers=with_it).status == 403
    assert place.run("serve", "url").out == server.running.out
    assert place.run("serve", "token", "phone", "--revoke").code == 0
    assert server.ask("GET", "/sessions", headers=with_it).status == 401


@pytest.mark.thorough
def test_one_server_and_none_for_agents(place: Place, server: Server) -> None:
    """A second one is refused; an agent may neither serve, nor get the token, nor end the server."""
    assert place.run("serve", "--port", "0").code == 4
    _, agent = place.agent()
    for words in (["serve", "--port", "0"], ["serve", "url"], ["serve", "token", "mine"], ["serve", "stop"]):
        assert place.run(*words, env=agent).code == 5
    assert place.run("serve", "--host", "0.0.0.0", env={"CSA_STATE_DIR": str(place.tmp / "other")}).code == 2
    assert place.run("serve", "stop").code == 0
    assert server.running.wait().code == 0
    assert place.run("serve", "url").code == 3


@pytest.mark.thorough
def test_other_projects_are_not_served(place: Place, tmp_path: Path) -> None:
    """With --project nothing of another one can be seen or started."""
    session_id = place.codex().session_id
    other = tmp_path / "other"
    other.mkdir()
    with serving(place, "--project", str(other)) as server:
        assert server.get("/sessions") == []
        assert [found["project"] for found in server.get("/projects")] == [str(other.resolve())]
        for method, path, body in (
            ("GET", f"/sessions/{session_id}", None),
            ("POST", f"/sessions/{session_id}/turns", {"prompt": "x"}),
            ("POST", "/sessions", {"prompt": "x", "directory": str(place.project)}),
            ("GET", f"/sessions?project={place.project}", None),
        ):
            answer = server.ask(method, path, body)
            assert (answer.status, answer.kind) == (403, "not_served")


@pytest.mark.thorough
def test_an_agent_acts_as_its_own_session(place: Place) -> None:
    """Who asks from this machine is looked up: an agent's session is a child of its own, also without variables."""
    call = (
        "import json, sys, urllib.request as u; url, token, directory = sys.argv[1:]; "
        "body = json.dumps({'prompt': 'child', 'tool': 'codex', 'directory': directory}).encode(); "
        "head = {'Authorization': 'Bearer ' + token, 'Content-Type': 'application/json'}; "
        "print(u.urlopen(u.Request(url + '/api/v1/sessions', body, head)).read())"
    )
    place.codex()
    with serving(place) as server:
        words = f'env -i /usr/bin/env python3 -c "{call}" {server.url} {server.token} {place.project}'
        place.script({"match": "parent", "do": [["run", words], ["say", "done"]]}, {"match": "", "do": [["say", "ok"]]})
        parent = place.codex("parent").session_id
        (child,) = [each for each in server.get("/sessions") if each["parent_session_id"]]
        assert (child["parent_session_id"], child["depth"]) == (parent, 1)
        place.run("wait", child["session_id"])


@pytest.mark.thorough
def test_the_tree_streams_states(place: Place, server: Server) -> None:
    """First all sessions, then those that change; a position from before continues, another server's begins anew."""
    with server.stream("/events") as events:
        first = next(events)
        assert (first.name, first.data["sessions"]) == ("snapshot", [])
        rows = document(ROW, PIECES, title="row")
        session_id = server.start()
        states: list[Any] = []
        while not states or states[-1]["status"] != "succeeded":
            states += [row for row in next(events).data["sessions"] if row["session_id"] == session_id]
        for row in states:
            validate(row, rows)
        assert states[0]["status"] in {"running", "succeeded"}
    with server.stream("/events", last=first.id) as events:
        later = next(events)
        assert (later.name, [row["session_id"] for row in later.data["sessions"]]) == ("changes", [session_id])
    with server.stream("/events", last="0123-4") as events:
        assert next(events).name == "snapshot"


@pytest.mark.thorough
def test_nothing_is_lost_whatever_ends(place: Place) -> None:
    """Ctrl-C ends the server within two seconds with clients connected; SIGKILL of it loses no turn."""
    place.play(*place.hold(), ["say", "still here"])
    server = Server(place)
    session_id = server.start()
    place.wait_ready()
    with server.stream("/events") as tree, server.stream(f"/sessions/{session_id}/events") as events:
        next(tree)
        assert next(events).id == "1"
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < allowing(2)
    server = Server(place)
    with server.stream(f"/sessions/{session_id}/events", last="1") as events:
        assert next(events).id == "2"
        server.running.kill()
    place.release()
    assert place.run("wait", session_id).code == 0
    assert place.last_event(session_id)["status"] == "succeeded"
    with serving(place) as server:
        assert server.get(f"/sessions/{session_id}/result")["text"] == "still here"


@pytest.mark.thorough
def test_artifacts_are_attachments(place: Place, server: Server) -> None:
    """What an agent has left is never shown as a page of ours; links that lead out, and csa's own files, are none."""
    steps = 'echo "<script>" > "$CSA_OUTPUT_DIR/a.html"; ln -s /etc/passwd "$CSA_OUTPUT_DIR/leak"'
    place.play(["run", steps], ["say", "done"])
    session_id = place.codex().session_id
    check("artifacts", listed := server.get(f"/sessions/{session_id}/artifacts"))
    assert sorted(item["name"] for item in listed) == ["turn-0001/a.html", "turn-0001/leak"]
    answer = server.ask("GET", f"/sessions/{session_id}/artifacts/turn-0001/a.html")
    assert answer.content == b"<script>\n"
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["content-disposition"].startswith("attachment")
    for name in (
        "turn-0001/leak",
        "%00",
        "turn-0001/final.md",
        "../state.toml",
        "%2e%2e/state.toml",
        "turn-0001",
        "",
        "/x",
    ):
        assert server.ask("GET", f"/sessions/{session_id}/artifacts/{name}").status == 404
    output = next(place.state_root.rglob(session_id)) / "output"
    output.rename(output.with_name("moved"))
    output.symlink_to("/etc")
    assert server.ask("GET", f"/sessions/{session_id}/artifacts/passwd").status == 404


@pytest.mark.thorough
def test_logs_whole_and_in_part(place: Place, server: Server) -> None:
    """As `csa logs` prints them; the last lines, and ranges, from which a client can put the whole together."""
    place.play(["emit-many", 500], ["say", "Hello"])
    session_id = place.codex().session_id
    path = f"/sessions/{session_id}/logs"
    whole = server.ask("GET", path)
    assert (whole.status, whole.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert whole.content.decode() == place.run("logs", session_id, "--raw").out
    assert server.ask("GET", f"{path}?tail=3").content == b"".join(whole.content.splitlines(keepends=True)[-3:])
    assert server.ask("GET", f"{path}?tail=0").content == b""
    assert server.ask("GET", f"{path}?tail=100000&turn=1").content == whole.content
    assert server.ask("GET", f"{path}?kind=system").status in {200, 404}
    size, pieces, at = len(whole.content), b"", 0
    while at < size:
        part = server.ask("GET", path, headers={"Range": f"bytes={at}-{at + 4999}"})
        assert (part.status, part.headers["content-range"].partition("/")[2]) == (206, str(size))
        pieces, at = pieces + part.content, at + len(part.content)
    assert pieces == whole.content
    assert server.ask("GET", path, headers={"Range": "bytes=-7"}).content == whole.content[-7:]
    beyond = server.ask("GET", path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert server.ask("GET", path, headers={"Range": "bytes=5-2, 7-8"}).status == 200
    assert server.ask("GET", f"{path}?turn=2").status == 404
    assert server.ask("GET", f"{path}?kind=other").status == 400


@pytest.mark.thorough
def test_the_diff_of_a_session(place: Place, server: Server) -> None:
    """It is the object of the command line; without a repository there is none."""
    session_id = place.codex().session_id
    assert server.ask("GET", f"/sessions/{session_id}/diff").status == 404
    (place.project / ".git" / "HEAD").unlink()
    place.shell(["git", "init", "-q"])
    place.play(["run", "echo x > made"], ["say", "Done."])
    place.codex("work", "--session", session_id)
    found = server.get(f"/sessions/{session_id}/diff?turn=2")
    check("diff", found)
    assert found == place.run("diff", session_id, "--turn", "2", "--json").json
    assert [file["path"] for file in found["files"]] == ["made"]


@pytest.mark.thorough
def test_a_unix_socket_is_the_users_own(place: Place) -> None:
    """It has mode 0600, replaces what a killed server has left, and is removed at the end."""
    path = place.tmp / "socket"
    running = place.start("serve", "--socket", str(path))
    wait_for(lambda: running.out, "it serves")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = place.run("serve", "url").out.strip().rpartition("=")[2]
    running.kill()
    running = place.start("serve", "--socket", str(path))
    wait_for(lambda: running.out, "it serves again")
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(str(path))
        own.sendall(f"GET {API}/health HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        assert own.recv(1000).startswith(b"HTTP/1.1 200")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0
    assert not path.exists()


@pytest.mark.thorough
def test_where_it_cannot_listen(place: Place) -> None:
    """Each says what is wrong and what to do; nobody is asked for a passphrase."""
    file, own, other = place.tmp / "file", place.tmp / "own.sock", place.tmp / "dangling"
    file.write_text("x")
    other.symlink_to(place.tmp / "nowhere")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(own))
        listening.listen()
        for taken in (file, own, other, place.tmp, place.tmp / "a" / "b", place.tmp / ("x" * 110)):
            done = place.run("serve", "--socket", str(taken))
            assert (done.code, str(taken) in done.err, "hint: --socket" in done.err) == (1, True, True), done
    done = place.run("serve", "--host", "192.0.2.1", "--insecure-http")
    assert (done.code, "hint: --host" in done.err) == (1, True), done
    done = place.run("serve", "--tls-cert", str(file), "--tls-key", str(file))
    assert (done.code, "error: --tls-cert" in done.err) == (2, True), done
    assert (file.read_text(), other.is_symlink()) == ("x", True)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_in_order_also_when_told_twice(place: Place, server: Server, number: signal.Signals) -> None:
    """Somebody is connected, and impatient: no traceback."""
    with server.stream("/events") as events:
        next(events)
        for _ in range(3):
            server.running.signal(number)
        done = server.running.wait()
    assert (done.code, "Traceback" in done.err) == (0, False), done


@pytest.mark.thorough
def test_csa_is_removed_while_it_serves(place: Place) -> None:
    """What routes need is loaded by then, so that an upgrade does not mix two versions."""
    session_id = place.codex().session_id
    copy = place.tmp / "copy"
    for package in (REPOSITORY / "csa", REPOSITORY / "adapters" / "csa_adapters"):
        shutil.copytree(package, copy / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    place.env["PYTHONPATH"] = str(copy)
    with serving(place) as server:
        del place.env["PYTHONPATH"]
        last = copy / "csa" / "serve" / "__pycache__"
        wait_for(lambda: any(last.glob("markup.*.pyc")), "all is loaded")
        shutil.rmtree(copy)
        got = {}
        for route in ROUTES:
            if route.method == "GET" and route.name != "updates":
                path = route.place.replace("{id}", session_id).replace("{name:path}", "x")
                got[route.name] = server.ask("GET", path, headers={"X-Session-Id": session_id}).status
        assert [name for name, status in got.items() if status >= 500] == []
        assert server.ask("POST", f"/sessions/{session_id}/checkpoint", {}).status == 201
        assert server.ask("PATCH", f"/sessions/{session_id}", {"name": "other"}).status == 200
        assert server.ask("DELETE", f"/sessions/{session_id}").status == 200
        assert "Traceback" not in server.running.err


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="there is no IPv6")
def test_a_socket_for_both_kinds_of_addresses(place: Place) -> None:
    """The address that is printed is answered, and so is each that it can be reached by; by IPv4, too."""
    with serving(place, "--host", "::", "--insecure-http") as server:
        for host in ("[::]", "[::1]", "127.0.0.1", "127.0.0.2"):
            assert server.ask("GET", "/health", headers={"Host": f"{host}:{server.port}"}).status == (
                421 if host == "127.0.0.2" else 200
            ), host
        connection = http.client.HTTPConnection("127.0.0.2", server.port, timeout=20)
        connection.request("GET", f"{API}/health", headers={"Authorization": f"Bearer {server.token}"})
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.thorough
def test_only_serving_imports_the_server(place: Place) -> None:
    """Without `serve` nothing of it is loaded."""
    heavy = {"starlette", "uvicorn", "h11", "csa.serve"}
    assert not place.imports("ls") & heavy
    assert not place.imports("serve", "token") & {"starlette", "uvicorn", "h11", "anyio"}


@pytest.mark.thorough
def test_nobody_reads_where_it_is(place: Place) -> None:
    """If the address cannot be printed, it ends with a word about that, and no traceback."""
    done = place.shell(["sh", "-c", "exec csa serve --port 0 >/dev/full"])
    assert (done.code, done.err) == (1, "error: the output cannot be written: No space left on device.\n")


def test_each_route_has_a_handler() -> None:
    """The table of routes and the handlers agree."""
    assert {route.name for route in ROUTES} == {*HANDLERS, *CHAT_HANDLERS, "tree", "updates"}


@pytest.mark.thorough
@pytest.mark.timeout(90)
@pytest.mark.long
def test_requests_at_random_find_no_fault_of_ours(place: Place) -> None:
    """Whatever fits the description, and what does not: no 500, and answers are what the description says."""
    place.codex("hello", "--name", "demo")
    program = str(Path(sys.executable).parent / "schemathesis")
    with serving(place, "--project", str(place.project)) as server:
        words = ["run", f"{server.url}{API}/openapi.json", "--url", server.url, "--no-color", "--phases", "fuzzing"]
        words += [
            "--header",
            f"Authorization: Bearer {server.token}",
            "--max-examples",
            "1",
            "--max-time",
            "5",
            "--seed",
            "1",
        ]
        words += ["--exclude-operation-id", "tools", "--checks", "not_a_server_error,response_schema_conformance"]
        done = subprocess.run(  # which takes long to load
            [program, *words],
            env=place.environment(None),
            cwd=place.tmp,
            capture_output=True,
            text=True,
            timeout=80,
            check=False,
        )
        assert done.returncode == 0, done.stdout
