"""What csa does when the provider of a turn fails: it tries again, or goes on with another tool."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

import csa
from csa.paths import SessionPaths
from csa.store.locks import acquire_lock, is_locked
from csa.store.owner import Owner, parse_owner
from tests.cli.terminal import Terminal
from tests.support import Json, Place, allowing, wait_for


def fails(kind: str, *, times: int = 1, tool: str | None = None, retry_after_s: float | None = None) -> Json:
    """A rule by which the provider fails, a number of times."""
    step: list[Any] = ["fail", kind] if retry_after_s is None else ["fail", kind, retry_after_s]
    return {"match": "", "times": times, "do": [step], **({"tool": tool} if tool else {})}


def answers(text: str = "done", **rule: Any) -> Json:
    return {"match": "", "do": [["say", text]], **rule}


def retries_of(place: Place, session_id: str) -> list[Json]:
    return [e["data"] for e in place.events(session_id) if e["type"] == "retry" and e["data"].get("by") == "csa"]


def bound_ids(place: Place, session_id: str) -> list[str]:
    return [e["data"]["provider_session_id"] for e in place.events(session_id) if e["type"] == "session_bound"]


# Retries


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("tool", "fault"), [("codex", "429"), ("claude-code", "529"), ("gemini-cli", "500"), ("opencode", "503")]
)
def test_passing_failure_is_tried_again(place: Place, tool: str, fault: str) -> None:
    """A turn whose provider failed once succeeds on the second attempt, in one turn, with the retry shown.

    The second attempt of a first turn has a conversation of its own, which knows the prompt once.
    """
    place.script(fails(fault))
    done = place.run("run", "--tool", tool, "--json", "hello")
    assert (done.code, done.json["status"]) == (0, "succeeded"), done.err
    assert done.json["text"].endswith("[turns=1]")
    assert done.json["chain"] == []
    (retry,) = retries_of(place, done.session_id)
    assert (retry["attempt"], retry["max"], retry["by"]) == (1, 2, "csa")
    assert 0 < retry["retry_after_s"] <= 5
    assert "retry by csa 1/2" in done.err
    kinds = [event["type"] for event in place.events(done.session_id)]
    assert (kinds.count("run_started"), kinds.count("run_finished")) == (1, 1)
    first, second = bound_ids(place, done.session_id)
    assert first != second
    assert place.state(done.session_id)["tools"][tool]["provider_session_id"] == second
    assert done.json["provider_session_id"] == second


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["codex", "claude-code"])
def test_a_resumed_conversation_stays(place: Place, tool: str) -> None:
    """The second attempt of a later turn goes on in the conversation there is."""
    first = place.run("run", "--tool", tool, "--json", "one")
    place.script(fails("500", retry_after_s=0.05), answers("two"))
    done = place.run("run", "--session", first.session_id, "--json", "two")
    assert (done.code, done.json["text"]) == (0, "two"), done.err
    assert len(retries_of(place, first.session_id)) == 1
    assert done.json["provider_session_id"] == first.json["provider_session_id"]
    assert set(bound_ids(place, first.session_id)) == {first.json["provider_session_id"]}


@pytest.mark.thorough
def test_usage_of_all_attempts_adds_up(place: Place) -> None:
    """Tokens that a failed attempt used count, in the result and in the session."""
    place.script(
        {"match": "", "times": 1, "do": [["usage", 100, 7], ["fail", "500"]]},
        {"match": "", "do": [["usage", 30, 5], ["say", "done"]]},
    )
    done = place.run("run", "--tool", "claude-code", "--json", "hello")
    assert done.code == 0
    told = [0]  # by each attempt, in the last of its events: the sum so far
    for event in place.events(done.session_id):
        told += [0] if event["type"] == "retry" else []
        told[-1] = event["data"]["input_tokens"] if event["type"] == "usage" else told[-1]
    used = sum(told)
    assert done.json["usage"]["input_tokens"] == used
    assert place.state(done.session_id)["usage"]["input_tokens"] == used


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["codex", "opencode"])
def test_retry_after_is_honoured(place: Place, tool: str) -> None:
    """Where the provider says when it can be asked again, csa waits just that long."""
    place.script(fails("429", retry_after_s=0.4), answers())
    done = place.run("run", "--tool", tool, "--json", "hello")
    assert done.code == 0, done.err
    (retry,) = retries_of(place, done.session_id)
    assert (retry["kind"], retry["retry_after_s"]) == ("rate_limit", 0.4)
    assert 0.4 <= done.json["duration_s"] < 5


@pytest.mark.thorough
def test_retry_after_that_is_too_long_ends_the_turn(place: Place) -> None:
    """A provider that wants to be left alone for more than a minute is: the turn fails at once."""
    place.script(fails("429", retry_after_s=61), answers())
    done = place.run("run", "--tool", "codex", "--json", "hello")
    assert (done.code, done.json["error"]["kind"]) == (8, "rate_limit")
    assert not retries_of(place, done.session_id)


@pytest.mark.parametrize("fault", ["401", "quota"])
def test_lasting_failures_are_not_tried_again(place: Place, fault: str) -> None:
    """Failed authentication and a used-up quota fail at once."""
    place.script(fails(fault), answers())
    done = place.run("run", "--tool", "codex", "--json", "hello")
    assert done.code != 0
    assert not retries_of(place, done.session_id)


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])
def test_what_has_acted_is_not_tried_again(place: Place, tool: str) -> None:
    """After a tool call the turn could do things twice, so it fails."""
    place.script({"match": "", "times": 1, "do": [["call", "touch x"], ["fail", "500"]]}, answers())
    done = place.run("run", "--tool", tool, "--json", "hello")
    assert (done.code, done.json["status"]) == (1, "failed")
    assert not retries_of(place, done.session_id)


def test_what_was_denied_is_not_tried_again(place: Place) -> None:
    """A call that was refused is a sign that the agent was at work."""
    place.script({"match": "", "times": 1, "do": [["deny", "Bash", "rm"], ["fail", "500"]]}, answers())
    done = place.run("run", "--tool", "claude-code", "hello")
    assert done.code == 1
    assert not retries_of(place, done.session_id)


@pytest.mark.thorough
def test_number_of_retries(place: Place) -> None:
    """--retries bounds the attempts; 0 makes none, and a negative number is a usage error."""
    place.script(fails("500", times=9, retry_after_s=0.05))
    for asked, made in ((0, 0), (1, 1), (3, 3)):
        done = place.run("run", "--tool", "codex", "--retries", str(asked), "hello")
        assert done.code == 8
        assert len(retries_of(place, done.session_id)) == made
    assert place.run("run", "--retries", "-1", "hello").code == 2


@pytest.mark.thorough
def test_retries_by_configuration(place: Place) -> None:
    """The key `retries` is the default of --retries."""
    place.script(fails("500"), answers())
    done = place.run("run", "--tool", "codex", "hello", env={"CSA_CONF_RETRIES": "0"})
    assert done.code == 1


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["signal", "file"])
def test_cancelled_during_the_pause(place: Place, way: str) -> None:
    """A turn that waits to try again ends at once when it is cancelled."""
    place.script(fails("429", retry_after_s=50), answers())
    running = place.start("run", "--tool", "codex", "--json", "hello")
    wait_for(lambda: "retry by csa 1/2" in running.err, "csa waits to try again")
    began = time.monotonic()
    if way == "signal":
        running.signal(15)
    else:
        (place.session(running.session_id) / "cancel").touch()
    done = running.wait()
    assert time.monotonic() - began < allowing(5)
    assert done.code == (143 if way == "signal" else 130)
    assert done.json["status"] == "cancelled"
    assert place.last_event(running.session_id)["status"] == "cancelled"


@pytest.mark.thorough
def test_time_limit_during_the_pause(place: Place) -> None:
    """--timeout counts over attempts and pauses."""
    place.script(fails("429", retry_after_s=50), answers())
    done = place.run("run", "--tool", "codex", "--timeout", "1.5", "--json", "hello")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (124, "timed_out", "timeout")
    assert "longer than 1.5 s" in done.err


@pytest.mark.thorough
def test_time_limit_in_a_later_attempt(place: Place) -> None:
    """What earlier attempts took is not given again."""
    place.script(fails("429", retry_after_s=0.5), {"match": "", "do": [["sleep", 30]]})
    done = place.run("run", "--tool", "codex", "--timeout", "2", "--json", "hello")
    assert (done.code, done.json["status"]) == (124, "timed_out")
    assert done.json["duration_s"] < 5
    assert "longer than 2 s" in done.err


@pytest.mark.thorough
def test_killed_during_the_pause(place: Place) -> None:
    """SIGKILL of csa while it waits leaves a lost turn, and a session whose next turn works."""
    place.script(fails("429", retry_after_s=50), answers("next"))
    running = place.start("run", "--tool", "codex", "hello")
    wait_for(lambda: "retry by csa 1/2" in running.err, "csa waits to try again")
    session_id = running.session_id
    running.kill()
    place.wait_until_empty(within_s=2)
    assert place.status(session_id) == "lost"
    done = place.run("run", "--session", session_id, "again")
    assert (done.code, done.out) == (0, "next\n"), done.err
    assert place.status(session_id) == "succeeded"


@pytest.mark.thorough
def test_alive_during_the_pause(place: Place) -> None:
    """The session counts as running while csa waits to try again."""
    place.script(fails("429", retry_after_s=50), answers())
    running = place.start("run", "--tool", "codex", "hello")
    wait_for(lambda: "retry by csa 1/2" in running.err, "csa waits to try again")
    assert place.run("session", "is-alive", "-s", running.session_id).code == 0
    running.signal(2)
    running.wait()


# Fallback


def test_chain_over_three_tools(place: Place) -> None:
    """codex fails, claude-code fails, gemini-cli goes on: one session, three turns, the chain in the result."""
    place.script(
        fails("quota", tool="codex"), fails("401", tool="claude-code"), answers("by gemini", tool="gemini-cli")
    )
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code,gemini-cli", "--json", "hello")
    assert (done.code, done.json["text"], done.json["tool"], done.json["turn"]) == (0, "by gemini", "gemini-cli", 3)
    chain = [
        {"turn": 1, "tool": "codex", "status": "failed", "error_kind": "quota"},
        {"turn": 2, "tool": "claude-code", "status": "failed", "error_kind": "auth"},
        {"turn": 3, "tool": "gemini-cli", "status": "succeeded", "error_kind": None},
    ]
    assert done.json["chain"] == chain
    assert place.run("session", "result", "-s", done.session_id, "--json").json["chain"] == chain
    assert len(place.ids()) == 1
    assert place.state(done.session_id)["turns"] == 3
    assert list(place.state(done.session_id)["tools"]) == ["codex", "claude-code", "gemini-cli"]
    assert "turn 2 with claude-code" in done.err
    ends = [e["data"]["status"] for e in place.events(done.session_id) if e["type"] == "run_finished"]
    assert ends == ["failed", "failed", "succeeded"]


@pytest.mark.thorough
def test_lock_is_held_throughout(place: Place) -> None:
    """From the first turn to the last nobody sees the session unlocked, and the owner says which turn it is."""
    place.script(
        fails("quota", tool="codex"),
        {"match": "", "tool": "claude-code", "do": [["sleep", 0.3], ["fail", "401"]]},
        {"match": "", "tool": "gemini-cli", "do": [*place.hold(), ["say", "done"]]},
    )
    running = place.start("run", "--tool", "codex", "--fallback", "claude-code,gemini-cli", "hello")
    paths = SessionPaths(place.session(running.session_id))
    seen: list[bool] = []
    over = threading.Event()

    def probe() -> None:
        while not over.is_set():
            seen.append(is_locked(paths.session_lock))

    thread = threading.Thread(target=probe)
    thread.start()
    place.wait_ready()
    over.set()
    thread.join()
    assert len(seen) > 100
    assert all(seen)
    owner = parse_owner(paths.session_lock.read_bytes())
    assert isinstance(owner, Owner)
    assert (owner.tool, owner.turn) == ("gemini-cli", 3)
    assert is_locked(paths.tool_lock("gemini-cli"))
    assert not is_locked(paths.tool_lock("codex"))
    assert "gemini-cli, turn 3" in place.run("session", "is-alive", "-s", running.session_id).out
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_the_next_tool_is_told_what_was_done(place: Place) -> None:
    """After tool calls csa does not try again, but another tool goes on, told of the calls and of the failure."""
    seen = place.tmp / "stdin"
    place.script(
        {
            "match": "",
            "tool": "codex",
            "do": [["call", "make test", "2 failed", 2], ["edit", "src/a.py"], ["say", "half done"], ["fail", "500"]],
        },
        {"match": "", "tool": "claude-code", "do": [["write-stdin", str(seen)], ["say", "done"]]},
    )
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--json", "fix the build")
    assert done.code == 0, done.err
    told = seen.read_text()
    for part in ("Turn 1, with codex", "$ make test (exit 2)", "src/a.py", "half done", "failed (server)"):
        assert part in told
    assert told.count("fix the build") == 1
    assert told.endswith("fix the build")
    (handoff,) = [event["data"] for event in place.events(done.session_id) if event["type"] == "handoff"]
    assert (handoff["to"], handoff["turns"]) == ("claude-code", [1])


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["flag", "config"])
def test_handoff_can_be_turned_off(place: Place, way: str) -> None:
    """Then the next tool gets the prompt alone."""
    seen = place.tmp / "stdin"
    place.script(
        fails("quota", tool="codex"),
        {"match": "", "tool": "claude-code", "do": [["write-stdin", str(seen)], ["say", "done"]]},
    )
    words = ["--no-handoff"] if way == "flag" else []
    env = {"CSA_CONF_HANDOFF": "off", "CSA_CONF_FALLBACK": "claude-code"} if way == "config" else {}
    fallback = ["--fallback", "claude-code"] if way == "flag" else []
    done = place.run("run", "--tool", "codex", *fallback, *words, "--json", "hello", env=env)
    assert done.code == 0, done.err
    assert seen.read_text() == "hello"
    assert "handoff" not in [event["type"] for event in place.events(done.session_id)]


@pytest.mark.thorough
def test_fallback_tries_again_as_well(place: Place) -> None:
    """The tool that goes on has retries of its own."""
    place.script(fails("quota", tool="codex"), fails("500", tool="claude-code"), answers("at last"))
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--json", "hello")
    assert (done.code, done.json["text"]) == (0, "at last")
    assert [link["tool"] for link in done.json["chain"]] == ["codex", "claude-code"]
    assert len(retries_of(place, done.session_id)) == 1


@pytest.mark.thorough
def test_missing_fallback_is_skipped(place: Place) -> None:
    """A tool that is not installed is passed over with a warning, in the record too."""
    place.script(fails("quota", tool="codex"), answers("by claude", tool="claude-code"))
    words = ["--fallback", "gemini-cli,claude-code"]
    bare = place.tmp / "bin"
    bare.mkdir()
    for tool in ("codex", "claude"):
        (bare / tool).symlink_to(Path(__file__).parents[2] / "adapters" / "csa_fakes" / "bin" / tool)
    done = place.run("run", "--tool", "codex", *words, "--json", "hello", env={"PATH": f"{bare}:/usr/bin:/bin"})
    assert (done.code, done.json["text"]) == (0, "by claude"), done.err
    warnings = [e["data"]["message"] for e in place.events(done.session_id) if e["type"] == "warning"]
    assert any("gemini-cli is not installed" in warning for warning in warnings)
    assert "gemini-cli is not installed" in done.err


@pytest.mark.thorough
def test_first_tool_is_missing(place: Place) -> None:
    """Where the tool asked for is not installed, the first fallback that is begins the session."""
    bare = place.tmp / "bin"
    bare.mkdir()
    (bare / "claude").symlink_to(Path(__file__).parents[2] / "adapters" / "csa_fakes" / "bin" / "claude")
    env = {"PATH": f"{bare}:/usr/bin:/bin"}
    words = ["--fallback", "gemini-cli,claude-code", "-m", "gpt-5"]
    place.play(["expect-no-arg", "--model"], ["say", "by claude"])
    done = place.run("run", "--tool", "codex", *words, "--json", "hello", env=env)
    assert (done.code, done.json["text"], done.json["tool"], done.json["turn"]) == (0, "by claude", "claude-code", 1)
    assert "fallback: codex is not installed" in done.err
    assert place.run("run", "--tool", "codex", "hello", env=env).code == 7


@pytest.mark.thorough
def test_program_that_cannot_start_falls_back(place: Place) -> None:
    """A tool that is there and cannot be started gives way like one whose provider fails."""
    broken = place.tmp / "codex"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    place.play(["say", "by claude"])
    path = f"{place.tmp}:{place.env['PATH']}"
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--json", "hello", env={"PATH": path})
    assert (done.code, done.json["text"]) == (0, "by claude"), done.err
    assert [link["error_kind"] for link in done.json["chain"]] == ["spawn", None]


@pytest.mark.thorough
def test_no_fallback_for_what_another_provider_cannot_mend(place: Place) -> None:
    """A turn that was cancelled, timed out, or failed by itself stays what it is."""
    for steps in ([["say", "half"], ["exit", 3]], [["fail", "context"]]):
        place.play(*steps)
        done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--json", "hello")
        assert (done.code, done.json["tool"], done.json["chain"]) == (1, "codex", [])


@pytest.mark.thorough
def test_all_fail(place: Place) -> None:
    """The run ends as its last turn did."""
    place.script(fails("500", times=9, tool="codex", retry_after_s=0.01), fails("quota", tool="claude-code"))
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--json", "hello")
    assert (done.code, done.json["error"]["kind"], done.json["tool"]) == (8, "quota", "claude-code")
    assert len(retries_of(place, done.session_id)) == 2


def test_unknown_fallback_is_refused_first(place: Place) -> None:
    """A name that is no tool is a usage error before anything is started; auto is none either."""
    for name in ("cloude-code", "auto"):
        done = place.run("run", "--tool", "codex", "--fallback", name, "hello")
        assert done.code == 2
    assert "did you mean" in place.run("run", "--tool", "codex", "--fallback", "cloude-code", "hello").err
    assert not place.state_root.exists()


@pytest.mark.thorough
def test_fallback_in_a_resumed_session(place: Place) -> None:
    """The next tool is told of all turns before; turning back, the first tool is told only of what it missed."""
    seen = place.tmp / "stdin"
    note: list[Any] = ["write-stdin", str(seen)]
    place.script(
        answers("first answer", tool="codex", times=1),
        fails("quota", tool="codex"),
        {"match": "", "do": [note, ["say", "by claude"]], "tool": "claude-code"},
        {"match": "", "do": [note, ["say", "codex again"]]},
    )
    first = place.codex("one")
    done = place.run("run", "--session", first.session_id, "--fallback", "claude-code", "two")
    assert (done.code, done.out) == (0, "by claude\n"), done.err
    assert "first answer" in seen.read_text()
    back = place.run("run", "--session", first.session_id, "--tool", "codex", "three")
    assert (back.code, back.out) == (0, "codex again\n")
    assert "by claude" in seen.read_text()
    assert "first answer" not in seen.read_text()


@pytest.mark.thorough
def test_ephemeral_run_falls_back(place: Place) -> None:
    """An ephemeral session goes after its last turn."""
    place.script(fails("quota", tool="codex"), answers("by claude"))
    done = place.run("run", "--ephemeral", "--tool", "codex", "--fallback", "claude-code", "--json", "hello")
    assert (done.code, done.json["text"]) == (0, "by claude")
    assert place.ids() == []


@pytest.mark.thorough
def test_cancelled_turn_does_not_fall_back(place: Place) -> None:
    """Ctrl-C ends the run, whichever tools are left."""
    place.script({"match": "", "tool": "codex", "do": [*place.hold(), ["fail", "quota"]]}, answers("by claude"))
    running = place.start("run", "--tool", "codex", "--fallback", "claude-code", "--json", "hello")
    place.wait_ready()
    running.signal(2)
    done = running.wait()
    assert (done.code, done.json["status"], done.json["tool"]) == (130, "cancelled", "codex")


@pytest.mark.thorough
def test_cancel_file_between_two_turns(place: Place) -> None:
    """Whoever asks for the end just as one turn gives way to the next is heard."""
    session_id = "01JH4QWERT1234567890ABCDEF"
    cancel = place.session(session_id) / "cancel"
    place.script(
        {"match": "", "tool": "codex", "do": [["touch", str(cancel)], ["fail", "quota"]]},
        {"match": "", "do": [["sleep", 30]]},
    )
    done = place.run("run", "--session-id", session_id, "--tool", "codex", "--fallback", "claude-code", "hello")
    assert done.code == 130, done.err
    assert place.status(session_id) == "cancelled"
    assert not cancel.exists()


@pytest.mark.thorough
def test_detached_run_falls_back(place: Place) -> None:
    """A detached supervisor does all of this too, and says that it is detached in every turn."""
    place.script(
        fails("429", tool="codex", retry_after_s=0.05),
        fails("quota", tool="codex"),
        {"match": "", "tool": "claude-code", "do": [*place.hold(), ["say", "by claude"]]},
    )
    words = ("--tool", "codex", "--fallback", "claude-code", "--detach", "--json", "hello")
    done = place.run("run", *words)
    assert done.code == 0, done.err
    session_id = done.json["session_id"]
    place.wait_ready()
    owner = parse_owner(SessionPaths(place.session(session_id)).session_lock.read_bytes())
    assert owner is not None
    assert (owner.tool, owner.turn, owner.detached) == ("claude-code", 2, True)
    place.release()
    place.wait_until_empty(within_s=10)
    assert place.last_event(session_id)["chain"][-1]["tool"] == "claude-code"
    assert len(retries_of(place, session_id)) == 1


@pytest.mark.thorough
def test_stream_holds_all_turns(place: Place) -> None:
    """--stream-json prints what the transcript has, of every turn of the chain."""
    place.script(fails("quota", tool="codex"), answers("by claude"))
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "--stream-json", "hello")
    assert done.code == 0
    assert [json.loads(line) for line in done.out.splitlines()] == place.events(done.session_id)


@pytest.mark.thorough
def test_library_goes_on_in_one_block(place: Place) -> None:
    """One `async with` yields the events of all turns; number and plan are those of the turn that runs."""
    place.script(fails("quota", tool="codex"), answers("by claude"))
    seen: list[tuple[int, str]] = []

    async def scenario() -> csa.RunResult | None:
        client = csa.Csa(place.project, root=place.state_root, environ=place.env)
        request = csa.RunRequest(prompt="hello", tool="codex", fallback=("claude-code",))
        with anyio.fail_after(30):
            async with client.run(request) as turn:
                assert (turn.turn, turn.plan.adapter.name) == (1, "codex")
                seen.extend([(event.turn, event.type) async for event in turn])
                assert (turn.turn, turn.plan.adapter.name) == (2, "claude-code")
        return turn.result

    result = anyio.run(scenario)
    assert result is not None
    assert (result.turn, result.text, len(result.chain)) == (2, "by claude", 2)
    (session_id,) = place.ids()
    assert seen == [(event["turn"], event["type"]) for event in place.events(session_id)]


def test_block_that_is_left_during_the_pause(place: Place) -> None:
    """Leaving the block while csa waits to try again cancels the turn, and nothing falls back."""
    place.script(fails("429", retry_after_s=50), answers("by claude"))

    async def scenario() -> csa.RunResult | None:
        client = csa.Csa(place.project, root=place.state_root, environ=place.env)
        request = csa.RunRequest(prompt="hello", tool="codex", fallback=("claude-code",))
        with anyio.fail_after(10):
            async with client.run(request) as turn:
                async for event in turn:
                    if event.type == "retry":
                        break
        return turn.result

    result = anyio.run(scenario)
    assert result is not None
    assert (result.status, result.tool, result.chain) == ("cancelled", "codex", ())


@pytest.mark.thorough
def test_on_a_terminal(place: Place) -> None:
    """The live view keeps what became of the first tool, and goes on with the next."""
    place.script(fails("quota", tool="codex"), {"match": "", "do": [*place.hold(), ["say", "by claude"]]})
    words = ("run", "--tool", "codex", "--fallback", "claude-code", "hello")
    with Terminal(place, *words, size=(100, 20)) as terminal:
        terminal.wait_for("continuing in turn 2 with claude-code")
        place.wait_ready()
        terminal.wait_for("claude-code ")
        place.release()
        assert terminal.end() == 0
    assert "csa: failed in" in terminal.text
    assert "csa: succeeded in" in terminal.text


@pytest.mark.thorough
def test_next_tool_is_locked(place: Place) -> None:
    """Another program holds the next tool's lock: the run ends as its first turn did, and says why."""
    place.script({"match": "", "tool": "codex", "do": [*place.hold(), ["fail", "quota"]]}, answers("by claude"))
    running = place.start("run", "--tool", "codex", "--fallback", "claude-code", "--json", "hello")
    place.wait_ready()
    with acquire_lock(SessionPaths(place.session(running.session_id)).tool_lock("claude-code"), flock=True):
        place.release()
        done = running.wait()
    assert (done.code, done.json["tool"], done.json["error"]["kind"]) == (8, "codex", "quota")
    assert "claude-code could not continue" in done.err
    assert place.status(running.session_id) == "failed"
    assert place.run("run", "--session", running.session_id, "--tool", "claude-code", "hello").code == 0


