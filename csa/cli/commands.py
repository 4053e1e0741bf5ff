"""The commands there are: one table from which dispatch, help and the reference are made.

A command is a pair of functions in a module of this package, which is imported when the command is used:
`configure(parser)` and `execute(arguments) -> int`, or `configure_NAME` and `execute_NAME` where a module has several.
"""

from __future__ import annotations

from importlib import import_module

from csa.cli.output import help_width
from csa.cli.plainwords import PlainParser
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from csa.cli.parsing import Parser


class Command(Struct):
    """One leaf of the command line."""

    words: tuple[str, ...]
    home: str  # MODULE, or MODULE.NAME
    summary: str

    def parse(self, words: list[str]) -> argparse.Namespace:
        """Read this command's words; UsageFault when they are off."""
        plain = PlainParser()
        self.configure(plain)  # type: ignore[arg-type]  # it has what is used of a parser
        found: argparse.Namespace | None = plain.parse(words)  # type: ignore[assignment]  # and this of a namespace
        return self.parser().parse_args(words) if found is None else found

    def parser(self) -> Parser:
        """Build this command's parser; no other's is built."""
        from csa.cli.parsing import Parser  # noqa: PLC0415  # plain words need no argparse

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
            Command(("session", "kill"), "killing.session_kill", "end running sessions"),
            Command(("kill",), "killing.kill_all", "end everything that runs, in all projects"),
        ),
    ),
    (
        "see what they do",
        (
            Command(("session", "list"), "session_list", "list the project's sessions, or their tree"),
            Command(("session", "show"), "conversation", "print a session's conversation"),
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
            Command(("session", "checkpoints"), "session_checkpoints", "list, show and verify the checkpoints"),
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
            Command(("session", "clean"), "removing.clean", "remove the project's old sessions"),
            Command(("gc",), "removing.gc", "remove old sessions and leftovers, quietly, for cron"),
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
        lines += [f"{purpose}:", *_rows(commands), ""]
    lines += [
        "examples:",
        *(_row(words, what, room=_EXAMPLE_WIDTH) for words, what in _EXAMPLES),
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
            lines += [f"{purpose}:", *_rows(found), ""]
    return "\n".join([*lines, f"csa {group} COMMAND --help says more of each."]) + "\n"


def _rows(commands: tuple[Command, ...] | list[Command]) -> list[str]:
    return [_row(" ".join(command.words), command.summary, room=_NAME_WIDTH) for command in commands]


def _row(words: str, what: str, *, room: int) -> str:
    """Return words to type with what they do behind them, or below where the terminal is too narrow."""
    line, width = f"  {words:<{room}} {what}", help_width()
    if len(line) <= width:
        return line
    if 2 + len(words) > width:
        words = words.replace(' "', ' \\\n    "')
    return f"  {words}\n{_fold(what, indent=' ' * 6)}"


def _fold(text: str, *, indent: str = "") -> str:
    from textwrap import fill  # noqa: PLC0415  # only help needs it

    return fill(text, help_width(), initial_indent=indent, subsequent_indent=indent)


def print_help(text: str) -> int:
    width = help_width()
    print("\n".join(line if len(line) <= width else _fold(line) for line in text.splitlines()))
    return 0
