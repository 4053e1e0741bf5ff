"""Answers that have to conform to a JSON Schema."""

from __future__ import annotations

import hashlib
import json
import signal
import tomllib

import pytest

from csa.runner.turns import conformance
from tests.cli.test_lost_conversations import TOOLS, of_type
from tests.support import Place, wait_for

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
SCHEMA = json.dumps(PERSON)


def test_an_answer_is_printed_as_json_alone(place: Place) -> None:
    """The schema is asked for in the prompt; of an answer in a fence only the value is printed, and kept."""
    given = place.tmp / "stdin"
    place.play(["write-stdin", str(given)], ["say", 'Here it is:\n```json\n{"name": "Ada",\n "age": 36}\n```'])
    done = place.run("run", "--tool", "gemini-cli", "--schema", SCHEMA, "who?")
    assert (done.code, json.loads(done.out), done.out.count("\n")) == (0, {"name": "Ada", "age": 36}, 1)
    assert given.read_text().startswith("who?\n\nYour final answer must be")
    assert SCHEMA.replace(" ", "") in given.read_text()
    shown = place.run("result", done.session_id, "--json").json
    assert (shown["output"], json.loads(shown["text"])) == ({"name": "Ada", "age": 36},) * 2
    assert json.loads(place.run("result", done.session_id).out) == shown["output"]


@pytest.mark.thorough
@pytest.mark.parametrize("tool", TOOLS)
def test_an_answer_that_does_not_conform_is_asked_for_again(place: Place, tool: str) -> None:
    """Once, in the same conversation and the same turn, with what was wrong."""
    place.script(
        {"match": "That answer cannot be used", "do": [["usage", 10, 1], ["say", '{"name": "Ada"}']]},
        {"match": "who?", "do": [["usage", 100, 10], ["say", '{"name": 5}']]},
    )
    done = place.run("run", "--tool", tool, "--schema", SCHEMA, "--json", "who?")
    assert (done.code, done.json["output"], done.json["turn"]) == (0, {"name": "Ada"}, 1)
    assert done.json["usage"]["input_tokens"] == 110
    (told,) = of_type(place, done.json["session_id"], "retry")
    assert told["message"] == "$.name: 5 is not of type 'string'"
    said = [message["role"] for message in place.run("show", done.json["session_id"], "--json").json]
    assert said == ["user", "assistant", "user", "assistant"]
    assert place.run("validate", done.json["session_id"]).code == 0


@pytest.mark.thorough
def test_an_answer_that_never_conforms_fails_the_turn(place: Place) -> None:
    """The failure is typed, names the first violation, and keeps the answer."""
    place.play(["say", '{"age": 5}'])
    done = place.run("run", "--tool", "codex", "--schema", SCHEMA, "--json", "who?")
    assert (done.code, done.json["output"], done.json["text"]) == (1, None, '{"age": 5}')
    assert done.json["error"]["kind"] == "invalid_output"
    assert (
        done.json["error"]["message"] == "the answer does not conform to the schema: $: 'name' is a required property"
    )


@pytest.mark.thorough
def test_claudes_own_structured_output(place: Place) -> None:
    """The schema goes to the tool, and not into the prompt; the answer that it calls its tool with is the message."""
    given = place.tmp / "stdin"
    place.play(["expect-arg", "--json-schema"], ["write-stdin", str(given)], ["answer", {"name": "Ada"}])
    done = place.run("run", "--tool", "claude-code", "--schema", SCHEMA, "who?")
    assert (done.code, json.loads(done.out), given.read_text()) == (0, {"name": "Ada"}, "who?")
    (started,) = of_type(place, done.session_id, "run_started")
    assert started["schema"]["how"] == "native"
    stored = (place.session(done.session_id) / "output" / "turn-0001" / "schema.json").read_bytes()
    assert (json.loads(stored), hashlib.sha256(stored).hexdigest()) == (PERSON, started["schema"]["sha256"])
    assert [json.loads(said["text"]) for said in of_type(place, done.session_id, "agent_message")] == [{"name": "Ada"}]


