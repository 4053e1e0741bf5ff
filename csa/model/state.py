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
from csa.model.usage import LARGEST, Usage, counted
from csa.model.worktree import Refused, Task, Worktree, render_task, render_worktree, words_of
from csa.structs import Struct, field, fields, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _T = TypeVar("_T")

SCHEMA = 1
SEALED_SCHEMA = 2  # of a session that is encrypted, so that a csa that cannot open it leaves it alone
_NO_TABLE: Mapping[str, Any] = {}  # most records lack most tables, and lists read thousands of records
_NO_LIMITS, _NO_BUDGET, _NO_WINDOW = Limits(), Budget(), ContextWindow()
_UNKNOWN = counted(None)  # what the turns of another implementation have used


class RecordFault(ValueError):  # noqa: N818  # a fault of the record, which the store reports as a StateError
    """A value of the record is missing or invalid; `key` names it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key


class NewerSchemaFault(RecordFault):
    """A newer csa wrote the record."""


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
    root_session_id: str | None = None
    fork_of: str | None = None  # the session whose conversation it began with
    merged_from: tuple[str, ...] = ()  # the sessions whose histories it began with
    depth: int = 0
    max_depth: int | None = None  # the limit when it was created; applies to its children
    is_compacted: bool = False  # at some time; the conversation continues from a summary
    last_compacted_at: str | None = None  # a string, as in other implementations
    limits: Limits = field(default_factory=Limits)  # those of its last turn; they apply to its children
    budget: Budget = field(default_factory=Budget)  # of the session and everything below it
    window: ContextWindow = field(default_factory=ContextWindow)
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
    schema = _optional(record, "schema", int)
    if schema is not None and schema > SEALED_SCHEMA:
        raise NewerSchemaFault(
            "schema", f"version {schema} was written by a newer csa (this one reads {SEALED_SCHEMA})"
        )
    genealogy = _table_of(record, "genealogy")
    context = _table_of(record, "context_status")
    usage = _table_of(record, "usage")
    session_id = _required(record, "meta_session_id", str)
    if not is_session_id(session_id):
        raise RecordFault("meta_session_id", f"'{session_id}' is not a ULID")
    depth = _optional(genealogy, "depth", int) or 0
    if depth < 0:
        raise RecordFault("genealogy.depth", f"{depth} is negative")
    turn_count, turns = (_count_of(record, key) for key in ("turn_count", "turns"))
    created_at = _optional_time(record, "created_at") or _time_of(session_id)
    return SessionState(
        session_id=session_id,
        project_path=_path_in(record, "project_path") or _required(record, "project_path", str),
        created_at=created_at,
        last_accessed=_optional_time(record, "last_accessed") or created_at,
        description=_optional(record, "description", str) or "",
        name=_optional(record, "name", str),
        owner=_optional(record, "owner", str),
        branch=_optional(record, "branch", str),
        permission=_optional(record, "permission", str),
        ask=_optional(record, "ask", bool),
        shared=_optional(record, "shared", bool),
        extra_writable=_paths(record, "extra_writable"),
        ephemeral=_optional(record, "ephemeral", bool) or False,
        pinned=_optional(record, "pinned", bool) or False,
        expires_at=_optional_time(record, "expires_at"),
        closed_at=parse_time(record.get("closed_at")),
        phase=_optional(record, "phase", str) or "active",
        retired_at=parse_time(record.get("retired_at")),
        retired_phase=_optional(record, "retired_phase", str),
        turns=max(turns or 0, turn_count or 0),
        turn_count=turn_count,
        parent_session_id=_optional_id(genealogy, "parent_session_id"),
        parent_project=_path_in(genealogy, "parent_project"),
        parent_host=_optional(genealogy, "parent_host", str),
        root_session_id=_optional_id(genealogy, "root_session_id"),
        fork_of=_optional_id(genealogy, "fork_of") or _optional_id(genealogy, "fork_of_session_id"),
        merged_from=_ids(genealogy, "merged_from"),
        depth=depth,
        max_depth=_optional(genealogy, "max_depth", int),
        is_compacted=_optional(context, "is_compacted", bool) or False,
        last_compacted_at=_time_text(context.get("last_compacted_at")),
        limits=parse_limits(_table_of(record, "limits")),
        budget=_parse_budget(_table_of(record, "budget")),
        window=_parse_window(_table_of(record, "context_window")),
        worktree=_parse_worktree(_table_of(record, "worktree")),
        task=_parse_task(_table_of(record, "task")),
        tools={name: _parse_tool(name, table) for name, table in _table_of(record, "tools").items()},
        usage=_parse_usage(usage) if usage or schema is not None else _strange_usage(record),
        duration_s=float(_amount(usage, "usage", "duration_s", (int, float))),
        schema=schema,
        sealed_at=parse_time(record.get("sealed_at")),
        sealed_seq=_count_of(record, "sealed_seq"),
    )


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
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    if value.tzinfo is UTC:  # as csa writes it
        return value
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
    if not isinstance(table, Mapping):
        raise RecordFault(f"tools.{name}", "is not a table")
    totals = table.get("totals")
    return ToolState(
        provider_session_id=_optional(table, "provider_session_id", str) or None,
        cwd=_optional(table, "cwd", str),
        account=_optional(table, "account", str),
        model=_optional(table, "model", str) or None,
        effort=_optional(table, "effort", str) or None,
        last_action_summary=_optional(table, "last_action_summary", str),
        last_exit_code=_optional(table, "last_exit_code", int),
        updated_at=parse_time(table.get("updated_at")),
        totals=_amounts(f"tools.{name}.totals", totals) if isinstance(totals, Mapping) else None,
    )


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
    return Usage.from_dict(_amounts("usage", {key: table[key] for key in fields(Usage) if key in table}))


def _strange_usage(record: Mapping[str, Any]) -> Usage:
    """Return the usage of a session's turns as recorded by another implementation."""
    total = _table_of(record, "total_token_usage")
    said = {key: total[key] for key in ("input_tokens", "output_tokens") if key in total}
    if not said and "total_tokens" in total:
        said = {"input_tokens": total["total_tokens"]}
    if not said:
        return _UNKNOWN if record.get("tools") else Usage()
    cost = {"cost_usd": total["estimated_cost_usd"]} if "estimated_cost_usd" in total else {}
    return counted(Usage.from_dict(_amounts("total_token_usage", said | cost)))


