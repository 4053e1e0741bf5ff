"""`csa stats --landed`: what work in worktrees cost, beside the commits of it that have stayed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from csa.model.usage import Usage
from csa.model.worktree import Refused, Task, Worktree
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place

PLAN, API, DOCS = session_id(1), session_id(2), session_id(3)


class Repository:
    """The project of a place, as a git repository."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.com")
        self.commit("start")

    def git(self, *words: str) -> str:
        done = self.place.shell(["git", *words])
        assert done.code == 0, done.err
        return done.out.strip()

    def commit(self, name: str, *, session: str | None = None, lines: int = 2) -> str:
        """Commit a file, as a session's work if one is named."""
        (Path(self.place.project) / name).write_text("line\n" * lines)
        self.git("add", ".")
        trailer = f"\n\nCsa-Session: {session}\nCsa-Turn: 1" if session else ""
        self.git("commit", "-qm", f"add {name}{trailer}")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(place: Place) -> Repository:
    return Repository(place)


def work(place: Place, number: int, *, landed: list[str] | None = None, into: str | None = None, **changes: Any) -> str:
    """Write a session with a worktree, landed as some commits."""
    store = store_of(place)
    kind = changes.pop("refused", None)
    tree = Worktree(
        path=tree_of(place, number),
        git_dir="",
        branch=f"csa/{number}",
        base="0" * 40,
        checkout=str(place.project),
        landed=landed[-1] if landed else None,
        refused=Refused(kind=kind) if kind else None,
    )
    data = {
        "what": "landed",
        "commits": landed,
        "into": into or str(place.project),
        "squash": changes.pop("squash", False),
    }
    events = (("session_updated", data),) if landed else ()
    return write_session(store, number, worktree=tree, events=events, **changes)


def tree_of(place: Place, number: int) -> str:
    return f"{store_of(place).pathname}/worktrees/{session_id(number)}"


def below(parent: int, **changes: Any) -> dict[str, Any]:
    return {"parent_session_id": session_id(parent), "root_session_id": session_id(1), "depth": 1, **changes}


def gathered(place: Place, *words: str) -> dict[str, Any]:
    found = place.run("stats", "--landed", "--json", *words).json
    return {work["task"] or work["name"] or work["session_id"]: work for work in found["works"]} | {"all": found}


def test_a_plan_that_was_landed(place: Place, repository: Repository) -> None:
    """Each task has its commits, and the cost of all attempts and of all below them; the plan has what is left."""
    api = [repository.commit("api", lines=5), repository.commit("test")]
    place_of_plan = tree_of(place, 1)
    work(place, 1, landed=api, name="plan", usage=Usage(0, 0, 0, 0.0))
    work(place, 2, **below(1, status="failed", task=Task(name="api", digest="x"), usage=Usage(1000, 100, 0, 0.25)))
    cost = Usage(1000, 100, 0, 0.5)
    work(place, 3, landed=api, into=place_of_plan, **below(1, task=Task(name="api", digest="x"), usage=cost))
    write_session(store_of(place), 4, usage=Usage(10, 1, 0, 1.0), **below(3))
    work(place, 5, refused="conflict", **below(1, task=Task(name="docs", digest="y")))
    write_session(store_of(place), 6)  # it has no worktree
    retire(store_of(place), session_id(2))
    found = gathered(place)
    assert list(found)[:3] == ["plan", "api", "docs"]
    assert {name: found[name]["state"] for name in ("plan", "api", "docs")} == {
        "plan": "landed", "api": "landed", "docs": "conflict",
    }  # fmt: skip
    assert (found["plan"]["commits"], found["api"]["commits"]) == ([], api)
    assert (found["api"]["added"], found["api"]["removed"], found["api"]["sessions"]) == (7, 0, 3)
    assert found["api"]["usage"]["cost_usd"] == 1.75
    assert found["api"]["attempts"] == [session_id(2), session_id(3)]
    landed, rest = found["all"]["landed"], found["all"]["not_landed"]
    assert (landed["works"], landed["commits"], landed["usage"]["cost_usd"], rest["works"]) == (2, 2, 1.75, 1)
    assert found["all"]["histories"][0]["branch"] == "main"


