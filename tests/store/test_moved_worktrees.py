"""Worktrees whose project, store or record is not where it was, or not what it was."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from csa.errors import RefusedError, ToolUnavailableError
from csa.runner.client import Csa
from csa.runner.doctor.store_checks import check_worktrees
from csa.runner.session import Session
from csa.runner.sessions.adoption import adopt_project
from csa.runner.sessions.exporting import write_archive
from csa.runner.sessions.importing import import_archive
from csa.runner.sessions.repairing import repair_session
from csa.runner.sessions.worktrees import drop_worktree
from csa.store.gitwork import read_checkout, worktree_path
from csa.store.survey import survey
from tests.store.support import IDS
from tests.store.test_dropping import Place, place
from tests.store.test_session_worktrees import Run, git

ID = IDS[0]
__all__ = ["git", "place"]
pytestmark = pytest.mark.thorough


def test_a_project_that_was_moved(place: Place, git: Run) -> None:
    """Its sessions come along with their worktrees, in which git works as before."""
    place.works()
    (place.path / "late").write_text("late")
    new = place.home / "new"
    (place.home / "repo").rename(new)
    context = Csa(new, root=place.store.root, environ=place.environ).context
    adoption = adopt_project(context, str(place.home / "repo"))
    assert (adoption.moved, adoption.warnings) == ([ID], [])
    tree = context.store.load(ID).worktree
    assert tree
    assert tree.path == worktree_path(context.store, ID)
    assert (tree.checkout, tree.git_dir) == (str(new), f"{new}/.git/worktrees/{ID}")
    assert git("show", "HEAD:late", at=Path(tree.path)) == "late"
    assert git("worktree", "list", "--porcelain", at=new).count(tree.path) == 1
    git("merge", "-q", "csa/work", at=new)
    assert drop_worktree(Session(context, ID)).unlanded == ()
    assert not (place.store.path / "worktrees").exists()


def test_a_state_directory_that_was_moved(place: Place, git: Run) -> None:
    """The worktrees are where their sessions are, whatever the records say."""
    place.works()
    place.store.root.rename(place.home / "elsewhere")
    context = Csa(place.home / "repo", root=place.home / "elsewhere", environ=place.environ).context
    with pytest.raises(RefusedError, match="1 commit of csa/work"):
        drop_worktree(Session(context, ID))
    git("merge", "-q", "csa/work")
    dropped = drop_worktree(Session(context, ID))
    assert dropped.aside
    assert dropped.aside.is_relative_to(place.home / "elsewhere")
    assert git("worktree", "list").count("\n") == 0


def test_a_session_from_another_machine(place: Place) -> None:
    """An imported session has no worktree: what its record said of one there is of no use here."""
    place.works()
    archive = io.BytesIO()
    write_archive(place.context, [place.session.record.examine()], archive)
    archive.seek(0)
    (place.home / "other").mkdir()
    context = Csa(place.home / "other", root=place.home / "state2", environ=place.environ).context
    import_archive(context, archive)
    assert context.store.load(ID).worktree is None
    assert "worktree" not in context.store.paths(ID).state.read_text()
    archive.seek(0)
    copy = import_archive(place.context, archive, new_ids=True)[0]
    assert place.store.load(copy.session_id).worktree is None


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_record_that_is_damaged(place: Place, *, is_cut: bool) -> None:
    """It is rebuilt from what is legible of it, and from what git knows; the work in it stays kept meanwhile."""
    place.works()
    before = place.tree
    paths = place.store.paths(ID)
    text = paths.state.read_text()
    paths.state.write_text(text.replace("base = ", "base ! ") if is_cut else f"{text}\nnot toml")
    repair_session(place.session)
    tree = place.store.load(ID).worktree
    assert tree
    for name in ("path", "git_dir", "branch", "base", "checkout", "target"):
        assert getattr(tree, name) == getattr(before, name)


def test_what_doctor_says(place: Place) -> None:
    """What they take, and those whose session, record or directory in the repository is gone."""
    (place.path / "big").write_bytes(b"x" * 3_000_000)
    found = survey(place.store.root, limit_s=5)
    assert (found.size_bytes < 1_000_000, found.worktrees_bytes > 3_000_000) == (True, True)
    assert (check_worktrees(found).status, check_worktrees(found).detail[:18]) == ("ok", "1 worktree, 3.0 MB")
    shutil.rmtree(place.tree.git_dir)
    assert "git does not know it any more" in check_worktrees(found).detail
    place.store.paths(ID).root.rename(place.store.path / "away")
    assert "its session is gone" in check_worktrees(found).detail


def test_an_old_git(place: Place) -> None:
    """It is refused before anything is made."""
    own = place.home / "bin"
    own.mkdir()
    real = shutil.which("git")
    answer = f'case "$*" in *version*) echo git version 2.30.2;; *) exec {real} "$@";; esac'
    (own / "git").write_text(f"#!/bin/sh\n{answer}\n")
    (own / "git").chmod(0o755)
    with pytest.raises(ToolUnavailableError, match=r"git 2\.31 or newer; this is 2\.30"):
        read_checkout(place.home / "repo", {**place.environ, "PATH": f"{own}:{place.environ['PATH']}"})
