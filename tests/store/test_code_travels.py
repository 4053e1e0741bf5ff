"""Your code on another host and back: two state roots over real git, with a stream in between."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csa.model.config import Engine, combine_layers
from csa.model.worktree import Worktree
from csa.runner.context import Context
from csa.runner.hosts.code import Brought, CodePlace, Outgoing, bring_back, haves, outgoing, receive
from csa.runner.request import RunRequest
from csa.runner.turns.planning import plan_turn
from csa.store.gitwork import worktree_path
from csa.store.keeping import keep_work
from csa.store.project import find_project
from csa.store.sessions import Store
from csa.store.unlanded import examine_work
from csa.store.worktrees import add_worktree
from csa.structs import replace
from tests.store.support import IDS, finish, publish
from tests.support import CSA, snapshot

SESSION = IDS[0]

Run = Callable[..., str]


class Hosts:
    """A repository here, and a state root of another host."""

    def __init__(self, top: Path) -> None:
        self.top, self.repo = top, top / "re po"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "HOME": str(top),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "U",
            "GIT_AUTHOR_EMAIL": "u@example.org",
            "GIT_COMMITTER_NAME": "U",
            "GIT_COMMITTER_EMAIL": "u@example.org",
        }

    def git(self, *words: str | bytes, at: Path | str | None = None, raw: bool = False, **more: str) -> str:
        """Run git here, or in another directory."""
        done = subprocess.run(
            ["git", *words], cwd=at or self.repo, env={**self.environ, **more}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said = os.fsdecode(done.stdout)
        return said if raw else said.strip()

    def here(self, directory: Path | None = None) -> Context:
        return self._context(self.top / "state", directory or self.repo)

    def there(self, host: str = "n1") -> Context:
        return self._context(self.top / host / "state", self.top)

    def _context(self, root: Path, directory: Path) -> Context:
        return Context(
            store=Store(root, directory),
            environ=self.environ,
            directory=directory,
            config=lambda _: combine_layers([]),
            caller=lambda: None,
        )

    def pack(self, directory: Path | None = None, *, host: str = "n1") -> tuple[Outgoing, bytes]:
        """Return what goes to a host, and its bytes."""
        found = outgoing(self.here(directory), Engine(host))
        assert found
        stream = io.BytesIO()
        found.write_bundle(stream, haves(self.there(host), found.key))
        return found, stream.getvalue()

    def send(self, directory: Path | None = None, *, host: str = "n1") -> CodePlace:
        """Have the code there, by way of JSON and a stream that has more in it."""
        found, content = self.pack(directory, host=host)
        stream = io.BytesIO(content + b'{"beat": true}\n')
        place = receive(self.there(host), json.loads(json.dumps(found.said)), stream)
        assert stream.read() == b'{"beat": true}\n'
        return place

    def plan(self, place: CodePlace, host: str = "n1", **request: Any) -> Any:
        """Plan a turn there, with a worktree of its own."""
        context = self._context(self.top / host / "state", Path(place.directory))
        context = replace_store(context, place)
        wanted = RunRequest(
            prompt="do it",
            tool="codex",
            directory=Path(place.directory),
            worktree="",
            worktree_base=place.base,
            worktree_target=place.target,
            **request,
        )
        return plan_turn(context, wanted)

    def session(self, place: CodePlace, host: str = "n1") -> Worktree:
        """Return the worktree of a session there that has begun with what was sent."""
        context = replace_store(self.there(host), place)
        path = worktree_path(context.store, SESSION)
        tree = Worktree(
            path=path,
            git_dir="",
            branch="csa/work",
            base=place.base,
            checkout=place.directory,
            target=place.target,
            number=1,
        )
        with publish(context.store, SESSION, worktree=tree) as held:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            tree = add_worktree(tree, self.environ)
            held.save(replace(held.state, worktree=tree))
            finish(held)
        return tree

    def keep(self, tree: Worktree, turn: int = 1) -> str:
        """Keep what is in it at the end of a turn; return its last commit."""
        return keep_work(tree, self.environ, session_id=SESSION, turn=turn, subject="what is left").tip

    def fetch(self, directory: Path | None = None, *, host: str = "n1") -> Brought:
        """Have its work here, by a process that serves it there."""
        reach = ("env", f"HOME={self.top}", f"CSA_STATE_DIR={self.top / host / 'state'}")
        return bring_back(self.here(directory), Engine(host, reach=reach, csa=(CSA,)), SESSION)


def replace_store(context: Context, place: CodePlace) -> Context:
    return context.in_project(find_project(place.directory))


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    found = Hosts(tmp_path)
    found.repo.mkdir()
    found.git("init", "-q", "-b", "main")
    (found.repo / "a.txt").write_text("one\n")
    (found.repo / ".gitignore").write_text("*.log\n")
    found.git("add", ".")
    found.git("commit", "-qm", "first")
    return found


def checked_out(hosts: Hosts, place: CodePlace) -> Path:
    """Return a work tree of what has come."""
    tree = hosts.top / f"out-{place.base[:8]}"
    hosts.git("worktree", "add", "-q", "--detach", str(tree), place.base, at=place.directory)
    return tree


def test_a_dirty_work_tree_there(hosts: Hosts) -> None:
    """All but ignored files goes along, a second time only what is new; here nothing at all has changed."""
    repo = hosts.repo
    (repo / "a.txt").write_text("two\n")
    (repo / "staged").write_text("s\n")
    hosts.git("add", "staged")
    (repo / "sub").mkdir()
    (repo / "sub/new").write_text("n\n")
    (repo / "x.log").write_text("ignored\n")
    hosts.git("stash", "list")
    before = snapshot_of(hosts)
    place = hosts.send(repo / "sub")
    assert snapshot_of(hosts) == before
    assert place.target == "main"
    assert place.directory.endswith("/sub")
    tree = checked_out(hosts, place)
    assert sorted(os.listdir(tree)) == [".git", ".gitignore", "a.txt", "staged", "sub"]
    assert (tree / "a.txt").read_text() == "two\n"
    assert hosts.git("log", "--format=%s", place.base, at=tree).splitlines()[1:] == ["first"]
    (repo / "a.txt").write_text("three\n")
    found, content = hosts.pack()
    assert len(content) < 700
    again = receive(hosts.there(), found.said, io.BytesIO(content))
    assert hosts.git("show", f"{again.base}:a.txt", at=again.directory) == "three"
    assert hosts.git("status", "--porcelain", at=again.directory) == ""


@pytest.mark.thorough
@pytest.mark.parametrize("is_dirty", [False, True])
def test_the_work_comes_back(hosts: Hosts, *, is_dirty: bool) -> None:
    """Commits and what is left come as refs; a second time nothing; nothing else here changes, and it fits here."""
    if is_dirty:
        (hosts.repo / "a.txt").write_text("mine\n")
        (hosts.repo / "new").write_text("mine, too\n")
    place = hosts.send()
    tree = hosts.session(place)
    (Path(tree.path) / "b").write_text("b\n")
    hosts.git("add", "b", at=tree.path)
    hosts.git("commit", "-qm", "add b", at=tree.path)
    (Path(tree.path) / "a.txt").write_text("theirs\n")
    tip = hosts.keep(tree)
    before = snapshot_of(hosts)
    brought = hosts.fetch()
    ref = f"refs/csa/{SESSION}/1"
    assert [each.to_json() for each in brought.refs] == [{"ref": ref, "commit": tip, "status": "new"}]
    assert (brought.base, brought.tip, brought.target, brought.is_clean) == (place.base, tip, "main", not is_dirty)
    assert hosts.git("rev-parse", ref) == tip
    assert snapshot_of(hosts) == before
    hosts.fetch()
    (Path(tree.path) / "c").write_text("c\n")
    later = hosts.keep(tree, turn=2)
    brought = hosts.fetch()
    assert [each.status for each in brought.refs] == ["same", "new"]
    assert examine_work(tree, hosts.environ, session_id=SESSION).unlanded == ()
    if is_dirty:
        patch = hosts.git("diff", "--binary", brought.base, later, raw=True)
        subprocess.run(["git", "apply"], input=patch, text=True, cwd=hosts.repo, env=hosts.environ, check=True)
    else:
        hosts.git("merge", "-q", later)
    files = {name: (hosts.repo / name).read_text() for name in ("a.txt", "b", "c")}
    assert files == {"a.txt": "theirs\n", "b": "b\n", "c": "c\n"}
    hosts.git("commit", "-q", "--allow-empty", "-m", "theirs", at=tree.path)
    hosts.keep(tree, turn=3)
    assert examine_work(tree, hosts.environ, session_id=SESSION).unlanded


def snapshot_of(hosts: Hosts) -> dict[str, Any]:
    """Return all that is in the repository but for objects and csa's refs, and what git says of it."""
    ours = ("/.git/objects", "/.git/refs")
    files = {name: facts for name, facts in snapshot(hosts.repo).items() if not any(each in name for each in ours)}
    refs = [line for line in hosts.git("for-each-ref").splitlines() if "refs/csa/" not in line]
    return {**files, "refs": refs, "status": hosts.git("status", "--porcelain", GIT_OPTIONAL_LOCKS="0")}


def test_a_turn_begins_there(hosts: Hosts) -> None:
    """The session's worktree begins with what was sent, is for the branch here, and works in the same directory."""
    (hosts.repo / "sub").mkdir()
    (hosts.repo / "sub/new").write_text("n\n")
    place = hosts.send(hosts.repo / "sub")
    plan = hosts.plan(place)
    tree = plan.state.worktree
    assert (tree.base, tree.target, plan.dirty) == (place.base, "main", ())
    assert plan.cwd == f"{tree.path}/sub"
    assert plan.state.project_path == str(Path(place.directory).parent)
