"""`csa mcp` and other hosts: sub-agents are run there, and listed, waited for and landed from here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.hosts import sync
from tests.cli.worktrees import NAMES, make_repository, work
from tests.rpc.test_mcp import connected
from tests.serving import serving
from tests.support import Place, wait_for

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def _no_code(place: Place, tmp_path: Path) -> None:
    config = place.tmp / "own.toml"
    config.write_text(f'[engines.n1]\ncode = "none"\ndirectory = "{tmp_path}/n1/app"\n')
    place.env["CSA_CONFIG"] = str(config)


def test_a_sub_agent_is_run_on_another_host(place: Place, remote: Place) -> None:
    """`run` with `on` returns its answer, also of a second turn, which needs no `on`; `list` and `show` find it."""
    remote.play(["say", "the answer"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    with connected(place) as client:
        first = client.call("run", prompt="go", tool="codex", name="job", on="n1")
        assert (first["status"], first["text"], first["turn"]) == ("succeeded", "the answer", 1)
        name = f"n1:{first['session_id']}"
        again = client.call("run", prompt="more", session="n1:job", detach=True)
        assert (again["session_id"], again["turn"]) == (first["session_id"], 2)
        (listed,) = client.call("list", host="n1")["sessions"]
        assert (listed["session_id"], listed["mirror"]) == (first["session_id"], "n1")
        assert client.call("list")["sessions"] == []
        assert client.call("show", session=name)["text"] == "the answer"
        assert client.call("kill", session=name)["sessions"][0]["outcome"] == "not_running"
        assert client.fail("run", prompt="x", tool="codex", on="nowhere")["kind"] in {"host", "usage"}
    assert place.ids() == []


def test_what_runs_there_ends_with_the_client(place: Place, remote: Place) -> None:
    """A turn that is not detached is cancelled at the client's end; a detached one goes on, and is waited for."""
    remote.script(
        {"match": "attached", "do": [["sleep", 600]]},
        {"match": "detached", "do": [*remote.hold(), ["say", "done"]]},
    )
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    with connected(place) as client:
        attached = client.call("run", prompt="attached", tool="codex", on="n1", wait_s=0)
        detached = client.call("run", prompt="detached", tool="codex", on="n1", wait_s=0, detach=True)
        assert (attached["status"], detached["status"]) == ("running", "running")
    wait_for(lambda: remote.status(attached["session_id"]) == "cancelled", "it is cancelled")
    assert remote.status(detached["session_id"]) == "running"
    with connected(place) as client:
        remote.release()
        (answer,) = client.call("wait", sessions=[f"n1:{detached['session_id']}"])["sessions"]
        assert (answer["status"], answer["text"]) == ("succeeded", "done")
    sync(place)


def test_work_is_landed(place: Place) -> None:
    """That of a session with a worktree of its own; a conflict is an error, and changes nothing."""
    make_repository(place)
    first, second = (work(place, f"echo {word} > a") for word in ("one", "two"))
    with connected(place) as client:
        shown = client.call("land", session=first, dry_run=True)
        assert (shown["status"], shown["files"]) == ("would_land", ["a"])
        landed = client.call("land", session=first)
        assert (landed["status"], landed["branch"], len(landed["commits"])) == ("landed", "main", 1)
        assert (place.project / "a").read_text() == "one\n"
        assert client.fail("land", session=second)["kind"] == "conflict"
    with serving(place) as server:
        answer = server.ask("POST", f"/sessions/{second}/land", {"into": str(place.project)})
        assert (answer.status, answer.kind, answer.json["conflicts"]) == (409, "conflict", ["a"])
        assert server.post(f"/sessions/{first}/land", {"into": str(place.project)}, status=200)["status"] == "nothing"
        assert server.ask("POST", f"/sessions/{first}/land", {"into": "/"}).status == 403
    assert (place.project / "a").read_text() == "one\n"


def test_work_done_elsewhere_comes_back_by_itself(place: Place, remote: Place) -> None:
    """The commits of a turn that was begun on a host are here at its end, and are shown and landed."""
    make_repository(place)
    Path(str(place.env["CSA_CONFIG"])).write_text("")
    remote.env.update({name: place.env[name] for name in NAMES})
    remote.play(["run", "echo far > a"], ["say", "done"])
    place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
    with serving(place) as server:
        session_id = server.start(on="n1")

        def diff() -> str:
            answer = server.ask("GET", f"/sessions/{session_id}/diff")
            return answer.json["diff"] if answer.status == 200 else ""

        wait_for(lambda: "+far" in diff(), "its commits are here")
        landed = server.post(f"/sessions/{session_id}/land", {"into": str(place.project)}, status=200)
        assert (landed["status"], landed["files"]) == ("landed", ["a"])
    assert (place.project / "a").read_text() == "far\n"


def test_what_an_agent_runs_there_is_bound_as_its_children_are(place: Place, remote: Place) -> None:
    """It is its child, with no more permission; it takes what it asks for of the budget, or else half of the limit."""
    root, env = place.agent("--budget-tokens", "10000", "--permission", "read-only")
    with connected(place, env=env) as client:
        asked = {"prompt": "x", "tool": "codex", "on": "n1"}
        assert client.fail("run", **asked, permission="full")["kind"] == "refused"
        half = client.call("run", **asked)["session_id"]
        said = client.call("run", **asked, budget_tokens=1500, detach=True)["session_id"]
        for session_id, tokens in ((half, 5000), (said, 1500)):
            state = remote.state(session_id)
            assert state["genealogy"]["parent_session_id"] == root
            assert (state["permission"], state["budget"]) == ("read-only", {"tokens": tokens})
        listed = client.call("list", host="n1", parent="@self")["sessions"]
        assert {each["session_id"] for each in listed} == {half, said}
