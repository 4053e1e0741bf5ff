"""A work tree compared with what it was before some turns: which paths those have changed, and how.

git works with an index and objects aside; nothing is written to the repository, and no program of its configuration
runs: files of a filter (git LFS) are as they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from csa.errors import NotFoundError
from csa.model.text import some_names
from csa.runner.sessions.spans import Span
from csa.store.gitplumbing import Git, GitError, without_filters
from csa.store.project import git_head
from csa.structs import Struct, asdict, field, replace

LARGE_BYTES = 32 << 20  # files above this are named, and not compared
MOST_FILES = 5000  # that are compared
_CLOCK_S = 0.01  # by which the kernel's times may lag
_STATUSES = {"A": "added", "M": "modified", "D": "deleted", "R": "renamed", "T": "modified"}
_COMPARE = ("diff-tree", "-r", "-M", "--no-ext-diff", "--no-textconv")
_LINK = "160000"  # the mode of a submodule
Form = Literal["patch", "stat", "names"]


class ChangedFile(Struct, kw_only=True):
    """A path that a turn has changed. Without numbers it is binary, large or a submodule."""

    path: str
    status: str
    renamed_from: str | None = None
    added: int | None = None
    removed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return its object in `session diff --json`."""
        return asdict(self)


class _Found(Struct, frozen=False):
    """The paths of a work tree, by what is known of them."""

    committed: set[str] = field(default_factory=set)  # between a turn's heads
    touched: set[str] = field(default_factory=set)  # not committed, and last changed during a turn
    large: set[str] = field(default_factory=set)
    unclear: set[str] = field(default_factory=set)
    older: set[str] = field(default_factory=set)  # last changed before


