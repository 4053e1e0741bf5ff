"""Code that travels between hosts, as git's objects: a work tree as a commit, packs, and the repository they go to.

What comes from another host is kept aside until it is complete and checked, and only then gets into the repository:
cut off, or on a full disk, nothing of it is there. Neither side runs a hook, and neither work tree, index, branch,
reflog nor FETCH_HEAD is touched.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from csa.errors import CsaError, ToolUnavailableError, UsageError
from csa.model.text import some_names
from csa.ownership import give_to_owner, make_directory
from csa.paths import CODE
from csa.store.atomic import make_private_directory, replace_private, write_private
from csa.store.capture import add_what_can, index_aside, leave_out_repositories, submodules
from csa.store.gitplumbing import Git, GitError, open_project, version_of
from csa.store.gitwork import OLDEST_GIT, branch_of, find_commit
from csa.store.locks import Lock, acquire_lock
from csa.store.project import git_top
from csa.structs import Struct, replace

CUT = "-cut"  # what follows the key of a repository whose history does not go back to its root
BASES = "refs/csa/base/"  # in the repository there, by the day and its id: what was sent
USED = "csa-used"  # of git's directory there: touched when something is sent
CODE_LOCK = ".lock"  # beside the repositories
ASIDE = "tmp_objdir-incoming-csa-"  # likewise, of its objects: what is coming; git itself deletes old ones
_DAY_S = 86_400
_MOST_HAVES = 64
_BLOCK = 1 << 18
_MOST_BLOCK = 1 << 20
_LENGTH = 4  # bytes in front of each block; a length of 0 ends the pack
_FAILED = (1 << 32) - 1  # in place of a length: the other side could not go on
_MOST_OBJECT = (
    "1g"  # of memory: a tree, or what deltas make, may be that of a few bytes; larger files are not held in it
)
_MOST_SETTINGS = 1 << 20  # bytes of a project's configuration
# Large files are neither compared with others nor held in memory.
_BOUNDED = (
    *("-c", "core.bigFileThreshold=32m", "-c", "core.packedGitWindowSize=16m", "-c", "core.packedGitLimit=64m"),
    *("-c", "pack.windowMemory=64m", "-c", "pack.threads=1", "-c", "pack.compression=1"),
)
_REACHES_NOBODY = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}  # the first is of git 2.45
# Of the repository there. Line ends are as committed; what Git LFS keeps elsewhere stays a pointer, and what an agent
# writes in such a file's place is committed as it is: LFS would keep it on that host.
_SETTINGS = {
    "core.autocrlf": "false",
    "core.fsmonitor": "false",
    "filter.lfs.clean": "",
    "filter.lfs.smudge": "",
    "filter.lfs.process": "",
    "filter.lfs.required": "false",
}


class CodeError(CsaError):
    """Code did not get to another host, or back; nothing has changed."""

    code = "code"


class Code(Struct):
    """A work tree as it is, as a commit.

    Attributes:
        git: git in its repository.
        commit: the commit; that of the head where nothing differs from it.
        key: which repository it belongs to: its root commit, with `CUT` if the history does not go back to that.
        cut: the commits at which the history is cut off.
        form: the names of its objects, sha1 or sha256.
        below: the directory in it that one stands in.
        target: the branch that is checked out; None if the head is detached.
        left: what does not go along, in words.
    """

    git: Git
    commit: str
    key: str
    cut: tuple[str, ...]
    form: str
    below: str
    target: str | None
    left: tuple[str, ...]


def read_code(directory: str, environ: Mapping[str, str]) -> Code | None:
    """Return the work tree around a directory as a commit, which no ref has; None outside of any.

    Raises:
        UsageError: git does not read it.
        ToolUnavailableError: git is not installed, or too old.
        GitError: git refuses, as on a full disk.
    """
    if git_top(os.path.realpath(directory)) is None:
        return None
    git = open_project(directory, environ)
    require_git(git)
    git = bounded(git)
    try:
        top, below = git.path("rev-parse", "--show-toplevel"), git.path("rev-parse", "--show-prefix").rstrip("/")
    except GitError as error:
        hint = '[engines.NAME] code = "none" sends no code'
        if "dubious ownership" in error.said:
            hint = f"git config --global --add safe.directory {directory}"
        words = f"git does not read the repository around {directory}: {error.said.rstrip('.')}."
        raise UsageError(words, hint=hint) from error
    head = find_commit(git, "HEAD")
    commit, left = _snapshot(git, top, head)
    key, cut = _place_in_history(git, commit, head)
    form = git.line("rev-parse", "--show-object-format")
    return Code(git, commit, key, cut, form, below, branch_of(git), tuple(left))


def bounded(git: Git) -> Git:
    """Return git that holds no large file in memory, and sees objects as they are."""
    return replace(git, place=(*git.place, *_BOUNDED), environ={**git.environ, "GIT_NO_REPLACE_OBJECTS": "1"})


def require_git(git: Git) -> None:
    """Raise ToolUnavailableError for a git that is too old."""
    if (version := version_of(git)) < OLDEST_GIT:
        found, oldest = (".".join(map(str, each)) for each in (version, OLDEST_GIT))
        raise ToolUnavailableError(
            f"Sending code needs git {oldest} or newer; this is {found}.",
            hint='install a newer git, or send none: [engines.NAME] code = "none"',
        )


def _snapshot(git: Git, top: str, head: str | None) -> tuple[str, list[str]]:
    with index_aside(git) as aside:
        left = [problem.replace("it is not committed", "it does not go along") for problem in add_what_can(aside)]
        nothing = aside.line("hash-object", "-t", "tree", "-w", "--stdin")
        left += [
            f"{path} is a repository of its own: it does not go along"
            for path in leave_out_repositories(aside, head or nothing)
        ]
        if paths := sorted(submodules(aside)):
            left.append(f"of submodules only the commits are named, not sent: {some_names(paths)}")
        content = aside.line("write-tree")
    if os.path.lexists(f"{top}/.worktreeinclude"):
        left.append("what .worktreeinclude names does not go along: git ignores it")
    if head and content == git.line("rev-parse", f"{head}^{{tree}}"):
        return head, left
    parents = ("-p", head) if head else ()
    return git.line("commit-tree", content, *parents, stdin=b"csa: the work tree as it was sent\n"), left


def _place_in_history(git: Git, commit: str, head: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the key of the repository, and where the history is cut off."""
    root = git.line("rev-list", "--first-parent", "--max-parents=0", commit)
    if head and is_partial(git):  # it has what is checked out, and what is older perhaps not
        return root + CUT, (head,)
    if git.line("rev-parse", "--is-shallow-repository") == "true":
        roots = git.line("rev-list", "--max-parents=0", commit).split()
        return root + CUT, tuple(sorted(set(roots) & set(_read_shallow(git))))
    return root, ()


