"""What `csa serve` costs: python bench/serve.py [CLIENTS [TURNS [SECONDS]]].

So many clients follow all sessions or one transcript each, while so many sessions are written to five times a second.
Prints the server's share of a core, its memory, and how late events arrive; then what a look at 10,000 sessions costs.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.generate_store import make_store
from csa.ids import new_session_id
from csa.model.limits import Limits
from csa.model.redaction import Redactor
from csa.model.state import SessionState
from csa.procfs import cpu_ticks, resident_bytes
from csa.runner.sessions.fleet import Fleet
from csa.store.held import HeldSession, build_session
from csa.store.journal import Journal
from csa.store.sessions import Store
from csa.store.slots import SlotHolder, take_slot

EVERY_S = 0.2


def begin(store: Store, number: int) -> tuple[HeldSession, Journal]:
    """Begin a turn, as a supervisor does."""
    session_id = new_session_id(time.time_ns() // 1_000_000 + number, os.urandom(10))
    now = datetime.now(UTC)
    state = SessionState(
        session_id=session_id,
        project_path=str(store.project),
        created_at=now,
        last_accessed=now,
        description=f"bench {number}",
        schema=1,
    )
    held = build_session(store, state, Redactor(), tool="codex")
    journal = Journal(held.paths.transcript, Redactor(), turn=1)
    journal.append("run_started", {"tool": "codex", "prompt": "bench"})
    journal.sync()
    held.publish()
    journal.close()
    return held, Journal(store.paths(session_id).transcript, Redactor(), turn=1)


async def follow(port: int, token: str, path: str, late: list[float]) -> None:
    """Follow a stream; note how late its events are."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(f"GET /api/v1{path} HTTP/1.0\r\n{head}".encode())
    while line := await reader.readline():
        if line.startswith(b'data: {"v":1') and b'"sent":' in line:
            late.append(time.time() - json.loads(line[6:])["data"]["sent"])


def measure_fleet(directory: Path) -> None:
    """Print what a look at all sessions costs, with 10,000 at rest and 20 running."""
    make_store(directory, 10_000)
    store = Store(directory / "state", directory / "project")
    fleet = Fleet(str(store.root))
    running = [begin(store, number) for number in range(20)]
    slots = [take_slot(store.root, SlotHolder(held.state.session_id, "codex"), Limits()) for held, _ in running]
    fleet.look()
    while not fleet.is_complete:
        fleet.look()
    costs: list[float] = []
    for _ in range(40):
        time.sleep(EVERY_S)
        began = time.process_time()
        fleet.look()
        costs.append(1000 * (time.process_time() - began))
    costs.sort()
    print(
        f"a look at 10,000 sessions, 20 running: median {costs[20]:.1f} ms of CPU, 90th percentile {costs[36]:.1f} ms"
    )
    for slot in slots:
        slot.close()


async def measure(clients: int, turns: int, seconds: float, directory: Path) -> None:
    store = Store(directory / "state", directory / "project")
    store.project.mkdir()
    running = [begin(store, number) for number in range(turns)]
    slots = [take_slot(store.root, SlotHolder(held.state.session_id, "codex"), Limits()) for held, _ in running]
    environ = {**os.environ, "CSA_STATE_DIR": str(store.root), "HOME": str(directory)}
    csa = Path(sys.executable).parent / "csa"
    with subprocess.Popen(  # noqa: ASYNC220  # it is the one that is measured
        [csa, "serve", "--port", "0"], env=environ, cwd=store.project, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout
        url, _, token = server.stdout.readline().decode().strip().partition("/#token=")
        late: list[float] = []
        port = int(url.rpartition(":")[2])
        paths = ["/events", *(f"/sessions/{held.state.session_id}/events" for held, _ in running)]
        tasks = [asyncio.create_task(follow(port, token, paths[n % len(paths)], late)) for n in range(clients)]
        await asyncio.sleep(2)
        late.clear()
        ticks, began = cpu_ticks(server.pid), time.monotonic()
        while time.monotonic() - began < seconds:
            for at, (_, journal) in enumerate(running):
                journal.append("agent_message", {"text": "word " * 20, "sent": time.time()})
                journal.flush()
                if at % 5 == 0:
                    await asyncio.sleep(EVERY_S / (turns / 5))
        share = (cpu_ticks(server.pid) - ticks) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
        late.sort()
        memory, middle, end = resident_bytes(server.pid) >> 20, late[len(late) // 2], late[len(late) * 99 // 100]
        print(f"{clients} clients, {turns} turns: {share:.0%} of a core, {memory} MB;", end=" ")
        print(f"{len(late)} events, median {middle * 1000:.0f} ms late, p99 {end * 1000:.0f} ms")
        for task in tasks:
            task.cancel()
        server.terminate()
    for slot in slots:
        slot.close()


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    clients, turns, seconds = [*given, *(200, 50, 10)[len(given) :]]
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as large:
        asyncio.run(measure(clients, turns, seconds, Path(place)))
        measure_fleet(Path(large))
