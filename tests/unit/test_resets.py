"""When a provider can be asked again, as the tools' messages say it."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from csa_adapters.claude_failures import _LIMITS as CLAUDE_LIMITS
from csa_adapters.failures import kind_of_message
from csa_adapters.opencode_stream import _LIMITS as OPENCODE_LIMITS
from hypothesis import given
from hypothesis import strategies as st

from csa.model.resets import delay_of, retry_after, stated_reset

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 29, 21, 30, tzinfo=BERLIN)  # a Sunday


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("You've hit your usage limit. Upgrade to Pro or try again in 5 days 22 hours 11 minutes.", 511860),
        (
            "You've hit your usage limit. Upgrade to Pro (https://openai.com/x.y) or try again in 3 hours 12 minutes.",
            11520,
        ),
        ("Rate limit reached. Please try again in 1.898s. Visit https://platform.openai.com", 1.898),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 1m30.5s.", 90.5),
        ("Please try again in 28ms.", 0.028),
        ("try again in 1 day 3 hours", 97200),
        ("try again in 1 day, 2 hours, and 3 minutes", 93780),
        ("You have exhausted your capacity on this model. Your quota will reset after 2h3m4s.", 7384),
        ("Your quota will reset after 5s.. Retrying after 6173ms...", 5),
        ("Please retry in 34.074824224s.", 34.075),
        ("Sorry, your request was rate-limited. Please wait 587 hours 33 minutes before trying again.", 2115180),
        ("Sorry, you've exceeded your 5 hour session limits. Please retry after 840 seconds. (x:pro)", 840),
        ('{"@type": "RetryInfo", "retryDelay": "17s"}', 17),
        ("retry-after: 120", 120),
        ("limit reached, resets in 2 hr 5 min", 7500),
        ("try again in about 1 hour", 3600),
        ("Rate limit exceeded; wait for 30 seconds", 30),
    ],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    """A length, in whatever units, counts from when it was said."""
    assert delay_of(text) == pytest.approx(seconds)
    assert stated_reset(text, NOW) == pytest.approx(NOW.timestamp() + seconds)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("or try again at 3:39 AM.", datetime(2026, 11, 30, 3, 39, tzinfo=BERLIN)),
        ("or try again at 11:39 PM.", datetime(2026, 11, 29, 23, 39, tzinfo=BERLIN)),
        (
            "Upgrade to Plus (https://chatgpt.com/explore/plus), or try again at Jul 5th, 2027 8:19 PM.",
            datetime(2027, 7, 5, 20, 19, tzinfo=BERLIN),
        ),
        ("try again at Nov 30th, 2026 3:39 AM.", datetime(2026, 11, 30, 3, 39, tzinfo=BERLIN)),
        ("You've hit your session limit · resets 3am (Europe/Berlin)", datetime(2026, 11, 30, 3, 0, tzinfo=BERLIN)),
        (
            "You've hit your session limit · resets 12:50am (America/Los_Angeles)",
            datetime(2026, 11, 30, 0, 50, tzinfo=ZoneInfo("America/Los_Angeles")),
        ),
        (
            "You've hit your session limit · resets 8:30pm (Asia/Tokyo)",
            datetime(2026, 11, 30, 20, 30, tzinfo=ZoneInfo("Asia/Tokyo")),
        ),
        (
            "Claude usage limit reached. Your limit will reset at 1pm (Etc/GMT+5).",
            datetime(2026, 11, 30, 13, tzinfo=ZoneInfo("Etc/GMT+5")),
        ),
        ("You've hit your weekly limit · resets Dec 4, 5pm (UTC)", datetime(2026, 12, 4, 17, tzinfo=UTC)),
        ("You've hit your weekly limit · resets Jan 2 at 9:05am (UTC)", datetime(2027, 1, 2, 9, 5, tzinfo=UTC)),
        ("limit reached, resets Monday 9am", datetime(2026, 11, 30, 9, tzinfo=BERLIN)),
        ("limit reached, resets Sunday 9am", datetime(2026, 12, 6, 9, tzinfo=BERLIN)),
        ("limit reached, resets Sunday at 11pm", datetime(2026, 11, 29, 23, tzinfo=BERLIN)),
        ("resets at 6am tomorrow", datetime(2026, 11, 30, 6, tzinfo=BERLIN)),
        ("resets tomorrow at 6 a.m.", datetime(2026, 11, 30, 6, tzinfo=BERLIN)),
        ("quota exceeded, resets at 2026-12-01T00:00:00Z", datetime(2026, 12, 1, tzinfo=UTC)),
        ("available again at 2026-12-01 08:00", datetime(2026, 12, 1, 8, tzinfo=BERLIN)),
        ("try again at 23:05", datetime(2026, 11, 29, 23, 5, tzinfo=BERLIN)),
        ("Claude AI usage limit reached|1764480000", datetime.fromtimestamp(1764480000, UTC)),
        (
            '{"type":"usage_limit_reached","resets_at":1775317531,"resets_in_seconds":602705}',
            datetime.fromtimestamp(1775317531, UTC),
        ),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    """A moment is the next one of that name, in the zone that is named, or in the reader's."""
    found = stated_reset(text, NOW)
    assert found is not None
    assert datetime.fromtimestamp(found, UTC) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "You've hit your usage limit.",
        "You've hit your usage limit. Try again later.",
        "429 Too Many Requests, request id: req_1764480000",
        "exceeded retry limit, last status: 429",
        "the request took 3 hours 12 minutes",
        "Quota exceeded: 10 requests in 5 minutes",
        "Retry 3 of 10",
        "try again at level 5",
        "resets 25:00",
        "resets 3am (Europe/Nowhere)",
        "try again at Feb 31st, 2026 3:39 AM",
        "limit 20000, used 19000",
        "or try again at 10 de jul. de 2026, 11:52",
    ],
)
def test_nothing_is_invented(text: str) -> None:
    """Where no time is stated, or one that cannot be, there is none."""
    assert stated_reset(text, NOW) is None


