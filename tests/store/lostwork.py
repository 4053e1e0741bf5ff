"""Random lives of worktrees, over real git: whatever is done to them, nothing that an agent wrote may be lost.

Every write has a content of its own. After each step all that was in a worktree when a turn ended, or was killed, must
be reachable from a ref, or lie in a worktree or beside it, until `undo_days` after it was given up with its session.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio

from csa.errors import CsaError
from csa.model.collection import Rule
from csa.model.worktree import Worktree
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.collecting import Report, collect
from csa.runner.sessions.landing import land_session
from csa.runner.sessions.removal import delete_session, restore_session
from csa.runner.sessions.worktrees import drop_worktree
from csa.runner.turns.worktree import make_again
from csa.store.gitwork import is_usable, read_checkout, worktree_path
from csa.store.held import open_session
from csa.store.keeping import keep_work
from csa.store.sessions import Store
from csa.store.worktrees import add_worktree
from csa.structs import replace
from tests.store.support import IDS, PLAIN, begin, finish, finished_session

UNDO_DAYS = 7
STEPS = 12
_ENDED_S = 20.0


class Life:
    """One repository, and a few sessions with worktrees in it."""

    def __init__(self, home: Path, environ: dict[str, str], seed: int) -> None:
        self.home, self.environ, self.random = home, environ, random.Random(seed)  # not for secrets
        self.repo = home / "repo"
        self.store = Store(home / "state", self.repo)
        self.sessions: list[str] = []
        self.written: dict[str, tuple[str, str]] = {}  # the id of a content, to the session and the step
        self.loose: set[str] = set()  # those in repositories within a worktree
        self.log: list[str] = []
        self.count = 0
        self.repo.mkdir()
        self.git("init", "-q", "-b", "main")
        (self.repo / "shared").write_text("line\n")
        (self.repo / ".gitignore").write_text("*.log\n")
        self.git("add", ".")
        self.git("commit", "-qm", "first")

    @property
    def context(self) -> Context:
        return Csa(self.store.project, root=self.store.root, environ=self.environ).context

    def git(self, *words: str, at: Path | None = None, must: bool = True) -> str:
        """Run git as a person or an agent does."""
        done = subprocess.run(
            ["git", *words], cwd=at or self.repo, env=self.environ, capture_output=True, text=True, check=False
        )
        if must and done.returncode:
            raise AssertionError(f"git {words}: {done.stderr}")
        return done.stdout.strip()

    def live(self, steps: int = STEPS) -> None:
        """Take some steps, and look after each."""
        self.start()
        for _ in range(steps):
            step = self.random.choice(_STEPS)
            self.log.append(step.__name__)
            try:
                step(self)
            except CsaError as error:
                self.log[-1] += f" ({error.code})"
            self.look()

    # what is done

    def start(self) -> None:
        """Begin a session with a worktree, and run its first turn."""
        if len(self.sessions) == _MOST:
            return
        session_id = IDS[len(self.sessions)]
        finished_session(self.store, session_id, last_accessed=datetime.now(UTC))
        found = read_checkout(self.repo, self.environ)
        path = worktree_path(self.store, session_id)
        branch = f"csa/{len(self.sessions)}"
        tree = Worktree(path=path, git_dir="", branch=branch, base=found.head, checkout=found.top, target=found.branch)
        tree = add_worktree(tree, self.environ)
        with open_session(self.store, session_id, PLAIN, errand="change") as held:
            held.save(replace(held.state, worktree=tree))
        self.sessions.append(session_id)
        self._turn(session_id)

    def resume(self) -> None:
        """Run another turn."""
        self._turn(self.one())

    def be_killed(self) -> None:
        """Run a turn that is killed before its work is kept."""
        self._turn(self.one(), is_killed=True)

    def _turn(self, session_id: str, *, is_killed: bool = False) -> None:
        with open_session(self.store, session_id, PLAIN) as held:
            tree = held.state.worktree
            assert tree
            turn = held.last_turn() + 1
            if not is_usable(tree):
                tree, _ = make_again(held, tree, self.environ)
                held.save(replace(held.state, worktree=tree))
            else:  # what a killed turn has left
                self._keep(tree, session_id, max(turn - 1, 1))
            begin(held, turn=turn)
            self._act(Path(tree.path))
            self._remember(session_id)
            if not is_killed:
                self._keep(tree, session_id, turn)
                finish(held, turn=turn)
            held.save(replace(held.state, turns=turn, last_accessed=datetime.now(UTC)))

    def _keep(self, tree: Worktree, session_id: str, turn: int) -> None:
        with suppress(CsaError):
            keep_work(tree, self.environ, session_id=session_id, turn=turn, subject="work")

    def _act(self, tree: Path) -> None:
        """Do what agents do."""
        for _ in range(self.random.randint(1, 3)):
            self.random.choice(_ACTS)(self, tree)

    def write(self, tree: Path, name: str | None = None) -> None:
        """Write a file that nobody else has."""
        self.count += 1
        (tree / (name or f"file{self.count}")).write_text(f"content {self.count}\n")

    def one(self) -> str:
        """Choose a session."""
        return self.random.choice(self.sessions)

    def session(self) -> Session:
        """Choose one to work with."""
        return Session(self.context, self.one())

    def fork(self, act: Callable[[], object]) -> None:
        """Do something in a process, which may be killed at any moment; git's processes end by themselves."""
        pid = os.fork()
        if not pid:
            try:
                os.setpgid(0, 0)
                act()
            finally:
                os._exit(0)
        time.sleep(self.random.random() * _LONGEST_S)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        deadline = time.monotonic() + _ENDED_S
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(pid, 0)
                time.sleep(0.005)

    def collect(self, days: int, *, dry_run: bool = False) -> Report:
        """Clean up as cron does, so many days from now."""
        now = datetime.now(UTC) + timedelta(days=days)
        rule = Rule(days=30, undo_days=UNDO_DAYS)
        return collect(self.context, rule, [self.store], command="gc", now=now, dry_run=dry_run)

    # what must hold

    def _remember(self, session_id: str) -> None:
        """Note what is in a worktree, committed or not."""
        tree = Path(worktree_path(self.store, session_id))
        self.loose.update(_contents(tree / "inner"))
        for content in _contents(tree):
            self.written.setdefault(content, (session_id, " ".join(self.log[-3:])))

    def look(self) -> None:
        """Fail if anything is lost."""
        reachable = set(self.reachable())
        for path in (self.store.path / "worktrees").glob("*"):
            reachable.update(_contents(path))
        for content, (session_id, when) in list(self.written.items()):
            if content not in reachable:
                name = self.git("cat-file", "-p", content, must=False)
                raise AssertionError(f"lost: {name!r} of {session_id}, written by {when}; since then {self.log}")

    def reachable(self) -> Iterator[str]:
        """Yield the ids of all that a ref, or the head of a worktree, leads to."""
        heads = [f"worktrees/{path.name}/HEAD" for path in (self.repo / ".git/worktrees").glob("*")]
        said = self.git("rev-list", "--objects", "--no-object-names", "--all", *heads, must=False)
        yield from said.split() or self.git("rev-list", "--objects", "--no-object-names", "--all").split()

    def forgive(self, days: int) -> None:
        """Forget what was given up, and is over, with sessions that are gone; and what no commit can hold."""
        if days >= UNDO_DAYS:
            there = {what for path in (self.store.path / "worktrees").glob("*") for what in _contents(path)}
            self.written = {
                what: whose for what, whose in self.written.items() if what in there or what not in self.loose
            }
        for session_id in self.sessions:
            if self.store.has(session_id) or os.path.isdir(self.store.retired_paths(session_id).pathname):
                continue
            if (self.store.path / "worktrees" / f".gone-{session_id}").exists():
                continue
            self.written = {what: whose for what, whose in self.written.items() if whose[0] != session_id}


