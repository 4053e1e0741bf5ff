"""Which project a directory belongs to."""

from pathlib import Path

import pytest

from csa.store.project import find_project, git_branch


def test_the_nearest_marker_counts(tmp_path: Path) -> None:
    """The nearest ancestor with .csa or .git is the project, else the directory itself."""
    assert find_project(Path("/proc/self/task")) == Path("/proc/self/task").resolve()
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "a" / ".git").mkdir()
    assert find_project(deep) == (tmp_path / "a").resolve()
    (tmp_path / "a" / "b" / ".csa").mkdir()
    assert find_project(deep) == (tmp_path / "a" / "b").resolve()


def test_symbolic_links_are_followed(tmp_path: Path, project: Path) -> None:
    """Two ways to one project are one project."""
    (tmp_path / "link").symlink_to(project)
    assert find_project(tmp_path / "link") == project


def test_the_branch(project: Path, tmp_path: Path) -> None:
    """The branch is read from HEAD, with its slashes, in worktrees too; a detached head has none."""
    head = project / ".git" / "HEAD"
    assert git_branch(project) == "main"
    head.write_text("ref: refs/heads/feat/auth\n")
    assert git_branch(project) == "feat/auth"
    worktree = tmp_path / "worktree"
    worktree.mkdir()
    (worktree / ".git").write_text(f"gitdir: {project / '.git'}\n")
    assert git_branch(worktree) == "feat/auth"
    head.write_text("0123456789012345678901234567890123456789\n")
    assert git_branch(project) is None
    assert git_branch(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"gitdir: \xff"])
def test_a_broken_repository_has_no_branch(tmp_path: Path, content: bytes) -> None:
    """A HEAD that is no text never stops a run."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_bytes(content)
    assert git_branch(tmp_path) is None
