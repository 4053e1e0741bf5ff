"""Which project a git worktree belongs to, and whose settings count there. git itself makes the worktrees."""

import subprocess
from pathlib import Path

import pytest

from csa.runner.client import Csa
from csa.store.project import find_project, git_branch


def git(place: Path, *words: str) -> None:
    """Run git in a directory."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *identity, *words], cwd=place, check=True, capture_output=True)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """Make a repository with a commit and a linked worktree beside it, on a branch of its own."""
    place = tmp_path.resolve() / "main"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    git(place, "commit", "-q", "--allow-empty", "-m", "first")
    git(place, "worktree", "add", "-q", "../side", "-b", "feat/side")
    return place


def test_a_linked_worktree_belongs_to_its_main_worktree(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its top and from below it; its branch is its own, and GIT_DIR says nothing about it."""
    side = main.parent / "side"
    (side / "deep" / "below").mkdir(parents=True)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    for start in (main, side, side / "deep" / "below"):
        assert find_project(start) == str(main)
    assert (git_branch(main), git_branch(side / "deep")) == ("main", "feat/side")


def test_paths_may_be_relative(main: Path) -> None:
    """As git writes them with `worktree.useRelativePaths`."""
    (main.parent / "side" / ".git").write_text("gitdir: ../main/.git/worktrees/side\n")
    assert find_project(main.parent / "side") == str(main)


def test_a_submodule_is_a_project_of_its_own(main: Path, tmp_path: Path) -> None:
    """And a worktree of it belongs to it."""
    other = tmp_path.resolve() / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "submodule", "add", "-q", str(main), "part")
    assert find_project(other / "part") == str(other / "part")
    git(other / "part", "worktree", "add", "-q", str(tmp_path / "of-part"), "-b", "x")
    assert find_project(tmp_path / "of-part") == str(other / "part")


def test_worktrees_of_a_bare_repository(main: Path, tmp_path: Path) -> None:
    """They belong to it, or to the directory whose `.git` names it."""
    root = tmp_path.resolve()
    git(main, "clone", "-q", "--bare", str(main), str(root / "api.git"))
    git(root / "api.git", "worktree", "add", "-q", str(root / "one"), "main")
    assert find_project(root / "one") == str(root / "api.git")
    (root / "kept").mkdir()
    git(main, "clone", "-q", "--bare", str(main), str(root / "kept" / ".bare"))
    (root / "kept" / ".git").write_text("gitdir: ./.bare\n")
    git(root / "kept", "worktree", "add", "-q", str(root / "kept" / "two"), "main")
    assert find_project(root / "kept" / "two") == find_project(root / "kept") == str(root / "kept")


@pytest.mark.parametrize(
    "content",
    [b"", b"gitdir:", b"gitdir: /nowhere/at/all\n", b"\xff\xfe", b"gitdir: a\0b", b"something else", b"gitdir: .."],
)
def test_a_broken_git_file(tmp_path: Path, content: bytes) -> None:
    """Where no repository can be found, the directory is a project of its own, as a submodule's is."""
    (tmp_path / "side").mkdir()
    (tmp_path / "side" / ".git").write_bytes(content)
    assert find_project(tmp_path / "side") == str(tmp_path.resolve() / "side")


def test_a_main_worktree_that_is_gone(main: Path) -> None:
    """Its worktrees are then projects of their own."""
    main.rename(main.parent / "aside")
    assert find_project(main.parent / "side") == str(main.parent / "side")


def test_projects_below_a_worktree(main: Path) -> None:
    """A directory with `.csa` has its counterpart in the main worktree; one that has none there stands alone."""
    side = main.parent / "side"
    for place in (main / "web", side / "web", side / "new"):
        (place / ".csa").mkdir(parents=True)
    assert find_project(side / "web") == str(main / "web")
    assert find_project(side / "new") == str(side / "new")


def test_whose_settings_count(main: Path, tmp_path: Path) -> None:
    """A worktree's own `.csa/config.toml`, else that of the project."""
    side = main.parent / "side"
    environ = {"HOME": str(tmp_path / "nobody"), "CSA_STATE_DIR": str(tmp_path / "state")}
    (main / ".csa").mkdir()
    (main / ".csa" / "config.toml").write_text("max_depth = 3\n")
    assert Csa.from_environment(side, environ=environ).context.config.max_depth == 3
    (side / ".csa").mkdir()
    (side / ".csa" / "config.toml").write_text("max_depth = 2\n")
    here = Csa.from_environment(side, environ=environ)
    assert (here.context.config.max_depth, here.store.project, here.context.directory) == (2, main, side)
    assert Csa.from_environment(main, environ=environ).context.config.max_depth == 3
