"""Other hosts: bringing the mirrors of their sessions up to date, and what is known of them. See docs/hosts.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any

from csa.cli.output import Style, count_of, print_json, print_problem, tell, terminal_width
from csa.cli.selecting import open_client
from csa.errors import ConfigError, CsaError, UsageError
from csa.store.mirrors import Mirror, find_mirrors, is_host_name, mirror_for

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.config import Engine
    from csa.runner.client import Csa

_SKEW_S = 2.0  # from which on clocks that differ are worth a word
_Row = Mapping[str, Any]


def configure_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "hosts",
        nargs="*",
        metavar="HOST",
        help="names of [engines], or of ssh (default: all of [engines], and those known)",
    )
    parser.add_argument("--watch", action="store_true", help="go on, also after the connection was lost, until Ctrl-C")


def execute_sync(arguments: argparse.Namespace) -> int:
    """Bring the mirrors of other hosts' sessions up to date: what is said there can then be read and searched here.

    On each host csa outlet is called, by ssh HOST, or by what [engines.HOST] says in your configuration. Mirrors are
    kept in the state root and are only read: csa ls --all-hosts, csa search --all-hosts, csa show HOST:NAME. With
    --watch they are kept up to date as things happen there, usually within a tenth of a second. Exits 7 if a host
    cannot be reached.
    """
    from csa.runner.hosts.syncing import Sync, sync_hosts  # noqa: PLC0415  # `csa completion` loads every command

    client = open_client()
    engines, failures = _hosts(_engines(client, arguments.hosts), arguments.hosts)
    if not arguments.hosts:
        engines = _not_over(client, engines)
    if not engines and not failures:
        raise UsageError("Name a host.", hint="csa sync HOST, as in ssh HOST")
    telling = _teller if arguments.watch else lambda _: lambda _: None
    syncs = [Sync(client.store.root_pathname, engine, telling(engine.name)) for engine in engines]
    sync_hosts(syncs, watch=arguments.watch)
    for sync in syncs:
        if sync.failure is None:
            print(f"{sync.engine.name}: {_in_words(sync)}")
    failures += [sync.failure for sync in syncs if sync.failure]
    for failure in failures:
        print_problem(failure.message, hint=failure.hint)
    return max((failure.exit_code for failure in failures), default=0)


def _teller(host: str) -> Any:
    return lambda words: tell("csa", f"{host}: {words}")


def _in_words(sync: Any) -> str:
    taken = sync.taken
    if not taken.sessions:
        return "nothing new"
    aside = f"; {count_of(taken.kept_aside, 'transcript')} kept aside, which {sync.engine.name} has no more"
    words = f"{count_of(taken.sessions, 'session')}, {count_of(taken.lines, 'event')}"
    return words + (aside if taken.kept_aside else "")


def _engines(client: Csa, names: list[str]) -> list[Engine]:
    """Return the hosts that are named; if none are, those of the configuration, and those with a mirror."""
    for name in names:
        if not is_host_name(name):
            raise UsageError(
                f"'{name}' cannot name a host here.",
                hint=f'give it a name in the configuration: [engines.NAME] reach = ["ssh", "{name}"]',
            )
    config = client.context.config
    known = {**config.engines, **{m.host: None for m in find_mirrors(client.store.root_pathname)}}
    return [config.engine(name) for name in dict.fromkeys(names or known) if is_host_name(name)]


def _hosts(engines: list[Engine], named: list[str]) -> tuple[list[Engine], list[CsaError]]:
    """Leave out what finds hosts and is none, and what is not known, and say why; UsageError for one that is named."""
    from csa.runner.hosts.schedulers import is_scheduler  # noqa: PLC0415  # `csa completion` loads every command

    hosts: list[Engine] = []
    failures: list[CsaError] = []
    for engine in engines:
        try:
            is_host = not is_scheduler(engine)
        except CsaError as error:
            failures.append(error)
            continue
        if is_host:
            hosts.append(engine)
        elif engine.name in named:
            raise UsageError(f"{engine.name} is no host, but finds one.", hint="name its nodes; csa hosts lists them")
    return hosts, failures


def _not_over(client: Csa, engines: list[Engine]) -> list[Engine]:
    """Leave out hosts that were there for a turn, which has ended."""
    root = client.store.root_pathname
    return [engine for engine in engines if not engine.job or _running(mirror_for(root, engine.name))]


def configure_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="only these")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="ask each host, which takes as long as ssh does")
    what.add_argument("--placed", action="store_true", help="list what was placed on them from here and is not settled")
    what.add_argument("--release", metavar="ID", help="give back what that session holds of the budgets here")
    parser.add_argument("--force", action="store_true", help="with --release: without asking the host")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_list(arguments: argparse.Namespace) -> int:
    """List the hosts of [engines] in your configuration, and those with a mirror here: what is known of each.

    HEARD is how long ago its sessions were seen last. Without --check nobody is asked. With it, csa outlet is called on
    each, and REACHED says whether there is a csa of a fitting version; exits 7 if one is not reached.

    --placed lists the sessions that were placed on other hosts from here, and what each holds of the budgets above it:
    that is reserved before it is sent, and settled when its host has said what was used. --release settles one by what
    its host knows: what runs there is refused (exit 4), and so is a host that is not reached (exit 7). With --force,
    for a host that never comes back, what was seen of it counts.
    """
    client = open_client()
    if arguments.force and not arguments.release:
        raise UsageError("--force is for --release.")
    if arguments.placed or arguments.release:
        from csa.cli.placements import print_placed, release_placed  # noqa: PLC0415  # few have placed anything

        if arguments.placed:
            return print_placed(client, arguments.hosts, json=arguments.json)
        return release_placed(client, arguments.release, force=arguments.force, json=arguments.json)
    engines = _engines(client, arguments.hosts)
    failures: dict[str, CsaError] = {}
    asked = _ask(engines if arguments.hosts else _not_over(client, engines), failures) if arguments.check else {}
    code = max((failure.exit_code for failure in failures.values()), default=0)
    rows = [_row(client, engine, asked.get(engine.name), failures) for engine in engines]
    if arguments.json:
        print_json(rows)
    elif not rows:
        print("No hosts found")
        tell("hint", "csa sync HOST makes a mirror of one, as in ssh HOST")
    else:
        _print(rows)
        for failure in failures.values():
            print_problem(failure.message, hint=failure.hint)
    return code


def _ask(engines: list[Engine], failures: dict[str, CsaError]) -> dict[str, Mapping[str, Any]]:
    """Ask all of them at once."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # only this needs it

    from csa.runner.hosts.jobs import check  # noqa: PLC0415  # as above
    from csa.runner.hosts.schedulers import is_scheduler  # noqa: PLC0415  # as above
    from csa.runner.hosts.syncing import check_host  # noqa: PLC0415  # as above

    def ask(engine: Engine) -> Mapping[str, Any]:
        return check(engine) if is_scheduler(engine) else check_host(engine)

    found: dict[str, Mapping[str, Any]] = {}
    with ThreadPoolExecutor(max(1, len(engines))) as pool:
        asked = {engine.name: pool.submit(ask, engine) for engine in engines}
        for name, answer in asked.items():
            try:
                found[name] = answer.result()
            except CsaError as error:
                failures[name] = error
    return found


