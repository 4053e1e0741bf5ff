"""How long `csa mcp` takes to answer `initialize` and `tools/list`, and what it occupies, beside a bare Python.

    python bench/mcp.py [--runs N]

Exits 1 if that is more than 6 times a bare start, or 15 MB: clients give a server a moment, one of them a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

CSA = Path(sys.executable).parent / "csa"
MOST_TIMES, MOST_MB = 6.0, 15.0
_ASKED = b"".join(
    json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
    for number, (method, params) in enumerate(
        {"initialize": {"protocolVersion": "2025-06-18"}, "tools/list": {}}.items()
    )
)


def start_bare() -> float:
    """Return how long a bare Python takes to start and end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def start_server() -> tuple[float, float]:
    """Return how long two answers take, and the memory in MB that the server has then had at most."""
    pipe = subprocess.PIPE
    began = time.perf_counter()
    with subprocess.Popen([CSA, "mcp"], stdin=pipe, stdout=pipe) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(_ASKED)
        server.stdin.flush()
        for _ in range(2):
            assert b'"result"' in server.stdout.readline()
        took = time.perf_counter() - began
        status = Path(f"/proc/{server.pid}/status").read_text()
        server.stdin.close()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return took, peak / 1024


def main() -> int:
    """Measure in turn, so that what else the machine does affects both, and compare the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    found = [(start_bare(), *start_server()) for _ in range(runs)]
    bare, server, peak = (min(each) for each in zip(*found, strict=True))
    print(f"bare {bare * 1000:.0f} ms, csa mcp {server * 1000:.0f} ms: {server / bare:.1f} times; {peak:.1f} MB")
    return int(server / bare > MOST_TIMES or peak > MOST_MB)


if __name__ == "__main__":
    sys.exit(main())
