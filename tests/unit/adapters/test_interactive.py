"""How each tool's own interface is opened on a conversation."""

from __future__ import annotations

import pytest
from csa_adapters.acp import AcpAdapter
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter

from csa.errors import UsageError
from csa.model.adapter import InteractiveTool
from tests.unit.adapters.support import THREAD, make_request

SESSION = "ses_e43cca77bb8e1140b6c3d9281f"


@pytest.mark.parametrize(
    ("adapter", "conversation", "words"),
    [
        (CodexAdapter(), THREAD, ("resume", THREAD, "--no-daemon")),
        (ClaudeCodeAdapter(), THREAD, ("--resume", THREAD)),
        (GeminiCliAdapter(), THREAD, ("--skip-trust", "--resume", THREAD)),
        (OpencodeAdapter(), SESSION, ("--session", SESSION)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_command_line(adapter: InteractiveTool, conversation: str, words: tuple[str, ...]) -> None:
    """The configured command, and the conversation; nothing that a run without a person needs."""
    assert isinstance(adapter, InteractiveTool)
    request = make_request(provider_session_id=conversation, command=("npx", "tool"))
    assert adapter.interactive(request).argv == ("npx", "tool", *words)
    with pytest.raises(UsageError):
        adapter.interactive(make_request(provider_session_id="not an id"))


def test_an_acp_agent_has_none() -> None:
    """An agent that is spoken to over ACP has no interface of its own that csa knows of."""
    assert not isinstance(AcpAdapter("goose"), InteractiveTool)


def test_opencode_keeps_the_users_own_rules() -> None:
    """A person answers opencode's questions, so csa's rules for a run without one are not set."""
    env = OpencodeAdapter().interactive(make_request(provider_session_id=SESSION)).env
    assert "OPENCODE_PERMISSION" not in env
    assert env["OPENCODE_DISABLE_AUTOUPDATE"] == "1"
