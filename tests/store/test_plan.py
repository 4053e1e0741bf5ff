"""What a run is to be, and everything that is refused before anything is written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csa.errors import ConfigError, CsaError, NotFoundError, RefusedError, ToolUnavailableError, UsageError
from csa.model.config import Layer, combine_layers
from csa.model.permission import Permission
from csa.model.state import ToolState
from csa.runner.caller import find_caller
from csa.runner.context import Context
from csa.runner.environment import session_environment
from csa.runner.request import RunRequest
from csa.runner.session import find_session
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_turn
from csa.store.held import open_session
from csa.store.sessions import Store
from csa.structs import replace
from tests.store.support import IDS, NOON, PLAIN, finished_session
from tests.support import snapshot

ROOT, CHILD, GRANDCHILD, OTHER, NEW = IDS[:5]
Planner = Callable[..., TurnPlan]


def make_setting(
    store: Store, *, inside: str | None = None, config: dict[str, Any] | None = None, home: Store | None = None
) -> Context:
    """Return where csa runs: at the top, or inside a session of the store (or of another one)."""
    environ = dict(os.environ)
    if inside:
        place = home or store
        state = place.load(inside)
        environ |= session_environment(state, place.paths(inside), turn=1, tool="codex", root=store.root)
    return Context(
        store=store,
        environ=environ,
        directory=store.project,
        config=lambda _: combine_layers([Layer("user", config or {})]),
        caller=lambda: find_caller(environ, store.root),
    )


@pytest.fixture
def plan(store: Store) -> Planner:
    """Return a function that plans a request, and checks that planning writes nothing."""

    def make(*, inside: str | None = None, config: dict[str, Any] | None = None, **request: Any) -> TurnPlan:
        before = snapshot(store.root)
        try:
            return plan_turn(
                make_setting(store, inside=inside, config=config),
                RunRequest(**{"prompt": "do it", "tool": "codex", **request}),
                new_id=NEW,
                now=NOON,
            )
        finally:
            assert snapshot(store.root) == before

    return make


@pytest.fixture
def family(store: Store) -> Store:
    """A root, its child and grandchild, and a stranger."""
    finished_session(store, ROOT, permission="full", max_depth=5)
    finished_session(
        store, CHILD, parent_session_id=ROOT, root_session_id=ROOT, depth=1, permission="edit", max_depth=5
    )
    finished_session(
        store, GRANDCHILD, parent_session_id=CHILD, root_session_id=ROOT, depth=2, permission="read-only", max_depth=5
    )
    finished_session(store, OTHER, permission="full")
    return store


def test_a_new_root(plan: Planner, store: Store) -> None:
    """At the top level a run makes a root of depth 0, on the project's branch."""
    made = plan(prompt="Fix the tests\nnow", name="fix")
    state = made.state
    assert (made.is_new, state.session_id, state.name, state.description) == (True, NEW, "fix", "Fix the tests")
    assert (state.parent_session_id, state.root_session_id, state.depth, state.max_depth) == (None, None, 0, 5)
    assert (state.branch, state.project_path, made.cwd) == ("main", str(store.project), str(store.project))
    assert (made.permission, made.adapter.name) == (Permission.EDIT, "codex")
    assert made.command[0].endswith("/codex")
    assert state.owner == f"tester@{os.uname().nodename}"


def test_a_new_child(plan: Planner, family: Store) -> None:
    """Inside a session a run makes a child, one deeper, with the record's root and limit."""
    state = plan(inside=CHILD).state
    assert (state.parent_session_id, state.root_session_id, state.depth) == (CHILD, ROOT, 2)
    assert (state.max_depth, state.parent_project, state.permission) == (5, None, "edit")


def test_the_depth_limit(plan: Planner, store: Store) -> None:
    """Depths 0 to max_depth exist; the refusal names limit, value and record."""
    finished_session(store, ROOT, depth=4, max_depth=5)
    finished_session(store, CHILD, depth=5, max_depth=5, parent_session_id=ROOT)
    assert plan(inside=ROOT).state.depth == 5
    with pytest.raises(RefusedError, match=f"max_depth is 5: session {CHILD} has depth 5") as caught:
        plan(inside=CHILD)
    assert caught.value.exit_code == 5


