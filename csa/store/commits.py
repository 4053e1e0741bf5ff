"""Which commits of a history are the work of sessions, and how many lines they change. Only reads.

A commit is found as what the session was landed as, by the trailer `Csa-Session`, which outlives rebasing and
squashing, or, where an agent's own commit without a trailer was rewritten, by its author, their time and its subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from csa.model.worktree import SESSION_TRAILER
from csa.store.gitplumbing import Git
from csa.structs import Struct, field

_FORMAT = f"%H%x00%ae%x00%at%x00%s%x00%(trailers:key={SESSION_TRAILER},valueonly,separator=%x20)%x00"
_FIELDS = 5
_Origin = tuple[str, str, str]  # author, time and subject: they outlive rewriting


class History(Struct, frozen=False):
    """The commits of a branch since some moment, by what they can be found by."""

    commits: set[str] = field(default_factory=set)
    by_session: dict[str, list[str]] = field(default_factory=dict)
    by_origin: dict[_Origin, str] = field(default_factory=dict)


def read_commits(git: Git, *, since: float, tip: str = "HEAD") -> History:
    """Return what is in a branch that was committed since then (Unix seconds); GitError."""
    history = History()
    for commit, origin, sessions in _log(git, "log", f"--since=@{int(since)} +0000", tip, "--"):
        history.commits.add(commit)
        history.by_origin.setdefault(origin, commit)
        for session_id in sessions:
            history.by_session.setdefault(session_id, []).append(commit)
    return history


def find_work(git: Git, history: History, landed: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return for each session which commits of a history are its work.

    Args:
        git: git in the repository.
        history: the commits.
        landed: the commits that each session was landed as, by its id; they may be gone since.

    Raises:
        GitError: git refuses.
    """
    lost = {commit for commits in landed.values() for commit in commits if commit not in history.commits}
    rewritten = _rewritten(git, history, lost)
    return {
        session_id: list(
            dict.fromkeys(
                [
                    *(rewritten.get(commit, commit) for commit in commits if commit not in lost or commit in rewritten),
                    *history.by_session.get(session_id, ()),
                ]
            )
        )
        for session_id, commits in landed.items()
    }


def count_lines(git: Git, commits: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return how many lines commits add and remove; a merge adds none of its own, nor does a binary file. GitError."""
    wanted = "".join(f"{commit}\n" for commit in commits)
    if not wanted:
        return {}
    words = (
        "diff-tree",
        "--stdin",
        "--root",
        "-r",
        "-z",
        "--numstat",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
    )
    found, commit = dict[str, tuple[int, int]](), ""
    for part in git.run(*words, stdin=wanted.encode()).decode("utf-8", "replace").split("\0"):
        numbers = part.lstrip("\n").split("\t", 2)
        if len(numbers) == 1:
            commit = numbers[0] or commit
            found.setdefault(commit, (0, 0))
        elif numbers[0].isdecimal():
            added, removed = found[commit]
            found[commit] = added + int(numbers[0]), removed + int(numbers[1])
    return found


def _rewritten(git: Git, history: History, lost: set[str]) -> dict[str, str]:
    """Return what has become of commits that are not in the history, as far as their objects are still there."""
    if not lost:
        return {}
    asked = "".join(f"{commit}\n" for commit in sorted(lost)).encode()
    kinds = git.run("cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=asked).decode().splitlines()
    there = [words[0] for line in kinds if (words := line.split(" "))[1:] == ["commit"]]
    known = _log(git, "log", "--no-walk=unsorted", "--stdin", stdin="".join(f"{commit}\n" for commit in there))
    return {
        commit: history.by_origin[origin]
        for commit, origin, _ in (known if there else ())
        if origin in history.by_origin
    }


def _log(git: Git, *words: str, stdin: str = "") -> Iterator[tuple[str, _Origin, list[str]]]:
    """Yield the commits of a log, each with its origin and the sessions it names."""
    said = git.run(*words[:1], f"--format=tformat:{_FORMAT}", *words[1:], stdin=stdin.encode())
    fields = said.decode("utf-8", "replace").split("\0")
    for at in range(0, len(fields) - 1, _FIELDS):
        commit, author, moment, subject, sessions = fields[at : at + _FIELDS]
        yield commit.strip(), (author, moment, subject), sessions.split()
