"""git as csa runs it: by plumbing commands, with an identity and a configuration of its own.

The caller's variables, config files, hooks, templates and pager have no effect. Objects are only added; a ref moves
only from the value that was read (compare-and-swap).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.errors import CsaError, ToolUnavailableError
from csa.ownership import give_to_owner, maker_of
from csa.store.atomic import make_private_directory
from csa.structs import Struct

LIMIT_S = 20.0
ABSENT = "0" * 40
_SETTINGS = ("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "core.quotePath=false")


class GitError(CsaError):
    """git refused; `said` is its own message."""

    code = "git"

    def __init__(self, words: Iterable[str], said: str) -> None:
        super().__init__(f"git {' '.join(words)} failed: {said or 'no reason given'}.")
        self.said = said


class Git(Struct):
    """git in one repository: `place` is a bare one, or a directory in a work tree."""

    program: str
    environ: Mapping[str, str]
    place: tuple[str, ...]
    user: tuple[int, int] | None = None  # the user it runs as, who owns what it writes

    def run(self, *words: str, stdin: bytes = b"", when: int | None = None) -> bytes:
        """Run a command and return its stdout; GitError if it fails. `when` is the time of a commit."""
        stamp = {} if when is None else {"GIT_AUTHOR_DATE": f"@{when} +0000", "GIT_COMMITTER_DATE": f"@{when} +0000"}
        try:
            done: subprocess.CompletedProcess[bytes] = subprocess.run(
                [self.program, *_SETTINGS, *self.place, *words],
                env={**self.environ, **stamp},
                cwd="/",
                input=stdin,
                capture_output=True,
                timeout=LIMIT_S,
                check=False,
                umask=0o077,
                **self._as_user(),
            )
        except subprocess.TimeoutExpired as error:
            raise GitError(words[:1], f"it took longer than {LIMIT_S:g} s") from error
        except OSError as error:
            raise GitError(words[:1], f"{error.strerror}") from error
        if done.returncode != 0:
            raise GitError(words[:1], " ".join(done.stderr.decode("utf-8", "replace").split()))
        return done.stdout

    def _as_user(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user[0], "group": self.user[1], "extra_groups": []}

    def line(self, *words: str, stdin: bytes = b"", when: int | None = None) -> str:
        """Run a command whose answer is one line."""
        return self.run(*words, stdin=stdin, when=when).decode("utf-8", "replace").strip()


def open_bare(path: Path, environ: Mapping[str, str]) -> Git:
    """Return git in csa's own repository at `path`, which may not exist yet."""
    identity = {
        "GIT_AUTHOR_NAME": "csa",
        "GIT_AUTHOR_EMAIL": "csa@localhost",
        "GIT_COMMITTER_NAME": "csa",
        "GIT_COMMITTER_EMAIL": "csa@localhost",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DIR": str(path),
    }
    return Git(find_git(environ), {**_clean(environ), **identity}, (), maker_of(path.parent))


def open_work_tree(directory: str, environ: Mapping[str, str]) -> Git:
    """Return git for reading a project: it takes no locks, and shows no signatures, which would run programs."""
    reading = ("-C", directory, "--no-optional-locks", "--no-pager", "-c", "log.showSignature=false")
    return Git(find_git(environ), _clean(environ), reading)


def ensure_bare(path: Path, environ: Mapping[str, str]) -> None:
    """Create the repository unless it exists: built aside and renamed, so that nobody sees a partial one."""
    if (path / "HEAD").exists():
        return
    make_private_directory(path.parent)
    aside = Path(tempfile.mkdtemp(prefix=".new-", suffix=".git", dir=path.parent))
    give_to_owner(aside)
    try:
        open_bare(aside, environ).run("init", "--quiet", "--bare", "--template=", str(aside))
        with suppress(OSError):  # another process was faster
            os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def find_git(environ: Mapping[str, str]) -> str:
    """Return git's path; ToolUnavailableError if it is not installed."""
    found = shutil.which("git", path=environ.get("PATH", os.defpath))
    if found is None:
        raise ToolUnavailableError(
            "git is not installed: there is no 'git' on the PATH.", hint="install git; sessions work without it"
        )
    return found


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    return {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
