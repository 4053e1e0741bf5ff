"""The commands there are: one table from which dispatch, help and the reference are made.

A command is a pair of functions in a module of this package, which is imported when the command is used:
`configure(parser)` and `execute(arguments) -> int`, or `configure_NAME` and `execute_NAME` where a module has several.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from csa.cli.output import Style, help_width
from csa.cli.parsing import Parser
from csa.errors import UsageError
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Command(Struct):
    """One leaf of the command line."""

    words: tuple[str, ...]
    home: str  # MODULE, or MODULE.NAME
    summary: str

    def parser(self) -> Parser:
        """Build this command's parser; no other's is built."""
        parser = Parser(prog=" ".join(("csa", *self.words)), description=self._description())
        self.configure(parser)
        return parser

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add this command's arguments to a parser."""
        configure: Callable[[argparse.ArgumentParser], None] = self._function("configure")
        configure(parser)
        common = parser.add_argument_group("everywhere")
        common.add_argument("--cd", metavar="DIR", help="act as if csa had been started in DIR")
        common.add_argument(
            "--color",
            default="auto",
            choices=("auto", "always", "never"),
            metavar="WHEN",
            help="auto (on a terminal), always or never",
        )

    def execute(self, arguments: argparse.Namespace) -> int:
        """Run the command; return its exit code."""
        run: Callable[[argparse.Namespace], int] = self._function("execute")
        return run(arguments)

    def _function(self, verb: str) -> Any:
        module, _, name = self.home.partition(".")
        return getattr(import_module(f"csa.cli.{module}"), f"{verb}_{name}" if name else verb)

    def _description(self) -> str:
        """Return what help says of the command: the docstring of its function, or of a module that has but one."""
        execute = self._function("execute")
        return str(execute.__doc__ or import_module(execute.__module__).__doc__)


