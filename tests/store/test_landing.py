"""Landing over real git: the work of a session comes into a checkout whole, or nothing there changes."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from csa.errors import RefusedError
from csa.model.worktree import Worktree
from csa.runner.client import Csa
from csa.runner.session import Session
from csa.runner.sessions.acting import hold_session
from csa.runner.sessions.landing import land_session
from csa.runner.sessions.landing_outcome import Landed, LandError
from csa.store.gitwork import read_checkout
from csa.store.held import build_session
from csa.store.worktrees import add_worktree
from csa.structs import replace
from tests.store.support import IDS, PLAIN, make_state

Run = Callable[..., str]


class Scene:
    """A repository with one commit, and sessions with worktrees that were made from it."""

    def __init__(self, home: Path) -> None:
        self.home, self.repo = home, home / "repo"
        self.repo.mkdir()
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "CSA_"))},
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "U",
            "GIT_AUTHOR_EMAIL": "u@example.org",
            "GIT_COMMITTER_NAME": "U",
            "GIT_COMMITTER_EMAIL": "u@example.org",
        }
        self.git("init", "-q", "-b", "main")
        self.write(self.repo, **{"a.txt": "1\n2\n3\n4\n5\n", "b.txt": "b\n", ".gitignore": "*.log\n"})
        self.commit(self.repo, "first")
        self.client = Csa(self.repo, root=home / "state", environ=self.environ)

    def git(self, *words: str, at: Path | None = None, fails: bool = False) -> str:
        done = subprocess.run(
            ["git", *words], cwd=at or self.repo, env=self.environ, capture_output=True, text=True, check=False
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stdout.strip()

    def write(self, at: Path, **files: str | None) -> None:
        for name, content in files.items():
            if content is None:
                (at / name).unlink()
            else:
                (at / name).parent.mkdir(parents=True, exist_ok=True)
                (at / name).write_text(content)

    def commit(self, at: Path, message: str) -> str:
        self.git("add", "--all", at=at)
        self.git("commit", "-qm", message, at=at)
        return self.git("rev-parse", "HEAD", at=at)

    def session(self, number: int = 0, *, checkout: Path | None = None, **state: Any) -> Session:
        """Make a session with a worktree."""
        found = read_checkout(checkout or self.repo, self.environ)
        store, name = self.client.store, IDS[number]
        tree = Worktree(
            path=str(store.path / "worktrees" / name),
            git_dir="",
            branch=f"csa/w{number}",
            base=found.head,
            checkout=found.top,
            target=found.branch,
            number=number + 1,
        )
        known = make_state(name, self.repo, turns=1, description="improve it", **state)
        with build_session(store, known, PLAIN, tool="codex") as held:
            (store.path / "worktrees").mkdir(exist_ok=True)
            held.save(replace(known, worktree=add_worktree(tree, self.environ)))
            held.publish()
        return Session(self.client.context, name)

    def tree(self, session: Session) -> Worktree:
        found = session.load().worktree
        assert found
        return found

    def at(self, session: Session) -> Path:
        return Path(self.tree(session).path)

    def land(self, session: Session, *, into: Path | None = None, **options: Any) -> Landed:
        return anyio.run(lambda: land_session(session, into=into or self.repo, **options))

    def refused(self, session: Session, **options: Any) -> LandError:
        with pytest.raises(LandError) as error:
            self.land(session, **options)
        return error.value

    def log(self, *words: str) -> list[str]:
        return self.git("log", "--format=%s", *words).split("\n")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_landed(scene: Scene) -> None:
    """What a session has done, committed or not, follows what happened in the checkout meanwhile; nothing else does."""
    session = scene.session()
    scene.write(scene.at(session), **{"a.txt": "1\n2\n3\n4\nfive\n"})
    scene.commit(scene.at(session), "mine")
    scene.write(scene.at(session), **{"new/c.txt": "c\n", "x.log": "ignored\n"})
    scene.write(scene.repo, **{"a.txt": "one\n2\n3\n4\n5\n"})
    theirs = scene.commit(scene.repo, "theirs")
    scene.write(scene.repo, **{"b.txt": "dirty\n", "untracked": "u\n"})
    landed = scene.land(session, check="test -f new/c.txt && echo made > product && echo spoilt > a.txt")
    assert scene.log() == ["what turn 1 has left", "mine", "theirs", "first"]
    assert (scene.repo / "a.txt").read_text() == "one\n2\n3\n4\nfive\n"
    assert scene.git("status", "--porcelain").split("\n") == ["M b.txt", "?? untracked"]
    assert (landed.onto, landed.head, landed.files) == (theirs, scene.git("rev-parse", "HEAD"), ("a.txt", "new/c.txt"))
    assert list(landed.commits) == scene.git("rev-list", "--reverse", f"{theirs}..").split()
    assert landed.is_dropped
    tree = scene.tree(session)
    assert not Path(tree.path).exists()
    assert tree.landed == landed.head == scene.git("rev-parse", f"refs/csa/{session.session_id}/landed")
    assert "csa/w0" not in scene.git("branch")
    assert scene.land(session).commits == ()


def test_a_conflict(scene: Scene) -> None:
    """Nothing moves; the record says where, and the error with which session's work."""
    first, second = scene.session(0), scene.session(1)
    for number, session in enumerate((first, second)):
        scene.write(scene.at(session), **{"a.txt": f"by {number}\n2\n3\n4\n5\n"})
    landed = scene.land(first, keep=True)
    error = scene.refused(second)
    assert (error.kind, error.files, error.onto, error.exit_code) == ("conflict", ("a.txt",), landed.head, 1)
    assert [each.session_id for each in error.others] == [first.session_id]
    assert scene.git("rev-parse", "HEAD") == landed.head
    assert scene.git("status", "--porcelain") == "" == scene.git("status", "--porcelain", at=scene.at(second))
    refused = scene.tree(second).refused
    assert refused
    assert (refused.kind, refused.files, refused.onto) == ("conflict", ("a.txt",), landed.head)
    assert scene.git("log", "-1", "--format=%s", at=scene.at(second)) == "what turn 1 has left"


