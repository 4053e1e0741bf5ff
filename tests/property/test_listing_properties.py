"""Filters of sessions: what a record's text rules out, reading it would have refused as well."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from csa.model.state import SessionState, ToolState, render_state
from csa.paths import SessionPaths
from csa.runner.sessions.listing import Selection
from csa.store.sessions import Record, Store
from csa.store.tomlfile import render_toml

NOON = datetime(2024, 2, 6, 12, tzinfo=UTC)
SESSION = "01JH4QWERT1234567890ABCDEF"
WORDS = st.sampled_from(["codex", "claude-code", "main", "feat/ü", 'quo"te', "back\\slash", "tab\there", "a", ""])
NAMES = WORDS | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(
    tools=st.lists(NAMES.filter(bool), max_size=2),
    branch=st.none() | NAMES,
    owner=st.none() | NAMES,
    asked_tools=st.frozensets(NAMES, max_size=2),
    asked_branch=st.none() | NAMES,
    asked_owner=st.none() | NAMES,
)
def test_ruling_out_agrees_with_reading(
    *,
    tools: list[str],
    branch: str | None,
    owner: str | None,
    asked_tools: frozenset[str],
    asked_branch: str | None,
    asked_owner: str | None,
) -> None:
    """A session that fits is never ruled out by its text, however its names are spelled there."""
    state = SessionState(
        session_id=SESSION,
        project_path="/p",
        created_at=NOON,
        last_accessed=NOON,
        branch=branch,
        owner=owner,
        tools={tool: ToolState() for tool in tools},
    )
    selection = Selection(tools=asked_tools, branch=asked_branch, owner=asked_owner)
    if selection.accepts(Record(Store("/", "/"), SESSION, SessionPaths("/none"), state)):
        assert selection.sieve()(render_toml(render_state(state)))
