"""What one run gives a tool: a template's texts, a secret, and the user's own flags."""

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]  # opencode takes long on a busy machine

SECRET = "correct horse battery"
FLAGS = {
    "codex": ("--color", "never", "-c", "hide_agent_reasoning=true"),
    "claude-code": ("--add-dir", "/usr/share"),
    "gemini-cli": ("--include-directories", "/usr/share"),
    "opencode": ("--print-logs", "--log-level", "ERROR"),
}


def test_a_specialist_with_a_secret_and_flags(place: Workplace, tool: RealTool) -> None:
    """The model is told what the template says, its shell has the variable, the tool takes the flags; csa hides it."""
    level = tool.shell_permissions[-1]
    words = ("--tool", tool.name, "--permission", level, "--system", "Be {{manner}}.", "--prompt", "Print {{what}}.")
    assert place.csa("template", "save", "printer", *words, "--opening", "Opening words.").code == 0
    place.provider.on("Print it", tool_call("echo it=$DEPLOY"), text(f"It is {SECRET}."))
    (place.project / "key").write_text(f"{SECRET}\n")
    given = ("--var", "what=it", "--var", "manner=brisk", "--secret", "DEPLOY=file:key", "--quiet", "now")
    done = place.csa("run", "--as", "printer", *given, "--", *FLAGS[tool.name])
    assert (done.code, done.stdout.strip()) == (0, "It is [REDACTED]."), done.stderr
    asked = place.asked("Print it")
    assert "Opening words.\n\nPrint it.\n\nnow" in asked[0].prompt
    assert "Be brisk." in str(asked[0].body)
    assert f"it={SECRET}" in str(asked[-1].body)
    leaks = [path for path in place.state_root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert leaks == []
