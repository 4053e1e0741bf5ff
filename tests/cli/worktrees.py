"""A project that is a real repository, for the tests of worktrees."""

from __future__ import annotations

from pathlib import Path

from tests.support import Json, Place

NAMES = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"}


def make_repository(place: Place) -> Place:
    """Make the project a repository with one commit on `main`: the files `a` and `sub/b`, and `*.log` ignored."""
    (place.project / ".git" / "HEAD").unlink()
    (place.project / ".git").rmdir()
    place.env.update(NAMES)
    (place.project / "a").write_text("a\n")
    (place.project / "sub").mkdir()
    (place.project / "sub/b").write_text("b\n")
    (place.project / ".gitignore").write_text("*.log\n")
    sh(place, "git init -q -b main && git add . && git commit -qm first")
    return place


def sh(place: Place, script: str, cwd: Path | None = None) -> str:
    """Run a script that must succeed; return what it prints, without the last newline."""
    done = place.shell(["sh", "-ec", script], cwd=cwd)
    assert done.code == 0, done.err
    return done.out.rstrip("\n")


def agent_does(place: Place, script: str) -> None:
    """Have the agents run a script from now on."""
    place.play(["run", f"set -e; {script}"], ["say", "Done."])


def work(place: Place, script: str, *words: str, cwd: Path | None = None) -> str:
    """Have an agent run a script in a new worktree; return its session."""
    agent_does(place, script)
    done = place.run("run", "--tool", "codex", "--worktree", *words, "work", cwd=cwd)
    assert done.code == 0, done.err
    return done.session_id


def tree_of(place: Place, session_id: str) -> Json:
    """Return the record of a session's worktree."""
    found: Json = place.state(session_id)["worktree"]
    return found


def left_of(place: Place) -> tuple[list[str], str, list[str]]:
    """Return what a refused start may have left: sessions, branches and worktrees."""
    trees = place.store / "worktrees"
    return (
        place.ids(),
        sh(place, "git for-each-ref --format='%(refname)'; git worktree list --porcelain | grep ^worktree"),
        sorted(path.name for path in trees.iterdir()) if trees.exists() else [],
    )