def is_partial(git: Git) -> bool:
    """Say whether a repository gets objects from elsewhere when it needs them."""
    with suppress(GitError):
        return bool(git.run("config", "--get-regexp", r"^remote\..*\.(promisor|partialclonefilter)$"))
    return False


def _read_shallow(git: Git) -> list[str]:
    try:
        with open(git.path("rev-parse", "--path-format=absolute", "--git-path", "shallow"), encoding="ascii") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def which_are_here(git: Git, commits: Sequence[str]) -> list[str]:
    """Return those of some commits, named by their ids, that a repository has; nobody else is asked for them."""
    if not commits:
        return []
    alone = replace(git, environ={**git.environ, **_REACHES_NOBODY})
    said = alone.run("cat-file", "--batch-check", stdin="".join(f"{each}\n" for each in commits).encode())
    facts = (line.split() for line in said.decode().splitlines())
    return [fact[0] for fact in facts if fact[1:2] == ["commit"]]


def write_pack(
    git: Git, stream: IO[bytes], commits: Sequence[str], *, haves: Sequence[str], cut: Sequence[str] = ()
) -> None:
    """Write what some commits need, but for what the other side has, in blocks.

    A history that is cut off is sent as far as it goes. GitError; then the other side is told so.
    """
    what = "^{tree}" if cut else ""  # what is older than that, the other side need not have either
    without = [f"^{each}{what}" for each in haves]
    if not (set(commits) <= set(haves)):
        lines = (*(f"--shallow {each}" for each in cut), *commits, *without)
        packing = ("pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "--quiet")
        try:
            with git.reading(*packing, stdin="".join(f"{line}\n" for line in lines).encode()) as pack:
                while block := pack.read(_BLOCK):
                    stream.write(len(block).to_bytes(_LENGTH) + block)
        except GitError:
            stream.write(_FAILED.to_bytes(_LENGTH))
            raise
    stream.write((0).to_bytes(_LENGTH))


def read_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a pack's blocks up to its end; CodeError if that does not come."""
    while length := int.from_bytes(_exactly(stream, _LENGTH)):
        if length == _FAILED:
            raise CodeError("The other side could not send all of its code.")
        if length > _MOST_BLOCK:
            raise CodeError("What came is no code.")
        yield _exactly(stream, length)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    found = b""
    while len(found) < length:
        block = stream.read(length - len(found))
        if not block:
            raise CodeError("The connection ended before all of the code had come.")
        found += block
    return found


def take_pack(
    git: Git, blocks: Iterable[bytes], commits: Sequence[str], *, cut: Sequence[str] = (), is_checked: bool = False
) -> None:
    """Put a pack into a repository, if with it the commits are there with all that they need.

    `is_checked`: only if git finds nothing odd in it, as names that lead out of a work tree.

    Raises:
        CodeError: something is missing or odd, or the pack ends too early.
        GitError: git refuses, as on a full disk.
    """
    with ExitStack() as stack:
        aside, place = stack.enter_context(_aside(git))
        words = ("--fsck-objects",) if is_checked else ()
        stream = iter(blocks)
        if first := next(stream, b""):
            content = (block for part in ([first], stream) for block in part)
            limit = f"--max-input-size={_free_bytes(place) // 2}"  # 0 is no limit; then the disk has one
            try:
                aside.feed("index-pack", "--stdin", "--fix-thin", limit, *words, content=content)
            except GitError as error:
                if "maximum allowed size" in error.said:
                    raise CodeError("The code that came is too large.", hint="free space on the disk") from error
                if "fsck" in error.said or "unresolved delta" in error.said:
                    raise CodeError(f"The code that came cannot be used: {error.said}.") from error
                raise
        whole = stack.enter_context(_cut_off(aside, cut)) if cut else aside
        _require_whole(whole, commits)
        _move_in(place)


@contextmanager
def _aside(git: Git) -> Iterator[tuple[Git, str]]:
    """Yield git whose new objects are kept aside, in a place that git itself cleans up when it is old."""
    objects = git.path("rev-parse", "--path-format=absolute", "--git-path", "objects")
    place = tempfile.mkdtemp(prefix=ASIDE, dir=objects)
    try:
        os.mkdir(f"{place}/pack")
        for each in (place, f"{place}/pack") if git.user else ():
            os.chown(each, *git.user)  # type: ignore[misc]  # there is one
        variables = {"GIT_OBJECT_DIRECTORY": place, "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}
        variables["GIT_ALLOC_LIMIT"] = _MOST_OBJECT
        yield replace(git, environ={**git.environ, **variables}), place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _move_in(place: str) -> None:
    """Move packs from aside to the repository: git sees one when it has its index."""
    target = f"{os.path.dirname(place)}/pack"
    os.makedirs(target, exist_ok=True)
    names = os.listdir(f"{place}/pack")
    for name in sorted(names, key=lambda name: name.endswith(".idx")):
        if not name.endswith(".keep"):
            os.rename(f"{place}/pack/{name}", f"{target}/{name}")


@contextmanager
def _cut_off(git: Git, cut: Sequence[str]) -> Iterator[Git]:
    """Yield git for which the history is cut off there; afterwards it is so for everybody, unless the body fails."""
    place = git.path("rev-parse", "--path-format=absolute", "--git-path", "shallow")
    new = Path(f"{place}.csa-new")
    with acquire_lock(Path(f"{place}.csa-lock"), wait=True):
        known = _read_shallow(git)
        replace_private(new, "".join(f"{each}\n" for each in sorted({*known, *cut})).encode())
        try:
            yield replace(git, environ={**git.environ, "GIT_SHALLOW_FILE": os.fspath(new)})
            os.rename(new, place)
        finally:
            new.unlink(missing_ok=True)


def _free_bytes(place: str) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _require_whole(git: Git, commits: Sequence[str]) -> None:
    """Raise CodeError unless all that some commits need is there."""
    try:
        _walk(git, commits)
    except GitError as error:
        raise CodeError(f"The code that came is not complete: {error.said}.", hint="try again") from error


def is_whole(git: Git, commit: str) -> bool:
    """Say whether a repository has all that a commit needs: git may have deleted some of it, if no ref keeps it."""
    try:
        _walk(git, [commit])
    except GitError:
        return False
    return True


def _walk(git: Git, commits: Sequence[str]) -> None:
    promised = ("--exclude-promisor-objects",) if is_partial(git) else ()
    words = ("rev-list", "--objects", "--quiet", *promised, "--stdin", "--not", "--all")
    git.run(*words, stdin="".join(f"{each}\n" for each in commits).encode())


def open_received(place: str, environ: Mapping[str, str]) -> Git:
    """Return git in a repository for code of other hosts."""
    git = open_project(place, environ, commits=False)
    return bounded(replace(git, place=(*git.place, "--git-dir", f"{place}/.git")))


def ensure_received(place: str, environ: Mapping[str, str], *, form: str) -> Git:
    """Have a repository for code of other hosts: built aside and renamed, so that nobody sees a partial one.

    Its own work tree stays empty: sessions have worktrees of it.
    """
    above = os.path.dirname(place)
    make_private_directory(Path(above))
    with code_lock(above):
        if is_there := os.path.isfile(f"{place}/.git/HEAD"):
            write_private(Path(f"{place}/.git/{USED}"), b"")
    if is_there:
        return open_received(place, environ)
    aside = tempfile.mkdtemp(prefix=".new-", dir=above)
    try:
        give_to_owner(aside)
        init = open_project(aside, environ)
        init.run("init", "--quiet", "--template=", f"--object-format={form}", aside)
        git = replace(init, place=(*init.place, "--git-dir", f"{aside}/.git"))
        for name, value in _SETTINGS.items():
            git.run("config", name, value)
        nothing = git.line("hash-object", "-t", "tree", "-w", "--stdin")
        empty = git.line("commit-tree", nothing, stdin=b"csa: code of other hosts\n", when=0)
        git.run("update-ref", "--no-deref", "HEAD", empty)
        with suppress(OSError):  # another process was faster
            os.rename(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return open_received(place, environ)


def code_lock(above: str) -> Lock:
    """Take the lock under which a repository is found to be used, or not to be; for a moment."""
    return acquire_lock(Path(above, CODE_LOCK), wait=True)


def is_received(place: str) -> bool:
    """Say whether a repository is one for code of other hosts."""
    return f"/{CODE}/" in place


def list_haves(git: Git) -> list[str]:
    """Return commits that a repository has, the newest."""
    words = ("for-each-ref", "--sort=-committerdate", f"--count={_MOST_HAVES}", "--format=%(objectname)")
    return list(dict.fromkeys(git.line(*words, "refs/csa", "refs/heads").split()))


def keep_base(git: Git, commit: str) -> None:
    """Keep a commit that was sent by a ref, for a while: a session keeps what it needs by its own."""
    git.run("update-ref", f"{BASES}{int(time.time()) // _DAY_S}/{commit}", commit)


def lay_out(git: Git, place: str, commit: str, below: str) -> str:
    """Return the directory of that name in the empty work tree of a repository, where the project's settings are, too.

    The latter are those of the commit: csa looks for them in the project.
    """
    settings = Path(place) / ".csa/config.toml"
    found = git.run("ls-tree", "-l", commit, "--", ".csa/config.toml").split()
    if found and found[0] == b"100644" and int(found[3]) <= _MOST_SETTINGS:
        replace_private(_made(place, ".csa") / settings.name, git.run("cat-file", "blob", found[2].decode()))
    else:
        with suppress(OSError):
            os.unlink(settings)
    return os.fspath(_made(place, below))


def _made(place: str, below: str) -> Path:
    """Return a directory in a place, made if need be; CodeError if something else has its name."""
    directory = place
    for name in filter(None, below.split("/")):
        directory = f"{directory}/{name}"
        with suppress(FileExistsError):
            make_directory(directory)
        if not stat.S_ISDIR(os.lstat(directory).st_mode):
            raise CodeError(f"{directory} is not a directory.")
    return Path(directory)
