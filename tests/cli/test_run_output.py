"""What `csa run` prints, and where: the answer on stdout, everything else on stderr, JSON when asked for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import CSA, PATIENCE_S, Json, Place, read_transcript, wait_for

RESULT_KEYS = {
    "session_id",
    "turn",
    "tool",
    "model",
    "provider_session_id",
    "status",
    "exit_code",
    "tool_exit_code",
    "text",
    "summary",
    "error",
    "denied",
    "usage",
    "duration_s",
    "started_at",
    "finished_at",
    "artifacts",
}
BOTH = pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])


@BOTH
def test_stdout_is_the_answer(place: Place, tool: str) -> None:
    """stdout holds the final message and nothing else; the session and the progress go to stderr."""
    place.play(["think", "hm"], ["say", "first thought"], ["call", "ls", "a b"], ["say", "the answer\nin two lines"])
    done = place.run("run", "--tool", tool, "hello")
    assert (done.code, done.out) == (0, "the answer\nin two lines\n")
    assert place.ids() == [done.session_id]
    assert "first thought" in done.err


def test_chosen_tool_is_named_on_stderr(place: Place) -> None:
    """The tool and why it was chosen stand beside the session's id."""
    done = place.run("run", "hello")
    assert f"session {done.session_id}, turn 1, codex (first" in done.err


@pytest.mark.thorough
def test_id_resolves_while_the_tool_runs(place: Place) -> None:
    """An id that was printed resolves in another process at once, and is-alive tells tool, turn, pid and time."""
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    session_id = running.session_id
    alive = place.run("session", "is-alive", "--session", session_id)
    assert alive.code == 0
    assert alive.out.startswith(f"alive: codex, turn 1, PID {running.pid}, since ")
    shown = place.run("session", "is-alive", session_id[:14].lower(), "--json").json
    assert (shown["state"], shown["pid"], shown["turn"]) == ("alive", running.pid, 1)
    assert place.status(session_id) == "running"
    place.release()
    assert running.wait().out == "done\n"
    over = place.run("session", "is-alive", session_id)
    assert (over.code, over.out) == (1, "not alive\n")


@pytest.mark.thorough
def test_id_is_durable_when_it_is_shown(place: Place) -> None:
    """At the moment the id appears on stderr the record and its run_started are on disk."""
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "hello")
    events = read_transcript(place.session(running.session_id) / "transcript.jsonl")
    assert events[0]["type"] == "run_started"
    assert events[0]["data"]["prompt"] == "hello"
    place.release()
    assert running.wait().code == 0


@BOTH
def test_json_has_exactly_the_keys_of_the_contract(place: Place, tool: str) -> None:
    """`run --json` and `session result --json` print the same object, of fixed keys."""
    place.play(["usage", 1200, 34, 1000], ["say", "the answer"])
    done = place.run("run", "--tool", tool, "--json", "hello")
    result: Json = done.json
    assert result["session_id"] == done.session_id
    assert (result["turn"], result["tool"], result["status"], result["exit_code"]) == (1, tool, "succeeded", 0)
    assert (result["text"], result["summary"], result["error"]) == ("the answer", "the answer", None)
    assert result["provider_session_id"] == place.state(done.session_id)["tools"][tool]["provider_session_id"]
    assert result["usage"]["output_tokens"] == 34
    assert place.run("session", "result", "-s", done.session_id, "--json").json == result
    assert set(result) >= RESULT_KEYS


def test_json_of_a_failed_turn(place: Place) -> None:
    """A failed turn prints the result too: one object, with the kind of its error."""
    place.play(["say", "so far"], ["fail", "429"])
    done = place.run("run", "--tool", "codex", "--retries", "0", "--json", "hello")
    assert done.code == 8
    assert done.json["status"] == "failed"
    assert done.json["error"]["kind"] == "rate_limit"
    assert done.json["error"]["retry_at"] is None
    assert done.json["exit_code"] == 8
    assert done.json["text"] == "so far"


def test_json_without_a_session(place: Place) -> None:
    """A refusal prints the error object on stdout: kind, message, hint and exit code; so does a mistyped command."""
    done = place.run("run", "--tool", "codx", "--json", "hello")
    assert set(done.json) == {"error"}
    for words in (["ls", "--jsn", "--json"], ["lst", "--json"], ["wait", "--json"]):
        done = place.run(*words)
        error = done.json["error"]
        assert (done.code, error["kind"], error["exit_code"], error["code"]) == (2, "usage", 2, "usage")
    assert not place.state_root.exists()


@BOTH
def test_stream_json_is_the_transcript(place: Place, tool: str) -> None:
    """`--stream-json` prints the events of the transcript, line by line, and no answer."""
    place.play(["think", "hm"], ["call", "ls", "a b"], ["say", "done"])
    done = place.run("run", "--tool", tool, "--stream-json", "hello")
    events = done.events
    assert events == place.events(done.session_id)
    assert [events[0]["type"], events[-1]["type"]] == ["run_started", "run_finished"]


