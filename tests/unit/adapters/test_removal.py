"""How each adapter would have its tool's copy of a conversation removed."""

import pytest
from csa_adapters.claude_code import ClaudeCodeAdapter
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter

from csa.model.adapter import Removal, RemovalRequest, Remover

UUID = "01a1f83a-accd-7db1-ada4-435d9ff915d3"
ENVIRON = {"HOME": "/home/me [x]"}


def asked(conversation: str) -> RemovalRequest:
    return RemovalRequest(("tool", "--flag"), conversation, ENVIRON)


@pytest.mark.parametrize(
    ("adapter", "conversation", "expected"),
    [
        (CodexAdapter(), UUID, Removal(argv=("tool", "--flag", "delete", "--force", UUID))),
        (GeminiCliAdapter(), UUID, Removal(argv=("tool", "--flag", "--delete-session", UUID))),
        (OpencodeAdapter(), "ses_1a2B", Removal(argv=("tool", "--flag", "session", "delete", "ses_1a2B"))),
        (
            ClaudeCodeAdapter(),
            UUID,
            Removal(
                files=(
                    f"/home/me [[]x]/.claude/projects/*/{UUID}.jsonl",
                    f"/home/me [[]x]/.claude/projects/*/{UUID}",
                )
            ),
        ),
    ],
    ids=["codex", "gemini-cli", "opencode", "claude-code"],
)
def test_removal(adapter: Remover, conversation: str, expected: Removal) -> None:
    """A command that asks nothing, or the files of exactly this conversation; for what is no id of the tool, none."""
    assert isinstance(adapter, Remover)
    assert adapter.removal(asked(conversation)) == expected
    for other in ("", "*", "../../etc", f"{UUID}*", "--all", f"{UUID}/..", "ses_/../x"):
        assert adapter.removal(asked(other)) is None
