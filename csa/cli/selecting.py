"""Naming sessions on the command line: `-s`/`--session S`, or S by its position; and finding them, in all projects.

Commands that only read take the session used last if none is named, and say so on stderr. Acting on a session of
another project is announced there too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from csa.cli.output import cut, one_line, print_problem, tell, warn
from csa.errors import ConfigError, StateError, UsageError
from csa.paths import make_path
from csa.runner.client import Csa
from csa.runner.session import Session
from csa.runner.sessions.auditing import note_read
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from pathlib import Path

_LABEL_WIDTH = 40


def add_selector(parser: argparse.ArgumentParser) -> None:
    """Add both ways of naming the session."""
    what = "the session: a name, an id or a unique prefix of one, or @last, @current, @self, @parent, @root"
    parser.add_argument("session", nargs="?", metavar="SESSION", help=what)
    parser.add_argument("-s", "--session", dest="session_option", metavar="SESSION", help="the same, as an option")


def selected(arguments: argparse.Namespace) -> str:
    """Return the selector; UsageError unless it is given exactly once."""
    selector = selected_if_any(arguments)
    if selector is None:
        raise UsageError("Name a session.", hint="csa ls")
    return selector


def selectors_given(arguments: argparse.Namespace) -> list[str]:
    """Return the selectors given in either way: none, one or both."""
    return [text for text in (arguments.session, arguments.session_option) if text is not None]


def selected_if_any(arguments: argparse.Namespace) -> str | None:
    """Return the selector, if one is given; UsageError for two. With `--host`, one in its mirror."""
    given = selectors_given(arguments)
    if len(given) > 1:
        raise UsageError("Name the session once.", hint="csa ls")
    host = getattr(arguments, "host", None)
    return (f"{host}:{given[0]}" if host else given[0]) if given else None


def add_hosts(parser: argparse._ActionsContainer, *, several: bool = True) -> None:
    """Add the options that look at other hosts, in their mirrors; with `several`, one for all of them."""
    parser.add_argument("--host", metavar="H", help="on this other host, as csa sync has seen it last")
    if several:
        parser.add_argument("--all-hosts", action="store_true", help="of all projects, here and on all other hosts")


def selected_stores(client: Csa, arguments: argparse.Namespace) -> list[Store]:
    """Return the stores that `--all-projects`, `--host` and `--all-hosts` ask for; by default the project's alone."""
    if not (arguments.host or arguments.all_hosts):
        return find_projects(client.store.root) if arguments.all_projects else [client.store]
    from csa.store.mirrors import find_mirror, find_mirrors  # noqa: PLC0415  # few look at other hosts

    root = client.store.root_pathname
    mirrors = find_mirrors(root) if arguments.all_hosts else [find_mirror(root, arguments.host)]
    found = find_projects(client.store.root) if arguments.all_hosts else []
    return found + [store for mirror in mirrors for store in find_projects(make_path(mirror.pathname))]


def add_selectors(parser: argparse.ArgumentParser) -> None:
    """Add both ways of naming one session or more."""
    what = "the sessions: names, ids or unique prefixes, or @last, @current, @self, @parent, @root"
    parser.add_argument("session", nargs="*", metavar="SESSION", help=what)
    parser.add_argument(
        "-s",
        "--session",
        dest="session_option",
        nargs="+",
        action="extend",
        metavar="SESSION",
        help="the same, as an option",
    )


def find_all(
    arguments: argparse.Namespace, *, retired: bool = False, acts: bool = False, mirrored: bool = False
) -> list[Session]:
    """Return the named sessions, each once; UsageError if there are none."""
    given = [*arguments.session, *(arguments.session_option or ())]
    if not given:
        raise UsageError("Name a session.", hint="csa ls")
    client = open_client()
    names = dict.fromkeys(given)
    found = [find(client, name, retired=retired, acts=acts, mirrored=mirrored) for name in names]
    return list({session.paths.pathname: session for session in found}.values())


def find_one(arguments: argparse.Namespace, *, retired: bool = False, acts: bool = False) -> Session:
    """Return the named session."""
    return find(open_client(), selected(arguments), retired=retired, acts=acts)


