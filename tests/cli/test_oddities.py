"""Values that no csa writes: each is shown as it can be, or is damage that is named, and stands in no other's way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from tests.cli.prepared import session_id, store_of, write_session
from tests.support import Done, Place

GOOD, BAD = session_id(1), session_id(2)
READERS = (
    ("session", "list"),
    ("session", "list", "--json"),
    ("session", "list", "--tree"),
    ("session", "validate"),
    ("stats",),
    ("stats", "--by", "day", "--json"),
    ("ps", "--all"),
    ("ps", "--all", "--json"),
)
READERS_OF_ONE = (
    ("info",),
    ("info", "--json"),
    ("show",),
    ("show", "--json"),
    ("logs",),
    ("logs", "--json"),
    ("why",),
    ("why", "--json"),
    ("wait",),
    ("result",),
    ("result", "--json"),
    ("log",),
    ("artifacts",),
    ("export", "--format", "md"),
    ("export", "--format", "json"),
    ("repair", "--dry-run"),
)


def edit(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def look(place: Place, *words: str, zone: str = "UTC") -> Done:
    """Run a command that may find damage, and must not break."""
    done = place.run(*words, env={"TZ": zone})
    assert done.code in {0, 6}, (words, done.err)
    assert "Traceback" not in done.err, (words, done.err)
    return done


# Times


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-12:00"])
def test_a_record_of_no_time_that_there_is(
    place: Place, write_foreign: Callable[..., SessionPaths], moment: str
) -> None:
    """A time outside of the years of UTC is damage, named by file and key; every command does all else."""
    write_session(store_of(place), 1)
    paths = write_foreign(BAD, times=("2024-02-06T10:00:00Z", moment))
    for words in READERS:
        look(place, *words)
    listed = {item["id"]: item for item in place.run("session", "list", "--json").json}
    assert (listed[GOOD]["status"], listed[BAD]["status"]) == ("succeeded", "damaged")
    assert f"{paths.state}, line 5: last_accessed: {moment} is not within the years" in listed[BAD]["error"]
    assert look(place, "session", "validate").code == 6
    assert look(place, "gc", "--days", "30", "--all-projects").code == 0
    assert look(place, "session", "repair", BAD).code == 6
    assert place.run("session", "delete", BAD, "--json").code in {0, 6}
    for words in (("session", "list"), ("stats",)):
        refused = place.run(*words, "--since", moment)
        assert (refused.code, "neither a length of time nor a date" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("moment", "zone"),
    [
        ("0001-01-01T00:00:00+01:00", "UTC"),
        ("9999-12-31T23:59:59-12:00", "UTC"),
        ("0001-01-01T00:00:00Z", "America/New_York"),
        ("9999-12-31T23:59:59Z", "Asia/Tokyo"),
    ],
)
def test_events_of_no_time_that_there_is(place: Place, moment: str, zone: str) -> None:
    """Times of events that UTC, or the local time, does not reach keep nothing from being shown."""
    for number in (1, 2):
        write_session(store_of(place), number)
    times = re.compile(r'"(ts|started_at|finished_at)":"[^"]*"')
    edit(place.session(BAD) / "transcript.jsonl", lambda text: times.sub(rf'"\1":"{moment}"', text))
    for words in READERS:
        look(place, *words, zone=zone)
    for words in READERS_OF_ONE:
        look(place, "session", *words, "-s", BAD, zone=zone)
    assert "do work 2" in look(place, "session", "show", BAD, zone=zone).out
    assert len(look(place, "session", "logs", BAD, zone=zone).out.splitlines()) == 3
    found = look(place, "stats", "--json", zone=zone).json
    assert found["total"]["turns"] == 2
    (place.session(BAD) / "state.toml").write_text("")
    assert "made anew from the transcript" in look(place, "session", "repair", BAD, zone=zone).out


def test_the_zero_time_of_go(place: Place, write_foreign: Callable[..., SessionPaths]) -> None:
    """A moment that is in UTC, but before all local time, is shown in UTC."""
    write_foreign(BAD, times=("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"))
    done = look(place, "session", "info", BAD, zone="America/New_York")
    assert (done.code, re.search(r"^created +0*1-01-01 00:00 ", done.out, re.MULTILINE) is not None) == (0, True)


def test_a_file_of_the_far_future(place: Place) -> None:
    """What a file system says of a file need not be a time that there is."""
    write_session(store_of(place), 1)
    made = place.session(GOOD) / "output" / "made.txt"
    made.write_text("x")
    try:
        os.utime(made, (1e12, 1e12))
    except OSError:
        pytest.skip("this file system knows no such time")
    assert look(place, "session", "artifacts", GOOD, "--json").code == 0


def test_a_time_to_live_of_ten_thousand_years(place: Place) -> None:
    """A session does not expire after the end of time; the words are refused."""
    done = place.run("run", "--tool", "codex", "--ttl", "999999w", "hello")
    assert (done.code, place.ids()) == (2, [])
