"""How csa runs Claude Code (`@anthropic-ai/claude-code`, seen at 2.1.328): `claude -p`, the prompt on stdin.

Every flag is there because of something the real CLI did; `claude_stream` reads its output.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.adapter import Capabilities, Invocation, Login, LoginRequest, Probe, Removal, RemovalRequest, TurnRequest
from csa.model.permission import Permission
from csa.structs import replace
from csa_adapters.homes import argument, endpoint_name, home_directory, is_uuid, literal, shortened
from csa_adapters.jsonlines import mapping_of, read_object

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment
    from csa_adapters.claude_compaction import ClaudeCompactionDecoder
    from csa_adapters.claude_stream import ClaudeCodeDecoder

# stream-json without --verbose is refused.
_ALWAYS = ("-p", "--output-format", "stream-json", "--verbose")
# Five retries end a dead provider's turn after about 20 s; the CLI's own ten take three minutes, even for a 401.
_MAX_RETRIES = ("CLAUDE_CODE_MAX_RETRIES", "5")

# Limits that end long work, or move it to the background: shell commands after 2 min (at most 10), a run that waits for
# its background agents after 10 min. A nested `csa run` may take as long as the turn.
_SHELL_LIMITS = ("BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_TIMEOUT_MS")
_WAIT_LIMIT = ("CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS",)
_LONGEST_S, _MARGIN_S = 86_400.0, 60.0
_LONGEST_TIMER_MS = 2_147_483_647  # a longer one would fire at once
_SETTINGS = (
    "$CLAUDE_CONFIG_DIR/settings.json",
    "~/.claude/settings.json",
    "./.claude/settings.json",
    "./.claude/settings.local.json",
    "/etc/claude-code/managed-settings.json",
)

CSA_SERVER = "mcp__csa"  # the tools of `csa mcp`, where the user has set that up
_WRITING_TOOLS = ("Edit", "Write", "NotebookEdit")
_READING_TOOLS = ("Read", "Glob", "Grep")
_SCHEMA_KEYWORDS = (
    "type properties required additionalProperties items enum const anyOf oneOf allOf not $ref $defs definitions title "
    "description default pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength "
    "maxLength minItems maxItems uniqueItems minProperties maxProperties"
)
_NOT_IN_RULES = re.compile(r"[(),*\\]")  # they mean something there


class ClaudeCodeAdapter:
    """The tool `claude-code`."""

    name = "claude-code"
    family = "anthropic"
    executable = "claude"
    capabilities = Capabilities(fork=True, extra_writable=True, flags=True, reads=_SETTINGS, images=True, files=True)
    outer_markers = frozenset(
        {
            "CLAUDECODE",
            "AI_AGENT",
            "CLAUDE_CODE_SESSION_ID",
            "CLAUDE_CODE_CHILD_SESSION",
            "CLAUDE_CODE_ENTRYPOINT",
            "CLAUDE_CODE_EXECPATH",
            "CLAUDE_CODE_MESSAGING_SOCKET",
            "CLAUDE_CODE_MESSAGING_TOKEN",
            "CLAUDE_CODE_SESSION_ATTENDED",
            "CLAUDE_CODE_SSE_PORT",
            "CLAUDE_EFFORT",
            "CLAUDE_PID",
        }
    )
    probe = Probe(
        version_arguments=("--version",),
        login_variables=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
        login_files=(
            "$CLAUDE_CONFIG_DIR/.credentials.json",
            "~/.claude/.credentials.json",
            *_SETTINGS,
            "$CLAUDE_CONFIG_DIR/.claude.json",
            "~/.claude.json",
            "~/.aws/credentials",
            "~/.config/gcloud/application_default_credentials.json",
        ),
        tested="2.1.328",
        install="npm install -g @anthropic-ai/claude-code",
        login="run `claude` and enter /login",
    )

    def login(self, request: LoginRequest) -> Login:
        """Say whether it would send credentials."""
        from csa_adapters.claude_login import judge  # noqa: PLC0415  # only choosing a tool, or doctor, needs it

        return judge(request)

    def account(self, environ: Mapping[str, str]) -> str:
        """Return the config directory, and the endpoint if one is set; never its credentials."""
        home = shortened(home_directory(environ, "CLAUDE_CONFIG_DIR", ".claude"), environ)
        endpoint = endpoint_name(environ.get("ANTHROPIC_BASE_URL", ""))
        return f"{home} {endpoint}" if endpoint else home

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the config directory. ~/.claude.json need not be writable, and codex's sandbox accepts no files."""
        return (home_directory(environ, "CLAUDE_CONFIG_DIR", ".claude"),)

    def removal(self, request: RemovalRequest) -> Removal | None:
        """Return the transcript and those of its sub-agents: claude can only purge all conversations of a directory."""
        if not is_uuid(request.provider_session_id):
            return None
        home = literal(home_directory(request.environ, "CLAUDE_CONFIG_DIR", ".claude"))
        kept = f"{home}/projects/*/{request.provider_session_id}"
        return Removal(files=(f"{kept}.jsonl", kept))

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the turn; UsageError for an id that the CLI would search in titles."""
        return Invocation(
            argv=(
                *request.command,
                *request.flags,
                *_ALWAYS,
                *_session(request),
                *_permission(request),
                *_options(request),
                *_schema(request),
                *(("--input-format", "stream-json") if request.attachments else ()),
            ),
            stdin=_stdin(request),
            env=_environment(request),
        )

    def accepts_schema(self, schema: Mapping[str, Any]) -> bool:
        """Take what its validator knows, and its provider as a tool's input; it refuses others."""
        from csa_adapters.schemas import keeps_to  # noqa: PLC0415  # few turns have one

        return keeps_to(schema, _SCHEMA_KEYWORDS)

    def interactive(self, request: TurnRequest) -> Invocation:
        """Open the terminal interface on the session."""
        env = {"DISABLE_AUTOUPDATER": "1"}
        return Invocation(argv=(*request.command, *_session(request), *_options(request)), stdin=b"", env=env)

    def decoder(self, request: TurnRequest) -> ClaudeCodeDecoder:
        """Begin to read a run of `request`."""
        from csa_adapters.claude_stream import ClaudeCodeDecoder  # noqa: PLC0415  # a run reads when the tool has started

        return ClaudeCodeDecoder(request)

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact: a prompt that *is* the command, resumed like any turn."""
        return replace(self.invocation(request), stdin=b"/compact")

    def compaction_decoder(self, request: TurnRequest) -> ClaudeCompactionDecoder:
        """Begin to read a compaction."""
        from csa_adapters.claude_compaction import ClaudeCompactionDecoder  # noqa: PLC0415  # few runs compact

        return ClaudeCompactionDecoder(request)


def _session(request: TurnRequest) -> tuple[str, ...]:
    known = request.conversation
    if known is None:
        return ("--session-id", request.new_provider_id)
    if not is_uuid(known):
        raise UsageError(f"'{known}' is not the id of a claude session (a UUID).")
    if request.provider_session_id is None:
        return ("--resume", known, "--fork-session", "--session-id", request.new_provider_id)
    return ("--resume", known)


def _permission(request: TurnRequest) -> tuple[str, ...]:
    """Choose the mode and the tools; the session does not keep them, so every turn sets them."""
    return _PERMISSIONS[request.permission](request)


def _read_only(request: TurnRequest) -> tuple[str, ...]:
    """Remove the writing tools and deny what would ask. Plan mode would work too, but changes the task."""
    return (
        "--permission-mode",
        "dontAsk",
        *_denying(_WRITING_TOOLS),
        *_allowing(*_READING_TOOLS, *_csa_rules(request)),
    )


def _edit(request: TurnRequest) -> tuple[str, ...]:
    """Accept edits in the project and harmless commands; of other commands only csa's own, and bare `env`."""
    return ("--permission-mode", "acceptEdits", *_allowing(*_csa_rules(request), "Bash(env)"))


