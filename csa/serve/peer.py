"""Which process is at the other end of a connection from this machine: an agent acts as its own session.

The kernel's tables name the owner and the inode of the other end's socket, and /proc which process has it open. What
another user has connected, such as a tunnel or a proxy, belongs to no session.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator

from csa.errors import RefusedError
from csa.procfs import all_pids
from csa.runner.ancestry import identity_of

UNIX = "unix"  # in place of a client's address: then the port is the peer's pid
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LOCAL, _REMOTE, _UID, _INODE = 1, 2, 7, 9  # fields of a line


def is_loopback(address: str) -> bool:
    """Say whether an address, or a name, can only be reached from this machine."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address in {"localhost", UNIX}


def identity_of_peer(client: tuple[str, int] | None, server: tuple[str, int] | None) -> dict[str, str]:
    """Return the variables that say to which session the process at the other end belongs; empty for none.

    Raises:
        RefusedError: it is a process of this user that cannot be found, and may be an agent.
    """
    if client is None or server is None:  # it was gone before it could be looked at
        raise _unknown()
    if client[0] == UNIX:
        return identity_of(client[1])
    found = _socket_of(client, server)
    is_local = is_loopback(client[0]) or client[0] == server[0]
    if found is None and not is_local:  # else it comes from here, whatever address it has used
        return {}
    if found is None or not found[1]:  # the process is gone, and its socket is nobody's: the table says root's
        raise _unknown()
    uid, inode = found
    if uid != os.geteuid():
        return {}
    hidden: list[int] = []
    pids = list(_holders(inode, hidden))
    if not pids:  # then it is a hidden one: of ssh's server, say, which has changed its user
        if not hidden or any(map(identity_of, hidden)) or _socket_of(client, server) != found:
            raise _unknown()
        return {}
    return next((known for pid in pids if (known := identity_of(pid))), {})


def _unknown() -> RefusedError:
    return RefusedError(
        "It cannot be told which process asks for this.", hint="keep the connection open until it is answered"
    )


def _socket_of(client: tuple[str, int], server: tuple[str, int]) -> tuple[int, int] | None:
    """Return the owner and the inode of the client's end of a connection."""
    ends = _spelled(client), _spelled(server)
    for table in _TABLES:
        try:
            with open(table, encoding="ascii") as file:
                for line in file:
                    words = line.split()
                    if (words[_LOCAL], words[_REMOTE]) in _pairs(*ends):
                        return int(words[_UID]), int(words[_INODE])
        except OSError:  # there is no IPv6
            continue
    return None


def _pairs(client: tuple[str, ...], server: tuple[str, ...]) -> set[tuple[str, str]]:
    return set(zip(client, server, strict=True))


def _spelled(end: tuple[str, int]) -> tuple[str, ...]:
    """Return an address and port as the tables have them: as IPv4, and as that in IPv6; or as IPv6."""
    address = ipaddress.ip_address(end[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    forms = [address.packed]
    if isinstance(address, ipaddress.IPv4Address):
        forms.append(bytes(10) + b"\xff\xff" + address.packed)
    return tuple(f"{_words(packed)}:{end[1]:04X}" for packed in forms)


def _words(packed: bytes) -> str:
    """Return an address in the kernel's notation: 32-bit words in the machine's order of bytes."""
    return "".join(f"{socket.ntohl(int.from_bytes(packed[at : at + 4])):08X}" for at in range(0, len(packed), 4))


def _holders(inode: int, hidden: list[int]) -> Iterator[int]:
    """Yield the processes that have a socket open; those into which we may not look are appended to `hidden`."""
    name = f"socket:[{inode}]"
    for pid in all_pids():
        if pid == os.getpid():
            continue
        try:
            with os.scandir(f"/proc/{pid}/fd") as entries:
                if any(os.readlink(entry.path) == name for entry in entries):
                    yield pid
        except PermissionError:  # most are another user's
            hidden.append(pid)
        except OSError:  # just gone
            continue
