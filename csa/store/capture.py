"""All that lies in a work tree as one tree of git, with an index aside: the work tree's own is only read.

git is not let into submodules: there it would believe a configuration that an agent may have written, and which may
name programs to run. What they have checked out is noted as it is.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from csa.store.atomic import read_regular
from csa.store.gitplumbing import Git, GitError
from csa.structs import replace

_LINK = "160000"  # the mode of a submodule, and of any other repository in a work tree
_REFUSED_MOST = 50  # files that are tried one by one: more of them have a reason in common, as a full disk


@contextmanager
def index_aside(git: Git, *, start: str | None = None) -> Iterator[Git]:
    """Yield git with a copy of the work tree's index, so that neither its lock nor its content matters.

    With `start`, with the index of that commit instead.
    """
    own = git.path("rev-parse", "--path-format=absolute", "--git-path", "index")
    with tempfile.TemporaryDirectory(prefix="csa-index-") as scratch:
        if git.user:
            os.chown(scratch, *git.user)
        aside = os.path.join(scratch, "index")
        with suppress(FileNotFoundError):  # a checkout without files
            if not start:
                shutil.copy2(own, aside)  # with its time, by which git knows which files to read again
            if git.user:
                os.chown(aside, *git.user)
        whole = ("-c", "core.splitIndex=false")  # otherwise git would write a part of it to the repository
        found = replace(git, environ={**git.environ, "GIT_INDEX_FILE": aside}, place=(*git.place, *whole))
        if start:
            found.run("read-tree", start)
        yield found


def look_at_all(aside: Git) -> None:
    """Have an index aside forget what git was told not to look at (assume-unchanged, skip-worktree), if it is there."""
    entries = aside.run("ls-files", "-z", "-v").split(b"\0")
    unseen = [entry[2:] for entry in entries if entry[:1].islower() or entry[:1] == b"S"]
    top = os.fsencode(aside.path("rev-parse", "--show-toplevel")) if unseen else b""
    if found := [path for path in unseen if os.path.lexists(b"/".join((top, path)))]:
        for word in ("--no-assume-unchanged", "--no-skip-worktree"):  # git heeds one at a time
            aside.run("update-index", word, "-z", "--stdin", stdin=b"\0".join(found))


def add_all(aside: Git, *words: str) -> None:
    """Have an index aside name all that lies in its work tree, but for ignored files; GitError if something cannot."""
    links = _links(aside)
    _add(aside, [b":/", *(b":(exclude,top,literal)" + path for path in links)], *words)
    if links:
        aside.run("update-index", "-z", "--stdin", stdin=b"\0".join(links))


def add_what_can(aside: Git) -> list[str]:
    """Do the same with all that can be added, and return what cannot, in words.

    Some files have git add nothing at all: one that no filter takes, or is not encoded as its attributes say.
    """
    try:
        add_all(aside)
    except GitError:
        with suppress(GitError):
            add_all(aside, "--ignore-errors")
        _add_some(aside, _missing(aside))
        return [f"{os.fsdecode(path)} cannot be read: it is not committed" for path in _missing(aside)]
    return []


def changed_inside(git: Git) -> list[str]:
    """Return the submodules in a work tree in which something is not committed, or that cannot be read.

    Each is read with its own index, but with the configuration of the work tree around it.
    """
    links = _links(git)
    top = git.path("rev-parse", "--show-toplevel") if links else ""
    return [name for path in links if _is_changed(git, f"{top}/{(name := os.fsdecode(path))}")]


def _is_changed(git: Git, directory: str) -> bool:
    inside = replace(git, place=(*git.place, "-C", directory, "--work-tree", directory))
    with tempfile.TemporaryDirectory(prefix="csa-index-") as scratch:
        index = os.path.join(scratch, "index")
        try:
            shutil.copy2(f"{_own_directory(directory)}/index", index)
            for place in (scratch, index) if git.user else ():
                os.chown(place, *git.user)  # type: ignore[misc]  # there is one
            return bool(_missing(replace(inside, environ={**inside.environ, "GIT_INDEX_FILE": index})))
        except (OSError, ValueError, GitError):
            return True


def _own_directory(directory: str) -> str:
    """Return git's directory of a repository; OSError, ValueError."""
    place = f"{directory}/.git"
    if os.path.isdir(place):
        return place
    return os.path.join(directory, read_regular(place).decode().removeprefix("gitdir:").strip())


def _links(aside: Git) -> list[bytes]:
    """Return the paths of repositories in an index that are there."""
    entries = aside.run("ls-files", "-z", "--stage").split(b"\0")
    found = [entry.partition(b"\t")[2] for entry in entries if entry.startswith(_LINK.encode())]
    top = os.fsencode(aside.path("rev-parse", "--show-toplevel")) if found else b""
    return [path for path in found if os.path.lexists(b"/".join((top, path, b".git")))]


def _add(aside: Git, specs: Iterable[bytes], *words: str) -> None:
    paths = ("--pathspec-from-file=-", "--pathspec-file-nul")
    stdin = b"\0".join(specs)
    try:
        aside.run("add", "--all", "--sparse", *words, *paths, stdin=stdin)
    except GitError as error:
        if "unknown option" not in error.said:  # before 2.34 git adds what is not in a sparse checkout, too
            raise
        aside.run("add", "--all", *words, *paths, stdin=stdin)


def _add_some(aside: Git, paths: Sequence[bytes]) -> None:
    """Add paths but for those that git refuses, which are found by halves."""
    waiting, refused = [paths] if paths else [], 0
    while waiting and refused < _REFUSED_MOST:
        some = waiting.pop()
        try:
            _add(aside, (b":(top,literal)" + path for path in some))
        except GitError:
            if len(some) == 1:
                refused += 1
            else:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]


def _missing(aside: Git) -> list[bytes]:
    """Return the paths that an index still lacks; GitError if that is not known."""
    said = aside.run("ls-files", "-z", "--others", "--modified", "--exclude-standard").split(b"\0")
    links = set(_links(aside))
    return [path for path in dict.fromkeys(said) if path and path not in links]


def leave_out_repositories(aside: Git, head: str) -> list[str]:
    """Take out of the index the repositories that were not there before: git would only note their commits."""
    said = aside.run("diff-index", "--cached", "--raw", "-z", "--no-renames", "--diff-filter=AT", head).split(b"\0")
    found = [
        os.fsdecode(path) for facts, path in zip(said[::2], said[1::2], strict=False) if facts[8:14] == _LINK.encode()
    ]
    known = submodules(aside) if found else set()
    foreign = [path for path in found if path not in known]
    if foreign:
        aside.run("update-index", "--force-remove", "-z", "--stdin", stdin=b"\0".join(map(os.fsencode, foreign)))
    return foreign


def submodules(git: Git) -> set[str]:
    """Return the paths of the submodules that an index names."""
    with suppress(GitError):  # there is no .gitmodules
        said = git.run("config", "-z", "--blob", ":.gitmodules", "--get-regexp", r"^submodule\..*\.path$")
        return {entry.partition("\n")[2] for entry in said.decode("utf-8", "surrogateescape").split("\0") if entry}
    return set()
