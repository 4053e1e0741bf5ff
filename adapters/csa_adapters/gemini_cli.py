"""How csa runs the Gemini CLI (`@google/gemini-cli`, seen at 0.61.0): `gemini -o stream-json`, the prompt on stdin.

Every flag and setting is there because of something the real CLI did; `gemini_stream` reads its output.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from collections.abc import Mapping

from csa.errors import UsageError
from csa.model.adapter import Capabilities, Invocation, Login, LoginRequest, Probe, Removal, RemovalRequest, TurnRequest
from csa.model.permission import Permission
from csa.structs import replace
from csa_adapters.gemini_policy import policy
from csa_adapters.gemini_settings import (
    HOME,
    LOGIN_EVIDENCE,
    NOTE,
    OUTER_HOME,
    OUTER_SETTINGS_PATH,
    PRIVATE,
    READS,
    SETTINGS_PATH,
    home_links,
    is_overruled,
    keeps_conversations,
    login_copies,
    original_home,
    original_settings_path,
    private_settings,
    protected,
    relative_note,
    system_settings,
)
from csa_adapters.homes import argument, endpoint_name, home_directory, is_uuid, literal, shortened

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa_adapters.gemini_compaction import GeminiCompactionDecoder
    from csa_adapters.gemini_stream import GeminiDecoder

BRIDGE = posixpath.join(posixpath.dirname(__file__), "gemini_bridge.py")

_UNSAFE = re.compile(r"[^A-Za-z0-9_./-]")  # in a path after `@`, as far as it has a meaning there

_DEBUG_LOG = "debug.log"  # deleted with the turn: it may contain anything

# An untrusted directory ends a run without a terminal with exit 55.
_ALWAYS = ("--skip-trust", "--output-format", "stream-json")
_MODES = {Permission.READ_ONLY: "default", Permission.EDIT: "auto_edit", Permission.FULL: "yolo"}
_FORGETS = (
    "The project's settings say which conversations gemini-cli deletes: its clean-up may take some that are resumed "
    "later. To prevent that, set general.sessionRetention.enabled to false in .gemini/settings.json."
)
_CLEANS_UP = (
    "gemini-cli's clean-up may delete conversations while its interface is open. To prevent that, set "
    "general.sessionRetention.enabled to false in ~/.gemini/settings.json."
)


class GeminiCliAdapter:
    """The tool `gemini-cli`."""

    name = "gemini-cli"
    family = "google"
    executable = "gemini"
    capabilities = Capabilities(reads=READS, extra_writable=True, flags=True, images=True, files=True)
    outer_markers = frozenset({"GEMINI_CLI", "GEMINI_CLI_NO_RELAUNCH", "GEMINI_CLI_TRUST_WORKSPACE", "GEMINI_PTY_INFO"})
    probe = Probe(
        version_arguments=("--version",),
        login_variables=("GEMINI_API_KEY",),
        login_files=LOGIN_EVIDENCE,
        tested="0.61.0",
        install="npm install -g @google/gemini-cli",
        login="run `gemini` once and log in",
    )

    def login(self, request: LoginRequest) -> Login:
        """Say whether it would send credentials."""
        from csa_adapters.gemini_login import judge  # noqa: PLC0415  # only choosing a tool, or doctor, needs it

        return judge(request)

    def account(self, environ: Mapping[str, str]) -> str:
        """Return the home, and the endpoint if one is set; never its credentials."""
        home = shortened(_home(environ), environ)
        endpoint = endpoint_name(environ.get("GOOGLE_GEMINI_BASE_URL", ""))
        return f"{home} {endpoint}" if endpoint else home

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return the directory of settings and conversations."""
        return (_home(environ),)

    def removal(self, request: RemovalRequest) -> Removal | None:
        """Have gemini delete the conversation, in the directory where it began."""
        session_id = request.provider_session_id
        if not is_uuid(session_id):
            return None
        return Removal(
            argv=(*request.command, "--delete-session", request.provider_session_id) if request.command else ()
        )

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the turn; UsageError for an id that gemini would treat as an index, or impossible settings."""
        argv = (
            *request.command,
            *request.flags,
            *_ALWAYS,
            *_session(request),
            *_permission(request),
            *_options(request),
        )
        files = {} if request.permission is Permission.FULL else {"policy.toml": _policy(request)}
        if request.ephemeral:
            return _ephemeral(request, argv, files)
        if request.run_directory_is_roots:
            return _with_settings(request, argv, files)
        return _in_a_home_of_its_own(request, argv, files)

    def interactive(self, request: TurnRequest) -> Invocation:
        """Open the terminal interface on the conversation, with only the user's settings."""
        return Invocation(
            argv=(*request.command, "--skip-trust", *_session(request), *_options(request)),
            stdin=b"",
            env={**_environment(request), "GITHUB_SHA": None, "SURFACE": None},
            warnings=() if keeps_conversations(request) else (_CLEANS_UP,),
        )

    def decoder(self, request: TurnRequest) -> GeminiDecoder:
        """Begin to read a run of `request`."""
        from csa_adapters.gemini_stream import GeminiDecoder  # noqa: PLC0415  # a run reads when the tool has started

        return GeminiDecoder(request)

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact: in its terminal interface, the only place where `/compress` is a command."""
        base = self.invocation(replace(request, permission=Permission.FULL, system=None, ephemeral=False))
        words = ("--skip-trust", *_session(request), "--approval-mode", "default", *_options(request))
        home = literal(_home(request.environ))
        chats = posixpath.join(home, "tmp", "*", "chats", f"session-*-{(request.provider_session_id or '')[:8]}.jsonl")
        log = posixpath.join(request.run_directory, _DEBUG_LOG)
        order = {"session": request.provider_session_id, "chats": chats, "log": log}
        return replace(
            base,
            argv=(sys.executable, "-I", BRIDGE, "--", *request.command, *words),
            stdin=json.dumps(order).encode(),
            env={**base.env, "GEMINI_DEBUG_LOG_FILE": log},
            files={**base.files, _DEBUG_LOG: ""},
        )

    def compaction_decoder(self, request: TurnRequest) -> GeminiCompactionDecoder:
        """Begin to read a compaction."""
        from csa_adapters.gemini_compaction import GeminiCompactionDecoder  # noqa: PLC0415  # few runs compact

        return GeminiCompactionDecoder(request)


def _home(environ: Mapping[str, str]) -> str:
    own = original_home(environ)
    return posixpath.join(home_directory({**environ, HOME: own or ""}, HOME, ""), ".gemini")


def _session(request: TurnRequest) -> tuple[str, str]:
    """Name the session. Its file is named by the first eight characters, so these must differ: UUIDv4."""
    if request.provider_session_id is None:
        return ("--session-id", request.new_provider_id)
    if not is_uuid(request.provider_session_id):
        raise UsageError(f"'{request.provider_session_id}' is not the id of a gemini session (a UUID).")
    return ("--resume", request.provider_session_id)


def _permission(request: TurnRequest) -> tuple[str, ...]:
    """Choose the mode, and the rules above it. The session does not keep them, so every turn sets them.

    `--policy` would replace the user's own policies; administrators' are added to, and go before the user's.
    """
    mode = ("--approval-mode", _MODES[request.permission])
    if request.permission is Permission.FULL:
        return mode
    return (*mode, "--admin-policy", posixpath.join(request.run_directory, "policy.toml"))


def _policy(request: TurnRequest) -> str:
    return policy(request.permission, request.csa_command)


def _options(request: TurnRequest) -> tuple[str, ...]:
    chosen = [f"--model={argument(request.model, 'model')}"] if request.model else []
    copies = sorted({posixpath.dirname(each.path) for each in request.attachments})  # it reads nothing from elsewhere
    for path in (*request.extra_writable, *copies):
        if "," in path:
            raise UsageError(f"gemini-cli splits its list of directories at commas, and '{path}' contains one.")
        chosen.append(f"--include-directories={argument(path, 'directory')}")
    return tuple(chosen)


def _prompt(request: TurnRequest, text: str) -> bytes:
    """Keep a prompt from being run as a command: after a space `/compress` is text, and goes to the model.

    Images and files are named after it, for gemini to read them.
    """
    named = [f"@{_UNSAFE.sub(_escaped, each.path)}" for each in request.attachments]
    text = "\n\n".join([text, " ".join(named)] if named else [text])
    return (f" {text}" if text.startswith("/") else text).encode("utf-8", "replace")


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"


def _environment(request: TurnRequest) -> dict[str, str | None]:
    """Run one process: the launcher ignores signals and leaves its child behind.

    A home set by an outer run of csa is reset.
    """
    changes: dict[str, str | None] = {"GEMINI_CLI_NO_RELAUNCH": "true"}
    if OUTER_HOME in request.environ:
        changes |= {HOME: original_home(request.environ), OUTER_HOME: None}
    return changes


def _with_settings(request: TurnRequest, argv: tuple[str, ...], files: dict[str, str]) -> Invocation:
    """Pass the settings as a system file, and the system text as one more global context file."""
    note = None
    if request.system:
        note = relative_note(_home(request.environ), request.run_directory)
        files[NOTE] = protected(request.system)
    files["settings.json"] = system_settings(request, note)
    env = {
        **_environment(request),
        SETTINGS_PATH: posixpath.join(request.run_directory, "settings.json"),
        OUTER_SETTINGS_PATH: original_settings_path(request.environ),
    }
    return Invocation(argv=argv, stdin=_prompt(request, request.prompt), env=env, files=files)


def _in_a_home_of_its_own(request: TurnRequest, argv: tuple[str, ...], files: dict[str, str]) -> Invocation:
    """Pass the settings as user settings, in a home that otherwise mirrors the user's: only system settings need root.

    The project's settings override the user's. If they name the context files, the system text goes before the
    prompt; if they override models, an effort is refused.
    """
    if request.effort and is_overruled(request, "modelConfigs", "customOverrides"):
        raise UsageError(
            "The effort of gemini-cli cannot be set: the project's settings override models.",
            hint="see modelConfigs.customOverrides in .gemini/settings.json",
        )
    prompt, note = request.prompt, None
    if request.system and is_overruled(request, "context", "fileName"):
        prompt = f"{request.system}\n\n{prompt}"
    elif request.system:
        note = _private_note(request, files)
    files[f"{PRIVATE}/.gemini/settings.json"] = private_settings(request, note)
    return Invocation(
        argv=argv,
        stdin=_prompt(request, prompt),
        env=_private_environment(request),
        files=files,
        links=home_links(request, _home(request.environ)),
        warnings=(_FORGETS,) if is_overruled(request, "general", "sessionRetention", "enabled") else (),
    )


def _private_note(request: TurnRequest, files: dict[str, str]) -> str:
    """Write the system text, and return its path as seen from the `.gemini` of the run's home."""
    files[NOTE] = protected(request.system or "")
    return posixpath.join("..", "..", NOTE)


