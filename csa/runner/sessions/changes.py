"""What the turns of a session have changed in its work tree, committed or not.

A turn's commits lie between the heads that were recorded before and after it. For what is not committed, the kernel's
time of each file's last change (ctime) tells whether that was during a turn: what was dirty before is not the turn's.
Of all paths that a turn has changed, the commit before the first turn is compared with the work tree now, or with
the commit after the last turn where a path was not changed since. git works with an index and objects aside; nothing
is written to the repository, and no program of the configuration runs: files of a filter (git LFS) are as they are.

What this cannot know is said: paths that were changed again when no turn ran, and other sessions that ran meanwhile.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from csa.errors import NotFoundError
from csa.ids import milliseconds_of
from csa.model.clock import from_timestamp
from csa.model.state import SessionState
from csa.model.text import some_names
from csa.runner.session import Session
from csa.runner.sessions.history import why_refused
from csa.runner.sessions.spans import Span, read_spans
from csa.store.gitplumbing import Git, GitError, open_work_tree, without_filters
from csa.store.gitwork import repository_of
from csa.store.project import git_head, git_top
from csa.store.transcript import read_events
from csa.structs import Struct, asdict, field, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.worktree import Worktree

LARGE_BYTES = 32 << 20  # files above this are named, and not compared
MOST_FILES = 5000  # that are compared
MOST_BYTES = 8 << 20  # of a diff in JSON
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


class Changes(Struct, kw_only=True):
    """What turns have changed, and what could not be told."""

    session_id: str
    turns: tuple[int, ...]
    directory: str
    base: str | None
    files: tuple[ChangedFile, ...]
    text: str  # the diff, or its summary
    unclear: tuple[str, ...]
    also: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session diff --json` prints."""
        text = self.text if len(self.text) <= MOST_BYTES else self.text[: self.text.rfind("\n", 0, MOST_BYTES) + 1]
        return {
            "session_id": self.session_id,
            "turns": list(self.turns),
            "directory": self.directory,
            "base": self.base,
            "files": [file.to_json() for file in self.files],
            "diff": text,
            "truncated": len(text) < len(self.text),
            "unclear": list(self.unclear),
            "also": list(self.also),
            "notes": list(self.notes),
        }

    def warnings(self) -> list[str]:
        """Return what a person should know of it."""
        found = list(self.notes)
        if self.unclear:
            found.append(f"changed at another time too, or only then, so left out: {some_names(self.unclear)}")
        if self.also:
            found.append(f"other sessions ran here meanwhile, and may have made some of this: {some_names(self.also)}")
        return found


class _Found(Struct, frozen=False):
    """The paths of a work tree, by what is known of them."""

    committed: set[str] = field(default_factory=set)  # between a turn's heads
    touched: set[str] = field(default_factory=set)  # not committed, and last changed during a turn
    large: set[str] = field(default_factory=set)
    unclear: set[str] = field(default_factory=set)
    older: set[str] = field(default_factory=set)  # last changed before


def read_changes(session: Session, *, turn: int | None = None, form: Form = "patch", width: int = 80) -> Changes:
    """Return what a session has changed, or one turn of it.

    Raises:
        NotFoundError: there is no such turn, or its work tree or commits are gone, or git will not read them.
        ToolUnavailableError: git is not installed.
    """
    everything = list(read_spans(session.content.transcript))
    spans = [span for span in everything if turn in {None, span.turn}]
    if not spans:
        raise NotFoundError(f"Session {session.session_id} has {'not run yet' if turn is None else f'no turn {turn}'}.")
    tree = session.record.state.worktree if session.record.state else None
    if (top := _top_of(spans[-1], tree)) is None:
        raise _gone(spans[-1].cwd)
    elsewhere = [span for span in spans if _top_of(span, tree) != top]
    notes = [f"turn {span.turn} ran in {span.cwd}, which is not looked at" for span in elsewhere]
    spans = [span for span in spans if span not in elsewhere]
    with tempfile.TemporaryDirectory(prefix="csa-diff-") as scratch:
        try:
            comparison = _open_comparison(session.context.environ, top, tree, Path(scratch))
            comparison.look(_with_ends(spans, everything), _mentioned(session, {span.turn for span in spans}))
            files, text = comparison.result(form, width)
        except GitError as error:
            raise NotFoundError(f"{why_refused(top, error.said)}.", hint="csa logs shows what was done") from error
    found = comparison.found
    return Changes(
        session_id=session.session_id,
        turns=tuple(span.turn for span in spans),
        directory=top,
        base=spans[0].before,
        files=files,
        text=session.context.redactor.redact(text),
        unclear=tuple(map(_shown, sorted(found.unclear))),
        also=tuple(_others(session, spans, top)),
        notes=tuple(notes + comparison.notes),
    )