GROUPS = {"session": "look at sessions, and keep them in order", "config": "look at the configuration"}
# What one wants to do, and the commands for it, in the order in which help shows them.
PURPOSES: tuple[tuple[str, tuple[Command, ...]], ...] = (
    (
        "run agents",
        (
            Command(("run",), "run", "hand a prompt to a tool, in a new session or an old one"),
            Command(("session", "attach"), "watching.attach", "follow a running turn, or open the tool"),
            Command(("session", "wait"), "watching.wait", "wait until sessions have ended"),
            Command(("session", "kill"), "killing.kill", "end running sessions"),
            Command(("kill",), "killing.kill_all", "end everything that runs, in all projects"),
        ),
    ),
    (
        "see what they do",
        (
            Command(("session", "list"), "session_list", "list the project's sessions, or their tree"),
            Command(("session", "show"), "conversation", "print a session's conversation"),
            Command(("session", "search"), "search", "find words in all conversations"),
            Command(("session", "result"), "results.result", "print the answer of a session's last turn"),
            Command(("session", "info"), "session_info", "show all that is known of a session"),
            Command(("session", "logs"), "outputs.logs", "print what happened in a session"),
            Command(("session", "artifacts"), "outputs.artifacts", "list or copy the files agents have left"),
            Command(("session", "is-alive"), "session_is_alive", "say whether a session is running"),
            Command(("session", "why"), "session_why", "print the evidence of what a session does"),
            Command(("session", "budget"), "session_budget", "show what a session and all below it have used"),
            Command(("top",), "top", "show what runs, in all projects"),
            Command(("ps",), "ps", "print what runs, in all projects, with its processes"),
            Command(("stats",), "stats", "say what sessions have done and used"),
        ),
    ),
    (
        "keep sessions in order",
        (
            Command(("session", "rename"), "editing.rename", "give a session a name, or take it away"),
            Command(("session", "describe"), "editing.describe", "say what a session is about"),
            Command(("session", "pin"), "editing.pin", "keep a session from being collected"),
            Command(("session", "current"), "editing.current", "choose the current session, or print it"),
            Command(("session", "compress"), "compress", "have the tool compact a conversation"),
            Command(("session", "checkpoint"), "records.checkpoint", "put a session's state and digest on record"),
            Command(("session", "checkpoints"), "records.checkpoints", "list, show and verify the checkpoints"),
            Command(("session", "log"), "records.log", "print the git history of a session"),
            Command(("session", "export"), "moving.export", "write sessions to an archive, or for reading"),
            Command(("session", "import"), "moving.import", "take in the sessions of an archive"),
        ),
    ),
    (
        "clean up",
        (
            Command(("session", "delete"), "removing.delete", "remove sessions; they can be restored for a week"),
            Command(("session", "restore"), "removing.restore", "bring a removed session back"),
            Command(("session", "clean"), "collecting.clean", "remove the project's old sessions"),
            Command(("gc",), "collecting.gc", "remove old sessions and leftovers, quietly, for cron"),
            Command(("session", "adopt"), "moving.adopt", "take over the sessions of a project that has moved"),
            Command(("session", "validate"), "records.validate", "say what is wrong with the records of sessions"),
            Command(("session", "repair"), "records.repair", "mend what can safely be mended in a record"),
        ),
    ),
    (
        "set up",
        (
            Command(("doctor",), "doctor", "say whether csa can work here, and what to do if not"),
            Command(("config", "show"), "config.show", "print each setting with its origin"),
            Command(("config", "validate"), "config.validate", "check the config files"),
            Command(("completion",), "completion", "print a script that completes csa's words in a shell"),
        ),
    ),
)
COMMANDS = tuple(command for _, commands in PURPOSES for command in commands)
ALIASES = {
    ("session", "ls"): ("session", "list"),
    ("ls",): ("session", "list"),
    **dict.fromkeys([("session", "cur"), ("cur",), ("session", "switch"), ("switch",)], ("session", "current")),
}
_NAME_WIDTH, _EXAMPLE_WIDTH = 20, 47
_EXAMPLES = (
    ('csa run "add a rate limit to the API"', "with the first usable tool"),
    ('csa run --tool codex --name api "..."', "with this tool; call it api"),
    ('csa run --session api "now write the tests"', "go on, by name or id prefix"),
    ('csa run --last "and the docs"', "go on in the one used last"),
    ('git diff | csa run --stdin "review this"', "with what a pipe holds"),
    ("csa session list --tree", "who started whom"),
)


def dispatch(words: list[str]) -> int:
    """Run the command that the words name, or print the help they ask for; return the exit code."""
    ahead, words = _split_ahead(words)
    command, rest = find_command(words)
    if command is None:
        if not words:
            return print_help(overview())
        if words[0] == "help" and len(words) > 1:
            return dispatch([*words[1:], "--help"])
        if words[0] in {"-h", "--help", "help"}:
            return print_help(overview())
        if words[0] in GROUPS and (len(words) == 1 or words[1] in {"-h", "--help"}):
            return print_help(group_overview(words[0]))
        raise _unknown_command(words)
    arguments = command.parser().parse_args(ahead + rest)
    Style.when = arguments.color
    if arguments.cd is not None:
        _change_directory(arguments.cd)
    return command.execute(arguments)


def _split_ahead(words: list[str]) -> tuple[list[str], list[str]]:
    """Split off the options of every command that stand before the command's name."""
    count = 0
    while count < len(words) and words[count].partition("=")[0] in {"--cd", "--color"}:
        length = 1 if "=" in words[count] else 2
        if count + length > len(words):
            break  # it lacks its value
        count += length
    return words[:count], words[count:]


def _change_directory(directory: str) -> None:
    """Go on as if csa had been started there, and not by a hook of another repository."""
    from csa.runner.inherited import is_same_work_tree, without_repository  # noqa: PLC0415  # few commands go elsewhere

    try:
        before = os.getcwd()
    except FileNotFoundError:
        before = "/"
    sys.argv[0] = os.path.abspath(sys.argv[0]) if "/" in sys.argv[0] else sys.argv[0]
    try:
        os.chdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"--cd: there is no directory {directory}.") from None
    except OSError as error:
        raise UsageError(f"--cd: {directory}: {error.strerror}.") from error
    os.environ["PWD"] = os.getcwd()
    if not is_same_work_tree(before, "."):
        kept = without_repository(os.environ)
        for name in set(os.environ) - set(kept):
            del os.environ[name]


