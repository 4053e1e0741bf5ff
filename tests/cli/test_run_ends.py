"""Ends that somebody asked for: timeouts, signals, kills, a tool that will not go.

Nothing is left, and the status is true.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import tomllib
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest

from tests.support import CSA, Done, Place, Steps, allowing, headline_id, wait_for

BOTH = pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])
TREE: list[list[Any]] = [
    ["spawn-grandchild", "exec setsid sleep 600", {"hold_stdout": True}],
    ["spawn-grandchild", "exec setsid nohup bash -c \"trap '' TERM INT HUP; sleep 600 & wait\""],
]


SESSION = "01JH4QWERT1234567890ABCDEF"


def no_lock_is_held(place: Place, session_id: str) -> bool:
    return place.run("session", "is-alive", session_id).code == 1


@pytest.mark.thorough
@BOTH
def test_timeout(place: Place, tool: str) -> None:
    """When the time is up the tool and its tree are ended: exit 124, status timed_out, the text so far."""
    place.play(*TREE, ["say", "so far"], ["sleep", 60])
    done = place.run("run", "--tool", tool, "--timeout", "0.8", "--json", "hello")
    assert not place.processes()
    assert (done.code, done.json["status"], done.json["exit_code"]) == (124, "timed_out", 124)
    assert done.json["text"] == "so far"
    assert place.status(done.session_id) == "timed_out"


@pytest.mark.thorough
def test_timeout_of_a_stopped_guardian(place: Place) -> None:
    """A guardian that somebody has stopped, the tool itself perhaps, is made to go on when the time is up."""
    stop = "kill -STOP $(sed -n 's/^PPid://p' /proc/$PPID/status)"
    place.play(*TREE, ["run", f"{stop}; touch {place.ready}"], ["say", "so far"], ["sleep", 60])
    done = place.run("run", "--tool", "codex", "--timeout", "0.8", "hello")
    assert place.ready.exists()
    assert not place.processes()
    assert (done.code, place.status(done.session_id)) == (124, "timed_out")


@pytest.mark.thorough
def test_a_timeout_names_its_limit(place: Place) -> None:
    """Which limit it was is the `error` of the result everywhere, and the reason in each view, said once."""
    place.play(["say", "so far"], ["sleep", 60])
    done = place.run("run", "--tool", "codex", "--timeout", "0.8", "--json", "hello")
    late = {"kind": "timeout", "message": "the turn took longer than 0.8 s"}
    session_id = done.session_id
    words = ("session", "result", "--json", session_id)
    assert place.last_event(session_id)["error"] == late
    assert tomllib.loads((place.session(session_id) / "result.toml").read_text())["error"] == late
    told = {**late, "retry_at": None}
    assert done.json["error"] == place.run(*words).json["error"] == told
    assert place.run("session", "info", "--json", session_id).json["last_turn"]["error"] == told
    assert place.run("session", "wait", "--json", session_id).json[0]["error"] == told
    assert f"error: codex ran out of time: {late['message']}\n" in done.err
    for command in ("why", "info", "result", "wait", "logs", "show"):
        shown = place.run("session", command, session_id)
        assert (shown.out + shown.err).count(late["message"]) == 1, command
        assert "(timeout)" not in shown.out + shown.err
    assert place.run("top", "--all", "--json").json[0]["doing"] == f"timed_out: {late['message']}"


@pytest.mark.thorough
def test_timeout_from_the_configuration(place: Place) -> None:
    """`timeout_s` of the configuration holds where no flag is given."""
    place.play(["sleep", 60])
    assert place.run("run", "--tool", "codex", "hello", env={"CSA_CONF_TIMEOUT_S": "0.3"}).code == 124


@BOTH
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_cancel(place: Place, tool: str, name: str, code: int) -> None:
    """Ctrl-C, TERM and hangup end the turn in order: status cancelled, their own exit code, nothing left."""
    place.play(*TREE, ["say", "so far"], ["run", f"touch {place.ready}; setsid sleep 600 & sleep 600"])
    running = place.start("run", "--tool", tool, "hello")
    place.wait_ready()
    running.signal(signal.Signals[name])
    done = running.wait()
    assert not place.processes()
    assert done.code == code
    assert done.out == "so far\n"
    end = place.last_event(done.session_id)
    assert (end["status"], end["exit_code"]) == ("cancelled", code)
    assert name in end["summary"] or "so far" in end["summary"]
    assert no_lock_is_held(place, done.session_id)
    assert "Traceback" not in done.err


@pytest.mark.thorough
def test_signal_at_any_early_moment(place: Place) -> None:
    """A TERM right after the id has appeared, whatever csa is doing then, ends the turn as cancelled."""
    place.play(["sleep", 60])
    running = place.start("run", "--tool", "codex", "hello")
    session_id = running.session_id
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert (done.code, place.last_event(session_id)["status"]) == (143, "cancelled")


def stubborn_codex(place: Place) -> dict[str, str]:
    """Put a codex on the PATH that notes a TERM and stays."""
    program = place.tmp / "bin" / "codex"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/bash\ntrap 'touch {place.tmp}/asked' TERM INT\ntouch {place.ready}\nwhile :; do sleep 0.02; done\n"
    )
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{place.env['PATH']}"}


@pytest.mark.thorough
def test_second_interrupt_kills_at_once(place: Place) -> None:
    """A tool that ignores TERM has three seconds; a second Ctrl-C ends it now."""
    running = place.start("run", "--tool", "codex", "hello", env=stubborn_codex(place))
    place.wait_ready()
    running.signal(signal.SIGINT)
    wait_for((place.tmp / "asked").exists, "the tool was asked to end")
    begin = time.monotonic()
    running.signal(signal.SIGINT)
    done = running.wait()
    assert time.monotonic() - begin < allowing(2)  # a second less than the grace
    assert not place.processes()
    assert (done.code, place.last_event(done.session_id)["status"]) == (130, "cancelled")
    assert "Traceback" not in done.err


@pytest.mark.thorough
def test_stubborn_tool_is_killed_after_its_grace(place: Place) -> None:
    """One Ctrl-C is enough: a tool that ignores TERM is killed when its grace is over."""
    running = place.start("run", "--tool", "codex", "hello", env=stubborn_codex(place))
    place.wait_ready()
    running.signal(signal.SIGINT)
    done = running.wait()
    assert (done.code, place.last_event(done.session_id)["status"]) == (130, "cancelled")
    assert not place.processes()


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize("name", ["KILL", "SEGV"])
def test_tool_that_dies_of_a_signal(place: Place, tool: str, name: str) -> None:
    """A tool killed by a signal csa did not send: status killed, exit 1."""
    place.play(["say", "so far"], ["signal-self", name])
    done = place.run("run", "--tool", tool, "--json", "hello")
    assert (done.code, done.json["status"], done.json["tool_exit_code"]) == (1, "killed", None)
    assert done.json["text"] == "so far"


def _warnings(place: Place, session_id: str) -> list[dict[str, str]]:
    return [event["data"] for event in place.events(session_id) if event["type"] == "warning"]


# csa with shorter waits.
IMPATIENT = """
import sys
import csa.runner.turns.attempt as attempt
from csa.cli.main import main
attempt.REAP_GRACE_S, attempt.BACKGROUND_LIMIT_S, attempt.BACKGROUND_LOOK_S = 2.0, 3.0, 0.5
sys.exit(main())
"""


def impatient(place: Place, *words: str) -> Done:
    return place.shell([sys.executable, "-c", IMPATIENT, "run", "--tool", "claude-code", "--json", *words])


@pytest.mark.thorough
def test_finished_tool_that_hangs_is_reaped(place: Place) -> None:
    """A tool that has announced its end and does not exit is ended after a grace; the turn has succeeded."""
    place.play(["say", "done"], ["finish"], ["sleep", 600])
    done = place.run("run", "--tool", "claude-code", "hello")
    assert (done.code, done.out) == (0, "done\n")
    assert not place.processes()
    (warning,) = _warnings(place, done.session_id)
    assert warning == {"kind": "ended", "message": "csa ended the tool (the tool finished but did not exit)"}


@pytest.mark.thorough
def test_a_tool_that_goes_on_after_a_result_is_not_ended(place: Place) -> None:
    """claude's results of a turn with work in the background: the last is the answer, however long it takes."""
    first: Steps = [["say", "first"], ["usage", 100, 10], ["finish"]]
    second: Steps = [["say", "second"], ["finish"]]
    waits: Steps = [["background", ["make", "look"]], *first, ["sleep", 2.6], ["background", ["look"]], ["sleep", 0.3]]
    place.play(*waits, ["start"], ["sleep", 2.6], *first, ["background", []], ["start"], *second)
    done = impatient(place, "hello")
    assert (done.code, done.json["text"]) == (0, "second")
    assert done.json["usage"]["input_tokens"] == 300
    assert _warnings(place, done.session_id) == []


