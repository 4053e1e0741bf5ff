"""A plan: tasks for agents, what each of them needs, and how it is run. Pure: whoever reads the files gives `read`.

Whatever is wrong with a plan is said before anything runs. The digest of a task tells whether what is to be done is
still what a session was told; how it is done (by which tool, for how long) may change without doing it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from csa.errors import ConfigError, UsageError
from csa.model.configkeys import Key, checked, unknown_key
from csa.model.duration import DEFAULT_PARK, parse_duration, parse_on_quota
from csa.model.structured import NotJsonError, parse_json
from csa.structs import Struct, field

MAX_RUNNING, REPAIRS = 3, 1
PARK_LIMIT_S = DEFAULT_PARK.total_seconds()
NAME_LENGTH = 64  # of a session's name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HERE = "here"  # as a host
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}(?::[A-Za-z0-9][A-Za-z0-9._-]{0,62})?", re.ASCII)
_NO_WORD = re.compile(r"[^A-Za-z0-9_-]+")

Place = Literal["plan", "task", "both", "own"]  # where a key may stand; `own`: in both, for each its own


class PlanKey(Struct, kw_only=True):
    """One key of a plan's file: its form, where it may stand, and the field of `RunRequest` that it becomes.

    A key with `is_work` says what is to be done: a task in which it changes is to be done again.
    """

    form: Key
    place: Place = "both"
    sets: str | None = None
    is_work: bool = False


def _key(kind: str, default: Any, meaning: str, **more: Any) -> PlanKey:
    return PlanKey(form=Key(kind, default, meaning), **more)  # type: ignore[arg-type]  # the kinds are config's, and ours


KEYS: Mapping[str, PlanKey] = {
    "prompt": _key("text", "", "what the agent is to do", place="task", is_work=True),
    "prompt_file": _key("text", "", "the same, from a file beside the plan", place="task", is_work=True),
    "needs": _key("words", (), "tasks whose work this one begins with, and whose answers it gets", place="task"),
    "touches": _key("words", (), "globs of what it changes: tasks that overlap do not run at once", place="task"),
    "tools": _key("words", (), "a race: run it once with each of these, TOOL or TOOL:MODEL", place="task"),
    "worktree": _key("flag", True, "false: it only reads, in the plan's own tree", is_work=True),
    "max_running": _key("count", MAX_RUNNING, "how many tasks run at once", place="plan"),
    "with_changes": _key("flag", False, "begin with what is not committed in your checkout", place="plan"),
    "check": _key("text", "", "a shell command that must succeed on the combined tree before a task is merged"),
    "setup": _key("text", "", "a shell command that prepares each new worktree", sets="setup"),
    "repairs": _key("count", REPAIRS, "how often an agent may repair its own conflict or failed check"),
    "on_quota": _key("plan_quota", "wait", "when a quota is used up: wait, wait=TIME, fallback or fail"),
    "tool": _key("text", "", "the tool to use", sets="tool"),
    "host": _key("plan_host", "", "where its agent works: a host or a scheduler, as `csa run --on` has it, or `here`"),
    "transport": _key("transport", "native", "how csa talks to the tool: native or acp", sets="transport"),
    "model": _key("text", "", "the model to ask for", sets="model"),
    "effort": _key("text", "", "the reasoning effort to ask for", sets="effort"),
    "permission": _key("permission", "edit", "what the agent may do: read-only, edit or full", sets="permission"),
    "ask": _key("flag", False, "whether the agent may ask for what that denies (csa answer)", sets="ask"),
    "ask_timeout": _key("time", 600.0, "how long it waits for an answer, before it is denied", sets="ask_timeout_s"),
    "system": _key("text", "", "text to add to the tool's system prompt", sets="system", is_work=True),
    "system_file": _key("text", "", "the same, from a file beside the plan", is_work=True),
    "schema": _key("schema", {}, "a JSON Schema for the answer: a table, JSON, or a file", sets="schema", is_work=True),
    "template": _key("text", "", "a template (csa template list)", is_work=True),
    "var": _key("table", {}, "the variables of the template", is_work=True),
    "image": _key("words", (), "images that come with the prompt", sets="images", is_work=True),
    "file": _key("words", (), "text files or PDFs that come with it", sets="files", is_work=True),
    "secret": _key("words", (), "NAME, NAME=env:VARIABLE or NAME=file:FILE, as --secret", sets="secrets"),
    "extra_writable": _key("words", (), "directories that the agent may write in, too", sets="extra_writable"),
    "description": _key("text", "", "what the task is about, for lists", sets="description"),
    "shared": _key("switch", "on", "whether other tools may work in its session: on or off", sets="shared"),
    "context_window": _key("count", 0, "how many earlier turns a turn sends at most; 0 is all", sets="context_window"),
    "context_tokens": _key("count", 0, "how many tokens of them at most; 0 is no limit", sets="context_tokens"),
    "timeout": _key("time", 0.0, "end a turn after so many seconds, or 30m", sets="timeout_s"),
    "idle_timeout": _key("time", 0.0, "end it after so long without output or work", sets="idle_timeout_s"),
    "keep_background": _key("flag", False, "keep processes that the tool leaves running", sets="keep_background"),
    "retries": _key("count", 2, "how often to retry transient provider errors", sets="retries"),
    "fallback": _key("words", (), "TOOL or TOOL:MODEL that take over if the provider fails", sets="fallback"),
    "ttl": _key("duration", "", "let the sessions expire after this time", sets="ttl"),
    "budget_tokens": _key("count", 0, "tokens: at the top of the whole plan", sets="budget_tokens", place="own"),
    "budget_usd": _key("amount", 0.0, "US dollars, likewise", sets="budget_usd", place="own"),
    "budget_time": _key("time", 0.0, "seconds of all turns, likewise", sets="budget_time_s", place="own"),
}
TASK = "task"  # the table of all tasks
_QUOTA = "fail, fallback, wait, or wait=TIME such as wait=26h"
_OWN_FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "time": (lambda value: _seconds(value) is not None, "a number of seconds, or a time such as 30m"),
    "amount": (lambda value: _is_number(value) and value >= 0, "a number, 0 or more"),
    "schema": (lambda value: isinstance(value, str | Mapping), "a table, JSON, or the name of a file"),
    "plan_quota": (
        lambda value: value == "fallback" or parse_on_quota(str(value)) is not None,
        "wait, fallback or fail",
    ),
    "plan_host": (
        lambda value: isinstance(value, str) and (value == "" or bool(_HOST.fullmatch(value))),
        "a host as csa run --on has it, as gpu or lab:n2, or here",
    ),
}


class PlanTask(Struct, kw_only=True):
    """One task, checked.

    Attributes:
        name: its name, which can be a part of a session's and a branch's.
        prompt: what the agent is to do.
        needs: the tasks whose work it begins with.
        touches: globs of the paths that it is expected to change; none says nothing.
        tools: the alternatives of a race, TOOL or TOOL:MODEL; none for a task that is run once.
        host: where it is run: a host, a scheduler, or SCHEDULER:NODE; None is here.
        has_worktree: whether it changes anything, in a worktree of its own.
        check: the command for the combined tree.
        repairs: how many repairs it may make in a run of the plan.
        on_quota: wait, wait=TIME, fallback or fail.
        template: the name of its template, and `variables` those of that.
        options: fields of `RunRequest`.
        digest: what is to be done, as a hash.
    """

    name: str
    prompt: str
    needs: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    host: str | None = None
    has_worktree: bool = True
    check: str | None = None
    repairs: int = REPAIRS
    on_quota: str = "wait"
    template: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    @property
    def units(self) -> Mapping[str, str | None]:
        """What is run of it, each in a session of its own: its name, and of a race one for each tool."""
        if not self.tools:
            return {self.name: None}
        return {f"{self.name}.{_NO_WORD.sub('-', tool)}": tool for tool in self.tools}

    @property
    def park_limit_s(self) -> float:
        """How long to wait for a used-up quota; 0 is not at all."""
        limit = parse_on_quota(self.on_quota)
        return limit.total_seconds() if limit else 0.0


class Plan(Struct, kw_only=True):
    """A plan, checked; each of its tasks comes after those that it needs.

    Attributes:
        place: the file it is from, as errors name it.
        tasks: by name.
        max_running: how many run at once.
        with_changes: whether it begins with what is not committed.
        options: fields of `RunRequest` for the session of the plan itself: its budget.
        warnings: what may not be meant.
    """

    place: str
    tasks: Mapping[str, PlanTask]
    max_running: int = MAX_RUNNING
    with_changes: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def has_worktrees(self) -> bool:
        """Whether any task changes anything."""
        return any(task.has_worktree for task in self.tasks.values())

    def with_needs(self, names: Iterable[str]) -> list[str]:
        """Return these tasks and all that they need, in order; all if none is named. UsageError for an unknown one."""
        wanted = set(names)
        for name in wanted:
            self.check_task(name)
        if not wanted:
            return [*self.tasks]
        for name in reversed([*self.tasks]):
            wanted.update(self.tasks[name].needs if name in wanted else ())
        return [name for name in self.tasks if name in wanted]

    def check_task(self, name: str) -> None:
        """Raise UsageError if there is no such task."""
        if name not in self.tasks:
            error = _unknown_task(self.place, f"there is no task '{name}'", name, self.tasks)
            raise UsageError(error.message, hint=error.hint)

    def unit_task(self, unit: str) -> PlanTask:
        """Return the task that a unit belongs to; UsageError if there is none."""
        if found := next((task for task in self.tasks.values() if task.tools and unit in task.units), None):
            return found
        units = [unit for task in self.tasks.values() if task.tools for unit in task.units]
        hint = f"these race: {', '.join(units)}" if units else "no task has tools = [...]"
        raise UsageError(f"{self.place}: '{unit}' is no alternative of a race.", hint=hint)

    def dependents(self, name: str) -> list[str]:
        """Return the tasks that need one directly."""
        return [each.name for each in self.tasks.values() if name in each.needs]


def parse_plan(
    values: Mapping[str, Any],
    *,
    place: str,
    read: Callable[[str], str],
    instead: Mapping[str, Any] | None = None,
    warnings: Iterable[str] = (),
) -> Plan:
    """Return the plan that a file's values mean.

    Args:
        values: what the TOML says.
        place: the file, as errors name it.
        read: returns the text of a file that the plan names; it raises ConfigError.
        instead: keys in place of those at the top; what a task says itself still comes first.
        warnings: what was odd before.

    Raises:
        ConfigError: it names the key, and the next step.
    """
    _check_keys(place, "", values, ("plan", "both", "own"), [TASK])
    top = {**{key: value for key, value in values.items() if key != TASK}, **(instead or {})}
    tables = values.get(TASK, {})
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        raise ConfigError(f"{place}: '{TASK}' must be tables.", hint='[task.NAME] begins one, with prompt = "..."')
    if not tables:
        raise ConfigError(f"{place}: the plan has no tasks.", hint='[task.NAME] begins one, with prompt = "..."')
    tasks = {name: _parse_task(place, name, table, top, read) for name, table in tables.items()}
    return Plan(
        place=place,
        tasks={name: tasks[name] for name in _in_order(place, tasks)},
        max_running=max(1, top.get("max_running", MAX_RUNNING)),
        with_changes=top.get("with_changes", False),
        options=_options({key: value for key, value in top.items() if KEYS[key].place == "own"}),
        warnings=tuple(warnings),
    )


def parse_value(origin: str, key: str, value: Any) -> Any:
    """Return a value for `instead` if it is of the form of its key; else ConfigError."""
    return _checked(origin, key, key, value)


def _check_keys(place: str, where: str, values: Mapping[str, Any], places: tuple[str, ...], more: list[str]) -> None:
    known = [key for key, form in KEYS.items() if form.place in places]
    for key, value in values.items():
        if key in known:
            _checked(place, key, f"{where}{key}", value)
        elif key not in more:
            is_elsewhere = key in KEYS
            hint = "it stands in a task" if places[0] == "plan" else "it stands at the top, before the tasks"
            error = unknown_key(place, key, [*known, *more], where=where)
            raise ConfigError(error.message, hint=hint) if is_elsewhere else error


def _checked(place: str, key: str, name: str, value: Any) -> Any:
    form = KEYS[key].form
    if form.kind not in _OWN_FORMS:
        return checked(place, name, form, value)
    fits, expected = _OWN_FORMS[form.kind]
    if not fits(value):
        raise ConfigError(f"{place}: '{name}' must be {expected}, not {value!r}.")
    return value


def _parse_task(
    place: str, name: str, table: Mapping[str, Any], top: Mapping[str, Any], read: Callable[[str], str]
) -> PlanTask:
    where = f"{TASK}.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{place}: '{name}' cannot name a task.",
            hint="names have letters, digits, dashes and underscores, and begin with a letter or digit",
        )
    _check_keys(place, f"{where}.", table, ("task", "both", "own"), [])
    own = {**{key: value for key, value in top.items() if KEYS[key].place == "both"}, **table}
    own = _one_of(place, where, own, table, read)
    if not str(own.get("prompt", "")).strip() and "template" not in own:
        raise ConfigError(f"{place}: task '{name}' has no prompt.", hint='add prompt = "..." or prompt_file = "..."')
    if own.get("on_quota") == "fallback" and not own.get("fallback"):
        raise ConfigError(f"{place}: '{where}.on_quota' is fallback, and there is none.", hint='fallback = ["TOOL"]')
    if "tools" in table:
        _check_race(place, where, table)
        own.pop("tool", None)
    if not own.get("worktree", True) and "permission" not in table:
        own.pop("permission", None)  # it only reads, unless the task itself says more
    host = own.get("host") if own.get("host") != _HERE else None
    if host and own.get("secret"):
        raise ConfigError(f"{place}: '{where}' has a secret, and none leaves this host.", hint='host = "here"')
    if isinstance(own.get("schema"), str):
        own["schema"] = _schema(place, where, own["schema"], read)
    return PlanTask(
        name=name,
        prompt=own.get("prompt", ""),
        needs=tuple(dict.fromkeys(own.get("needs", ()))),
        touches=tuple(own.get("touches", ())),
        tools=tuple(own.get("tools", ())),
        host=host or None,
        has_worktree=own.get("worktree", True),
        check=own.get("check") or None,
        repairs=own.get("repairs", REPAIRS),
        on_quota=own.get("on_quota", "wait"),
        template=own.get("template") or None,
        variables=own.get("var", {}),
        options=_options(own),
        digest=_digest({key: value for key, value in own.items() if _is_work(key, value)}),
    )


def _one_of(
    place: str, where: str, own: dict[str, Any], table: Mapping[str, Any], read: Callable[[str], str]
) -> dict[str, Any]:
    """Put the text of a file in place of its name; a text and a file in one table exclude each other."""
    for key in ("prompt", "system"):
        other = f"{key}_file"
        if key in table and other in table:
            raise ConfigError(f"{place}: '{where}' has {key} and {other}.", hint="leave one out")
        name = own.pop(other, None)
        if name and not (key in table and other not in table):
            own[key] = read(name)
    return own


def _check_race(place: str, where: str, table: Mapping[str, Any]) -> None:
    names = [_NO_WORD.sub("-", tool) for tool in table["tools"]]
    if len(names) < 2 or len({*names}) < len(names) or not all(names):  # noqa: PLR2004  # a race is between two
        raise ConfigError(f"{place}: '{where}.tools' must be two or more different tools.", hint='tool = "..." is one')
    if "tool" in table:
        raise ConfigError(f"{place}: '{where}' has tool and tools.", hint="leave one out")


def _schema(place: str, where: str, words: str, read: Callable[[str], str]) -> dict[str, Any]:
    try:
        found = parse_json(words if words.lstrip().startswith("{") else read(words))
    except NotJsonError as error:
        raise ConfigError(f"{place}: '{where}.schema' is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{place}: '{where}.schema' is not a JSON object.")
    return found


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `RunRequest` that some keys set."""
    return {name: _converted(key, value) for key, value in values.items() if (name := KEYS[key].sets)}


