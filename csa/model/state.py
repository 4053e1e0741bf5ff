"""A session's metadata: state.toml as values. Pure: parsing and rendering of mappings, no files.

Records of other implementations of the format have only `meta_session_id`, `description`, `project_path`,
`created_at`, `last_accessed`, `[genealogy]`, `[context_status]` and `[tools.*]`; the rest has defaults. Times may be
TOML dates or strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from csa.ids import is_session_id, milliseconds_of
from csa.model.limits import COUNTS, Budget, ContextWindow, Limits, Spent
from csa.model.recordkeys import (
    NewerSchemaFault,
    RecordFault,
    amount_in,
    amounts_of,
    count_of,
    ids_in,
    is_table,
    optional,
    optional_id,
    path_in,
    paths_in,
    required,
    table_of,
    values_in,
)
from csa.model.usage import Usage, counted
from csa.model.worktree import Refused, Task, Worktree, render_task, render_worktree, words_of
from csa.structs import Struct, field, fields, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from csa.model.recordkeys import Kinds

    _T = TypeVar("_T")

SCHEMA = 1
SEALED_SCHEMA = 2  # of a session that is encrypted, so that a csa that cannot open it leaves it alone
_NO_LIMITS, _NO_BUDGET, _NO_WINDOW = Limits(), Budget(), ContextWindow()
_OF_USAGE = frozenset(fields(Usage))
_UNKNOWN = counted(None)  # what the turns of another implementation have used


class ToolState(Struct, kw_only=True):
    """`[tools.<name>]`: the tool's own conversation, and how its last turn ended."""

    provider_session_id: str | None = None
    cwd: str | None = None
    account: str | None = None
    model: str | None = None  # asked for by an option or the configuration; None: the tool's own
    effort: str | None = None
    last_action_summary: str | None = ""  # None: another implementation has not said
    last_exit_code: int | None = None
    updated_at: datetime | None = None
    totals: Mapping[str, float] | None = None


class SessionState(Struct, kw_only=True):
    """state.toml. `depth` 0 and no parent: a root."""

    session_id: str
    project_path: str
    created_at: datetime
    last_accessed: datetime
    description: str = ""
    name: str | None = None
    owner: str | None = None
    branch: str | None = None
    permission: str | None = None  # of the last turn: the highest a child may have
    ask: bool | None = None  # whether its agents may ask for what is denied; None is as configured
    shared: bool | None = None  # whether several tools may work in it; None is as configured
    extra_writable: tuple[str, ...] = ()  # directories besides its own that its agent may write at `edit`
    ephemeral: bool = False
    pinned: bool = False  # never cleaned up
    expires_at: datetime | None = None
    closed_at: datetime | None = None  # continued only with --reopen
    phase: str = "active"  # other implementations know more
    retired_at: datetime | None = None
    retired_phase: str | None = None  # the phase before it was deleted
    turns: int = 0
    turn_count: int | None = None  # the same, as counted by another implementation
    parent_session_id: str | None = None
    parent_project: str | None = None  # the parent's project, if that is another one
    parent_host: str | None = None  # the host that has the parent's record, if that is another one
    above: tuple[str, ...] = ()  # its ancestors on other hosts, its parent first; whose records are not here
    root_session_id: str | None = None
    fork_of: str | None = None  # the session whose conversation it began with
    merged_from: tuple[str, ...] = ()  # the sessions whose histories it began with
    depth: int = 0
    max_depth: int | None = None  # the limit when it was created; applies to its children
    is_compacted: bool = False  # at some time; the conversation continues from a summary
    last_compacted_at: str | None = None  # a string, as in other implementations
    limits: Limits = _NO_LIMITS  # those of its last turn; they apply to its children
    budget: Budget = _NO_BUDGET  # of the session and everything below it
    window: ContextWindow = _NO_WINDOW
    worktree: Worktree | None = None  # its own, not one that it merely works in
    task: Task | None = None  # of the plan that its parent runs
    tools: Mapping[str, ToolState] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)  # of all turns and compactions that have ended
    duration_s: float = 0.0  # of all turns; kept in [usage]
    schema: int | None = None  # None: another implementation wrote it
    sealed_at: datetime | None = None  # since when its text is encrypted
    sealed_seq: int | None = None  # the last event that is

    @property
    def spent(self) -> Spent:
        """The usage of its finished turns."""
        return Spent(self.usage, self.duration_s)

    def having_spent(self, more: Spent) -> SessionState:
        """Return it with a turn's or a compaction's usage added."""
        whole = self.spent + more
        return replace(self, usage=whole.usage, duration_s=whole.time_s)

    @property
    def last_tool(self) -> str | None:
        """The tool of the last turn: the one updated last, in file order if there are no times."""
        oldest = datetime.min.replace(tzinfo=UTC)
        names = list(self.tools)
        if not names:
            return None
        return max(names, key=lambda name: (self.tools[name].updated_at or oldest, names.index(name)))