def test_a_child_cannot_loosen_the_depth_limit(plan: Planner, store: Store) -> None:
    """The limit in force when the tree began holds, whatever the configuration says later; a stricter one counts."""
    finished_session(store, ROOT, depth=1, max_depth=1)
    with pytest.raises(RefusedError, match="max_depth is 1"):
        plan(inside=ROOT, config={"max_depth": 9})
    finished_session(store, CHILD, depth=1, max_depth=5)
    with pytest.raises(RefusedError, match="max_depth is 1"):
        plan(inside=CHILD, config={"max_depth": 1})
    assert plan(inside=CHILD, config={"max_depth": 3}).state.max_depth == 3


@pytest.mark.parametrize("selector", [GRANDCHILD, GRANDCHILD.lower(), GRANDCHILD[:26], "@self"])
def test_no_session_resumes_itself(plan: Planner, family: Store, selector: str) -> None:
    """However it is named, the own session is refused."""
    with pytest.raises(RefusedError, match="cannot resume itself"):
        plan(inside=GRANDCHILD, session=selector)


@pytest.mark.parametrize("selector", [CHILD, ROOT, ROOT.lower(), "@parent", "@root"])
def test_no_session_resumes_an_ancestor(plan: Planner, family: Store, selector: str) -> None:
    """However it is named, an ancestor is refused; --session-id is no way round."""
    with pytest.raises(RefusedError, match="ancestor"):
        plan(inside=GRANDCHILD, session=selector)
    if not selector.startswith("@"):
        with pytest.raises(RefusedError, match="ancestor"):
            plan(inside=GRANDCHILD, session_id=selector)


def test_an_ancestor_in_another_project_is_refused(store: Store, tmp_path: Path) -> None:
    """A chain that leads through another project and back is followed by its records."""
    other = Store(store.root, tmp_path / "other")
    other.project.mkdir()
    finished_session(store, ROOT)
    finished_session(other, CHILD, parent_session_id=ROOT, parent_project=str(store.project), depth=1)
    finished_session(store, GRANDCHILD, parent_session_id=CHILD, parent_project=str(other.project), depth=2)
    context = make_setting(store, inside=GRANDCHILD)
    with pytest.raises(RefusedError, match="ancestor"):
        plan_turn(context, RunRequest(prompt="x", tool="codex", session=ROOT), new_id=NEW, now=NOON)


def test_a_child_in_another_project_records_where_its_parent_is(store: Store, tmp_path: Path) -> None:
    """With --cd the parent is found through its own directory, and recorded with its project."""
    other = Store(store.root, tmp_path / "other")
    other.project.mkdir()
    finished_session(store, ROOT)
    made = plan_turn(
        make_setting(other, inside=ROOT, home=store), RunRequest(prompt="x", tool="codex"), new_id=NEW, now=NOON
    )
    assert (made.state.parent_session_id, made.state.parent_project) == (ROOT, str(store.project))
    assert (made.state.depth, made.state.project_path) == (1, str(other.project))


def test_a_child_or_a_stranger_may_be_resumed(plan: Planner, family: Store) -> None:
    """Sessions below and beside the caller are no ancestors."""
    assert plan(inside=CHILD, session=GRANDCHILD).state.session_id == GRANDCHILD
    assert plan(inside=CHILD, session=OTHER).state.session_id == OTHER
    assert plan(session=ROOT).is_new is False


def test_the_permission_ceiling(plan: Planner, family: Store) -> None:
    """A child has at most its parent's permission: asked for more is refused, inherited more is lowered."""
    with pytest.raises(RefusedError, match=f"'full' is more than the 'edit' of session {CHILD}"):
        plan(inside=CHILD, permission=Permission.FULL)
    assert plan(inside=CHILD, permission=Permission.READ_ONLY).permission is Permission.READ_ONLY
    assert plan(inside=GRANDCHILD).permission is Permission.READ_ONLY
    assert plan(inside=CHILD, config={"permission": "full"}).permission is Permission.EDIT
    assert plan(inside=CHILD, session=OTHER).permission is Permission.EDIT
    assert plan(permission=Permission.FULL).permission is Permission.FULL


def test_a_resumed_session_keeps_its_permission(plan: Planner, family: Store) -> None:
    """What a session ran with last is what it runs with next, unless another is asked for."""
    assert plan(session=OTHER).permission is Permission.FULL
    assert plan(session=GRANDCHILD).state.permission == "read-only"
    assert plan(session=OTHER, permission=Permission.EDIT).state.permission == "edit"


def set_tool(store: Store, session_id: str, **changes: Any) -> None:
    with open_session(store, session_id, PLAIN) as held:
        held.save(replace(held.state, tools={"codex": ToolState(**changes)}))


