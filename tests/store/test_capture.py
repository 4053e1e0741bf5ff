"""Everything in a work tree is committed, whatever the user's git is told, and whatever one of the files is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from csa.model.worktree import Worktree
from csa.store import keeping
from csa.store.gitwork import list_dirty
from csa.store.keeping import keep_work
from csa.store.unlanded import examine_work
from tests.store.test_session_worktrees import SESSION, Run, environment, git, kept, made

__all__ = ["git"]


def files(git: Run, commit: str) -> list[str]:
    return git("ls-tree", "-r", "--name-only", commit).split()


def unlanded(tree: Worktree, tmp_path: Path) -> tuple[str, ...]:
    return examine_work(tree, environment(tmp_path), session_id=SESSION).unlanded


@pytest.mark.parametrize(
    ("setting", "attributes"),
    [
        (("filter.f.clean", "false"), "bad filter=f"),
        pytest.param(("x.y", "z"), "bad working-tree-encoding=UTF-16", marks=pytest.mark.thorough),
    ],
)
def test_one_file_that_git_refuses_keeps_no_other_out(
    git: Run, tmp_path: Path, setting: tuple[str, str], attributes: str
) -> None:
    """A filter that fails, or a false encoding, ends `git add`: the others are added, and that one is named."""
    git("config", *setting)
    git("config", "filter.f.required", "true")
    tree = made(tmp_path)
    for name in ("a", "bad", "z"):
        (Path(tree.path) / name).write_bytes(b"abc")
    (Path(tree.path) / ".gitattributes").write_text(f"{attributes}\n")
    tip, _, problems = kept(tree, tmp_path)
    assert problems == ("bad cannot be read: it is not committed",)
    assert files(git, tip) == [".gitattributes", ".gitignore", "a", "a.txt", "z"]


@pytest.mark.thorough
def test_settings_of_the_user(git: Run, tmp_path: Path) -> None:
    """Line ends that git would refuse, and files that `git status` is told to hide, are kept and named."""
    for setting in ("core.autocrlf=true", "core.safecrlf=true", "status.showUntrackedFiles=no"):
        git("config", *setting.split("="))
    (tmp_path / "repo/new").touch()
    assert list_dirty(str(tmp_path / "repo"), environment(tmp_path)) == ["new"]
    tree = made(tmp_path)
    (Path(tree.path) / "lf").write_bytes(b"one\n")
    (Path(tree.path) / "crlf").write_bytes(b"one\r\n")
    assert unlanded(tree, tmp_path) == ("crlf, lf not committed",)
    tip, _, problems = kept(tree, tmp_path)
    assert (files(git, tip), problems) == ([".gitignore", "a.txt", "crlf", "lf"], ())


@pytest.mark.thorough
def test_outside_of_a_sparse_checkout(git: Run, tmp_path: Path) -> None:
    """What an agent writes outside of the directories that are checked out is committed; what is not there stays."""
    for name in ("in", "out"):
        (tmp_path / "repo" / name).mkdir()
        (tmp_path / "repo" / name / "x").touch()
    git("add", ".")
    git("commit", "-qm", "two directories")
    git("sparse-checkout", "set", "--cone", "in")
    tree = made(tmp_path)
    (Path(tree.path) / "other").mkdir()
    (Path(tree.path) / "other/y").touch()
    tip, _, problems = kept(tree, tmp_path)
    assert (files(git, tip), problems) == ([".gitignore", "a.txt", "in/x", "other/y", "out/x"], ())


@pytest.mark.thorough
def test_long_names_of_commits(git: Run, tmp_path: Path) -> None:
    """A repository with SHA-256 works as any other: also where work is kept again, beside that of before."""
    (tmp_path / "repo").rename(tmp_path / "short")
    (tmp_path / "repo").mkdir()
    git("init", "-q", "-b", "main", "--object-format=sha256")
    git("commit", "-q", "--allow-empty", "-m", "first")
    tree = made(tmp_path)
    (Path(tree.path) / "b").touch()
    tip, _, _ = kept(tree, tmp_path)
    git("reset", "-q", "--hard", "main", at=Path(tree.path))
    assert kept(tree, tmp_path)[0] == git("rev-parse", "main") != tip
    assert git("rev-parse", f"refs/csa/{SESSION}/1") == tip


@pytest.mark.thorough
def test_git_that_was_killed(git: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks are no obstacle; an index from before csa's commit, which would take that back, is not left."""
    tree = made(tmp_path)
    (Path(tree.path) / "b").touch()
    for name in ("HEAD.lock", "index.lock"):
        Path(tree.git_dir, name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(keeping, "_reset_index", lambda *_: None)  # csa was killed before
        tip, _, _ = kept(tree, tmp_path)
    assert "b" in files(git, tip)
    assert git("status", "--porcelain", at=Path(tree.path))
    kept(tree, tmp_path, 2)
    assert not git("status", "--porcelain", at=Path(tree.path))


def test_no_program_of_a_submodule_runs(git: Run, tmp_path: Path) -> None:
    """An agent may write a submodule's configuration: what that names would run outside of the agent's sandbox.

    The commit that is checked out there is noted, and that something is not committed there.
    """
    git("init", "-q", "../lib")
    git("commit", "-q", "--allow-empty", "-m", "x", at=tmp_path / "lib")
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../lib", "lib")
    git("commit", "-qm", "a submodule")
    tree = made(tmp_path)
    inner = Path(tree.path) / "lib"
    git("clone", "-q", "../../lib", "lib", at=Path(tree.path))
    (inner / "f").touch()
    git("add", ".", at=inner)
    git("config", "filter.f.clean", f"touch {tmp_path}/ran; cat", at=inner)
    (inner / ".gitattributes").write_text("* filter=f\n")
    (inner / "f").write_text("changed")
    assert kept(tree, tmp_path)[1:] == (None, ("lib is a submodule with changes inside that are not committed",))
    assert "changes inside the submodule lib not committed" in unlanded(tree, tmp_path)
    git("-c", "filter.f.clean=cat", "add", ".gitattributes", at=inner)
    git("-c", "filter.f.clean=cat", "commit", "-qam", "y", at=inner)
    assert git("rev-parse", "csa/work:lib") != git("rev-parse", "HEAD", at=inner)
    tip, _, problems = kept(tree, tmp_path, 2)
    assert (git("rev-parse", f"{tip}:lib"), problems) == (git("rev-parse", "HEAD", at=inner), ())
    assert list_dirty(tree.path, environment(tmp_path)) == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.thorough
def test_ctrl_c_is_not_for_the_git_that_keeps_work(git: Run, tmp_path: Path) -> None:
    """A terminal sends the signal to csa's process group, in which that git is not."""
    tree = made(tmp_path)
    (Path(tree.path) / "b").touch()
    program, noted = tmp_path / "git", tmp_path / "groups"
    program.write_text(f'#!/bin/sh\ncase "$*" in *write-tree|*update-ref*) ps -o pgid= $$ >> {noted};; esac\n')
    with program.open("a") as file:
        file.write(f'exec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    environ = environment(tmp_path)
    keep_work(tree, {**environ, "PATH": f"{tmp_path}:{environ['PATH']}"}, session_id=SESSION, turn=1, subject="b")
    groups = {int(line) for line in noted.read_text().split()}
    assert len(groups) == 3
    assert os.getpgrp() not in groups


@pytest.mark.thorough
def test_a_branch_that_cannot_be_moved_and_a_damaged_index(git: Run, tmp_path: Path) -> None:
    """The work has a ref of its own where its branch has none any more; an index that git cannot read is made anew."""
    tree = made(tmp_path)
    (Path(tree.path) / "b").touch()
    git("branch", "-m", "mine", at=Path(tree.path))
    git("branch", "csa/work/more")
    Path(tree.git_dir, "index").write_text("junk")
    tip, commit, problems = kept(tree, tmp_path)
    assert (tip, commit, len(problems)) == (git("rev-parse", "main"), None, 1)
    assert "csa/work cannot be moved" in problems[0]
    assert files(git, f"refs/csa/{SESSION}/1-unfinished") == [".gitignore", "a.txt", "b"]
    git("branch", "-D", "csa/work/more")
    assert kept(tree, tmp_path)[1] == git("rev-parse", "csa/work")
