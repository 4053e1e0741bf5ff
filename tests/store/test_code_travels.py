"""Your code on another host and back: two state roots over real git, with a stream in between."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from csa.errors import RefusedError, ToolUnavailableError
from csa.model.config import Engine, combine_layers
from csa.model.worktree import Worktree
from csa.runner.context import Context
from csa.runner.hosts.code import Brought, CodePlace, Outgoing, bring_back, haves, outgoing, receive
from csa.runner.request import RunRequest
from csa.runner.turns.planning import plan_turn
from csa.store import travelling
from csa.store.gitplumbing import GitError, open_project
from csa.store.gitwork import worktree_path
from csa.store.keeping import keep_work
from csa.store.oldcode import find_unused, forget_code
from csa.store.project import find_project
from csa.store.sessions import Store
from csa.store.travelling import CODE_LOCK, CodeError, take_pack
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
        found.write_bundle(stream, haves(self.there(host), {"key": found.key}))
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
        self.tree = tree
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
def pair(tmp_path: Path) -> Hosts:
    found = Hosts(tmp_path)
    found.repo.mkdir()
    found.git("init", "-q", "-b", "main")
    (found.repo / "a.txt").write_text("one\n")
    (found.repo / ".gitignore").write_text("*.log\n")
    found.git("add", ".")
    found.git("commit", "-qm", "first")
    return found


def checked_out(pair: Hosts, place: CodePlace) -> Path:
    """Return a work tree of what has come."""
    tree = pair.top / f"out-{place.base[:8]}"
    pair.git("worktree", "add", "-q", "--detach", str(tree), place.base, at=place.directory)
    return tree


def test_a_dirty_work_tree_there(pair: Hosts) -> None:
    """All but ignored files goes along, a second time only what is new; here nothing at all has changed."""
    repo = pair.repo
    (repo / "a.txt").write_text("two\n")
    (repo / "staged").write_text("s\n")
    pair.git("add", "staged")
    (repo / "sub").mkdir()
    (repo / "sub/new").write_text("n\n")
    (repo / "x.log").write_text("ignored\n")
    pair.git("config", "core.splitIndex", "true")
    pair.git("config", "splitIndex.maxPercentChange", "0")
    pair.git("update-index", "--split-index")
    before = snapshot_of(pair)
    place = pair.send(repo / "sub")
    assert snapshot_of(pair) == before
    assert place.target == "main"
    assert place.directory.endswith("/sub")
    tree = checked_out(pair, place)
    assert sorted(os.listdir(tree)) == [".git", ".gitignore", "a.txt", "staged", "sub"]
    assert (tree / "a.txt").read_text() == "two\n"
    assert pair.git("log", "--format=%s", place.base, at=tree).splitlines()[1:] == ["first"]
    (repo / "a.txt").write_text("three\n")
    found, content = pair.pack()
    assert len(content) < 700
    again = receive(pair.there(), found.said, io.BytesIO(content))
    assert pair.git("show", f"{again.base}:a.txt", at=again.directory) == "three"
    assert pair.git("status", "--porcelain", at=again.directory) == ""


@pytest.mark.thorough
@pytest.mark.parametrize("is_dirty", [False, True])
def test_the_work_comes_back(pair: Hosts, *, is_dirty: bool) -> None:
    """Commits and what is left come as refs; a second time nothing; nothing else here changes, and it fits here."""
    if is_dirty:
        (pair.repo / "a.txt").write_text("mine\n")
        (pair.repo / "new").write_text("mine, too\n")
    place = pair.send()
    tree = pair.session(place)
    (Path(tree.path) / "b").write_text("b\n")
    pair.git("add", "b", at=tree.path)
    pair.git("commit", "-qm", "add b", at=tree.path)
    (Path(tree.path) / "a.txt").write_text("theirs\n")
    tip = pair.keep(tree)
    if is_dirty:  # no ref has it, and git has deleted a part of it
        lost = pair.git("rev-parse", f"{place.base}^{{tree}}")
        (pair.repo / ".git/objects" / lost[:2] / lost[2:]).unlink()
    before = snapshot_of(pair)
    brought = pair.fetch()
    ref = f"refs/csa/{SESSION}/1"
    assert [each.to_json() for each in brought.refs] == [{"ref": ref, "commit": tip, "status": "new"}]
    assert (brought.base, brought.tip, brought.target, brought.is_clean) == (place.base, tip, "main", not is_dirty)
    assert pair.git("rev-parse", ref) == tip
    assert snapshot_of(pair) == before
    pair.fetch()
    (Path(tree.path) / "c").write_text("c\n")
    later = pair.keep(tree, turn=2)
    brought = pair.fetch()
    assert [each.status for each in brought.refs] == ["same", "new"]
    (pair.top / "n2").symlink_to("n1")  # another host, with a session of the same id
    with pytest.raises(RefusedError, match="has come from n1"):
        pair.fetch(host="n2")
    assert examine_work(tree, pair.environ, session_id=SESSION).unlanded == ()
    if is_dirty:
        patch = pair.git("diff", "--binary", brought.base, later, raw=True)
        subprocess.run(["git", "apply"], input=patch, text=True, cwd=pair.repo, env=pair.environ, check=True)
    else:
        pair.git("merge", "-q", later)
    files = {name: (pair.repo / name).read_text() for name in ("a.txt", "b", "c")}
    assert files == {"a.txt": "theirs\n", "b": "b\n", "c": "c\n"}
    pair.git("commit", "-q", "--allow-empty", "-m", "theirs", at=tree.path)
    pair.keep(tree, turn=3)
    assert examine_work(tree, pair.environ, session_id=SESSION).unlanded


def snapshot_of(pair: Hosts) -> dict[str, Any]:
    """Return all that is in the repository but for objects and csa's refs, and what git says of it."""
    ours = ("/.git/objects", "/.git/refs")
    files = {name: facts for name, facts in snapshot(pair.repo).items() if not any(each in name for each in ours)}
    for name in [name for name in files if "/sharedindex." in name]:  # whose time git sets whenever it reads it
        files[name] = (0, 0, files[name][2])
    refs = [line for line in pair.git("for-each-ref").splitlines() if "refs/csa/" not in line]
    return {**files, "refs": refs, "status": pair.git("status", "--porcelain", GIT_OPTIONAL_LOCKS="0")}


