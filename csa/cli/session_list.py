"""List the project's sessions, most recently used first, or as a tree of who started whom.

The shortest unique prefix of an id is printed in bold, and the current session is marked with `*`. On a terminal only
the first 50 are shown.

In the tree, the numbers on the right and the states in brackets are totals of the session and everything below it. A
dashed line leads to a fork. A missing parent is named in yellow, with where it is, and a session in another project
names that project. `--tree SESSION` shows one session and everything below it.

With --quiet only ids are printed: csa rm $(csa ls -q --status failed). --format '{name}
{status}' prints a line of your own for each session, --format 'table {name} {tokens}' columns with a header; an unknown
field is an error that lists all fields. JSON has numbers where these have text.

With --watch the tree fills the screen and refreshes four times a second, with what each agent is doing, how long its
last turn has been running, its tokens and its cost. Its keys are those of csa top: ? lists them, q quits.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from functools import partial

from csa.cli.output import can_redraw, print_json, shorten, tell
from csa.cli.selecting import (
    add_hosts,
    add_selector,
    open_client,
    refuse_unknown_tools,
    selected_if_any,
    selected_stores,
)
from csa.errors import UsageError
from csa.paths import home
from csa.runner.client import Csa
from csa.runner.sessions.listing import PHASES, STATUSES, Selection, last_use, select_sessions
from csa.store.project import find_work_tree
from csa.store.sessions import Store

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

    from csa.cli.views.list_format import Template
    from csa.runner.session import Session
    from csa.runner.sessions.genealogy import Forest
    from csa.store.shown import SessionInfo

SHOWN_ON_TERMINAL = 50


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--tree", action="store_true", help="show who started whom; with SESSION, only its tree")
    which = parser.add_argument_group("which sessions")
    which.add_argument("-t", "--tool", metavar="T,..", help="only sessions in which one of these tools worked")
    which.add_argument(
        "--status", metavar="S,..", help=f"only sessions with one of these states: {', '.join((*STATUSES, *PHASES))}"
    )
    which.add_argument("--branch", metavar="B", help="only sessions started on this git branch")
    which.add_argument("--owner", metavar="O", help="only sessions of this user, or user@host")
    which.add_argument("--since", metavar="WHEN", help="only sessions used since: 12h, 2d, 3w ago, or a local date")
    which.add_argument("--limit", type=int, metavar="N", help="show at most N sessions; in a tree, N roots")
    which.add_argument("--all-projects", action="store_true", help="list the sessions of all projects")
    add_hosts(which)
    parser.add_argument(
        "--sort",
        choices=("used", "created"),
        help="newest first by last use (default), or by creation (default of --tree)",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("-q", "--quiet", action="store_true", help="print only ids, one per line")
    kinds.add_argument("--format", metavar="TEMPLATE", help="print this for each: '{name} {status}', 'table {name}'")
    kinds.add_argument("--watch", action="store_true", help="show the tree live; needs a terminal")
    kinds.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError("--limit takes a number, 1 or more.")
    selection = read_selection(arguments, datetime.now(UTC))
    template = _template(arguments)
    client = open_client()
    top = _top_of_tree(client, arguments)
    is_wide = arguments.all_projects = bool(arguments.all_projects or arguments.host or arguments.all_hosts)
    if arguments.watch:
        if not selection.is_everything or is_wide or top:
            raise UsageError("--watch shows the whole tree of one project.", hint="csa top shows all projects")
        return _watch(client, arguments.limit)
    stores = [top.store] if top and not is_wide else selected_stores(client, arguments)
    if not (arguments.json or arguments.quiet):
        _hint_at_worktree(client)
    if arguments.tree:
        return _list_tree(client, stores, selection, arguments, template=template, top=top)
    return _list_rows(client, stores, selection, arguments, template)


def _template(arguments: argparse.Namespace) -> Template | None:
    """Return what each session is printed with; None for the table as it is."""
    if arguments.quiet:
        arguments.format = "{id}"
    if arguments.format is None:
        return None
    from csa.cli.views.list_format import Template  # noqa: PLC0415  # a plain list needs none of it

    found = Template(arguments.format)
    return None if found.is_plain_table else found


def _top_of_tree(client: Csa, arguments: argparse.Namespace) -> Session | None:
    """Return the session whose tree is asked for."""
    selector = selected_if_any(arguments)
    if selector is None:
        return None
    if not arguments.tree:
        raise UsageError("A list is of all sessions.", hint=f"csa ls --tree {selector}")
    return client.session(selector, retired=True)


def _print_lines(template: Template, infos: list[SessionInfo]) -> int:
    from csa.cli.views.list_table import View  # noqa: PLC0415  # JSON needs none of it

    for line in template.lines(View({}), infos):
        print(line)
    return 0


def _hint_at_worktree(client: Csa) -> None:
    """Name what an older csa has kept for this worktree itself, and which is not listed."""
    tree = find_work_tree(client.context.directory_pathname)
    if tree != client.store.project_pathname and Store(client.store.root_pathname, tree).ids():
        tell("hint", f"csa adopt {tree} brings in what this worktree has had for itself")


def read_selection(arguments: argparse.Namespace, now: datetime) -> Selection:
    """Return what the filters say; UsageError when one says nothing that can be."""
    statuses = split_names(arguments.status)
    for status in statuses - {*STATUSES, *PHASES}:
        from csa.nearest import did_you_mean  # noqa: PLC0415  # only a typo pays for it

        known = (*STATUSES, *PHASES)
        raise UsageError(f"There is no status '{status}'.", hint=did_you_mean(status, known) or ", ".join(known))
    return Selection(
        tools=split_names(arguments.tool),
        statuses=statuses,
        branch=arguments.branch,
        owner=arguments.owner,
        since=read_since(arguments.since, now),
    )


def read_since(text: str | None, now: datetime) -> datetime | None:
    """Return the moment that `--since` means; UsageError when it means none."""
    if text is None:
        return None
    from csa.model.clock import EXAMPLE, parse_moment  # noqa: PLC0415  # a plain list needs none of it

    moment = parse_moment(text, now)
    if moment is None:
        raise UsageError(f"--since: '{text}' is neither a length of time nor a date.", hint=EXAMPLE)
    return moment


def split_names(text: str | None) -> frozenset[str]:
    return frozenset(name.strip() for name in (text or "").split(",") if name.strip())


def _list_rows(
    client: Csa,
    stores: list[Store],
    selection: Selection,
    arguments: argparse.Namespace,
    template: Template | None,
) -> int:
    on_terminal = sys.stdout.isatty() and not arguments.json
    limit = arguments.limit or (SHOWN_ON_TERMINAL if on_terminal else None)
    by_use, with_status = arguments.sort != "created", not arguments.quiet
    listing = select_sessions(stores, selection, limit=limit, by_use=by_use, with_status=with_status)
    if not listing.infos:
        refuse_unknown_tools(client, stores, selection.tools)  # this looks further than the list did
    if arguments.json:
        print_json([info.to_json() for info in listing.infos])
        return 0
    if template:
        _print_lines(template, listing.infos)
    elif not listing.infos:
        return _say_none(selection)
    else:
        from csa.cli.views.list_table import View, print_table, print_totals  # noqa: PLC0415  # JSON needs none of it

        view = View(_current(client, stores))
        print_table(view, listing.infos, _places(client, stores) if arguments.all_projects else None)
        print_totals(view, listing.infos, more=listing.more)
    if listing.more and not (arguments.quiet and arguments.limit):
        total = len(listing.infos) + listing.more
        tell("csa", f"... and {listing.more} more (--limit {total} shows all)")
    return 0


def _list_tree(
    client: Csa,
    stores: list[Store],
    selection: Selection,
    arguments: argparse.Namespace,
    *,
    template: Template | None,
    top: Session | None,
) -> int:
    from csa.runner.sessions.genealogy import (  # noqa: PLC0415  # a plain list needs none of it
        add_relatives,
        arrange_sessions,
        items,
        keep_matching,
        roll_up,
        subtree,
    )

    wants_retired = selection.wants_retired or (top is not None and top.record.is_retired)
    everything = Selection(statuses=frozenset((*STATUSES, *PHASES))) if wants_retired else Selection()
    infos = select_sessions(stores, everything).infos
    if not arguments.all_projects:
        infos = add_relatives(stores[0], infos)
    whole = arrange_sessions(infos)
    if top:
        whole = subtree(whole, top)
    if arguments.sort == "used":
        whole.sort(key=lambda root: max(map(last_use, items(root)), default=0.0), reverse=True)
    forest = whole if selection.is_everything else keep_matching(whole, selection)
    shown = forest[: arguments.limit]
    if not shown:
        refuse_unknown_tools(client, stores, selection.tools)  # this looks further than the list did
    if arguments.json:
        print_json(_tree_to_json(whole, shown))
        return 0
    if template:
        return _print_lines(template, items(*shown))
    if not shown:
        return _say_none(selection)
    from csa.cli.views.list_table import View, print_totals  # noqa: PLC0415  # JSON needs none of it
    from csa.cli.views.list_tree import TreePrinter, name_places  # noqa: PLC0415  # as above

    view = View(_current(client, stores))
    names = name_places(shown, home(client.context.environ))
    infos = TreePrinter(view, shown, roll_up(whole, now=time.time()), names).print()
    print_totals(view, infos, more=0)
    if len(shown) < len(forest):
        rest = len(forest) - len(shown)
        tell("csa", f"... and {rest} more tree{'s' * (rest != 1)} (--limit {len(forest)} shows all)")
    return 0


def _tree_to_json(whole: Forest, shown: Forest) -> list[dict[str, object]]:
    """Return the sessions in the order of the tree, each with the sum of its subtree."""
    from csa.model.genealogy import walk  # noqa: PLC0415  # loaded with the genealogy
    from csa.runner.sessions.genealogy import roll_up, rollup_to_json  # noqa: PLC0415  # as above

    sums = roll_up(whole, now=time.time())
    return [
        {
            **node.item.to_json(),
            "subtree": rollup_to_json(sums[node.session_id]),
        }
        for node in walk(shown)
        if node.item
    ]


def _say_none(selection: Selection) -> int:
    print("No sessions found")
    if selection.is_everything:
        tell("hint", 'csa run "what to do" starts one')
    else:
        tell("hint", "csa ls shows all, --all-projects those of other projects as well")
    return 0


def _current(client: Csa, stores: list[Store]) -> dict[str, str | None]:
    from csa.runner.current import current_id  # noqa: PLC0415  # JSON needs none of it

    return {store.pathname: current_id(client.context, store) for store in stores}


def _places(client: Csa, stores: list[Store]) -> dict[str, str]:
    from csa.cli.views.naming import place_of  # noqa: PLC0415  # JSON needs none of it

    user_home = home(client.context.environ)
    return {store.pathname: place_of(store, user_home) for store in stores}


def _watch(client: Csa, limit: int | None) -> int:
    if not can_redraw(sys.stdout):
        raise UsageError("--watch needs a terminal that can be redrawn.", hint="csa ls --tree")
    from csa.cli.views.browsing import browse  # noqa: PLC0415  # a plain list needs none of it; this brings prompt_toolkit
    from csa.cli.views.live import arrange  # noqa: PLC0415  # as above
    from csa.model.wording import describe  # noqa: PLC0415  # as above
    from csa.runner.sessions.observing import LiveProject  # noqa: PLC0415  # as above

    sessions = LiveProject(client.store, describe)
    place = partial(shorten, user_home=home(client.context.environ))

    def find_forest() -> Forest:
        return arrange(sessions.family())[:limit]

    return browse(
        lambda: client, find_forest, title=place(client.store.project_pathname), empty="No sessions yet", place=place
    )
