"""Worktrees of sessions over real git: what an agent leaves is kept, whatever it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from csa.errors import UsageError
from csa.model.worktree import Worktree
from csa.store.gitwork import WorktreeError, list_dirty, list_refs, read_checkout
from csa.store.keeping import keep_work, snapshot
from csa.store.worktrees import add_worktree, restore_worktree, take_away
from tests.gits import needs_git
from tests.store.support import IDS

SESSION = IDS[0]
Run = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Run:
    """Make a repository with one commit in `repo`, and return what runs git there, or in another directory."""
    (tmp_path / "repo").mkdir()

    def run(*words: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=at or tmp_path / "repo",
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run("init", "-q", "-b", "main")
    (tmp_path / "repo/a.txt").write_text("one\n")
    (tmp_path / "repo/.gitignore").write_text("*.log\n")
    run("add", ".")
    run("commit", "-qm", "first")
    return run


def environment(home: Path) -> dict[str, str]:
    """Return an environment without the configuration of whoever runs the tests."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "U",
        "GIT_AUTHOR_EMAIL": "u@example.org",
        "GIT_COMMITTER_NAME": "U",
        "GIT_COMMITTER_EMAIL": "u@example.org",
    }


def refused(home: Path, at: Path, *words: str) -> None:
    """Run git for something that ends in a conflict."""
    assert subprocess.run(["git", *words], cwd=at, env=environment(home), capture_output=True, check=False).returncode


def made(tmp_path: Path, *, branch: str = "csa/work") -> Worktree:
    """Make a worktree beside the repository."""
    environ = environment(tmp_path)
    found = read_checkout(tmp_path / "repo", environ)
    place = str(tmp_path / "worktrees" / SESSION)
    tree = Worktree(
        path=place, git_dir="", branch=branch, base=found.head, checkout=found.top, target=found.branch, number=1
    )
    return add_worktree(tree, environ)


def kept(tree: Worktree, tmp_path: Path, turn: int = 1, **options: bool) -> tuple[str, str | None, tuple[str, ...]]:
    found = keep_work(tree, environment(tmp_path), session_id=SESSION, turn=turn, subject="add b", **options)
    return found.tip, found.commit, found.problems


def test_what_is_left_is_committed(git: Run, tmp_path: Path) -> None:
    """Changes, new files and deletions, with trailers; ignored files are not; the checkout is untouched."""
    tree = made(tmp_path)
    place = Path(tree.path)
    (place / "a.txt").unlink()
    (place / "b c.txt").write_text("new\n")
    (place / "x.log").write_text("ignored\n")
    tip, commit, problems = kept(tree, tmp_path)
    assert tip == commit == git("rev-parse", "csa/work") == git("rev-parse", f"refs/csa/{SESSION}/1")
    assert problems == ()
    assert git("show", "--name-status", "--format=%B", tip).split("\n") == [
        "add b", "", f"Csa-Session: {SESSION}", "Csa-Turn: 1", "", "", "D\ta.txt", "A\tb c.txt",
    ]  # fmt: skip
    assert git("status", "--porcelain", at=place) == "" == git("status", "--porcelain")
    assert kept(tree, tmp_path, 2) == (tip, None, ())
    assert set(list_refs(tree, environment(tmp_path), session_id=SESSION).values()) == {tip}


@pytest.mark.thorough
def test_the_agent_commits(git: Run, tmp_path: Path) -> None:
    """Its commits stay, also with a detached head or on a branch of its own; a stale lock is no matter."""
    tree = made(tmp_path)
    place = Path(tree.path)
    git("checkout", "-q", "-b", "elsewhere", at=place)
    (place / "b").write_text("b")
    git("add", ".", at=place)
    git("commit", "-qm", "mine", at=place)
    mine = git("rev-parse", "HEAD", at=place)
    git("checkout", "-q", "--detach", at=place)
    (place / "c").write_text("c")
    (Path(tree.git_dir) / "index.lock").touch()
    tip, commit, problems = kept(tree, tmp_path)
    assert (tip, problems) == (commit, ())
    assert git("rev-parse", "csa/work^") == mine
    assert git("symbolic-ref", "HEAD", at=place) == "refs/heads/csa/work"
    assert git("status", "--porcelain", at=place) == ""


