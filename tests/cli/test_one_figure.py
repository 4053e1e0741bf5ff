"""What sessions have used is one and the same figure wherever it is shown, whatever became of their turns."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from csa.model.usage import Usage
from csa.model.wording import cost_of, tokens_of
from tests.support import Json, Place, wait_for

KEYS = ("turns_unmeasured", "turns_unpriced")


class Story:
    """A root with a retried turn, one that fell back and a compaction; a lost child; a child that runs elsewhere."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.other = place.tmp / "other"
        (self.other / ".csa").mkdir(parents=True)
        self.root, env = place.agent("--budget-tokens", "1000000")
        place.script(
            {"match": "", "tool": "opencode", "times": 1, "do": [["step", 1000, 10, 0.05], ["fail", "server"]]},
            {"match": "", "tool": "opencode", "do": [["usage", 0, 0], ["step", 300, 3, 0.01], ["say", "ok"]]},
            {"match": "/compact", "tool": "claude-code", "do": [["usage", 5000, 50], ["compact"]]},
            {"match": "", "tool": "claude-code", "do": [["usage", 2000, 20], ["say", "ok"]]},
            {"match": "", "tool": "codex", "do": [["fail", "quota"]]},
        )
        self.run("--session", self.root, "--tool", "opencode", "--retries", "1", "retried")
        self.run("--session", self.root, "--tool", "codex", "--fallback", "claude-code", "falls back")
        done = place.run("session", "compress", self.root)
        assert done.code == 0, done.err
        place.play(["step", 700, 7, 0.03], *place.hold())
        lost = place.start("run", "--tool", "opencode", "is lost", env=env)
        place.wait_ready()
        self.lost = lost.session_id
        wait_for(lambda: self.listed()[self.lost]["input_tokens"] == 700, "its use is known")
        lost.kill()
        place.wait_until_empty(within_s=10)
        place.ready.unlink()
        place.play(["usage", 0, 0], ["step", 400, 4], *place.hold(), ["say", "ok"])
        self.running = place.start("run", "--tool", "opencode", "--cd", str(self.other), "runs", env=env)
        place.wait_ready()
        self.runs = self.running.session_id

    def run(self, *words: str) -> None:
        done = self.place.run("run", *words)
        assert done.code == 0, done.err

    def json(self, *words: str) -> Any:
        return self.place.run(*words, "--json").json

    def listed(self) -> dict[str, Json]:
        return {row["id"]: row["usage"] for row in self.json("session", "list", "--all-projects")}


@pytest.mark.thorough
@pytest.mark.timeout(180)  # ten runs
def test_every_view_has_the_same_figure(place: Place) -> None:
    """Retries, fallbacks, compactions, lost and running turns, here and in another project."""
    story = Story(place)
    wait_for(lambda: story.listed()[story.runs]["input_tokens"] == 400, "the running turn has said what it used")
    listed = story.listed()
    sums = {session_id: Usage.from_dict(usage) for session_id, usage in listed.items()}
    whole = sum(sums.values(), Usage())
    # what was said: by codex (no cost), by both attempts, by claude after the fallback, and by its compaction
    assert (listed[story.lost]["input_tokens"], listed[story.lost]["cost_usd"]) == (700, 0.03)
    assert listed[story.runs] == {**Usage(400, 4).to_sum(), "turns_unpriced": 1}
    ends = [event for event in place.events(story.root) if event["type"] in {"run_finished", "compaction"}]
    told = [event["data"]["usage"] or {} for event in ends if event["data"]["status"] != "started"]
    assert len(told) == 5
    assert told[1]["input_tokens"] == 1000 + 300
    assert listed[story.root]["input_tokens"] == sum(usage.get("input_tokens", 0) for usage in told)
    assert listed[story.root]["turns_unmeasured"] == 1

    for session_id, project in ((story.root, place.project), (story.lost, place.project), (story.runs, story.other)):
        at = ("--cd", str(project))
        assert story.json("session", "info", session_id, *at)["usage"] == listed[session_id]
        shown = place.run("session", "info", session_id, *at).out
        assert f"{tokens_of(sums[session_id])} tokens, {words_of(sums[session_id])}" in shown
        line = next(line for line in place.run("session", "list", *at).out.splitlines() if line.startswith(session_id))
        assert f" {tokens_of(sums[session_id])} " in line
    stats = story.json("stats", "--all-projects")
    assert stats["total"]["usage"] == whole.to_sum()
    assert stats["total"]["compactions"] == 1
    assert sum((Usage.from_dict(row["usage"]) for row in stats["rows"]), Usage()) == whole
    shown = place.run("stats", "--all-projects", "--by", "tree").out
    assert f"{tokens_of(whole):>7}{cost_of(whole):>8}" in shown.splitlines()[1]
    here = story.json("stats")["total"]["usage"]
    assert here == (sums[story.root] + sums[story.lost]).to_sum()
    budget = story.json("session", "budget", story.root)
    assert is_same(budget["used"], whole)
    assert all(is_same(account, sums[account["session_id"]]) for account in budget["sessions"])
    shown = place.run("session", "budget", story.root).out
    assert f"{whole.tokens:,}+" in shown
    assert f"${whole.cost_usd:,.2f}+" in shown
    for command in ("top", "ps"):
        assert [row["usage"] for row in story.json(command)] == [listed[story.runs]]
        assert {row["id"]: row["usage"] for row in story.json(command, "--all")} == listed
    row = next(line for line in place.run("top", "--all").out.splitlines() if "opencode" in line and "lost" in line)
    assert row.split()[-2:] == [tokens_of(sums[story.lost]), cost_of(sums[story.lost])]
    tree = {row["id"]: row["subtree"]["usage"] for row in story.json("session", "list", "--tree")}
    assert tree[story.lost] == listed[story.lost]
    totals = place.run("session", "list", "--all-projects").out.splitlines()[-1]
    assert totals.endswith(f"{tokens_of(whole)} tokens, {cost_of(whole)}")

    place.release()
    assert story.running.wait().code == 0
    story.run("--session", story.lost, "--tool", "opencode", "goes on, and writes the end of what was lost")
    after = story.listed()
    assert is_same(
        story.json("session", "budget", story.root)["used"], sum(map(Usage.from_dict, after.values()), Usage())
    )
    assert after[story.lost]["input_tokens"] == 700 + 400