def find_to_show(arguments: argparse.Namespace) -> Session:
    """Return the named session, or else the one used last: for commands that change nothing."""
    if (selector := selected_if_any(arguments)) is not None:
        return find(open_client(), selector, retired=True)
    if host := getattr(arguments, "host", None):
        raise UsageError("Name a session.", hint=f"csa ls --host {host}")
    session = find(open_client(), "@last")
    state = session.record.state
    about = f" ({cut(one_line(state.description), _LABEL_WIDTH)})" if state and not state.name else ""
    tell("csa", f"using {session.session_id}{about}, the session used last")
    return session


def find_to_read(arguments: argparse.Namespace, command: str) -> Session:
    """Return the session to show, and record that it is about to be read."""
    session = find_to_show(arguments)
    loss = note_read(session.context, session.session_id, command)
    warn([loss] if loss else [])
    return session


def find(client: Csa, selector: str, *, retired: bool = False, acts: bool = False, mirrored: bool = False) -> Session:
    """Return the session that a selector means; with `acts` announce its project, if that is another one."""
    session = client.session(selector, retired=retired, mirrored=mirrored)
    if acts:
        announce_elsewhere(client, session)
    return session


def announce_elsewhere(client: Csa, session: Session) -> None:
    """Announce that the action is in another project, if so."""
    if session.store != client.store:
        announce(session.session_id, session.store.label)


def announce(session_id: str, project: str) -> None:
    """Say on stderr in which other project a session is."""
    tell("csa", f"session {session_id} is in {project}")


def open_client(*, command: str = "csa") -> Csa:
    """Open the project of the current directory."""
    return Csa.from_environment(command=command)


class Unlistable:
    """The directories in the state root that could not be listed, each once: sessions may be there."""

    def __init__(self) -> None:
        self.faults: dict[str, StateError] = {}

    def note(self, fault: StateError) -> None:
        """Note one; used as the `on_fault` of searches for sessions."""
        self.faults[str(fault.path)] = fault

    def report(self, *, hint: str) -> int:
        """Print them to stderr; return the command's exit code, 0 if there are none."""
        for fault in self.faults.values():
            print_problem(fault.message, hint=hint)
        return StateError.exit_code if self.faults else 0


def find_projects(root: Path, *, with_retired: bool = True) -> list[Store]:
    """Return the stores of all projects, ordered by path; unreadable directories are named on stderr."""
    from csa.store.stores import find_stores  # noqa: PLC0415  # one project needs none of it

    unlistable = Unlistable()
    found = sorted(
        find_stores(root, with_retired=with_retired, on_fault=unlistable.note), key=lambda store: store.project
    )
    warn(f"{fault.message[:-1]}; what is there is left out" for fault in unlistable.faults.values())
    return found


def is_confirmed(verb: str, what: str, *, hint: str) -> bool:
    """Ask on a terminal whether to do it to all of that; UsageError elsewhere."""
    import sys  # noqa: PLC0415  # few commands ask

    if not sys.stdin.isatty():
        raise UsageError(f"This would {verb} {what}.", hint=hint)
    print(f"{verb.capitalize()} {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def read_tools(text: str | None) -> frozenset[str]:
    """Return the tools that `--tool` names; UsageError for none."""
    names = frozenset(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise UsageError("--tool names no tool.")
    return names


def refuse_unknown_tools(client: Csa, stores: Iterable[Store], names: Collection[str]) -> None:
    """Raise UsageError for an unknown tool: without an adapter, not configured, and in no session's record."""
    if not names:
        return
    from csa.runner.sessions.listing import PHASES, STATUSES, Selection, select_sessions  # noqa: PLC0415  # few commands need it
    from csa.runner.toolbox import tool_names, unknown_tool  # noqa: PLC0415  # as above

    try:
        known = tool_names(client.context.config)
    except ConfigError:  # a different problem
        known = tool_names()
    for name in sorted({*names} - {*known}):
        anywhere = Selection(tools=frozenset({name}), statuses=frozenset((*STATUSES, *PHASES)))
        if not select_sessions(stores, anywhere, limit=1).infos:
            raise unknown_tool(name, known)