@pytest.mark.thorough
def test_what_no_commit_can_hold(git: Run, tmp_path: Path) -> None:
    """A rebase with conflicts stays, and its files are kept by a ref; a merge that was resolved is committed."""
    tree = made(tmp_path)
    place = Path(tree.path)
    (tmp_path / "repo/a.txt").write_text("theirs\n")
    git("commit", "-qam", "theirs")
    (place / "a.txt").write_text("ours\n")
    tip, _, _ = kept(tree, tmp_path)
    refused(tmp_path, place, "rebase", "-q", "main")
    head, commit, problems = kept(tree, tmp_path, 2)
    assert commit is None
    assert "a rebase unfinished" in problems[0]
    assert head != tip
    assert "<<<<<<<" in git("show", f"refs/csa/{SESSION}/2-unfinished:a.txt")
    assert git("rev-parse", "csa/work") == tip
    git("rebase", "--abort", at=place)
    refused(tmp_path, place, "merge", "-q", "main")
    assert "a merge with conflicts" in kept(tree, tmp_path, 3)[2][0]
    (place / "a.txt").write_text("both\n")
    git("add", "a.txt", at=place)
    merged, _, problems = kept(tree, tmp_path, 4)
    assert (problems, git("show", "-s", "--format=%P", merged).split()) == ((), [tip, git("rev-parse", "main")])


@pytest.mark.thorough
def test_a_repository_in_it(git: Run, tmp_path: Path) -> None:
    """One that the agent has made is named, and not committed as a link to nothing."""
    tree = made(tmp_path)
    git("init", "-q", "inner", at=Path(tree.path))
    git("commit", "-q", "--allow-empty", "-m", "x", at=Path(tree.path) / "inner")
    (Path(tree.path) / "b").touch()
    tip, commit, problems = kept(tree, tmp_path)
    assert commit
    assert problems == ("inner is a repository of its own: it is not committed",)
    assert git("ls-tree", "--name-only", tip).split() == [".gitignore", "a.txt", "b"]


@pytest.mark.thorough
@needs_git(2, 36)
def test_hooks(git: Run, tmp_path: Path) -> None:
    """They run only if asked; what one refuses is kept by a ref."""
    hook = tmp_path / "repo/.git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho no tabs >&2\nexit 1\n")
    hook.chmod(0o755)
    tree = made(tmp_path)
    (Path(tree.path) / "b").touch()
    with pytest.raises(WorktreeError, match="no tabs"):
        kept(tree, tmp_path, run_hooks=True)
    assert git("ls-tree", "--name-only", f"refs/csa/{SESSION}/1-refused").split() == [".gitignore", "a.txt", "b"]
    assert kept(tree, tmp_path)[1]