def _private_environment(request: TurnRequest) -> dict[str, str | None]:
    """Point gemini to the run's home. Variables that make it strip the agent's shell, as on GitHub, are removed."""
    env = {
        **_environment(request),
        HOME: posixpath.join(request.run_directory, PRIVATE),
        OUTER_HOME: original_home(request.environ) or "",
        "GITHUB_SHA": None,
        "SURFACE": None,
    }
    if OUTER_SETTINGS_PATH in request.environ:
        env |= {SETTINGS_PATH: original_settings_path(request.environ) or None, OUTER_SETTINGS_PATH: None}
    return env


def _ephemeral(request: TurnRequest, argv: tuple[str, ...], files: dict[str, str]) -> Invocation:
    """Run in a home that is deleted with the turn, with the user's login: gemini always writes a conversation.

    A project's GEMINI.md is still read: no setting of 0.61.0 prevents it.
    """
    below = f"{PRIVATE}/.gemini"
    note = _private_note(request, files) if request.system else None
    files |= {f"{below}/{name}": content for name, content in login_copies(request).items()}
    files[f"{below}/settings.json"] = private_settings(request, note)
    # Its error reports contain the prompt.
    env = {**_private_environment(request), "TMPDIR": request.run_directory}
    return Invocation(argv=argv, stdin=_prompt(request, request.prompt), env=env, files=files)
