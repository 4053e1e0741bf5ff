"""How an ACP agent is started, and what the bridge is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from csa_adapters.acp import BRIDGE, AcpAdapter
from csa_adapters.asks import ROOT
from csa_adapters.codex import CodexAdapter
from csa_adapters.gemini_cli import GeminiCliAdapter
from csa_adapters.opencode import OpencodeAdapter

from csa.model.adapter import Adapter, Invocation
from csa.model.permission import Permission
from tests.unit.adapters.support import FRESH, make_request

GOOSE: Adapter = AcpAdapter("goose")
GEMINI: Adapter = AcpAdapter("gemini-cli", GeminiCliAdapter())
OPENCODE: Adapter = AcpAdapter("opencode", OpencodeAdapter())


def order(invocation: Invocation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invocation.stdin)
    return found


def test_a_configured_agent() -> None:
    """Its command stands on the bridge's command line, the prompt does not."""
    invocation = GOOSE.invocation(make_request(command=("/bin/goose", "acp"), model="m", effort="high", system="Note."))
    assert invocation.argv == (sys.executable, "-I", "-S", BRIDGE, ROOT, "--", "/bin/goose", "acp")
    assert Path(BRIDGE).is_file()
    assert order(invocation) == {
        "prompt": ["Do it."],
        "attachments": [],
        "system": "Note.",
        "cwd": "/project",
        "session_id": None,
        "permission": "edit",
        "model": "m",
        "effort": "high",
        "ephemeral": False,
        "csa_command": "csa",
        "mcp_servers": [],
        "initialize_s": 60.0,
        "auth_method": None,
    }


def test_a_resume_names_the_session_and_gives_no_system_text() -> None:
    """Agents take one when a session begins; the runner puts a new one before the prompt."""
    asked = order(GOOSE.invocation(make_request(provider_session_id="any id", system="Note.")))
    assert (asked["session_id"], asked["system"]) == ("any id", None)
    assert not GOOSE.capabilities.system_on_resume


@pytest.mark.parametrize("prompt", ["/compact", "  /compact now", "\n/init"])
def test_a_prompt_that_looks_like_a_command_is_none(prompt: str) -> None:
    """Something stands before it, since agents look at the beginning, and the prompt itself is sent as it is."""
    blocks = order(GOOSE.invocation(make_request(prompt=prompt)))["prompt"]
    assert (len(blocks), blocks[-1]) == (2, prompt)
    assert not blocks[0].startswith("/")


def test_variables_of_codex_acp_leave_the_users_alone() -> None:
    """It is told to keep PATH and not to guess prompts, unless its user has said something."""
    config = json.loads(GOOSE.invocation(make_request()).env["CODEX_CONFIG"] or "")
    assert config["allow_login_shell"] is False
    theirs = GOOSE.invocation(make_request(environ={"CODEX_CONFIG": "{}", "CODEX_ACP_PROMPT_SUGGESTIONS": "true"}))
    assert theirs.env == {}


@pytest.mark.parametrize(("adapter", "word"), [(GEMINI, "--acp"), (OPENCODE, "acp")], ids=["gemini-cli", "opencode"])
def test_a_known_tool_is_put_into_its_mode(adapter: Adapter, word: str) -> None:
    """Also where its user configured where it is; and not twice."""
    assert word in adapter.invocation(make_request(command=("/bin/tool", "--flag"))).argv
    assert adapter.invocation(make_request(command=("/bin/tool", word))).argv.count(word) == 1


def test_a_known_tool_keeps_what_its_own_adapter_knows() -> None:
    """Identity, variables, files and permission rules."""
    native = OpencodeAdapter()
    assert (OPENCODE.family, OPENCODE.executable, OPENCODE.outer_markers) == (
        native.family,
        native.executable,
        native.outer_markers,
    )
    environ = {"HOME": "/home/me"}
    assert OPENCODE.account(environ) == native.account(environ)
    assert OPENCODE.homes(environ) == native.homes(environ)
    request = make_request(permission=Permission.READ_ONLY, environ=environ)
    assert (
        OPENCODE.invocation(request).env["OPENCODE_PERMISSION"] == native.invocation(request).env["OPENCODE_PERMISSION"]
    )
    assert order(OPENCODE.invocation(request))["counts"] == "opencode"  # it does not tell a turn's tokens
    assert "counts" not in order(GEMINI.invocation(request))
    assert GEMINI.capabilities.reads == GeminiCliAdapter().capabilities.reads


def test_gemini_gets_its_policy_and_model_on_its_command_line() -> None:
    """The bridge is not told of them; the policy is the file that its own adapter writes."""
    request = make_request(command=("gemini",), model="gemini-x", environ={"HOME": "/home/me"}, run_directory="/run/it")
    invocation = GEMINI.invocation(request)
    assert invocation.argv[-4:] == ("--acp", "--model=gemini-x", "--admin-policy", "/run/it/policy.toml")
    assert "policy.toml" in invocation.files
    assert order(invocation)["model"] is None
    assert invocation.env["GEMINI_CLI_NO_RELAUNCH"] == "true"


def test_gemini_must_not_load_a_session_in_its_first_minute() -> None:
    """The bridge is told which file's being there forbids it; characters that mean something to glob do not."""
    request = make_request(provider_session_id=FRESH, environ={"HOME": "/home/[me]"})
    pattern = order(GEMINI.invocation(request))["not_while"]
    assert pattern == f"/home/[[]me]/.gemini/tmp/*/chats/session-{{minute}}-{FRESH[:8]}.jsonl"
    assert "not_while" not in order(GEMINI.invocation(make_request(environ={"HOME": "/h"})))
    assert "not_while" not in order(GOOSE.invocation(make_request(provider_session_id="x")))


def test_an_agent_csa_does_not_know_must_be_configured() -> None:
    """It has no executable, no home, and no sign of a login; nor has a tool without a mode for the protocol."""
    unknown = AcpAdapter("agentx")
    assert (unknown.executable, unknown.homes({}), unknown.account({})) == ("", (), "acp")
    codex = AcpAdapter("codex", CodexAdapter())
    assert (codex.executable, codex.family) == ("", "openai")


def test_an_agent_that_is_known_by_name() -> None:
    """Its program is put into its mode; a command line of the user's own is taken as it is."""
    assert GOOSE.executable == "goose"
    for given, started in (
        (("/bin/goose",), ("/bin/goose", "acp")),
        (("/bin/goose", "acp", "--with-builtin", "x"), ("/bin/goose", "acp", "--with-builtin", "x")),
        (("my-agent",), ("my-agent",)),
    ):
        argv = GOOSE.invocation(make_request(command=given)).argv
        assert argv[argv.index("--") + 1 :] == started


def test_a_known_agents_variables_leave_the_users_alone() -> None:
    """It does not update itself in the middle of a turn, unless its user says so."""
    auggie: Adapter = AcpAdapter("auggie")
    assert auggie.invocation(make_request()).env["AUGMENT_DISABLE_AUTO_UPDATE"] == "1"
    theirs = auggie.invocation(make_request(environ={"AUGMENT_DISABLE_AUTO_UPDATE": "0"}))
    assert "AUGMENT_DISABLE_AUTO_UPDATE" not in theirs.env
