"""Variables that are about the caller's own work only, and that an agent working elsewhere must not get.

A git hook's variables name the repository, index and author of the commit that is being made: an agent with another
work tree, or one that continues after the hook, would commit into that. make's job server variables name
descriptors that no tool inherits, and that may be anything there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from csa.store.project import git_top

# `git rev-parse --local-env-vars` of git 2.39 and 2.51; and what a push is kept in until it is taken.
_REPOSITORY = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_CONFIG",
        "GIT_CONFIG_COUNT",
        "GIT_CONFIG_PARAMETERS",
        "GIT_DIR",
        "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NO_REPLACE_OBJECTS",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_QUARANTINE_PATH",
        "GIT_REF_STORAGE_FORMAT",
        "GIT_REFERENCE_BACKEND",
        "GIT_REPLACE_REF_BASE",
        "GIT_SHALLOW_FILE",
        "GIT_WORK_TREE",
    }
)
_REPOSITORY_PREFIXES = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_", "HG_")
# Inside a hook they describe the commit being made; elsewhere they are the user's own choice.
_COMMIT = frozenset(
    {
        "GIT_AUTHOR_DATE",
        "GIT_AUTHOR_EMAIL",
        "GIT_AUTHOR_NAME",
        "GIT_COMMITTER_DATE",
        "GIT_EDITOR",
        "GIT_EXEC_PATH",
        "GIT_REFLOG_ACTION",
        "GIT_SEQUENCE_EDITOR",
    }
)
_MAKE = frozenset({"CARGO_MAKEFLAGS", "MAKELEVEL", "MAKE_TERMERR", "MAKE_TERMOUT", "MFLAGS"})
_SERVICE = frozenset({"LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})


def without_descriptors(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without variables that name the caller's descriptors: a job server, a service's sockets.

    MAKEFLAGS that a user has set stay: make's own come with MAKELEVEL.
    """
    dropped = _MAKE | _SERVICE
    if "MAKELEVEL" in environ or "--jobserver" in environ.get("MAKEFLAGS", ""):
        dropped |= {"MAKEFLAGS"}
    return {name: value for name, value in environ.items() if name not in dropped}


def without_repository(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without variables that name a repository and the commit being made in it."""
    of_repository = {name for name in environ if name in _REPOSITORY or name.startswith(_REPOSITORY_PREFIXES)}
    dropped = of_repository | (_COMMIT if of_repository else set())
    return {name: value for name, value in environ.items() if name not in dropped}


def is_same_work_tree(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Say whether two directories are in one work tree of git; outside of any, whether they are the same."""
    return _work_tree(one) == _work_tree(other)


def _work_tree(directory: str | os.PathLike[str]) -> str:
    start = os.path.realpath(directory)
    return git_top(start) or start
