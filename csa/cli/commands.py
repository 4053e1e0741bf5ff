"""The commands: one table from which dispatch, help, completion and the manuals are made.

A command is a pair of functions in a module of this package, which is imported when the command is used:
`configure(parser)` and `execute(arguments) -> int`, or `configure_NAME` and `execute_NAME` where a module has several.

One rule for all names: the word `session` may be left out. `csa show` is `csa session show`, and so with the aliases.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from csa.cli.output import Style
from csa.cli.parsing import Parser
from csa.errors import UsageError
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Command(Struct):
    """One leaf of the command line."""

    full_name: str
    home: str  # MODULE, or MODULE.NAME
    summary: str

    @property
    def name(self) -> str:
        """Return the name as help shows it, without `session`."""
        return self.full_name.removeprefix(_SESSION)

    def parser(self) -> Parser:
        """Build only this command's parser."""
        parser = Parser(prog=f"csa {self.name}", description=self._description())
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
        """Return the command's help text: the docstring of its function, or of a module with only one."""
        execute = self._function("execute")
        return str(execute.__doc__ or import_module(execute.__module__).__doc__)


ABOUT = "Run AI coding agents from the shell, and let them run each other."
_SESSION = "session "
GROUPS = {
    "session": "look at sessions and manage them",
    "config": "look at the settings",
    "plan": "many agents on one repository: tasks that need each other's work",
    "template": "save settings and texts of a run under a name",
    "index": "make csa search fast",
}
# What one wants to do, and the commands for it, in the order in which help shows them.
PURPOSES: tuple[tuple[str, tuple[Command, ...]], ...] = (
    (
        "run agents",
        (
            Command("run", "run", "run an agent on a prompt, in a new or an existing session"),
            Command("chat", "chat", "talk with an agent, turn by turn"),
            Command("session retry", "retry", "send a session's last prompt again"),
            Command("plan run", "plans.run", "run the tasks of a plan, and merge their work"),
            Command("session queue", "queueing", "list the prompts that wait for a session, or change them"),
            Command("session answer", "answering", "allow what an agent asks for, or deny it"),
            Command("session land", "landing", "bring a session's work from its worktree into your checkout"),
            Command("session attach", "watching.attach", "follow a running turn, and print its answer"),
            Command("session open", "watching.open", "open the tool's own interface on a session"),
            Command("session wait", "watching.wait", "wait until sessions have finished"),
            Command("session kill", "killing.kill", "stop running sessions; --all stops everything"),
        ),
    ),
    (
        "see what they do",
        (
            Command("plan status", "plan_status", "show the tasks of a plan: their state, lines, cost, conflicts"),
            Command("session list", "session_list", "list the project's sessions, or their tree"),
            Command("session show", "conversation", "print a session's conversation"),
            Command("session search", "search", "find words in all conversations"),
            Command("session result", "results.result", "print the answer of a session's last turn"),
            Command("session status", "status.status", "show everything known about a session"),
            Command("session info", "status.info", "the same as status; --json without the evidence"),
            Command("session why", "status.why", "the same as status; --json with the evidence alone"),
            Command("session replay", "replay", "show a recorded session or tree again, as it happened"),
            Command("session logs", "outputs.logs", "print what happened in a session (git history: log)"),
            Command("session diff", "diff", "show what a session's turns have changed in the project"),
            Command("session artifacts", "outputs.artifacts", "list or copy the files an agent has left for you"),
            Command("session is-alive", "is_alive", "check whether a session is running"),
            Command("session budget", "session_budget", "show what a session's tree has used, or set a budget"),
            Command("top", "running.top", "watch everything that is running, in all projects"),
            Command("ps", "running.ps", "list everything that is running, with its processes"),
            Command("session stats", "stats", "sum up sessions, turns, tokens and cost"),
        ),
    ),
    (
        "other hosts",
        (
            Command("sync", "hosts.sync", "bring the mirrors of other hosts' sessions up to date"),
            Command("session fetch", "fetching", "bring a session's commits from another host, as refs here"),
            Command("hosts", "hosts.list", "list other hosts: reachable, version, what runs, last heard"),
            Command("mirror", "copies", "copy sessions into PostgreSQL or Redis, for other programs"),
        ),
    ),
    (
        "manage sessions",
        (
            Command("session rename", "editing.rename", "give a session a name, or remove its name"),
            Command("session describe", "editing.describe", "change the description of a session"),
            Command("session seal", "sealing.seal", "encrypt what was said in sessions that have finished"),
            Command("session unseal", "sealing.unseal", "open encrypted sessions, with your key"),
            Command("session pin", "editing.pin", "protect a session from clean-up"),
            Command("session new", "current.new", "make a session without running anything in it"),
            Command("session current", "current.current", "choose the current session, or print it"),
            Command("session close", "current.close", "close a session that is done with"),
            Command("session merge", "merging", "make a session that goes on with several others"),
            Command("session context", "context.show", "show which earlier turns the next one sends along"),
            Command("session prune", "context.prune", "leave older turns out of what tools are sent"),
            Command("session clear", "context.clear", "leave all earlier turns out of what tools are sent"),
            Command("session compress", "compress", "have the tool compact a conversation"),
            Command("session checkpoint", "records.checkpoint", "save a checkpoint of a session, as a git commit"),
            Command("session checkpoints", "records.checkpoints", "list, show and verify checkpoints"),
            Command("session log", "records.log", "print the git history of a session (events: logs)"),
            Command("session export", "moving.export", "export sessions to an archive, or to read"),
            Command("session import", "moving.import", "import the sessions of an archive"),
        ),
    ),
    (
        "clean up and repair",
        (
            Command("session delete", "removing.delete", "delete sessions; they can be restored for 7 days"),
            Command("plan drop", "plan_drop", "take away the worktrees of a plan whose work has landed"),
            Command("session restore", "removing.restore", "restore a deleted session"),
            Command("session clean", "collecting.clean", "delete the project's old sessions"),
            Command("gc", "collecting.gc", "delete old sessions and leftover files, quietly, for cron"),
            Command("session adopt", "moving.adopt", "take over the sessions of a project that has moved"),
            Command("index build", "index.build", "build the index that makes csa search fast"),
            Command("index update", "index.update", "add to the search index what is new"),
            Command("index status", "index.status", "show how large and how fresh the search index is"),
            Command("index delete", "index.delete", "delete the search index; searches read everything again"),
            Command("session validate", "records.validate", "check the records of sessions for damage"),
            Command("session repair", "records.repair", "repair a damaged session"),
        ),
    ),
    (
        "serve others",
        (
            Command("serve", "serve.run", "serve the sessions over HTTP, for browsers and programs"),
            Command("serve url", "serve.url", "print the address of the running server, with its token"),
            Command("serve token", "serve.token", "list, make and revoke tokens for the server"),
            Command("serve stop", "serve.stop", "end the running server; what runs goes on"),
            Command("mcp", "mcp.run", "serve an MCP client on stdin and stdout, with sub-agents"),
            Command("mcp install", "mcp.install", "print how to set up csa mcp in a client"),
            Command("acp", "acp", "be an editor's agent: the Agent Client Protocol on stdio"),
        ),
    ),
    (
        "set up",
        (
            Command("tools", "tools", "list the tools: installed, version, login, model"),
            Command("doctor", "doctor", "check which tools are installed and logged in"),
            Command("config show", "config.show", "print every setting and where it comes from"),
            Command("config validate", "config.validate", "check the config files"),
            Command("template list", "templates.list", "list the templates for csa run, yours and the project's"),
            Command("template show", "templates.show", "print a template, and which variables it needs"),
            Command("template save", "templates.save", "save settings and texts of a run as a template"),
            Command("template delete", "templates.delete", "delete a template"),
            Command("demo", "demo.tree", "show csa with fake agents, without an account: a tree of them"),
            Command("demo plan", "demo.plan", "the same with a plan: worktrees, a conflict, and landing"),
            Command("demo shell", "demo.shell", "open a shell with fake agents, for the tutorial"),
            Command("schema", "schema", "print the JSON Schema of a command's --json output"),
            Command("completion", "completion", "print a completion script for bash, zsh or fish"),
        ),
    ),
)
COMMANDS = tuple(command for _, commands in PURPOSES for command in commands)
HIDDEN = (  # what hosts call on each other
    Command("outlet", "hosts.outlet", "send what is in the state root, for a mirror of it elsewhere"),
    Command("outcome", "fetching.outcome", "send the commits of a session's work, for csa fetch elsewhere"),
    Command("intake", "hosts.intake", "write the mirror of a host from what its outlet sends"),
    Command("supervise", "supervise", "run a turn for another host"),
)
ALIASES = {"ls": "list", "rm": "delete", "cur": "current", "switch": "current", "use": "current"}
# What `csa help` shows, by the names that are typed.
EVERYDAY = ("run", "chat", "ls", "status", "show", "result", "logs", "open", "wait", "kill", "top", "rm", "doctor")


