"""Which sessions are old: the rule, at its edges."""

from datetime import UTC, datetime, timedelta

import pytest

from csa.model.collection import Rule
from csa.model.state import SessionState, ToolState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, TICK = timedelta(days=1), timedelta(microseconds=1)


def used(ago: timedelta, **changes: object) -> SessionState:
    """Return the state of a session that was last used so long ago."""
    fields = {"expires_at": None, "pinned": False, "ephemeral": False, **changes}
    return SessionState(
        session_id="01JH4QWERT0000000000000001",
        project_path="/project",
        created_at=NOW - 400 * DAY,
        last_accessed=NOW - ago,
        description="work",
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("days", [0, 1, 30])
def test_exactly_so_many_days(days: int) -> None:
    """Whole days count: one is over at the microsecond at which it is, and not before."""
    rule, limit = Rule(days=days), DAY * (days + 1)
    verdicts = [rule.verdict(used(ago), NOW) for ago in (DAY * days, limit - TICK, limit, limit + TICK)]
    assert verdicts == [None, None, "old", "old"]


def test_exactly_so_long() -> None:
    """A time is over when more of it has passed."""
    rule = Rule(older_than=DAY)
    assert [rule.verdict(used(ago), NOW) for ago in (DAY - TICK, DAY, DAY + TICK)] == [None, None, "old"]


@pytest.mark.parametrize("rule", [Rule(days=1, damaged=True), Rule(older_than=2 * DAY - TICK, damaged=True)])
def test_damaged_ones_have_the_same_edge(rule: Rule) -> None:
    """What cannot be read is as old as its files."""
    assert [rule.takes_damaged(NOW - ago, NOW) for ago in (2 * DAY - TICK, 2 * DAY)] == [False, True]


def test_exactly_the_time_to_undo() -> None:
    """A retired session is kept for so many days, and purged at the microsecond at which they are over."""
    rule = Rule(undo_days=7)
    assert [rule.takes_retired(None, NOW - ago, NOW) for ago in (7 * DAY - TICK, 7 * DAY)] == [False, True]


def test_a_session_expires_at_its_moment() -> None:
    """Not a microsecond before; without an age of the rule as well."""
    times = [NOW + TICK, NOW, NOW - TICK]
    assert [Rule().verdict(used(DAY, expires_at=at), NOW) for at in times] == [None, "expired", "expired"]


def test_what_is_left_of_an_ephemeral_session_goes_whatever_its_age() -> None:
    """It goes with its run; a pin keeps it."""
    assert Rule().verdict(used(TICK, ephemeral=True), NOW) == "ephemeral"
    assert Rule().verdict(used(TICK, ephemeral=True, pinned=True), NOW) is None


@pytest.mark.parametrize(
    ("tools", "is_taken"),
    [((), False), (("codex",), True), (("codex", "claude-code"), True), (("codex", "opencode"), False)],
)
def test_a_rule_for_tools_takes_what_they_alone_have_worked_in(tools: tuple[str, ...], *, is_taken: bool) -> None:
    """A session that no tool has worked in is of none of them; nor is what another has worked in, too."""
    rule = Rule(days=1, tools=frozenset({"codex", "claude-code"}), purge=True)
    state = used(9 * DAY, tools={tool: ToolState() for tool in tools})
    assert (rule.verdict(state, NOW) == "old") is is_taken
    assert rule.takes_retired(state, NOW - DAY, NOW) is is_taken
    assert not rule.takes_damaged(NOW - 9 * DAY, NOW)  # whose tools nobody knows


def test_purging_takes_what_was_retired_before() -> None:
    """All of it that can be read, at once; the rest when its time is over."""
    rule = Rule(purge=True, undo_days=7)
    assert rule.takes_retired(used(DAY), NOW, NOW)
    assert not rule.takes_retired(None, NOW, NOW)
    assert not Rule(undo_days=7).takes_retired(used(DAY), NOW, NOW)
    assert Rule(undo_days=0).takes_retired(None, NOW, NOW)


def test_an_age_beyond_the_calendar_takes_nothing() -> None:
    """However many days are asked for."""
    for rule in (Rule(days=10**9), Rule(older_than=timedelta.max)):
        assert rule.has_age
        assert rule.verdict(used(300 * DAY), NOW) is None
    assert not Rule(undo_days=3).has_age
