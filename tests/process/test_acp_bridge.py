"""The ACP bridge as a process, over an agent that follows a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from csa_adapters.acp import BRIDGE
from csa_adapters.acp_bridge import CANCEL_WAIT_S
from csa_adapters.acp_wire import DYING_WAIT_S
from csa_adapters.asks import ROOT

from csa.runner.turns.attempt import TERM_GRACE_S
from tests.support import PATIENCE_S, Json, Place, wait_for

ANSWER = [["say", "the answer"]]


def start(place: Place, *flags: str, command: tuple[str, ...] = (), **order: Any) -> subprocess.Popen[str]:
    """Start the bridge and give it its order."""
    given = {
        "prompt": ["hello"],
        "system": None,
        "cwd": str(place.project),
        "session_id": None,
        "permission": "edit",
        "model": None,
        "effort": None,
        "ephemeral": False,
        "csa_command": "csa",
        "mcp_servers": [],
        "initialize_s": 60,
        "auth_method": None,
        **order,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", BRIDGE, ROOT, "--", *(command or ("fake-acp", *flags))],
        env=place.environment(None),
        cwd=place.project,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    process.stdin = None
    return process


def bridge(place: Place, *flags: str, **order: Any) -> tuple[int, list[Json], str]:
    """Run the bridge to its end; return its code, its lines and what stood on stderr."""
    process = start(place, *flags, **order)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, [json.loads(found) for found in out.splitlines()], err


def named(lines: list[Json], kind: str) -> list[Json]:
    return [found for found in lines if found["type"] == kind]


def chunks(lines: list[Json]) -> str:
    updates = (found["update"] for found in named(lines, "update"))
    return "".join(u["content"]["text"] for u in updates if u["sessionUpdate"] == "agent_message_chunk")


def session_of(lines: list[Json]) -> str:
    (found,) = named(lines, "session")
    return str(found["session_id"])


@pytest.mark.thorough
def test_a_turn_in_order(place: Place) -> None:
    """Agent, session, updates, end: and every line is one JSON object."""
    place.play(["think", "hm"], ["call", "ls", "a\n"], *ANSWER)
    code, lines, _ = bridge(place)
    assert code == 0
    kinds = [found["type"] for found in lines]
    assert kinds[:2] == ["agent", "session"]
    assert (kinds[-1], set(kinds[2:-1])) == ("finished", {"update"})
    assert chunks(lines) == "the answer"
    assert lines[-1]["result"]["stopReason"] == "end_turn"


@pytest.mark.parametrize(
    ("flags", "how"), [((), "resume"), (("--only-load",), "load"), (("--late-replay", "--only-load"), "load")]
)
def test_a_session_goes_on(place: Place, flags: tuple[str, ...], how: str) -> None:
    """By resume where the agent can, else by load; what it replays, also after its answer, is not repeated."""
    first = bridge(place, *flags, prompt=["one"])[1]
    code, lines, _ = bridge(place, *flags, prompt=["two"], session_id=session_of(first))
    assert code == 0
    (session,) = named(lines, "session")
    assert (session["how"], session["session_id"]) == (how, session_of(first))
    assert session["replayed"] == (2 if how == "load" else 0)
    assert chunks(lines) == "FAKE ECHO: two [turns=2]"


def test_an_agent_that_forgets_is_told_apart(place: Place) -> None:
    """A conversation that cannot be continued is not silently begun anew."""
    code, lines, _ = bridge(place, "--forgetful", session_id="x")
    assert (code, lines[-1]["kind"], lines[-1]["stage"]) == (1, "forgetful", "session")


def test_an_unknown_session_is_the_agents_error(place: Place) -> None:
    """Code, message and data as they came."""
    code, lines, _ = bridge(place, session_id="unknown")
    assert code == 1
    assert lines[-1] == {
        "type": "failed",
        "stage": "session",
        "code": -32002,
        "message": "Resource not found",
        "data": {"uri": "session"},
    }


@pytest.mark.thorough
def test_a_command_is_sent_as_it_is(place: Place) -> None:
    """A prompt that begins with a slash is executed by the agent: how a session is compacted."""
    code, lines, _ = bridge(place, prompt=["/compact"])
    assert code == 0
    (compaction,) = [found["update"] for found in named(lines, "update") if "compactionId" in found["update"]]
    assert compaction["status"] == "completed"


@pytest.mark.thorough
@pytest.mark.parametrize(("flags", "blocks"), [((), "Note.\n\nhello"), (("--system",), "hello")])
def test_the_system_text(place: Place, flags: tuple[str, ...], blocks: str) -> None:
    """Where the agent takes one it gets it as such; else it goes before the prompt."""
    place.play(["expect-stdin", blocks], *ANSWER)
    code, lines, err = bridge(place, *flags, system="Note.")
    assert (code, err) == (0, "")
    if flags:
        record = next((place.home / ".fake-acp" / "fake").glob(f"{session_of(lines)}.json"))
        assert "Note." in json.loads(record.read_text())["system"]


@pytest.mark.thorough
@pytest.mark.parametrize(("level", "mode"), [("read-only", "ask"), ("edit", "acceptEdits"), ("full", "yolo")])
def test_the_mode_of_the_level_is_set(place: Place, level: str, mode: str) -> None:
    """And what an agent says about it (gemini does) is no part of the answer."""
    place.play(*ANSWER)
    code, lines, _ = bridge(place, permission=level)
    assert (code, chunks(lines)) == (0, "the answer")
    assert named(lines, "notice") == []
    record = next((place.home / ".fake-acp" / "fake").glob(f"{session_of(lines)}.json"))
    assert json.loads(record.read_text())["mode"] == mode


@pytest.mark.thorough
def test_an_agent_without_modes_is_held_where_it_asks(place: Place) -> None:
    """Which is said, below full."""
    assert "is restricted only where it asks" in named(bridge(place, "--no-modes")[1], "notice")[0]["message"]
    assert named(bridge(place, "--no-modes", permission="full")[1], "notice") == []


@pytest.mark.parametrize(
    ("level", "answers"),
    [("read-only", [True, True, False, False]), ("edit", [True, True, True, False]), ("full", [True] * 4)],
)
def test_permission_requests_are_answered_by_the_level(place: Place, level: str, answers: list[bool]) -> None:
    """The agent hears it, and so do we."""
    asked = [("read", "/etc/hosts"), ("execute", "csa run x"), ("edit", "a.txt"), ("execute", "rm x")]
    place.play(*[["ask", kind, subject] for kind, subject in asked], *ANSWER)
    code, lines, _ = bridge(place, permission=level)
    assert code == 0
    assert [found["allowed"] for found in named(lines, "permission")] == answers
    ends = [
        found["update"] for found in named(lines, "update") if found["update"]["sessionUpdate"] == "tool_call_update"
    ]
    assert [end["status"] == "completed" for end in ends] == answers


@pytest.mark.thorough
def test_a_line_of_any_length_passes(place: Place) -> None:
    """The library's own limit is 64 KiB."""
    place.play(["emit-bytes", 5_000_000], *ANSWER)
    code, lines, _ = bridge(place)
    assert (code, chunks(lines)) == (0, "the answer")
    longest = max(named(lines, "update"), key=lambda found: len(json.dumps(found)))
    assert len(longest["update"]["content"][0]["content"]["text"]) == 5_000_000


