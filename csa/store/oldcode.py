"""Code of other hosts that nobody uses any more: repositories without sessions, and what was sent long ago."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from csa.paths import CODE, RETIRED, SESSIONS, WORKTREES
from csa.store.atomic import read_regular
from csa.store.gitplumbing import GitError
from csa.store.retiring import remove_tree
from csa.store.sessions import Store, is_directory
from csa.store.travelling import ASIDE, BASES, CODE_LOCK, USED, code_lock, open_received

UNUSED_AFTER_S = 30 * 86_400.0
_REMAINS_AFTER_S = 86_400.0
_DAY_S = 86_400
_MANY_PACKS = 50


def find_unused(root: str) -> list[str]:
    """Return the repositories that no session has used for 30 days, and what was interrupted. Only reads."""
    above, now = f"{os.path.realpath(root)}/{CODE}", time.time()
    found = []
    for name in _names(above):
        if name == CODE_LOCK:
            continue
        limit_s = _REMAINS_AFTER_S if name.startswith(".") else UNUSED_AFTER_S
        if _used_at(f"{above}/{name}") < now - limit_s and not _is_needed(root, f"{above}/{name}"):
            found.append(f"{above}/{name}")
    return found


def forget_code(root: str, environ: Mapping[str, str]) -> Iterator[int]:
    """Delete those, and yield the size of each; in the others, forget what was sent long ago. OSError."""
    above = f"{os.path.realpath(root)}/{CODE}"
    gone = []
    with code_lock(above):  # nobody begins to use one meanwhile
        for place in find_unused(root):
            gone.append(f"{above}/.gone-{os.path.basename(place).lstrip('.')}-{time.time_ns()}")
            os.rename(place, gone[-1])
    yield from (remove_tree(Path(place)) for place in gone)
    for name in _names(above):
        if os.path.isfile(f"{above}/{name}/.git/HEAD"):
            with suppress(GitError):  # somebody else does the same
                _forget_bases(f"{above}/{name}", environ)


def _forget_bases(place: str, environ: Mapping[str, str]) -> None:
    objects = f"{place}/.git/objects"
    for name in _names(objects):
        if name.startswith(ASIDE) and os.lstat(f"{objects}/{name}").st_mtime < time.time() - _REMAINS_AFTER_S:
            remove_tree(Path(f"{objects}/{name}"))  # whoever took it in was killed
    git, oldest = open_received(place, environ), int(time.time() - UNUSED_AFTER_S) // _DAY_S
    said = git.run("for-each-ref", "--format=delete %(refname) %(objectname)", BASES).decode()
    old = [line for line in said.splitlines() if _day_of(line) < oldest]
    if old:
        git.run("update-ref", "--stdin", stdin="".join(f"{line}\n" for line in old).encode())
    if sum(name.endswith(".pack") for name in _names(f"{place}/.git/objects/pack")) > _MANY_PACKS:
        git.run("gc", "--quiet")


def _day_of(line: str) -> int:
    day = line.split(" ")[1].removeprefix(BASES).partition("/")[0]
    return int(day) if day.isdecimal() else 0


def _is_needed(root: str, place: str) -> bool:
    """Say whether a session of this host works in a repository, or did, and is not purged."""
    store = Store(root, place)
    if any(_names(f"{store.pathname}/{each}") for each in (SESSIONS, RETIRED, WORKTREES)):
        return True
    return any(_is_there(f"{place}/.git/worktrees/{name}/gitdir") for name in _names(f"{place}/.git/worktrees"))


def _is_there(link: str) -> bool:
    try:
        return os.path.lexists(os.fsdecode(read_regular(link).strip()))
    except OSError:
        return False


def _used_at(place: str) -> float:
    for name in (f"{place}/.git/{USED}", place):
        with suppress(OSError):
            return os.lstat(name).st_mtime
    return time.time()


def _names(directory: str) -> list[str]:
    if not is_directory(directory):
        return []
    with suppress(OSError):
        return sorted(os.listdir(directory))
    return []
