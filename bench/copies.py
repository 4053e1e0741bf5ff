"""What a copy in PostgreSQL costs: python bench/copies.py [MESSAGES]; by default 70,000, in 70 sessions.

Prints how long `csa mirror` takes to copy them, from its start on, and what psql's own \\copy takes for the same rows,
into the same tables of another database of the same server, in the same rounds; what a run with nothing new takes; and
how long it is until an event of a running turn is in the database.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))

from csa.runner.copies.postgres import migrate
from csa.runner.copies.target import Address
from csa.store.journal import Journal
from csa.store.sessions import Store
from tests.databases import serving_postgres
from tests.store.support import PLAIN, publish

CSA = str(Path(sys.executable).with_name("csa"))
SESSIONS, ROUNDS, SINGLE = 70, 5, 30
TABLES = ("session", "message", "progress")


def main() -> None:
    count = int((sys.argv[1:] or ["70000"])[0])
    with tempfile.TemporaryDirectory() as base, serving_postgres() as server:
        place = Path(base)
        store = Store(place / "state", "/p")
        for at in range(SESSIONS):
            _write(store, f"01JH4QWERT00000000000000{at // 10}{at % 10}", count // SESSIONS)
        rounds = [_round(server, place, number) for number in range(ROUNDS)]
        mirror_s, copy_s, nothing_s = (statistics.median(each) for each in zip(*rounds, strict=True))
        ratios = [mirror / copy for mirror, copy, _ in rounds]
        print(f"{count} messages: csa mirror {mirror_s:.2f} s, \\copy of its rows {copy_s:.2f} s")
        print(f"ratio p50 {statistics.median(ratios):.1f}x, {min(ratios):.1f}x to {max(ratios):.1f}x")
        print(f"nothing new: {nothing_s * 1e3:.0f} ms")
        delays = sorted(_delays(f"{server}/r0", place, store))
        middle, worst = statistics.median(delays), delays[int(0.95 * len(delays))]
        print(f"an event in the database after {middle * 1e3:.0f} ms (p50), {worst * 1e3:.0f} ms (p95)")


def _write(store: Store, session_id: str, count: int) -> None:
    publish(store, session_id, owner="me").close()
    journal = Journal(store.paths(session_id).transcript, PLAIN, turn=1)
    for at in range(count - 1):  # the prompt is one
        kind = "agent_message" if at % 2 else "agent_thought"
        journal.append(kind, {"text": f"message {at}: " + "some words of an agent, " * 8})
    journal.close()


def _environment(place: Path) -> dict[str, str]:
    return {**os.environ, "CSA_STATE_DIR": str(place / "state"), "HOME": str(place)}


def _mirror(url: str, place: Path) -> float:
    began = time.perf_counter()
    subprocess.run([CSA, "mirror", "--to", url], env=_environment(place), cwd="/", check=True, capture_output=True)
    return time.perf_counter() - began


def _round(server: str, place: Path, number: int) -> tuple[float, float, float]:
    """Return how long a new copy takes, one by psql of the same rows, and a look at what has not changed."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        for name in (f"r{number}", f"c{number}"):
            connection.execute(f"CREATE DATABASE {name}".encode())
    mirror_s = _mirror(f"{server}/r{number}", place)
    nothing_s = _mirror(f"{server}/r{number}", place)
    files = {table: f"{place}/{table}.tsv" for table in TABLES}
    _psql(f"{server}/r{number}", *(f"\\copy csa.{table} TO '{file}'" for table, file in files.items()))
    with psycopg.connect(f"{server}/c{number}", autocommit=True) as connection:
        migrate(connection, Address(server).failure)
    began = time.perf_counter()
    _psql(f"{server}/c{number}", *(f"\\copy csa.{table} FROM '{file}'" for table, file in files.items()))
    return mirror_s, time.perf_counter() - began, nothing_s


def _psql(url: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", url, *words], check=True)


def _delays(url: str, place: Path, store: Store) -> list[float]:
    """Return how long single events take to be in a copy that is kept up to date."""
    session_id = "01JH4QWERT0000000000000099"
    delays = []
    with publish(store, session_id) as held, psycopg.connect(url, autocommit=True) as connection:
        watching = subprocess.Popen(
            [CSA, "mirror", "--to", url, "--watch"], env=_environment(place), cwd="/", stderr=subprocess.PIPE
        )
        assert watching.stderr
        watching.stderr.readline()
        with closing(Journal(held.paths.transcript, PLAIN, turn=1)) as journal:
            for _ in range(SINGLE):
                (event,) = journal.append("agent_message", {"text": "now"})
                journal.flush()
                began = time.perf_counter()
                words = b"SELECT FROM csa.message WHERE session_id = %s AND seq = %s"
                while not connection.execute(words, (session_id, event.seq)).fetchall():
                    time.sleep(0.002)
                delays.append(time.perf_counter() - began)
                time.sleep(0.03)
        watching.terminate()
        watching.wait()
    return delays


if __name__ == "__main__":
    main()
