"""Values that no csa writes: each is shown as it can be, or is damage that is named, and stands in no other's way."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    assert done.code in ({0, 1, 6} if "wait" in words else {0, 6}), (words, done.err)
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


@pytest.mark.thorough
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
    assert "rebuilt from the transcript" in look(place, "session", "repair", BAD, zone=zone).out


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


# Values

NAN, INFINITY = float("nan"), float("inf")
EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plan", {"entries": [{"content": "x", "status": "in_progress"}]}),
    ("usage", {"input_tokens": 1, "output_tokens": 2, "cached_tokens": 1, "cost_usd": 0.1}),
    ("retry", {"kind": "server", "message": "m", "retry_after_s": 1, "attempt": 1, "max": 2, "by": "csa"}),
    ("handoff", {"to": "codex", "turns": [1]}),
    ("compaction", {"status": "failed", "tokens_before": 1, "tokens_after": 2, "error": {"message": "x"}}),
    ("tool_call", {"id": "1", "title": "t", "kind": "execute", "status": "in_progress", "content": "c"}),
    ("tool_call_update", {"id": "1", "status": "failed", "content": "c", "exit_code": 1}),
    ("permission", {"id": "1", "status": "denied", "title": "t"}),
    ("checkpoint", {"commit": "x", "label": "y"}),
    ("session_bound", {"provider_session_id": "x", "model": "m"}),
)


def spoil(value: Any, odd: object) -> Any:
    """Put a value in the place of all that are in others."""
    if isinstance(value, dict) and value:
        return {key: spoil(each, odd) for key, each in value.items()}
    return [spoil(each, odd) for each in value] if isinstance(value, list) and value else odd


ODD: tuple[object, ...] = (None, NAN, INFINITY, -5, 10**400, "x", [], {}, True)


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_events_of_odd_values(place: Place) -> None:
    """Whatever the events of sessions hold, they are shown as they can be; what is printed as JSON is JSON."""
    store = store_of(place)
    write_session(store, 1)
    odd = {
        write_session(store, number, events=EVENTS, status="failed", result={"denied": ("x",)}): value
        for number, value in enumerate(ODD, 2)
    }
    transcripts = {each: place.session(each) / "transcript.jsonl" for each in odd}
    events = {each: [json.loads(line) for line in path.read_text().splitlines()] for each, path in transcripts.items()}
    for is_deep in (False, True):
        for each, value in odd.items():
            spoiled = [
                {**event, "data": spoil(event["data"], value) if is_deep else dict.fromkeys(event["data"], value)}
                for event in events[each]
            ]
            if is_deep:  # how it ended is still known
                spoiled[-1]["data"] |= {"status": "failed", "exit_code": 1}
            lines = (json.dumps(event, separators=(",", ":")) + "\n" for event in spoiled)
            transcripts[each].write_text("".join(lines))
        for words in (*READERS, *(("session", *words, "-s", each) for words in READERS_OF_ONE for each in odd)):
            done = look(place, *words)
            if "--json" in words and "logs" not in words:  # which are the lines of the transcript as they are
                json.loads(done.out, parse_constant=pytest.fail)
        assert place.run("stats", "--json").json["total"]["usage"]["input_tokens"] == 1000
    for each, value in odd.items():
        found = place.run("session", "validate", each, "--json").json
        problems = {item["line"]: item for item in found if item["line"]}
        assert ("which is not JSON" in str(problems.get(3))) is isinstance(value, float)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[usage]\ncost_usd = nan", "usage.cost_usd"),
        ("[usage]\ncost_usd = inf", "usage.cost_usd"),
        ("[usage]\ninput_tokens = -5", "usage.input_tokens"),
        (f"[usage]\nturns_unmeasured = 1{'0' * 400}", "usage.turns_unmeasured"),
        (f"[usage]\noutput_tokens = 1{'0' * 5000}", "is not TOML"),
        ("[tools.codex]\ntotals = {input_tokens = nan}", "tools.codex.totals.input_tokens"),
        ("turns = -1", "turns"),
    ],
    ids=lambda text: text[:40],
)
def test_a_record_of_odd_numbers(place: Place, write_foreign: Callable[..., SessionPaths], text: str, key: str) -> None:
    """What is no amount is damage that is named, and is neither counted nor printed as JSON that is none."""
    write_session(store_of(place), 1)
    paths = write_foreign(BAD)
    edit(paths.state, lambda before: f"{text}\n{before}" if text.startswith("turns") else f"{before}{text}\n")
    for words in READERS:
        look(place, *words)
    listed = {item["id"]: item for item in place.run("session", "list", "--json").json}
    assert (listed[GOOD]["status"], listed[BAD]["status"]) == ("succeeded", "damaged")
    assert str(paths.state) in listed[BAD]["error"]
    assert key in listed[BAD]["error"]
    assert key in place.run("session", "validate").out


def test_an_export_that_fails(place: Place) -> None:
    """An archive that cannot be finished is one error, and no file; on stdout it does not look whole."""
    write_session(store_of(place), 1)
    edit(place.session(GOOD) / "transcript.jsonl", lambda text: f"{text}garbage\n")
    done = place.run("session", "export", GOOD, "-o", "x")
    assert (done.code, done.err.count("\n"), "is not an event" in done.err) == (6, 2, True)
    part = place.shell(["sh", "-c", f"csa session export {GOOD} > part"])
    assert (part.code, part.err) == (6, done.err)
    assert not (place.project / "x").exists()
    refused = place.run("session", "import", "part")
    assert (refused.code, "not an archive" in refused.err) == (6, True)
