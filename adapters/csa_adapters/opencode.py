"""How csa runs opencode (`opencode-ai`, seen at 1.18.33): with `opencode_bridge`, a program next to this module.

`opencode run` hides its retries and its session's id; the bridge, which explains this, drives opencode's own server
instead, and gets its order as one JSON object on stdin. `opencode_stream` reads its output.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.adapter import Capabilities, Invocation, Login, LoginRequest, Probe, Removal, RemovalRequest, TurnRequest
from csa.model.permission import Permission
from csa_adapters.homes import home_directory, shortened

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment
    from csa_adapters.opencode_compaction import OpencodeCompactionDecoder
    from csa_adapters.opencode_stream import OpencodeDecoder

_Json = dict[str, Any]

BRIDGE = posixpath.join(posixpath.dirname(__file__), "opencode_bridge.py")

_SESSION_ID = re.compile(r"ses_[0-9A-Za-z]{1,80}")
_TITLE_LENGTH = 60
_WILD = re.compile(r"[*?]")  # in its patterns
_DIRECTORIES = (
    ("XDG_DATA_HOME", ".local/share"),
    ("XDG_CONFIG_HOME", ".config"),
    ("XDG_STATE_HOME", ".local/state"),
    ("XDG_CACHE_HOME", ".cache"),
)
# Nobody can answer a question, and the plan tools ask one.
_NO_QUESTIONS = {"question": False, "plan_enter": False, "plan_exit": False}
_NO_WRITING = {"edit": False, "bash": False}
_READING = ("glob", "grep", "list", "lsp", "skill", "task", "todoread", "todowrite", "webfetch", "websearch")
_CSA_SERVER = "csa_*"  # the tools of `csa mcp`, where the user has set that up
_READING_COMMANDS = ("cat", "diff", "echo", "file", "grep", "head", "ls", "pwd", "rg", "stat", "tail", "wc", "which")
_READING_GIT = ("diff", "log", "show", "status")
# Set by an ephemeral run; a nested run must not inherit it, or its conversation would be lost.
_EPHEMERAL = {"OPENCODE_DB": ":memory:", "OPENCODE_DISABLE_PROJECT_CONFIG": "1"}
_EPHEMERAL_MARK = "CSA_OPENCODE_EPHEMERAL"
# How long a command may run if its call has no time limit; the default is two minutes, too short for a sub-agent.
# The turn's own limit comes first, also for a turn that inherits the variable.
_SHELL_LIMIT = "OPENCODE_EXPERIMENTAL_BASH_DEFAULT_TIMEOUT_MS"
_LONGEST_MS = "2147000000"  # 24 days: a timer has at most 31 bits

_CONFIG_HOMES = ("$XDG_CONFIG_HOME/opencode", "~/.config/opencode")
_CONFIG_NAMES = ("opencode.jsonc", "opencode.json")


class OpencodeAdapter:
    """The tool `opencode`."""

    name = "opencode"
    family = "opencode"  # it uses any provider its user chose
    executable = "opencode"
    capabilities = Capabilities(fork=True, extra_writable=True, flags=True, images=True, files=True)
    # The outer server's password: an inner one has its own.
    outer_markers = frozenset(
        {"OPENCODE", "OPENCODE_PID", "AGENT", "OPENCODE_SERVER_PASSWORD", "OPENCODE_SERVER_USERNAME"}
    )
    probe = Probe(
        version_arguments=("--version",),
        login_variables=("OPENCODE_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OPENROUTER_API_KEY"),
        login_files=(
            "$XDG_DATA_HOME/opencode/auth.json",
            "~/.local/share/opencode/auth.json",
            *(f"{home}/{name}" for home in _CONFIG_HOMES for name in ("config.json", *_CONFIG_NAMES)),
            "$OPENCODE_CONFIG",
            *(f"{place}/{name}" for place in (".", "./.opencode") for name in _CONFIG_NAMES),
        ),
        tested="1.18.33",
        install="npm install -g opencode-ai",
        login="run `opencode auth login`",
    )

    def login(self, request: LoginRequest) -> Login:
        """Say whether it would send credentials."""
        from csa_adapters.opencode_login import judge  # noqa: PLC0415  # only choosing a tool, or doctor, needs it

        return judge(request)

    def account(self, environ: Mapping[str, str]) -> str:
        """Return the database: a session of one is unknown in another. Its provider may change from turn to turn."""
        data = _directory(environ, *_DIRECTORIES[0])
        named = environ.get("OPENCODE_DB")
        if not named or named == ":memory:":
            return shortened(data, environ)
        return shortened(posixpath.normpath(posixpath.join(data, named)), environ)

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Return its four directories; it only starts if it can write them all."""
        return tuple(_directory(environ, *each) for each in _DIRECTORIES)

    def removal(self, request: RemovalRequest) -> Removal | None:
        """Have opencode delete the session."""
        session_id = request.provider_session_id
        if not _SESSION_ID.fullmatch(session_id):
            return None
        return Removal(
            argv=(*request.command, "session", "delete", request.provider_session_id) if request.command else ()
        )

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run the turn; UsageError for a session or model that opencode would not accept."""
        return _bridge(request, _order(request))

    def interactive(self, request: TurnRequest) -> Invocation:
        """Open opencode's own interface on the session."""
        session = _order(request)["session"]  # checked
        env = {name: value for name, value in _environment(request).items() if name != "OPENCODE_PERMISSION"}
        model = (f"--model={request.model}",) if request.model else ()
        return Invocation(argv=(*request.command, "--session", session, *model), stdin=b"", env=env)

    def decoder(self, request: TurnRequest) -> OpencodeDecoder:
        """Begin to read a run of `request`."""
        from csa_adapters.opencode_stream import OpencodeDecoder  # noqa: PLC0415  # a run reads when the tool has started

        return OpencodeDecoder(request)

    def compaction(self, request: TurnRequest) -> Invocation:
        """Say how to compact; UsageError as for a turn."""
        return _bridge(request, {**_order(request), "compact": True})

    def compaction_decoder(self, request: TurnRequest) -> OpencodeCompactionDecoder:
        """Begin to read a compaction."""
        from csa_adapters.opencode_compaction import OpencodeCompactionDecoder  # noqa: PLC0415  # few runs compact

        return OpencodeCompactionDecoder(request)


