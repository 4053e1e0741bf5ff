"""What mirrors cost: python bench/hosts.py [EVENTS]; by default 200,000, of about 250 bytes.

Prints how many events a second go through an outlet and an intake, beside `cat` of the same transcript into a file in
the same round, and how long it takes until an event of a running turn can be read in the mirror.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from csa.model.redaction import Redactor
from csa.model.state import SessionState
from csa.runner.hosts.intake import Intake
from csa.runner.hosts.outlet import write_having
from csa.store.held import build_session
from csa.store.journal import Journal
from csa.store.mirrors import Mirror, mirror_for
from csa.store.sessions import Store

CSA = str(Path(sys.executable).with_name("csa"))
SESSION = "01JH4QWERT0000000000000000"
ROUNDS, SINGLE = 5, 100
PAUSE_S = 0.03  # between two events, which come at any moment of a look


def main() -> None:
    count = int((sys.argv[1:] or ["200000"])[0])
    with tempfile.TemporaryDirectory() as base:
        place = Path(base)
        host = Store(place / "host", "/p")
        held = build_session(host, _state(), Redactor(), tool="codex")
        held.publish()
        transcript = held.paths.transcript
        journal = Journal(transcript, Redactor(), turn=1)
        journal.append("run_started", {"tool": "codex", "prompt": "go"})
        for at in range(count):
            journal.append("tool_call_update", {"id": f"c{at}", "status": "completed", "content": "x" * 120})
        journal.sync()
        rounds = [_throughput(place, host, transcript, number) for number in range(ROUNDS)]
        mirror_s, cat_s = (statistics.median(each) for each in zip(*rounds, strict=True))
        size = transcript.stat().st_size
        print(f"{count} events, {size / 1e6:.0f} MB: outlet and intake {mirror_s:.2f} s, cat {cat_s:.2f} s")
        print(f"{count / mirror_s:,.0f} events a second, {mirror_s / cat_s:.1f}x of cat")
        delays = sorted(_delays(place, host, journal))
        middle, worst = statistics.median(delays), delays[int(0.95 * len(delays))]
        print(f"an event in the mirror after {middle * 1e3:.0f} ms (p50), {worst * 1e3:.0f} ms (p95)")
        journal.close()
        held.close()


def _state() -> SessionState:
    from datetime import UTC, datetime  # noqa: PLC0415  # only this needs it

    now = datetime.now(UTC)
    return SessionState(session_id=SESSION, project_path="/p", created_at=now, last_accessed=now, schema=1)


def _outlet(host: Store, *options: str) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "CSA_STATE_DIR": str(host.root), "HOME": str(host.root)}
    pipe = subprocess.PIPE
    return subprocess.Popen([CSA, "outlet", *options], env=environ, stdin=pipe, stdout=pipe, cwd="/")


def _throughput(place: Path, host: Store, transcript: Path, number: int) -> tuple[float, float]:
    """Return how long a new mirror takes, with the start of both sides, and a copy through a pipe."""
    mirror = mirror_for(str(place / "here"), f"n{number}")
    began = time.perf_counter()
    with Intake(mirror) as intake, _outlet(host) as outlet:
        assert outlet.stdin
        assert outlet.stdout
        write_having(outlet.stdin, intake.having())
        outlet.stdout.readline()
        assert intake.take(outlet.stdout)
    mirrored_s = time.perf_counter() - began
    began = time.perf_counter()
    copy = place / "copy"
    with copy.open("wb") as file, subprocess.Popen(["cat", transcript], stdout=subprocess.PIPE) as cat:
        subprocess.run(["cat"], stdin=cat.stdout, stdout=file, check=True)
        os.fsync(file.fileno())
    copied_s = time.perf_counter() - began
    assert Path(Store(mirror.pathname, "/p").paths(SESSION).transcript).read_bytes() == copy.read_bytes()
    return mirrored_s, copied_s


def _delays(place: Path, host: Store, journal: Journal) -> list[float]:
    """Return how long single events take to be in a mirror that is kept up to date."""
    mirror = mirror_for(str(place / "here"), "n0")
    seen = Store(mirror.pathname, "/p").paths(SESSION).transcript
    reader = [sys.executable, __file__, "--intake", mirror.pathname]
    with _outlet(host, "--follow") as outlet:
        assert outlet.stdin
        with Intake(mirror) as intake:
            write_having(outlet.stdin, intake.having())
        with subprocess.Popen(reader, stdin=outlet.stdout) as taking:
            time.sleep(2)
            delays = []
            for _ in range(SINGLE):
                size = seen.stat().st_size
                journal.append("agent_message", {"text": "now"})
                journal.flush()
                began = time.perf_counter()
                while seen.stat().st_size == size:
                    time.sleep(0.0005)
                delays.append(time.perf_counter() - began)
                time.sleep(PAUSE_S)
            outlet.stdin.close()
            taking.wait()
    return delays


def _take(pathname: str) -> None:
    with Intake(Mirror(pathname)) as intake:
        sys.stdin.buffer.readline()
        intake.take(sys.stdin.buffer)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--intake"]:
        _take(sys.argv[2])
    else:
        main()
