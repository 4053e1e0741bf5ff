"""The file of a plan: what it may say, what is refused before anything runs, and what a task's digest tells."""

import tomllib
from typing import Any

import pytest

from csa.errors import ConfigError, UsageError
from csa.model.globs import outside, overlapping
from csa.model.plan import Plan, check_names, parse_plan, stem_of
from csa.model.planeach import tasks_of_lines

FILES = {"prompts/api.md": "Build the API.", "schema.json": '{"type": "object"}'}


def parsed(text: str, **options: Any) -> Plan:
    def read(name: str) -> str:
        if name not in FILES:
            raise ConfigError(f"plan.toml: {name} cannot be read.")
        return FILES[name]

    return parse_plan(tomllib.loads(text), place="plan.toml", read=read, **options)


def test_a_plan_has_its_tasks_in_the_order_of_what_they_need() -> None:
    """What stands at the top is for all tasks but where one says it itself; files are read, names become fields."""
    plan = parsed("""
        check = "make test"
        timeout = "10m"
        tool = "codex"
        budget_usd = 5
        max_running = 2
        [task.docs]
        needs = ["api"]
        prompt = "Document it."
        worktree = false
        [task.api]
        needs = ["schema"]
        prompt_file = "prompts/api.md"
        tool = "claude-code"
        timeout = 30
        schema = "schema.json"
        on_quota = "fail"
        [task.schema]
        prompt = "Add the table."
        touches = ["db/**"]
    """)
    assert [*plan.tasks] == ["schema", "api", "docs"]
    api = plan.tasks["api"]
    assert (api.prompt, api.check, api.park_limit_s, api.repairs) == ("Build the API.", "make test", 0, 1)
    assert api.options == {"tool": "claude-code", "timeout_s": 30.0, "schema": {"type": "object"}}
    assert plan.tasks["docs"].options == {"tool": "codex", "timeout_s": 600.0}
    assert (plan.options, plan.max_running, plan.has_worktrees) == ({"budget_usd": 5}, 2, True)
    assert plan.with_needs(["api"]) == ["schema", "api"]
    assert plan.dependents("api") == ["docs"]


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("", "the plan has no tasks", r"\[task.NAME\]"),
        ("chek = 'x'\n[task.a]\nprompt='x'", "unknown key 'chek'", "did you mean 'check'"),
        ("[task.a]\npromt='x'", "unknown key 'task.a.promt'", "did you mean 'task.a.prompt'"),
        ("[task.a]\nmax_running=1\nprompt='x'", "unknown key 'task.a.max_running'", "at the top"),
        ("prompt='x'\n[task.a]\nprompt='x'", "unknown key 'prompt'", "in a task"),
        ("[task.a]\nprompt=' '", "task 'a' has no prompt", "prompt_file"),
        ("[task.a]\nprompt='x'\nprompt_file='prompts/api.md'", "has prompt and prompt_file", "leave one out"),
        ("[task.a]\nprompt_file='none.md'", "none.md cannot be read", None),
        ("[task.'a b']\nprompt='x'", "'a b' cannot name a task", "letters"),
        ("[task.a]\nprompt='x'\nneeds=['b']", "task 'a' needs 'b', which is none", "the tasks are a"),
        (
            "[task.aa]\nprompt='x'\nneeds=['bb']\n[task.bb]\nprompt='x'\nneeds=['cc']\n[task.cc]\nprompt='x'\nneeds=['bb']",
            "in a circle: bb needs cc needs bb",
            "take one",
        ),
        ("[task.a]\nprompt='x'\ntimeout='soon'", "'task.a.timeout' must be a number of seconds", None),
        ("[task.a]\nprompt='x'\ntimeout=true", "'task.a.timeout' must be a number of seconds", None),
        ("[task.a]\nprompt='x'\nneeds='b'", "'task.a.needs' must be a list", None),
        ("[task.a]\nprompt='x'\ntools=['codex']", "'task.a.tools' must be two or more", "tool ="),
        ("[task.a]\nprompt='x'\non_quota='fallback'", "fallback, and there is none", "fallback ="),
        ("[task.a]\nprompt='x'\nschema='{'", "'task.a.schema' is not JSON", None),
        ("task = 3", "'task' must be tables", None),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(text: str, said: str, hint: str | None) -> None:
    """Every fault of the file is an error that names the key, with a next step where there is one."""
    with pytest.raises(ConfigError) as raised:
        parsed(text)
    assert said in raised.value.message
    if hint:
        assert raised.value.hint is not None
        assert hint.replace("\\", "") in raised.value.hint