def _contents(tree: Path) -> Iterator[str]:
    for directory, names, files in os.walk(tree):
        if ".git" in names:
            names.remove(".git")
        for name in files:
            path = Path(directory, name)
            if name != ".git" and path.suffix != ".log" and path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                yield hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git does


# Steps: what people, cron and accidents do. Each may be refused.


def _land(life: Life) -> None:
    session = life.session()
    anyio.run(partial(land_session, session, into=life.repo, squash=life.random.random() < _RARE))


def _land_killed(life: Life) -> None:
    session = life.session()
    life.fork(lambda: anyio.run(partial(land_session, session, into=life.repo)))
    life.git("reset", "-q", "--hard")


def _merge(life: Life) -> None:
    life.git("merge", "-q", "--no-edit", f"csa/{life.sessions.index(life.one())}", must=False)
    life.git("merge", "--abort", must=False)


def _commit_here(life: Life) -> None:
    life.write(life.repo, life.random.choice(["shared", None]))
    life.git("add", ".")
    life.git("commit", "-qm", "theirs")


def _drop(life: Life) -> None:
    drop_worktree(life.session())


def _drop_by_force(life: Life) -> None:
    drop_worktree(life.session(), force=True)


def _drop_killed(life: Life) -> None:
    session = life.session()
    life.fork(lambda: drop_worktree(session, force=True))


def _delete(life: Life) -> None:
    delete_session(life.session(), force=life.random.random() < _RARE, purge_now=life.random.random() < _RARE)


def _restore(life: Life) -> None:
    session = life.session()
    if os.path.isdir(life.store.retired_paths(session.session_id).pathname):
        restore_session(session)


def _collect(life: Life, *, is_killed: bool = False) -> None:
    days = life.random.choice([1, 8, 40])
    preview = life.collect(days, dry_run=True)
    if is_killed:
        life.fork(lambda: life.collect(days))
    else:
        done = life.collect(days)
        assert not done.failures, done.failures
        for name in ("retired", "purged", "kept"):
            assert _ids(done, name) == _ids(preview, name), name
    life.forgive(days)


def _ids(report: Report, name: str) -> list[str]:
    return sorted(item.session_id for item in getattr(report, name))


def _collect_killed(life: Life) -> None:
    _collect(life, is_killed=True)