def test_another_account_is_refused(plan: Planner, family: Store, tmp_path: Path) -> None:
    """A conversation of another home or endpoint is not resumed under this one."""
    set_tool(family, OTHER, provider_session_id="t", account="/elsewhere/.codex")
    with pytest.raises(RefusedError, match=r"account /elsewhere/\.codex"):
        plan(session=OTHER)
    own = plan().account
    set_tool(family, OTHER, provider_session_id="t", account=own)
    assert plan(session=OTHER).account == own
    with pytest.raises(RefusedError, match="account"):
        plan(session=OTHER, config={"tools": {"codex": {"env": {"CODEX_HOME": str(tmp_path)}}}})
    set_tool(family, OTHER, account="/elsewhere/.codex")
    assert plan(session=OTHER).is_new is False


def test_a_session_runs_where_it_began(plan: Planner, family: Store, tmp_path: Path) -> None:
    """The recorded directory is used, and when it is gone that is said."""
    place = tmp_path / "place"
    place.mkdir()
    set_tool(family, OTHER, cwd=str(place))
    assert plan(session=OTHER).cwd == str(place)
    place.rmdir()
    with pytest.raises(NotFoundError, match=f"works in {place}, which is gone"):
        plan(session=OTHER)


def test_a_name_is_taken_once(plan: Planner, store: Store) -> None:
    """A new session may not take a name that is there; continuing the one that has it is fine."""
    finished_session(store, ROOT, name="auth")
    finished_session(store, OTHER, name="other")
    with pytest.raises(UsageError, match="'auth' exists"):
        plan(name="auth")
    with pytest.raises(UsageError, match="'auth' exists"):
        plan(session="other", name="auth")
    assert plan(session="auth", name="auth").state.session_id == ROOT
    assert plan(session="other", name="fresh").state.name == "fresh"


def test_an_asked_id_is_continued_or_created(plan: Planner, store: Store) -> None:
    """--session-id takes a ULID or a name, so that retries are idempotent."""
    made = plan(session_id=OTHER.lower())
    assert (made.is_new, made.state.session_id) == (True, OTHER)
    made = plan(session_id="nightly")
    assert (made.is_new, made.state.session_id, made.state.name) == (True, NEW, "nightly")
    finished_session(store, OTHER, name="nightly")
    for asked in (OTHER, OTHER.lower(), "nightly"):
        made = plan(session_id=asked)
        assert (made.is_new, made.state.session_id) == (False, OTHER)


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": ""},
        {"prompt": " \n"},
        {"prompt": "a\0b"},
        {"session": ""},
        {"session": " "},
        {"session": "@nobody"},
        {"session": OTHER, "last": True},
        {"session": OTHER, "session_id": OTHER},
        {"ephemeral": True, "last": True},
        {"ephemeral": True, "session_id": "x"},
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"name": "0start"},
        {"name": "a b"},
        {"name": ""},
        {"name": "a/b"},
        {"name": "x" * 65},
        {"name": "@last"},
        {"session_id": ""},
        {"session_id": "01JH"},
        {"session_id": "../x"},
        {"system": "x" * 200_000},
        {"tool": "codec"},
    ],
    ids=str,
)
def test_words_that_are_off(plan: Planner, family: Store, request_: dict[str, Any]) -> None:
    """Wrong words are usage errors, before anything else is looked at."""
    with pytest.raises(UsageError):
        plan(**request_)


def test_a_name_that_is_an_id_is_refused(plan: Planner) -> None:
    """A name that looks like an id could never be told from one."""
    with pytest.raises(UsageError):
        plan(name=OTHER)


def test_what_is_not_there(plan: Planner, family: Store) -> None:
    """Unknown sessions, and @self outside of one, are not found."""
    for session in ("nobody", IDS[9], "@self", "@parent", "@root"):
        with pytest.raises(NotFoundError):
            plan(session=session)
    with pytest.raises(NotFoundError, match="no child session"):
        plan(inside=GRANDCHILD, last=True)


def test_a_tool_that_is_not_installed(plan: Planner) -> None:
    """A missing tool is named, with what to do."""
    with pytest.raises(ToolUnavailableError, match="not installed") as caught:
        plan(config={"tools": {"codex": {"command": ["/nowhere/codex"]}}})
    assert caught.value.hint


