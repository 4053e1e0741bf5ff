"""Taking worktrees away, over real git: only what has landed, or was given up; and nothing of it is lost."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from csa.errors import BusyError, NotFoundError, RefusedError
from csa.model.collection import Rule
from csa.model.worktree import Worktree
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.collecting import Report, collect
from csa.runner.sessions.removal import delete_session, restore_session, with_descendants
from csa.runner.sessions.worktrees import Dropped, drop_worktree
from csa.store.gitwork import list_refs, read_checkout, worktree_path
from csa.store.held import open_session
from csa.store.keeping import keep_work
from csa.store.sessions import Store
from csa.store.unlanded import examine_work
from csa.store.worktrees import add_worktree, restore_worktree, revive_worktree
from csa.structs import replace
from tests.gits import needs_git
from tests.store.support import IDS, NOON, PLAIN, begin, finished_session
from tests.store.test_session_worktrees import Run, environment, git, refused

ID, OTHER = IDS[:2]
__all__ = ["git"]


class Place:
    """A project with one session that has a worktree, after its first turn."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = environment(home)
        self.store = Store(home / "state", home / "repo")
        finished_session(self.store, ID)
        found = read_checkout(home / "repo", self.environ)
        path = worktree_path(self.store, ID)
        tree = Worktree(
            path=path, git_dir="", branch="csa/work", base=found.head, checkout=found.top, target=found.branch
        )
        self.save(add_worktree(tree, self.environ))

    @property
    def tree(self) -> Worktree:
        tree = self.store.load(ID).worktree
        assert tree
        return tree

    @property
    def path(self) -> Path:
        return Path(self.tree.path)

    @property
    def context(self) -> Context:
        return Csa(self.store.project, root=self.store.root, environ=self.environ).context

    @property
    def session(self) -> Session:
        return Session(self.context, ID)

    @property
    def gone(self) -> Path:
        return self.store.path / "worktrees" / f".gone-{ID}"

    def save(self, tree: Worktree) -> None:
        with open_session(self.store, ID, PLAIN, errand="change") as held:
            held.save(replace(held.state, worktree=tree))

    def works(self, turn: int = 1, text: str = "new") -> str:
        """Write a file as an agent does, and keep it as the end of a turn does; return the tip."""
        (self.path / f"{turn}.txt").write_text(text)
        return keep_work(self.tree, self.environ, session_id=ID, turn=turn, subject="work").tip

    def drop(self, *, force: bool = False) -> Dropped:
        return drop_worktree(self.session, force=force)

    def unlanded(self) -> tuple[str, ...]:
        return examine_work(self.tree, self.environ, session_id=ID).unlanded

    def refs(self) -> dict[str, str]:
        found = list_refs(self.tree, self.environ, session_id=ID)
        return {name.rpartition("/")[2]: commit for name, commit in found.items()}


@pytest.fixture
def place(git: Run, tmp_path: Path) -> Place:
    return Place(tmp_path)


def collected(
    place: Place, *, days: int = 0, now: datetime = NOON, dry_run: bool = False, damaged: bool = False
) -> Report:
    """Collect as cron does, so many days after a moment; the session was used at noon."""
    rule, now = Rule(days=30, damaged=damaged), now + timedelta(days=days)
    return collect(place.context, rule, [place.store], command="gc", now=now, dry_run=dry_run)


def test_only_what_has_landed_goes(place: Place, git: Run) -> None:
    """Refused while it has not landed, saying what; once it has, the worktree and the branch go, and the ref stays."""
    tip = place.works()
    (place.path / "late").write_text("written since")
    with pytest.raises(RefusedError, match="2 commits of csa/work not in main") as failure:
        place.drop()
    assert "--force" in (failure.value.hint or "")
    late = git("rev-parse", "csa/work")
    assert git("rev-parse", f"{late}^") == tip
    git("merge", "-q", "csa/work")
    dropped = place.drop()
    assert (dropped.tip, dropped.unlanded, place.path.exists()) == (late, (), False)
    assert dropped.aside
    assert (dropped.aside / "late").exists()
    assert place.refs() == {"1": late}
    assert (git("branch", "--list", "csa/*"), git("worktree", "list").count("\n")) == ("", 0)
    assert (place.tree.dropped, place.tree.branch) == (late, "csa/work")
    assert place.drop().aside is None