@pytest.mark.thorough
def test_codex_gets_a_file_only_for_a_strict_schema(place: Place) -> None:
    """Of any other its provider says that it is invalid, so it is asked for."""
    argv = place.tmp / "argv"
    place.play(["write-argv", str(argv)], ["answer", {"name": "Ada", "age": 36}])
    strict = {**PERSON, "required": ["name", "age"], "additionalProperties": False}
    for schema, how in ((PERSON, "asked"), (strict, "native")):
        words = ("run", "--tool", "codex", "--schema", json.dumps(schema), "who?")
        assert place.run(*words, "--dry-run", "--json").json["schema"] == how
        assert place.run(*words).code == 0
        assert ("--output-schema" in argv.read_text()) is (how == "native")


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "is not JSON"),
        ('{"type": "thing"}', "is not valid"),
        ('{"$ref": "https://example.com/s.json"}', "is not a part of it"),
        ('{"$ref": "file:///etc/passwd"}', "is not a part of it"),
        ('{"$schema": "https://example.com/draft"}', "is not known"),
        ('{"pattern": "("}', "is not valid"),
        ('{"a": 1, "a": 2}', "occurs twice"),
        ("/nowhere.json", "cannot be read"),
        (json.dumps({"enum": ["x" * 70_000]}), "larger than 64 KiB"),
    ],
)
def test_a_schema_that_cannot_be_used_starts_nothing(place: Place, schema: str, words: str) -> None:
    """It is refused with exit code 2, before there is a session."""
    done = place.run("run", "--schema", schema, "who?")
    assert (done.code, place.ids()) == (2, [])
    assert words in done.err