@pytest.mark.thorough
def test_a_check_that_fails(scene: Scene) -> None:
    """The checkout stays; the record has the end of what it said; the worktree is clean, and on the new head."""
    session = scene.session()
    scene.write(scene.at(session), **{"c.txt": "c\n"})
    scene.write(scene.repo, **{"d.txt": "d\n"})
    head = scene.commit(scene.repo, "theirs")
    said: list[bytes] = []
    check = "ls c.txt d.txt && echo leftover > product; echo $CSA_WORKTREE >&2; exit 3"
    error = scene.refused(session, check=check, on_output=said.append)
    assert (error.kind, error.said) == ("check", f"$ {check}\nc.txt\nd.txt\n1")
    assert b"".join(said) == b"c.txt\nd.txt\n1\n"
    assert scene.git("rev-parse", "HEAD") == head == scene.tree(session).base
    assert scene.git("status", "--porcelain", at=scene.at(session)) == ""
    assert scene.land(session, check="true").files == ("c.txt",)


@pytest.mark.thorough
def test_what_is_in_the_way(scene: Scene) -> None:
    """Changed, staged, untracked and ignored files are named, and stay; those with the same content are no matter."""
    session = scene.session()
    files = {"a.txt": "mine\n", "b.txt": "mine\n", "new.txt": "mine\n", "dir/x": "mine\n", "same.txt": "same\n"}
    scene.write(scene.at(session), **files, **{"kept.log": "mine\n"})
    scene.git("add", "-f", "kept.log", at=scene.at(session))
    theirs = {"a.txt": "theirs\n", "b.txt": "theirs\n", "new.txt": "theirs\n", "dir": "t\n", "kept.log": "t\n"}
    scene.write(scene.repo, **theirs, **{"same.txt": "same\n"})
    scene.git("add", "b.txt")
    before = scene.git("status", "--porcelain", "--ignored"), scene.git("rev-parse", "HEAD")
    with pytest.raises(RefusedError) as error:
        scene.land(session)
    for name in ("a.txt", "b.txt", "new.txt", "dir/x", "kept.log"):
        assert name in error.value.message
    assert "same.txt" not in error.value.message
    assert (scene.git("status", "--porcelain", "--ignored"), scene.git("rev-parse", "HEAD")) == before
    scene.git("checkout", "-qf", "HEAD", "--", "a.txt", "b.txt")
    scene.write(scene.repo, **{"new.txt": None, "dir": None, "kept.log": None})
    scene.write(scene.repo, **{"a.txt": None})  # what is merely missing is not in the way
    assert set(scene.land(session).files) == {*files, "kept.log"}
    assert scene.git("status", "--porcelain") == ""


