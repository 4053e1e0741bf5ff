"""state.toml as values: what is read, what is refused, what is written."""

import tomllib
from datetime import UTC, datetime
from typing import Any

import pytest

from csa.model.limits import Budget, Limits
from csa.model.recordkeys import NewerSchemaFault, RecordFault
from csa.model.state import (
    SessionState,
    ToolState,
    format_time,
    parse_state,
    parse_time,
    render_state,
)
from csa.model.usage import Usage, counted
from csa.store.tomlfile import render_toml

ID = "01JH4QWERT1234567890ABCDEF"
PARENT = "01JH4QWERT0000000000000000"
NOON = datetime(2024, 2, 6, 12, tzinfo=UTC)
FOREIGN = f"""
meta_session_id = "{ID}"
description = "Auth refactor"
project_path = "/home/user/project"
created_at = 2024-02-06T10:00:00Z
last_accessed = 2024-02-06T14:30:00Z
unknown = "kept by the writer"

[genealogy]
parent_session_id = "{PARENT}"
depth = 1

[context_status]
is_compacted = true
last_compacted_at = "2024-02-06T12:00:00Z"

[tools.codex]
provider_session_id = "thread_abc123"
last_action_summary = "Reviewed auth flow"
last_exit_code = 0
updated_at = 2024-02-06T14:30:00Z

[tools.gemini-cli]
last_exit_code = 1
updated_at = "2024-02-06T11:00:00Z"
"""


def minimal(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "meta_session_id": ID,
        "project_path": "/p",
        "created_at": NOON,
        "last_accessed": NOON,
        **changes,
    }
    return {key: value for key, value in record.items() if value is not None}


def test_a_foreign_record_is_read() -> None:
    """The keys of other implementations are enough, and the rest has defaults."""
    state = parse_state(tomllib.loads(FOREIGN))
    assert (state.session_id, state.description, state.project_path) == (ID, "Auth refactor", "/home/user/project")
    assert (state.parent_session_id, state.depth, state.root_session_id) == (PARENT, 1, None)
    assert state.created_at == datetime(2024, 2, 6, 10, tzinfo=UTC)
    assert (state.phase, state.turns, state.name, state.schema) == ("active", 0, None, None)
    assert state.usage == counted(None)
    assert state.tools["codex"].provider_session_id == "thread_abc123"
    assert state.tools["gemini-cli"].updated_at == datetime(2024, 2, 6, 11, tzinfo=UTC)
    assert state.last_tool == "codex"


@pytest.mark.parametrize(
    "written",
    [
        "2024-02-06T12:00:00Z",
        "2024-02-06T12:00:00.000Z",
        "2024-02-06T14:00:00+02:00",
        "2024-02-06T12:00:00+00:00",
        "2024-02-06 12:00:00",
        datetime(2024, 2, 6, 12),  # noqa: DTZ001  # a TOML local date-time
    ],
)
def test_times_may_be_strings_or_dates(written: object) -> None:
    """Strings and TOML date-times of any offset mean the same moment, in UTC."""
    assert parse_state(minimal(created_at=written)).created_at == NOON
    assert parse_time(written) == NOON


def test_what_is_no_time() -> None:
    """Other values are no times."""
    assert [parse_time(value) for value in (None, 5, "yesterday", "")] == [None] * 4


def test_times_are_written_in_utc_with_milliseconds() -> None:
    """Written times end in Z."""
    assert format_time(datetime.fromisoformat("2024-02-06T14:00:00.1239+02:00")) == "2024-02-06T12:00:00.123Z"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"meta_session_id": None}, "meta_session_id"),
        ({"meta_session_id": "nonsense"}, "meta_session_id"),
        ({"meta_session_id": 5}, "meta_session_id"),
        ({"context_status": {"is_compacted": "yes"}}, "is_compacted"),
        ({"genealogy": {"fork_of": "nonsense"}}, "fork_of"),
        ({"project_path": None}, "project_path"),
        ({"created_at": None, "meta_session_id": "7ZZZZZZZZZ0000000000000000"}, "created_at"),
        ({"created_at": "soon"}, "created_at"),
        ({"last_accessed": 7}, "last_accessed"),
        ({"last_accessed": "0001-01-01T00:00:00+01:00"}, "last_accessed"),
        ({"expires_at": datetime.fromisoformat("9999-12-31T23:59:59-12:00")}, "expires_at"),
        ({"description": 7}, "description"),
        ({"phase": 5}, "phase"),
        ({"turn_count": -1}, "turn_count"),
        ({"total_token_usage": {"input_tokens": -1}}, "total_token_usage.input_tokens"),
        ({"turns": "many"}, "turns"),
        ({"turns": True}, "turns"),
        ({"schema": "one"}, "schema"),
        ({"ephemeral": "no"}, "ephemeral"),
        ({"genealogy": 5}, "genealogy"),
        ({"genealogy": {"depth": -1}}, "genealogy.depth"),
        ({"genealogy": {"depth": "0"}}, "depth"),
        ({"genealogy": {"parent_session_id": "root"}}, "parent_session_id"),
        ({"tools": []}, "tools"),
        ({"tools": {"codex": "thread"}}, "tools.codex"),
        ({"tools": {"codex": {"last_exit_code": "0"}}}, "last_exit_code"),
        ({"tools": {"codex": {"totals": {"input_tokens": "many"}}}}, "totals"),
        ({"usage": 3}, "usage"),
        ({"usage": {"input_tokens": "many"}}, "input_tokens"),
        ({"usage": {"output_tokens": [1]}}, "output_tokens"),
        ({"usage": {"cost_usd": "free"}}, "cost_usd"),
        ({"usage": {"cost_usd": float("nan")}}, "usage.cost_usd"),
        ({"usage": {"input_tokens": -5}}, "usage.input_tokens"),
        ({"usage": {"turns_unpriced": 10**400}}, "usage.turns_unpriced"),
        ({"turns": -1}, "turns"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], key: str) -> None:
    """A missing or wrong value is a fault that names its key."""
    with pytest.raises(RecordFault) as caught:
        parse_state(minimal(**changes))
    assert key in caught.value.key