@pytest.mark.thorough
def test_a_flood_on_stderr_blocks_nothing(place: Place) -> None:
    """It goes straight to ours."""
    place.play(*[["stderr", "x" * 1000]] * 500, *ANSWER)
    code, lines, err = bridge(place)
    assert (code, chunks(lines), len(err)) == (0, "the answer", 500 * 1001)


@pytest.mark.thorough
def test_many_updates_keep_their_order(place: Place) -> None:
    """They are written as they came."""
    place.play(["emit-many", 4000], *ANSWER)
    code, lines, _ = bridge(place)
    assert code == 0
    calls = [found["update"]["toolCallId"] for found in named(lines, "update") if "toolCallId" in found["update"]]
    assert calls[::2] == calls[1::2]
    assert calls[::2] == [f"call_{number}" for number in range(1, 2001)]


@pytest.mark.thorough
def test_the_agent_gets_the_whole_environment(place: Place, tmp_path: Path) -> None:
    """The library alone would give it six variables."""
    place.env["EXTRA_WORD"] = "passed on"
    place.play(["write-env", str(tmp_path / "env")], *ANSWER)
    assert bridge(place)[0] == 0
    seen: Mapping[str, str] = json.loads((tmp_path / "env").read_text())
    assert {name: seen.get(name) for name in place.env} == place.env


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-agent",), "cannot start no-such-agent"),
        (("fake-acp", "--no-session"), "exited with 3 during session/new"),
        (("bash", "-c", "exit 5"), "exited with 5 during initialize"),
        (("bash", "-c", "kill -9 $$"), "died of signal 9 during initialize"),
        (("bash", "-c", "sleep 600 & exit 5"), "exited with 5 during initialize"),
        (("fake-acp", "--version-2"), "version 2 of the protocol"),
        (("cat",), "Method not found"),
    ],
)
def test_agents_that_do_not_work(place: Place, command: tuple[str, ...], words: str) -> None:
    """Whoever else holds the agent's output open, its end is seen; and `cat` sends back our refusal of its request."""
    with start(place, command=command) as process:
        assert process.stdout
        said = [json.loads(process.stdout.readline())]
        while said[-1]["type"] != "failed":
            said.append(json.loads(process.stdout.readline()))
        assert process.wait(PATIENCE_S) == 1
    assert words in said[-1]["message"]
    _kill_sleepers(place)


