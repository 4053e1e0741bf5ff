"""`csa serve` and other hosts: their sessions are listed, opened, streamed from their mirrors, and acted on there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from csa.store.mirrors import Mirror, mirror_for
from tests.cli.hosts import make_old, sync
from tests.cli.worktrees import NAMES, make_repository, sh
from tests.realhosts import Host, Hosts
from tests.rpc.test_mcp import connected
from tests.serving import Server, serving
from tests.support import Place, Running, children_of, wait_for


@pytest.fixture(autouse=True)
def _no_code(place: Place) -> None:
    config = place.tmp / "own.toml"
    config.write_text("".join(f'[engines.{name}]\ncode = "none"\n' for name in ("n1", "nowhere")))
    place.env["CSA_CONFIG"] = str(config)


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    with serving(place) as found:
        yield found


def row_of(server: Server, session_id: str) -> dict[str, object] | None:
    rows = server.get("/events")["sessions"]
    return next((row for row in rows if row["session_id"] == session_id), None)


def has_status(server: Server, session_id: str, status: str) -> bool:
    row = row_of(server, session_id)
    return row is not None and row["status"] == status


@pytest.mark.usefixtures("remote")
def test_a_turn_is_begun_on_a_host_and_seen_here(place: Place, server: Server) -> None:
    """It is listed with its host, and streamed from its mirror, which the server keeps up to date; asked for once."""
    body = {"prompt": "hello", "tool": "codex", "directory": str(place.project), "session_id": "far", "on": "n1"}
    begun = server.post("/sessions", body)
    session_id = begun["session_id"]
    assert begun["mirror"] == "n1"
    assert server.post("/sessions", body, status=200) == {"session_id": session_id, "created": False}
    wait_for(lambda: has_status(server, session_id, "succeeded"), "its end is here")
    row = row_of(server, session_id)
    assert row
    assert (row["mirror"], row["name"]) == ("n1", "far")
    with server.stream(f"/sessions/{session_id}/events") as events:
        assert [next(events).name for _ in range(2)] == ["run_started", "session_bound"]
    (host,) = [each for each in server.get("/hosts") if each["heard_at"]]
    assert (host["host"], host["kind"]) == ("n1", "ssh")


@pytest.mark.thorough
def test_who_acts_on_a_session_there_does_so_there(place: Place, remote: Place, server: Server) -> None:
    """It goes on there, and its record is changed there; what needs files or tools of this host is refused."""
    remote.codex("stays", "--name", "other")
    session_id = remote.codex("hello").session_id
    name = f"n1:{session_id}"
    sync(place)
    wait_for(lambda: row_of(server, session_id) is not None, "it is in the list")
    again = server.post(f"/sessions/{name}/turns", {"prompt": "go on"}, status=202)
    assert (again["turn"], again["mirror"]) == (2, "n1")
    wait_for(lambda: server.get(f"/sessions/{session_id}/result")["turn"] == 2, "its second answer is here")
    assert server.ask("POST", f"/sessions/{name}/turns", {"prompt": "x", "after_turn": 1}).status == 412
    unrefused = server.ask("POST", f"/sessions/{name}/turns", {"prompt": "", "repair": True})
    assert (unrefused.status, "nothing to repair" in unrefused.json["error"]["message"]) == (400, True)
    assert server.ask("PATCH", f"/sessions/{name}", {"name": "near", "pinned": True}).json["name"] == "near"
    assert {each["name"] for each in remote.run("ls", "--json").json} == {"near", "other"}
    for path, given in (("checkpoint", {}), ("queue", {"prompt": "x"}), ("fork", {"prompt": "x"})):
        refused = server.ask("POST", f"/sessions/{session_id}/{path}", given)
        assert (refused.status, refused.kind) == (403, "refused")
        assert "ssh n1 csa" in refused.json["error"]["hint"]
    assert server.ask("DELETE", f"/sessions/{name}?force=true").json["done"] == "removed"
    wait_for(lambda: row_of(server, session_id) is None, "it is gone from the list")
    assert [each["name"] for each in remote.run("ls", "--json").json] == ["other"]


@pytest.mark.thorough
def test_what_runs_there_is_streamed_away_and_killed_there(place: Place, remote: Place, mirror: Mirror) -> None:
    """Its events come as they are recorded; if its host is silent it is `away`, since when; it is ended by its csa."""
    remote.play(*remote.hold(), ["say", "done"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    with serving(place) as server:
        session_id = server.start(on="n1")
        wait_for(lambda: has_status(server, session_id, "running"), "it is seen to run")
        with server.stream(f"/sessions/{session_id}/events") as events:
            ended = server.ask("POST", f"/sessions/{session_id}/cancel", {}).json
            assert (ended["outcome"], ended["mirror"]) == ("killed", "n1")
            assert next(event for event in events if event.name == "run_finished").data["data"]["status"] == "cancelled"
        wait_for(lambda: has_status(server, session_id, "cancelled"), "the list shows it")
        remote.play(*remote.hold(), ["say", "done"])
        there = remote.start("run", "--tool", "codex", "long")
        wait_for(lambda: set(remote.ids()) - {session_id}, "it has begun")
        wait_for(lambda: place.run("sync", "n1").code == 0, "the server has left the mirror")
        other = next(each for each in remote.ids() if each != session_id)
        wait_for(lambda: has_status(server, other, "running"), "it is seen to run")
        make_old(mirror)
        wait_for(lambda: has_status(server, other, "away"), "nothing is heard of it")
        row = row_of(server, other)
        assert row
        assert row["heard_at"] is not None
        remote.release()
        there.wait()
        sync(place)
        wait_for(lambda: has_status(server, other, "succeeded"), "its host is heard of again")


@pytest.mark.thorough
def test_lists_and_searches_look_where_they_are_told(place: Place, remote: Place, server: Server) -> None:
    """Without host and all_hosts answers are about this host alone; with --project no other host is served."""
    here, there = place.codex("hello parser").session_id, remote.codex("fix the parser", "--name", "auth").session_id
    sync(place)

    def ids(path: str) -> set[str]:
        return {each["session_id"] for each in server.get(path)}

    for path in ("/sessions?", "/search?q=parser&"):
        assert ids(path) == {here}
        assert ids(f"{path}host=n1") == {there}
        assert ids(f"{path}all_hosts=true") == {here, there}
    assert server.get("/stats?host=n1")["total"]["turns"] == 1
    assert server.ask("GET", "/sessions?host=n2").status == 404
    for name in ("n1:auth", there, there[:12].lower()):
        assert server.get(f"/sessions/{name}/result")["session_id"] == there
    assert server.get("/sessions/n1:auth")["mirror"] == "n1"
    assert server.ask("GET", "/sessions/auth").status == 404
    server.stop()
    with serving(place, "--project", str(place.project)) as narrow:
        assert narrow.ask("GET", f"/sessions/{there}").kind == "not_served"
        assert narrow.get("/hosts") == []
        body = {"prompt": "x", "tool": "codex", "directory": str(place.project), "on": "n1"}
        assert narrow.ask("POST", "/sessions", body).kind == "not_served"
        assert {row["session_id"] for row in narrow.get("/events")["sessions"]} == {here}


@pytest.mark.thorough
def test_making_one_that_is_there_already_begins_no_turn(place: Place, remote: Place, server: Server) -> None:
    """Its name is taken on the host, which was not heard of since: that is told, whatever was to be said in it."""
    config = place.tmp / "own.toml"
    config.write_text(f'[engines.n1]\ncode = "none"\ndirectory = "{remote.project}"\n')
    there = remote.codex("hello", "--name", "far").session_id
    body = {"prompt": "again", "tool": "codex", "directory": str(place.project), "session_id": "far", "on": "n1"}
    for _ in range(2):
        assert server.post("/sessions", body, status=200) == {"session_id": there, "created": False}
    assert remote.run("status", there, "--json").json["turns"] == 1
    assert place.run("hosts", "--placed", "--json").json == []


@pytest.mark.thorough
def test_a_host_that_cannot_be_reached(place: Place, remote: Place, server: Server) -> None:
    """What is asked of it fails, with the next step; nothing is left that is booked."""
    body = {"prompt": "x", "tool": "codex", "directory": str(place.project), "on": "nowhere"}
    refused = server.ask("POST", "/sessions", body)
    assert (refused.status, refused.kind) == (424, "host")
    assert "~/.ssh/config" in refused.json["error"]["hint"]
    assert place.run("hosts", "--placed", "--json").json == []
    there = remote.codex("hello", "--name", "auth").session_id
    sync(place)
    wait_for(lambda: row_of(server, there) is not None, "it is in the list")
    described = server.ask("PATCH", "/sessions/n1:auth", {"description": "two words", "name": "other"})
    assert (described.status, described.kind) == (403, "refused")
    assert "ssh n1 csa describe" in described.json["error"]["hint"]
    shutil.rmtree(remote.state_root)
    assert server.ask("PATCH", "/sessions/n1:auth", {"name": "other"}).status == 404


@pytest.mark.thorough
def test_silent_hosts_hold_up_nobody(place: Place, remote: Place, server: Server) -> None:
    """However a session is named: what waits for its host does not keep others from reading and starting."""
    there = remote.codex("hello").session_id
    sync(place)
    mirrors = Path(mirror_for(str(place.state_root), "n1").pathname).parent
    shutil.move(mirrors / "n1", mirrors / "hung")
    wait_for(lambda: row_of(server, there) is not None, "it is in the list")
    asking = [
        threading.Thread(target=server.ask, args=("PATCH", f"/sessions/{name}", {"pinned": True}), daemon=True)
        for name in (there, f"hung:{there}", *(there[:12], there[:14].lower()) * 5)
    ]
    for each in asking:
        each.start()
    wait_for(lambda: len(children_of(server.running.pid)) == len(asking), "all of them wait")
    assert server.get("/sessions/" + server.start("hello"))["mirror"] is None
    for pid in children_of(server.running.pid):
        os.kill(pid, signal.SIGKILL)
    for each in asking:
        each.join()


def far_turn(place: Place, remote: Place) -> None:
    """Let a turn on n1 wait, and then change a file of the repository here, whose code goes along."""
    make_repository(place)
    (place.tmp / "own.toml").write_text("")
    remote.env.update({name: place.env[name] for name in NAMES})
    remote.play(*remote.hold(), ["run", "echo far > a"], ["say", "done"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]


def work_of(place: Place, session_id: str) -> str:
    return sh(place, f"git show refs/csa/{session_id}/1:a 2>/dev/null || true")


def placed(place: Place) -> list[dict[str, object]]:
    return list(place.run("hosts", "--placed", "--json").json)


@pytest.mark.thorough
def test_what_a_server_that_was_killed_has_begun_is_watched_by_the_next(place: Place, remote: Place) -> None:
    """Its end is seen here, its commits come, what it held is settled: nobody has to call csa sync or csa fetch."""
    far_turn(place, remote)
    with serving(place) as server:
        session_id = server.start(on="n1")
        server.running.kill()
        server.running.wait()
    with serving(place) as server:
        remote.release()
        wait_for(lambda: has_status(server, session_id, "succeeded"), "its end is here")
        wait_for(lambda: work_of(place, session_id) == "far", "its commits are here")
        wait_for(lambda: placed(place) == [], "it is settled")


@pytest.mark.thorough
def test_work_that_nobody_fetched_comes_with_the_next_server(place: Place, remote: Place) -> None:
    """Also if csa sync has settled it meanwhile; of what another project placed MCP fetches nothing."""
    far_turn(place, remote)
    session_id = place.run("run", "--on", "n1", "--detach", "--tool", "codex", "x").out.split()[0]
    remote.release()
    ended = ("status", session_id, "--json")
    wait_for(lambda: remote.run(*ended).json["status"] == "succeeded", "it has ended")
    sync(place)
    (left,) = placed(place)
    assert (left["state"], left["awaits_code"]) == ("settled", True)
    other = place.tmp / "other"
    other.mkdir()
    with connected(place, "--cd", str(other)) as client:
        client.call("list")
        assert work_of(place, session_id) == ""
    with connected(place) as client:
        client.call("list")
        wait_for(lambda: work_of(place, session_id) == "far", "its commits are here")
        wait_for(lambda: placed(place) == [], "nothing is awaited any more")


_ASK = """
import json, sys, urllib.request
where, _, token = sys.argv[1].partition("/#token=")
headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
asked = urllib.request.Request(f"{where}/api/v1/sessions", sys.argv[2].encode(), headers)
print(json.load(urllib.request.urlopen(asked))["session_id"])
"""


def begin_on(a: Host, url: str) -> str:
    """Ask the server of a host for a turn on n1; return its session."""
    body = {"prompt": "hello", "tool": "codex", "directory": str(a.project), "on": "n1"}
    done = a.shell([sys.executable, "-c", _ASK, url, json.dumps(body)])
    assert done.code == 0, done.err
    return done.out.strip()


def serve_on(a: Host) -> Running:
    running = a.start("serve", "--port", "0")
    wait_for(lambda: "token=" in running.out, "it serves")
    return running


@pytest.mark.timeout(300)
@pytest.mark.thorough
def test_a_server_is_killed_while_a_host_is_cut_off_or_dead(hosts: Hosts) -> None:
    """When the host is there again the next server hears what became of its turn, and fetches what that has done."""
    a, n1 = hosts.up("a", "n1")
    make_repository(a)
    n1.play(*n1.hold(), ["run", "echo far > a"], ["say", "done"])
    server = serve_on(a)
    first = begin_on(a, server.out.strip())
    n1.cut()
    server.kill()
    server = serve_on(a)
    n1.release()
    wait_for(lambda: n1.run("ps", "--json").json == [], "the turn there has ended")
    n1.heal()
    wait_for(lambda: work_of(a, first) == "far", "its commits are here", within_s=90)
    wait_for(lambda: placed(a) == [], "it is settled")
    n1.go.unlink()
    second = begin_on(a, server.out.strip())
    n1.kill()
    server.kill()
    server = serve_on(a)
    n1.start_again()
    wait_for(lambda: a.run("status", second, "--json").json["status"] == "lost", "its host says so", within_s=90)
    wait_for(lambda: placed(a) == [], "what it held is given back", within_s=30)
    server.signal(signal.SIGTERM)
    assert server.wait().code == 0
    wait_for(lambda: not a.processes(), "nothing is left")