def _full(_request: TurnRequest) -> tuple[str, ...]:
    """Skip permissions. As root the CLI does that only if IS_SANDBOX is set, which `_environment` does.

    Rules that allow every tool by name would leave out the user's MCP servers, and Edit on `.git` and `.claude`.
    """
    return ("--dangerously-skip-permissions",)


_PERMISSIONS: dict[Permission, Callable[[TurnRequest], tuple[str, ...]]] = {
    Permission.READ_ONLY: _read_only,
    Permission.EDIT: _edit,
    Permission.FULL: _full,
}


def _csa_rules(request: TurnRequest) -> tuple[str, ...]:
    """Allow csa by its name, and by its path if agents may use that: neither rule covers the other form. And by MCP.

    They work in pipes, lists and quoted heredocs, not for `X=1 csa`, `csa ... &` or in `$(csa ...)` (2.1.328).
    """
    path = shlex.quote(request.csa_command)  # as the agent calls it
    shell = ("Bash(csa:*)",) if path == "csa" or _NOT_IN_RULES.search(path) else ("Bash(csa:*)", f"Bash({path}:*)")
    return (*shell, CSA_SERVER)


def _allowing(*rules: str) -> tuple[str, str]:
    return ("--allowedTools", ",".join(rules))


def _denying(tools: tuple[str, ...]) -> tuple[str, str]:
    return ("--disallowedTools", ",".join(tools))


