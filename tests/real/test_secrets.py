"""The provider's key: in the environment, the prompt, what commands print and what the agent says."""

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CODEX, TOOLS, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SECRET = "Quite-Ordinary-Words-8471-Of-No-Shape"


@pytest.mark.parametrize(
    ("tool", "output"),
    [*((tool, "text") for tool in TOOLS), (CODEX, "--json"), (CODEX, "--stream-json")],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_key_is_nowhere_in_the_record(place: Workplace, tool: RealTool, output: str) -> None:
    """No file under the state root and no line on stdout or stderr has the key, while the provider sees the prompt."""
    prompt = f'use the key {SECRET} and {{"nested": "{SECRET}"}}'
    place.provider.on("use the key", tool_call(f"echo key=${tool.key_variable}"), text(f"it is {SECRET}."))
    words = ["run", "--tool", tool.name, "--permission", tool.shell_permissions[-1], prompt]
    done = place.csa(*words, *([] if output == "text" else [output]), env={tool.key_variable: SECRET})
    assert done.code == 0, done.stderr
    assert place.provider.requests[0].prompt == prompt
    assert "[REDACTED]" in place.shown(place.only_session()["id"])
    assert SECRET not in done.stdout + done.stderr
    leaks = [path for path in place.state_root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert leaks == []
