"""What the last turns of each tool took."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csa.store.locks import acquire_lock
from csa.store.sessions import Store
from csa.store.usage_stats import TURNS_KEPT, ToolUsage, load_usage_stats, note_turn, stats_path
from tests.store.support import IDS, publish

MIB = 1 << 20


@pytest.fixture
def used(store: Store) -> Store:
    """A store that has had a session."""
    publish(store, IDS[0]).close()
    return store


def test_nothing_is_known_at_first(used: Store) -> None:
    """Reading makes no file."""
    assert load_usage_stats(used) == {}
    assert not stats_path(used).exists()
    assert (ToolUsage().p95_peak_rss_bytes, ToolUsage().p95_duration_s) == (None, None)


def test_the_last_turns_are_kept(used: Store) -> None:
    """Twenty of each tool; the file says the P95 for those who look at it."""
    for number in range(1, 26):
        note_turn(used, "codex", peak_rss_bytes=number * MIB, duration_s=number / 2)
    note_turn(used, "my tool", peak_rss_bytes=5, duration_s=0.1)
    known = load_usage_stats(used)
    assert known["codex"].turns == TURNS_KEPT
    assert known["codex"].peak_rss_bytes[0] == 6 * MIB
    assert known["codex"].p95_peak_rss_bytes == 24 * MIB
    assert known["codex"].p95_duration_s == 12.0
    assert known["my tool"] == ToolUsage((5,), (0.1,))
    table = tomllib.loads(stats_path(used).read_text())["tools"]["codex"]
    assert (table["turns"], table["p95_peak_rss_bytes"]) == (20, 24 * MIB)
    assert stats_path(used).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("count", "place"), [(1, 1), (10, 10), (19, 19), (20, 19)])
def test_p95(count: int, place: int) -> None:
    """The smallest value that 95 of 100 turns do not exceed."""
    assert ToolUsage(tuple(range(1, count + 1)), ()).p95_peak_rss_bytes == place


@pytest.mark.parametrize(
    "content",
    [
        b"not [ toml",
        b"\xff\xfe",
        b"tools = 3",
        b"[tools.codex]\n",
        b"[tools.codex]\npeak_rss_bytes = 1\nduration_s = 2\n",
    ],
)
def test_a_damaged_file_is_put_aside(used: Store, content: bytes) -> None:
    """A reader takes it for none and leaves it; the next turn keeps it beside the new one."""
    stats_path(used).write_bytes(content)
    assert load_usage_stats(used) == {}
    assert stats_path(used).read_bytes() == content
    note_turn(used, "codex", peak_rss_bytes=1, duration_s=1)
    assert load_usage_stats(used)["codex"].turns == 1
    assert Path(f"{stats_path(used)}.damaged").read_bytes() == content


def test_what_cannot_be_written_is_left_out(used: Store) -> None:
    """Neither a directory in the way nor a lock that is never released fails the run or holds it up."""
    stats_path(used).mkdir()
    note_turn(used, "codex", peak_rss_bytes=1, duration_s=1)
    stats_path(used).rmdir()
    with acquire_lock(used.path / "usage_stats.lock"):
        note_turn(used, "codex", peak_rss_bytes=1, duration_s=1)
    assert load_usage_stats(used) == {}


def test_writers_side_by_side(used: Store) -> None:
    """Turns that end together are all counted."""
    with ThreadPoolExecutor(8) as threads:
        for _ in range(16):
            threads.submit(note_turn, used, "codex", peak_rss_bytes=1, duration_s=1)
    assert load_usage_stats(used)["codex"].turns == 16


def test_reading_needs_no_tomlkit(used: Store) -> None:
    """Commands that show the figures start fast."""
    note_turn(used, "codex", peak_rss_bytes=1, duration_s=1)
    code = (
        "import sys, pathlib, json; from csa.store.sessions import Store; from csa.store import usage_stats as u;"
        f"known = u.load_usage_stats(Store(pathlib.Path({str(used.root)!r}), pathlib.Path({str(used.project)!r})));"
        "print(json.dumps([known['codex'].turns, sorted({'tomlkit', 'anyio', 'tenacity'} & set(sys.modules))]))"
    )
    assert json.loads(subprocess.check_output([sys.executable, "-c", code])) == [1, []]