def test_the_digest_is_of_what_is_to_be_done_and_not_of_how() -> None:
    """Another prompt, or prompt file, is other work; another tool, time limit or check is not."""
    plain = parsed("[task.a]\nprompt='x'").tasks["a"].digest
    same = (
        "tool='codex'\ntimeout=3\ncheck='true'\n[task.a]\nprompt='x'\nneeds=['b']\ntouches=['*']\n[task.b]\nprompt='y'"
    )
    assert parsed(same).tasks["a"].digest == plain
    others = ["prompt='z'", "prompt_file='prompts/api.md'", "prompt='x'\nworktree=false", "prompt='x'\nsystem='s'"]
    assert len({plain, *(parsed(f"[task.a]\n{other}").tasks["a"].digest for other in others)}) == len(others) + 1


def test_a_race_is_run_once_with_each_tool() -> None:
    """Each alternative is a unit with a name of its own; the tool at the top is not one of them."""
    task = parsed("tool='gemini-cli'\n[task.a]\nprompt='x'\ntools=['codex', 'claude-code:opus']").tasks["a"]
    assert task.units == {"a.codex": "codex", "a.claude-code-opus": "claude-code:opus"}
    assert "tool" not in task.options


def test_names_of_sessions_come_from_the_file() -> None:
    """A stem can begin a session's name whatever the file is called; what is too long is said."""
    assert [stem_of(name) for name in ("a/plan.toml", "2 do!.toml", "-.toml", "x.txt")] == [
        *("plan", "p2-do", "plan", "x-txt")
    ]
    with pytest.raises(ConfigError, match="more than 64 characters"):
        check_names(parsed(f"[task.{'a' * 60}]\nprompt='x'"), "plan")


def test_each_line_becomes_a_task_with_a_stable_name() -> None:
    """Lines stand in place of {}, JSON lines give several variables, and a repeated line is one task."""
    each = tasks_of_lines(["src/a.py", "", "src/b.py", "src/a.py"], "Type {} (not {this}).")
    assert each.repeated == 1
    assert [*each.prompts.values()] == ["Type src/a.py (not {this}).", "Type src/b.py (not {this})."]
    assert [name.rpartition("-")[0] for name in each.prompts] == ["src-a-py", "src-b-py"]
    assert [*each.prompts] == [*tasks_of_lines(["src/a.py", "src/b.py"], "Other {}").prompts]
    json_lines = tasks_of_lines(['{"id": 7, "title": "Crash"}'], "Fix #{id}: {title}")
    assert json_lines.prompts == {next(iter(json_lines.prompts)): "Fix #7: Crash"}
    for lines, prompt, said in [
        ([], "{}", "no lines"),
        (["a"], "nothing", "no {}"),
        (['{"id": 7}', "b"], "{id}", "line 2 is not a JSON"),
        (['{"id": 7}', '{"no": 7}'], "{id}", "line 2 has nothing for {id}"),
        (['{"id": 7}'], "{id} {title}", "line 1 has no 'title'"),
    ]:
        with pytest.raises(UsageError) as raised:
            tasks_of_lines(lines, prompt)
        assert said in raised.value.message


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("db/**", "db/users.sql", True),
        ("db", "db/a/b", True),
        ("**/*.py", "src/a.py", True),
        ("src/*.py", "src/*.md", False),
        ("src/a*", "src/*b", True),
        ("src/a?", "src/abc", False),
        ("src/[ab].py", "src/c.py", True),  # a class may be anything
        ("docs/**", "src/**", False),
        ("**", "a", True),
        ("a/*/c", "a/b/**", True),
        ("x*z", "y*", False),
    ],
)
def test_globs_overlap_if_a_path_may_match_both(one: str, other: str, meet: bool) -> None:  # noqa: FBT001
    """Two globs overlap in either order, and a path that both match proves it."""
    assert overlapping([one], [other]) is overlapping([other], [one]) is meet


def test_what_is_outside_of_globs() -> None:
    """Paths that no glob matches are named; no globs match nothing."""
    assert outside(["db/a", "db/b/c", "src/x.py", "y.py"], ["db", "*.py"]) == ["src/x.py"]


def test_where_a_task_is_run() -> None:
    """A task's own host comes first, and `here` is none; it is no part of what is to be done."""
    plan = parsed("""
        host = "lab:n2"
        [task.a]
        prompt = "A."
        [task.b]
        prompt = "B."
        host = "here"
    """)
    assert (plan.tasks["a"].host, plan.tasks["b"].host) == ("lab:n2", None)
    assert plan.tasks["a"].digest == parsed("[task.a]\nprompt = 'A.'").tasks["a"].digest
    assert parsed("[task.a]\nprompt = 'A.'", instead={"host": "gpu"}).tasks["a"].host == "gpu"
    for wrong in ("host = 'a b'", "host = 'a:b:c'", "host = 3", "host = 'gpu'\nsecret = ['KEY']"):
        with pytest.raises(ConfigError, match="host"):
            parsed(f"[task.a]\nprompt = 'A.'\n{wrong}")
