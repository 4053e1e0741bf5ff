"""Moments as people write and read them: in local time, whatever that does."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from csa.cli.views.conversation_formats import Document, render_html, render_markdown
from csa.model.adapter import Outcome
from csa.model.clock import LOCAL, from_local, local_clock, parse_moment
from csa.model.conversation import Message
from csa.runner.turns.parking import retry_moment
from csa.store.owner import Owner

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Live where the test says; in Berlin where it says nothing."""
    name = getattr(request, "param", "Europe/Berlin")
    if name is None:
        monkeypatch.delenv("TZ")
    else:
        monkeypatch.setenv("TZ", name)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def in_zone(name: str | None, text: str, moment: datetime) -> object:
    return pytest.param(name, text, moment, id=f"{name}-{text}")


@pytest.mark.parametrize(
    ("zone", "text", "moment"),
    [
        in_zone("Europe/Berlin", "2026-11-29", datetime(2026, 11, 28, 23, tzinfo=UTC)),
        in_zone("Europe/Berlin", "2026-07-01", datetime(2026, 6, 30, 22, tzinfo=UTC)),  # summer, asked in winter
        in_zone("Europe/Berlin", "2026-07-01T14:30", datetime(2026, 7, 1, 12, 30, tzinfo=UTC)),
        in_zone("Europe/Berlin", "2026-07-01 14:30:15", datetime(2026, 7, 1, 12, 30, 15, tzinfo=UTC)),
        in_zone("Europe/Berlin", "2026-07-01T14:30Z", datetime(2026, 7, 1, 14, 30, tzinfo=UTC)),
        in_zone("Europe/Berlin", "2026-07-01T14:30+05:30", datetime(2026, 7, 1, 9, 0, tzinfo=UTC)),
        in_zone("Europe/Berlin", "2026-03-29T02:30", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),  # left out
        in_zone("Europe/Berlin", "2026-10-25T02:30", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),  # twice: the first
        in_zone("Europe/Berlin", "2026-03-30", datetime(2026, 3, 29, 22, tzinfo=UTC)),  # after a day of 23 hours
        in_zone("America/Sao_Paulo", "2018-11-04", datetime(2018, 11, 4, 3, tzinfo=UTC)),  # has no midnight
        in_zone("America/Havana", "2026-11-01", datetime(2026, 11, 1, 4, tzinfo=UTC)),  # has two: the first
        in_zone("Asia/Kolkata", "2026-11-29", datetime(2026, 11, 28, 18, 30, tzinfo=UTC)),
        in_zone("Pacific/Apia", "2026-11-29", datetime(2026, 11, 28, 11, tzinfo=UTC)),
        in_zone("America/Los_Angeles", "2026-11-29", datetime(2026, 11, 29, 8, tzinfo=UTC)),
        in_zone("CET-1CEST,M3.5.0,M10.5.0/3", "2026-07-01", datetime(2026, 6, 30, 22, tzinfo=UTC)),
        in_zone("UTC", "2026-11-29", datetime(2026, 11, 29, tzinfo=UTC)),
        in_zone("", "2026-11-29", datetime(2026, 11, 29, tzinfo=UTC)),
        in_zone("No/Such_Place", "2026-11-29", datetime(2026, 11, 29, tzinfo=UTC)),  # as for date(1)
        in_zone("Europe/Berlin", "0001-01-01", datetime.min.replace(tzinfo=UTC)),
        in_zone("America/Los_Angeles", "9999-12-31T23:59", datetime.max.replace(tzinfo=UTC)),
    ],
    indirect=["zone"],
)
def test_a_date_is_local(zone: None, text: str, moment: datetime) -> None:
    """What is typed means what a clock on the wall shows."""
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("zone", [None], indirect=True)
def test_without_a_zone_of_its_own(zone: None) -> None:
    """The machine's zone holds, as for all that is shown."""
    found = parse_moment("2026-07-01T14:30", NOW)
    assert local_clock(found) == "2026-07-01 14:30"


@pytest.mark.parametrize("text", ["2026-02-30", "yesterday", "2026-11-29T25:00", "14:30", ""])
def test_what_is_no_moment(text: str) -> None:
    assert parse_moment(text, NOW) is None


def test_lengths_do_not_care_for_summer_time() -> None:
    """Seven days are as many times 24 hours."""
    now = datetime(2026, 3, 30, 12, tzinfo=UTC)
    assert parse_moment("7d", now) == now - timedelta(hours=7 * 24)


@pytest.mark.parametrize("month", [1, 7])
def test_what_is_shown_can_be_typed(month: int) -> None:
    """In summer and in winter, whatever it is now."""
    moment = datetime(2026, month, 1, 22, 30, tzinfo=UTC)
    assert parse_moment(local_clock(moment), NOW) == moment


def test_the_local_zone() -> None:
    """Has its offset of each moment, and goes there and back."""
    winter, summer = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
    assert [each.astimezone(LOCAL).utcoffset() for each in (winter, summer)] == [timedelta(hours=1), timedelta(hours=2)]
    for moment in (
        winter,
        summer,
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
    ):
        assert moment.astimezone(LOCAL).astimezone(UTC) == moment
    assert from_local(datetime.fromisoformat("2026-07-01T02:00")) == summer


def test_a_quota_that_returns_after_the_clocks_have_changed() -> None:
    """The time that a message states is one on the wall on that day."""
    evening = datetime(2026, 10, 24, 20, tzinfo=UTC)
    outcome = Outcome(succeeded=False, error_kind="quota", error_message="limit reached, resets 9am")
    assert retry_moment(outcome, evening) == datetime(2026, 10, 25, 8, tzinfo=UTC)


def test_owners_have_the_date_where_it_matters() -> None:
    """A turn of another day says so; both in local time."""
    since = "2026-06-30T22:30:00+00:00"
    owner = Owner(
        pid=1, start_time=1, boot_id="", machine_id="", pid_namespace=1, host="", tool="codex", turn=1, since=since
    )
    assert owner.since_clock == "2026-07-01 00:30"


def test_documents_for_reading() -> None:
    """Times are local, and say where they are: the document may be read elsewhere."""
    message = Message(1, 1, "user", "hi", "2026-06-30T22:30:00.000Z", "codex", None)
    about = {"created_at": "2026-01-31T23:30:00.000Z", "tools": ["codex"], "turns": 1}
    for render in (render_markdown, render_html):
        text = "\n".join(render([Document("01M8", about, [message])]))
        assert "2026-07-01 00:30:00 +0200" in text
        assert "2026-02-01 00:30:00 +0100" in text
