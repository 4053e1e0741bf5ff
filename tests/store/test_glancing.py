"""Looking at worktrees while agents work in them: what is there counts, and nothing is written to the repository."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from csa.model.worktree import Worktree
from csa.store.gitwork import read_checkout
from csa.store.glancing import Extent, glance_at
from csa.store.worktrees import add_worktree
from tests.gits import needs_git
from tests.store.test_session_worktrees import environment, git

__all__ = ["git"]  # the fixture
Run = Callable[..., str]


def tree(tmp_path: Path, name: str) -> Worktree:
    """Make a worktree."""
    environ = environment(tmp_path)
    found = read_checkout(tmp_path / "repo", environ)
    made = Worktree(path=str(tmp_path / name), git_dir="", branch=f"csa/{name}", base=found.head, checkout=found.top)
    return add_worktree(made, environ)


def files_of(repository: Path) -> dict[str, bytes]:
    """Return all that git has."""
    paths = [Path(place, name) for place, _, names in os.walk(repository / ".git") for name in names]
    return {str(path): path.read_bytes() for path in paths}


@needs_git(2, 38)
def test_a_glance(git: Run, tmp_path: Path) -> None:
    """Committed, changed and new files count; two that change one line would conflict; git is as it was."""
    one, other, third = (tree(tmp_path, name) for name in ("one", "other", "third"))
    (tmp_path / "one/a.txt").write_text("eins\n")
    git("commit", "-qam", "a", at=tmp_path / "one")
    (tmp_path / "one/new.txt").write_text("1\n2\n")
    (tmp_path / "other/a.txt").write_text("uno\n")
    (tmp_path / "third/c d.bin").write_bytes(b"\0\1")
    git("config", "filter.x.clean", f"touch {tmp_path}/ran; cat")
    (tmp_path / "third/.gitattributes").write_text("*.txt filter=x\n")
    (tmp_path / "third/a.txt").write_text("one\nmore\n")
    before = files_of(tmp_path / "repo")
    with glance_at(str(tmp_path / "repo"), environment(tmp_path)) as glance:
        tips = [glance.tip(each) or "" for each in (one, other, third)]
        assert glance.measure(one.base, tips[0]) == Extent(2, 3, 1)
        assert glance.measure(third.base, tips[2]) == Extent(3, 2, 0)
        assert glance.conflicts(tips[0], tips[1]) == ["a.txt"]
        assert glance.conflicts(tips[1], tips[2]) == ["a.txt"]
        assert glance.conflicts(tips[0], one.base) == []
    assert files_of(tmp_path / "repo") == before
    assert not (tmp_path / "ran").exists()
