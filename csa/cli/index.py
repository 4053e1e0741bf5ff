"""The search index: a file in the state root that makes `csa search` fast, and can be deleted at any time."""

from __future__ import annotations

from csa.cli.output import print_json, tell
from csa.cli.selecting import open_client
from csa.errors import BusyError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure_build(_: argparse.ArgumentParser) -> None:
    pass


def execute_build(_: argparse.Namespace) -> int:
    """Build the search index of all projects, from the beginning.

    csa search then reads only sessions that may have the words. Its answers are the same with and without: the index
    only rules out, what is left is read, and so is whatever has changed since. Searches and csa gc keep it up to date.
    It is a copy of what the transcripts have (secrets are hidden there already), readable by you alone.
    """
    return _update(anew=True)


def configure_update(_: argparse.ArgumentParser) -> None:
    pass


def execute_update(_: argparse.Namespace) -> int:
    """Add to the search index what is new, in all projects, and remove what is gone; build it if there is none."""
    return _update(anew=False)


def _update(*, anew: bool) -> int:
    from csa.runner.sessions.indexing import update_index  # noqa: PLC0415  # only these need it
    from csa.store.mirrors import stores_everywhere  # noqa: PLC0415  # as above

    root = open_client().store.root
    try:
        change = update_index(root, stores_everywhere(root), anew=anew)
    except BlockingIOError:
        raise BusyError("The search index is being written by another csa.", hint="try again") from None
    words = f"{change.added} added, {change.removed} removed"
    tell("csa", words + (f", {change.left} left out" if change.left else ""))
    return 0


def configure_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one object")


def execute_status(arguments: argparse.Namespace) -> int:
    """Show how large the search index is, and how many sessions have changed since: searches read those.

    Exits 1 if searches use none.
    """
    from csa.runner.sessions.indexing import count_stale  # noqa: PLC0415  # only these need it
    from csa.store.mirrors import stores_everywhere  # noqa: PLC0415  # as above
    from csa.store.searchindex import look_at  # noqa: PLC0415  # as above

    root = open_client().store.root
    found = look_at(root)
    stale = count_stale(found.stamps if found else {}, stores_everywhere(root))
    if arguments.json:
        print_json(
            {
                "path": found and found.path,
                "size_bytes": found.size_bytes if found else 0,
                "sessions": len(found.stamps) if found else 0,
                "stale": stale,
                "is_used": bool(found and found.why is None),
                "why": found.why if found else "there is none",
            }
        )
    elif found is None:
        tell("csa", "there is no search index; csa index build")
    else:
        print(f"{found.path}: {len(found.stamps)} sessions, {found.size_bytes / 1e6:.1f} MB, {stale} changed since")
        if found.why:
            tell("warning", f"searches do not use it: {found.why}")
    return 0 if found and found.why is None else 1


def configure_delete(_: argparse.ArgumentParser) -> None:
    pass


def execute_delete(_: argparse.Namespace) -> int:
    """Delete the search index. Searches read all transcripts again; nothing else changes."""
    from csa.store.searchindex import remove_index  # noqa: PLC0415  # only this needs it

    try:
        was_there = remove_index(open_client().store.root)
    except BlockingIOError:
        raise BusyError("The search index is being written by another csa.", hint="try again") from None
    tell("csa", "the search index is deleted" if was_there else "there was no search index")
    return 0
