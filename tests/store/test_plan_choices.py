"""What a turn asks its tool for: the model and effort that the session has kept, and where its agent may write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csa.errors import NotFoundError, RefusedError, UsageError
from csa.model.permission import Permission
from csa.model.state import ToolState
from csa.runner.request import RunRequest
from csa.runner.turns.failover import plan_fallback
from csa.runner.turns.plan import TurnPlan
from csa.runner.turns.planning import plan_turn
from csa.store.held import open_session
from csa.store.sessions import Store
from csa.structs import replace
from tests.store.support import IDS, NOON, PLAIN, finished_session
from tests.store.test_plan import make_setting

ROOT, CHILD, NEW = IDS[0], IDS[1], IDS[4]
Planner = Callable[..., TurnPlan]
CONFIG = {"tools": {"codex": {"model": "configured", "effort": "low"}}}


@pytest.fixture
def plan(store: Store) -> Planner:
    """Return a function that plans a request."""

    def make(*, inside: str | None = None, config: dict[str, Any] | None = None, **request: Any) -> TurnPlan:
        context = make_setting(store, inside=inside, config=config)
        asked = RunRequest(**{"prompt": "do it", "tool": "codex", **request})
        return plan_turn(context, asked, new_id=NEW, now=NOON)

    return make


def keep(store: Store, **values: Any) -> None:
    """Make a session with a codex conversation that was asked for these."""
    finished_session(store, ROOT)
    with open_session(store, ROOT, PLAIN) as held:
        held.save(replace(held.state, tools={"codex": ToolState(provider_session_id="p", **values)}))


@pytest.mark.parametrize(
    ("asked", "known", "config", "model", "origin"),
    [
        ("asked", "kept", CONFIG, "asked", "--model"),
        (None, "kept", CONFIG, "kept", "session"),
        (None, None, CONFIG, "configured", "user"),
        (None, None, None, None, "tool"),
        ("default", "kept", CONFIG, "configured", "user"),
        ("default", "kept", None, None, "tool"),
    ],
)
def test_which_model(  # noqa: PLR0917  # a table
    plan: Planner, store: Store, asked: str | None, known: str | None, config: Any, model: str | None, origin: str
) -> None:
    """An option, else what the session has kept, else the configuration, else the tool's own; the effort likewise."""
    keep(store, model=known, effort=known)
    made = plan(session=ROOT, model=asked, config=config)
    assert (made.model, made.origins["model"]) == (model, origin)
    other = plan(session=ROOT, effort=asked, config=config)
    expected = "low" if model == "configured" else model
    assert (other.effort, other.origins["effort"]) == (expected, origin.replace("--model", "--effort"))


def test_no_model_is_no_name(plan: Planner) -> None:
    """An empty option is a mistake, and does not silently mean something else."""
    with pytest.raises(UsageError, match="--model is empty"):
        plan(model="")


def test_a_fork_has_the_models_of_its_source(plan: Planner, store: Store) -> None:
    """The copy of a conversation goes on with the same model; with another tool it is not asked for."""
    keep(store, model="kept", effort="high")
    fork = plan(fork_from=ROOT, tool=None)
    assert (fork.model, fork.effort) == ("kept", "high")
    assert plan(fork_from=ROOT, tool="claude-code").model is None


def test_from_where_limits_come(plan: Planner) -> None:
    """A plan says which source a limit has."""
    assert plan().origins["timeout_s"] == "default"
    assert plan(config={"timeout_s": 9}).origins["timeout_s"] == "user"
    assert plan(timeout_s=3.0, idle_timeout_s=2.0).origins["timeout_s"] == "--timeout"


def test_a_fallback_may_name_a_model(plan: Planner, store: Store) -> None:
    """TOOL:MODEL, cut at the first colon; the same tool can stand in for itself with another model."""
    keep(store, model="big")
    names = ("codex", "codex:big", "codex:small", "opencode:p/m:free")
    failed = plan(session=ROOT, model="big", fallback=names)
    assert failed.fallback == ("codex:small", "opencode:p/m:free")
    first, _ = plan_fallback(failed, kind="overloaded")
    assert first is not None
    assert (first.adapter.name, first.model) == ("codex", "small")
    second, _ = plan_fallback(first, kind="overloaded")
    assert second is not None
    assert (second.adapter.name, second.model, second.fallback) == ("opencode", "p/m:free", ())


@pytest.mark.parametrize("words", ["codex:", ":big", "auto", "auto:x", "nothing-like-it:m"])
def test_a_fallback_that_names_nothing(plan: Planner, words: str) -> None:
    """It is refused before anything is begun."""
    with pytest.raises(UsageError):
        plan(tool="claude-code", fallback=(words,))


def test_extra_directories(plan: Planner, store: Store, tmp_path: Path) -> None:
    """They are absolute, kept by the session, replaced when others are asked for, and given up for an empty name."""
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    one = str((tmp_path / "one").resolve())
    assert plan(extra_writable=(str(tmp_path / "link"), one)).state.extra_writable == (one,)
    finished_session(store, ROOT, extra_writable=(one,))
    assert plan(session=ROOT).state.extra_writable == (one,)
    assert plan(session=ROOT, extra_writable=("",)).state.extra_writable == ()
    with pytest.raises(NotFoundError, match="no directory"):
        plan(extra_writable=(str(tmp_path / "none"),))
    with pytest.raises(UsageError, match="--permission edit"):
        plan(extra_writable=(one,), permission=Permission.READ_ONLY)


def test_a_tool_without_a_way(plan: Planner, tmp_path: Path) -> None:
    """Over ACP csa knows none; at full none is needed."""
    config = {"tools": {"codex": {"transport": "acp", "command": ["codex"]}}}
    with pytest.raises(UsageError, match="codex over ACP has no way"):
        plan(extra_writable=(str(tmp_path),), config=config)
    made = plan(extra_writable=(str(tmp_path),), config=config, permission=Permission.FULL)
    assert made.state.extra_writable == (str(tmp_path.resolve()),)


def test_no_more_than_the_caller_has(plan: Planner, store: Store, tmp_path: Path) -> None:
    """A child may write where its parent may: in its project and further directories, and at full anywhere."""
    inside, outside, given = store.project / "part", tmp_path / "outside", tmp_path / "given"
    for path in (inside, outside, given, given / "below"):
        path.mkdir(parents=True)
    finished_session(store, ROOT, permission="edit", extra_writable=(str(given.resolve()),))
    below = str((given / "below").resolve())
    assert plan(inside=ROOT, extra_writable=(str(inside), below)).state.extra_writable[1] == below
    with pytest.raises(RefusedError, match="is outside the directories that session"):
        plan(inside=ROOT, extra_writable=(str(outside),))
    with pytest.raises(RefusedError):
        plan(inside=ROOT, extra_writable=(f"{given}/../outside",))
    finished_session(store, CHILD, parent_session_id=ROOT, depth=1, extra_writable=(below, str(outside.resolve())))
    assert plan(inside=ROOT, session=CHILD).state.extra_writable == (below,)
    finished_session(store, IDS[2], permission="full")
    assert plan(inside=IDS[2], extra_writable=(str(outside),)).state.extra_writable == (str(outside.resolve()),)
