"""csa without an account: a tree of agents, a plan, or a shell, over the fake tools of csa_fakes.

All of it happens in a place with a home, a project and a state root of its own, which is deleted in the end. What the
commands are told of the caller is its PATH, behind the fakes, and what terminals and languages need.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import csa_fakes

from csa.cli.ourselves import own_command
from csa.cli.output import Style
from csa.errors import RefusedError, ToolUnavailableError, UsageError
from csa.process.wakeup import heeded
from csa.store.locks import acquire_lock

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LOOK_AGAIN_S = 1.0  # a child's end wakes us; where somebody ignores SIGCHLD this finds it
_HANDED_ON = frozenset((
    *("USER", "LOGNAME", "SHELL", "TERM", "TERM_PROGRAM", "COLORTERM", "COLUMNS", "LINES"),
    *("LANG", "LANGUAGE", "TZ", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PAGER", "EDITOR", "VISUAL"),
    *("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),  # what this Python may need
))  # fmt: skip
_FAKES = Path(csa_fakes.__file__).parent
_PREFIX = "csa-demo-"
_LOCK = "lock"  # held as long as the demo lives
_PROJECT = "project"
_SERVER = "api/server.py"
_LOGIN = '{"OPENAI_API_KEY": "none is needed"}\n'
_GREETING = """A git project with fake agents; no account or API key needed. Sessions are {kept}.
Try:    csa run --name api "Add rate limiting to the API"    (the start of docs/tutorial.md)
Leave:  exit"""
_BASHRC = """PS1='playground$ '
eval "$(csa completion bash)"
"""
_NEXT = """
The agents were fakes; every csa was the real one. Next:
  {other}
  csa demo shell   a shell with these agents, for docs/tutorial.md
  csa doctor       which real tools are installed and logged in"""
_PLAN_IS_NEXT = "csa demo plan    agents on one repository, merged and landed"
_TREE_IS_NEXT = "csa demo         agents that start agents"
_PLAN_STORY = (
    "cat plan.toml",
    "csa plan run plan.toml",
    "csa plan status",
    "csa land plan-plan",
    "git log --oneline --stat",
    "csa stats --landed",
)


def configure_tree(_: argparse.ArgumentParser) -> None:
    pass


def execute_tree(_: argparse.Namespace) -> int:
    """Show a tree of agents that start each other, without an account: the agents are bundled fakes.

    Everything else is real: the commands, their processes and sessions. It takes ten seconds, in a temporary directory
    with a home, a project and sessions of its own, which is deleted afterwards; yours are not touched.
    """
    with _signals_held(), _temporary_home() as home:
        env = _prepare(home)
        try:
            _tell_tree(env)
        except _StoppedError as stopped:
            _end_all(env)
            return stopped.code
    return 0


def _tell_tree(env: Mapping[str, str]) -> None:
    _show("csa", "run", "--tool", "codex", "--name", "limits", "Add rate limiting to the API", env=env)
    _show("csa", "ls", "--tree", env=env)
    listing = subprocess.run(["csa", "ls", "--json"], env=env, stdout=subprocess.PIPE, check=False)
    if listing.returncode:
        raise _StoppedError(listing.returncode)
    below = (each for each in json.loads(listing.stdout) if each["depth"] == 1 and "claude-code" in each["tools"])
    _show("csa", "result", next(below)["prefix"], env=env)
    print(_NEXT.format(other=_PLAN_IS_NEXT), flush=True)


def configure_plan(_: argparse.ArgumentParser) -> None:
    pass


def execute_plan(_: argparse.Namespace) -> int:
    """Show a plan, without an account: four fake agents on one git repository, a conflict, and its repair.

    Each has a worktree of its own; their work is merged and landed by the real csa. It takes half a minute, in a
    temporary directory with a home, a repository and sessions of its own, which is deleted afterwards; yours are not
    touched.
    """
    _need_git()
    with _signals_held(), _temporary_home() as home:
        env = _prepare(home)
        try:
            for line in _PLAN_STORY:
                _show(*shlex.split(line), env=env)
            print(_NEXT.format(other=_TREE_IS_NEXT), flush=True)
        except _StoppedError as stopped:
            _end_all(env)
            return stopped.code
    return 0


def configure_shell(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", metavar="DIR", help="keep project and sessions there for the next time")
    parser.add_argument("-c", dest="command", metavar="COMMAND", help="run this in the shell, instead of what you type")


def execute_shell(arguments: argparse.Namespace) -> int:
    """Open a shell in a small git project, where the tools are bundled fakes: no account is needed.

    The tutorial (docs/tutorial.md) begins here. Without DIR, when you leave the shell, everything that runs in it is
    ended and deleted.
    """
    _need_git()
    if arguments.directory is not None:
        home = _kept_home(arguments.directory)
        with _signals_held():
            return _open_shell(_prepare(home), arguments.command, kept=f"kept in {arguments.directory}")
    with _signals_held(), _temporary_home() as home:
        env = _prepare(home)
        try:
            return _open_shell(env, arguments.command, kept="deleted when you leave")
        finally:
            _end_all(env)


def _open_shell(env: Mapping[str, str], command: str | None, *, kept: str) -> int:
    Path(env["HOME"], ".bashrc").write_text(_BASHRC)
    if command is None and sys.stdin.isatty():
        print(_GREETING.format(kept=kept), flush=True)
    return _run(["bash", *([] if command is None else ["-c", command])], env, hands_on_stdin=True)


# The place


def _need_git() -> None:
    from csa.store.gitplumbing import find_git  # noqa: PLC0415  # `csa completion`, in each new shell, loads every command

    find_git(os.environ)


@contextmanager
def _temporary_home() -> Iterator[str]:
    _sweep()
    home = os.path.realpath(tempfile.mkdtemp(prefix=_PREFIX))
    lock = acquire_lock(Path(home, _LOCK))
    try:
        yield home
    finally:
        os.chdir("/")
        shutil.rmtree(home)
        lock.close()


def _sweep() -> None:
    """End and delete what demos have left that were killed: nobody holds their locks."""
    for home in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = home.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or not (home / _LOCK).is_file():
                continue
            with acquire_lock(home / _LOCK):
                _end_all(_environment(str(home)))
                shutil.rmtree(home)


def _kept_home(directory: str) -> str:
    """Make the directory of a playground, or find it; UsageError for one with anything else in it."""
    home = os.path.realpath(directory)
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)
        is_other = bool(os.listdir(home)) and not _is_playground(home)
    except (FileExistsError, NotADirectoryError):
        is_other = True
    if is_other:
        raise UsageError(f"{directory} is no playground of csa.", hint="name a new or an empty directory")
    return home


def _is_playground(home: str) -> bool:
    """Say whether a directory was made by us: in another's home, files would be replaced."""
    try:
        return Path(home, ".codex/auth.json").read_text() == _LOGIN
    except (OSError, ValueError):
        return False


