"""Collecting, against a naive model, over stores of all kinds of sessions."""

import os
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from csa.model.collection import Rule
from csa.model.state import SessionState, ToolState
from csa.paths import SessionPaths
from csa.runner.client import Csa
from csa.runner.sessions.collecting import carry_out, plan_collection, preview
from csa.store.locks import acquire_lock
from csa.store.sessions import Store
from csa.store.statefile import create_state, load_state
from csa.structs import Struct, replace
from tests.effort import examples
from tests.support import snapshot

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
LIMIT_DAYS = 30
AGES = (
    timedelta(0),
    -DAY,
    DAY * LIMIT_DAYS,
    DAY * (LIMIT_DAYS + 1) - TICK,
    DAY * (LIMIT_DAYS + 1),
    DAY * (LIMIT_DAYS + 1) + timedelta(seconds=1),
    DAY * 400,
)


class Kind(Struct):
    """A session as it is to be made."""

    age: timedelta
    tools: tuple[str, ...]
    pinned: bool
    ephemeral: bool
    expires: timedelta | None  # from now
    style: str  # plain, foreign, long
    locked: bool
    damaged: bool


KINDS = st.builds(
    Kind,
    age=st.sampled_from(AGES),
    tools=st.lists(st.sampled_from(["codex", "claude-code"]), max_size=2, unique=True).map(tuple),
    pinned=st.sampled_from([False, False, True]),
    ephemeral=st.sampled_from([False, False, False, True]),
    expires=st.sampled_from([None, None, timedelta(seconds=-1), timedelta(0), DAY]),
    style=st.sampled_from(["plain", "foreign", "long"]),
    locked=st.sampled_from([False, False, True]),
    damaged=st.sampled_from([False, False, False, True]),
)
RULES = st.builds(
    Rule,
    days=st.just(LIMIT_DAYS),
    tools=st.sampled_from([frozenset(), frozenset({"codex"}), frozenset({"codex", "claude-code"})]),
    damaged=st.booleans(),
    purge=st.booleans(),
) | st.sampled_from([Rule(), Rule(older_than=DAY * LIMIT_DAYS), Rule(days=0), Rule(days=10**9)])


def is_to_go(kind: Kind, rule: Rule) -> bool:
    """The rules in the words of the contract."""
    if kind.locked:
        return False
    is_old = rule.days is not None and kind.age // DAY > rule.days
    is_old = is_old or (rule.older_than is not None and kind.age > rule.older_than)
    if kind.damaged:
        return rule.damaged and not rule.tools and is_old
    if kind.pinned or (rule.tools and not (kind.tools and set(kind.tools) <= rule.tools)):
        return False
    return is_old or kind.ephemeral or (kind.expires is not None and kind.expires <= timedelta(0))


def make(store: Store, number: int, kind: Kind, *, retired: bool = False) -> SessionPaths:
    """Make a session of that kind."""
    session_id = f"01JH4QWERT00000000000000{number:02d}"
    paths = store.retired_paths(session_id) if retired else store.paths(session_id)
    (paths.root / "locks").mkdir(parents=True, mode=0o700)
    used = NOW - kind.age
    state = SessionState(
        session_id=session_id,
        project_path=str(store.project),
        created_at=used,
        last_accessed=used,
        description="work",
        tools={tool: ToolState(last_exit_code=0) for tool in kind.tools},
        pinned=kind.pinned,
        ephemeral=kind.ephemeral,
        expires_at=None if kind.expires is None else NOW + kind.expires,
    )
    if retired:
        state = replace(state, phase="retired", retired_at=used, retired_phase="active")
    create_state(paths.state, state)
    text = paths.state.read_text()
    if kind.style == "foreign":
        text = text.replace("schema = 1\n", "# written elsewhere\n").replace("Z\n", "+00:00\n")
    elif kind.style == "long":
        late = "last_accessed = 2099-01-01T00:00:00Z"
        text = text.replace('description = "work"', f'description = """\n{late}\n"""')
    paths.state.write_text(text)
    if kind.damaged:
        paths.state.write_text("not toml\n" + text)
        for path in (paths.state, paths.root):
            os.utime(path, (used.timestamp(), used.timestamp()))
    return paths


@examples(40)
@given(st.lists(KINDS, max_size=5), st.lists(KINDS.filter(lambda kind: not kind.damaged), max_size=2), RULES)
def test_what_is_named_is_what_goes(kinds: list[Kind], retired: list[Kind], rule: Rule) -> None:
    """A dry run writes nothing and names exactly what the real run takes: what the contract says, and nothing else."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as locks:
        project = Path(place, "project").resolve()
        project.mkdir()
        client = Csa(project, root=Path(place, "state"))
        store = client.store
        made = [make(store, number, kind) for number, kind in enumerate(kinds)]
        gone = [make(store, number + 50, kind, retired=True) for number, kind in enumerate(retired)]
        for paths, kind in zip(made + gone, kinds + retired, strict=True):
            if kind.locked:
                locks.enter_context(acquire_lock(paths.session_lock))
        before = snapshot(store.path)

        plan = plan_collection(client.context, store, rule, NOW)
        named = preview(plan)
        assert snapshot(store.path) == before

        expected = {p.root.name for p, kind in zip(made, kinds, strict=True) if is_to_go(kind, rule)}
        taken = {item.session_id for item in [*named.retired, *named.purged] if item.reason != "retired"}
        assert taken == expected
        report = carry_out(client.context, plan_collection(client.context, store, rule, NOW), "session clean")
        assert not report.failures
        ended = {item.session_id for item in [*report.retired, *report.purged] if item.reason != "retired"}
        assert ended == expected
        assert {paths.root.name for paths in made if not paths.root.exists()} == expected
        for paths in made:
            if paths.root.name not in expected:
                kept = {path: what for path, what in before.items() if path.startswith(str(paths.root))}
                assert snapshot(paths.root).items() <= kept.items()
        for item in report.retired:
            if item.state:
                state = load_state(store.retired_paths(item.session_id).state)
                assert (state.phase, state.retired_at, state.retired_phase) == ("retired", NOW, "active")


@examples(15)
@given(st.lists(st.tuples(KINDS, st.sampled_from(AGES)), min_size=1, max_size=3), RULES)
def test_retired_sessions_are_kept_for_the_time_to_undo(kinds: list[tuple[Kind, timedelta]], rule: Rule) -> None:
    """A retired session is purged when its time is over, or with --purge, whatever else it is; not one that is held."""
    rule = replace(rule, undo_days=LIMIT_DAYS)
    with tempfile.TemporaryDirectory() as place, ExitStack() as locks:
        project = Path(place, "project").resolve()
        project.mkdir()
        client = Csa(project, root=Path(place, "state"))
        store, expected, every = client.store, set(), set()
        for number, (kind, since) in enumerate(kinds):
            plain = replace(kind, damaged=False, age=since, style="plain")
            paths = make(store, number, plain, retired=True)
            every.add(paths.root.name)
            if kind.locked:
                locks.enter_context(acquire_lock(paths.session_lock))
                continue
            is_of_tools = not rule.tools or (bool(kind.tools) and set(kind.tools) <= rule.tools)
            if since >= DAY * LIMIT_DAYS or (rule.purge and is_of_tools):
                expected.add(paths.root.name)
        assert {
            item.session_id for item in preview(plan_collection(client.context, store, rule, NOW)).purged
        } == expected
        carry_out(client.context, plan_collection(client.context, store, rule, NOW), "gc")
        left = {session_id for session_id in every if store.retired_paths(session_id).root.exists()}
        assert every - left == expected