def _unknown_command(words: list[str]) -> UsageError:
    """Say that the words name no command."""
    from difflib import get_close_matches  # noqa: PLC0415  # only a typo pays for it

    known = [" ".join(names) for names in (*(command.words for command in COMMANDS), *ALIASES)]
    typed = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    leaves = [command.words[-1] for command in COMMANDS]
    meant = (
        _of_leaf(typed)
        or get_close_matches(typed, [*known, *GROUPS], n=1)
        or get_close_matches(" ".join(words[:2]), known, n=1)
        or [name for leaf in get_close_matches(typed, leaves, n=1) for name in _of_leaf(leaf)]
    )
    commands = " or ".join(f"'csa {name}'" for name in meant)
    return UsageError(
        f"There is no command 'csa {typed}'.", hint=f"did you mean {commands}?" if meant else "csa --help"
    )


def _of_leaf(name: str) -> list[str]:
    """Return the commands that are called so within their group."""
    return [" ".join(command.words) for command in COMMANDS if command.words[-1] == name]


def find_command(words: list[str]) -> tuple[Command | None, list[str]]:
    """Split the words into a command and its arguments; no command when none is named."""
    for count in (2, 1):
        name = tuple(words[:count])
        name = ALIASES.get(name, name)
        for command in COMMANDS:
            if command.words == name:
                return command, words[count:]
    return None, words


def members(group: str) -> list[Command]:
    """Return the commands of a group."""
    return [command for command in COMMANDS if command.words[0] == group and len(command.words) > 1]


def overview() -> str:
    """Render what `csa --help` says."""
    lines = ["usage: csa COMMAND ...", "", "Run trees of AI coding agents as durable sessions.", ""]
    for purpose, commands in PURPOSES:
        lines += [f"{purpose}:", *_command_rows(commands), ""]
    lines += [
        "examples:",
        *(_help_row(words, what, room=_EXAMPLE_WIDTH) for words, what in _EXAMPLES),
        "",
        "ls is short for session list, cur and switch for session current.",
        "csa COMMAND --help says more of each, csa --version which csa this is.",
        "First time here? csa doctor",
    ]
    return "\n".join(lines) + "\n"


def group_overview(group: str) -> str:
    """Render what `csa session --help` says."""
    lines = [f"usage: csa {group} COMMAND ...", "", f"{GROUPS[group].capitalize()}.", ""]
    for purpose, commands in PURPOSES:
        if found := [command for command in commands if command in members(group)]:
            lines += [f"{purpose}:", *_command_rows(found), ""]
    return "\n".join([*lines, f"csa {group} COMMAND --help says more of each."]) + "\n"


def _command_rows(commands: tuple[Command, ...] | list[Command]) -> list[str]:
    return [_help_row(" ".join(command.words), command.summary, room=_NAME_WIDTH) for command in commands]


def _help_row(words: str, what: str, *, room: int) -> str:
    """Return words to type with what they do behind them, or below where the terminal is too narrow."""
    line, width = f"  {words:<{room}} {what}", help_width()
    if len(line) <= width:
        return line
    if 2 + len(words) > width:
        words = words.replace(' "', ' \\\n    "')
    return f"  {words}\n{_fill_help(what, indent=' ' * 6)}"


def _fill_help(text: str, *, indent: str = "") -> str:
    from textwrap import fill  # noqa: PLC0415  # only help needs it

    return fill(text, help_width(), initial_indent=indent, subsequent_indent=indent)


def print_help(text: str) -> int:
    width = help_width()
    print("\n".join(line if len(line) <= width else _fill_help(line) for line in text.splitlines()))
    return 0