def _literal(prompt: str) -> str:
    """Keep a prompt from being run as a command: after a space `/compact` is text, and goes to the model.

    `--disable-slash-commands` does not help: known commands then answer that they are not available, with success.
    """
    return f" {prompt}" if prompt.startswith("/") else prompt


def _stdin(request: TurnRequest) -> bytes:
    """Write the prompt: as it is, or as a message with a block for each image and file."""
    prompt = _literal(request.prompt)
    if not request.attachments:
        return prompt.encode("utf-8", "replace")
    content = [{"type": "text", "text": prompt}, *map(_block, request.attachments)]
    return json.dumps({"type": "user", "message": {"role": "user", "content": content}}).encode() + b"\n"


def _block(attachment: Attachment) -> dict[str, Any]:
    if attachment.text is not None:
        source = {"type": "text", "media_type": "text/plain", "data": attachment.text}
    else:
        source = {"type": "base64", "media_type": attachment.media_type, "data": attachment.base64}
    if attachment.is_image:
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, "title": attachment.name}


def _options(request: TurnRequest) -> tuple[str, ...]:
    chosen: list[str] = []
    if request.model:
        chosen.append(f"--model={argument(request.model, 'model')}")
    if request.effort:
        chosen.append(f"--effort={argument(request.effort, 'effort')}")
    if request.system:
        # Without `off` a resume sends the text recorded at the conversation's first request and ignores this one.
        system = argument(f"--append-system-prompt={request.system}", "system text")
        chosen += (system, "--system-prompt-snapshot", "off")
    chosen += (f"--add-dir={argument(path, 'directory')}" for path in request.extra_writable)
    if request.ephemeral:
        chosen += ("--no-session-persistence", "--setting-sources", "user")
    return tuple(chosen)


def _schema(request: TurnRequest) -> tuple[str, ...]:
    if request.schema is None:
        return ()
    from csa_adapters.schemas import without_dialect  # noqa: PLC0415  # few turns have one

    return ("--json-schema", json.dumps(without_dialect(request.schema)))


def _environment(request: TurnRequest) -> dict[str, str | None]:
    changes: dict[str, str | None] = {"DISABLE_AUTOUPDATER": "1"}  # no update may replace the binary during a turn
    variable, value = _MAX_RETRIES
    if not request.environ.get(variable):
        changes[variable] = value
    changes.update(_time_limits(request))
    if request.is_root and request.permission is Permission.FULL:
        changes["IS_SANDBOX"] = "1"  # no other value counts
    if request.ephemeral:
        # The user's settings may contain the login and are kept; no flag that keeps them skips CLAUDE.md.
        changes["CLAUDE_CODE_DISABLE_CLAUDE_MDS"] = "1"
    return changes


def _time_limits(request: TurnRequest) -> dict[str, str]:
    """Set limits longer than the turn's own, in groups of which the user has set none.

    A group is left alone as a whole: a command's maximum must not be less than its default.
    """
    limit_s = _LONGEST_S if request.timeout_s is None else request.timeout_s
    limit_ms = str(min(int((limit_s + _MARGIN_S) * 1000), _LONGEST_TIMER_MS))
    taken = {name for name, value in request.environ.items() if value} | _set_in_settings(request)
    return {name: limit_ms for group in (_SHELL_LIMITS, _WAIT_LIMIT) if not taken.intersection(group) for name in group}


def _set_in_settings(request: TurnRequest) -> set[str]:
    """Return the variables set in the user's settings, which override the environment (2.1.328)."""
    settings = (read_object(content.encode("utf-8", "replace")) or {} for content in request.files.values())
    return {name for found in settings for name in mapping_of(found.get("env"))}