@pytest.mark.thorough
def test_stream_json_comes_as_it_happens(place: Place) -> None:
    """An event is on stdout while the tool still runs."""
    place.play(["say", "early"], *place.hold())
    running = place.start("run", "--tool", "codex", "--stream-json", "hello")
    place.wait_ready()
    wait_for(lambda: '"early"' in running.out, "the first message on stdout")
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_stream_json_of_a_second_turn(place: Place) -> None:
    """The second turn streams its own events only, numbered on from the first."""
    first = place.codex("one")
    events = place.codex("two", "--session", first.session_id, "--stream-json").events
    assert {event["turn"] for event in events} == {2}
    assert events == place.events(first.session_id)[-len(events) :]


@pytest.mark.thorough
def test_print_id(place: Place) -> None:
    """`--print-id` prints the id instead of the answer."""
    done = place.codex("hello", "--print-id")
    assert done.out == done.session_id + "\n"


@pytest.mark.thorough
def test_quiet(place: Place) -> None:
    """`--quiet` leaves stderr empty when all goes well, and does not silence a failure."""
    assert place.codex("hello", "--quiet").err == ""
    place.play(["fail", "500"])
    done = place.run("run", "--tool", "codex", "--retries", "0", "--quiet", "hello")
    assert done.code == 1
    assert done.err.startswith("error: ")


@pytest.mark.parametrize("kind", [[], ["--json"]])
def test_dry_run_creates_nothing(place: Place, kind: list[str]) -> None:
    """`--dry-run` tells what would be run; no file appears anywhere and no tool starts."""
    place.play(["touch", str(place.ready)])
    done = place.run("run", "--tool", "codex", "--dry-run", *kind, "hello")
    assert done.code == 0
    assert "codex" in done.out
    assert not place.state_root.exists()
    assert not place.ready.exists()
    assert list(place.home.iterdir()) == []


def test_dry_run_still_refuses(place: Place) -> None:
    """A dry run refuses what the run would refuse."""
    assert place.run("run", "--dry-run", "--session", "01", "hello").code == 3


def test_empty_answer(place: Place) -> None:
    """A tool that succeeds without a word leaves stdout empty."""
    place.play(["edit", "a.txt"])
    assert place.codex("hello").out == ""


def test_artifacts_are_named(place: Place) -> None:
    """Files an agent leaves in $CSA_OUTPUT_DIR are in the result, as absolute paths; csa's own files are not."""
    place.play(["run", 'echo report > "$CSA_OUTPUT_DIR/report.md"'], ["say", "done"])
    result = place.codex("hello", "--json").json
    assert [Path(path).read_text() for path in result["artifacts"]] == ["report\n"]


@pytest.mark.thorough
def test_description_and_name_are_kept(place: Place) -> None:
    """`--description` and `--name` are in the record and in the list; without them the prompt's start describes."""
    named = place.codex("hello", "--description", "Auth refactor", "--name", "auth").session_id
    plain = place.codex("\n  Fix the tests.\nThen more.").session_id
    listed = {item["id"]: item for item in place.run("session", "list", "--json").json}
    assert (listed[named]["name"], listed[named]["description"]) == ("auth", "Auth refactor")
    assert (listed[plain]["name"], listed[plain]["description"]) == (None, "Fix the tests.")
    assert "[auth] Auth refactor" in place.run("session", "list").out


@pytest.mark.thorough
def test_usage_is_per_turn(place: Place) -> None:
    """codex reports totals of the thread; each turn's result has the difference, the session the sum."""
    place.script({"match": "", "turn": 1, "do": [["usage", 1000, 10]]}, {"match": "", "do": [["usage", 500, 5]]})
    first = place.codex("one", "--json").json
    second = place.codex("two", "--session", first["session_id"], "--json").json
    assert [first["usage"]["input_tokens"], second["usage"]["input_tokens"]] == [1000, 500]
    (listed,) = place.run("session", "list", "--json").json
    assert listed["usage"]["input_tokens"] == 1500


def test_answer_keeps_code_that_looks_like_a_secret(place: Place) -> None:
    """Code in an answer survives: only known shapes and long values of the environment are redacted on stdout."""
    code = 'token = settings.load("api_key")\npassword: str = prompt_user()'
    place.play(["say", code])
    assert place.codex("hello").out == code + "\n"


@pytest.mark.thorough
def test_interleaved_stdout_closed_early(place: Place) -> None:
    """A reader of `--stream-json` that goes away does not end the run: its record is complete."""
    place.play(["emit-many", 3000], ["say", "done"])
    words = "csa run --tool codex --stream-json hello | head -1 > first"
    done = place.shell(["bash", "-c", words])
    assert "Traceback" not in done.err
    wait_for(lambda: place.status(done.session_id) == "succeeded", "the turn ends well")


@pytest.mark.thorough
def test_a_reader_of_the_conversation_that_stalls(place: Place) -> None:
    """Once the turn has ended, stderr that nobody reads holds back neither the answer nor the exit code."""
    place.play(["say", "the answer"])
    read, write = os.pipe()
    words = ("run", "-v", "--tool", "codex", "--prompt-file", "long.md")
    (place.project / "long.md").write_text("word " * 20_000)
    with open(read, "rb"), open(write, "wb") as stalled:
        done = subprocess.run(
            [CSA, *words],
            env=place.environment(None),
            cwd=place.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stalled,
            timeout=PATIENCE_S,
            check=True,
        )
    assert done.stdout == b"the answer\n"
