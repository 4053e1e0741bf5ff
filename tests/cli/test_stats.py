"""`csa stats`: sums over turns, by tool, day, tree and owner."""

from __future__ import annotations

from datetime import timedelta

import pytest

from csa.model.usage import Usage
from csa.store.sessions import Store
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place

ROW_KEYS = {
    "key",
    "sessions",
    "messages",
    "turns",
    "succeeded",
    "success_rate",
    "average_context_tokens",
    "compactions",
    "usage",
    "time_s",
    "share",
    "p95_peak_rss_bytes",
}


@pytest.fixture
def store(place: Place) -> Store:
    """Five turns in four sessions, one of them collected; one turn failed, one was lost."""
    store = store_of(place)
    chunks = (("agent_message", {"text": "a", "chunk": True}), ("agent_message", {"text": "b", "chunk": True}))
    write_session(store, 1, tools=("codex", "claude-code"), usage=Usage(3000, 100, 0, 0.5), events=chunks)
    write_session(store, 2, status="failed", parent_session_id=session_id(1), root_session_id=session_id(1), depth=1)
    write_session(store, 3, status="lost", owner="other@there", age=timedelta(days=3))
    write_session(store, 4, age=timedelta(days=9), result={"peak_rss_bytes": 300 << 20})
    retire(store, session_id(4))
    return store


def rows(place: Place, *words: str) -> dict[str, dict[str, object]]:
    found = place.run("stats", "--json", *words).json
    assert all(set(row) == ROW_KEYS for row in found["rows"])
    return {row["key"]: row for row in found["rows"]}


def test_by_tool(place: Place, store: Store) -> None:
    """By default a row a tool, with all that the turns add up to; collected sessions count."""
    found = rows(place)
    codex = found["codex"]
    assert list(found) == ["codex", "claude-code"]
    assert (codex["sessions"], codex["turns"], codex["succeeded"]) == (4, 4, 2)
    assert (codex["success_rate"], codex["share"]) == (0.5, 0.8)
    assert codex["average_context_tokens"] == round((3000 + 1000 + 1000) / 3)
    assert codex["usage"] == Usage(5000, 300, 0, 0.5, 1, 3).to_sum()  # one was lost, and two told no cost
    assert codex["time_s"] == 180.0
    assert codex["p95_peak_rss_bytes"] == 300 << 20
    assert codex["messages"] == 3 + 2 + 1 + 2
    total = place.run("stats", "--json").json["total"]
    assert (total["turns"], total["sessions"], total["usage"]["cost_usd"]) == (5, 4, 1.0)


@pytest.mark.thorough
def test_other_rows(place: Place, store: Store) -> None:
    """Rows by tree, owner and day."""
    assert {key: row["turns"] for key, row in rows(place, "--by", "tree").items()} == {
        session_id(1): 3,
        session_id(3): 1,
        session_id(4): 1,
    }
    assert {key: row["turns"] for key, row in rows(place, "--by", "owner").items()} == {
        "tester@here": 4,
        "other@there": 1,
    }
    days = rows(place, "--by", "day")
    assert list(days) == sorted(days)
    assert sum(int(str(row["turns"])) for row in days.values()) == 5


@pytest.mark.thorough
def test_since(place: Place, store: Store) -> None:
    """`--since` counts turns that began later, and the sessions they belong to."""
    assert place.run("stats", "--since", "1d", "--json").json["total"]["turns"] == 3
    assert place.run("stats", "--since", "4d", "--json").json["total"]["sessions"] == 3
    assert place.run("stats", "--since", "soon").code == 2


@pytest.mark.thorough
def test_all_projects(place: Place, store: Store) -> None:
    """`--all-projects` counts them all."""
    write_session(Store(place.state_root, place.tmp / "other"), 40)
    assert place.run("stats", "--json").json["total"]["turns"] == 5
    assert place.run("stats", "--all-projects", "--json").json["total"]["turns"] == 6


@pytest.mark.thorough
def test_running_turns_have_not_failed(place: Place) -> None:
    """A turn that runs counts as a turn, and neither for nor against success."""
    place.play(*place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    total = place.run("stats", "--json").json["total"]
    assert (total["turns"], total["success_rate"]) == (1, None)
    assert " - " in place.run("stats").out
    place.release()
    assert running.wait().code == 0


def test_nothing_to_count(place: Place) -> None:
    """Without turns there is a sentence and exit 0; JSON has its keys all the same."""
    done = place.run("stats")
    assert (done.code, done.out) == (0, "No turns found\n")
    assert place.run("stats", "--json").json["rows"] == []
    assert not place.state_root.exists()


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 140])
@pytest.mark.parametrize("by", ["tool", "day", "tree", "owner"])
def test_on_a_terminal(place: Place, store: Store, columns: int, by: str) -> None:
    """The table fits, names give way, and the total stands below."""
    write_session(store, 5, description="a description that is long " * 5, owner="o" * 80)
    with Terminal(place, "stats", "--by", by, size=(columns, 24)) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert ("SHARE" in lines[0]) == (columns == 140)
    assert lines[-2].startswith("total")
    assert "running, most active tool: " in lines[-1]