@pytest.mark.thorough
def test_lost_background_work_does_not_end_the_next_turn(place: Place) -> None:
    """A result of zero turns for it comes before the prompt's own, which may take long."""
    place.play(["orphan", "look"], ["start"], ["sleep", 3], ["say", "done"], ["finish"], start=False)
    done = impatient(place, "hello")
    assert (done.code, done.json["text"]) == (0, "done")


@pytest.mark.thorough
def test_what_ends_with_a_turn_in_the_background_is_named(place: Place) -> None:
    """The wall limit ends a turn that waits for a server that never ends; its answer is kept."""
    place.play(["say", "it serves"], ["background", ["npm run dev"]], ["finish"], ["sleep", 600])
    done = place.run("run", "--tool", "claude-code", "--timeout", "3", "--json", "hello")
    assert (done.json["status"], done.json["text"]) == ("timed_out", "it serves")
    (warning,) = _warnings(place, done.session_id)
    assert warning["kind"] == "ended"
    assert warning["message"].endswith("and its background commands: npm run dev")


@pytest.mark.thorough
def test_a_background_command_that_never_ends_does_not_keep_a_turn_for_ever(place: Place) -> None:
    """Once the tool has answered and is silent, the turn ends with that answer, and with what it ended."""
    place.play(["say", "it serves"], ["background", ["npm run dev"]], ["finish"], ["sleep", 600])
    done = impatient(place, "hello")
    assert (done.code, done.json["text"]) == (0, "it serves")
    (warning,) = _warnings(place, done.session_id)
    assert warning["message"].endswith("and its background commands: npm run dev")
    assert not place.processes()