@pytest.mark.thorough
def test_settings_that_the_agent_lacks(place: Place) -> None:
    """A model or effort that was asked for is not passed over in silence."""
    for setting in ("model", "effort"):
        code, lines, _ = bridge(place, **{setting: "high"})
        assert (code, lines[-1]["kind"], lines[-1]["stage"]) == (1, "unsupported", "settings")


def test_term_cancels_the_turn(place: Place) -> None:
    """The agent is asked to end it, and answers; then both leave, with all the agent has started."""
    place.play(["touch", str(place.ready)], ["run", "sleep 600"])
    process = start(place)
    place.wait_ready()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_S)
    last = json.loads(out.splitlines()[-1])
    assert (process.returncode, last["type"], last["result"]) == (143, "finished", {"stopReason": "cancelled"})
    assert not place.processes()


@pytest.mark.thorough
def test_term_ends_an_agent_that_will_not_hear(place: Place) -> None:
    """It is killed within the grace that csa gives."""
    script = f"trap '' TERM; read line; exec 0</dev/null; touch {place.ready}; while :; do sleep 0.1; done"
    process = start(place, command=("bash", "-c", script))
    place.wait_ready()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143
    assert CANCEL_WAIT_S + DYING_WAIT_S < TERM_GRACE_S


@pytest.mark.thorough
def test_a_session_may_have_to_wait(place: Place, tmp_path: Path) -> None:
    """While the file is there that forbids it, no session is loaded; TERM ends the wait."""
    first = bridge(place, "--only-load")[1]
    for minute in range(3):  # this one, and the next ones should it end meanwhile
        os.close(os.open(tmp_path / _minute(minute), os.O_CREAT))
    process = start(place, "--only-load", session_id=session_of(first), not_while=str(tmp_path / "file-{minute}"))
    assert process.stdout
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert "waiting" in lines[1]["message"]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert '"session"' not in out


@pytest.mark.thorough
def test_an_ephemeral_session_is_deleted(place: Place) -> None:
    """Where the agent can; the answer has been given by then."""
    code, lines, _ = bridge(place, ephemeral=True)
    assert (code, lines[-1]["type"]) == (0, "finished")
    assert not (place.home / ".fake-acp" / "fake" / f"{session_of(lines)}.json").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("answer", ["in two halves", "x"])