def _row(client: Csa, engine: Engine, asked: Mapping[str, Any] | None, failures: dict[str, CsaError]) -> _Row:
    """Return the object that `csa hosts --json` prints of a host; one that is not set up right is a failure."""
    from csa.model.clock import from_timestamp  # noqa: PLC0415  # `csa completion` loads every command
    from csa.model.state import format_time  # noqa: PLC0415  # as above
    from csa.runner.hosts.jobs import words_of  # noqa: PLC0415  # as above

    reached = None if asked is None and engine.name not in failures else asked is not None
    words: list[str] = []
    try:
        words = words_of(engine)
    except CsaError as error:
        failures.setdefault(engine.name, error)
    except Exception as error:  # noqa: BLE001  # the adapter of another package may fail in any way
        failures.setdefault(engine.name, ConfigError(f"[engines.{engine.name}]: {type(error).__name__}: {error}."))
    mirror = mirror_for(client.store.root_pathname, engine.name)
    about, heard = asked or mirror.about(), mirror.heard_at()
    failure = failures.get(engine.name)
    return {
        "host": engine.name,
        "kind": engine.kind,
        "reach": words,
        "reached": reached,
        "version": about.get("version"),
        "tools": about.get("tools") or [],
        "running": about.get("running") if asked else _running(mirror),
        "sessions": sum(len(store.ids()) for store in mirror.stores()),
        "heard_at": None if heard is None else format_time(from_timestamp(heard)),
        "heard_s": None if heard is None else round(mirror.heard_s(), 1),
        "skew_s": about.get("skew_s"),
        "error": failure and failure.message,
    }