@pytest.mark.thorough
def test_a_schema_that_takes_for_ever_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pattern is tried in a process of its own, with a limit; the turn fails, and is not tried again."""
    monkeypatch.setattr(conformance, "CPU_LIMIT_S", 1)
    fault = conformance.first_fault({"pattern": "^(a+)+$"}, "a" * 5000 + "!")
    assert fault
    assert fault.is_of_schema
    place.play(["say", "5"])
    done = place.run("run", "--tool", "codex", "--schema", '{"$ref": "#"}', "--json", "who?")
    assert (
        done.json["error"]["message"] == "the answer could not be checked: the schema refers to itself without an end"
    )
    assert of_type(place, done.json["session_id"], "retry") == []


@pytest.mark.thorough
def test_retry_detach_and_fallback_keep_the_schema(place: Place) -> None:
    """It belongs to the turn: `retry` takes that of the last turn, a fallback that of the turn it takes over."""
    place.script(
        {"match": "Send", "tool": "codex", "do": [["fail", "quota"]]},
        {"match": "Send", "tool": "gemini", "do": [["say", '{"name": "Ada"}']]},
    )
    done = place.run("run", "-t", "codex", "--fallback", "gemini-cli", "--schema", SCHEMA, "--json", "Send it.")
    assert (done.json["tool"], done.json["output"]) == ("gemini-cli", {"name": "Ada"})
    again = place.run("retry", done.json["session_id"], "--json")
    assert (again.json["turn"], again.json["output"]) == (3, {"name": "Ada"})
    assert place.run("retry", done.json["session_id"], "--schema", "", "--json").json["output"] is None
    started = place.run("run", "-t", "gemini-cli", "--detach", "--schema", SCHEMA, "Send it.").out.strip()
    assert place.run("wait", started).code == 0
    assert json.loads(place.run("result", started).out) == {"name": "Ada"}


@pytest.mark.thorough
def test_an_ephemeral_run_is_told_its_answer(place: Place) -> None:
    """Its conversation is gone, so that the second run gets the prompt and the answer again."""
    given = place.tmp / "stdin"
    place.script(
        {"match": "That answer cannot be used", "do": [["write-stdin", str(given)], ["say", '{"name": "Ada"}']]},
        {"match": "who?", "do": [["say", "It is Ada."]]},
    )
    done = place.run("run", "--tool", "codex", "--ephemeral", "--schema", SCHEMA, "who?")
    assert (done.code, json.loads(done.out)) == (0, {"name": "Ada"})
    assert given.read_text().startswith("who?\n\nYou have done this already, and answered:\n\nIt is Ada.\n")


@pytest.mark.thorough
def test_secrets_in_an_output_are_redacted(place: Place) -> None:
    """On stdout like the answer, in the records like everything; it stays JSON."""
    place.env["SOME_TOKEN"] = "verysecretvalue"
    place.play(["say", json.dumps({"name": "verysecretvalue", "token": 123456, "age": 1})])
    done = place.run("run", "--tool", "codex", "--schema", SCHEMA, "--json", "who?")
    assert done.json["output"] == json.loads(done.json["text"]) == {"name": "[REDACTED]", "token": 123456, "age": 1}
    session = place.session(done.json["session_id"])
    assert json.loads(tomllib.loads((session / "result.toml").read_text())["output"]) == done.json["output"]
    assert json.loads(place.run("result", done.json["session_id"]).out) == done.json["output"]
    assert b"verysecretvalue" not in b"".join(p.read_bytes() for p in session.rglob("*") if p.is_file())


@pytest.mark.thorough
def test_an_output_survives_the_loss_of_its_event(place: Place) -> None:
    """result.toml has it as a JSON text, null included, so that a repair brings it back."""
    place.play(["say", '{"name": "Ada", "age": 1, "next": [null]}'])
    done = place.run("run", "--tool", "codex", "--schema", SCHEMA, "--json", "who?")
    transcript = place.session(done.json["session_id"]) / "transcript.jsonl"
    lines = transcript.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["data"]["output"] == done.json["output"]
    transcript.write_bytes(b"".join(lines[:-1]))
    assert place.run("repair", done.json["session_id"]).code == 0
    assert place.run("result", done.json["session_id"], "--json").json["output"] == done.json["output"]


@pytest.mark.thorough
def test_a_cancelled_turn_has_no_output(place: Place) -> None:
    """Nor is anything asked again, once somebody has cancelled; a fork and its correction keep to one conversation."""
    first = place.run("run", "--tool", "codex", "before").session_id
    place.script(
        {"match": "That answer", "do": [["write-argv", str(place.tmp / "argv")], ["say", '{"name": "Ada"}']]},
        {"match": "who?", "do": [["say", "no"]]},
        {"match": "slow", "do": [["touch", str(place.tmp / "ready")], ["sleep", 30]]},
    )
    forked = place.run("run", "--tool", "codex", "--fork-from", first, "--schema", SCHEMA, "--json", "who?")
    assert forked.json["output"] == {"name": "Ada"}
    argv = json.loads((place.tmp / "argv").read_text())
    assert argv[argv.index("resume") + 1] == forked.json["provider_session_id"]
    running = place.start("run", "--tool", "codex", "--schema", SCHEMA, "--json", "slow")
    wait_for((place.tmp / "ready").exists, "the agent's beginning")
    running.signal(signal.SIGINT)
    done = running.wait()
    assert (done.code, done.json["status"], done.json["output"]) == (130, "cancelled", None)


@pytest.mark.thorough
def test_a_correction_that_is_cancelled_is_no_success(place: Place) -> None:
    """The first answer does not count, and is kept."""
    ready = place.tmp / "ready"
    place.script(
        {"match": "That answer", "do": [["touch", str(ready)], ["sleep", 30]]},
        {"match": "who?", "do": [["say", "no"]]},
    )
    running = place.start("run", "--tool", "codex", "--schema", SCHEMA, "--json", "who?")
    wait_for(ready.exists, "the second attempt")
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert (done.code, done.json["status"], done.json["output"], done.json["text"]) == (143, "cancelled", None, "no")