def test_a_turn_begins_there(pair: Hosts) -> None:
    """The session's worktree begins with what was sent, is for the branch here, and works in the same directory."""
    (pair.repo / "sub").mkdir()
    (pair.repo / "sub/new").write_text("n\n")
    place = pair.send(pair.repo / "sub")
    plan = pair.plan(place)
    tree = plan.state.worktree
    assert (tree.base, tree.target, plan.dirty) == (place.base, "main", ())
    assert plan.cwd == f"{tree.path}/sub"
    assert plan.state.project_path == str(Path(place.directory).parent)


@pytest.mark.thorough
def test_what_a_work_tree_may_have(pair: Hosts) -> None:
    """Modes, links, any names, line ends, pointers of LFS; of repositories inside it is said what does not go along."""
    repo = pair.repo
    odd = os.fsencode(repo) + b"/n\xff\nme"
    Path(os.fsdecode(odd)).write_text("odd\n")
    (repo / "run").write_text("#!/bin/sh\n")
    (repo / "run").chmod(0o755)
    (repo / "link").symlink_to("/etc/passwd")
    (repo / "dos").write_bytes(b"a\r\nb\r\n")
    (repo / ".gitattributes").write_text("*.bin filter=lfs\n")
    (repo / "x.bin").write_bytes(b"large")
    (repo / ".worktreeinclude").write_text("*.log\n")
    (repo / "x.log").write_text("secret\n")
    pair.git("config", "core.autocrlf", "true")
    for name, value in (("clean", "sed s/^/pointer-of-/"), ("smudge", "sed s/^pointer-of-//"), ("required", "true")):
        pair.git("config", "--global", f"filter.lfs.{name}", value)
    pair.git("init", "-q", str(repo / "inner"))
    pair.git("commit", "-q", "--allow-empty", "-m", "x", at=repo / "inner")
    pair.git("init", "-q", str(pair.top / "module"))
    pair.git("commit", "-q", "--allow-empty", "-m", "x", at=pair.top / "module")
    pair.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(pair.top / "module"), "module")
    pair.git("config", "core.fsmonitor", f"touch {pair.top}/ran; false")
    (repo / ".git/hooks").mkdir(exist_ok=True)
    for hook in ("post-index-change", "reference-transaction", "pre-commit", "post-checkout"):
        (repo / f".git/hooks/{hook}").write_text(f"#!/bin/sh\ntouch {pair.top}/ran\n")
        (repo / f".git/hooks/{hook}").chmod(0o755)
    found, _ = pair.pack()
    assert sorted(found.warnings) == [
        "inner is a repository of its own: it does not go along",
        "of submodules only the commits are named, not sent: module",
        "what .worktreeinclude names does not go along: git ignores it",
    ]
    tree = Path(pair.session(pair.send()).path)
    assert (tree / os.fsdecode(b"n\xff\nme")).read_text() == "odd\n"
    assert os.access(tree / "run", os.X_OK)
    assert os.readlink(tree / "link") == "/etc/passwd"
    assert (tree / "dos").read_bytes() == b"a\nb\n"
    assert (tree / "x.bin").read_text() == "pointer-of-large"
    assert os.listdir(tree / "module") == []
    assert not (tree / "inner").exists()
    assert not (tree / "x.log").exists()
    (tree / "x.bin").write_text("written there")
    tip = pair.keep(pair.tree)
    pair.fetch()
    assert pair.git("show", f"{tip}:x.bin") == "written there"
    assert not (pair.top / "ran").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["shallow", "partial", "sha256", "unborn", "detached", "linked"])