# Statistics


@pytest.mark.thorough
def test_usage_statistics(place: Place) -> None:
    """Each turn leaves its memory and duration; a damaged file is put aside, and fails nothing."""
    place.play(["say", "done"])
    path = place.store / "usage_stats.toml"
    place.codex()
    place.run("run", "--tool", "claude-code", "hello")
    content = path.read_text()
    assert content.count("p95_peak_rss_bytes") == 2
    checks = place.run("doctor", "--json").json["checks"]
    (detail,) = [check["detail"] for check in checks if check["name"] == "codex"]
    assert re.search(r"up to \d+ MB per turn \(P95 of 1\)", detail)
    assert path.read_text() == content
    path.write_text("this is = not [ toml")
    place.codex()
    assert "[tools.codex]" in path.read_text()
    assert "claude-code" not in path.read_text()
    assert path.with_name("usage_stats.toml.damaged").read_text() == "this is = not [ toml"


@pytest.mark.thorough
def test_fallback_keeps_to_the_limit_of_its_tool(place: Place) -> None:
    """A fallback takes the place of a running turn of its own tool: with none free, the failure stands and says why."""
    config = place.tmp / "limits.toml"
    config.write_text("[tools.claude-code]\nmax_running = 1\n")
    place.env["CSA_CONFIG"] = str(config)
    place.script(
        fails("quota", tool="codex", times=2),
        {"match": "stay", "tool": "claude-code", "do": [*place.hold(), ["say", "stayed"]]},
        answers("by claude", tool="claude-code"),
    )
    first = place.start("run", "--tool", "claude-code", "stay")
    place.wait_ready()
    refused = place.run("run", "--tool", "codex", "--fallback", "claude-code", "hello")
    assert refused.code == 8
    assert "tools.claude-code.max_running is 1" in refused.err
    place.release()
    assert first.wait().code == 0
    done = place.run("run", "--tool", "codex", "--fallback", "claude-code", "hello")
    assert (done.code, done.out) == (0, "by claude\n")
