"""git as csa runs it: in csa's own repositories, for reading a project, and for working in one.

Hooks, the pager and the caller's variables have no effect. csa's own repositories have an identity and a configuration
of their own; in a project the user's configuration applies, as their filters and attributes decide what files contain.
Objects are only added; a ref moves only from the value that was read (compare-and-swap).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from csa.errors import CsaError, ToolUnavailableError
from csa.ownership import give_to_owner, maker_of
from csa.store.atomic import make_private_directory
from csa.store.inherited import without_repository
from csa.structs import Struct, replace

LIMIT_S = 20.0
WORK_LIMIT_S = 600.0  # for what writes a whole work tree
_SAID_BYTES = 1 << 16  # of what a command says on stderr
ABSENT = ""  # the old value of a ref that must not exist, whatever the length of names
_IDENTITY = {
    "GIT_AUTHOR_NAME": "csa",
    "GIT_AUTHOR_EMAIL": "csa@localhost",
    "GIT_COMMITTER_NAME": "csa",
    "GIT_COMMITTER_EMAIL": "csa@localhost",
}
_SETTINGS = ("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "core.quotePath=false")
# Neither signatures, which may ask for a passphrase, nor processes that stay.
_QUIET = (
    *("log.showSignature=false", "commit.gpgSign=false"),
    *("core.fsmonitor=false", "maintenance.auto=false", "submodule.recurse=false"),
    *("core.safecrlf=false", "i18n.commitEncoding=utf-8"),  # what csa commits is kept as it is, and its words are UTF-8
)


class GitError(CsaError):
    """git refused; `said` is its own message, `output` what it had written to stdout."""

    code = "git"

    def __init__(self, words: Iterable[str], said: str, output: bytes = b"") -> None:
        super().__init__(f"git {' '.join(words)} failed: {said or 'no reason given'}.")
        self.said = said
        self.output = output


class Git(Struct):
    """git in one repository: `place` is a bare one, or a directory in a work tree."""

    program: str
    environ: Mapping[str, str]
    place: tuple[str, ...]
    user: tuple[int, int] | None = None  # the user it runs as, who owns what it writes
    umask: int = 0o077  # -1: the caller's
    limit_s: float = LIMIT_S
    settings: tuple[str, ...] = _SETTINGS
    held: tuple[int, ...] = ()  # locks that stay taken until it has ended, although csa is killed
    is_apart: bool = False  # Ctrl-C is for csa, which ends when git has; so it is with `held`

    def run(self, *words: str, stdin: bytes = b"", when: int | None = None) -> bytes:
        """Run a command and return its stdout; GitError if it fails. `when` is the time of a commit."""
        stamp = {} if when is None else {"GIT_AUTHOR_DATE": f"@{when} +0000", "GIT_COMMITTER_DATE": f"@{when} +0000"}
        try:
            done: subprocess.CompletedProcess[bytes] = subprocess.run(
                [self.program, *self.settings, *self.place, *words],
                env={**self.environ, **stamp},
                cwd="/",
                input=stdin,
                capture_output=True,
                timeout=self.limit_s,
                check=False,
                umask=self.umask,
                pass_fds=self.held,
                start_new_session=self.is_apart or bool(self.held),
                **self._as_user(),
            )
        except subprocess.TimeoutExpired as error:
            raise GitError(words[:1], f"it took longer than {self.limit_s:g} s") from error
        except OSError as error:
            raise GitError(words[:1], f"{error.strerror}") from error
        if done.returncode != 0:
            raise GitError(words[:1], " ".join(done.stderr.decode("utf-8", "replace").split()), done.stdout)
        return done.stdout

    @contextmanager
    def reading(self, *words: str, stdin: bytes = b"") -> Iterator[IO[bytes]]:
        """Yield the stdout of a command as it comes; GitError at the end if it fails. It has no time limit."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
            given.write(stdin)
            given.seek(0)
            with self._started(words, errors, stdin=given, stdout=subprocess.PIPE) as process:
                assert process.stdout
                yield process.stdout
                process.stdout.close()

    def feed(self, *words: str, content: Iterable[bytes]) -> None:
        """Run a command that reads what `content` yields; GitError if it fails. It has no time limit."""
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with tempfile.TemporaryFile() as errors, self._started(words, errors, **streams) as process:
            assert process.stdin
            with suppress(BrokenPipeError), process.stdin as stdin:  # it has ended, and says why
                for block in content:
                    stdin.write(block)

    @contextmanager
    def _started(self, words: tuple[str, ...], errors: IO[bytes], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command, and wait for its end; killed if the body fails."""
        argv = [self.program, *self.settings, *self.place, *words]
        apart = self.is_apart or bool(self.held)
        try:
            process = subprocess.Popen(
                argv,
                env=self.environ,
                cwd="/",
                stderr=errors,
                umask=self.umask,
                pass_fds=self.held,
                start_new_session=apart,
                **self._as_user(),
                **streams,
            )
        except OSError as error:
            raise GitError(words[:1], f"{error.strerror}") from error
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        finally:
            for stream in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):
                    stream.close()
            process.wait()
        if process.returncode != 0:
            errors.seek(0)
            raise GitError(words[:1], " ".join(errors.read(_SAID_BYTES).decode("utf-8", "replace").split()))

    def _as_user(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user[0], "group": self.user[1], "extra_groups": []}

    def line(self, *words: str, stdin: bytes = b"", when: int | None = None) -> str:
        """Run a command whose answer is one line."""
        return self.run(*words, stdin=stdin, when=when).decode("utf-8", "replace").strip()

    def path(self, *words: str) -> str:
        """Run a command whose answer is a path, which may be of any bytes."""
        return os.fsdecode(self.run(*words).removesuffix(b"\n"))

    def read_note(self, ref: str) -> bytes | None:
        """Return the content of a blob that a ref leads to; None if there is none."""
        try:
            return self.run("cat-file", "blob", ref)
        except GitError:
            return None

    def write_note(self, ref: str, content: bytes, *before: str) -> None:
        """Have a ref lead to a blob with that content; `before` is what it must have led to, ABSENT for nothing."""
        self.run("update-ref", ref, self.line("hash-object", "-w", "--stdin", stdin=content), *before)


def open_bare(path: Path, environ: Mapping[str, str]) -> Git:
    """Return git in csa's own repository at `path`, which may not exist yet."""
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_DIR": str(path)}
    return Git(find_git(environ), {**_clean(environ), **_IDENTITY, **alone}, (), maker_of(path.parent))


def open_work_tree(directory: str, environ: Mapping[str, str]) -> Git:
    """Return git for reading a project: it takes no locks, and shows no signatures, which would run programs."""
    reading = ("-C", directory, "--no-optional-locks", "--no-pager", "-c", "log.showSignature=false")
    return Git(find_git(environ), _clean(environ), reading)


def open_project(directory: str, environ: Mapping[str, str], *, commits: bool = True) -> Git:
    """Return git for working in a project as its owner, whose configuration applies.

    No hook runs, nothing is signed, and no editor or prompt is opened. Without an identity, csa's own is used, which
    takes two processes more: `commits` says that it is needed.
    """
    working = ("-C", directory, "--no-pager", *(word for setting in _QUIET for word in ("-c", setting)))
    plain = without_repository(environ)
    quiet = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true", "GIT_SEQUENCE_EDITOR": "true"}
    user = maker_of(directory)
    known = {**plain, **quiet, **(_home_of(user[0]) if user else {})}
    git = Git(find_git(environ), known, working, user, umask=-1, limit_s=WORK_LIMIT_S)
    return replace(git, environ={**git.environ, **_missing_identity(git)}) if commits else git


def version_of(git: Git) -> tuple[int, ...]:
    """Return git's version, as (2, 39); (0, 0) if it does not say."""
    found = re.search(r"(\d+)\.(\d+)", git.line("version"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _home_of(uid: int) -> dict[str, str]:
    import pwd  # noqa: PLC0415  # only root works for others

    try:
        return {"HOME": pwd.getpwuid(uid).pw_dir}
    except KeyError:  # a container's made-up user
        return {"HOME": "/nonexistent"}


def _missing_identity(git: Git) -> dict[str, str]:
    """Return csa's identity for whoever has configured none, which git would refuse to commit without."""
    try:
        git.run("var", "GIT_AUTHOR_IDENT")
        git.run("var", "GIT_COMMITTER_IDENT")
    except GitError:
        return _IDENTITY
    return {}


def without_filters(git: Git) -> dict[str, str]:
    """Return variables that keep git from running the programs of `filter.NAME`: looking must start nothing."""
    try:
        said = git.run("config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process|required)$")
    except GitError:  # there are none
        return {}
    found = said.decode("utf-8", "surrogateescape").split("\0")[:-1]
    pairs = ((name, "false" if name.endswith(".required") else "") for name in found)
    variables = {"GIT_CONFIG_COUNT": str(len(found))}
    for number, (name, value) in enumerate(pairs):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return variables


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