@pytest.mark.thorough
def test_what_was_given_up_can_be_had_again(place: Place, git: Run) -> None:
    """With force it goes as it is, also what was never committed; the next turn goes on from there."""
    place.works()
    (place.path / "late").write_text("written since")
    dropped = place.drop(force=True)
    assert dropped.tip
    assert dropped.unlanded
    assert place.unlanded() == ()
    again = restore_worktree(place.tree, place.environ, start=dropped.tip)
    assert (Path(again.path) / "late").exists()
    assert place.works(2) != dropped.tip
    with pytest.raises(RefusedError, match="3 commits"):
        place.drop()


@pytest.mark.thorough
@pytest.mark.parametrize(
    "how", [*(pytest.param(how, marks=needs_git(2, 38)) for how in ("squash", "pick")), "rebase", "landed"]
)
def test_ways_to_land(place: Place, git: Run, how: str) -> None:
    """Merged, squashed, picked, or landed by csa and changed since: it has landed."""
    tip = place.works()
    git("commit", "-q", "--allow-empty", "-m", "meanwhile")
    if how == "squash":
        git("merge", "-q", "--squash", tip)
        git("commit", "-qm", "squashed")
        (place.home / "repo/other").touch()
        git("add", ".")
        git("commit", "-qm", "after")
    elif how == "pick":
        git("cherry-pick", tip)
    elif how == "rebase":
        git("rebase", "-q", "main", at=place.path)
        git("merge", "-q", "csa/work")
    else:
        place.save(replace(place.tree, landed=tip))
    assert place.unlanded() == ()
    place.drop()
    assert tip in place.refs().values()


@pytest.mark.thorough
def test_what_a_tip_before_had_stays_kept(place: Place, git: Run) -> None:
    """Whoever moves the branch back, or rewrites it, does not take what a turn has left out of reach."""
    tip = place.works()
    git("reset", "-q", "--hard", "HEAD~1", at=place.path)
    dropped = place.drop()
    assert (dropped.tip, dropped.unlanded) == (place.tree.base, ())
    assert tip in place.refs().values()


@pytest.mark.thorough
def test_a_directory_that_is_gone(place: Place, git: Run) -> None:
    """Somebody has removed it: what the refs have counts."""
    place.works()
    shutil.rmtree(place.path)
    with pytest.raises(RefusedError, match="1 commit of csa/work"):
        place.drop()
    git("worktree", "prune")
    with pytest.raises(RefusedError, match="1 commit of csa/work"):
        place.drop()
    git("merge", "-q", "csa/work")
    assert place.drop().aside is None


@pytest.mark.thorough
def test_what_git_knew_is_gone(place: Place, git: Run) -> None:
    """The files are still there: they are kept on top of what was kept last."""
    tip = place.works()
    (place.path / "late").write_text("late")
    shutil.rmtree(place.tree.git_dir)
    assert "of which git knows nothing" in place.unlanded()[0]
    with pytest.raises(RefusedError, match="2 commits of csa/work"):
        place.drop()
    late = git("rev-parse", "csa/work")
    assert (git("rev-parse", f"{late}^"), git("show", f"{late}:late")) == (tip, "late")
    git("merge", "-q", "csa/work")
    assert place.drop().tip == late


@pytest.mark.thorough
def test_a_link_in_its_place(place: Place, git: Run) -> None:
    """What it points to is no concern of csa's: it is neither committed nor deleted."""
    place.works()
    mine = place.home / "mine"
    mine.mkdir()
    (mine / "own").touch()
    place.path.rename(place.home / "hidden")
    place.path.symlink_to(mine)
    git("merge", "-q", "csa/work")
    dropped = place.drop()
    assert dropped.aside
    assert dropped.aside.is_symlink()
    assert (mine / "own").exists()
    assert "own" not in git("ls-tree", "--name-only", dropped.tip or "")


