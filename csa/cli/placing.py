"""`csa run --on HOST`: a turn on another host, shown here as one of this host's, from the mirror that it is seen in."""

from __future__ import annotations

import argparse
import signal
from importlib import import_module

from csa.cli.output import print_json, tell, warn
from csa.cli.placed import Watch
from csa.cli.run import carry_out, follow_up, refuse_output
from csa.cli.run_request import unread_stdin_told
from csa.cli.views.signs import Signs, about_sessions, signs_of_life
from csa.errors import BusyError, CsaError, UsageError
from csa.model.configkeys import SHARED
from csa.model.limits import Budget
from csa.process.wakeup import noted_signals
from csa.runner.client import Csa
from csa.runner.detach import AppearedError
from csa.runner.hosts.engines import Link
from csa.runner.hosts.escrow import Escrow, settle_heard
from csa.runner.hosts.jobs import WithdrawnError, words_of
from csa.runner.hosts.placing import for_elsewhere
from csa.runner.hosts.sending import Where, begin_there, find_where, heed, reserve_for, tether_to, where_appeared
from csa.runner.hosts.syncing import Sync
from csa.runner.hosts.tether import Begun, StoppedError, Tether
from csa.runner.hosts.watching import Watching
from csa.runner.on_finish import FollowUp
from csa.runner.request import RunRequest
from csa.runner.turns.patience import try_until_free
from csa.structs import replace


def run_there(
    client: Csa, request: RunRequest, arguments: argparse.Namespace, host: str | None, link: Link | None
) -> int:
    """Run the turn on the host that is named, or that a session's name names; return its exit code.

    `link` is to a host that is being reached: that one, as far as is known.
    """
    request = for_elsewhere(client.context, request)
    if arguments.queue or arguments.steal:
        raise UsageError("--queue and --steal are for sessions of this host.", hint=f"ssh {host} csa run --queue ...")
    if arguments.detach:
        refuse_output(arguments, "--detach")
        if arguments.on_finish:
            raise UsageError("--on-finish runs here when a turn has ended; with --detach nobody waits for that.")
    after = None if arguments.detach else follow_up(client, arguments)
    where = find_where(client.context, request, host, arguments.cd)
    if link and link.engine == where.engine:
        where = replace(where, link=link)
    if arguments.dry_run:
        _print_plan(where, as_json=arguments.json)
        return 0
    with unread_stdin_told(arguments), signs_of_life(client.caller, quiet=arguments.quiet) as signs:
        signs.about(lambda: f"waiting for {where.engine.name}")
        try:
            with noted_signals() as noted:
                return _place(client, where, arguments, after=after, signs=signs, noted=noted)
        except WithdrawnError as withdrawn:
            if not where.is_new:
                raise
            if not arguments.quiet:
                tell("csa", f"{withdrawn.message} The turn runs here")
    return carry_out(client, request, arguments)


def _print_plan(where: Where, *, as_json: bool) -> None:
    engine, code = where.engine, "bundle" if where.code else where.engine.code
    goes = code if where.is_new and (where.code or code == SHARED) else None
    facts = {
        "session_id": None if where.is_new else where.session_id,
        "mirror": where.host.name,
        "reach": words_of(engine, where.node.name if where.node else None),
        "code": goes,
        "directory": None if where.code else where.directory or "~",
        "tool": where.request.tool,
        "leash_s": engine.leash_s,
    }
    if as_json:
        print_json(facts)
        return
    words = {"session": where.session_id if not where.is_new else "new", "host": engine.name, **facts}
    for name, value in words.items():
        if value is not None and name not in {"session_id", "mirror"}:
            print(f"{name:<11} {' '.join(value) if isinstance(value, list) else value}")


def _place(
    client: Csa,
    where: Where,
    arguments: argparse.Namespace,
    *,
    after: FollowUp | None,
    signs: Signs,
    noted: list[int],
) -> int:
    warn(where.code.warnings if where.code else ())
    sync = Watching(client.store.root_pathname)
    try:
        while True:
            try:
                with _reserved_when_free(client, where, arguments, noted) as escrow:
                    code = _place_once(
                        client, where, escrow, arguments, after=after, sync=sync, signs=signs, noted=noted
                    )
            except AppearedError as appeared:
                where = where_appeared(client.context, where, appeared)
                continue
            if sync.engine:
                settle_heard(client.store.root, sync.engine.name)  # if it was not the connection that said so
            return code
    except StoppedError as stopped:
        return 128 + signal.Signals[stopped.name]
    finally:
        sync.end()


def _reserved_when_free(client: Csa, where: Where, arguments: argparse.Namespace, noted: list[int]) -> Escrow:
    """Book what the session takes along; with `--wait` as soon as what it took the last time is settled."""
    allowance = Budget(
        tokens=arguments.allow_tokens or 0, usd=arguments.allow_usd or 0.0, time_s=arguments.allow_time or 0.0
    )

    def attempt() -> Escrow:
        return reserve_for(client.context, where, allowance)

    if arguments.wait is None:
        return attempt()
    tell_wait = (lambda _: None) if arguments.quiet else (lambda words: tell("csa", f"waiting: {words}"))
    return try_until_free(attempt, limit_s=arguments.wait, tell=tell_wait, check=lambda: heed(noted))


def _place_once(
    client: Csa,
    where: Where,
    escrow: Escrow,
    arguments: argparse.Namespace,
    *,
    after: FollowUp | None,
    sync: Watching,
    signs: Signs,
    noted: list[int],
) -> int:
    """Send the order, and see to what has begun."""

    def announce(words: str) -> None:
        if not arguments.quiet:
            tell("csa", words)

    context, is_detached = client.context, arguments.detach
    queue_s = where.engine.queue_s if client.caller else None
    watching = None if is_detached else sync
    tether = tether_to(
        context, where, escrow, is_detached=is_detached, queue_s=queue_s, noted=noted, tell=announce, watching=watching
    )
    try:
        begun = begin_there(
            context, where, escrow, tether, wait_s=arguments.wait, noted=noted, warn=warn, meanwhile=_load
        )
        if is_detached:
            return _tell_detached(client, tether, begun, arguments)
        if not sync.engine:
            sync.begin(tether.engine)
        watch = Watch(client, begun, where=where, tether=tether, sync=sync, arguments=arguments, after=after)
        signs.about(about_sessions([watch.target]))
        return watch.run(noted, escrow)
    finally:
        tether.close()


def _load() -> None:
    """Load what shows the turn."""
    for name in ("anyio", "anyio._backends._asyncio", "csa.cli.views.naming"):
        import_module(name)


def _tell_detached(client: Csa, tether: Tether, begun: Begun, arguments: argparse.Namespace) -> int:
    """Print the id of a turn that runs there by itself, which is then found here, too."""
    try:
        Sync(client.store.root_pathname, tether.engine).once()
    except BusyError:  # whoever keeps the mirror up to date will have it in a moment
        pass
    except CsaError as error:
        warn([f"{error.message} csa sync {begun.host} will find the session"])
    if arguments.json:
        print_json(begun.to_json())
    else:
        print(begun.session_id)
    if not arguments.quiet:
        what = f"{begun.tool}, turn {begun.turn}, PID {begun.pid} there"
        tell("csa", f"session {begun.session_id} is running on {begun.host} ({what})")
        tell("hint", f"csa sync {begun.host}; csa status {begun.session_id}")
    return 0