def parse_state(record: Mapping[str, Any]) -> SessionState:
    """Read the mapping of a state.toml; RecordFault names the invalid key."""
    schema = optional(record, "schema", int)
    if schema is not None and schema > SEALED_SCHEMA:
        words = f"version {schema} was written by a newer csa (this one reads {SEALED_SCHEMA})"
        raise NewerSchemaFault("schema", words)
    session_id = required(record, "meta_session_id", str)
    if not is_session_id(session_id):
        raise RecordFault("meta_session_id", f"'{session_id}' is not a ULID")
    required(record, "project_path", str)
    given = values_in(record, _RECORD)
    given |= values_in(table_of(record, "genealogy"), _GENEALOGY)
    given |= values_in(table_of(record, "context_status"), _CONTEXT)
    given["session_id"] = session_id
    if "created_at" not in given:
        given["created_at"] = _time_of(session_id)
    given.setdefault("last_accessed", given["created_at"])
    given["turns"] = max(given.get("turns", 0), given.get("turn_count", 0))
    if other := given.pop("fork_of_session_id", None):
        given.setdefault("fork_of", other)
    given["window"] = _parse_window(table_of(record, "context_window"))
    usage = table_of(record, "usage")
    given["usage"] = _parse_usage(usage) if usage or schema is not None else _strange_usage(record)
    given["duration_s"] = float(amount_in(usage, "usage", "duration_s", (int, float)))
    return SessionState(**given)  # with keywords beside these it would take three times as long


def render_state(state: SessionState) -> dict[str, Any]:
    """Return the keys csa writes, tables nested; None stands for an absent key."""
    return {
        "schema": SEALED_SCHEMA if state.sealed_at else SCHEMA,
        "sealed_at": state.sealed_at,
        "sealed_seq": state.sealed_seq,
        "meta_session_id": state.session_id,
        "description": state.description,
        "project_path": state.project_path,
        "created_at": state.created_at,
        "last_accessed": state.last_accessed,
        "name": state.name,
        "owner": state.owner,
        "branch": state.branch,
        "permission": state.permission,
        "ask": state.ask,
        "shared": state.shared,
        "extra_writable": list(state.extra_writable) or None,
        "ephemeral": state.ephemeral or None,
        "pinned": state.pinned or None,
        "expires_at": state.expires_at,
        "closed_at": state.closed_at,
        "phase": state.phase,
        "retired_at": state.retired_at,
        "retired_phase": state.retired_phase,
        "turns": state.turns,
        "turn_count": None if state.turn_count is None else state.turns,
        "genealogy": {
            "parent_session_id": state.parent_session_id,
            "parent_project": state.parent_project,
            "parent_host": state.parent_host,
            "above": list(state.above) or None,
            "root_session_id": state.root_session_id,
            "fork_of": state.fork_of,
            "merged_from": list(state.merged_from) or None,
            "depth": state.depth,
            "max_depth": state.max_depth,
        },
        "context_status": {"is_compacted": state.is_compacted, "last_compacted_at": state.last_compacted_at},
        "tools": {name: _render_tool(tool) for name, tool in state.tools.items()},
        "usage": {
            "input_tokens": state.usage.input_tokens,
            "output_tokens": state.usage.output_tokens,
            "cached_tokens": state.usage.cached_tokens or None,
            "cost_usd": state.usage.cost_usd,
            "duration_s": state.duration_s or None,
            "turns_unmeasured": state.usage.turns_unmeasured or None,
            "turns_unpriced": state.usage.turns_unpriced or None,
        },
        "limits": state.limits.to_record(),
        "budget": state.budget.to_record(),
        "context_window": state.window.to_record(),
        "worktree": render_worktree(state.worktree),
        "task": render_task(state.task),
    }