@pytest.mark.thorough
def test_a_repository_that_is_not_there(place: Place, git: Run) -> None:
    """Moved, or on a disk that is not mounted: nothing can be proved; with force the directory is kept aside."""
    place.works()
    (place.home / "repo").rename(place.home / "elsewhere")
    with pytest.raises(RefusedError, match="its disk is not mounted"):
        place.drop()
    assert place.path.exists()
    dropped = place.drop(force=True)
    assert dropped.aside
    assert (dropped.aside / "1.txt").exists()
    assert git("rev-parse", "csa/work", at=place.home / "elsewhere")


@pytest.mark.thorough
def test_what_cannot_be_committed(place: Place, git: Run) -> None:
    """A rebase underway, another repository, and an unreadable file: named, and not given up silently."""
    place.works(text="ours")
    (place.home / "repo/1.txt").write_text("theirs")
    git("add", ".")
    git("commit", "-qm", "theirs")
    refused(place.home, place.path, "rebase", "-q", "main")
    with pytest.raises(RefusedError, match="a rebase unfinished"):
        place.drop()
    git("rebase", "--abort", at=place.path)
    git("merge", "-q", "-s", "ours", "csa/work")
    git("init", "-q", "inner", at=place.path)
    (place.path / "b").write_text("b")
    with pytest.raises(RefusedError, match="inner/ cannot be"):
        place.drop()
    assert git("show", "csa/work:b") == "b"


@pytest.mark.thorough
def test_a_branch_that_somebody_uses(place: Place, git: Run) -> None:
    """It is checked out in another work tree as well, or was moved: it stays where it is."""
    place.works()
    git("merge", "-q", "csa/work")
    git("checkout", "-q", "--ignore-other-worktrees", "csa/work")
    (place.path / "late").write_text("late")
    with pytest.raises(RefusedError, match="checked out in another work tree"):
        place.drop()
    assert git("status", "--porcelain") == ""
    (place.path / "late").unlink()
    with pytest.raises(RefusedError, match="1-unfinished"):
        place.drop()
    place.drop(force=True)
    assert git("status", "--porcelain", "-b").startswith("## csa/work")


@pytest.mark.thorough
def test_who_is_in_the_way(place: Place) -> None:
    """A running turn, another session that works in it, and a session without a worktree."""
    with open_session(place.store, ID, PLAIN), pytest.raises(BusyError):
        place.drop()
    finished_session(place.store, OTHER)
    with open_session(place.store, OTHER, PLAIN) as other:
        begin(other, turn=2)
        tools = {name: replace(tool, cwd=f"{place.path}/below") for name, tool in other.state.tools.items()}
        other.save(replace(other.state, tools=tools))
        with pytest.raises(BusyError, match=OTHER):
            place.drop()
    place.drop()
    with open_session(place.store, ID, PLAIN, errand="change") as held:
        held.save(replace(held.state, worktree=None))
    with pytest.raises(NotFoundError, match="has no worktree"):
        place.drop()


def test_what_has_not_landed_is_never_collected(place: Place, git: Run) -> None:
    """However old: it is listed as kept. Once landed it goes, with its worktree; both are deleted for good later."""
    tip = place.works()
    for dry_run in (True, False):
        report = collected(place, days=1000, dry_run=dry_run)
        assert ([kept.session_id for kept in report.kept], report.retired) == ([ID], [])
        assert "1 commit of csa/work not in main" in report.kept[0].why
    git("merge", "-q", "csa/work")
    (place.path / "x.log").write_text("ignored")
    later = datetime.now(UTC)
    for dry_run in (True, False):
        report = collected(place, now=later, dry_run=dry_run)
        assert ([item.session_id for item in report.retired], report.kept, report.failures) == ([ID], [], [])
    assert os.listdir(place.gone.parent) == [place.gone.name]
    assert git("for-each-ref", "refs/csa", "--format=%(objectname)") == tip
    assert list(place.gone.glob("*/x.log"))
    for days, whats in ((1, []), (8, ["retired", "worktree"]), (8, [])):
        for dry_run in (True, False):
            report = collected(place, now=later + timedelta(days=days), dry_run=dry_run)
            assert (sorted(i.reason for i in report.purged), report.failures) == (sorted(whats), [])
    assert (place.gone.parent.exists(), git("for-each-ref", "refs/csa")) == (False, "")


