"""JSON is one language: what every command prints is what its schema says, and a failure is an object, too."""

import pytest

from csa.cli.commands import COMMANDS
from csa.model.schemas.table import OUTPUTS
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
