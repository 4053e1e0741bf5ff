"""Listening and ending. The only importer of uvicorn.

The server ends within two seconds, whatever clients do: streams are told, and answers that are still worked on are
given up; turns go on by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from csa.errors import CsaError, UsageError
from csa.ownership import give_to_owner
from csa.serve.app import Api
from csa.serve.guard import TOKEN
from csa.serve.peer import UNIX

_GRACE_S = 1
_BUFFER_BYTES = 16 << 10  # of a connection, above which nothing more is written to it
HEAD_WITHIN_S = 10.0
TAKEN_WITHIN_S = 60.0  # an answer to who has no token
_MOST_CONNECTIONS = 512
_RESERVED_DESCRIPTORS = 256
_LONGEST_SOCKET = 107
_CREDENTIALS = "3i"  # pid, uid, gid


class Protocol(H11Protocol):
    """HTTP/1.1 with small buffers, so that a stalled client costs little, which knows the peer of a Unix socket.

    Strangers, who have not shown a token, keep nobody out: a request's head has to come in limited time, its answer has
    to be taken in limited time, and when there are too many connections, the one that has been a stranger's for longest
    makes room.
    """

    _strangers: ClassVar[dict[Protocol, None]] = {}  # connections that were so when they were looked at, in their order
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        own: socket.socket = transport.get_extra_info("socket")
        if own.family == socket.AF_UNIX:
            said = own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_CREDENTIALS))
            self.client = UNIX, struct.unpack(_CREDENTIALS, said)[0]
            self.server = UNIX, 0
        if len(self.connections) > most_connections():
            next((each for each in self._strangers if not each.is_known), self).transport.abort()
        self._wait_for_request()

    def handle_events(self) -> None:
        super().handle_events()
        if not self.is_known and self._deadline is None:
            self._wait_for_request()

    def on_response_complete(self) -> None:
        self._wait_for_request()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    @property
    def is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_known(self) -> bool:
        """Whether who has shown a token is being answered."""
        return self.is_answering and TOKEN in self.cycle.scope

    def _wait_for_request(self) -> None:
        self._forget()
        if not self.transport.is_closing():
            self._strangers[self] = None
            self._deadline = self.loop.call_later(HEAD_WITHIN_S, self._end_stranger, TAKEN_WITHIN_S)

    def _end_stranger(self, more_s: float) -> None:
        if self.is_known:
            self._forget()
        elif self.is_answering and more_s:
            self._deadline = self.loop.call_later(more_s, self._end_stranger, 0)
        else:
            self.transport.abort()

    def _forget(self) -> None:
        self._strangers.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        """Say that what came is no HTTP; if it came in the middle of a request, that is not answered any more."""
        if self.is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()


def most_connections() -> int:
    """Return how many there may be, which leaves descriptors for everything else."""
    return max(16, min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED_DESCRIPTORS))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, api: Api, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._api = api
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            self._on_listening()
        except (CsaError, OSError):  # nobody can be told where it is
            await self.shutdown(sockets)
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._api.ending.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on TERM, INT and a hangup; a signal that was ignored when we started stays so."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._end)
        yield

    def _end(self) -> None:
        """End in time and in order, also when asked again."""
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Open the port; CsaError if it is taken, or the address is not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family[0], socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host: '{host}': {error.strerror}.") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(family[4])
        found.listen(256)
    except OSError as error:
        found.close()
        is_ours = error.errno != errno.EADDRNOTAVAIL
        hint = "--port 0 takes a free one" if is_ours else "--host takes an address of this machine"
        raise CsaError(f"csa cannot listen on {host}, port {port}: {error.strerror}.", hint=hint) from error
    return found


def listen_on_path(path: Path) -> socket.socket:
    """Open a Unix socket that only this user can use; what a server that was killed has left is replaced."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _is_answered(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            found.bind(str(path))
        finally:
            os.umask(before)
        give_to_owner(path)
        found.listen(256)
    except OSError as error:
        found.close()
        hint = f"--socket takes a place that is free, in at most {_LONGEST_SOCKET} bytes"
        raise CsaError(f"csa cannot listen on {path}: {error.strerror or error}.", hint=hint) from error
    return found


def check_certificate(certificate: str, key: str) -> None:
    """Raise UsageError for files that cannot be used for TLS; nobody is asked for a passphrase."""
    import ssl  # noqa: PLC0415  # only TLS needs it

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # of ssl, too
        hint = "PEM files, the key without a passphrase"
        raise UsageError(f"--tls-cert, --tls-key: {error.strerror or error}.", hint=hint) from error


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def run(
    make_api: Callable[[], Api],
    sock: socket.socket,
    *,
    certificate: tuple[str, str] | None,
    on_listening: Callable[[], None],
) -> None:
    """Serve until a signal ends it."""

    async def serve() -> None:
        api = make_api()
        cert, key = certificate or (None, None)
        config = uvicorn.Config(
            api.guard,
            http=Protocol,
            ws="none",
            loop="asyncio",
            log_level="error",  # what a client sends is no news
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=cert,
            ssl_keyfile=key,
        )
        await _Server(config, api, on_listening).serve(sockets=[sock])

    asyncio.run(serve())
