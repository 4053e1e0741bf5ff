"""How csa runs any agent that speaks the Agent Client Protocol: through `acp_bridge`, a program that runs as the tool.

The bridge starts the agent's command, speaks the protocol with it for one turn, and reports what happens as lines that
`acp_stream` reads. So an agent is supervised, timed out, cancelled and swept like any other tool. docs/acp-transport.md
explains how to configure one.

A tool that also has a native adapter keeps what that knows: the account of its conversations, and the variables and
files that it needs and that define its permissions, with either transport.
"""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Mapping

from csa.model.adapter import (
    Adapter,
    Capabilities,
    CompactionDecoder,
    Compactor,
    Invocation,
    Login,
    LoginJudge,
    LoginRequest,
    Probe,
    StderrReader,
    TurnRequest,
)
from csa.structs import replace
from csa_adapters.acp_agents import AGENTS, UNKNOWN
from csa_adapters.asks import ROOT, asks_order
from csa_adapters.homes import literal

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment
    from csa_adapters.acp_stream import AcpDecoder

INITIALIZE_S = 60.0  # an agent that has not answered by then does not speak it
BRIDGE = posixpath.join(posixpath.dirname(__file__), "acp_bridge.py")
# For codex-acp (2.6.0), under any configured name; no other agent reads them. Asked to report failures as such,
# it also predicts the user's next message: one more request. The config is the same that `codex` gets from us.
_CODEX_CONFIG = {"allow_login_shell": False, "features": {"unbounded_connection_retries": False}}
_ENVIRONMENT = {"CODEX_ACP_PROMPT_SUGGESTIONS": "false", "CODEX_CONFIG": json.dumps(_CODEX_CONFIG)}
# A slash command is one at the very beginning only. Before it looks there, codex-acp strips white space.
_LITERAL = "What follows is a message, not a command:"


_POLICY = "policy.toml"
_NO_PROBE = Probe(version_arguments=("--version",), login_variables=(), login_files=())


