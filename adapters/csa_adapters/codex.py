"""How csa runs the Codex CLI (`@openai/codex`, seen at 0.169.0): `codex exec --json`, the prompt on stdin.

Every flag is there because of something the real CLI did; `codex_stream` reads its output.
"""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.adapter import Capabilities, Invocation, Login, LoginRequest, Probe, Removal, RemovalRequest, TurnRequest
from csa.model.permission import Permission
from csa_adapters.homes import argument, home_directory, is_uuid, shortened

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa_adapters.codex_compaction import CodexCompactionDecoder
    from csa_adapters.codex_stream import CodexDecoder

BRIDGE = posixpath.join(posixpath.dirname(__file__), "codex_bridge.py")

_ANY_WAY = (
    # With this feature an unreachable provider is retried for ever, whatever `stream_max_retries` is.
    "--disable",
    "unbounded_connection_retries",
    # A login shell resets PATH (as root, and if profiles do so), and then the agent does not find `csa`.
    "-c",
    "allow_login_shell=false",
)
_ALWAYS = (
    "--json",
    # Outside a git repository exec refuses to start, and a trusted project does not satisfy it.
    "--skip-git-repo-check",
    *_ANY_WAY,
)
_SCHEMA_FILE = "schema.json"
# Of a schema in strict mode, which codex always asks for; what the vendor has added later is left out.
_STRICT_KEYWORDS = (
    "type properties required additionalProperties items enum const anyOf $ref $defs description title pattern format "
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems"
)
_STRICT_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_MOST_PARTS = 100


class CodexAdapter:
    """The tool `codex`."""

    name = "codex"
    family = "openai"
    executable = "codex"
    capabilities = Capabilities(
        fork=True, system_on_resume=False, extra_writable=True, flags=True, images=True, writes_repository=False
    )
    # CODEX_HOME is configuration and stays; CODEX_SANDBOX_NETWORK_DISABLED is true of every descendant.
    outer_markers = frozenset(
        {
            "CODEX_THREAD_ID",
            "CODEX_SESSION_ID",
            "CODEX_TOOL_CALL_ID",
            "CODEX_CI",
            "CODEX_VERSION",
            "CODEX_MANAGED_BY_NPM",
            "CODEX_MANAGED_PACKAGE_ROOT",
            "CODEX_APPLY_PATCH_PRESERVE_LINE_ENDINGS",
        }
    )
    probe = Probe(
        version_arguments=("--version",),
        login_variables=("CODEX_API_KEY",),
        login_files=(
            "$CODEX_HOME/auth.json",
            "~/.codex/auth.json",
            "$CODEX_HOME/config.toml",
            "~/.codex/config.toml",
        ),
        tested="0.169.0",
        install="npm install -g @openai/codex",
        login="run `codex login`",
    )

    def login(self, request: LoginRequest) -> Login:
        """Say whether it would send credentials."""
        from csa_adapters.codex_login import judge  # noqa: PLC0415  # only choosing a tool, or doctor, needs it

        return judge(request)

    def account(self, environ: Mapping[str, str]) -> str:
        """Return the CODEX_HOME: threads of one home are unknown in another."""
        return shortened(_home(environ), environ)

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the CODEX_HOME; a nested codex that cannot write there does not start."""
        return (_home(environ),)

    def removal(self, request: RemovalRequest) -> Removal | None:
        """Have codex delete the thread; given a UUID it does not prompt."""
        session_id = request.provider_session_id
        if not is_uuid(session_id):
            return None
        return Removal(
            argv=(*request.command, "delete", "--force", request.provider_session_id) if request.command else ()
        )

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the turn; UsageError for an id that codex would silently treat as a new thread's name."""
        return Invocation(
            argv=(
                *request.command,
                "exec",
                *request.flags,
                *_ALWAYS,
                *_permission(request),
                *_options(request),
                *_schema(request),
                *_images(request),
                *_thread(request),
                "-",
            ),
            stdin=request.prompt.encode("utf-8", "replace"),
            files=_schema_file(request),
        )

    def accepts_schema(self, schema: Mapping[str, Any]) -> bool:
        """Take what its provider does: of other schemas the API says that they are invalid."""
        from csa_adapters.schemas import is_strict, keeps_to, subschemas  # noqa: PLC0415  # few turns have one

        parts = list(subschemas(schema))
        formats = {part["format"] for part in parts if "format" in part}
        return (
            keeps_to(schema, _STRICT_KEYWORDS)
            and is_strict(schema)
            and formats <= _STRICT_FORMATS
            and len(parts) <= _MOST_PARTS
            and all("type" in part or "anyOf" in part or "$ref" in part for part in parts)
        )

    def interactive(self, request: TurnRequest) -> Invocation:
        """Open the TUI on the thread, without the daemon that it would leave running."""
        return Invocation(argv=(*request.command, *_thread(request), "--no-daemon", *_options(request)), stdin=b"")

    def decoder(self, request: TurnRequest) -> CodexDecoder:
        """Begin to read a run of `request`."""
        from csa_adapters.codex_stream import CodexDecoder  # noqa: PLC0415  # a run reads when the tool has started

        return CodexDecoder(request)

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact: `codex exec` treats /compact as a message, but codex's app-server can do it."""
        (_, thread) = _thread(request)
        return Invocation(
            argv=(sys.executable, "-I", "-S", BRIDGE, *request.command, "app-server", *_ANY_WAY),
            stdin=json.dumps({"thread": thread, "cwd": request.cwd, "model": request.model}).encode(),
        )

    def compaction_decoder(self, request: TurnRequest) -> CodexCompactionDecoder:
        """Begin to read a compaction."""
        from csa_adapters.codex_compaction import CodexCompactionDecoder  # noqa: PLC0415  # few runs compact

        return CodexCompactionDecoder(request)