def _converted(key: str, value: Any) -> Any:
    """Return a value as `RunRequest` has it."""
    kind = KEYS[key].form.kind
    if str(kind) == "time":
        return _seconds(value) or (0.0 if key == "ask_timeout" else None)
    if kind == "duration":
        return parse_duration(value) if value else None
    if kind == "switch":
        return value == "on"
    return tuple(value) if kind == "words" else (value or None) if kind == "text" else value


def _seconds(value: Any) -> float | None:
    if isinstance(value, str):
        span = parse_duration(value)
        return span.total_seconds() if span else None
    return float(value) if _is_number(value) and 0 <= value < float("inf") else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_work(key: str, value: Any) -> bool:
    return KEYS[key].is_work and value not in ([], KEYS[key].form.default)


def _digest(work: Mapping[str, Any]) -> str:
    import json  # noqa: PLC0415  # the model loads fast
    from hashlib import sha256  # noqa: PLC0415  # as above

    text = json.dumps(work, sort_keys=True, ensure_ascii=True, default=str)
    return sha256(text.encode()).hexdigest()[:16]


def _in_order(place: str, tasks: Mapping[str, PlanTask]) -> list[str]:
    """Return the names, each after those it needs, else as they stand in the file; ConfigError for a cycle."""
    for task in tasks.values():
        for need in task.needs:
            if need not in tasks:
                raise _unknown_task(place, f"task '{task.name}' needs '{need}', which is none", need, tasks)
    order: dict[str, None] = {}
    for name in tasks:
        path = [name]
        while path:
            missing = next((need for need in tasks[path[-1]].needs if need not in order), None)
            if missing is None:
                order[path.pop()] = None
            elif missing in path:
                cycle = " needs ".join([*path[path.index(missing) :], missing])
                raise ConfigError(f"{place}: the tasks go in a circle: {cycle}.", hint="take one of these needs out")
            else:
                path.append(missing)
    return [*order]