def test_which_tool_runs(plan: Planner, family: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, else the session's last, else configured, else the first that shows a login, of another family."""
    assert plan(tool="claude-code", session=OTHER).adapter.name == "claude-code"
    assert plan(tool=None, session=OTHER, config={"tool": "claude-code"}).adapter.name == "codex"
    assert plan(tool=None, config={"tool": "claude-code"}).adapter.name == "claude-code"
    assert plan(tool=None).adapter.name == "codex"
    assert plan(tool=None, config={"tools_order": ["claude-code"]}).adapter.name == "claude-code"
    assert plan(tool=None, inside=CHILD).adapter.name == "claude-code"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test")
    assert plan(tool="auto", config={"tool": "codex"}).adapter.name == "claude-code"
    assert plan(tool="codex", session=OTHER).tool_state.last_exit_code is None


def test_settings_and_requests(plan: Planner) -> None:
    """What is asked for goes before what is configured."""
    config = {"timeout_s": 60, "tools": {"codex": {"model": "m", "effort": "low"}}}
    configured, asked = plan(config=config), plan(config=config, model="n", effort="high", timeout_s=5)
    assert (configured.model, configured.effort, configured.timeout_s) == ("m", "low", 60)
    assert (asked.model, asked.effort, asked.timeout_s) == ("n", "high", 5)
    assert plan().timeout_s is None


def test_a_description_holds_no_secret(plan: Planner) -> None:
    """What the prompt begins with is recorded redacted and short."""
    made = plan(prompt="use ghp_abcdefghijklmnopqrstuvwxyz0123456789 " + "x" * 200)
    assert made.state.description.startswith("use [REDACTED] xxx")
    assert len(made.state.description) == 80
    assert plan(description="own words").state.description == "own words"


def test_selectors_inside_a_session(family: Store) -> None:
    """@self, @parent, @root and @last mean what the caller's record says."""
    context = make_setting(family, inside=CHILD)
    found = {name: find_session(context, name).session_id for name in ("@self", "@parent", "@root", "@last")}
    assert found == {"@self": CHILD, "@parent": ROOT, "@root": ROOT, "@last": GRANDCHILD}
    assert find_session(make_setting(family), "@last").session_id in {ROOT, OTHER}
    root = make_setting(family, inside=ROOT)
    assert find_session(root, "@root").session_id == ROOT
    with pytest.raises(CsaError, match="no parent"):
        find_session(root, "@parent")


def test_a_start_directory_that_is_missing(plan: Planner, tmp_path: Path) -> None:
    """A new session cannot start where there is nothing."""
    with pytest.raises(CsaError, match=r"nowhere"):
        plan(directory=tmp_path / "nowhere")


def test_fallback_is_asked_for_or_configured(plan: Planner) -> None:
    """A flag replaces the configuration, an empty one turns it off; the tool that runs is no fallback of itself."""
    configured = {"fallback": ["gemini-cli", "codex", "claude-code"]}
    assert plan(config=configured).fallback == ("gemini-cli", "claude-code")
    assert plan(config=configured, fallback=("opencode", "opencode")).fallback == ("opencode",)
    assert plan(config=configured, fallback=()).fallback == ()
    assert plan().fallback == ()


@pytest.mark.parametrize("name", ["auto", "cloude-code"])
def test_fallback_that_is_no_tool(plan: Planner, name: str) -> None:
    """Whoever wrote it is told."""
    with pytest.raises(UsageError):
        plan(fallback=(name,))
    with pytest.raises((ConfigError, UsageError), match="fallback"):
        plan(config={"fallback": [name]})


def test_fallback_for_a_tool_that_is_not_installed(
    plan: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first one that is installed begins, without the model that was meant for another."""
    (tmp_path / "claude").symlink_to(shutil.which("claude") or "")
    monkeypatch.setenv("PATH", str(tmp_path))
    made = plan(fallback=("gemini-cli", "claude-code", "opencode"), model="gpt-5", effort="high")
    assert (made.adapter.name, made.model, made.effort) == ("claude-code", None, None)
    assert made.why_tool == "fallback: codex is not installed"
    assert made.fallback == ("gemini-cli", "opencode")
    assert plan(tool="claude-code", model="opus").model == "opus"
    with pytest.raises(ToolUnavailableError, match="codex"):
        plan(fallback=("gemini-cli",))


def test_retries_and_handoff(plan: Planner) -> None:
    """Two retries and a handoff unless asked or configured otherwise."""
    assert (plan().retries, plan().hands_over) == (2, True)
    configured = {"retries": 5, "handoff": "off"}
    assert (plan(config=configured).retries, plan(config=configured).hands_over) == (5, False)
    made = plan(config=configured, retries=0, handoff=True)
    assert (made.retries, made.hands_over) == (0, True)
    with pytest.raises(UsageError):
        plan(retries=-1)
