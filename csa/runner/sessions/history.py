"""The git history of a session: its checkpoints, and the commits made in the project while it worked.

The project's commits are those between the heads that a turn has recorded before and after; commits that others made
meanwhile are among them. git only runs if there is something to ask.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from csa.model.clock import from_timestamp
from csa.model.state import format_time
from csa.runner.context import Context
from csa.runner.session import Session
from csa.runner.sessions.spans import Span, read_spans
from csa.store.checkpoints import list_checkpoints
from csa.store.gitplumbing import Git, GitError, open_work_tree
from csa.store.project import find_work_tree
from csa.structs import Struct

MAX_COMMITS = 1000  # of one turn
_FORMAT = "%H%x00%ct%x00%an%x00%s"


class Entry(Struct, kw_only=True):
    """One line of the history. `head`: the project's head moved, and no commit explains it (or none is left)."""

    kind: Literal["commit", "checkpoint", "head"]
    commit: str
    at: datetime
    turn: int
    subject: str
    author: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `session log --json` prints."""
        return {
            "kind": self.kind,
            "commit": self.commit,
            "at": format_time(self.at),
            "turn": self.turn,
            "subject": self.subject,
            "author": self.author,
        }


def session_log(session: Session, *, on_refusal: Callable[[str], None] = lambda _: None) -> list[Entry]:
    """Return the history, newest first; `on_refusal` gets the reason if git would not show some of it.

    Raises:
        ToolUnavailableError: git is needed and not installed.
        StateError: the record is damaged.
    """
    if fault := session.record.fault:
        raise fault
    context = session.context
    moved = (span for span in read_spans(session.content.transcript) if span.after not in {None, span.before})
    entries = [entry for span in moved for entry in _commits(context, span, on_refusal)]
    for checkpoint in list_checkpoints(session.store, context.environ, session.session_id):
        facts = checkpoint.facts
        subject = facts.label or ("automatic" if facts.automatic else "by hand")
        at = from_timestamp(checkpoint.at)
        entries.append(
            Entry(kind="checkpoint", commit=checkpoint.commit, at=at, turn=facts.turn, subject=subject, author="csa")
        )
    return sorted(entries, key=_order, reverse=True)


def _order(entry: Entry) -> tuple[int, int, bool]:
    """Order by git's seconds; within one second, a turn's checkpoint was made after its commits."""
    return int(entry.at.timestamp()), entry.turn, entry.kind == "checkpoint"


def _commits(context: Context, span: Span, on_refusal: Callable[[str], None]) -> list[Entry]:
    git = open_work_tree(span.cwd, context.environ)
    try:
        entries = _read_commits(git, span)
    except GitError as error:  # the repository is gone, or its objects are; or git will not read it
        entries = []
        on_refusal(why_refused(span.cwd, error.said))
    if entries:
        return entries
    moved = f"the head moved from {(span.before or 'nothing')[:12]}"
    return [
        Entry(kind="head", commit=span.after or "", at=span.ended_at or span.started_at, turn=span.turn, subject=moved)
    ]


def why_refused(cwd: str, said: str) -> str:
    """Say why git has shown nothing of a directory."""
    if "dubious ownership" not in said:
        return f"git shows no commits of {cwd}: {said}"
    named = said.partition("safe.directory ")[2] or shlex.quote(find_work_tree(cwd))
    owner = "it belongs to another user, whose repositories git refuses to read"
    return f"git shows no commits of {cwd}: {owner}; if you trust it: git config --global --add safe.directory {named}"


def _read_commits(git: Git, span: Span) -> list[Entry]:
    reach = [span.after or "", *([f"^{span.before}"] if span.before else [])]
    words = ("log", f"--max-count={MAX_COMMITS}", "-z", f"--format={_FORMAT}", *reach, "--")
    fields = git.run(*words).decode("utf-8", "replace").split("\0")
    rows = zip(*[iter(fields)] * 4, strict=False)  # hash, time, author, subject; -z ends each commit like a field
    return [
        Entry(
            kind="commit",
            commit=name,
            at=from_timestamp(int(at)),
            turn=span.turn,
            subject=subject,
            author=author,
        )
        for name, at, author, subject in rows
    ]
