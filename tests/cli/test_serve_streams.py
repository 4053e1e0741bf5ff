"""Streams that break: every client gets every event once, and those who do not read cost little."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from csa.procfs import resident_bytes
from csa.store.journal import Journal
from csa.store.sessions import Store
from tests.serving import API, Server, serving
from tests.store.support import IDS, PLAIN, publish
from tests.support import PATIENCE_S, Place, wait_for

CLIENTS, EVENTS = 8, 400


class Client:
    """Follows a session, and loses its connection again and again, in the middle of whatever comes."""

    def __init__(self, session_id: str, seed: int) -> None:
        self.path = f"{API}/sessions/{session_id}/events"
        self.random = random.Random(seed)
        self.seen: list[int] = []
        self.breaks = 0

    def follow(self, server: Server, *, until: int) -> None:
        while not self.seen or self.seen[-1] < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as own:
                last = f"Last-Event-ID: {self.seen[-1]}\r\n" if self.seen else ""
                head = f"Host: localhost\r\nAuthorization: Bearer {server.token}\r\nAccept: text/event-stream\r\n{last}"
                own.sendall(f"GET {self.path} HTTP/1.0\r\n{head}\r\n".encode())
                self._read(own, self.random.randrange(500, 20_000))
            self.breaks += 1

    def _read(self, own: socket.socket, most: int) -> None:
        """Read so many bytes; only events that came whole count, as for any client."""
        content = b""
        own.settimeout(0.5)
        with suppress(OSError):  # nothing comes any more, or the server is gone
            while len(content) < most and (piece := own.recv(min(997, most - len(content)))):
                content += piece
        whole = content[: content.rfind(b"\n\n") + 2]
        self.seen += [int(number) for number in re.findall(rb"^id: (\d+)$", whole, re.MULTILINE)]


@pytest.mark.thorough
def test_every_client_gets_each_event_once(place: Place, state_root: Path, project: Path) -> None:
    """Over random disconnects, and a restart of the server, all get exactly 1 to n, in order."""
    store = Store(state_root, project)
    with publish(store, IDS[0]) as held:
        clients = [Client(IDS[0], seed) for seed in range(CLIENTS)]

        def write(until: int) -> None:
            journal = Journal(held.paths.transcript, PLAIN, turn=1)
            while journal.mark().seq < until:
                journal.append("agent_message", {"text": "word " * random.Random(until).randrange(1, 200)})
                journal.sync()
            journal.close()

        server = Server(place)
        for until in (EVENTS // 2, EVENTS):
            wanted = {"until": until}
            threads = [threading.Thread(target=each.follow, args=(server,), kwargs=wanted) for each in clients]
            for thread in (*threads, writer := threading.Thread(target=write, args=(until,))):
                thread.start()
            for thread in (*threads, writer):
                thread.join(PATIENCE_S)
                assert not thread.is_alive()
            if until < EVENTS:
                server.running.kill()
                server = Server(place)
        server.stop()
    assert [each.seen for each in clients] == [list(range(1, EVENTS + 1))] * CLIENTS
    assert min(each.breaks for each in clients) > 3


def settled_bytes(pid: int) -> int:
    """Return what a server takes when it has loaded all that it loads in the background."""
    before, now = 0, resident_bytes(pid)
    while now > before + (64 << 10):
        time.sleep(0.5)
        before, now = now, resident_bytes(pid)
    return now


@pytest.mark.thorough
def test_clients_that_do_not_read_cost_little(place: Place, state_root: Path, project: Path) -> None:
    """A hundred stalled clients of a long transcript add at most 10 MB, and hold up nobody."""
    store = Store(state_root, project)
    with publish(store, IDS[0]) as held, serving(place) as server:
        journal = Journal(held.paths.transcript, PLAIN, turn=1)
        for _ in range(300):
            journal.append("agent_message", {"text": "word " * 2000})
        journal.sync()
        journal.close()
        with server.stream(f"/sessions/{IDS[0]}/events") as events:
            next(events)
        before = settled_bytes(server.running.pid)
        stalled = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        head = f"Host: localhost\r\nAuthorization: Bearer {server.token}\r\nAccept: text/event-stream\r\n"
        for own in stalled:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            own.sendall(f"GET {API}/sessions/{IDS[0]}/events HTTP/1.1\r\n{head}\r\n".encode())
        for own in stalled:
            own.recv(100)
        with server.stream(f"/sessions/{IDS[0]}/events") as events:
            assert [next(events).id for _ in range(301)][-1] == "301"
        wait_for(lambda: server.get("/health")["ok"], "it answers")
        added = resident_bytes(server.running.pid) - before
        for own in stalled:
            own.close()
        assert added < 10 << 20, f"{added / 2**20:.1f} MB"
