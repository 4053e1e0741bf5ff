"""Which project a directory belongs to."""

from pathlib import Path

import pytest

from csa.store.project import find_project, git_branch, git_head


def test_the_nearest_marker_counts(tmp_path: Path) -> None:
    """The nearest ancestor with .csa or .git is the project, else the directory itself."""
    assert Path(find_project(Path("/proc/self/task"))) == Path("/proc/self/task").resolve()
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "a" / ".git").mkdir()
    (tmp_path / "a" / "b" / ".git").mkdir()
    assert Path(find_project(deep)) == deep.resolve(), "an empty .git, as codex's sandbox leaves, is no repository"
    (tmp_path / "a" / ".git" / "HEAD").symlink_to("refs/heads/main")  # as git wrote it once, before a first commit
    assert Path(find_project(deep)) == (tmp_path / "a").resolve()
    (tmp_path / "a" / "b" / ".csa").mkdir()
    assert Path(find_project(deep)) == (tmp_path / "a" / "b").resolve()


def test_symbolic_links_are_followed(tmp_path: Path, project: Path) -> None:
    """Two ways to one project are one project."""
    (tmp_path / "link").symlink_to(project)
    assert Path(find_project(tmp_path / "link")) == project


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


COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "76543210fedcba9876543210fedcba9876543210"


def test_the_head_is_a_commit(project: Path) -> None:
    """It is read from the branch's file, else from the packed refs; a branch without commits has none."""
    git = project / ".git"
    assert git_head(project) is None
    (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{OTHER} refs/heads/main\n^{COMMIT}\n")
    assert git_head(project) == OTHER
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    assert git_head(project) == COMMIT
    (git / "HEAD").write_text(f"{OTHER}\n")
    assert git_head(project) == OTHER
    assert git_head(project / "deep" / "below") == OTHER


def test_the_head_of_a_worktree(project: Path, tmp_path: Path) -> None:
    """It has a HEAD of its own, and its branches where the others have theirs."""
    own = project / ".git" / "worktrees" / "side"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/side\n")
    (own / "commondir").write_text("../..\n")
    (project / ".git" / "refs" / "heads").mkdir(parents=True)
    (project / ".git" / "refs" / "heads" / "side").write_text(f"{COMMIT}\n")
    tree = tmp_path / "side"
    tree.mkdir()
    (tree / ".git").write_text(f"gitdir: {own}\n")
    assert git_head(tree) == COMMIT


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/../../../secret", "ref: HEAD", "ref: refs/heads/main extra", "0123", "\ufffd"]
)
def test_a_broken_head_is_none(tmp_path: Path, head: str) -> None:
    """Whatever stands in HEAD, a run goes on, and no file outside of the repository is read."""
    (tmp_path / "secret").write_text(f"{COMMIT}\n")
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / ".git" / "HEAD").write_text(head)
    assert git_head(tmp_path / "project") is None