@pytest.mark.thorough
def test_what_has_become_of_commits(place: Place, repository: Repository) -> None:
    """Rebased ones are found, with and without a trailer; those of another branch are elsewhere, others are open."""
    repository.git("checkout", "-q", "-b", "work")
    own = repository.commit("own")  # an agent's, without a trailer
    marked = repository.commit("marked", session=session_id(2))
    repository.git("checkout", "-q", "main")
    repository.commit("other")
    repository.git("cherry-pick", own, marked)
    repository.git("checkout", "-q", "-b", "away")
    away = repository.commit("away")
    repository.git("checkout", "-q", "main")
    work(place, 1, landed=[own])
    work(place, 2, landed=[marked])
    work(place, 3, landed=[away, "f" * 40])
    work(place, 4)
    work(place, 5, refused="check")
    work(place, 6, age=timedelta(days=9))
    work(place, 7, **below(4, task=Task(name="api", digest="x")), landed=["f" * 40], into=tree_of(place, 4))
    repository.commit("by hand", session=session_id(6))
    found = gathered(place)
    states = {work["session_id"]: work["state"] for work in found["all"]["works"]}
    assert [states[session_id(number)] for number in range(1, 8)] == [
        "landed", "landed", "elsewhere", "open", "check failed", "landed", "merged",
    ]  # fmt: skip
    assert found[session_id(1)]["commits"] == [repository.git("rev-parse", "main~2")]
    assert session_id(6) not in gathered(place, "--since", "1d")


@pytest.mark.thorough
@pytest.mark.parametrize("names_all", [False, True])
def test_a_plan_that_was_squashed(place: Place, repository: Repository, *, names_all: bool) -> None:
    """Its one commit is that of all its tasks, counts once, and nobody knows whose the lines are."""
    place_of_plan = tree_of(place, 1)
    trailers = [API, DOCS] if names_all else [PLAN]
    one = repository.commit("all", session="\nCsa-Session: ".join(trailers))
    work(place, 1, landed=[one], squash=True, name="plan")
    work(place, 2, landed=["e" * 40], into=place_of_plan, **below(1, task=Task(name="api", digest="x")))
    work(place, 3, landed=["f" * 40], into=place_of_plan, **below(1, task=Task(name="docs", digest="x")))
    found = gathered(place)
    for name in ("api", "docs"):
        assert (found[name]["state"], found[name]["shared_commits"], found[name]["added"]) == ("landed", [one], None)
    assert found["plan"]["commits"] == []
    assert (found["all"]["landed"]["commits"], found["all"]["landed"]["added"]) == (1, 2)


@pytest.mark.parametrize("columns", [40, pytest.param(60, marks=pytest.mark.thorough), 140])
def test_landed_work_on_a_terminal(place: Place, repository: Repository, columns: int) -> None:
    """The table fits; a task stands below its plan, and the sums below all."""
    work(place, 1, landed=[repository.commit("one")], name="plan")
    work(place, 2, **below(1, task=Task(name="a task with a long name", digest="x")))
    with Terminal(place, "stats", "--landed", size=(columns, 24)) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert lines[2].startswith("  a task")
    assert [line.split("  ")[0] for line in lines[3:5]] == ["landed", "not landed"]
    assert lines[5].startswith("landed: in main of ")


@pytest.mark.thorough
def test_nothing_to_find(place: Place) -> None:
    """Without worktrees there is a sentence; a project that is in no repository any more is named."""
    assert place.run("stats", "--landed").out == "No work in worktrees found\n"
    assert place.run("stats", "--landed", "--by", "day").code == 2
    work(place, 1)
    done = place.run("stats", "--landed")
    assert (done.code, "git shows no commits of" in done.err) == (0, True)