def _bridge(request: TurnRequest, order: _Json) -> Invocation:
    return Invocation(
        argv=(sys.executable, "-I", "-S", BRIDGE, *request.command, *request.flags),
        stdin=json.dumps(order).encode(),
        env=_environment(request),
    )


def permission_rules(request: TurnRequest) -> _Json:
    """Return opencode's `permission` setting for a level; it is merged into the user's own, and the last match wins.

    read-only: no shell at all. opencode does not ask for a command line without a command, so that `> file` is
    executed whatever the rules are, as is `csa ... > file` where `csa *` is allowed (1.18.33).
    edit: reading commands, bare `env` and `csa`. opencode takes a line apart and asks for each command in it, those in
    `$(...)`, pipes and functions too; `X=1 csa` and `env csa` do not match. What else the user allows stays allowed:
    single commands, and everything if an agent's own rules, or a `"*"` at the end, allow it.
    full: the user's own rules; what they ask about is granted.
    """
    if request.permission is Permission.FULL:
        return {}
    if request.permission is Permission.READ_ONLY:
        secrets = {"*": "allow", "*.env": "deny", "*.env.*": "deny", "*.env.example": "allow"}
        allowed = dict.fromkeys((*_READING, _CSA_SERVER), "allow")
        return {"*": "deny", "read": secrets, **allowed, "edit": "deny", "bash": "deny"}
    return {"bash": {"*": "deny", **dict.fromkeys(_commands(request), "allow")}}


def grants(request: TurnRequest) -> _Json:
    """Return what is granted if one of the user's rules asks: asking must not reduce a level.

    `reading`: opencode's names for reading. `commands`: patterns of shell commands. `edits`: of files in the project,
    and with them the tools that the user has added.
    """
    is_edit = request.permission is Permission.EDIT
    return {"reading": ["read", *_READING], "commands": _commands(request) if is_edit else [], "edits": is_edit}


