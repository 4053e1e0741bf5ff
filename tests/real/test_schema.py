"""Structured answers, images and files with the real CLIs: what the provider gets, and what csa makes of the answer."""

import base64
import json

import pytest

from fixtures.mock_provider import Reply, text, tool_call
from tests.real.workplace import Json, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
PERSON: Json = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
NATIVE = {"codex", "claude-code"}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def answering(tool: RealTool, value: Json) -> Reply:
    """Return how a model answers with a value: in text, but claude has a tool for it."""
    is_call = tool.name == "claude-code"
    return tool_call(name="StructuredOutput", arguments=value) if is_call else text(json.dumps(value))


def test_an_answer_conforms(place: Workplace, tool: RealTool) -> None:
    """What does not conform is asked for again, in the same conversation; images and files come as content."""
    first = text("It is Ada, aged 36.") if tool.name != "codex" else text('{"name": "Ada"}')
    place.provider.on("who is it?", first)
    place.provider.on("structured-output-enforce", first)
    place.provider.on("That answer cannot be used", answering(tool, {"name": "Ada", "age": 36}))
    image, note = place.base / "-a, b\n.txt", place.base / "a note.md"
    image.write_bytes(base64.b64decode(PNG))
    note.write_text("The word is mango.")
    words = ["--image", str(image)] + ([] if tool.name == "codex" else ["--file", str(note)])
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **PERSON}
    result = place.run(tool, "who is it?", "--schema", json.dumps(schema), *words)
    assert result["output"] == json.loads(result["text"]) == {"name": "Ada", "age": 36}
    (asked,) = place.asked("That answer cannot be used")
    assert any("who is it?" in said for said in asked.user_texts)
    assert ("JSON Schema" in asked.prompt) is (tool.name not in NATIVE)
    if tool.name == "codex":
        assert asked.body["text"]["format"]["schema"]["required"] == ["name", "age"]
    (started,) = place.events(result["session_id"], "run_started")
    assert started["schema"]["how"] == ("native" if tool.name in NATIVE else "asked")
    shown = place.csa("show", result["session_id"], "--json").json
    assert json.loads(shown[-1]["content"]) == result["output"]
    sent = json.dumps(place.provider.requests[0].body)
    assert (PNG in sent, "mango" in sent) == (True, tool.name != "codex")
