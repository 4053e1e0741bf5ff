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
from csa.runner.context import Context
from csa.runner.hosts.code import CodePlace, Outgoing, haves, outgoing, receive
from csa.runner.request import RunRequest
from csa.runner.turns.planning import plan_turn
from csa.store.sessions import Store
from tests.support import snapshot

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

    def git(self, *words: str | bytes, at: Path | str | None = None, **more: str) -> str:
        """Run git here, or in another directory."""
        done = subprocess.run(
            ["git", *words], cwd=at or self.repo, env={**self.environ, **more}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return os.fsdecode(done.stdout).strip()

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


def replace_store(context: Context, place: CodePlace) -> Context:
    from csa.store.project import find_project  # noqa: PLC0415

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


def snapshot_of(hosts: Hosts) -> dict[str, Any]:
    """Return all that is in the repository but for objects, and what git says of it."""
    files = {name: facts for name, facts in snapshot(hosts.repo).items() if "/.git/objects" not in name}
    return {**files, "status": hosts.git("status", "--porcelain", GIT_OPTIONAL_LOCKS="0")}


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