def test_a_newer_schema_is_refused() -> None:
    """What a newer csa wrote is not guessed at."""
    with pytest.raises(NewerSchemaFault, match="newer csa"):
        parse_state(minimal(schema=3))
    assert parse_state(minimal(schema=1)).schema == 1


def test_rendering_and_reading_again_loses_nothing() -> None:
    """A whole state survives being written and read."""
    state = SessionState(
        session_id=ID,
        project_path="/p",
        created_at=NOON,
        last_accessed=NOON,
        description="what",
        name="auth",
        owner="user@host",
        branch="feat/auth",
        permission="edit",
        ephemeral=True,
        phase="available",
        turns=3,
        parent_session_id=PARENT,
        parent_project="/q",
        root_session_id=PARENT,
        depth=1,
        max_depth=5,
        fork_of=ID,
        is_compacted=True,
        last_compacted_at="2024-02-06T12:00:00Z",
        tools={"codex": ToolState(provider_session_id="t", cwd="/p", account="~/.codex", totals={"input_tokens": 7.0})},
        usage=Usage(10, 20, 5, 0.5, 1, 2),
        duration_s=2.5,
        limits=Limits(max_children=2, tools={"codex": 1}),
        budget=Budget(tokens=100, usd=1.5, time_s=60.0),
        schema=1,
    )
    assert parse_state(render_state(state)) == state


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"cost_usd": 0.0, "turns_unpriced": 2}, None),  # as older versions wrote it
        ({"cost_usd": 0.0}, 0.0),
        ({"cost_usd": 0.5, "turns_unpriced": 2}, 0.5),
        ({}, None),
    ],
)
def test_a_cost_that_is_not_known_is_none(written: dict[str, Any], read: float | None) -> None:
    """It is not written, and a sum of nothing beside turns of unknown cost is none."""
    state = parse_state(minimal(schema=1, usage={"input_tokens": 5, **written}))
    assert state.usage.cost_usd == read
    assert render_state(state)["usage"]["cost_usd"] == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2024-02-06T12:00:00Z", "2024-02-06T12:00:00Z"),
        (NOON, "2024-02-06T12:00:00.000Z"),
        ("", None),
        (5, None),
        (None, None),
    ],
)
def test_the_time_of_a_compaction_is_a_string(written: object, read: str | None) -> None:
    """As other implementations write it, and unchanged where they have; a TOML date-time becomes one."""
    state = parse_state(minimal(context_status={"is_compacted": True, "last_compacted_at": written}))
    assert (state.is_compacted, state.last_compacted_at) == (True, read)
    assert render_state(state)["context_status"] == {"is_compacted": True, "last_compacted_at": read}


def test_the_last_tool_is_the_one_updated_last() -> None:
    """Without times the file's order decides; a tool with a time goes before one without."""
    plain = minimal(tools={"a": {}, "b": {}})
    assert parse_state(plain).last_tool == "b"
    assert parse_state(minimal()).last_tool is None
    assert parse_state(minimal(tools={"a": {"updated_at": NOON}, "b": {}})).last_tool == "a"


def test_what_another_implementation_leaves_out_and_adds() -> None:
    """Times that are missing are those of the id; its counts, sums and forks are read, and a phase that is new."""
    record = minimal(
        created_at=None,
        last_accessed=None,
        turn_count=3,
        phase="tool_exhausted",
        genealogy={"fork_of_session_id": PARENT},
        total_token_usage={"input_tokens": 5, "output_tokens": 2, "total_tokens": 7, "estimated_cost_usd": 0.5},
    )
    state = parse_state(record)
    assert state.created_at == state.last_accessed == datetime(2025, 1, 9, 5, 16, 37, 18000, tzinfo=UTC)
    assert (state.turns, state.phase, state.fork_of) == (3, "tool_exhausted", PARENT)
    assert state.usage == Usage(5, 2, 0, 0.5)
    assert render_state(state)["turn_count"] == 3
    assert parse_state(minimal(total_token_usage={"total_tokens": 7})).usage == Usage(7, turns_unpriced=1)
    assert "turn_count" not in {key for key, value in render_state(parse_state(minimal())).items() if value is not None}


def test_a_session_without_worktree_has_no_table_of_it() -> None:
    """Lists of ten thousand sessions tell by the bytes of their records which of them have one."""
    text = render_toml(render_state(parse_state(minimal())))
    assert b"worktree" not in text
    assert b"[task]" not in text
