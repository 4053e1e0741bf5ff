"""Deleting sessions by hand, and restoring them."""

from __future__ import annotations

import argparse
import sys

from csa.cli.output import count_of, error_to_json, print_error, print_json, tell, warn
from csa.cli.selecting import (
    add_selector,
    announce_elsewhere,
    is_confirmed,
    open_client,
    read_tools,
    refuse_unknown_tools,
    selected,
)
from csa.cli.views.naming import as_read
from csa.errors import CsaError, RefusedError, UsageError
from csa.model.collection import Rule
from csa.runner.session import Session, find_retired
from csa.runner.sessions.removal import (
    delete_session,
    deleted_below,
    deletion_to_json,
    find_to_delete,
    living_children,
    restore_session,
    with_descendants,
)
from csa.store.family import find_elsewhere
from csa.store.sessions import Target

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.client import Csa


def configure_delete(parser: argparse.ArgumentParser) -> None:
    what = "a session: an id, a unique prefix of one, a name, or @last"
    parser.add_argument("sessions", nargs="*", metavar="SESSION", help=what)
    parser.add_argument(
        "-s", "--session", dest="more", action="append", default=[], metavar="SESSION", help="the same, as an option"
    )
    parser.add_argument("--all", action="store_true", help="all of the project; running and pinned ones stay")
    parser.add_argument("-t", "--tool", metavar="T,..", help="with --all: only those that used no other tools")
    parser.add_argument("-y", "--yes", action="store_true", help="with --all: do not ask")
    parser.add_argument("--tree", action="store_true", help="and all their descendants, in all projects")
    parser.add_argument("-f", "--force", action="store_true", help="kill running sessions, and delete pinned ones")
    parser.add_argument("--purge", action="store_true", help="delete for good, at once")
    parser.add_argument("--provider", action="store_true", help="also delete the tools' own copies of the conversation")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_delete(arguments: argparse.Namespace) -> int:
    """Delete sessions. They go to the trash and can be restored for 7 days (`undo_days`).

    Nothing is deleted unless all named sessions exist. Running and pinned sessions are refused without --force,
    which kills running ones first. Children stay, and are named if they are running; with --tree all descendants are
    deleted too, or nothing if one of them is running or pinned. The tool's own copy of the conversation stays, unless
    --provider is given.

    --all deletes the project's sessions, with --tool only those that have used no other tools. Running and pinned ones
    stay, and are named; so do damaged ones. On a terminal csa asks first; elsewhere --yes is required.

    Exits 4 if a session is running, and 5 if it is pinned, or is the calling session or an ancestor of it.
    """
    selectors = [*arguments.sessions, *arguments.more]
    _check_words(arguments, selectors)
    client = open_client()
    done, exit_code, elsewhere = [], 0, list[Target]()
    if arguments.all:
        roots = sessions = _find_all(client, arguments)
    else:
        roots = find_to_delete(client.context, selectors)
        elsewhere = _end_elsewhere(roots, force=arguments.force) if arguments.tree else []
        sessions = with_descendants(roots, force=arguments.force) if arguments.tree else roots
    for session in sessions:
        session_id = session.session_id
        name = as_read(session_id, sys.stdout)  # afterwards it may have none
        announce_elsewhere(client, session)
        try:
            removed = delete_session(
                session, force=arguments.force, purge_now=arguments.purge, provider=arguments.provider
            )
        except CsaError as error:
            done.append(deletion_to_json(session, error=error_to_json(error)))
            exit_code = exit_code or (0 if arguments.all else error.exit_code)
            if not arguments.json:
                print_error(error, as_json=False)
            continue
        word = "purged" if removed.is_purged else "removed"
        done.append(deletion_to_json(session, removed))
        if not arguments.json:
            print(f"{word} {name}")
        children = living_children(session.store, session_id)  # those that its end has not taken along
        warn([*(f"its child {child} is still running" for child in children), *removed.warnings])
    warn(f"{session_id} stays on {store.host}" for store, session_id in elsewhere)
    if arguments.json:
        print_json(done)
    elif any(each["done"] for each in done) and not arguments.purge and sys.stderr.isatty():
        tell("hint", f"csa restore{' --tree' * arguments.tree} {_to_restore(roots, done)}")
    return exit_code