@pytest.mark.thorough
def test_squashed(scene: Scene) -> None:
    """One commit, with the session's description and trailer; the caller's head may be detached."""
    session = scene.session()
    for name in ("c", "d"):
        scene.write(scene.at(session), **{name: "x\n"})
        scene.commit(scene.at(session), name)
    scene.git("checkout", "-q", "--detach")
    landed = scene.land(session, squash=True, keep=True)
    assert (landed.branch, landed.is_squashed, len(landed.commits), landed.is_dropped) == (None, True, 1, False)
    said = scene.git("log", "-1", "--format=%B").split("\n")
    assert said == ["improve it", "", f"Csa-Session: {session.session_id}"]
    assert scene.git("rev-parse", "main") == landed.onto
    assert scene.git("rev-parse", "csa/w0") == landed.head
    scene.write(scene.at(session), e="x\n")
    assert scene.land(session).files == ("e",)


@pytest.mark.thorough
def test_work_with_merges(scene: Scene) -> None:
    """Where the agent has merged the target, and more happened since, what it did then is landed as one commit."""
    session = scene.session()
    at = scene.at(session)
    scene.write(at, **{"a.txt": "mine\n2\n3\n4\n5\n"})
    scene.commit(at, "mine")
    scene.write(scene.repo, **{"a.txt": "theirs\n2\n3\n4\n5\n"})
    scene.commit(scene.repo, "theirs")
    scene.git("merge", "-q", "main", at=at, fails=True)
    scene.write(at, **{"a.txt": "both\n2\n3\n4\n5\n"})
    scene.commit(at, "merged")
    scene.write(scene.repo, **{"b.txt": "later\n"})
    scene.commit(scene.repo, "later")
    landed = scene.land(session)
    assert landed.is_squashed
    assert scene.log() == ["improve it", "later", "theirs", "first"]
    assert (scene.repo / "a.txt").read_text() == "both\n2\n3\n4\n5\n"


@pytest.mark.thorough
def test_conflicts_of_single_commits(scene: Scene) -> None:
    """Work that fits as a whole, though not commit by commit, is landed as one."""
    session = scene.session()
    for content in ("mine\n", "1\n2\n3\n4\nfive\n"):
        scene.write(scene.at(session), **{"a.txt": content})
        scene.commit(scene.at(session), "mine")
    scene.write(scene.repo, **{"a.txt": "one\n2\n3\n4\n5\n"})
    scene.commit(scene.repo, "theirs")
    assert scene.land(session).is_squashed
    assert (scene.repo / "a.txt").read_text() == "one\n2\n3\n4\nfive\n"


@pytest.mark.thorough
def test_what_is_there_already(scene: Scene) -> None:
    """Work that the user has taken by hand, by a merge or as a patch, counts as landed; without any, nothing does."""
    nothing, merged, picked = scene.session(0), scene.session(1), scene.session(2)
    assert scene.land(nothing).commits == ()
    assert scene.tree(nothing).landed is None
    assert scene.at(nothing).exists()
    for number, session in ((1, merged), (2, picked)):
        scene.write(scene.at(session), **{f"new{number}": "x\n"})
        scene.commit(scene.at(session), "mine")
    scene.git("merge", "-q", "csa/w1")
    scene.git("cherry-pick", "csa/w2")
    for session in (merged, picked):
        landed = scene.land(session)
        assert (landed.commits, landed.is_dropped) == ((), True)
        assert scene.tree(session).landed


@pytest.mark.thorough
def test_a_snapshot_below(scene: Scene) -> None:
    """What the user had not committed when the session began with it is not landed."""
    session = scene.session()
    at = scene.at(session)
    scene.write(at, **{"b.txt": "the user's\n"})
    base = scene.commit(at, "snapshot")
    scene.write(at, **{"c.txt": "c\n"})
    with_base(session, base)
    assert scene.land(session).files == ("c.txt",)
    assert scene.log() == ["what turn 1 has left", "first"]


def with_base(session: Session, base: str) -> None:
    with hold_session(session) as held:
        assert held.state.worktree
        held.save(replace(held.state, worktree=replace(held.state.worktree, base=base)))