class AcpAdapter:
    """A tool that csa talks to over the protocol."""

    known = tuple(name for name, agent in AGENTS.items() if agent.program)  # runnable by name, without configuration

    def __init__(self, name: str, native: Adapter | None = None) -> None:
        self.name = name
        self._agent = AGENTS.get(name, UNKNOWN)
        self._native = native
        reads = native.capabilities.reads if native else ()
        self.capabilities = Capabilities(system_on_resume=False, reads=reads, images=True, files=True, asks=True)
        self.family = native.family if native else name
        own = native.executable if native and name in AGENTS else ""
        self.executable = own or self._agent.program  # none: the user must configure it
        self.outer_markers: frozenset[str] = native.outer_markers if native else frozenset()
        self.probe = native.probe if native else _NO_PROBE

    def login(self, request: LoginRequest) -> Login:
        """Judge as the tool's native adapter does; for an unknown agent, nothing is known."""
        native: object = self._native
        if isinstance(native, LoginJudge):
            return native.login(request)
        return Login(None, f"csa does not know where {self.name} keeps it")

    def account(self, environ: Mapping[str, str]) -> str:
        """Return the account from the tool's native adapter; for an unknown agent, nothing is known."""
        return self._native.account(environ) if self._native else "acp"

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the homes from the tool's native adapter."""
        return self._native.homes(environ) if self._native else ()

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to start the bridge. The agent's command is on its command line, the rest comes on its stdin."""
        agent = self._agent
        command = (*request.command, *self._missing_words(request.command))
        if agent.model_flag and request.model:
            command = (*command, f"{agent.model_flag}={request.model}")
        base = self._native_invocation(request)
        more: dict[str, object] = {"counts": agent.counts} if agent.counts else {}
        if request.asks:
            more["asks"] = asks_order(request)
        if agent.policy_flag and _POLICY in base.files:
            command = (*command, agent.policy_flag, posixpath.join(request.run_directory, _POLICY))
        return Invocation(
            argv=(sys.executable, "-I", "-S", BRIDGE, ROOT, "--", *command),
            stdin=json.dumps(
                {**_order(request, agent.settles), **self._attached(request), **self._patience(request), **more}
            ).encode(),
            env={**base.env, **_without(request.environ, {**_ENVIRONMENT, **agent.env}), **agent.forced_env},
            files=base.files,
            links=base.links,
            warnings=base.warnings,
        )

    def _missing_words(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """Return the arguments that select the agent's mode, unless the user has configured a command line."""
        words, program = self._agent.words, self._agent.program
        if program:
            return words if len(command) == 1 and posixpath.basename(command[0]) == program else ()
        return () if any(word in command for word in words) else words

    def decoder(self, request: TurnRequest) -> AcpDecoder:
        """Begin to read a run of `request`."""
        from csa_adapters.acp_stream import AcpDecoder  # noqa: PLC0415  # a run reads when the tool has started

        native = self._native.decoder(request) if self._native else None
        return AcpDecoder(request, native if isinstance(native, StderrReader) else None)

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact: natively if csa can, else with the agent's command, if it has one."""
        if self._compactor is not None:
            command = tuple(word for word in request.command if word not in self._agent.words)
            return self._compactor.compaction(replace(request, command=command))
        base = self.invocation(request)
        return replace(base, stdin=json.dumps({**json.loads(base.stdin), "command": "compact"}).encode())

    def compaction_decoder(self, request: TurnRequest) -> CompactionDecoder:
        """Begin to read a compaction."""
        if self._compactor is not None:
            return self._compactor.compaction_decoder(request)
        from csa_adapters.acp_compaction import AcpCompactionDecoder  # noqa: PLC0415  # few runs compact

        return AcpCompactionDecoder(request)

    @property
    def _compactor(self) -> Compactor | None:
        return self._native if self.name in AGENTS and isinstance(self._native, Compactor) else None

    def _attached(self, request: TurnRequest) -> dict[str, object]:
        """Write the images and files. Beside a resource gemini drops images, so that it gets files as text (0.61.0)."""
        is_plain = self.name == "gemini-cli" and any(each.is_image for each in request.attachments)
        return {"attachments": [_blocks(each, is_plain=is_plain) for each in request.attachments]}

    def _patience(self, request: TurnRequest) -> dict[str, str]:
        """Return the file whose existence forbids loading the session now; `{minute}` is the current one, in UTC.

        gemini opens a file named by the minute before it loads a session. In the minute in which the session began,
        that is the session's own, whose history is then emptied (0.61.0).
        """
        if self.name != "gemini-cli" or request.provider_session_id is None:
            return {}
        homes = map(literal, self.homes(request.environ))
        name = f"session-{{minute}}-{request.provider_session_id[:8]}.jsonl"
        return {"not_while": posixpath.join(*homes, "tmp", "*", "chats", name)}

    def _native_invocation(self, request: TurnRequest) -> Invocation:
        """Return the environment of the native way to run. The agent gets its system text and id from us."""
        if self._native is None:
            return Invocation(argv=(), stdin=b"")
        return self._native.invocation(replace(request, system=None, attachments=()))


def _without(environ: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in defaults.items() if not environ.get(name)}


def _blocks(attachment: Attachment, *, is_plain: bool) -> dict[str, object]:
    """Write an attachment for an agent that takes such content, and as a link, which every agent has to take."""
    from urllib.parse import quote  # noqa: PLC0415  # all adapters are loaded for each run; few turns have some

    uri, kind = f"file://{quote(attachment.path)}", attachment.media_type
    text = attachment.text
    inner = {"blob": attachment.base64} if text is None else {"text": text}
    content = {"type": "resource", "resource": {"uri": uri, "mimeType": kind, **inner}}
    if attachment.is_image:
        content = {"type": "image", "mimeType": kind, "data": attachment.base64}
    if is_plain and text is not None:
        content = {"type": "text", "text": f"{attachment.name}:\n\n{text}"}
    link = {"type": "resource_link", "uri": uri, "name": attachment.name, "mimeType": kind}
    needs = "image" if attachment.is_image else "embeddedContext"
    return {"needs": needs, "content": content, "link": {**link, "size": len(attachment.content)}}


def _order(request: TurnRequest, settled: frozenset[str]) -> dict[str, object]:
    """Write the bridge's order. `prompt` has the text blocks of the prompt, sent as they are."""
    is_command = request.prompt.lstrip().startswith("/")
    return {
        "prompt": [_LITERAL, request.prompt] if is_command else [request.prompt],
        "system": request.system if request.provider_session_id is None else None,
        "cwd": request.cwd,
        "session_id": request.provider_session_id,
        "permission": request.permission.value,
        "model": None if "model" in settled else request.model,
        "effort": None if "effort" in settled else request.effort,
        "ephemeral": request.ephemeral,
        "csa_command": request.csa_command,
        "mcp_servers": [],
        "initialize_s": INITIALIZE_S,
        "auth_method": request.auth_method,
    }