def parse_time(value: Any) -> datetime | None:
    """Read a TOML date-time or an RFC 3339 string as UTC; None if it is neither, or out of range."""
    if type(value) is datetime and value.tzinfo is UTC:  # as csa writes it
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        return None


def format_time(moment: datetime) -> str:
    """Render a UTC time as RFC 3339 with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_text(value: Any) -> str | None:
    """Return a time as a string: as written there, or from a TOML date-time."""
    if isinstance(value, str):
        return value or None
    moment = parse_time(value)
    return format_time(moment) if moment else None


def _parse_tool(name: str, table: Any) -> ToolState:
    if not is_table(table):
        raise RecordFault(f"tools.{name}", "is not a table")
    given = values_in(table, _TOOL)
    given.setdefault("last_action_summary", None)
    if is_table(totals := table.get("totals")):
        given["totals"] = amounts_of(f"tools.{name}.totals", totals)
    return ToolState(**given)


def _render_tool(tool: ToolState) -> dict[str, Any]:
    return {
        "provider_session_id": tool.provider_session_id,
        "cwd": tool.cwd,
        "account": tool.account,
        "model": tool.model,
        "effort": tool.effort,
        "last_action_summary": tool.last_action_summary,
        "last_exit_code": tool.last_exit_code,
        "updated_at": tool.updated_at,
        "totals": dict(tool.totals) if tool.totals is not None else None,
    }


def _parse_usage(table: Mapping[str, Any]) -> Usage:
    return Usage.from_dict(amounts_of("usage", {key: table[key] for key in table if key in _OF_USAGE}))


def _strange_usage(record: Mapping[str, Any]) -> Usage:
    """Return the usage of a session's turns as recorded by another implementation."""
    total = table_of(record, "total_token_usage")
    said = {key: total[key] for key in ("input_tokens", "output_tokens") if key in total}
    if not said and "total_tokens" in total:
        said = {"input_tokens": total["total_tokens"]}
    if not said:
        return _UNKNOWN if record.get("tools") else Usage()
    cost = {"cost_usd": total["estimated_cost_usd"]} if "estimated_cost_usd" in total else {}
    return counted(Usage.from_dict(amounts_of("total_token_usage", said | cost)))


def parse_limits(table: Mapping[str, Any]) -> Limits:
    """Return the limits of a record's table; RecordFault if one is not a count."""
    if not table:
        return _NO_LIMITS
    tools = table_of(table, "tools")
    return Limits(
        **{name: int(amount_in(table, "limits", name, (int,))) for name in COUNTS},
        tools={name: int(amount_in(tools, "limits.tools", name, (int,))) for name in tools},
    )


def _parse_budget(table: Mapping[str, Any]) -> Budget:
    if not table:
        return _NO_BUDGET
    return Budget(
        tokens=int(amount_in(table, "budget", "tokens", (int,))),
        usd=float(amount_in(table, "budget", "usd", (int, float))),
        time_s=float(amount_in(table, "budget", "time_s", (int, float))),
    )


def _parse_window(table: Mapping[str, Any]) -> ContextWindow:
    if not table:
        return _NO_WINDOW
    given = {
        key: int(amount_in(table, "context_window", key, (int,)))
        for key in fields(ContextWindow)
        if table.get(key) is not None
    }
    return ContextWindow(**given)