def parse_limits(table: Mapping[str, Any]) -> Limits:
    """Return the limits of a record's table; RecordFault if one is not a count."""
    if not table:
        return _NO_LIMITS
    tools = _table_of(table, "tools")
    return Limits(
        **{name: int(_amount(table, "limits", name, (int,))) for name in COUNTS},
        tools={name: int(_amount(tools, "limits.tools", name, (int,))) for name in tools},
    )


def _parse_budget(table: Mapping[str, Any]) -> Budget:
    if not table:
        return _NO_BUDGET
    return Budget(
        tokens=int(_amount(table, "budget", "tokens", (int,))),
        usd=float(_amount(table, "budget", "usd", (int, float))),
        time_s=float(_amount(table, "budget", "time_s", (int, float))),
    )


def _parse_window(table: Mapping[str, Any]) -> ContextWindow:
    if not table:
        return _NO_WINDOW
    given = {
        key: int(_amount(table, "context_window", key, (int,)))
        for key in fields(ContextWindow)
        if table.get(key) is not None
    }
    return ContextWindow(**given)


def _parse_worktree(table: Mapping[str, Any]) -> Worktree | None:
    if all(value is None for value in table.values()):
        return None
    refused = _table_of(table, "refused")
    return Worktree(
        path=_required(table, "path", str),
        git_dir=_required(table, "git_dir", str),
        branch=_required(table, "branch", str),
        base=_required(table, "base", str),
        checkout=_required(table, "checkout", str),
        target=_optional(table, "target", str),
        number=_count_of(table, "number") or 0,
        setup=_optional(table, "setup", str),
        is_ready=_optional(table, "is_ready", bool) or False,
        landed=_optional(table, "landed", str),
        landed_at=parse_time(table.get("landed_at")),
        dropped=_optional(table, "dropped", str),
        dropped_at=parse_time(table.get("dropped_at")),
        refused=Refused(
            kind=_required(refused, "kind", str),
            files=words_of(refused, "files"),
            onto=_optional(refused, "onto", str),
            message=_optional(refused, "message", str) or "",
        )
        if refused
        else None,
    )


def _parse_task(table: Mapping[str, Any]) -> Task | None:
    if all(value is None for value in table.values()):
        return None
    return Task(name=_required(table, "name", str), digest=_required(table, "digest", str))


def _amount(table: Mapping[str, Any], where: str, key: str, kinds: tuple[type[int | float], ...]) -> float:
    """Return a number, 0 or more; 0 if it is missing."""
    value: Any = table.get(key)
    if value is None:
        return 0
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise RecordFault(f"{where}.{key}", f"{value!r} is not {'a count' if kinds == (int,) else 'an amount'}")
    number: float = value
    return number


def _amounts(where: str, table: Mapping[str, Any]) -> dict[str, float]:
    for key, value in table.items():
        if (type(value) is not int and type(value) is not float) or not 0 <= value <= LARGEST:
            raise RecordFault(f"{where}.{key}", f"{value!r} is not an amount")
    return dict(table)


def _table_of(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    if value is None:
        return _NO_TABLE
    if not isinstance(value, Mapping):
        raise RecordFault(key, "is not a table")
    return value


def _required(record: Mapping[str, Any], key: str, kind: type[str]) -> str:
    value = _optional(record, key, kind)
    if value is None:
        raise RecordFault(key, "is missing")
    return value


def _optional(record: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RecordFault(key, f"{value!r} is not {'an integer' if kind is int else f'a {kind.__name__}'}")
    return value


def _path_in(record: Mapping[str, Any], key: str) -> str | None:
    value = _optional(record, key, str)
    if value is not None and "\0" in value:  # no system takes it, and another host may have written it
        raise RecordFault(key, f"{value!r} is not a path")
    return value


def _paths(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(path, str) and path.startswith("/") for path in value):
        raise RecordFault(key, "is not a list of absolute paths")
    return tuple(value)


def _ids(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = record.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and is_session_id(one) for one in value):
        raise RecordFault(key, "is not a list of ULIDs")
    return tuple(value)


def _count_of(record: Mapping[str, Any], key: str) -> int | None:
    number = _optional(record, key, int)
    if number is not None and number < 0:
        raise RecordFault(key, f"{number} is negative")
    return number


def _time_of(session_id: str) -> datetime:
    """Return when an id was made."""
    try:
        return datetime.fromtimestamp(milliseconds_of(session_id) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        raise RecordFault("created_at", "is missing, and the id does not contain a valid time") from None


def _optional_id(record: Mapping[str, Any], key: str) -> str | None:
    value = _optional(record, key, str)
    if value is not None and not is_session_id(value):
        raise RecordFault(key, f"'{value}' is not a ULID")
    return value


def _optional_time(record: Mapping[str, Any], key: str) -> datetime | None:
    value = record.get(key)
    moment = parse_time(value)
    if isinstance(value, datetime) and moment is None:
        raise RecordFault(key, f"{value.isoformat()} is not within the years 1 to 9999 of UTC")
    if value is not None and moment is None:
        raise RecordFault(key, f"{value!r} is not a time")
    return moment
