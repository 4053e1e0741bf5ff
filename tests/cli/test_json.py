"""JSON is one language: what every command prints is what its schema says, and a failure is an object, too."""

import json

import pytest
from jsonschema import Draft202012Validator

from csa.cli.commands import COMMANDS
from csa.model.schemas.table import OUTPUTS, schema_of
from tests.support import Place
from tests.tour import tour

WITHOUT = {"logs", "open", "completion"}  # logs prints events; the others print nothing that has a shape


@pytest.mark.thorough
def test_every_command_prints_what_its_schema_says(place: Place) -> None:
    """There is a schema for all that the table of commands has, and each is kept."""
    assert tour(place).keys() == OUTPUTS.keys()


def test_every_command_with_json_has_a_schema() -> None:
    """No command takes --json that `csa schema` does not know."""
    takes = {command.name for command in COMMANDS if "--json" in command.parser().format_help()}
    assert takes - WITHOUT <= OUTPUTS.keys()


@pytest.mark.thorough
def test_schemas_are_printed(place: Place) -> None:
    """By any name of the command, with the option that decides; each is a schema that stands alone."""
    first, *others = [place.run("schema", *name).out for name in (["list"], ["session", "list"], ["csa ls"])]
    assert others == [first, first]
    for name in OUTPUTS:
        Draft202012Validator.check_schema(schema_of(name))
    assert json.loads(place.run("schema", "logs").out) == schema_of("event")
    assert json.loads(place.run("schema", "run --dry-run").out) == schema_of("run --dry-run")
    item = json.loads(first)["items"]["properties"]
    assert item["id"]["deprecated"]
    assert "deprecated" not in item["session_id"]
    assert [line.split("  ")[0] for line in place.run("schema").out.splitlines()] == list(OUTPUTS)
    refused = place.run("schema", "lst")
    assert (refused.code, "did you mean 'csa schema list'?" in refused.err) == (3, True)