def command_names() -> dict[str, Command]:
    """Return the commands by all names that can be typed."""
    short = {command.name: command for command in (*COMMANDS, *HIDDEN)}
    short |= {alias: short[name] for alias, name in ALIASES.items()}
    return {
        **short,
        **{_SESSION + name: each for name, each in short.items() if each.full_name.startswith(_SESSION)},
    }


def dispatch(words: list[str]) -> int:
    """Run the named command, or print the requested help; return the exit code."""
    ahead, words = _split_ahead(words)
    command, rest = find_command(words)
    if command is None:
        from csa.cli.helping import explain  # noqa: PLC0415  # commands that are named need none of it

        return explain(words)
    arguments = command.parser().parse_args(ahead + rest)
    Style.when = arguments.color
    if arguments.cd is not None and not _is_elsewhere(arguments):
        _change_directory(arguments.cd)
    return command.execute(arguments)


def _split_ahead(words: list[str]) -> tuple[list[str], list[str]]:
    """Split off common options that precede the command's name."""
    count = 0
    while count < len(words) and words[count].partition("=")[0] in {"--cd", "--color"}:
        length = 1 if "=" in words[count] else 2
        if count + length > len(words):
            break  # its value is missing
        count += length
    return words[:count], words[count:]


def _is_elsewhere(arguments: argparse.Namespace) -> bool:
    """Say whether `--cd` can only mean a directory of the host that `--on` names."""
    is_whole = arguments.cd.startswith(("/", "~"))
    return getattr(arguments, "on", None) not in {None, "here"} and is_whole and not os.path.isdir(arguments.cd)


def _change_directory(directory: str) -> None:
    """Continue as if csa had been started there, and not by a hook of another repository."""
    from csa.store.inherited import is_same_work_tree, without_repository  # noqa: PLC0415  # few commands go elsewhere

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


def find_command(words: list[str]) -> tuple[Command | None, list[str]]:
    """Split the arguments into a command and the rest; no command if none is named."""
    names = command_names()
    for count in (2, 1):
        if command := names.get(" ".join(words[:count])):
            return command, words[count:]
    return None, words
