"""The keys of the configuration, of templates and of plans: their types, defaults and meanings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from csa.errors import ConfigError
from csa.model.duration import parse_duration, parse_on_quota
from csa.model.permission import Permission
from csa.structs import Struct

Kind = Literal[
    "text",
    "words",
    "count",
    "seconds",
    "permission",
    "table",
    "transport",
    "switch",
    "duration",
    "flag",
    "on_quota",
    "code",
    "flag_or_text",
    "encryption",
]
AUTO = "auto"
NATIVE = "native"
TRANSPORTS = (NATIVE, "acp")
SSH, SLURM, HYPERQUEUE, KUBERNETES = "ssh", "slurm", "hyperqueue", "kubernetes"
FINISHED = "finished"
BUNDLE, SHARED, NONE = CODES = ("bundle", "shared", "none")  # how code gets to a host


class Key(Struct):
    """One key: its type, default and meaning; `limits` marks those that a project file may only tighten.

    Less is tighter, 0 being no limit; if `grows`, more is.
    """

    kind: Kind
    default: Any
    meaning: str
    limits: bool = False
    grows: bool = False


KEYS: Mapping[str, Key] = {
    "tool": Key("text", AUTO, "the tool that `csa run` uses; `auto`: the first usable one in tools_order"),
    "tools_order": Key("words", ("codex", "claude-code", "gemini-cli", "opencode"), "the order in which `auto` tries"),
    "permission": Key("permission", "edit", "what agents may do: read-only, edit or full", limits=True),
    "ask": Key("flag", False, "whether agents may ask for what `permission` denies, where their tool can (csa answer)"),
    "ask_timeout_s": Key(
        "seconds", 600.0, "how long an agent waits for an answer, before it is denied; 0: as its turn"
    ),
    "max_depth": Key("count", 5, "how deep sessions nest; a root has depth 0", limits=True),
    "retries": Key("count", 2, "how often csa itself retries a turn after a transient provider error"),
    "fallback": Key("words", (), "the tools that take over, in this order, when the provider fails"),
    "on_quota": Key("on_quota", "fail", "when a quota is used up: fail, wait, or wait=26h (at most that long)"),
    "handoff": Key("switch", "on", "whether a tool gets a summary of turns its conversation does not have: on or off"),
    "shared": Key(
        "switch", "on", "whether several tools may work in one session, or get its history: on or off", limits=True
    ),
    "context_turns": Key("count", 20, "how many turns a handoff covers, at most"),
    "context_tokens": Key("count", 6000, "how many tokens a handoff uses, at most"),
    "context_window": Key("count", 0, "how many earlier turns a turn sends at most, in place of all; 0 is all"),
    "context_window_tokens": Key(
        "count", 0, "how many tokens of earlier turns a turn sends at most; 0: no limit; also `max_context_tokens`"
    ),
    "max_children": Key("count", 0, "how many sessions one session may start; 0 is no limit", limits=True),
    "max_tree_sessions": Key("count", 0, "how many sessions a tree may have; 0 is no limit", limits=True),
    "max_tree_running": Key("count", 0, "how many turns of a tree run at once; 0 is no limit", limits=True),
    "max_running": Key("count", 0, "how many turns run at once on this host; 0 is no limit", limits=True),
    "timeout_s": Key("seconds", 0.0, "time limit of a turn, in seconds; 0 is no limit", limits=True),
    "checkpoint_every_turns": Key("count", 0, "save a checkpoint at the end of every N-th turn; 0 is never"),
    "idle_timeout_s": Key(
        "seconds", 0.0, "end a turn after so many seconds without output or work; 0: never", limits=True
    ),
    "session_ttl": Key("duration", "", "how long new sessions are kept, such as 7d or 12h; empty: no expiry"),
    "session_timeout": Key(
        "duration", "", "--last, --continue and @current continue no session that was idle longer; empty: any"
    ),
    "max_sessions": Key("count", 0, "how many sessions a project may keep; 0 is no limit", limits=True),
    "undo_days": Key("count", 7, "for how many days deleted sessions can be restored", limits=True, grows=True),
    "on_finish": Key("text", "", "a shell command to run after each turn; empty: none"),
    "on_finish_timeout_s": Key("seconds", 0.0, "time limit of that command, in seconds; 0 is no limit"),
    "worktree_setup": Key("text", "", "a shell command that prepares each new worktree; empty: none"),
    "worktree_hooks": Key("flag", False, "run the project's pre-commit hook when csa commits in a worktree"),
    "one_writer": Key("flag", False, "refuse a turn that may edit where another one does", limits=True, grows=True),
    "audit_reads": Key("flag", False, "also record in audit.jsonl who reads a session", limits=True, grows=True),
}
TOOL_KEYS: Mapping[str, Key] = {
    "command": Key("words", (), "how to start the tool: its executable, and arguments"),
    "transport": Key("transport", NATIVE, "how csa talks to the tool: native, or acp (the Agent Client Protocol)"),
    "model": Key("text", "", "the model to ask the tool for"),
    "effort": Key("text", "", "the reasoning effort to ask the tool for"),
    "auth_method": Key("text", "", "the ACP method to authenticate with when the agent asks"),
    "env": Key("table", {}, "variables to set for the tool"),
    "env_drop": Key("words", (), "variables that the tool does not get, as patterns: AWS_*"),
    "max_running": Key("count", 0, "how many turns of the tool run at once on this host; 0 is no limit", limits=True),
}
ENGINE_KEYS: Mapping[str, Key] = {
    "kind": Key("text", SSH, "what reaches the host: ssh; or what finds one: slurm, hyperqueue, kubernetes"),
    "reach": Key("words", (), "what runs a command there, such as kubectl exec -i POD --; empty: ssh NAME"),
    "csa": Key("words", ("csa",), "how to start csa there, if it is not on the PATH of commands"),
    "options": Key(
        "words", (), "what sbatch or hq submit is told of each turn, such as --mem=2G; or kubectl: --namespace=agents"
    ),
    "template": Key("text", "", "kubernetes: a file with what you say of the job: its image, volumes, resources"),
    "host": Key("text", "", "kubernetes: what to call the volume that sessions are on, if it outlives the pods"),
    "linger_s": Key("seconds", 600.0, "kubernetes: how long a pod stays, for csa sync, after a turn of --detach"),
    "queue_s": Key("seconds", 60.0, "an agent that waits for so long in a scheduler's queue runs where its caller is"),
    "leash_s": Key("seconds", 120.0, "a turn there ends when csa run --on is not heard of for so many seconds"),
    "code": Key("code", BUNDLE, "how your code gets there: bundle (a copy of its commits), shared (it is there), none"),
    "directory": Key("text", "", "where agents work there if no code goes along; empty: in the home directory"),
}
COPY_KEYS: Mapping[str, Key] = {
    "to": Key("text", "", "the URL: postgresql://... or redis://...; or env:NAME, a variable that has it"),
}
STORE_KEYS: Mapping[str, Key] = {
    "encrypt": Key("encryption", "off", "finished: the text of sessions that have finished is encrypted; or off"),
    "recipients": Key("words", (), "who can read it: age1..., public keys of SSH, or files with some"),
    "identity": Key("text", "", "your file with the secret key, of age or SSH"),
    "identity_command": Key("words", (), "a command that prints your secret key, as from a keyring"),
}
STORE = "store"
TABLES: Mapping[str, Mapping[str, Key]] = {
    "tools": TOOL_KEYS,
    "engines": ENGINE_KEYS,
    "copies": COPY_KEYS,
    STORE: STORE_KEYS,
}
# Tables that other programs have for where sessions are kept.
STORES = frozenset({STORE, "storage"})
# Other names for keys.
ALIASES = {"max_context_tokens": "context_window_tokens"}
# Keys a project's file may not have: it could set commands; the transport decides how a permission is enforced, and an
# authentication method may open a browser.
NOT_FOR_PROJECTS = (
    *("ask", "ask_timeout_s", "auth_method", "command", "env", "env_drop", "transport"),
    *("on_finish", "on_finish_timeout_s", "worktree_setup", "worktree_hooks"),
)


def unknown_key(origin: str, name: str, known: list[str], *, where: str = "", prefix: str = "") -> ConfigError:
    """Make the error for a key that a source may not have, with the one that may be meant."""
    from csa.nearest import nearest  # noqa: PLC0415  # only a typo pays for it

    close = nearest(name, known)
    meant = f"{prefix}{close[0].upper()}" if prefix and close else f"{where}{close[0]}" if close else ""
    shown = "is not a key" if prefix else f"unknown key '{where}{name}'"
    return ConfigError(
        f"{origin}: {shown}.",
        hint=f"did you mean '{meant}'?" if meant else f"the keys are {', '.join(known)}",
    )


_EXPECTED: Mapping[Kind, str] = {
    "text": "a string",
    "words": "a list of strings",
    "count": "a whole number, 0 or more",
    "seconds": "a number of seconds, 0 or more",
    "permission": "one of read-only, edit, full",
    "table": "a table of strings",
    "transport": "native or acp",
    "encryption": "off or finished",
    "code": "bundle, shared or none",
    "duration": "a time such as 7d, 12h or 30m",
    "flag": "true or false",
    "switch": "on or off",
    "on_quota": "fail, wait, or wait=TIME such as wait=26h",
    "flag_or_text": "true, false or a string",
}


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "permission": tuple(level.value for level in Permission),
    "transport": TRANSPORTS,
    "encryption": ("off", FINISHED),
    "code": CODES,
    "switch": ("on", "off"),
}
_SIMPLE: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "flag_or_text": lambda value: isinstance(value, bool | str),
    "on_quota": lambda value: isinstance(value, str) and parse_on_quota(value) is not None,
    "duration": lambda value: isinstance(value, str) and (not value or parse_duration(value) is not None),
}


def checked(origin: str, name: str, key: Key, value: Any) -> Any:
    """Return the value of a key; ConfigError if it is of the wrong kind."""
    if not _fits(key.kind, value):
        raise ConfigError(f"{origin}: '{name}' must be {_EXPECTED[key.kind]}, not {value!r}.")
    return value


def _fits(kind: Kind, value: Any) -> bool:
    if kind in _SIMPLE:
        return _SIMPLE[kind](value)
    if kind == "words":
        return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
    if kind == "count":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind == "seconds":
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if kind in _CHOICES:
        return isinstance(value, str) and value in _CHOICES[kind]
    return isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())


def parse_text(name: str, kind: Kind, text: str) -> Any:
    """Return the value of a key that is in a variable of the environment; ConfigError if it makes no sense."""
    if kind == "words":
        return tuple(word.strip() for word in text.split(",") if word.strip())
    if kind == "flag" and text in {"true", "false"}:
        return text == "true"
    if kind in {"count", "seconds"}:
        try:
            return int(text) if kind == "count" else float(text)
        except ValueError:
            raise ConfigError(f"{name}: must be {_EXPECTED[kind]}, not '{text}'.") from None
    return text
