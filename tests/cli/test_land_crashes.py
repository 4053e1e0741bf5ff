"""csa is killed while it lands, or lays out a repair: at each git command, before it or while that goes on alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from csa.store.locks import is_locked
from tests.cli.worktrees import agent_does, make_repository, sh, tree_of, work
from tests.support import Place, wait_for

GIT = shutil.which("git", path="/usr/local/bin:/usr/bin:/bin")
WRAPPER = f"""#!/bin/sh
n=$(($(cat "$COUNT") + 1))
echo $n > "$COUNT"
if [ $n = "$AT" ]; then
    kill -9 $PPID
    [ "$MODE" = skip ] && exit 1
fi
exec {GIT} "$@"
"""
STRIDE = int(os.environ.get("CSA_TEST_STRIDE", "23"))  # 1: each command


@pytest.fixture
def repository(place: Place) -> Place:
    return make_repository(place)


class Killer:
    """Runs csa with a git in front of git that kills it at one command."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.count = place.tmp / "count"
        (place.tmp / "killing").mkdir()
        (place.tmp / "killing/git").write_text(WRAPPER)
        (place.tmp / "killing/git").chmod(0o755)

    def kills(self, at: int, mode: str, session: str, *words: str) -> bool:
        """Run a command, and say whether it was killed; then nothing of it runs any more."""
        self.count.write_text("0\n")
        path = f"{self.place.tmp}/killing:{self.place.env['PATH']}"
        done = self.place.run(*words, env={"PATH": path, "COUNT": str(self.count), "AT": str(at), "MODE": mode})
        lock = SessionPaths(self.place.session(session)).session_lock
        wait_for(lambda: not is_locked(lock), "git has ended")
        assert done.code in {0, -9}, done.err
        return done.code != 0


def instants() -> Iterator[tuple[int, str]]:
    """Yield each STRIDE-th command, in both ways, without an end."""
    at = 1
    while True:
        yield at, ("skip", "run")[at % 2] if STRIDE > 1 else "skip"
        if STRIDE == 1:
            yield at, "run"
        at += STRIDE


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_killed_while_it_lands(repository: Place) -> None:
    """The checkout is as before or as after; landing again ends the same."""
    place, killer = repository, Killer(repository)
    sh(place, "echo mine >> sub/b")
    for number, (at, mode) in enumerate(instants()):
        name, before = f"file{number}", sh(place, "git rev-parse HEAD")
        session = work(place, f"git checkout -q -B x; echo 1 > {name}; git add .; git commit -qm own; echo 2 > {name}")
        sh(place, f"echo {number} > a; git commit -qm theirs a")
        theirs = sh(place, "git rev-parse HEAD")
        was_killed = killer.kills(at, mode, session, "land", session, "--check", "echo x > product")
        subjects = sh(place, f"git log --format=%s {before}..").split("\n")
        assert subjects in (["theirs"], ["work", "own", "theirs"]), (at, mode)
        assert sh(place, "git status --porcelain") == " M sub/b", (at, mode)
        done = place.run("land", session, "--json")
        assert done.code == 0, (at, mode, done.err)
        assert sh(place, f"git log --format=%s {before}..").split("\n") == ["work", "own", "theirs"], (at, mode)
        assert sh(place, f"git show --format= --name-only {theirs}..; cat {name}").split() == [name, name, "2"]
        tree = tree_of(place, session)
        assert tree["landed"] == sh(place, "git rev-parse HEAD"), (at, mode)
        assert not Path(tree["path"]).exists(), (at, mode)
        assert sh(place, "git status --porcelain; git worktree list --porcelain | grep -c ^worktree") == " M sub/b\n1"
        landed = [event for event in place.events(session) if event["data"].get("what") == "landed"]
        assert [len(event["data"]["commits"]) for event in landed] == [2], (at, mode)
        if not was_killed:
            break


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_killed_while_it_lays_out_a_repair(repository: Place) -> None:
    """Nothing of the work is lost, and asking again begins from it again."""
    place, killer = repository, Killer(repository)
    for at, mode in instants():
        session = work(place, "echo theirs > a; echo more >> new")
        sh(place, f"echo {at} {mode} > a; git commit -qm theirs a")
        assert place.run("land", session).code == 1
        agent_does(place, 'cat a new > "$CSA_OUTPUT_DIR/seen"; echo both > a')
        was_killed = killer.kills(at, mode, session, "run", "-s", session, "--repair")
        turn = place.state(session)["turns"]
        if was_killed and place.state(session)["turns"] == 1:
            assert place.run("run", "-s", session, "--repair").code == 0, (at, mode)
            turn = 2
        elif was_killed:
            assert place.run("run", "-s", session, "--repair").code in {0, 2}
        seen = (place.session(session) / f"output/turn-{turn:04d}/seen").read_text()
        assert f"{at} {mode}\n" in seen, (at, mode)
        assert "theirs\n" in seen, (at, mode)
        assert "more\n" in seen, (at, mode)
        done = place.run("land", session)
        assert done.code == 0, (at, mode, done.err)
        assert sh(place, "cat a new; git status --porcelain; git rm -q new; git commit -qm clean") == "both\nmore"
        if not was_killed:
            break


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.long
def test_killed_while_a_worktree_is_made(repository: Place) -> None:
    """As long as no session has begun, the same command begins one, on the branch of that name."""
    place, killer = repository, Killer(repository)
    agent_does(place, "echo done > done")
    command = ("run", "--tool", "codex", "--worktree=x", "work")
    for at in range(1, 100):
        killer.count.write_text("0\n")
        path = f"{place.tmp}/killing:{place.env['PATH']}"
        mode = ("skip", "run")[at % 2]
        done = place.run(*command, env={"PATH": path, "COUNT": str(killer.count), "AT": str(at), "MODE": mode})
        if done.code == 0 or place.published():
            break
        if not sh(place, "git branch --list csa/x"):
            sh(place, "git branch csa/x")
            assert (place.run(*command).code, sh(place, "git branch --list csa/x")) == (1, "  csa/x")
            sh(place, "git branch -D csa/x")
        again = place.run(*command, "--wait=20")  # git may still be running
        assert again.code == 0, (at, mode, again.err)
        assert sh(place, "git log --format=%s csa/x").split("\n") == ["work", "first"], (at, mode)
        assert place.run("rm", "--force", "--purge", again.session_id).code == 0
        sh(place, "git branch -D csa/x || :")
    assert at > 5