class Comparison:
    """A comparison in one work tree.

    One of the session's own (`is_own`) has moved otherwise only where csa has landed its work. If it is not there any
    more, `top` is in the repository, which has the commits, and nothing `has_files`.
    """

    def __init__(self, git: Git, top: str, scratch: Path, *, is_own: bool, has_files: bool) -> None:
        self._top = top
        self._is_own = is_own
        self._has_files = has_files
        self._reading = git
        objects = os.path.join(top, git.line("rev-parse", "--git-path", "objects"))
        (scratch / "objects").mkdir()
        aside = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
            "GIT_NO_LAZY_FETCH": "1",
        }
        self._reading = replace(git, environ={**git.environ, **without_filters(git)})
        self._aside = replace(git, environ={**self._reading.environ, **aside}, place=(*git.place, *_QUIET))
        self._empty = self._aside.line("mktree")
        self.found = _Found()
        self.notes: list[str] = []

    def look(self, spans: Sequence[Span], mentioned: frozenset[str]) -> None:
        """Find the paths that the turns have changed, and make the trees to compare."""
        now = (git_head(Path(self._top)) if self._has_files else spans[-1].after) or self._empty
        self._base = self._known(spans[0].before, spans[0])
        end = self._known(spans[-1].after, spans[-1]) if spans[-1].ended_at else now
        for span in spans:
            after = span.after if span.ended_at else now
            self.found.committed |= self._between(span.before or self._empty, after or self._empty, span)
        dirty, submodules = self._dirty() if self._has_files else (set[str](), set[str]())
        windows = [(span.started_at.timestamp() - _CLOCK_S, end_of(span)) for span in spans]
        if self._has_files:
            self._leave_out_carried(windows[0][0], dirty)
        for path in dirty | (set() if self._is_own else self._between(end, now, spans[-1])):
            self._judge(path, windows, path in mentioned or f"{self._top}/{path}" in mentioned, path in submodules)
        self._build(end)

    def _leave_out_carried(self, start: float, dirty: set[str]) -> None:
        """Leave out what a turn has committed, but was changed before it: by `git commit -a`, say."""
        paths = ((path, Path(self._top, path)) for path in self.found.committed - dirty)
        carried = sorted(
            path for path, file in paths if (file.is_file() or file.is_symlink()) and _changed_at(file)[0] < start
        )
        if carried:
            self.found.committed.difference_update(carried)
            self.notes.append(f"committed by a turn, but changed before it, so left out: {some_names(carried)}")

    def _known(self, commit: str | None, span: Span) -> str:
        """Return a commit that is there still, or the empty tree."""
        if commit is None:
            return self._empty
        try:
            return self._reading.line("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
        except GitError:
            raise NotFoundError(
                f"Commit {commit[:12]}, which turn {span.turn} worked on, is no longer in {self._top}.",
                hint="csa log shows the commits, csa logs what was done",
            ) from None

    def _between(self, before: str, after: str, span: Span) -> set[str]:
        if before == after:
            return set()
        try:
            words = ("diff-tree", "-r", "-z", "--no-renames", "--name-only", before, after)
            return set(_names(self._aside.run(*words)))
        except GitError:
            self.notes.append(f"the commits of turn {span.turn} are no longer there")
            return set()

    def _dirty(self) -> tuple[set[str], set[str]]:
        """Return the paths whose files are not as in the last commit, and those of them that are submodules."""
        words = (
            "-c",
            "core.fsmonitor=false",
            "status",
            "--porcelain=v2",
            "-z",
            "--no-renames",
            "--untracked-files=all",
        )
        lines = _names(self._reading.run(*words, "--ignore-submodules=dirty"))
        dirty, submodules = set[str](), set[str]()
        for line in lines:
            kind, _, rest = line.partition(" ")
            path = rest if kind == "?" else rest.split(" ", {"1": 7, "u": 9}[kind])[-1]
            if path.endswith("/"):
                self.notes.append(f"{path} is a repository of its own, which is not looked at")
                continue
            dirty.add(path)
            if kind != "?" and rest.split(" ", 2)[1].startswith("S"):
                submodules.add(path)
        return dirty, submodules

    def _judge(self, path: str, windows: Sequence[tuple[float, float]], is_mentioned: bool, is_submodule: bool) -> None:  # noqa: FBT001
        moment, size = _last_change(Path(self._top, path), is_submodule=is_submodule)
        if any(start <= moment <= end for start, end in windows) or (is_mentioned and moment >= windows[0][0]):
            (self.found.large if size > LARGE_BYTES else self.found.touched).add(path)
        elif moment >= windows[0][0] and path not in self.found.committed:
            self.found.unclear.add(path)
        elif moment < windows[0][0] and size <= LARGE_BYTES:
            self.found.older.add(path)

    def _build(self, end: str) -> None:
        """Make the tree with what turns have changed: as committed, or as it is in the work tree."""
        git, found = self._aside, self.found
        git.run("read-tree", self._base)
        raw = iter(_names(git.run("diff-tree", "-r", "-z", "--raw", "--no-renames", self._base, end)))
        committed = [(line.split(" "), path) for line, path in zip(raw, raw, strict=False) if path in found.committed]
        entries = [f"{words[1]} {words[3]}\t{path}\0" for words, path in committed if path not in found.touched]
        entries.sort(key=lambda entry: not entry.startswith("000000"))  # what a directory replaces goes first
        git.run("update-index", "--replace", "-z", "--index-info", stdin=_bytes("".join(entries)))
        found.touched |= self._moved_with_directory()
        kept = self._readable(sorted(found.touched))
        if len(kept) > MOST_FILES:
            self.notes.append(f"only {MOST_FILES} of {len(kept)} changed files are compared")
        gone = [path for path in kept[:MOST_FILES] if not self._is_there(path)]
        git.run("update-index", "--force-remove", "-z", "--stdin", stdin=_bytes("".join(f"{path}\0" for path in gone)))
        there = sorted(set(kept[:MOST_FILES]).difference(gone))
        stdin = _bytes("".join(f"{path}\0" for path in there))
        git.run(
            "update-index", "--add", "--remove", "--replace", "-z", "--stdin", stdin=stdin
        )  # some may just have gone
        self._tree = git.line("write-tree")

    def _moved_with_directory(self) -> set[str]:
        """Return files with the content of one that is gone: those of a renamed directory keep their times."""
        gone = sorted(path for path in self.found.touched if not self._is_there(path))
        if not gone:
            return set()
        entries = _names(self._aside.run("ls-files", "-s", "-z"))
        was = {path: words.split(" ")[1] for words, _, path in (entry.partition("\t") for entry in entries)}
        blobs = {was[path] for path in gone if path in was}
        older = [path for path in self._readable(sorted(self.found.older)) if path not in was and self._is_there(path)]
        older = [path for path in older if "\n" not in path and stat.S_ISREG(os.lstat(f"{self._top}/{path}").st_mode)]
        stdin = _bytes("".join(f"{self._top}/{path}\n" for path in older))
        hashes = self._aside.run("hash-object", "--no-filters", "--stdin-paths", stdin=stdin).decode().split()
        return {path for path, blob in zip(older, hashes, strict=True) if blob in blobs}

    def _readable(self, paths: Sequence[str]) -> list[str]:
        """Return the paths without files that this user may not read."""
        files = ((path, os.path.join(self._top, path)) for path in paths)
        secret = [path for path, file in files if os.path.isfile(file) and not os.access(file, os.R_OK)]
        if secret:
            self.notes.append(f"may not be read, so not compared: {some_names(secret)}")
        return [path for path in paths if path not in secret]

    def _is_there(self, path: str) -> bool:
        """Say whether a path is in the work tree, and not somewhere else, by a symlink in the place of a directory."""
        file = os.path.join(self._top, path)
        return os.path.lexists(file) and os.path.realpath(os.path.dirname(file)) == os.path.dirname(file)

    def result(self, form: Form, width: int) -> tuple[tuple[ChangedFile, ...], str]:
        """Return the files, and the text in a form."""
        large = sorted(self.found.large)
        if large:
            self.notes.append(f"larger than {LARGE_BYTES >> 20} MiB, so not compared: {some_names(large)}")
        return compare(self._aside, (self._base_tree, self._tree), form, width, large=large)

    @property
    def _base_tree(self) -> str:
        return self._base if self._base == self._empty else f"{self._base}^{{tree}}"


def compare(
    git: Git, ends: tuple[str, str], form: Form, width: int, *, large: Sequence[str] = ()
) -> tuple[tuple[ChangedFile, ...], str]:
    """Return the files that differ between two trees, with those that are not compared, and the text in a form."""
    numbers = _numbers(_names(git.run(*_COMPARE, "-z", "--numstat", *ends)))
    files = list(_files(_names(git.run(*_COMPARE, "-z", "--raw", *ends)), numbers))
    files += [ChangedFile(path=path, status="modified") for path in large]
    if form == "names":
        return tuple(files), "".join(f"{file.path}\n" for file in files)
    how = (f"--stat={width}",) if form == "stat" else ("-p", "--src-prefix=a/", "--dst-prefix=b/")
    return tuple(files), git.run(*_COMPARE, *how, *ends).decode("utf-8", "replace")


_QUIET = ("-c", "core.bigFileThreshold=32m", "-c", "core.safecrlf=false", "-c", "core.fsmonitor=false")


def end_of(span: Span) -> float:
    """Return when a turn ended, in seconds since the epoch; infinite while it runs."""
    return span.ended_at.timestamp() if span.ended_at else float("inf")


def _last_change(path: Path, *, is_submodule: bool) -> tuple[float, int]:
    """Return when a file was last changed, or where it was, and its size."""
    if is_submodule:  # when its head moved
        return max((_changed_at(path / name)[0] for name in _heads_of(path)), default=0.0), 0
    if link := next((place for place in reversed(path.parents) if place.is_symlink()), None):
        return _changed_at(link)  # it has taken the place of a directory
    try:
        return _changed_at(path)
    except OSError:
        return _changed_at(next(place for place in path.parents if place.is_dir()))[0], 0


def _changed_at(path: Path) -> tuple[float, int]:
    known = path.lstat()
    return known.st_ctime_ns / 1e9, known.st_size if stat.S_ISREG(known.st_mode) else 0


def _heads_of(submodule: Path) -> list[Path]:
    """Return the files that say when a submodule's head moved."""
    own = submodule / ".git"
    if own.is_file():
        own = submodule / own.read_text(errors="replace").partition("gitdir:")[2].strip()
    return [path for path in (own / "HEAD", own / "logs" / "HEAD", own / "reftable" / "tables.list") if path.exists()]


def _names(content: bytes) -> list[str]:
    return content.decode("utf-8", "surrogateescape").split("\0")[:-1]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def shown_path(path: str) -> str:
    """Return a path of any bytes as text that can be printed."""
    return _bytes(path).decode("utf-8", "replace")


def _numbers(fields: Sequence[str]) -> Iterator[tuple[int | None, int | None]]:
    rest = iter(fields)
    for one in rest:
        added, removed, path = one.split("\t", 2)
        if not path:  # a rename: its names follow
            next(rest), next(rest)
        yield (int(added), int(removed)) if added.isdecimal() else (None, None)


def _files(fields: Sequence[str], numbers: Iterator[tuple[int | None, int | None]]) -> Iterator[ChangedFile]:
    rest = iter(fields)
    for words in rest:
        before, after, _, _, letter = words.lstrip(":").split(" ")
        path = next(rest)
        new = next(rest) if letter[0] in "RC" else None
        added, removed = next(numbers)
        if _LINK in {before, after}:
            added = removed = None
        yield ChangedFile(
            path=shown_path(new or path),
            status=_STATUSES.get(letter[0], "modified"),
            renamed_from=shown_path(path) if new else None,
            added=added,
            removed=removed,
        )
