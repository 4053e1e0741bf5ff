"""The adapters have the shape csa asks for, and stay light and pure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter

from csa.model.adapter import Adapter

ADAPTERS: list[Adapter] = [CodexAdapter(), ClaudeCodeAdapter(), GeminiCliAdapter(), OpencodeAdapter()]
_CODEX: type[Adapter] = CodexAdapter  # for mypy
_CLAUDE: type[Adapter] = ClaudeCodeAdapter
_GEMINI: type[Adapter] = GeminiCliAdapter
_OPENCODE: type[Adapter] = OpencodeAdapter
ROOT = Path(__file__).parents[3]
LIGHT = """
import sys
sys.path[:0] = {path!r}
before = set(sys.modules)
import csa_adapters.{module}
heavy = {{"asyncio", "subprocess", "socket", "typing_extensions", "uuid", "tomllib", "anyio", "random"}}
print(sorted(heavy & (set(sys.modules) - before)))
"""


@pytest.mark.parametrize(
    ("adapter", "name", "family", "executable"),
    [
        (ADAPTERS[0], "codex", "openai", "codex"),
        (ADAPTERS[1], "claude-code", "anthropic", "claude"),
        (ADAPTERS[2], "gemini-cli", "google", "gemini"),
        (ADAPTERS[3], "opencode", "opencode", "opencode"),
    ],
)
def test_identity(adapter: Adapter, name: str, family: str, executable: str) -> None:
    """What the registry and the choice of a tool rest on."""
    assert (adapter.name, adapter.family, adapter.executable) == (name, family, executable)
    assert adapter.capabilities.system_on_resume is (name != "codex")
    assert adapter.probe.version_arguments == ("--version",)
    assert adapter.probe.login_variables
    assert adapter.probe.login_files


@pytest.mark.parametrize("module", ["codex", "claude_code", "gemini_cli", "opencode"])
def test_importing_an_adapter_is_cheap(module: str) -> None:
    """Hot commands list sessions of every tool; an adapter must not bring processes, sockets or an event loop."""
    script = LIGHT.format(path=[str(ROOT), str(ROOT / "adapters")], module=module)
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
