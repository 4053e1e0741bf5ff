"""Speed and memory of csa, as ratios in one interleaved run. Prints a table; `make bench` writes nothing.

Every figure is a median over interleaved rounds, beside the same round's bare `python -I -c pass`, so that a slow or
busy machine shows in both. The tools are the bundled fakes; nothing leaves this machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 15
ACP_ROUNDS = 5
ACPX = "acpx@0.19.1"
PR_SET_CHILD_SUBREAPER = 36
EVENTS = 200_000
BIG_BYTES = 50 << 20
SESSIONS = 100
MANY, VERY_MANY = 10_000, 100_000
STORE_ROUNDS = 5
BARE = [sys.executable, "-I", "-c", "pass"]
CSA = str(Path(sys.executable).with_name("csa"))


@dataclass(frozen=True)
class Place:
    """A private home with a project and fake tools."""

    project: Path
    env: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command; 1 is what is-alive exits with for a session that does not run."""
        done = subprocess.run(
            words, cwd=self.project, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode not in {0, 1}:
            raise RuntimeError(f"{shlex.join(words)} exited with {done.returncode}: {done.stderr.decode()}")
        return done


def make_place(base: Path) -> Place:
    home, project = base / "home", base / "project"
    for path in (home / ".codex", project / ".csa"):
        path.mkdir(parents=True)
    script = base / "script.json"
    rules = [
        {"match": "many", "do": [["emit-many", EVENTS], ["say", "ok"]]},
        {"match": "hold", "do": [["wait-file", str(base / "go"), 300], ["say", "ok"]]},
        {"match": "big", "do": [["emit-bytes", BIG_BYTES, "c"], ["say", "ok"]]},
    ]
    script.write_text(json.dumps({"rules": rules}))
    fakes = ROOT / "adapters" / "csa_fakes" / "bin"
    search = f"{fakes}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return Place(project, {"HOME": str(home), "PATH": search, "FAKE_TOOL_SCRIPT": str(script), "LANG": "C.UTF-8"})


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def ratios(place: Place, commands: dict[str, list[str]], *, rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Return for each command the median of its seconds, and of its ratio to the bare python of the same round."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    shares: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        bare = seconds(lambda: place.run(*BARE))
        for name, words in commands.items():
            took = seconds(lambda words=words: place.run(*words))  # type: ignore[misc]  # bound at once
            times[name].append(took)
            shares[name].append(took / bare)
    return {name: (statistics.median(times[name]), statistics.median(shares[name])) for name in commands}


def peak_mib(place: Place, *words: str) -> tuple[float, float]:
    """Return the seconds, and the largest resident size of csa itself (its children apart) in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        words,
        cwd=place.project,
        env=place.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
        time.sleep(0.02)
    process.wait()
    return time.perf_counter() - start, peak / 1024


def cpu_seconds(place: Place, *words: str) -> float:
    """Return the processor time of a command and of all it has started, what it has left running included."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    place.run(*words)
    with suppress(ChildProcessError):
        while True:
            os.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def acp_turns(base: Path, place: Place) -> None:
    """Print the processor time of a turn over ACP, new and resumed: csa's, and acpx's where it can be had."""
    agent = str(ROOT / "adapters" / "csa_fakes" / "bin" / "fake-acp")
    config = base / "acp.toml"
    config.write_text(f'[tools.agent]\ntransport = "acp"\ncommand = ["{agent}"]\n')
    place = Place(place.project, {**place.env, "CSA_CONFIG": str(config)})
    acpx, reason = _find_acpx(base)
    turns = {
        "csa run, a turn over ACP: new": [CSA, "run", "-q", "--tool", "agent", "hello"],
        "csa run, a turn over ACP: resumed": [CSA, "run", "-q", "--last", "again"],
    }
    if acpx:
        # A prompt leaves a process that keeps the agent for the next one; without that it is not resumed.
        words = [*acpx, "--ttl", "1", "--approve-all", "--agent", agent]
        place.run(*words, "sessions", "new")
        turns |= {"acpx exec": [*words, "exec", "hello"], "acpx prompt: resumed": [*words, "prompt", "again"]}
    print(f"\n{'processor time, with that of the fake agent':<44} {'s':>6}")
    for name, words in turns.items():
        print(f"{name:<44} {statistics.median(cpu_seconds(place, *words) for _ in range(ACP_ROUNDS)):>6.2f}")
    if reason:
        print(f"{'acpx':<44} skipped: {reason}")


def _find_acpx(base: Path) -> tuple[list[str], str]:
    """Install acpx, with the Node it needs, and return how it is started; or why there is none."""
    if shutil.which("npm") is None:
        return [], "there is no npm"
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(base), ACPX, "node@22"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [], " ".join(done.stderr.split())[:200] or f"npm exits {done.returncode}"
    found = base / "node_modules" / ".bin"
    return [str(found / "node"), str(found / "acpx")], ""


def large_stores(base: Path, place: Place) -> None:
    """Print what commands take in large stores: the median, and the ratio to bare python."""
    print(f"\n{'in large stores':<52} {'ms':>7} {'x bare python':>14}")
    for count, commands in (
        (
            MANY,
            {
                "session list, 20 newest": ["session", "list", "--limit", "20"],
                "session list --tool codex (a quarter)": ["session", "list", "--tool", "codex"],
                "session list": ["session", "list"],
            },
        ),
        (
            VERY_MANY,
            {
                "session is-alive, by prefix": ["session", "is-alive", "{prefix}"],
                "session clean --days 30 --dry-run (a tenth is old)": ["session", "clean", "--days", "30", "--dry-run"],
                "gc --days 30 --dry-run": ["gc", "--days", "30", "--dry-run"],
            },
        ),
    ):
        root = base / f"store-{count}"
        subprocess.run([sys.executable, ROOT / "bench" / "generate_store.py", root, str(count)], check=True)
        project = root / "project"
        env = {**place.env, "CSA_STATE_DIR": str(root / "state")}
        newest = max(os.listdir(root.joinpath("state", *project.resolve().parts[1:], "sessions")))
        store = Place(project, env)
        words = {
            f"{count:,}: {name}": [CSA, *(word.format(prefix=newest[:14]) for word in command)]
            for name, command in commands.items()
        }
        for name, (took, ratio) in ratios(store, words, rounds=STORE_ROUNDS).items():
            print(f"{name:<52} {took * 1000:>7.1f} {ratio:>14.2f}")
        shutil.rmtree(root)


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([sys.executable, "-m", "compileall", "-q", ROOT / "csa", ROOT / "adapters"], check=True)
    with tempfile.TemporaryDirectory(prefix="csa-bench-") as base:
        place = make_place(Path(base))
        for _ in range(SESSIONS):
            place.run(CSA, "run", "-q", "--tool", "codex", "hello")
        newest = json.loads(place.run(CSA, "session", "list", "--json", "--limit", "1").stdout)[0]["id"]
        codex = shutil.which("codex", path=place.env["PATH"]) or "codex"
        running = place.run(CSA, "run", "-q", "--tool", "codex", "--detach", "hold").stdout.decode().strip()
        found = ratios(
            place,
            {
                "csa --version": [CSA, "--version"],
                "csa session is-alive, of one that runs": [CSA, "session", "is-alive", running],
                "csa session is-alive, of one that does not": [CSA, "session", "is-alive", newest],
                "csa session result": [CSA, "session", "result", newest],
                f"csa session list, 20 newest of {SESSIONS}": [CSA, "session", "list", "--limit", "20"],
                "csa run, whole": [CSA, "run", "-q", "--tool", "codex", "hello"],
                "the fake tool alone": [codex, "--version"],
            },
        )
        (Path(base) / "go").touch()
        place.run(CSA, "session", "wait", running)
        print(f"{'what':<44} {'ms':>7} {'x bare python':>14}")
        for name, (took, ratio) in found.items():
            print(f"{name:<44} {took * 1000:>7.1f} {ratio:>14.2f}")
        idle_s, idle_mib = peak_mib(place, CSA, "run", "-q", "--tool", "codex", "hello")
        print(f"\n{'csa run, hello: csa itself':<44} {idle_s:>6.2f}s {idle_mib:>10.1f} MiB")
        for tool in ("codex", "claude-code"):
            many_s, many_mib = peak_mib(place, CSA, "run", "-q", "--tool", tool, "many")
            rate = f"{EVENTS / many_s:,.0f} events/s"
            print(f"{f'{EVENTS:,} events of {tool}':<44} {many_s:>6.2f}s {many_mib:>10.1f} MiB   {rate}")
            big_s, big_mib = peak_mib(place, CSA, "run", "-q", "--tool", tool, "big")
            rate = f"{BIG_BYTES / (1 << 20) / big_s:,.0f} MiB/s"
            print(f"{f'a line of 50 MiB from {tool}':<44} {big_s:>6.2f}s {big_mib:>10.1f} MiB   {rate}")
        acp_turns(Path(base), place)
        large_stores(Path(base), place)


if __name__ == "__main__":
    main()
