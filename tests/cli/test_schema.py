"""Answers that have to conform to a JSON Schema."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_lost_conversations import TOOLS, of_type
from tests.support import Place

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
    assert place.run("validate", done.json["session_id"]).code == 0


def test_an_answer_that_never_conforms_fails_the_turn(place: Place) -> None:
    """The failure is typed, names the first violation, and keeps the answer."""
    place.play(["say", '{"age": 5}'])
    done = place.run("run", "--tool", "codex", "--schema", SCHEMA, "--json", "who?")
    assert (done.code, done.json["output"], done.json["text"]) == (1, None, '{"age": 5}')
    assert done.json["error"]["kind"] == "invalid_output"
    assert (
        done.json["error"]["message"] == "the answer does not conform to the schema: $: 'name' is a required property"
    )