@given(st.text(alphabet="try again retsinaft at0123456789:.|apmdhs,-TZ()/\n"))
def test_any_text(text: str) -> None:
    """Whatever a message says, it is read or not, and never fails."""
    found = stated_reset(text, NOW)
    assert found is None or isinstance(found, int | float)


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_lengths_as_go_prints_them(days: int, hours: int, minutes: int, seconds: int) -> None:
    """Each unit counts, in words as in letters."""
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert delay_of(f"try again in {days}d{hours}h{minutes}m{seconds}s") == total
    words = f"try again in {days} days {hours} hours {minutes} minutes {seconds} seconds"
    assert delay_of(words) == total


@pytest.mark.parametrize(
    "message",
    [
        "You've hit your session limit · resets 3am (Europe/Berlin)",
        "5-hour limit reached ∙ resets 3am",
        "Claude AI usage limit reached|1764480000",
    ],
)
def test_quota_words_that_come_as_429(message: str) -> None:
    """They tell of a quota, whatever the status says, and of its return."""
    for limits in (CLAUDE_LIMITS, OPENCODE_LIMITS):
        assert kind_of_message(message, limits) == "quota"
    assert stated_reset(message, NOW) is not None


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({"retry-after": "30"}, 30.0),
        ({"Retry-After": "1h30"}, 3630.0),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after-ms": "5s", "retry-after": "9"}, 9.0),
        ({"retry-after": "2026-11-30T01:00:00Z"}, None),
        ({"retry-after": "-30"}, None),
        ({"retry-after": "120, 60"}, None),
        ({}, None),
    ],
)
def test_headers_are_read_whole(headers: dict[str, str], delay: float | None) -> None:
    """What is no length of time as the headers have it is none."""
    assert retry_after(headers)[0] == delay
