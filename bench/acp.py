"""How long `csa acp` takes to load a session of 10,000 messages, beside a bare Python, and what it occupies with turns.

    python bench/acp.py [--runs N]

Exits 1 if a load takes 3 seconds or more. The tool is the bundled fake; nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CSA = str(Path(sys.executable).parent / "csa")
MESSAGES, MOST_S, TURNS = 10_000, 3.0, 3


class Server:
    """A csa acp that is asked one thing after another."""

    def __init__(self, project: Path, env: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self.project, self._number = project, 0
        self.process = subprocess.Popen([CSA, "acp", "--tool", "codex"], stdin=pipe, stdout=pipe, cwd=project, env=env)

    def send(self, method: str, **params: Any) -> int:
        assert self.process.stdin is not None
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        return self._number

    def ask(self, method: str, **params: Any) -> tuple[Any, int]:
        """Return a result, and how many messages came before it."""
        return self.answer(self.send(method, **params))

    def answer(self, number: int) -> tuple[Any, int]:
        assert self.process.stdout is not None
        for before, line in enumerate(self.process.stdout):
            if line.startswith(b'{"jsonrpc":"2.0","id"'):
                message = json.loads(line)
                if message["id"] == number:
                    return message["result"], before
        raise RuntimeError("csa acp has ended")

    def new(self) -> str:
        return str(self.ask("session/new", cwd=str(self.project), mcpServers=[])[0]["sessionId"])

    def memory_mb(self, *, peak: bool) -> float:
        return _memory_mb(self.process.pid, "VmHWM" if peak else "VmRSS")

    def children_mb(self) -> list[float]:
        """Return what the turns' supervisors occupy."""
        path = Path(f"/proc/{self.process.pid}/task")
        pids = " ".join((task / "children").read_text() for task in path.iterdir()).split()
        return [_memory_mb(int(pid), "VmRSS") for pid in pids]


def _memory_mb(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


@contextmanager
def serving(project: Path, env: dict[str, str]) -> Iterator[Server]:
    server = Server(project, env)
    try:
        yield server
    finally:
        assert server.process.stdin is not None
        assert server.process.stdout is not None
        server.process.stdin.close()
        server.process.wait()
        server.process.stdout.close()


def lengthen(transcript: Path) -> None:
    """Give a session's transcript as many messages and calls as a long conversation has."""
    *lines, last = transcript.read_text().splitlines()
    seq, ts = len(lines), json.loads(last)["ts"]
    found = [*lines]
    for number in range(MESSAGES):
        call = {
            "id": f"c{number}",
            "title": "make test",
            "kind": "execute",
            "status": "completed",
            "content": "ok\n" * 20,
        }
        kind, data = (
            ("tool_call", call) if number % 3 == 0 else ("agent_message", {"text": "I have looked at it. " * 20})
        )
        seq += 1
        found.append(json.dumps({"v": 1, "seq": seq, "ts": ts, "type": kind, "turn": 1, "data": data}))
    found.append(json.dumps({**json.loads(last), "seq": seq + 1}))
    transcript.write_text("\n".join(found) + "\n")


def bare_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
    return time.perf_counter() - began


def load_s(project: Path, env: dict[str, str], session: str) -> tuple[float, int, float]:
    """Return how long a load takes, how many updates it sends, and the memory that it takes at most."""
    with serving(project, env) as server:
        server.ask("initialize", protocolVersion=1)
        began = time.perf_counter()
        _, count = server.ask("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        return time.perf_counter() - began, count, server.memory_mb(peak=True)


def main() -> int:
    """Measure in turn, and compare the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as base:
        project, script = Path(base, "project"), Path(base, "script.json")
        project.mkdir()
        script.write_text(json.dumps({"rules": [{"match": "wait", "do": [["sleep", 3], ["say", "done"]]}]}))
        path = os.pathsep.join([str(ROOT / "adapters" / "csa_fakes" / "bin"), os.environ["PATH"]])
        env = {"HOME": base, "PATH": path, "FAKE_TOOL_SCRIPT": str(script), "LANG": "C.UTF-8"}
        with serving(project, env) as server:
            session = server.new()
            server.ask("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "hello"}])
            sessions = [server.new() for _ in range(TURNS)]
            wait = [{"type": "text", "text": "wait"}]
            prompts = [server.send("session/prompt", sessionId=each, prompt=wait) for each in sessions]
            time.sleep(1.5)  # they are at work by then
            own, children = server.memory_mb(peak=False), server.children_mb()
            for number in prompts[-1:]:
                server.answer(number)
        transcript = next(Path(base).rglob(f"{session}/transcript.jsonl"))
        lengthen(transcript)
        found = [(bare_s(), *load_s(project, env, session)) for _ in range(runs)]
    bare, load, peak = (min(each) for each in ((f[0] for f in found), (f[1] for f in found), (f[3] for f in found)))
    print(f"load of {found[0][2]:,} updates: {load:.2f} s, {load / bare:.0f} times bare python; {peak:.1f} MB")
    sizes = ", ".join(f"{each:.0f}" for each in children)
    print(f"with {TURNS} turns: csa acp {own:.1f} MB, their supervisors {sizes} MB")
    return int(load >= MOST_S)


if __name__ == "__main__":
    sys.exit(main())
