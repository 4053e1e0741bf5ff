"""The server, for browsers, phones and programs: HTTP over the same sessions. See docs/serve.md."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from csa.cli.ourselves import own_command
from csa.cli.output import print_json, tell
from csa.cli.selecting import open_client
from csa.errors import RefusedError, UsageError
from csa.paths import state_root

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable

    from csa.serve.app import Api
    from csa.serve.tokens import Tokens
    from csa.store.locks import Lock

PORT = 7117
_WAY_IN = "open.html"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HIGHEST_PORT = 65_535


def configure_run(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where")
    where.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="the address to listen on (127.0.0.1)")
    where.add_argument("--port", type=int, default=PORT, metavar="N", help=f"the port ({PORT}); 0 takes a free one")
    where.add_argument("--socket", metavar="PATH", help="listen on a Unix socket instead")
    where.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="also answer to this name, or NAME:PORT"
    )
    where.add_argument("--tls-cert", metavar="FILE", help="use TLS, with this certificate")
    where.add_argument("--tls-key", metavar="FILE", help="the certificate's key")
    where.add_argument("--insecure-http", action="store_true", help="listen on another address without TLS")
    what = parser.add_argument_group("what")
    what.add_argument("--project", action="append", default=[], metavar="DIR", help="serve only this project")
    what.add_argument("--read-only", action="store_true", help="let nobody change anything")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def execute_run(arguments: argparse.Namespace) -> int:
    """Serve the sessions of all projects over HTTP, until Ctrl-C; prints the address, which has the token.

    Turns that are started through it run in the background, and go on when it ends. There is one server for a state
    root. Only the token's holder is answered; see csa serve token. On an address that other machines reach, TLS or
    --insecure-http is needed. The API is described by /api/v1/openapi.json and docs/http-api.md.

    Served are all projects that have sessions, and the one it is started in; with --project only these.
    """
    client = open_client()
    _refuse_agents()
    _refuse_open_doors(arguments)
    from csa.runner.atrest import close_opened  # noqa: PLC0415  # only serving needs these
    from csa.runner.sessions.fleet import Fleet  # noqa: PLC0415  # as above
    from csa.serve import endpoint, server  # noqa: PLC0415  # as above
    from csa.serve.app import Api  # noqa: PLC0415  # as above
    from csa.serve.served import Served  # noqa: PLC0415  # as above
    from csa.serve.tokens import Tokens  # noqa: PLC0415  # as above
    from csa.store.project import find_project  # noqa: PLC0415  # as above
    from csa.store.sessions import Store  # noqa: PLC0415  # as above

    if arguments.tls_cert:
        server.check_certificate(arguments.tls_cert, arguments.tls_key)
    root = client.store.root
    projects = {find_project(_directory(name)) for name in arguments.project}
    directory = client.context.directory_pathname
    if projects and client.store.project_pathname not in projects:
        directory = _directory(arguments.project[0])
    lock = endpoint.take(root)
    tokens = Tokens(root)
    tokens.local()
    path = Path(arguments.socket).absolute() if arguments.socket else None
    sock = server.listen_on_path(path) if path else server.listen(arguments.host, arguments.port)
    url = _url(arguments, 0 if path else sock.getsockname()[1])

    def is_served(project: str) -> bool:
        if not project.startswith("/"):  # of another host
            return not projects
        if projects or project == client.store.project_pathname:
            return project in (projects or {project})
        return os.path.isdir(Store(root, project).sessions_dir)

    def make_api() -> Api:
        fleet = Fleet(str(root), served=is_served, mirrors=True)
        served = Served(str(root), fleet, os.environ, command=own_command(), directory=directory)
        hosts = frozenset(name.lower() for name in (*_LOCAL_NAMES, _in_url(arguments.host), *arguments.allow_host))
        return Api(served, tokens, hosts, read_only=arguments.read_only)

    certificate = (arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None
    announce = _announcer(lock, url, path, tokens, opens=arguments.open)
    server.run(make_api, sock, certificate=certificate, on_listening=announce)
    for left in filter(None, (path, tokens.directory / _WAY_IN)):
        left.unlink(missing_ok=True)
    close_opened()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads may still be waiting for sessions to end, for as long as it takes


def _announcer(lock: Lock, url: str, path: Path | None, tokens: Tokens, *, opens: bool) -> Callable[[], None]:
    from csa.serve import endpoint  # noqa: PLC0415  # loaded

    def announce() -> None:
        endpoint.announce(tokens.directory.parent, lock, url, str(path) if path else None)
        address = _with_token(url, tokens)
        print(path or address, flush=True)
        tell("csa", f"serving on {path or url}; Ctrl-C ends it")
        if opens:
            _open(address, tokens.directory / _WAY_IN)

    return announce


def _open(address: str, way_in: Path) -> None:
    """Open the page, by a file that leads there: what is on a command line, all users of the machine can see."""
    import threading  # noqa: PLC0415  # only --open needs these
    import webbrowser  # noqa: PLC0415  # as above

    from csa.store.atomic import write_atomically  # noqa: PLC0415  # as above

    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        tell("csa", "there is no browser here; open the address yourself")
        return
    write_atomically(way_in, f'<!doctype html><meta http-equiv="refresh" content="0;url={address}">'.encode())
    threading.Thread(target=webbrowser.open, args=(way_in.as_uri(),), daemon=True).start()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _url(arguments: argparse.Namespace, port: int) -> str:
    host = _in_url(arguments.host)
    if arguments.socket:
        return "http://localhost"
    return f"http{'s' if arguments.tls_cert else ''}://{host}:{port}"


def _with_token(url: str, tokens: Tokens) -> str:
    """Return the address with the token in its fragment, which browsers send to nobody."""
    return f"{url}/#token={tokens.local()}"


def _refuse_agents() -> None:
    if open_client().caller is not None:
        raise RefusedError("An agent cannot use csa serve.", hint="leave that to whoever started it")


def _refuse_open_doors(arguments: argparse.Namespace) -> None:
    from csa.serve.peer import is_loopback  # noqa: PLC0415  # only serving needs it

    if not 0 <= arguments.port <= _HIGHEST_PORT:
        raise UsageError(f"--port is a number from 0 to {_HIGHEST_PORT}.")
    if (arguments.tls_cert is None) is not (arguments.tls_key is None):
        raise UsageError("--tls-cert and --tls-key belong together.")
    for file in filter(None, (arguments.tls_cert, arguments.tls_key)):
        if not os.access(file, os.R_OK):
            raise UsageError(f"{file} cannot be read.")
    for name in arguments.allow_host:
        if not re.fullmatch(r"[\w.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?", name):
            raise UsageError(f"--allow-host: '{name}' is neither NAME nor NAME:PORT.", hint="without https:// and path")
    is_safe = arguments.socket or arguments.tls_cert or is_loopback(arguments.host)
    if arguments.open and arguments.socket:
        raise UsageError("--open: browsers cannot open a Unix socket.")
    if not (is_safe or arguments.insecure_http):
        raise UsageError(
            f"--host {arguments.host}: other machines would send the token in clear text.",
            hint="--tls-cert FILE --tls-key FILE; a tunnel (ssh -L); or --insecure-http, if the network is yours",
        )


def _directory(name: str) -> str:
    if not os.path.isdir(name):
        raise UsageError(f"--project: there is no directory {name}.")
    return os.path.realpath(name)


def configure_url(_: argparse.ArgumentParser) -> None:
    pass


def execute_url(_: argparse.Namespace) -> int:
    """Print the address of the running server, with the token. Whoever has it may do what you may do with csa."""
    _refuse_agents()
    from csa.serve import endpoint  # noqa: PLC0415  # only these need it
    from csa.serve.tokens import Tokens  # noqa: PLC0415  # as above

    root = Path(state_root(os.environ))
    found = endpoint.require(root)
    print(_with_token(found.url, Tokens(root)))
    if found.socket:
        tell("csa", f"it listens on {found.socket}")
    return 0


def configure_token(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="make a token with this name, and print it")
    parser.add_argument("--read", action="store_true", help="it may only read")
    parser.add_argument("--revoke", action="store_true", help="remove the token with this name instead")
    parser.add_argument("--json", action="store_true", help="without NAME: print an array of objects")


def execute_token(arguments: argparse.Namespace) -> int:
    """List the tokens for csa serve; or make one, for a phone or a program, or revoke one, also while it is used.

    A token is printed once, and only its hash is kept; but that of `local`, which csa serve url prints, is kept.
    """
    _refuse_agents()
    from csa.model.schemas.route import ACT, READ  # noqa: PLC0415  # only this needs them
    from csa.serve.tokens import Tokens  # noqa: PLC0415  # as above

    tokens = Tokens(Path(state_root(os.environ)))
    if arguments.name is None:
        if arguments.read or arguments.revoke:
            raise UsageError("Name the token.", hint="csa serve token NAME")
        if arguments.json:
            print_json([token.to_json() for token in tokens.all()])
        elif not tokens.all():
            tell("csa", "no tokens yet")
        for token in () if arguments.json else tokens.all():
            print(f"{token.name:<20} {token.level:<5} {token.created_at}")
        return 0
    if arguments.json:
        raise UsageError("--json lists the tokens.")
    if arguments.revoke:
        tokens.revoke(arguments.name)
    else:
        print(tokens.add(arguments.name, READ if arguments.read else ACT))
    return 0


def configure_stop(_: argparse.ArgumentParser) -> None:
    pass


def execute_stop(_: argparse.Namespace) -> int:
    """End the running server. What was started through it goes on."""
    _refuse_agents()
    from csa.serve import endpoint  # noqa: PLC0415  # only this needs it

    found = endpoint.stop(Path(state_root(os.environ)))
    print(f"stopped (PID {found.pid})")
    return 0