@pytest.mark.thorough
@pytest.mark.parametrize("purge", [False, True])
def test_deleting_what_has_not_landed(place: Place, git: Run, *, purge: bool) -> None:
    """Refused; with force it is deleted, and can be restored with its work, which stays for `undo_days` anyway."""
    tip = place.works()
    with pytest.raises(RefusedError, match="1 commit of csa/work not in main"):
        delete_session(place.session, purge_now=purge)
    with pytest.raises(RefusedError, match="nothing was deleted"):
        with_descendants([place.session])
    assert place.path.exists()
    removed = delete_session(place.session, force=True, purge_now=purge)
    assert "had not landed" in removed.warnings[0]
    assert (git("branch", "--list", "csa/*"), git("for-each-ref", "--format=%(objectname)", "refs/csa")) == ("", tip)
    assert list(place.gone.glob("*/1.txt"))
    if not purge:
        restore_session(Session(place.context, ID))
        assert "1 commit of csa/work" in collected(place, now=datetime.now(UTC) + timedelta(days=99)).kept[0].why
        again, why = revive_worktree(place.tree, place.environ, session_id=ID)
        assert (Path(again.path) / "1.txt").exists()
        assert why == f"from its tip {tip[:7]}"
        return
    report = collected(place, now=datetime.now(UTC) + timedelta(days=6))
    assert report.purged == []
    report = collected(place, now=datetime.now(UTC) + timedelta(days=8))
    assert [item.reason for item in report.purged] == ["worktree"]
    assert (git("for-each-ref", "refs/csa"), place.gone.exists()) == ("", False)


@pytest.mark.thorough
def test_what_is_left_of_a_session(place: Place, git: Run) -> None:
    """A damaged record keeps it; a session that somebody has removed leaves its worktree for `undo_days`."""
    place.works()
    paths = place.store.paths(ID)
    sound = paths.state.read_bytes()
    paths.state.write_bytes(b"damaged")
    for dry_run in (True, False):
        report = collected(place, days=1000, damaged=True, dry_run=dry_run, now=datetime.now(UTC) + timedelta(days=99))
        assert [kept.why for kept in report.kept] == ["it has a worktree of which its record does not tell"]
    with pytest.raises(RefusedError, match="its record does not tell"):
        delete_session(place.session)
    paths.state.write_bytes(sound)
    shutil.rmtree(paths.root)
    assert collected(place, now=datetime.now(UTC)).retired == []
    for dry_run in (True, False):
        report = collected(place, now=datetime.now(UTC) + timedelta(hours=2), dry_run=dry_run)
        assert [(item.reason, item.action) for item in report.retired] == [("worktree", "retire")]
    assert list(place.gone.glob("*/1.txt"))
    collected(place, now=datetime.now(UTC) + timedelta(days=8))
    assert (git("for-each-ref", "refs/csa"), place.gone.exists()) == ("", False)
    assert git("show", "csa/work:1.txt") == "new"


@pytest.mark.thorough
def test_a_start_that_was_killed(place: Place, git: Run) -> None:
    """Its worktree and its branch go with its remains."""
    paths = place.store.paths(ID)
    paths.root.rename(paths.root.with_name(f".new-{ID}"))
    report = collected(place, now=datetime.now(UTC) + timedelta(hours=2))
    assert [item.reason for item in report.purged] == ["remains"]
    assert (git("branch", "--list", "csa/*"), git("worktree", "list").count("\n")) == ("", 0)
    assert not place.store.path.joinpath("worktrees", ID).exists()


@pytest.mark.thorough
def test_while_the_repository_is_not_there(place: Place, git: Run) -> None:
    """Refs on a disk that is not mounted are deleted when it is there again."""
    place.works()
    delete_session(place.session, force=True, purge_now=True)
    (place.home / "repo").rename(place.home / "elsewhere")
    collected(place, now=datetime.now(UTC) + timedelta(days=8))
    assert [path.name for path in place.gone.iterdir()] == ["repository.toml"]
    (place.home / "elsewhere").rename(place.home / "repo")
    collected(place, now=datetime.now(UTC) + timedelta(days=9))
    assert (git("for-each-ref", "refs/csa"), place.gone.exists()) == ("", False)
