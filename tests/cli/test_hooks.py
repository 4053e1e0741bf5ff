"""csa called from a git hook, or by make: whose repository its agents get."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from tests.support import CSA, Done, Place

OWN = "-c core.hooksPath=/dev/null -c user.email=agent@example.org"
COMMIT = f"echo agent > agent.txt && git add agent.txt && git {OWN} commit -q -m 'by the agent'"


def git(place: Place, *words: str, cwd: Path | None = None) -> str:
    identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "EMAIL": "user@example.org"}
    done = subprocess.run(
        ["git", "-c", "user.name=User", *words],
        cwd=cwd or place.project,
        env=place.environment(identity),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(place: Place) -> Place:
    """Make the project a repository with two commits' worth of files, and the agent one that commits a file."""
    git(place, "init", "-q")
    for name in ("a", "b"):
        (place.project / name).write_text(name)
    git(place, "add", ".")
    git(place, "commit", "-q", "-m", "first")
    (place.project / "c").write_text("c")
    git(place, "add", "c")
    return place


def hook(place: Place, command: str) -> None:
    path = place.project / ".git" / "hooks" / "pre-commit"
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


@pytest.mark.thorough
def test_detached_from_a_hook(repository: Place) -> None:
    """An agent that goes on after the commit of its hook makes one of its own, on top, which keeps every file."""
    place = repository
    place.play(["wait-file", str(place.go), 60], ["run", COMMIT])
    hook(place, f"{CSA} run -q --tool codex --detach go > {place.tmp}/id")
    git(place, "commit", "-q", "-m", "second")
    place.release()
    session_id = (place.tmp / "id").read_text().strip()
    assert place.run("session", "wait", "-s", session_id).code == 0
    assert git(place, "log", "--format=%s %ae").splitlines() == [
        "by the agent agent@example.org",
        "second user@example.org",
        "first user@example.org",
    ]
    assert git(place, "ls-files").split() == ["a", "agent.txt", "b", "c"]
    assert git(place, "status", "--porcelain") == ""


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["--cd", "cd"])
def test_elsewhere_from_a_hook(repository: Place, how: str) -> None:
    """An agent that a hook starts in another repository commits there."""
    place = repository
    other = place.tmp / "other"
    other.mkdir()
    git(place, "init", "-q", cwd=other)
    place.play(["run", COMMIT])
    go = (
        f"{CSA} run -q --tool codex --cd {other} go" if how == "--cd" else f"cd {other} && {CSA} run -q --tool codex go"
    )
    hook(place, go)
    git(place, "commit", "-q", "-m", "second")
    assert git(place, "log", "--format=%s").splitlines() == ["second", "first"]
    if how == "--cd":  # who changes the directory himself still says which repository he means
        assert git(place, "log", "--format=%s", cwd=other) == "by the agent"
        assert git(place, "ls-files").split() == ["a", "b", "c"]


def test_in_the_hooks_own_work_tree(repository: Place) -> None:
    """In the foreground an agent sees what is about to be committed, and can add to it."""
    place = repository
    place.play(["run", "git diff --cached --name-only > seen; echo more > d; git add d"])
    hook(place, f"{CSA} run -q --tool codex go")
    git(place, "commit", "-q", "-m", "second")
    assert (place.project / "seen").read_text() == "c\n"
    assert git(place, "show", "--format=", "--name-only", "HEAD").split() == ["c", "d"]


@pytest.mark.thorough
def test_under_make(place: Place) -> None:
    """An agent's make does not take descriptors of another make's for its job server."""
    place.play(["run", "env | grep -c MAKE > made; true"])
    (place.project / "Makefile").write_text(f"go:\n\t+{CSA} run -q --tool codex go\n")
    done: Done = place.shell(["make", "-j2", "go"])
    assert done.code == 0
    assert (place.project / "made").read_text() == "0\n"


def test_without_a_home(place: Place) -> None:
    """Without HOME csa and its tools take the account's, the same one."""
    place.play(["run", "echo $HOME > home"])
    state = str(place.tmp / "state")
    assert place.run("run", "-q", "--tool", "codex", "go", env={"HOME": None, "CSA_STATE_DIR": state}).code == 0
    assert (place.project / "home").read_text().strip() == pwd.getpwuid(os.getuid()).pw_dir


@pytest.mark.parametrize("value", ["state", "~/state"])
def test_nothing_is_made_in_the_current_directory(place: Place, value: str) -> None:
    """A relative XDG directory is ignored, and a literal `~` too."""
    before = sorted(place.project.iterdir())
    done = place.run("run", "-q", "--tool", "codex", "go", env={"XDG_STATE_HOME": value, "CSA_STATE_DIR": None})
    assert done.code == 0
    assert sorted(place.project.iterdir()) == before
