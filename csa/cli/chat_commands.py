"""The commands of a chat: `/info` and the like. Most run the command of csa with that work on the chat's session."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from csa.cli.candidates import candidates
from csa.cli.output import Style, fold, print_problem, printable, tell, terminal_size
from csa.cli.views.conversation_formats import FORMATS
from csa.cli.views.lineedit import Candidate
from csa.errors import CsaError, UsageError
from csa.model.permission import Permission
from csa.nearest import did_you_mean
from csa.store.inherited import without_repository
from csa.structs import Struct

_LEAST = 10  # columns of what a command does
_MOST_FILES = 200


class Talk(Protocol):
    """What the commands work on."""

    def csa(self, *words: str) -> None:
        """Run a command of csa, of the words given, with the session."""

    def ask(self, **changes: Any) -> None:
        """Change what the next turn is to be like, if it can be."""

    def begin(self, *, name: str | None, fork: bool) -> None:
        """Have the next turn begin a new session, with the conversation so far or without."""

    def use(self, selector: str) -> None:
        """Go on in another session."""

    def save(self, label: str | None) -> None:
        """Save a checkpoint."""

    def queue(self, what: str | None) -> None:
        """Show what waits to be sent; `clear` forgets it, `resume` sends it."""

    def merge(self, selectors: Sequence[str]) -> None:
        """Go on in a new session with the conversations of this one and others."""

    def allow(self, prompt: str) -> None:
        """Allow what the agent asks for; or run one turn with full permission."""

    def deny(self) -> None:
        """Deny what the agent asks for."""

    def cancel(self) -> None:
        """End the running turn."""

    def leave(self) -> None:
        """End the chat."""

    @property
    def directory(self) -> Path:
        """Where the agent works."""

    @property
    def called(self) -> str:
        """The session's id."""

    @property
    def name(self) -> str:
        """The session's name, or its id."""


class Slash(Struct):
    """A command: what it takes, what it does, what completes its words; `at_once`: also while a turn is running."""

    takes: str
    about: str
    act: Callable[[Talk, list[str]], None]
    completes: str = ""
    at_once: bool = False


def parse(text: str) -> tuple[str, list[str]] | None:
    """Return the command and its words; None for a prompt. A path is no command, and `//` stands for one slash."""
    if not text.startswith("/") or text.startswith("//"):
        return None
    name, _, rest = text[1:].partition(" ")
    if "/" in name or "\n" in text:
        return None
    try:
        return name, shlex.split(rest)
    except ValueError as error:
        raise UsageError(f"/{name}: {error}.") from error


def find(name: str) -> Slash:
    """Return a command; UsageError with a suggestion when there is none."""
    if found := COMMANDS.get(name):
        return found
    raise UsageError(
        f"There is no command /{name}.",
        hint=did_you_mean(f"/{name}", (f"/{each}" for each in COMMANDS)) or "/help lists them; // sends a slash",
    )


def run(talk: Talk, name: str, words: list[str]) -> None:
    """Do what a command says; what fails is told."""
    try:
        command = find(name)
        if words and not command.takes:
            raise UsageError(f"/{name} takes no words.", hint=f"//{name} begins a prompt with /{name}")
        command.act(talk, words)
    except CsaError as error:
        print_problem(error.message, hint=error.hint)
    except OSError as error:
        print_problem(f"{error.filename or f'/{name}'}: {error.strerror or error}.")


def complete(text: str) -> Iterator[Candidate]:
    """Yield completions for what stands before the cursor."""
    word = text.rpartition(" ")[2].rpartition("\n")[2]
    if text.startswith("/") and " " not in text:
        for name, command in COMMANDS.items():
            if name.startswith(text[1:]):
                yield Candidate(f"/{name}", len(text), command.about)
    elif word.startswith("@"):
        yield from (Candidate(f"@{path}", len(word)) for path in _files(word[1:]))
    elif text.startswith("/") and (command_of := COMMANDS.get(text[1:].partition(" ")[0])):
        yield from _complete_word(command_of.completes, word)