def toml_string(text: str) -> str:
    """Write `text` as a TOML basic string: `-c key=value` parses the value, and takes what fails to parse literally."""
    return '"' + "".join(_ESCAPES.get(char, char) for char in text) + '"'


def toml_array(texts: tuple[str, ...]) -> str:
    """Write an array of strings."""
    return "[" + ",".join(map(toml_string, texts)) + "]"


_ESCAPES = {chr(code): f"\\u{code:04X}" for code in (*range(0x20), 0x7F)} | {'"': '\\"', "\\": "\\\\"}


def _home(environ: Mapping[str, str]) -> str:
    return home_directory(environ, "CODEX_HOME", ".codex")


def _thread(request: TurnRequest) -> tuple[str, ...]:
    known = request.conversation
    if known is None:
        return ()
    if not is_uuid(known):
        # `codex exec resume not-a-uuid` begins a new thread and exits 0.
        raise UsageError(f"'{known}' is not the id of a codex thread (a UUID).")
    return ("fork" if request.provider_session_id is None else "resume", known)


def _permission(request: TurnRequest) -> tuple[str, ...]:
    """Choose the sandbox. It is not sticky, so every turn sets it; and it must come before `resume`.

    codex cannot build its sandbox inside its own: every command of a nested one fails (0.169.0). Inside one, `edit`
    therefore uses none: the outer sandbox still confines it. `read-only` does not do that, and fails closed.
    """
    inside = request.sandboxed_by == CodexAdapter.name
    if request.permission is Permission.FULL or (inside and request.permission is Permission.EDIT):
        return ("--dangerously-bypass-approvals-and-sandbox",)
    if request.permission is Permission.READ_ONLY:
        return ("--sandbox", "read-only")
    return ("--sandbox", "workspace-write", *_workspace((*request.writable_dirs, *request.extra_writable)))


def _workspace(writable_dirs: tuple[str, ...]) -> tuple[str, ...]:
    """Allow the network, which nested agents need for their providers, and what a nested csa writes.

    The directories must exist: a file, or a missing path, makes every command of the turn fail.
    """
    network = _setting("sandbox_workspace_write.network_access", "true")
    if not writable_dirs:  # an empty list would undo what the user's own config allows
        return network
    return (*network, *_setting("sandbox_workspace_write.writable_roots", toml_array(writable_dirs)))


def _options(request: TurnRequest) -> tuple[str, ...]:
    chosen: list[str] = []
    if request.model:
        chosen.append(f"--model={argument(request.model, 'model')}")  # in one piece: it may begin with a dash
    if request.effort:
        chosen += _setting("model_reasoning_effort", toml_string(request.effort))
    if request.system:
        # Only effective in a thread's first turn: 0.169.0 keeps the first text on a resume, whatever is given then.
        chosen += _setting("developer_instructions", toml_string(request.system))
    if request.ephemeral:
        # Without the second, --ephemeral still reads AGENTS.md. The one in CODEX_HOME is always read.
        chosen += ("--ephemeral", *_setting("project_doc_max_bytes", "0"))
    return tuple(chosen)


def _schema_file(request: TurnRequest) -> dict[str, str]:
    if request.schema is None:
        return {}
    from csa_adapters.schemas import without_dialect  # noqa: PLC0415  # few turns have one

    return {_SCHEMA_FILE: json.dumps(without_dialect(request.schema))}


def _schema(request: TurnRequest) -> tuple[str, ...]:
    """Name the schema's file; it must come before `resume`, and is not kept."""
    if request.schema is None:
        return ()
    return (f"--output-schema={posixpath.join(request.run_directory, _SCHEMA_FILE)}",)


def _images(request: TurnRequest) -> tuple[str, ...]:
    """Name the images, each in one word: the option takes all words that follow it, and splits them at commas."""
    paths = [each.path for each in request.attachments]
    if any("," in path for path in paths):
        raise UsageError(f"codex splits its list of images at commas, and '{request.run_directory}' contains one.")
    return tuple(f"--image={argument(path, 'path of an image')}" for path in paths)


def _setting(key: str, value: str) -> tuple[str, str]:
    return ("-c", argument(f"{key}={value}", "system text"))
