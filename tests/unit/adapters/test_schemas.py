"""Which schemas are handed to a tool, and how its answer is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter

from tests.unit.adapters.support import has_flags, judge, make_request, only, recordings

Json = dict[str, Any]
STRICT: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {"name": {"type": "string"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["name", "next"],
    "additionalProperties": False,
}
LOOSE: Json = {"type": "object", "properties": {"name": {"type": "string", "minLength": 1}}}


@pytest.mark.parametrize(
    ("schema", "codex", "claude"),
    [
        (STRICT, True, True),
        (LOOSE, False, True),
        ({**STRICT, "required": ["name"]}, False, True),
        ({**STRICT, "additionalProperties": True}, False, True),
        ({**STRICT, "properties": {"name": {"type": ["object", "null"]}, "next": {"type": "null"}}}, False, True),
        (
            {**STRICT, "properties": {"name": {"type": "string", "format": "uri"}, "next": {"type": "null"}}},
            False,
            True,
        ),
        ({**STRICT, "properties": {"name": {}, "next": {"type": "null"}}}, False, True),
        ({"type": "array", "items": STRICT}, False, False),
        ({"anyOf": [STRICT]}, False, False),
        ({**STRICT, "oneOf": [STRICT]}, False, False),
        ({**STRICT, "x-mine": 1}, False, False),
        ({**LOOSE, "unevaluatedProperties": False}, False, False),
        ({**LOOSE, "properties": {"a name": {"type": "string"}}}, False, False),
        ({**LOOSE, "properties": {"name": {"pattern": "(?P<a>x)"}}}, False, False),
        ({}, False, False),
    ],
)
def test_only_what_a_tool_certainly_takes_is_handed_to_it(schema: Json, codex: bool, claude: bool) -> None:  # noqa: FBT001
    """codex's provider takes strict schemas alone, claude's validator no keyword that it does not know."""
    assert CodexAdapter().accepts_schema(schema) is codex
    assert ClaudeCodeAdapter().accepts_schema(schema) is claude


def test_a_schema_is_handed_over() -> None:
    """To codex as a file, before `resume`; to claude as a word; without `$schema`."""
    request = make_request(
        schema=STRICT, run_directory="/run", provider_session_id="01a1f83a-accd-4db1-ada4-435d9ff915d3"
    )
    known = {name: value for name, value in STRICT.items() if name != "$schema"}
    codex = CodexAdapter().invocation(request)
    assert codex.argv.index("--output-schema=/run/schema.json") < codex.argv.index("resume")
    assert json.loads(codex.files["schema.json"]) == known
    claude = ClaudeCodeAdapter().invocation(request)
    assert has_flags(claude.argv, "--json-schema", json.dumps(known))


def test_claudes_answer_is_what_it_calls_its_tool_with() -> None:
    """It is a message, not a call; what its validator refuses is a retry, and in the end the failure."""
    adapter = ClaudeCodeAdapter()
    updates, outcome = judge(
        adapter.decoder(make_request(schema=LOOSE, new_provider_id=_ID)), recordings("claude-code")["structured"]
    )
    assert (outcome.succeeded, json.loads(outcome.text)) == (True, {"name": "Ada"})
    assert [json.loads(said["text"]) for said in only(updates, "agent_message")] == [{"name": "Ada"}]
    assert only(updates, "tool_call") == only(updates, "tool_call_update") == only(updates, "other") == []
    never = recordings("claude-code")["structured-never"]
    updates, outcome = judge(adapter.decoder(make_request(schema=LOOSE, new_provider_id=_ID)), never)
    assert (outcome.error_kind, json.loads(outcome.text)) == ("invalid_output", {"name": 5})
    assert len(only(updates, "retry")) == 5


_ID = "5b0c2a54-6a2e-4b34-9a53-0d1f4f6f7a11"