@pytest.mark.thorough
def test_a_nested_turn_in_the_background_is_no_command_that_never_ends(place: Place) -> None:
    """The tool has answered and is silent, but a csa works below it: for longer than the limit, and to its end."""
    place.script(
        {"match": "inner", "do": [["sleep", 5], ["say", "inner done"]]},
        {
            "match": "outer",
            "do": [
                ["say", "it runs"],
                ["background", ["csa run"]],
                ["finish"],
                ["spawn-grandchild", f"{CSA} run --tool codex inner > inner.txt"],
                ["wait-file", "inner.txt", 60],
                ["sleep", 6],
                ["run", "until grep -q done inner.txt; do sleep 0.1; done"],
                ["background", []],
                ["start"],
                ["say", "all done"],
                ["finish"],
            ],
        },
    )
    done = impatient(place, "outer")
    assert (done.code, done.json["text"]) == (0, "all done"), done


@BOTH
def test_a_success_without_an_answer_is_said(place: Place, tool: str) -> None:
    """Nothing else tells it from a turn that did its work."""
    place.play(["think", "hm"])
    done = place.run("run", "--tool", tool, "hello")
    assert done.code == 0
    assert "without an answer" in done.err
    (warning,) = _warnings(place, done.session_id)
    assert warning["kind"] == "no_answer"