def test_hooks_and_a_git_that_runs_none(git: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is needed is said, and what was left is kept."""
    tree, real = made(tmp_path), shutil.which("git")
    (Path(tree.path) / "b").touch()
    old = tmp_path / "old" / "git"
    old.parent.mkdir()
    old.write_text(f"""#!/bin/sh
case "$*" in *" version") echo git version 2.31.8; exit;; *" hook run "*) echo "'hook' is no command" >&2; exit 1;; esac
exec {real} "$@"
""")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    with pytest.raises(WorktreeError, match=r"needs git 2\.36 \(worktree_hooks"):
        kept(tree, tmp_path, run_hooks=True)
    assert git("ls-tree", "--name-only", f"refs/csa/{SESSION}/1-refused").split() == [".gitignore", "a.txt", "b"]


@pytest.mark.thorough
def test_an_agent_that_changes_where_git_looks(git: Run, tmp_path: Path) -> None:
    """A `.git` file that names another repository, whose configuration would run a program, is not followed."""
    tree = made(tmp_path)
    place = Path(tree.path)
    trap = tmp_path / "trap"
    git("init", "-q", str(trap))
    git("config", "core.fsmonitor", f"touch {tmp_path}/ran; false", at=trap)
    git("config", "filter.f.clean", f"touch {tmp_path}/ran; cat", at=trap)
    (place / ".gitattributes").write_text("* filter=f\n")
    (place / ".git").write_text(f"gitdir: {trap}/.git\n")
    assert kept(tree, tmp_path)[1] == git("rev-parse", "csa/work")
    assert not (tmp_path / "ran").exists()


def test_taken_away_and_back(git: Run, tmp_path: Path) -> None:
    """It is moved aside with its ignored files; its branch goes, the refs stay; it can be made again where it was."""
    tree = made(tmp_path)
    (Path(tree.path) / "x.log").touch()
    (Path(tree.path) / "b").touch()
    tip, _, _ = kept(tree, tmp_path)
    environ = environment(tmp_path)
    aside = take_away(tree, environ, session_id=SESSION, tip=tip)
    assert aside is not None
    assert {each.name for each in aside.iterdir()} >= {"x.log", "b"}
    assert git("for-each-ref", "--format=%(refname)").split() == [f"refs/csa/{SESSION}/1", "refs/heads/main"]
    assert git("worktree", "list").count("\n") == 0
    assert take_away(tree, environ, session_id=SESSION, tip=tip) is None
    again = restore_worktree(tree, environ, start=tip)
    assert (Path(again.path) / "b").exists()
    assert git("rev-parse", "csa/work") == tip


@pytest.mark.thorough
def test_what_cannot_be_made(git: Run, tmp_path: Path) -> None:
    """Another's branch of that name, no repository, no commit, a filter that fails: an error, and nothing is left."""
    environ = environment(tmp_path)
    git("branch", "csa/work")
    with pytest.raises(WorktreeError, match="a branch csa/work already"):
        made(tmp_path)
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="not in a git work tree"):
        read_checkout(tmp_path / "plain", environ)
    git("init", "-q", str(tmp_path / "plain"))
    with pytest.raises(UsageError, match="no commit yet"):
        read_checkout(tmp_path / "plain", environ)
    (tmp_path / "repo/.gitattributes").write_text("a.txt filter=big\n")
    git("add", ".")
    git("commit", "-qm", "filter")
    git("config", "filter.big.smudge", "false")
    git("config", "filter.big.required", "true")
    with pytest.raises(WorktreeError, match="cannot be made"):
        made(tmp_path, branch="csa/other")
    assert not (tmp_path / "worktrees" / SESSION).exists()
    assert "csa/other" not in git("branch")
    assert git("worktree", "list").count("\n") == 0


@pytest.mark.thorough
def test_a_snapshot(git: Run, tmp_path: Path) -> None:
    """It has what is not committed, staged or not; index, branch and stash stay as they are."""
    (tmp_path / "repo/a.txt").write_text("two\n")
    git("add", ".")
    (tmp_path / "repo/a.txt").write_text("three\n")
    (tmp_path / "repo/new").touch()
    environ = environment(tmp_path)
    before = git("status", "--porcelain"), git("diff", "--cached"), git("for-each-ref")
    taken = snapshot(str(tmp_path / "repo"), environ, message="snapshot")
    assert (git("show", f"{taken}:a.txt"), git("rev-parse", f"{taken}^")) == ("three", git("rev-parse", "HEAD"))
    assert (git("status", "--porcelain"), git("diff", "--cached"), git("for-each-ref")) == before
    assert list_dirty(str(tmp_path / "repo"), environ) == ["a.txt", "new"]
