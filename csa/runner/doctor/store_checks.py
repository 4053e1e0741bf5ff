"""What `csa doctor` says about the state root: is it writable, do locks work on it, and what is in it?"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from csa.errors import DeniedError, StateError
from csa.model.check import Check
from csa.ownership import explain_denial
from csa.paths import NEW_PREFIX, SESSION_DIRECTORIES, SESSIONS
from csa.runner.doctor.place_checks import EXIT_STATE, check_places
from csa.runner.turns.leftovers import find_leftovers
from csa.store.locks import acquire_lock, is_locked, place_flock
from csa.store.searchindex import has_index, look_at
from csa.store.sessions import Store
from csa.store.statefile import load_state
from csa.store.survey import Survey, survey

SURVEY_LIMIT_S = 5.0
_LITTLE_SPACE_BYTES = 1 << 30  # a single turn's logs may take 128 MiB
_SHOWN = 5


def check_store(store: Store) -> list[Check]:
    """Check the state root and everything in it. Nothing stays written; a missing root is not created."""
    root = store.root
    if problem := _cannot_write(root) or _cannot_write(store.path):
        return [_blocked(root, *problem), *check_leftovers(root)]
    if not os.path.exists(root):
        detail = f"{root} does not exist yet; the first run creates it"
        return [Check("state", "state root", "ok", detail), *check_leftovers(root)]
    found = survey(root, limit_s=SURVEY_LIMIT_S)
    return [
        _root(root, found),
        *_locks(root),
        check_places(store),
        _check_sessions(found),
        *([_check_remains(found)] if found.remains else []),
        *([check_worktrees(found)] if found.worktrees else []),
        *check_index(root),
        *check_leftovers(root),
    ]


def check_index(root: Path) -> list[Check]:
    """Check the search index, if there is one."""
    if not has_index(root):
        return []
    found = look_at(root)
    why = found.why if found else "it was deleted, because it could not be believed"
    if why is None:
        return []
    detail = f"searches read everything: the search index is not used, as {why}"
    return [Check("state", "search index", "warn", detail, "csa index build, or csa index delete")]


def _root(root: Path, found: Survey) -> Check:
    try:
        free = shutil.disk_usage(root).free
    except OSError as error:
        return _blocked(root, f"its file system does not answer ({error.strerror})")
    size = f"{'' if found.is_size_whole else 'more than '}{size_words(found.size_bytes)}"
    detail = f"{root}: writable, {size}, {size_words(free)} free"
    if free < _LITTLE_SPACE_BYTES:
        step = "free space on this disk, or set CSA_STATE_DIR to a directory on another"
        return Check("state", "state root", "warn", detail, step)
    return Check("state", "state root", "ok", detail)


def _blocked(root: Path, problem: str, step: str | None = None) -> Check:
    step = f"{step or 'fix its owner, mode or disk'}, or set CSA_STATE_DIR to a writable directory"
    return Check("state", "state root", "fail", f"{root} cannot be used: {problem}", step, EXIT_STATE)


def _cannot_write(path: Path) -> tuple[str, str | None] | None:
    """Say why nothing can be created at `path`, with the next step if there is one; None if it can be created."""
    place = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not os.path.isdir(place):
        return f"{place} is not a directory", None
    if os.access(place, os.W_OK | os.X_OK):
        return None
    whose, step = explain_denial(place) or (None, None)
    return f"{place} is not writable{f': {whose}' if whose else ''}", step


def _locks(root: Path) -> list[Check]:
    """Take real locks on the root's file system, in a file of our own, and check that others would see them."""
    try:
        handle, name = tempfile.mkstemp(prefix=".doctor-", dir=root)
    except OSError as error:
        return [_blocked(root, f"no file can be created there ({error.strerror})")]
    fault = place_flock(handle)
    os.close(handle)
    try:
        problem = _lock_problem(Path(name))
    except (OSError, StateError) as error:
        problem = error.problem if isinstance(error, StateError) else str(error.strerror)
    finally:
        os.unlink(name)
    step = "set CSA_STATE_DIR to a directory on a local disk"
    if problem is not None:
        return [Check("state", "locks", "fail", f"file locks do not work in {root}: {problem}", step, EXIT_STATE)]
    if fault:
        detail = (
            f"file locks work, but flock(2) does not work there ({os.strerror(fault)}): csa works "
            "without it, but other programs that write the same sessions do not see that one is in use"
        )
        return [Check("state", "locks", "warn", detail, f"{step}, if there are such programs")]
    return [Check("state", "locks", "ok", "file locks work")]