def _prepare(home: str) -> dict[str, str]:
    """Make the place, if it is new, and go there; return the environment for what runs in it.

    Raises RefusedError in a session: csa finds it through the processes above, and the demo would be a part of it.
    """
    from csa.runner.ancestry import with_identity  # noqa: PLC0415  # as above

    if with_identity(os.environ).get("CSA_SESSION_ID"):
        raise RefusedError("The demo cannot run inside of a session.", hint="run it in a shell of your own")
    env = _environment(home)
    _write_programs(Path(env["PATH"].partition(os.pathsep)[0]))
    os.makedirs(env["TMPDIR"], mode=0o700, exist_ok=True)
    shutil.copy(_FAKES / "demo" / "script.json", env["FAKE_TOOL_SCRIPT"])
    project = os.path.join(home, _PROJECT)
    if not os.path.exists(os.path.join(project, _SERVER)):
        _make_project(Path(project), env)
    os.chdir(project)
    env["PWD"] = project
    return env


def _environment(home: str) -> dict[str, str]:
    """Return an environment in which this is the home, the fakes come first, and nothing of the user's settings is."""
    kept = {name: value for name, value in os.environ.items() if name in _HANDED_ON or name.startswith("LC_")}
    colour = {"always": {"FORCE_COLOR": "1"}, "never": {"NO_COLOR": "1", "FORCE_COLOR": "", "CLICOLOR_FORCE": ""}}
    return {
        **kept,
        **colour.get(Style.when, {}),
        "HOME": home,
        "CSA_STATE_DIR": os.path.join(home, "state"),
        "TMPDIR": os.path.join(home, "tmp"),
        "FAKE_TOOL_SCRIPT": os.path.join(home, "script.json"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PATH": os.pathsep.join([os.path.join(home, "bin"), os.environ.get("PATH", os.defpath)]),
    }


def _write_programs(directory: Path) -> None:
    """Write what starts this csa, and each of the fakes with the Python that runs csa."""
    directory.mkdir(mode=0o700, exist_ok=True)
    own = own_command()
    commands = {"csa": [own] if os.path.isabs(own) else [sys.executable, "-m", "csa.cli.main"]}
    for fake in (_FAKES / "bin").iterdir():
        commands[fake.name] = [sys.executable, "-I", "-S", str(fake)]
    for name, words in commands.items():
        program = directory / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o700)