def _collect_twice(life: Life) -> None:
    """Two at once."""
    days = life.random.choice([8, 40])
    pid = os.fork()
    if not pid:
        try:
            life.collect(days)
        finally:
            os._exit(0)
    try:
        life.collect(days)
    finally:
        os.waitpid(pid, 0)
    life.forgive(days)


def _remove_directory(life: Life) -> None:
    """Somebody removes a worktree's directory; what is only there is gone by their own hand."""
    path = Path(worktree_path(life.store, life.one()))
    kept = set(life.reachable())
    lost = set(_contents(path)) - kept
    shutil.rmtree(path, ignore_errors=True)
    life.written = {what: whose for what, whose in life.written.items() if what not in lost}


def _remove_admin(life: Life) -> None:
    shutil.rmtree(life.repo / ".git/worktrees" / life.one(), ignore_errors=True)


def _prune(life: Life) -> None:
    life.git("worktree", "prune")


def _move_branch(life: Life) -> None:
    number = life.sessions.index(life.one())
    life.git("update-ref", f"refs/heads/csa/{number}", "main", must=False)


def _delete_branch(life: Life) -> None:
    life.git("branch", "-D", f"csa/{life.sessions.index(life.one())}", must=False)


def _check_out(life: Life) -> None:
    life.git("checkout", "-q", "--ignore-other-worktrees", f"csa/{life.sessions.index(life.one())}", must=False)
    life.git("checkout", "-q", "main")


def _pack(life: Life) -> None:
    life.git("gc", "-q", "--prune=now")


# Acts: what an agent does in its worktree.


def _write(life: Life, tree: Path) -> None:
    life.write(tree)


def _write_shared(life: Life, tree: Path) -> None:
    life.write(tree, "shared")


def _write_below(life: Life, tree: Path) -> None:
    (tree / "sub").mkdir(exist_ok=True)
    life.write(tree, f"sub/{life.count}")


def _commit(life: Life, tree: Path) -> None:
    life.git("add", "-A", at=tree, must=False)
    life.git("commit", "-qm", "mine", at=tree, must=False)


def _amend(life: Life, tree: Path) -> None:
    life.git("commit", "-q", "-a", "--amend", "--no-edit", at=tree, must=False)


def _branch(life: Life, tree: Path) -> None:
    life.git("checkout", "-q", "-b", f"agents{life.count}", at=tree, must=False)


def _detach(life: Life, tree: Path) -> None:
    life.git("checkout", "-q", "--detach", at=tree, must=False)


def _orphan(life: Life, tree: Path) -> None:
    life.git("checkout", "-q", "--orphan", f"orphan{life.count}", at=tree, must=False)


def _back(life: Life, tree: Path) -> None:
    life.git("checkout", "-q", "HEAD~1", at=tree, must=False)


def _reset(life: Life, tree: Path) -> None:
    life.git("reset", "-q", life.random.choice(["--hard", "--soft", "--mixed"]), "HEAD~1", at=tree, must=False)


def _rebase(life: Life, tree: Path) -> None:
    life.git("rebase", "-q", "main", at=tree, must=False)


def _merge_main(life: Life, tree: Path) -> None:
    life.git("merge", "-q", "main", at=tree, must=False)


def _abort(life: Life, tree: Path) -> None:
    life.git(life.random.choice(["rebase", "merge"]), "--abort", at=tree, must=False)


def _stage(life: Life, tree: Path) -> None:
    life.git("add", "-A", at=tree, must=False)


def _lock(life: Life, tree: Path) -> None:
    with suppress(FileNotFoundError):  # git knows nothing of it any more
        (life.repo / ".git/worktrees" / tree.name / "index.lock").touch()


def _init_inside(life: Life, tree: Path) -> None:
    life.git("init", "-q", "inner", at=tree, must=False)
    life.write(tree / "inner")


def _close_directory(life: Life, tree: Path) -> None:
    (tree / "shut").mkdir(exist_ok=True)
    (tree / "shut/x.log").touch()
    (tree / "shut").chmod(0o555)


def _delete_some(life: Life, tree: Path) -> None:
    for path in sorted(tree.glob("file*"))[:1]:
        path.unlink()


_MOST = 3
_RARE = 0.3
_LONGEST_S = 0.15
_STEPS: list[Callable[[Life], None]] = [
    *([Life.start] * 2),
    *([Life.resume] * 5),
    *([Life.be_killed] * 3),
    *([_land] * 3),
    *([_collect] * 2),
    *([_drop] * 2),
    *([_restore] * 3),
    *(_land_killed, _merge, _commit_here, _drop_by_force, _drop_killed, _delete, _collect_killed, _collect_twice),
    *(_remove_directory, _remove_admin, _prune, _move_branch, _delete_branch, _check_out, _pack),
]
_ACTS: list[Callable[[Life, Path], None]] = [
    *([_write] * 5),
    *([_commit] * 3),
    *(_write_shared, _write_below, _amend, _branch, _detach, _orphan, _back, _reset, _rebase, _merge_main, _abort),
    *(_stage, _lock, _init_inside, _close_directory, _delete_some),
]