def _running(mirror: Mirror) -> int:
    """Return how many turns run on a host, as far as it was heard."""
    from csa.store.liveness import probe  # noqa: PLC0415  # as above

    return sum(probe(store.paths(each)).runs_turn for store in mirror.stores() for each in store.ids())


def _print(rows: list[_Row]) -> None:
    from csa.cli.views.table import Column, Table, columns_for  # noqa: PLC0415  # JSON needs none of it

    columns = columns_for(
        terminal_width(sys.stdout),
        (
            Column("HOST", lambda row: row["host"]),
            Column("REACHED", lambda row: {None: "-", True: "yes", False: "no"}[row["reached"]]),
            Column("VERSION", lambda row: str(row["version"] or "-")),
            Column("RUNNING", lambda row: str(row["running"]), is_number=True),
            Column("SESSIONS", lambda row: str(row["sessions"]), is_number=True),
            Column("HEARD", _heard),
            Column("CLOCK", _skew),
            Column("TOOLS", lambda row: ",".join(row["tools"]) or "-"),
        ),
    )
    table = Table(columns, rows)
    print(Style(sys.stdout)(table.head().rstrip(), "dim"))
    for row in rows:
        print(table.line(row).rstrip())


def _heard(row: _Row) -> str:
    from csa.model.wording import elapsed  # noqa: PLC0415  # as above

    return "never" if row["heard_s"] is None else f"{elapsed(row['heard_s'])} ago"


def _skew(row: _Row) -> str:
    """Say by how much its clock is ahead; nothing to speak of is `ok`."""
    skew = row["skew_s"]
    return "-" if skew is None else "ok" if abs(skew) < _SKEW_S else f"{skew:+.0f} s"


def configure_outlet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="go on as things change, until stdin ends")
    parser.add_argument("--project", action="append", metavar="DIR", help="only sessions of this project; repeatable")
    parser.add_argument("--hello", action="store_true", help="only say who is there")


def execute_outlet(arguments: argparse.Namespace) -> int:
    """Send what is in the state root as frames to stdout, for csa intake elsewhere. csa sync calls it.

    What the other side has comes first, on stdin. Symbolic links are not followed; nothing is written.
    """
    from csa.runner.hosts.frames import write_line  # noqa: PLC0415  # as above
    from csa.runner.hosts.outlet import Outlet, greeting, read_having, wait_for_end  # noqa: PLC0415  # as above

    client = open_client()
    out = sys.stdout.buffer
    write_line(out, greeting(client.context))
    out.flush()
    if arguments.hello:
        return 0
    projects = {os.path.realpath(each) for each in arguments.project or ()}
    having = read_having(sys.stdin.buffer)
    outlet = Outlet(client.store.root, out, having, lambda project: not projects or project in projects)
    outlet.send_all()
    if arguments.follow:
        outlet.follow(wait_for_end(sys.stdin.fileno()))
    return 0


def configure_intake(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", metavar="HOST", help="whose mirror")
    parser.add_argument("--have", action="store_true", help="only print what there is, for the outlet's stdin")


def execute_intake(arguments: argparse.Namespace) -> int:
    """Write the mirror of a host from the frames on stdin, of a csa outlet there.

    For hosts that cannot be reached and send themselves: csa outlet < HAVE | ssh HUB csa intake HOST, where HAVE is
    what ssh HUB csa intake HOST --have has printed. Exits 1 when the frames end before everything has come.
    """
    from csa.runner.hosts.frames import ProtocolError, read_greeting  # noqa: PLC0415  # as above
    from csa.runner.hosts.intake import Intake  # noqa: PLC0415  # as above
    from csa.runner.hosts.outlet import write_having  # noqa: PLC0415  # as above

    if not is_host_name(arguments.host):
        raise UsageError(f"'{arguments.host}' cannot name a host.")
    with Intake(mirror_for(open_client().store.root_pathname, arguments.host)) as intake:
        if arguments.have:
            write_having(sys.stdout.buffer, intake.having())
            return 0
        if (said := read_greeting(sys.stdin.buffer)) is None:
            raise ProtocolError("No outlet speaks on stdin.", hint="csa sync HOST")
        intake.greet(said)
        for _ in intake.having():  # drops what a killed intake has left
            pass
        return 0 if intake.take(sys.stdin.buffer) else 1