def test_repositories_of_any_form(pair: Hosts, form: str) -> None:
    """There and back, twice; of a history that is cut off, what there is."""
    (pair.repo / "a.txt").write_text("two\n")
    pair.git("commit", "-qam", "second")
    other = pair.top / form
    url = f"file://{pair.repo}".replace(" ", "%20")
    if form in {"shallow", "partial"}:
        pair.git("config", "uploadpack.allowFilter", "true")
        pair.git("clone", "-q", *(["--depth=1"] if form == "shallow" else ["--filter=blob:none"]), url, str(other))
    elif form in {"sha256", "unborn"}:
        pair.git("init", "-q", "-b", "main", *(["--object-format=sha256"] if form == "sha256" else []), str(other))
        (other / "a.txt").write_text("two\n")
    else:
        pair.git("worktree", "add", "-q", *(["--detach"] if form == "detached" else ["-b", "main2"]), str(other))
    if form == "sha256":
        pair.git("add", ".", at=other)
        pair.git("commit", "-qm", "first", at=other)
    (other / "new").write_text("new\n")
    place = pair.send(other)
    assert place.target == {"detached": None, "linked": "main2"}.get(form, "main")
    pair.git("fsck", "--connectivity-only", at=place.directory)
    tree = pair.session(place)
    assert (Path(tree.path) / "new").read_text() == "new\n"
    count = {"shallow": 2, "partial": 2, "unborn": 1, "sha256": 2}.get(form, 3)
    assert pair.git("rev-list", "--count", place.base, at=place.directory) == str(count)
    (Path(tree.path) / "b").write_text("b\n")
    tip = pair.keep(tree)
    assert pair.fetch(other).tip == tip
    assert pair.git("show", f"{tip}:b", at=other) == "b"
    if form != "unborn":
        pair.git("add", ".", at=other)
        pair.git("commit", "-qm", "third", at=other)
        (other / "new").write_text("newer\n")
        again = pair.send(other)
        assert Path(again.directory) == Path(place.directory)
        assert pair.git("show", f"{again.base}:new", at=again.directory) == "newer"
        pair.git("fsck", "--connectivity-only", at=place.directory)


