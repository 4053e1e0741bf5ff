"""Worktrees that were taken away: kept aside as they were, and deleted later, with the refs that keep their work.

`worktrees/.gone-<session>` has one directory for each, named by the time in ms, and `repository.toml`: where the refs
are, once the session's own record is gone. Each step is one rename or one deletion, and another clean-up goes on with
what is left.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from csa.errors import StateError
from csa.ids import is_session_id
from csa.model.clock import from_timestamp
from csa.model.state import format_time, parse_time
from csa.model.worktree import FETCHED, REFS
from csa.ownership import make_directory
from csa.paths import GONE_PREFIX, NEW_PREFIX, WORKTREES
from csa.store.atomic import read_regular, write_atomically
from csa.store.gitplumbing import open_project
from csa.store.sessions import Store, is_directory
from csa.store.statefile import read_record
from csa.store.tomlfile import render_toml
from csa.structs import Struct, replace

NOTE = "repository.toml"
_ADMIN = ".git"  # what follows the name of a worktree for git's own directory of it
_REPOSITORY_AWAITED = timedelta(days=100)  # how long refs are remembered that cannot be deleted


class Gone(Struct):
    """What is left of a session's worktrees, and is to be deleted: all of it, with the refs, if `is_last`."""

    session_id: str
    place: Path
    paths: tuple[Path, ...]
    is_last: bool


def move_aside(path: str, session_id: str) -> Path:
    """Move a worktree, or what is in its place, aside, and return where it is now; OSError if it cannot be moved."""
    place = Path(path).with_name(GONE_PREFIX + session_id)
    while True:
        make_directory(place)
        aside = place / str(time.time_ns() // 1_000_000)
        try:
            _rename(path, aside)
        except FileNotFoundError:  # a clean-up has just found the place empty
            if not os.path.lexists(path):
                raise
        except FileExistsError:  # within the same millisecond
            continue
        else:
            return aside


def _rename(path: str, aside: Path) -> None:
    if os.path.lexists(aside):
        raise FileExistsError
    try:
        os.rename(path, aside)
    except PermissionError:  # a directory that may not be written cannot be moved to another
        if not is_directory(path):
            raise
        os.chmod(path, 0o700)
        os.rename(path, aside)


def leave_note(worktrees: Path, session_id: str, repository: str | None, since: datetime) -> None:
    """Note where the refs of a session are that is being purged, and since when its work is given up."""
    if repository is None:
        return
    place = worktrees / (GONE_PREFIX + session_id)
    make_directory(worktrees)
    make_directory(place)
    write_atomically(place / NOTE, render_toml({"repository": repository, "since": format_time(since)}))


def find_gone(store: Store, before: datetime, *, session_id: str | None = None) -> Iterator[Gone]:
    """Yield what is left of worktrees that were taken away before that moment, of one session or all. Only reads."""
    worktrees = store.path / WORKTREES
    for name in _names(worktrees) if session_id is None else [GONE_PREFIX + session_id]:
        whose = name.removeprefix(GONE_PREFIX)
        if name == whose or not is_session_id(whose) or not is_directory(place := worktrees / name):
            continue
        aside = [each for each in _names(place) if each.removesuffix(_ADMIN).isdecimal()]
        old = [each for each in aside if from_timestamp(int(each.removesuffix(_ADMIN)) / 1000) < before]
        is_last = old == aside and _is_over(store, whose, place, before)
        if old or is_last:
            yield Gone(whose, place, tuple(place / each for each in old), is_last)


def find_orphans(store: Store, before: datetime) -> Iterator[Path]:
    """Yield the worktrees whose session somebody has removed, if they are from before that moment. Only reads."""
    worktrees = store.path / WORKTREES
    for name in _names(worktrees):
        if is_session_id(name) and _is_older(worktrees / name, before) and not is_known(store, name):
            yield worktrees / name


def _is_older(path: Path, before: datetime) -> bool:
    try:
        return from_timestamp(path.lstat().st_ctime) < before
    except OSError:
        return False


def repository_beside(path: Path) -> str | None:
    """Return the repository of a worktree, if that names it as well: an agent may have written its `.git`."""
    try:
        own = read_regular(path / ".git").decode().removeprefix("gitdir:").strip()
        back = read_regular(f"{own}/gitdir").decode().strip()
    except (OSError, ValueError):
        return None
    common, found, _ = own.rpartition("/worktrees/")
    return common if found and os.path.realpath(back) == os.path.realpath(path / ".git") else None


def _is_over(store: Store, session_id: str, place: Path, before: datetime) -> bool:
    """Say whether nothing needs the place any more: the session has its own record, or is gone for long enough."""
    if is_known(store, session_id):
        return True
    repository, since = _read_note(place)
    if repository is None or since is None:
        return True
    is_there = os.path.isfile(f"{repository}/HEAD")  # otherwise it was deleted, or its disk is not mounted
    return since < before - (timedelta(0) if is_there else _REPOSITORY_AWAITED)


def is_known(store: Store, session_id: str) -> bool:
    """Say whether there is such a session, deleted or being made, or may be."""
    return _may_be_there(store.paths(NEW_PREFIX + session_id).pathname) or is_published(store, session_id)


def is_published(store: Store, session_id: str) -> bool:
    """Say whether a session has begun, or may have. It may be deleted and restored meanwhile."""
    places = (store.paths(session_id), store.retired_paths(session_id), store.paths(session_id))
    return any(_may_be_there(paths.pathname) for paths in places)


def _may_be_there(pathname: str) -> bool:
    try:
        os.lstat(pathname)
    except FileNotFoundError:
        above = os.path.dirname(pathname)
        return os.path.islink(above) and not os.path.isdir(above)  # to a disk that is not mounted
    except OSError:
        pass
    return True


def _read_note(place: Path) -> tuple[str | None, datetime | None]:
    try:
        found = read_record(place / NOTE)
    except StateError:
        return None, None
    repository = found.get("repository")
    return repository if isinstance(repository, str) else None, parse_time(found.get("since"))


def forget_work(store: Store, gone: Gone, environ: Mapping[str, str]) -> None:
    """Delete the refs of a session that is gone, and the place of its worktrees. OSError, GitError."""
    repository, _ = _read_note(gone.place)
    if repository and not is_known(store, gone.session_id) and os.path.isfile(f"{repository}/HEAD"):
        _delete_refs(repository, gone.session_id, environ)
    with suppress(FileNotFoundError):
        os.unlink(gone.place / NOTE)
    with suppress(OSError):  # another was taken away meanwhile
        os.rmdir(gone.place)


def _delete_refs(repository: str, session_id: str, environ: Mapping[str, str]) -> None:
    git = open_project(repository, environ, commits=False)
    git = replace(git, place=(*git.place, "--git-dir", repository))
    places = (f"{REFS}{session_id}/", f"{FETCHED}{session_id}/")
    said = git.run("for-each-ref", "--format=delete %(refname) %(objectname)", *places)
    if said:
        git.run("update-ref", "--stdin", stdin=said)


def _names(directory: Path) -> list[str]:
    with suppress(OSError):
        return sorted(os.listdir(directory))
    return []
