"""A workplace for the real CLIs, and the tools to go through."""

from collections.abc import Iterator

import pytest

from tests.real.workplace import TOOLS, RealTool, Workplace, open_workplace


@pytest.fixture(params=TOOLS, ids=lambda tool: tool.name)
def tool(request: pytest.FixtureRequest) -> RealTool:
    """Return each tool in turn."""
    found: RealTool = request.param
    return found


@pytest.fixture
def place() -> Iterator[Workplace]:
    """Make a place where csa runs the real CLIs against a provider on this machine."""
    with open_workplace() as found:
        yield found