@pytest.mark.thorough
def test_what_is_cut_off_or_lacks_its_base(pair: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any byte: nothing of it is there, and the next one succeeds. So with two at once, and on a full disk."""
    (pair.repo / "noise").write_bytes(os.urandom(300_000))
    found, content = pair.pack()
    for end in (0, 2, 40, 5000, len(content) - 4, len(content) - 1):
        with pytest.raises(CodeError, match="before all of the code"):
            receive(pair.there(), found.said, io.BytesIO(content[:end]))
        assert haves(pair.there(), {"key": found.key}) == []
    with pytest.raises((CodeError, GitError)):
        receive(pair.there(), found.said, io.BytesIO(content.replace(content[200:220], b"x" * 20)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(GitError):
            receive(pair.there(), found.said, io.BytesIO(content))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    repository = pair.top / "n1/state/.code" / found.key
    assert [name for name in os.listdir(repository / ".git/objects") if name.startswith("tmp_")] == []
    pair.send()
    (pair.repo / "noise").write_bytes(b"less")
    more, later = pair.pack()
    with pytest.raises(CodeError):
        receive(pair.there("n2"), more.said, io.BytesIO(later))
    assert haves(pair.there("n2"), {"key": more.key}) == []
    with ThreadPoolExecutor(2) as pool:
        for host in ("n3", "n4"):
            both = [pool.submit(receive, pair.there(host), found.said, io.BytesIO(content)) for _ in range(2)]
            assert {each.result().base for each in both} == {found.said["commit"]}
    assert [name for name in os.listdir(pair.top / "n3/state/.code") if name.startswith(".")] == [CODE_LOCK]
    with monkeypatch.context() as patch:
        patch.setattr(travelling, "_free_bytes", lambda _: 200_000)
        with pytest.raises(CodeError, match="too large"):
            receive(pair.there("n5"), found.said, io.BytesIO(content))


@pytest.mark.thorough
def test_what_makes_no_sense_is_refused(pair: Hosts) -> None:
    """Names that lead elsewhere, other ids, other kinds: before anything is read or made."""
    (pair.repo / "new").write_text("n\n")
    found, content = pair.pack()
    for key, value in {
        "key": "../../x",
        "commit": "HEAD",
        "cut": ["--all"],
        "form": "sha512",
        "below": "../up",
        "target": "a\nb",
    }.items():
        for wrong in (value, None, 7, [], {}):  # type: ignore[var-annotated]
            if (key, wrong) not in [("target", None), ("cut", [])]:
                with pytest.raises(CodeError):
                    receive(pair.there(), {**found.said, key: wrong}, io.BytesIO(content))
    for below in ("/etc", "a//b", "a/.GIT/hooks", ".csa", "a\0b"):
        with pytest.raises(CodeError):
            receive(pair.there(), {**found.said, "below": below}, io.BytesIO(content))
    with pytest.raises(CodeError):
        haves(pair.there(), {"key": "../x"})
    assert not (pair.top / "n1").exists()
    (pair.top / "nogit").mkdir()
    pair.environ["PATH"] = str(pair.top / "nogit")
    with pytest.raises(ToolUnavailableError):
        haves(pair.there(), {"key": found.key})
    with pytest.raises(ToolUnavailableError):
        outgoing(pair.here(), Engine("n1"))
    assert outgoing(pair.here(pair.top), Engine("n1")) is None
    assert outgoing(pair.here(), Engine("n1", code="none")) is None


@pytest.mark.thorough
def test_what_comes_back_takes_nothing_away(pair: Hosts) -> None:
    """A ref of another commit stays, and nothing odd gets in; another repository is refused."""
    place = pair.send()
    tree = pair.session(place)
    tip = pair.keep(tree)
    ref = f"refs/csa/{SESSION}/1"
    pair.git("commit", "-q", "--allow-empty", "-m", "mine")
    pair.git("update-ref", ref, "HEAD")
    mine = pair.git("rev-parse", "HEAD")
    (Path(tree.path) / "b").write_text("b\n")
    later = pair.keep(tree)
    assert later != tip
    [brought] = pair.fetch().refs
    assert (brought.ref.startswith(f"{ref}-at-"), brought.commit, brought.status) == (True, later, "aside")
    assert pair.git("rev-parse", ref) == mine
    again = pair.fetch()
    assert ([each.status for each in again.refs], again.tip) == (["same"], later)
    pair.git("update-ref", f"refs/csa/{SESSION}/2", tip)
    pair.git("update-ref", f"refs/csa/{SESSION}/2", tip, at=tree.path)
    pair.git("update-ref", f"refs/csa/{SESSION}/2", later)
    assert [each.commit for each in pair.fetch().refs if each.ref.endswith("/2")] == [later]
    blob = pair.git("hash-object", "-w", "b", at=tree.path)
    hooks = subprocess.run(
        ["git", "mktree"],
        input=f"100755 blob {blob}\tpost-checkout\n",
        cwd=tree.path,
        text=True,
        capture_output=True,
        check=True,
    ).stdout.strip()
    content = b"40000 .git\0" + bytes.fromhex(hooks)
    evil = subprocess.run(
        ["git", "hash-object", "-t", "tree", "--literally", "-w", "--stdin"],
        input=content,
        cwd=tree.path,
        capture_output=True,
        check=True,
    ).stdout.decode()
    commit = pair.git("commit-tree", evil.strip(), "-p", later, "-m", "x", at=tree.path)
    pair.git("update-ref", f"refs/csa/{SESSION}/3", commit, at=tree.path)
    with pytest.raises(CodeError, match="cannot be used"):
        pair.fetch()
    assert subprocess.run(["git", "cat-file", "-e", commit], cwd=pair.repo, capture_output=True, check=False).returncode
    other = pair.top / "other"
    pair.git("init", "-q", str(other))
    with pytest.raises(RefusedError, match="is not of the repository"):
        pair.fetch(other)
    with pytest.raises(RefusedError, match="no git repository"):
        pair.fetch(pair.top)


@pytest.mark.thorough
def test_a_few_bytes_that_would_fill_the_memory(pair: Hosts) -> None:
    """A tree that claims to have 2 GiB, which zeros can have in 2 MB, is refused before it is read."""
    size = bytes([0xA0, *[0x80] * 3, 0x40])  # a tree; the lowest 4 bits of 2 GiB, and 7 in each byte that follows
    body = b"PACK" + bytes([0, 0, 0, 2, 0, 0, 0, 1]) + size + zlib.compress(b"")
    with pytest.raises(GitError, match="limit"):
        take_pack(
            open_project(str(pair.repo), pair.environ, commits=False),
            [body + hashlib.sha1(body).digest()],
            ["1" * 40],
            is_checked=True,
        )


@pytest.mark.thorough
def test_code_that_nobody_uses_goes(pair: Hosts) -> None:
    """After 30 days, unless a session works in it, or one that is not purged did; so do remains, and old snapshots."""
    place = pair.send()
    pair.session(place)
    root = pair.there().store.root_pathname
    remains = Path(root) / ".code/.new-x"
    remains.mkdir()
    old = time.time() - 31 * 86_400
    for path in (Path(place.directory), Path(place.directory) / ".git/csa-used", remains):
        os.utime(path, (old, old)) if path.exists() else None
    pair.git("update-ref", f"refs/csa/base/{int(old) // 86_400}/{place.base}", place.base, at=place.directory)
    assert find_unused(root) == [str(remains)]
    killed = Path(place.directory) / ".git/objects/tmp_objdir-incoming-csa-x"
    killed.mkdir()
    os.utime(killed, (old, old))
    assert len(list(forget_code(root, pair.environ))) == 1
    assert not killed.exists()
    days = pair.git("for-each-ref", "--format=%(refname)", "refs/csa/base", at=place.directory).splitlines()
    assert len(days) == 1
    shutil.rmtree(replace_store(pair.there(), place).store.pathname)
    assert find_unused(root) == [place.directory]
    pair.send()
    assert find_unused(root) == []
    os.utime(Path(place.directory) / ".git/csa-used", (old, old))
    [size] = forget_code(root, pair.environ)
    assert size > 1000
    assert os.listdir(Path(root) / ".code") == [CODE_LOCK]