@pytest.mark.thorough
def test_where_it_cannot_land(scene: Scene, tmp_path: Path) -> None:
    """No checkout, a bare repository, another one, a submodule, its own worktree, an unfinished merge: refused."""
    session = scene.session()
    scene.write(scene.at(session), **{"a.txt": "mine\n"})
    (tmp_path / "plain").mkdir()
    scene.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    other = tmp_path / "other"
    scene.git("clone", "-q", str(scene.repo), str(other))
    places = {
        tmp_path / "plain": "not in a work tree",
        tmp_path / "bare.git": "not in a work tree",
        scene.repo / ".git": "not in a work tree",
        other: "another repository",
        scene.at(session): "the session's own worktree",
    }
    for place, words in places.items():
        with pytest.raises(RefusedError, match=words):
            scene.land(session, into=place)
    scene.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub")
    scene.commit(scene.repo, "submodule")
    with pytest.raises(RefusedError, match="a submodule of"):
        scene.land(session, into=scene.repo / "sub")
    scene.git("checkout", "-q", "-b", "side", "HEAD^")
    scene.write(scene.repo, **{"a.txt": "theirs\n"})
    scene.commit(scene.repo, "theirs")
    scene.git("checkout", "-q", "main")
    scene.write(scene.repo, **{"a.txt": "others\n"})
    scene.commit(scene.repo, "others")
    scene.git("merge", "-q", "side", fails=True)
    with pytest.raises(RefusedError, match="in the middle of a merge"):
        scene.land(session)


@pytest.mark.thorough
def test_a_dry_run(scene: Scene) -> None:
    """It says what would be landed, with what is not committed, and what would be in the way; nothing changes."""
    session, other = scene.session(0), scene.session(1)
    scene.write(scene.at(session), **{"a.txt": "mine\n", "b.txt": "mine\n"})
    scene.write(scene.at(other), **{"a.txt": "other\n"})
    scene.land(other)
    scene.write(scene.repo, **{"b.txt": "dirty\n"})
    before = scene.git("for-each-ref"), scene.git("status", "--porcelain", at=scene.at(session)), session.load()
    found = scene.land(session, dry_run=True)
    assert (found.files, found.conflicts, found.in_way) == (("a.txt", "b.txt"), ("a.txt",), ("b.txt",))
    after = scene.git("for-each-ref"), scene.git("status", "--porcelain", at=scene.at(session)), session.load()
    assert before == after