@pytest.mark.thorough
def test_cancel_file(place: Place) -> None:
    """The `cancel` file in the session's directory ends the turn, and is gone afterwards."""
    place.play(*TREE, ["touch", str(place.ready)], ["sleep", 60])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    cancel = place.session(running.session_id) / "cancel"
    cancel.touch()
    done = running.wait()
    assert place.last_event(done.session_id)["status"] == "cancelled"
    assert done.code == 130
    assert not cancel.exists()
    assert not place.processes()


@pytest.mark.thorough
def test_interrupt_after_the_answer(place: Place) -> None:
    """Ctrl-C between the typed end of a turn and the exit of its tool: the turn has succeeded."""
    place.play(["say", "done"], ["finish"], ["touch", str(place.ready)], ["sleep", 600])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    transcript = place.session(running.session_id) / "transcript.jsonl"
    wait_for(lambda: b'"usage"' in transcript.read_bytes(), "the typed end is read")
    running.signal(signal.SIGINT)
    done = running.wait()
    assert (done.code, done.out) == (0, "done\n")
    assert place.run("session", "result", done.session_id).out == "done\n"


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["--stream-json", "--json"])
@pytest.mark.parametrize("ends", ["--timeout", "TERM"])
def test_nobody_reads_what_csa_says(place: Place, how: str, ends: str) -> None:
    """A full pipe on stdout, or on stderr, holds up neither the time limit nor a signal: the turn is ended by them."""
    place.play(["emit-many", 20_000], *place.hold(), ["say", "never"])
    words = ["--session-id", SESSION, how, *(["--timeout", "3"] if ends == "--timeout" else [])]
    with start_unread(place, *words) as process:
        place.wait_ready()
        if ends == "TERM":
            process.send_signal(signal.SIGTERM)
        status = "timed_out" if ends == "--timeout" else "cancelled"
        wait_for(lambda: place.status(SESSION) == status, "the turn is ended")
        assert process.poll() is None
        out, _ = process.communicate()
    assert process.returncode == (124 if ends == "--timeout" else 143)
    assert out.count(b"\n") > 100 if how == "--stream-json" else b'"status":' in out


@pytest.mark.thorough
def test_a_reader_that_never_comes(place: Place) -> None:
    """When the turn has ended, a signal ends csa too, whose last words nobody reads."""
    place.play(["emit-many", 4000], ["say", "done"])
    with start_unread(place, "--session-id", SESSION, "--stream-json", "-q") as process:
        wait_for(place.published, "there is a session")
        wait_for(lambda: place.status(SESSION) == "succeeded", "the turn has ended")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def start_unread(place: Place, *words: str) -> subprocess.Popen[bytes]:
    """Start a run of codex whose output goes into pipes."""
    argv = [CSA, "run", "--tool", "codex", *words, "hello"]
    return subprocess.Popen(
        argv, cwd=place.project, env=place.environment(None), stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )


@pytest.mark.thorough
def test_reader_of_stderr_that_goes_away(place: Place) -> None:
    """When nobody reads the progress any more, the turn goes on: its answer comes and its record is complete."""
    place.play(["wait-file", str(place.go), 30], ["call", "ls"], ["call", "ls"], ["say", "done"])
    words = [CSA, "run", "--tool", "codex", "hello"]
    with subprocess.Popen(
        words, cwd=place.project, env=place.env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        session_id = headline_id(process.stderr.readline())
        process.stderr.close()
        place.release()
        answer = process.stdout.read()
    assert (process.returncode, answer) == (0, "done\n")
    assert place.last_event(session_id)["status"] == "succeeded"


@pytest.mark.thorough
def test_a_tool_that_is_killed_was_perhaps_out_of_memory(place: Place) -> None:
    """Nobody says why it was; of other signals the kernel is not the cause."""
    for name, is_told in (("KILL", True), ("SEGV", False)):
        place.play(["signal-self", name])
        done = place.run("run", "--tool", "codex", "hello")
        assert (done.code, "was killed" in done.err, "out of memory" in done.err) == (1, True, is_told), done.err