def _top_of(span: Span, tree: Worktree | None) -> str | None:
    """Return the work tree that a turn ran in: the session's own, which may be gone, or one that is there."""
    if tree and f"{span.cwd}/".startswith(f"{tree.path}/"):
        return tree.path
    return git_top(os.path.realpath(span.cwd))


def _gone(directory: str) -> NotFoundError:
    return NotFoundError(f"{directory} is not in a git repository (any more).", hint="csa logs shows what was done")


def _open_comparison(environ: Mapping[str, str], top: str, tree: Worktree | None, scratch: Path) -> _Comparison:
    """Return what compares in a work tree; NotFoundError if that is gone, and so is the repository of a worktree."""
    is_own, is_there = bool(tree and tree.path == top), os.path.isdir(top)
    place = top if is_there else repository_of(tree) if tree and is_own else None
    if place is None:
        raise _gone(top)
    git = open_work_tree(place, environ)
    if tree and is_own:  # an agent may have rewritten its `.git`
        own = (tree.git_dir, top) if is_there else (git.line("rev-parse", "--absolute-git-dir"), str(scratch))
        git = replace(git, place=(*git.place, "--git-dir", own[0], "--work-tree", own[1]))
    return _Comparison(git, place, scratch, is_own=is_own, has_files=is_there)


def _with_ends(spans: Sequence[Span], everything: Sequence[Span]) -> list[Span]:
    """Return the turns; one that was lost ended at the latest when the next one began."""
    begins = {one.turn: following for one, following in pairwise(everything)}
    return [
        replace(span, ended_at=following.started_at, after=following.before)
        if span.ended_at is None and (following := begins.get(span.turn))
        else span
        for span in spans
    ]


def _mentioned(session: Session, turns: set[int]) -> frozenset[str]:
    """Return the words of the titles of edits: among them are the files that the agent has edited."""
    edits = {"edit", "delete", "move"}
    calls = (e for e in read_events(session.content.transcript) if e.type == "tool_call" and e.turn in turns)
    titles = (str(call.data.get("title", "")) for call in calls if call.data.get("kind") in edits)
    return frozenset(word for title in titles for word in re.split(r"[\s,]+", title))


class _Comparison:
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
        windows = [(span.started_at.timestamp() - _CLOCK_S, _until(span)) for span in spans]
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


def _until(span: Span) -> float:
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
    return [path for path in (own / "HEAD", own / "logs" / "HEAD") if path.exists()]


def _names(content: bytes) -> list[str]:
    return content.decode("utf-8", "surrogateescape").split("\0")[:-1]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(path: str) -> str:
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
            path=_shown(new or path),
            status=_STATUSES.get(letter[0], "modified"),
            renamed_from=_shown(path) if new else None,
            added=added,
            removed=removed,
        )


def _others(session: Session, spans: Sequence[Span], top: str) -> Iterator[str]:
    """Yield the sessions whose turns may have changed the same work tree meanwhile; not those below this one."""
    start, end = spans[0].started_at, spans[-1].ended_at or datetime.now(UTC)
    store, states = session.store, dict[str, SessionState | None]()

    def is_below(session_id: str | None) -> bool:
        if session_id is None or not store.has(session_id):
            return False
        if session_id not in states:
            states[session_id] = store.record(session_id).state
        state = states[session_id]
        return session_id == session.session_id or bool(state and is_below(state.parent_session_id))

    for other in store.ids():
        transcript = store.paths(other).transcript
        try:
            is_late = from_timestamp(os.stat(transcript).st_mtime) >= start
        except OSError:
            continue
        if not is_late or from_timestamp(milliseconds_of(other) / 1000) > end or is_below(other):
            continue
        if any(
            _overlaps(each, spans) and git_top(os.path.realpath(each.cwd)) == top for each in read_spans(transcript)
        ):
            yield other


def _overlaps(other: Span, spans: Sequence[Span]) -> bool:
    return other.permission != "read-only" and any(
        other.started_at.timestamp() <= _until(span) and span.started_at.timestamp() <= _until(other) for span in spans
    )
