"""Which process is at the other end of a connection: found in the kernel's tables, whatever address was used."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from csa.serve.peer import identity_of_peer, is_loopback
from tests.store.support import child
from tests.support import PATIENCE_S

_CONNECT = """
import os, socket
os.environ["WHO"] = "changed, which does not matter"
own = socket.create_connection((args[0], int(args[1])))
say("ready")
wait()
"""


def own_addresses() -> list[tuple[str, str]]:
    """Return what to listen on, and what to connect to: also an address that other machines use."""
    found = [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            found.append(("0.0.0.0", probe.getsockname()[0]))
        except OSError:
            pass
    if socket.has_ipv6 and os.path.exists("/proc/net/tcp6"):
        found += [("::1", "::1"), ("::", "127.0.0.1")]
    return found


@pytest.mark.thorough
def test_a_client_on_this_machine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session is the one in its environment, however it has connected."""
    monkeypatch.setenv("CSA_SESSION_ID", "01JH4QWERT0000000000000000")
    for listening, target in own_addresses():
        family = socket.AF_INET6 if ":" in listening else socket.AF_INET
        try:
            listener = socket.create_server((listening, 0), family=family, dualstack_ipv6=listening == "::")
        except OSError:  # there is no IPv6 here
            continue
        with listener, child(_CONNECT, target, listener.getsockname()[1]) as other:
            connection, client = listener.accept()
            with connection:
                other.hear()
                server = connection.getsockname()
                assert identity_of_peer(client[:2], server[:2]) == {"CSA_SESSION_ID": "01JH4QWERT0000000000000000"}


_HIDDEN = """
import ctypes, encodings.ascii, os, socket
import csa.process.guardian  # while it may be read
from csa.errors import RefusedError
from csa.serve.peer import identity_of_peer
listener = socket.create_server(("127.0.0.1", 0))
reading, writing = os.pipe()
if (pid := os.fork()) == 0:
    os.close(writing)
    is_root = not os.geteuid()
    ctypes.CDLL(None).setresuid(*3 * [65534]) if is_root else None
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: as a server that has changed its user
    own = socket.socket()
    own.connect(listener.getsockname())
    os.read(reading, 1)
    os._exit(0)
os.close(reading)
connection, client = listener.accept()
if not os.geteuid():
    os.setresuid(65534, 65534, 65534)
ends = client, connection.getsockname()
try:
    print("seen", identity_of_peer(*ends))
except RefusedError:
    print("refused")
os.close(writing)
os.waitpid(pid, 0)
try:
    print("seen", identity_of_peer(*ends))
except RefusedError:
    print("refused")
"""


@pytest.mark.thorough
def test_a_client_into_which_nobody_may_look() -> None:
    """A tunnel's process belongs to no session, though it hides from its own user; one that is gone may be an agent."""
    found = subprocess.run(
        [sys.executable, "-c", _HIDDEN], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert found.stdout.splitlines() == ["seen {}", "refused"]


def test_what_is_loopback() -> None:
    """Addresses that only this machine reaches, and no names that somebody else may define."""
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "unix")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "localhost.example", "", "127.1")))