def _commands(request: TurnRequest) -> list[str]:
    reading = [*(f"{name} *" for name in _READING_COMMANDS), *(f"git {name} *" for name in _READING_GIT), "env"]
    return [*reading, *_csa_patterns(request)]


def _csa_patterns(request: TurnRequest) -> list[str]:
    path = shlex.quote(request.csa_command)  # as the agent calls it
    return ["csa *"] if path == "csa" or _WILD.search(path) else ["csa *", f"{path} *"]


def _order(request: TurnRequest) -> _Json:
    """Return the bridge's order. The tools of a prompt replace those of the session's earlier prompts."""
    session, is_full = request.provider_session_id, request.permission is Permission.FULL
    known = request.conversation
    if known is not None and not _SESSION_ID.fullmatch(known):
        raise UsageError(f"'{known}' is not the id of an opencode session (ses_...).")
    denied = _NO_WRITING if request.permission is Permission.READ_ONLY else {}
    return {
        "prompt": _encodable(request.prompt),
        "files": [_file_part(each) for each in request.attachments],
        "title": _title(request),
        "session": session,
        "fork": request.fork_of if session is None else None,
        "system": _encodable(request.system) if request.system else None,
        "model": _model(request.model) if request.model else None,
        "variant": request.effort,
        "tools": {**_NO_QUESTIONS, **denied},
        "approve": is_full,
        "grants": grants(request),
        "writable": list(request.extra_writable),
    }


def _file_part(attachment: Attachment) -> _Json:
    """Write a part of the message that has the content in it: nothing is read when the turn runs."""
    url = f"data:{attachment.media_type};base64,{attachment.base64}"
    return {"type": "file", "mime": attachment.media_type, "filename": attachment.name, "url": url}


def _title(request: TurnRequest) -> str:
    """Name the session, so that it can be found in opencode's own list; its log has the title too."""
    import textwrap  # noqa: PLC0415  # all adapters are loaded for each run; few are opencode's

    words = " ".join(_encodable(request.prompt).split())
    return "csa" if request.ephemeral or not words else textwrap.shorten(words, _TITLE_LENGTH, placeholder="...")


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _model(name: str) -> dict[str, str]:
    provider, _, model = name.partition("/")
    if not provider or not model:
        raise UsageError(
            f"'{name}' names no provider.", hint="opencode's models are named provider/model; see: opencode models"
        )
    return {"providerID": provider, "modelID": model}


def _environment(request: TurnRequest) -> dict[str, str | None]:
    """Return settings for this run only; the user's files are not edited."""
    changes: dict[str, str | None] = {"OPENCODE_DISABLE_AUTOUPDATE": "1"}  # no update may replace the running binary
    if not request.environ.get(_SHELL_LIMIT):
        changes[_SHELL_LIMIT] = _LONGEST_MS
    rules = permission_rules(request)
    if rules:
        changes["OPENCODE_PERMISSION"] = json.dumps(_merged(_object(request.environ.get("OPENCODE_PERMISSION")), rules))
    if request.ephemeral:
        changes |= {**_EPHEMERAL, _EPHEMERAL_MARK: "1"}
    elif request.environ.get(_EPHEMERAL_MARK):
        changes |= dict.fromkeys((*_EPHEMERAL, _EPHEMERAL_MARK))
    return changes


def _object(text: str | None) -> _Json:
    """Return the rules in a variable; opencode itself ignores what is not JSON."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if type(found) is dict else {}


def _merged(users: _Json, ours: _Json) -> _Json:
    """Put our rules after the user's, whose keys keep their places when opencode merges the two."""
    kept = {key: value for key, value in users.items() if key not in ours}
    return {**kept, **ours}


def _directory(environ: Mapping[str, str], variable: str, default: str) -> str:
    return posixpath.join(home_directory(environ, variable, default), "opencode")
