"""What the turns of a session have changed in its work tree, committed or not.

A turn's commits lie between the heads that were recorded before and after it. For what is not committed, the kernel's
time of each file's last change (ctime) tells whether that was during a turn: what was dirty before is not the turn's.
Of all paths that a turn has changed, the commit before the first turn is compared with the work tree now, or with
the commit after the last turn where a path was not changed since (comparing.py).

What this cannot know is said: paths that were changed again when no turn ran, and other sessions that ran meanwhile.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from csa.errors import NotFoundError
from csa.ids import milliseconds_of
from csa.model.clock import from_timestamp
from csa.model.state import SessionState
from csa.model.text import some_names
from csa.runner.session import Session
from csa.runner.sessions.comparing import ChangedFile, Comparison, Form, end_of, shown_path
from csa.runner.sessions.history import why_refused
from csa.runner.sessions.spans import Span, read_spans
from csa.store.gitplumbing import GitError, open_work_tree
from csa.store.gitwork import repository_of
from csa.store.project import git_top
from csa.store.transcript import read_events
from csa.structs import Struct, replace

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.worktree import Worktree

MOST_BYTES = 8 << 20  # of a diff in JSON


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
        unclear=tuple(map(shown_path, sorted(found.unclear))),
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


def _open_comparison(environ: Mapping[str, str], top: str, tree: Worktree | None, scratch: Path) -> Comparison:
    """Return what compares in a work tree; NotFoundError if that is gone, and so is the repository of a worktree."""
    is_own, is_there = bool(tree and tree.path == top), os.path.isdir(top)
    place = top if is_there else repository_of(tree) if tree and is_own else None
    if place is None:
        raise _gone(top)
    git = open_work_tree(place, environ)
    if tree and is_own:  # an agent may have rewritten its `.git`
        own = (tree.git_dir, top) if is_there else (git.line("rev-parse", "--absolute-git-dir"), str(scratch))
        git = replace(git, place=(*git.place, "--git-dir", own[0], "--work-tree", own[1]))
    return Comparison(git, place, scratch, is_own=is_own, has_files=is_there)


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
        other.started_at.timestamp() <= end_of(span) and span.started_at.timestamp() <= end_of(other) for span in spans
    )