@pytest.mark.thorough
def test_what_a_repository_may_have(scene: Scene) -> None:
    """Hooks that fail, a filter as git LFS is one, a submodule and settings for rebases: none is in the way."""
    other = scene.home / "other"
    scene.git("clone", "-q", str(scene.repo), str(other))
    scene.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub")
    hooks = scene.repo / ".git/hooks"
    for name in ("pre-rebase", "post-checkout", "pre-commit", "commit-msg", "post-rewrite", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {scene.home}/ran\nexit 1\n")
        (hooks / name).chmod(0o755)
    for key, value in {
        "rebase.autoStash": "true", "rebase.updateRefs": "true", "rebase.autoSquash": "true",
        "rebase.abbreviateCommands": "true", "rebase.rebaseMerges": "true", "rebase.missingCommitsCheck": "error",
        "rerere.enabled": "true", "rerere.autoUpdate": "true", "commit.gpgSign": "true", "merge.ff": "false",
        "branch.main.mergeOptions": "--no-ff", "merge.verifySignatures": "true", "submodule.recurse": "true",
        "pull.rebase": "true", "status.showUntrackedFiles": "no", "diff.relative": "true", "core.editor": "false",
        "filter.big.clean": "tr a-z A-Z", "filter.big.smudge": "tr A-Z a-z", "filter.big.required": "true",
    }.items():  # fmt: skip
        scene.git("config", key, value)
    scene.write(scene.repo, **{".gitattributes": "*.big filter=big\n", "x.big": "large\n"})
    scene.git("add", ".")
    scene.git("-c", "core.hooksPath=/dev/null", "commit", "-q", "--no-gpg-sign", "-m", "second")
    session = scene.session()
    scene.write(scene.at(session), **{"x.big": "larger\n", "y.big": "new\n"})
    scene.write(scene.repo, **{"b.txt": "theirs\n"})
    scene.git("-c", "core.hooksPath=/dev/null", "commit", "-q", "--no-gpg-sign", "-am", "theirs")
    scene.write(scene.repo, **{"y.big": "new\n"})  # the same, before the filter
    assert scene.land(session).files == ("x.big", "y.big")
    assert (scene.repo / "x.big").read_text() == "larger\n"
    assert scene.git("show", "HEAD:x.big") == "LARGER"
    assert scene.git("status", "--porcelain") == ""
    assert not (scene.home / "ran").exists()
    assert (scene.repo / "sub/a.txt").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("options", ["--squash", "-s ours", "--no-ff --no-commit"])
def test_options_of_merges(scene: Scene, options: str) -> None:
    """What the user has configured for merges into the branch does not make another thing of a fast-forward."""
    scene.git("checkout", "-q", "-b", "a=b/c")
    scene.git("config", "branch.a=b/c.mergeOptions", options)
    session = scene.session()
    scene.write(scene.at(session), **{"c.txt": "c\n"})
    assert scene.land(session).head == scene.git("rev-parse", "a=b/c")
    assert (scene.log(), scene.git("status", "--porcelain")) == (["what turn 1 has left", "first"], "")


def as_link(scene: Scene) -> None:
    (scene.repo / "dir/x").unlink()
    (scene.repo / "dir").rmdir()
    (scene.home / "elsewhere").mkdir()
    (scene.repo / "dir").symlink_to(scene.home / "elsewhere")


def as_file(scene: Scene) -> None:
    as_link(scene)
    scene.write(scene.repo, dir=None)
    scene.write(scene.repo, dir="precious\n")


def as_directory(scene: Scene) -> None:
    scene.write(scene.repo, **{"b.txt": None})
    scene.write(scene.repo, **{"b.txt/precious.log": "x\n"})


def stage_another(scene: Scene) -> None:
    scene.write(scene.repo, **{"b.txt": "staged\n"})
    scene.git("add", "b.txt")
    scene.write(scene.repo, **{"b.txt": "mine\n"})


def assume_unchanged(scene: Scene) -> None:
    scene.git("update-index", "--assume-unchanged", "b.txt")
    scene.write(scene.repo, **{"b.txt": "theirs\n", "a.txt": "mine\n"})  # one of them has its content already


def leave_conflicts(scene: Scene) -> None:
    scene.write(scene.repo, **{"b.txt": "stashed\n"})
    scene.git("stash", "-q")
    scene.write(scene.repo, **{"b.txt": "other\n"})
    scene.commit(scene.repo, "other")
    scene.git("stash", "pop", "-q", fails=True)
    scene.write(scene.repo, **{"a.txt": "mine\n"})


@pytest.mark.thorough
@pytest.mark.parametrize(
    "do", [as_link, as_file, as_directory, stage_another, assume_unchanged, leave_conflicts], ids=lambda do: do.__name__
)
def test_what_else_is_in_the_way(scene: Scene, do: Callable[[Scene], None]) -> None:
    """Something in the place of a directory or a file, what is staged, what git does not look at: it stays."""
    scene.write(scene.repo, **{"dir/x": "x\n"})
    scene.commit(scene.repo, "second")
    session = scene.session()
    scene.write(scene.at(session), **{"a.txt": "mine\n", "b.txt": "mine\n", "dir/x": "mine\n"})
    do(scene)

    def seen() -> list[str]:
        words = (
            ("status", "--porcelain", "--ignored"),
            ("ls-files", "--stage"),
            ("rev-parse", "HEAD"),
            ("stash", "list"),
        )
        return [scene.git(*each) for each in words]

    before = seen()
    with pytest.raises(RefusedError):
        scene.land(session)
    assert seen() == before


@pytest.mark.thorough
def test_what_was_landed_and_is_not_there(scene: Scene) -> None:
    """It is not landed again, as it may have been undone, but it is said; a revert, or what was rewritten, is not."""
    session = scene.session()
    scene.write(scene.at(session), c="c\n")
    scene.git("branch", "side")
    landed = scene.land(session, keep=True)
    scene.git("commit", "-q", "--amend", "-m", "reworded", "-m", f"Csa-Session: {session.session_id}")
    assert scene.land(session, keep=True).warnings == ()
    scene.git("checkout", "-q", "side")
    (warning,) = scene.land(session, keep=True).warnings
    assert landed.head[:7] in warning
    scene.write(scene.at(session), d="d\n")
    assert scene.land(session).warnings == (warning,)
    assert not (scene.repo / "c").exists()


@pytest.mark.thorough
def test_the_worktree_and_its_branch_are_gone(scene: Scene) -> None:
    """What was kept of the work is landed."""
    session = scene.session()
    scene.write(scene.at(session), c="c\n")
    scene.commit(scene.at(session), "mine")
    scene.git("update-ref", f"refs/csa/{session.session_id}/1", "csa/w0")
    scene.git("worktree", "remove", "--force", str(scene.at(session)))
    scene.git("branch", "-q", "-D", "csa/w0")
    assert scene.land(session, dry_run=True).files == ("c",)
    assert scene.land(session).files == ("c",)


@pytest.mark.thorough
def test_what_a_check_may_do(scene: Scene) -> None:
    """What it commits is thrown away; where the user goes to another branch meanwhile, nothing is landed there."""
    first, second, third = scene.session(0), scene.session(1), scene.session(2)
    for number, session in enumerate((first, second, third)):
        scene.write(scene.at(session), **{f"new{number}": "x\n"})
    assert scene.land(first, check="echo y > y; git add y; git commit -qm y; git checkout -q -b z").is_dropped
    assert not (scene.repo / "y").exists()
    with pytest.raises(RefusedError, match="not on main any more"):
        scene.land(second, check=f"git -C {scene.repo} checkout -q -b side")
    with pytest.raises(RefusedError, match="has removed the worktree"):
        scene.land(third, check='rm -rf "$PWD"')
    assert scene.log() == ["what turn 1 has left", "first"]
    assert scene.land(third).files == ("new2",)


@pytest.mark.thorough
def test_a_tag_with_the_name_of_the_branch(scene: Scene) -> None:
    """The branch is meant, in what is said and in the record."""
    scene.git("tag", "main")
    session = scene.session()
    scene.write(scene.at(session), c="c\n")
    assert (scene.land(session).branch, scene.tree(session).target) == ("main", "main")


@pytest.mark.thorough
def test_a_lock_that_is_left(scene: Scene) -> None:
    """While git cannot move the branch no file changes either."""
    session = scene.session()
    scene.write(scene.at(session), **{"b.txt": "mine\n", "c.txt": "c\n"})
    scene.write(scene.repo, **{"b.txt": "mine\n"})
    before = scene.git("status", "--porcelain")
    for name in ("index", "HEAD", "refs/heads/main"):
        lock = scene.repo / f".git/{name}.lock"
        lock.write_text("")
        with pytest.raises(RefusedError, match="is locked"):
            scene.land(session)
        lock.unlink()
        assert scene.git("status", "--porcelain") == before
    assert scene.land(session).files == ("b.txt", "c.txt")


@pytest.mark.thorough
def test_ignored_files_of_the_worktree(scene: Scene) -> None:
    """They are not overwritten by what the checkout has in their place meanwhile, whether or not the work fits."""
    session = scene.session()
    scene.write(scene.at(session), **{"a.txt": "mine\n", "x.log": "ignored\n"})
    scene.write(scene.repo, **{"a.txt": "theirs\n", "x.log": "tracked\n"})
    scene.git("add", "-f", "x.log")
    scene.commit(scene.repo, "theirs")
    with pytest.raises(RefusedError, match="git ignores x"):
        scene.land(session)
    assert (scene.at(session) / "x.log").read_text() == "ignored\n"
    scene.write(scene.at(session), **{"x.log": None})
    assert scene.refused(session).kind == "conflict"


@pytest.mark.thorough
def test_two_at_once(scene: Scene) -> None:
    """Each lands after the other; the index is as the commit."""
    sessions = [scene.session(number) for number in range(3)]
    for number, session in enumerate(sessions):
        scene.write(scene.at(session), **{f"new{number}": "x\n"})
    threads = [threading.Thread(target=scene.land, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scene.log() == [*3 * ["what turn 1 has left"], "first"]
    assert scene.git("status", "--porcelain") == ""


@pytest.mark.thorough
@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_what_the_agent_has_hidden(scene: Scene, flag: str) -> None:
    """What it told git not to look at is its work all the same."""
    session = scene.session()
    scene.git("update-index", flag, "b.txt", at=scene.at(session))
    scene.write(scene.at(session), **{"b.txt": "mine\n"})
    assert scene.land(session, dry_run=True).files == ("b.txt",)
    assert scene.land(session).files == ("b.txt",)