def is_same(spent: Json, usage: Usage) -> bool:
    known = usage.to_sum()
    return (spent["tokens"], spent["usd"]) == (usage.tokens, usage.cost_usd) and all(
        spent[key] == known[key] for key in KEYS
    )


def words_of(usage: Usage) -> str:
    return "cost unknown" if usage.cost_usd is None else cost_of(usage)


@pytest.mark.thorough
def test_a_session_in_two_projects_counts_once(place: Place) -> None:
    """After an import (here: a copy) neither statistics nor totals double."""
    place.play(["usage", 1000, 100], ["say", "ok"])
    session_id = place.codex().session_id
    other = place.state_root / str(place.tmp / "other")[1:] / "sessions" / session_id
    other.parent.mkdir(parents=True)
    shutil.copytree(place.session(session_id), other)
    state: Path = other / "state.toml"
    state.write_text(state.read_text().replace(str(place.project), str(place.tmp / "other")))
    stats = place.run("stats", "--all-projects", "--json").json["total"]
    assert (stats["turns"], stats["usage"]["input_tokens"]) == (1, 1000)
    assert "1.1k tokens" in place.run("session", "list", "--all-projects").out.splitlines()[-1]


def test_nothing_known_is_null_and_a_dash(place: Place) -> None:
    """A turn that dies without a word, by a tool that tells no cost: null in JSON, `-` in views, and never 0."""
    place.play(["signal-self", "KILL"])
    session_id = place.run("run", "--tool", "codex", "--json", "x").json["session_id"]
    usage = {**Usage().to_sum(), "turns_unmeasured": 1, "turns_unpriced": 1}
    assert place.run("session", "list", "--json").json[0]["usage"] == usage
    assert "cost_usd" not in place.state(session_id)["usage"]
    assert place.run("session", "list").out.splitlines()[-1].endswith("1 turn, tokens unknown, cost unknown")
    budget = place.run("session", "budget", session_id).out
    assert [line.split()[:2] for line in budget.splitlines()[2:4]] == [["tokens", "-"], ["cost", "-"]]
    assert place.run("session", "budget", session_id, "--json").json["used"]["usd"] is None
    assert place.run("stats").out.splitlines()[1].split()[-4:-2] == ["-", "-"]
    assert place.run("top", "--all").out.splitlines()[-1].split()[-2:] == ["-", "-"]


@pytest.mark.thorough
def test_a_killed_turn_has_used_what_it_said(place: Place) -> None:
    """Timed out, cancelled or killed: the last word on its use is the turn's."""
    place.play(["step", 600, 6, 0.5], ["sleep", 50])
    told = place.run("run", "--tool", "opencode", "--timeout", "4", "--json", "x").json
    assert (told["status"], told["usage"]) == ("timed_out", Usage(600, 6, 0, 0.5).to_sum())
