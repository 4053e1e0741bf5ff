"""csa serve and its connections: those that ask nothing keep nobody out; TLS; what a revoked token has opened."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.serving import API, Server, serving
from tests.support import PATIENCE_S, Place, allowing, wait_for


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)


@pytest.mark.thorough
def test_who_asks_nothing_keeps_nobody_out(server: Server) -> None:
    """More connections than there may be, with nothing, half a request or an answered one: others are answered."""
    beginnings = (b"", b"GET / HTTP/1.1\r\nHost: loc", b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with ExitStack() as stack, server.stream("/events") as events:
        next(events)
        for number in range(600):
            own = stack.enter_context(connect(server))
            own.sendall(beginnings[number % len(beginnings)])
            if number % 100 == 0:
                assert server.ask("GET", "/health").status == 200
        began = time.monotonic()
        assert server.ask("GET", "/health").status == 200
        assert time.monotonic() - began < allowing(2)
        server.start()
        assert next(events).name == "changes"  # one with a request is not dropped


@pytest.mark.thorough
def test_a_request_has_to_come_in_time(server: Server) -> None:
    """Who sends a byte of it now and then is dropped, on a new connection as on one that was used."""
    with connect(server) as new, connect(server) as used:
        used.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 401 " in used.recv(4096)
        began = time.monotonic()
        left = [new, used]
        while left:
            left = [own for own in left if not _is_dropped_for_a_byte(own)]
            assert len(left) == 2 or time.monotonic() - began > 5
            assert time.monotonic() - began < allowing(15)


def _is_dropped_for_a_byte(own: socket.socket) -> bool:
    own.settimeout(0.25)
    try:
        own.sendall(b"G")
        return own.recv(1) == b""
    except TimeoutError:
        return False
    except (ConnectionResetError, BrokenPipeError):
        return True


@pytest.mark.thorough
@pytest.mark.long
def test_the_streams_of_a_revoked_token_end(place: Place, server: Server) -> None:
    """Within 15 seconds, with whoever else is connected unharmed."""
    reading = place.run("serve", "token", "phone", "--read").out.strip()
    with server.stream("/events") as others:
        next(others)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        head = {"Authorization": f"Bearer {reading}", "Accept": "text/event-stream"}
        connection.request("GET", f"{API}/events", headers=head)
        answer = connection.getresponse()
        assert answer.readline().startswith(b"retry:")
        place.run("serve", "token", "phone", "--revoke")
        began = time.monotonic()
        while answer.readline():
            pass
        assert time.monotonic() - began < allowing(17)
        connection.close()
        server.start()
        assert next(others).name == "changes"


@pytest.mark.thorough
def test_tls_with_a_certificate(place: Place, tmp_path: Path) -> None:
    """A client that trusts the authority asks over https, from a page of that origin; plain HTTP gets no answer."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1", "box.example")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(pem.bytes() for pem in own.cert_chain_pems))
    own.private_key_pem.write_to_path(key)
    words = ("--tls-cert", str(certificate), "--tls-key", str(key), "--allow-host", "box.example:8443")
    with serving(place, *words) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        context = ssl.create_default_context()
        authority.configure_trust(context)

        def ask(path: str, **headers: str) -> int:
            asking = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE_S, context=context)
            asking.request("GET", f"{API}{path}", headers={"Authorization": f"Bearer {server.token}", **headers})
            answer = asking.getresponse()
            answer.read()
            asking.close()
            return answer.status

        assert ask("/health") == 200
        assert ask("/health", Origin=server.url) == 200
        assert ask("/health", Origin="https://127.0.0.1") == 403
        assert ask("/health", Origin=server.url.replace("https", "http")) == 403
        assert ask("/health", Host="box.example:8443", Origin="https://box.example:8443") == 200
        assert ask("/health", Host="box.example:8443", Origin="https://box.example") == 403
        assert ask("/health", Host="box.example") == 421
        assert ask("/health", Host="box.example:8444") == 421
        with pytest.raises((http.client.HTTPException, OSError)):
            server.ask("GET", "/health")
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(connect(server), server_hostname="127.0.0.1")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["https://box.example", "box.example/x", "", "box example", "box:port"])
def test_names_that_are_none(place: Place, name: str) -> None:
    """What could never be a Host is an error, and does not wait to be noticed."""
    found = place.run("serve", "--port", "0", "--allow-host", name)
    assert (found.code, "--allow-host" in found.err) == (2, True)
    wait_for(lambda: not (place.state_root / ".serve" / "lock").exists(), "nothing was begun")