def _parse_worktree(table: Mapping[str, Any]) -> Worktree | None:
    if all(value is None for value in table.values()):
        return None
    refused = table_of(table, "refused")
    return Worktree(
        path=required(table, "path", str),
        git_dir=required(table, "git_dir", str),
        branch=required(table, "branch", str),
        base=required(table, "base", str),
        checkout=required(table, "checkout", str),
        target=optional(table, "target", str),
        number=count_of(table, "number") or 0,
        setup=optional(table, "setup", str),
        is_ready=optional(table, "is_ready", bool) or False,
        landed=optional(table, "landed", str),
        landed_at=parse_time(table.get("landed_at")),
        dropped=optional(table, "dropped", str),
        dropped_at=parse_time(table.get("dropped_at")),
        refused=Refused(
            kind=required(refused, "kind", str),
            files=words_of(refused, "files"),
            onto=optional(refused, "onto", str),
            message=optional(refused, "message", str) or "",
        )
        if refused
        else None,
    )


def _parse_task(table: Mapping[str, Any]) -> Task | None:
    if all(value is None for value in table.values()):
        return None
    return Task(name=required(table, "name", str), digest=required(table, "digest", str))


def _parse_tools(record: Mapping[str, Any], key: str) -> dict[str, ToolState]:
    return {name: _parse_tool(name, table) for name, table in table_of(record, key).items()}


def _parse_depth(table: Mapping[str, Any], key: str) -> int:
    depth = optional(table, key, int) or 0
    if depth < 0:
        raise RecordFault("genealogy.depth", f"{depth} is negative")
    return depth


def _time_of(session_id: str) -> datetime:
    """Return when an id was made."""
    try:
        return datetime.fromtimestamp(milliseconds_of(session_id) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise RecordFault("created_at", "is missing, and the id does not contain a valid time") from None


def _strict_time(record: Mapping[str, Any], key: str) -> datetime | None:
    value = record.get(key)
    moment = parse_time(value)
    if isinstance(value, datetime) and moment is None:
        raise RecordFault(key, f"{value.isoformat()} is not within the years 1 to 9999 of UTC")
    if value is not None and moment is None:
        raise RecordFault(key, f"{value!r} is not a time")
    return moment


def _lenient_time(record: Mapping[str, Any], key: str) -> datetime | None:
    return parse_time(record[key])


def _some_text(record: Mapping[str, Any], key: str) -> str | None:
    return optional(record, key, str) or None


def _in_table(parse: Callable[[Mapping[str, Any]], _T]) -> Callable[[Mapping[str, Any], str], _T]:
    return lambda record, key: parse(table_of(record, key))


# The keys that are read as fields of the same name: see `values_in`.
_RECORD: Kinds = {
    "project_path": path_in,
    **dict.fromkeys(("description", "name", "owner", "branch", "permission", "retired_phase"), str),
    **dict.fromkeys(("ask", "shared", "ephemeral", "pinned"), bool),
    **dict.fromkeys(("created_at", "last_accessed", "expires_at"), _strict_time),
    **dict.fromkeys(("closed_at", "retired_at", "sealed_at"), _lenient_time),
    **dict.fromkeys(("turns", "turn_count", "sealed_seq"), count_of),
    "schema": int,
    "extra_writable": paths_in,
    "phase": lambda record, key: _some_text(record, key) or "active",
    "limits": _in_table(parse_limits),
    "budget": _in_table(_parse_budget),
    "worktree": _in_table(_parse_worktree),
    "task": _in_table(_parse_task),
    "tools": _parse_tools,
}
_GENEALOGY: Kinds = {
    **dict.fromkeys(("parent_session_id", "root_session_id", "fork_of", "fork_of_session_id"), optional_id),
    **dict.fromkeys(("above", "merged_from"), ids_in),
    "parent_project": path_in,
    "parent_host": str,
    "depth": _parse_depth,
    "max_depth": int,
}
_CONTEXT: Kinds = {"is_compacted": bool, "last_compacted_at": lambda context, key: _time_text(context[key])}
_TOOL: Kinds = {
    **dict.fromkeys(("provider_session_id", "model", "effort"), _some_text),
    **dict.fromkeys(("cwd", "account", "last_action_summary"), str),
    "last_exit_code": int,
    "updated_at": _lenient_time,
}