def _end_elsewhere(roots: list[Session], *, force: bool) -> list[Target]:
    """Return what the sessions' trees have on other hosts, where it stays; with `force` nothing of it runs any more."""
    found = find_elsewhere([session.target for session in roots])
    if found and force:
        from csa.runner.hosts.ending import kill_everywhere  # noqa: PLC0415  # few trees are on several hosts

        for ended in kill_everywhere(roots, tree=True):
            if ended.error is not None:
                raise ended.error
    return found


def _check_words(arguments: argparse.Namespace, selectors: list[str]) -> None:
    if arguments.all and (selectors or arguments.tree or arguments.force):
        raise UsageError(
            "--all goes with --tool, and with no session, --tree or --force.", hint="csa rm --all --tool T"
        )
    if not arguments.all and (arguments.tool is not None or arguments.yes):
        raise UsageError("--tool and --yes are for --all.", hint="csa rm --all --tool T")
    if not arguments.all and not selectors:
        raise UsageError("Name a session.", hint="csa ls")


def _find_all(client: Csa, arguments: argparse.Namespace) -> list[Session]:
    """Return the sessions that --all means, once the user has confirmed it; RefusedError for an agent."""
    if client.caller is not None:
        raise RefusedError("An agent cannot delete everything.", hint="csa rm SESSION, for each")
    tools = read_tools(arguments.tool)
    refuse_unknown_tools(client, [client.store], tools)
    rule = Rule(tools=tools)
    records = list(map(client.store.record, client.store.ids()))
    warn(f"damaged, left as it is: {record.fault.message}" for record in records if record.fault and not record.is_gone)
    chosen = [record.session_id for record in records if record.state and rule.is_of_tools(record.state)]
    found = [Session(client.context, session_id) for session_id in chosen]
    if not found:
        tell("csa", "there is nothing to delete")
        return []
    words = ["csa rm --all", *([f"--tool {arguments.tool}"] if tools else []), "--yes"]
    is_sure = arguments.yes or is_confirmed("delete", count_of(len(found), "session"), hint=" ".join(words))
    return found if is_sure else []


def _to_restore(roots: list[Session], done: list[dict[str, object]]) -> str:
    """Return what to restore: the one that was asked for and is deleted, or a word that stands for each."""
    deleted = {each["session_id"] for each in done if each["done"]}
    found = [root.session_id for root in roots if root.session_id in deleted]
    return found[0] if len(found) == 1 else "SESSION"


def configure_restore(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--tree", action="store_true", help="and its deleted descendants")
    parser.add_argument("--json", action="store_true", help="print an object; with --tree an array of them")


def execute_restore(arguments: argparse.Namespace) -> int:
    """Restore a session that was deleted or cleaned up, as long as it is not purged.

    It counts as used now, and no longer expires. If another session has its name by now, it is restored without a name.
    """
    client = open_client()
    session = find_retired(client.context, selected(arguments))
    announce_elsewhere(client, session)
    found = [session, *(deleted_below(session) if arguments.tree else [])]
    facts = [_restore(each, as_json=arguments.json) for each in found]
    if arguments.json:
        print_json(facts if arguments.tree else facts[0])
    return 0


def _restore(session: Session, *, as_json: bool) -> dict[str, object]:
    restored = restore_session(session)
    state = restored.state
    lost = [f"another session is now called {restored.lost_name}; this one has no name"] if restored.lost_name else []
    if not as_json:
        print(as_read(f"restored {state.session_id}", sys.stdout))
    warn([*lost, *restored.losses])
    return restored.to_json(session.store)
