"""`csa tools`: what is said of each tool."""

from __future__ import annotations

import pytest

from tests.cli.terminal import Terminal
from tests.support import Json, Place


@pytest.mark.thorough
def test_what_is_known_of_the_tools(place: Place) -> None:
    """Each tool has its version, whether it is logged in, and its model; one that hangs or is missing says so."""
    hangs = place.tmp / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    config = place.project / "csa.toml"
    config.write_text(
        f'[tools.codex]\nmodel = "gpt-x"\n[tools.gemini-cli]\ncommand = ["{hangs}"]\n'
        '[tools.opencode]\ncommand = ["/no/such"]\n'
    )
    env: dict[str, str | None] = {"CSA_CONFIG": str(config), "OPENAI_API_KEY": None, "CODEX_API_KEY": "sk-of-codex"}
    found: list[Json] = place.run("tools", "--json", "--timeout", "1", env=env).json
    tools = {each["tool"]: each for each in found}
    codex, gemini, opencode = tools["codex"], tools["gemini-cli"], tools["opencode"]
    assert (codex["installed"], codex["logged_in"], codex["model"], codex["is_default"]) == (True, True, "gpt-x", True)
    assert codex["version"]
    assert (gemini["installed"], gemini["version"]) == (True, None)
    assert "1 s" in gemini["problem"]
    assert (opencode["installed"], opencode["logged_in"], opencode["command"]) == (False, None, [])
    assert place.run("tools", "--timeout", "0").code == 2
    with Terminal(place, "tools", "--timeout", "1", env=env, size=(60, 24)) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].split() == ["TOOL", "VERSION", "LOGIN", "MODEL", "COMMAND"]
    assert next(line.split() for line in lines if line.startswith("codex"))[1:2] == ["*"]
    assert any("not installed" in line for line in lines if line.startswith("opencode"))