def _unknown_task(place: str, words: str, name: str, known: Iterable[str]) -> ConfigError:
    from csa.nearest import did_you_mean  # noqa: PLC0415  # only a typo pays for it

    names = [*known]
    return ConfigError(f"{place}: {words}.", hint=did_you_mean(name, names) or f"the tasks are {', '.join(names)}")


def stem_of(name: str) -> str:
    """Return what the sessions of a plan are named by, from the name of its file or one that was given."""
    base = name.rpartition("/")[2]
    stem = _NO_WORD.sub("-", base.removesuffix(".toml")).strip("-") or "plan"
    return stem if stem[0].isalpha() else f"p{stem}"


def plan_session_name(stem: str) -> str:
    """Return the name of a plan's own session, which is its branch's, too, after `csa/`."""
    return f"plan-{stem}"


def session_name(stem: str, unit: str) -> str:
    """Return the name of the session of a unit of a task."""
    return f"{stem}.{unit}"


def check_names(plan: Plan, stem: str) -> None:
    """Raise ConfigError if the sessions of a plan would have names that are too long."""
    units = (unit for task in plan.tasks.values() for unit in task.units)
    names = [plan_session_name(stem), *(session_name(stem, unit) for unit in units)]
    longest = max(names, key=len)
    if len(longest) > NAME_LENGTH:
        raise ConfigError(
            f"{plan.place}: the session '{longest}' would have more than {NAME_LENGTH} characters.",
            hint="a shorter task's name, or --name for the plan's",
        )