def _complete_word(kind: str, word: str) -> Iterable[Candidate]:
    if kind == "files":
        return (Candidate(path, len(word)) for path in _files(word))
    if kind == "permissions":
        levels = [level.value for level in Permission if level.value.startswith(word)]
        return (Candidate(level, len(word)) for level in levels)
    return (Candidate(text, len(word), about) for text, about in candidates(kind, word))


def _files(typed: str) -> Iterator[str]:
    """Yield the paths that begin so; directories with a slash at their end."""
    directory, _, begun = typed.rpartition("/")
    where = f"{directory}/" if "/" in typed else ""
    try:
        entries = sorted(os.scandir(os.path.expanduser(where) or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries[:_MOST_FILES]:
        if entry.name.startswith(begun) and (begun or not entry.name.startswith(".")) and entry.name.isprintable():
            yield f"{where}{entry.name}{'/' * entry.is_dir()}"


def _one(words: Sequence[str], what: str) -> str:
    if len(words) != 1:
        raise UsageError(f"Give one {what}.")
    return words[0]


def _at_most_one(words: Sequence[str], what: str) -> str | None:
    return _one(words, what) if words else None


def _tool(talk: Talk, words: list[str]) -> None:
    if words:
        talk.ask(tool=_one(words, "tool"), model=None, effort=None)
    else:
        talk.ask()
        print(" ".join(name for name, _ in candidates("tools", "")))


def _model(talk: Talk, words: list[str]) -> None:
    talk.ask(**({"model": _one(words, "model; default forgets it")} if words else {}))


def _permission(talk: Talk, words: list[str]) -> None:
    level = _at_most_one(words, "level")
    if level is not None and level not in {each.value for each in Permission}:
        raise UsageError(f"There is no permission '{level}'.", hint=", ".join(each.value for each in Permission))
    talk.ask(**({"permission": Permission(level)} if level else {}))


def _prune(talk: Talk, words: list[str]) -> None:
    is_number = len(words) == 1 and words[0].isdecimal()
    talk.csa("prune", "--session", talk.called, *(["--keep-last"] if is_number else []), *words)


def _queue(talk: Talk, words: list[str]) -> None:
    if words and words not in (["clear"], ["resume"]):
        raise UsageError("/queue takes clear, or resume, or nothing.")
    talk.queue(words[0] if words else None)


def _export(talk: Talk, words: list[str]) -> None:
    path = _at_most_one(words, "file") or f"{talk.name}.md"
    if not words and os.path.lexists(path):  # nobody has said that it may go
        raise UsageError(f"{path} exists.", hint=f"/export {path} replaces it")
    suffix = Path(path).suffix[1:]
    kind = suffix if suffix in FORMATS else "archive"
    talk.csa("export", "--session", talk.called, "--format", kind, "--output", os.path.expanduser(path))
    tell("csa", f"written to {path}", by_name=False)


def _diff(talk: Talk, words: list[str]) -> None:
    """Show what the work tree has that the last commit has not; paths limit it."""
    git = ["git", "--no-pager", "-c", "core.quotePath=off", "-c", "core.fsmonitor=off"]
    told = _output_of([*git, "status", "--short", "--", *words], talk.directory)
    if not told.strip():
        tell("csa", "nothing has changed since the last commit")
        return
    from csa.cli.diff import painted  # noqa: PLC0415  # only this needs it

    print(printable(told).rstrip())
    plain = [*git, "diff", "--no-color", "--no-ext-diff", "--no-textconv"]
    try:
        text = _output_of([*plain, "HEAD", "--", *words], talk.directory)
    except CsaError:  # there is no commit yet
        text = _output_of([*plain, "--", *words], talk.directory)
    print(painted(text, Style(sys.stdout)))


def _output_of(command: Sequence[str], directory: Path) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env=without_repository(os.environ),
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise CsaError(f"git: {printable(done.stderr.decode(errors='replace')).strip()}")
    return done.stdout.decode(errors="replace")


def _help(_talk: Talk, _words: list[str]) -> None:
    style, columns = Style(sys.stdout), terminal_size(sys.stdout)[0]
    heads = {name: f"/{name} {command.takes}" for name, command in COMMANDS.items()}
    width = max(map(len, heads.values())) + 2
    for name, command in COMMANDS.items():
        head = heads[name]
        for line in fold(command.about, max(_LEAST, columns - width)):
            print(f"{head:<{width}}{style(line, 'dim')}")
            head = ""
    print("\n" + "\n".join(fold(_KEYS, columns)))


_KEYS = (
    "Enter sends; Esc Enter, or a backslash at the end of a line, begins a new one. Up, Down and Ctrl-R find earlier "
    "prompts, Tab completes commands, @files and sessions. While a turn is running, what you enter is sent when it has "
    "ended. Ctrl-C ends the turn; twice at an empty prompt it ends the chat, as Ctrl-D does. // at the beginning sends "
    "one slash."
)

COMMANDS: dict[str, Slash] = {
    "tool": Slash("[TOOL]", "use another tool from the next turn on, or list them", _tool, "tools", at_once=True),
    "model": Slash("[MODEL]", "ask for another model, or show which", _model, at_once=True),
    "permission": Slash(
        "[LEVEL]", "change what the agent may do, or show it", _permission, "permissions", at_once=True
    ),
    "allow": Slash(
        "[PROMPT]",
        "allow what the agent asks for; or all, for the next turn alone",
        lambda talk, words: talk.allow(" ".join(words)),
        at_once=True,
    ),
    "deny": Slash("", "deny what the agent asks for", lambda talk, _: talk.deny(), at_once=True),
    "context": Slash(
        "",
        "show what the next turn sends of earlier ones",
        lambda talk, _: talk.csa("context", "--session", talk.called),
        at_once=True,
    ),
    "clear": Slash(
        "", "send nothing of earlier turns from now on", lambda talk, _: talk.csa("clear", "--session", talk.called)
    ),
    "prune": Slash("N", "send only the N newest turns from now on", _prune),
    "compress": Slash(
        "",
        "have the tool compact its conversation",
        lambda talk, _: talk.csa("compress", "--session", talk.called),
    ),
    "fork": Slash(
        "[NAME]",
        "go on in a new session with a copy of the conversation",
        lambda talk, words: talk.begin(name=_at_most_one(words, "name"), fork=True),
    ),
    "merge": Slash(
        "SESSION ...",
        "go on in a new session with both conversations",
        lambda talk, words: talk.merge(words),
        "sessions",
    ),
    "new": Slash(
        "[NAME]",
        "begin a new session",
        lambda talk, words: talk.begin(name=_at_most_one(words, "name"), fork=False),
    ),
    "use": Slash(
        "SESSION", "go on in another session", lambda talk, words: talk.use(_one(words, "session")), "sessions"
    ),
    "info": Slash(
        "",
        "show everything known about the session",
        lambda talk, _: talk.csa("status", "--session", talk.called),
        at_once=True,
    ),
    "diff": Slash("[PATH ...]", "show what has changed since the last commit", _diff, "files", at_once=True),
    "land": Slash(
        "",
        "bring the work of the session's worktree into your checkout",
        lambda talk, _: talk.csa("land", "--session", talk.called),
    ),
    "save": Slash("[LABEL]", "save a checkpoint", lambda talk, words: talk.save(" ".join(words) or None), at_once=True),
    "export": Slash("[FILE]", "write the session to a file: .md, .html, .json, or an archive", _export, "files"),
    "queue": Slash(
        "[clear|resume]",
        "show what waits to be sent, forget it, or send it",
        _queue,
        at_once=True,
    ),
    "cancel": Slash("", "end the running turn, as Ctrl-C does", lambda talk, _: talk.cancel(), at_once=True),
    "help": Slash("", "show this", _help, at_once=True),
    "exit": Slash("", "leave the chat, as Ctrl-D does", lambda talk, _: talk.leave()),
}