def _lock_problem(path: Path) -> str | None:
    with acquire_lock(path) as lock:
        lock.write(b"x" * 4096)
        if not is_locked(path):
            return "a lock that is held looks free"
    return "a released lock still looks held" if is_locked(path) else None


def _check_sessions(found: Survey) -> Check:
    count = f"{_plural(found.sessions, 'session')} in {_plural(found.projects, 'project')}"
    if found.looked_at < found.sessions:
        count += f" (only the {found.looked_at} newest were checked)"
    faults = [*found.unlisted, *(fault for _, fault in found.damaged)]  # the path names the session
    denied = [fault for fault in faults if isinstance(fault, DeniedError)]
    damaged = len(found.damaged) - sum(isinstance(fault, DeniedError) for _, fault in found.damaged)
    if not faults:
        return Check("state", "sessions", "ok", f"{count}, none damaged" if found.sessions else "none yet")
    words = [f"{damaged} damaged"] if damaged else []
    words += [f"{len(denied)} of another user's"] if denied else []
    words += ["some cannot be listed"] if len(found.unlisted) > sum(each in denied for each in found.unlisted) else []
    more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    steps = [fault.hint for fault in denied[:_SHOWN] if fault.hint]
    if len(denied) < len(faults):
        steps.append("csa validate says what is wrong; csa repair SESSION repairs what it can")
    shown = [fault.message for fault in faults[:_SHOWN]]
    return Check(
        "state",
        "sessions",
        "warn",
        "\n".join([", ".join([count, *words]), *shown, *more]),
        "; ".join(dict.fromkeys(steps)),
    )


def _check_remains(found: Survey) -> Check:
    what = f"{_plural(len(found.remains), 'directory', 'directories')} left by interrupted starts or deletions"
    words = " ".join(shlex.quote(str(path)) for path in found.remains[:_SHOWN])
    return Check("state", "remains", "warn", what, f"rm -r {words}{' ...' if len(found.remains) > _SHOWN else ''}")


def check_worktrees(found: Survey) -> Check:
    """Check that git knows the sessions' worktrees, and that they have sessions. git is not run."""
    problems = [f"{path}: {problem}" for path in found.worktrees if (problem := _worktree_problem(path))]
    size = f"{'' if found.is_size_whole else 'more than '}{size_words(found.worktrees_bytes)}"
    what = f"{_plural(len(found.worktrees), 'worktree')}, {size}"
    if not problems:
        return Check("state", "worktrees", "ok", what)
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    step = "csa repair SESSION for one that git does not know; csa gc for one whose session is gone"
    return Check("state", "worktrees", "warn", "\n".join([what, *problems[:_SHOWN], *more]), step)


def _worktree_problem(path: Path) -> str | None:
    root = path.parents[1]
    names = (*(f"{each}/{path.name}" for each in SESSION_DIRECTORIES), f"{SESSIONS}/{NEW_PREFIX}{path.name}")
    places = [root / name for name in names]
    place = next((each for each in places if each.is_dir()), None)
    if place is None:
        return "its session is gone"
    if path.is_symlink() or not path.is_dir():
        return "something else is in its place"
    try:
        tree = load_state(place / "state.toml").worktree
    except StateError:  # named as a damaged session
        return None
    if tree is None:
        return "the record of its session does not tell of it"
    if tree.git_dir and not os.path.isdir(tree.git_dir):
        return f"git does not know it any more: {tree.git_dir} is missing"
    return None


def check_leftovers(root: Path) -> list[Check]:
    """Find processes that carry a session of `root` in their environment though it is not running. Only reports."""
    found = find_leftovers(root)
    if not found:
        return [Check("state", "leftovers", "ok", "no processes of finished sessions")]
    words = [f"{item.pid} {item.command[:60] or '?'} (session {item.session_dir.name})" for item in found[:_SHOWN]]
    if len(found) > _SHOWN:
        words.append(f"and {len(found) - _SHOWN} more")
    many = _plural(len(found), "process", "processes")
    step = f"check them, then: kill {' '.join(str(item.pid) for item in found)}"
    return [Check("state", "leftovers", "warn", "\n".join([f"{many} of finished sessions", *words]), step)]


def _plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def size_words(number: int) -> str:
    """Render a number of bytes for a sentence: `12 kB`, `3.4 MB`."""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004  # the next unit
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"  # noqa: PLR2004
        size /= 1000
    return f"{size:.1f} TB"