def _make_project(project: Path, env: Mapping[str, str]) -> None:
    """Make a project with a commit, or without git where there is none."""
    codex = Path(env["HOME"], ".codex")
    codex.mkdir(mode=0o700, parents=True, exist_ok=True)
    (codex / "auth.json").write_text(_LOGIN)  # csa prefers tools that are logged in
    (project / _SERVER).parent.mkdir(parents=True, exist_ok=True)
    for file in (_FAKES / "demo").glob("*.toml"):
        shutil.copy(file, project)
    has_git = shutil.which("git") is not None
    if has_git:
        _git("init", "-q", "-b", "main", ".", at=project, env=env)
        _git("config", "user.name", "demo", at=project, env=env)
        _git("config", "user.email", "demo@example.com", at=project, env=env)
    else:
        (project / ".csa").mkdir(exist_ok=True)
    (project / _SERVER).write_text("def handle(request):\n    return 200\n")
    if has_git:
        _git("add", "-A", at=project, env=env)
        _git("commit", "-q", "-m", "Start", at=project, env=env)


def _git(*words: str, at: Path, env: Mapping[str, str]) -> None:
    if subprocess.run(["git", *words], cwd=at, env=env, stdin=subprocess.DEVNULL, check=False).returncode:
        raise ToolUnavailableError(f"'git {words[0]}' has failed.", hint="a newer git, if it is one before 2.31")


# What runs there


class _StoppedError(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


def _show(*words: str, env: Mapping[str, str]) -> None:
    """Print a command as it is typed, and run it; raises _StoppedError unless it succeeds."""
    shown = " ".join(f'"{word}"' if " " in word else word for word in words)
    print(f"\n{Style(sys.stdout)(f'$ {shown}', 'bold')}", flush=True)
    code = _run(list(words), {**env, "GIT_PAGER": "cat", "PAGER": "cat"}, hands_on_stdin=sys.stdin.isatty())
    if code:
        raise _StoppedError(code)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait until the place is deleted; _run takes those that end what runs."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*heeded(_ENDING), signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(words: list[str], env: Mapping[str, str], *, hands_on_stdin: bool) -> int:
    """Run a command to its end; return its exit code, or one that says which signal came meanwhile."""
    program = shutil.which(words[0], path=env["PATH"])
    if program is None:
        raise UsageError(f"There is no '{words[0]}' on the PATH.")
    child = os.posix_spawn(
        program,
        words,
        env,
        file_actions=() if hands_on_stdin else ((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),),
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )
    came = 0
    while True:
        found = signal.sigtimedwait({*heeded(_ENDING), signal.SIGCHLD}, _LOOK_AGAIN_S)
        if found and found.si_signo != signal.SIGCHLD:
            came = found.si_signo
            if found.si_code <= 0:  # sent to us by a process; what a terminal sends, the command gets as well
                os.kill(child, came)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code or (128 + came if came else 0)


def _end_all(env: Mapping[str, str]) -> None:
    """End what still runs there; it says nothing, as a rule for want of anything to end."""
    for words in (("csa", "kill", "--all", "--yes"), ("csa", "serve", "stop")):
        subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
