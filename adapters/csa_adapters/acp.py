"""How csa runs any agent that speaks the Agent Client Protocol: through `acp_bridge`, a program that runs as the tool.

The bridge starts the agent's command, speaks the protocol with it for one turn, and writes what happens as lines that
`acp_stream` reads. So an agent is supervised, timed out, cancelled and swept like any other tool. docs/acp-transport.md
says how to configure one.
"""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from csa.model.adapter import Adapter, Capabilities, Invocation, Probe, TurnRequest
from csa.model.permission import Permission
from csa_adapters.acp_stream import AcpDecoder

BRIDGE = posixpath.join(posixpath.dirname(__file__), "acp_bridge.py")
# Asked to tell failures as such, codex-acp also guesses what the user will say next: one request more.
_ENVIRONMENT = {"CODEX_ACP_PROMPT_SUGGESTIONS": "false"}
# A slash command is one at the very beginning only. Before it looks there, codex-acp strips white space.
_LITERAL = "What follows is a message, not a command:"


@dataclass(frozen=True, slots=True)
class _Agent:
    """What must be known of a tool that has a mode for the protocol."""

    executable: str
    words: tuple[str, ...]  # that put it into that mode
    model_flag: str | None = None  # for an agent that takes the model only at its start
    env: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[Permission, Mapping[str, str]] = field(default_factory=dict)  # more variables, by level


_AGENTS: Mapping[str, _Agent] = {
    "gemini-cli": _Agent(
        "gemini",
        ("--acp",),
        model_flag="--model",
        # The launcher ignores signals, and headless an untrusted folder is refused (0.61.0).
        env={"GEMINI_CLI_NO_RELAUNCH": "true", "GEMINI_CLI_TRUST_WORKSPACE": "true"},
    ),
    "opencode": _Agent(
        "opencode",
        ("acp",),
        # By itself it allows everything and asks nothing (1.18.33); told to ask, it asks us.
        levels={
            Permission.READ_ONLY: {"OPENCODE_PERMISSION": '{"edit":"ask","bash":"ask","external_directory":"ask"}'},
            Permission.EDIT: {"OPENCODE_PERMISSION": '{"edit":"allow","bash":"ask","external_directory":"ask"}'},
            Permission.FULL: {"OPENCODE_PERMISSION": '{"*":"allow"}'},
        },
    ),
}
_UNKNOWN = _Agent("", ())
_NO_PROBE = Probe(version_arguments=("--version",), login_variables=(), login_files=())


def speaks_acp(name: str) -> bool:
    """Say whether csa knows by itself how to start the tool as an ACP agent."""
    return name in _AGENTS


class AcpAdapter:
    """A tool that is spoken to through the protocol. Whose conversations they are, its own adapter knows, if any."""

    capabilities = Capabilities(choose_id=False, system_on_resume=False)
    transport = "acp"

    def __init__(self, name: str, native: Adapter | None = None) -> None:
        self.name = name
        self._agent = _AGENTS.get(name, _UNKNOWN)
        self._native = native
        self.family = native.family if native else name
        self.executable = self._agent.executable
        self.outer_markers: frozenset[str] = native.outer_markers if native else frozenset()
        self.probe = native.probe if native else _NO_PROBE

    def account(self, environ: Mapping[str, str]) -> str:
        """Name what the tool's own adapter names; of an agent csa does not know, nothing is known."""
        return self._native.account(environ) if self._native else "acp"

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Name the places the tool's own adapter names."""
        return self._native.homes(environ) if self._native else ()

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to start the bridge. The agent's command stands on its command line, the rest comes on its stdin."""
        agent = self._agent
        model = request.model
        command = request.command
        if agent.words and not any(word in command for word in agent.words):
            command = (*command, *agent.words)
        if agent.model_flag and model:
            command, model = (*command, f"{agent.model_flag}={model}"), None
        return Invocation(
            argv=(sys.executable, "-I", BRIDGE, "--", *command),
            stdin=json.dumps(_order(request, model)).encode(),
            env={**self._native_env(request), **_ENVIRONMENT, **agent.env, **agent.levels.get(request.permission, {})},
        )

    def _native_env(self, request: TurnRequest) -> Mapping[str, str | None]:
        """Return what the tool needs in its environment however it is spoken to."""
        return self._native.invocation(request).env if self._native else {}

    def decoder(self, request: TurnRequest) -> AcpDecoder:
        """Begin to read a run of `request`."""
        return AcpDecoder(request)


def _order(request: TurnRequest, model: str | None) -> dict[str, object]:
    """Write what the bridge is to do. `prompt` holds the text blocks of the prompt, sent as they are."""
    is_new = request.provider_session_id is None
    is_command = request.prompt.lstrip().startswith("/")
    return {
        "prompt": [_LITERAL, request.prompt] if is_command else [request.prompt],
        "system": request.system if is_new else None,
        "cwd": request.cwd,
        "session_id": request.provider_session_id,
        "permission": request.permission.value,
        "model": model,
        "effort": request.effort,
        "ephemeral": request.ephemeral,
        "csa_command": request.csa_command,
        "mcp_servers": [],
    }