def test_what_comes_after_the_end_belongs_to_the_turn(place: Place, answer: str) -> None:
    """Also where nothing was said before the end; and it is told before the end is."""
    place.play(["say", answer])
    code, lines, _ = bridge(place, "--late")
    assert (code, chunks(lines), lines[-1]["type"]) == (0, answer, "finished")


@pytest.mark.thorough
def test_what_is_no_message_is_told_as_such(place: Place) -> None:
    """Scalars, lists, banners and what nests too deep neither end the turn nor get lost; a message behind is found."""
    place.play(*ANSWER)
    code, lines, _ = bridge(place, "--noisy")
    assert (code, chunks(lines)) == (0, "the answer")
    strays = [found["text"] for found in named(lines, "stray")]
    assert strays[0] == "\x1b[32mready\x1b[0m\r"
    assert strays[1:6] == ["7", '"text"', "null", "[]", '{"level":"info"}']
    assert len(strays) == 8


@pytest.mark.thorough
def test_an_agent_that_never_answers_does_not_speak_the_protocol(place: Place) -> None:
    """It is said within the limit, with what it wrote instead."""
    code, lines, _ = bridge(place, "--deaf", initialize_s=0.5)
    assert (code, lines[-1]["kind"]) == (1, "protocol")
    assert lines[-1]["message"] == "fake-acp does not speak ACP: no answer to initialize in 0.5 s"
    with start(place, command=("bash", "-c", "echo usage: tool; sleep 600"), initialize_s=0.5) as process:
        assert process.stdout
        assert "in 0.5 s: usage: tool" in process.stdout.read().splitlines()[-1]
    _kill_sleepers(place)


@pytest.mark.thorough
def test_an_agent_that_asks_who_it_is(place: Place) -> None:
    """It is told by a variable that is set, by its only method, or by the one its user has chosen."""
    place.play(*ANSWER)
    place.env["FAKE_ACP_KEY"] = "a value"
    for flags, order, used in (
        (["--auth-browser", "--auth-env"], {}, "key"),
        (["--auth-agent"], {}, "cached"),
        (["--auth-browser"], {"auth_method": "login"}, "login"),
    ):
        code, lines, _ = bridge(place, *flags, **order)
        assert (code, chunks(lines)) == (0, "the answer")
        assert f"'{used}' was used" in named(lines, "notice")[0]["message"]


@pytest.mark.parametrize(
    ("flags", "order", "words"),
    [
        (["--auth-browser"], {}, ["Authentication required", "login (Sign in with your browser)"]),
        (["--auth-env", "--auth-agent"], {}, ["key (set FAKE_ACP_KEY)", "cached (Cached token)"]),
        (["--auth-agent"], {"auth_method": "other"}, ["Authentication required", "auth_method"]),
    ],
)
def test_a_person_must_log_in(place: Place, flags: list[str], order: Json, words: list[str]) -> None:
    """Nothing is opened unasked; the methods are named."""
    code, lines, _ = bridge(place, *flags, **order)
    assert (code, lines[-1]["kind"], lines[-1]["stage"]) == (1, "auth", "session")
    assert [word for word in words if word not in lines[-1]["message"]] == []


@pytest.mark.thorough
@pytest.mark.parametrize("flag", ["--only-always", "--no-kinds"])
def test_options_as_agents_offer_them(place: Place, flag: str) -> None:
    """What is allowed happens, though only for ever is offered, or no option has a kind."""
    place.play(["ask", "execute", "csa run x"], ["ask", "execute", "rm x"], *ANSWER)
    code, lines, _ = bridge(place, flag)
    asked = named(lines, "permission")
    allowing, refusing = ("always", None) if flag == "--only-always" else ("yes", "no")
    assert code == 0
    assert [(found["allowed"], found["option"]) for found in asked] == [(True, allowing), (False, refusing)]


def _minute(ahead: int) -> str:
    import time  # noqa: PLC0415  # the only clock here

    return time.strftime("file-%Y-%m-%dT%H-%M", time.gmtime(time.time() + 60 * ahead))


def _kill_sleepers(place: Place) -> None:
    for pid in place.processes():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not place.processes(), "the sleepers are gone")
