"""What supervision promises, tried over and over with real processes and the bundled fakes: `make torture`.

Every part prints its figures and counts what was broken; the exit code is 1 when anything was. Nothing leaves this
machine, and what is started is ended.

    python bench/torture.py [--kills 1000] [--turns 500] [--detached 200] [--races 100] [--instants 300] [--lives 200]
        [--steps 15] [--seed 4711] [PART ...]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from csa.ids import new_session_id  # noqa: E402  # the path must be there first
from csa.paths import SessionPaths, state_root  # noqa: E402  # as above
from csa.procfs import is_zombie  # noqa: E402  # as above
from csa.runner.turns.leftovers import find_leftovers  # noqa: E402  # as above
from csa.store.liveness import probe  # noqa: E402  # as above
from csa.store.locks import acquire_lock, is_locked  # noqa: E402  # as above
from csa.store.sessions import Store  # noqa: E402  # as above

CSA = str(Path(sys.executable).with_name("csa"))
GONE_WITHIN_S = 2.0
TRUE_WITHIN_S = 0.1
WORKERS = 3
LATER_SHARE = 0.75  # of the kills come after the session is there
Json = dict[str, Any]


@dataclass
class Tally:
    """What was counted, and what was broken: the promise to how often."""

    figures: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, number: int = 1) -> None:
        with self.lock:
            self.figures[name] += number

    def expect(self, promise: str, kept: object, example: str = "") -> None:
        """Note one trial of a promise."""
        with self.lock:
            self.broken[promise] += 0 if kept else 1
            if not kept:
                self.examples.setdefault(promise, example)

    def report(self, title: str) -> bool:
        print(f"\n{title}")
        for name, number in self.figures.items():
            print(f"  {name:<58} {number:>8}")
        for promise, number in self.broken.items():
            print(f"  broken: {promise:<50} {number:>8}  {self.examples.get(promise, '')}")
        return not any(self.broken.values())


class Home:
    """A private home with a project, a state root and the fakes."""

    def __init__(self, base: Path, name: str, rules: list[Json]) -> None:
        self.home = base / name
        self.project = self.home / "project"
        (self.project / ".csa").mkdir(parents=True)
        script = self.home / "script.json"
        script.write_text(json.dumps({"rules": rules}))
        search = os.pathsep.join([str(ROOT / "adapters/csa_fakes/bin"), str(Path(CSA).parent), "/usr/bin", "/bin"])
        self.env = {
            "HOME": str(self.home),
            "PATH": search,
            "FAKE_TOOL_SCRIPT": str(script),
            "LANG": "C.UTF-8",
            "CSA_STATE_DIR": str(self.home / "state"),
        }
        self.root = Path(state_root(self.env))
        self.store = Store(self.root.resolve(), self.project.resolve())

    def start(self, *words: str, out: int | Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [CSA, *words],
            cwd=self.project,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [CSA, *words], cwd=self.project, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )

    def processes(self) -> list[int]:
        """Return what runs with this home in its environment."""
        mark, found = f"HOME={self.home}".encode(), list[int]()
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found += [] if is_zombie(int(name)) else [int(name)]
            except OSError:
                continue
        return found

    def seconds_until_empty(self, limit_s: float) -> float:
        begin = time.monotonic()
        while self.processes() and time.monotonic() - begin < limit_s:
            time.sleep(0.005)
        return time.monotonic() - begin


def fresh_id() -> str:
    return new_session_id(time.time_ns() // 1_000_000, os.urandom(10))


def guardian_of(pid: int) -> int | None:
    """Return a supervisor's guardian."""
    try:
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if b"guardian.main" in Path(f"/proc/{child}/cmdline").read_bytes():
                return child
    except OSError:
        pass
    return None


# Part one: kills at random instants

_LEAVE = ["spawn-grandchild", "exec setsid sleep 600"]
_WORK = [["say", "one"], ["run", "setsid sleep 600 & echo hi"], _LEAVE, ["sleep", 0.1], ["emit-many", 50]]
_TURN = [_LEAVE, *_WORK, *_WORK, *_WORK, ["say", "two"]]


def torture_kills(base: Path, options: argparse.Namespace) -> bool:
    """SIGKILL of csa, of its guardian, or of both, at random instants of a turn."""
    tally, times = Tally(), list[float]()
    shares = [options.kills // WORKERS + (1 if n < options.kills % WORKERS else 0) for n in range(WORKERS)]
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        work = [
            pool.submit(
                _kill_many, Home(base, f"kills-{n}", [{"match": "kill", "do": _TURN}]), share, tally, options, n
            )
            for n, share in enumerate(shares)
        ]
        for done in work:
            times += done.result()
    kept = tally.report(f"{options.kills} SIGKILLs at random instants of turns (csa 80 %, guardian 10 %, both 10 %)")
    print(
        f"  until nothing was left: median {statistics.median(times) * 1000:.0f} ms, worst {max(times) * 1000:.0f} ms"
    )
    return kept


def _kill_many(home: Home, count: int, tally: Tally, options: argparse.Namespace, worker: int) -> list[float]:
    chance = random.Random(options.seed + worker)
    length_s = 0.8 * min(_seconds_of_a_turn(home) for _ in range(3))
    times = []
    for number in range(count):
        victim = chance.choices(["csa", "guardian", "both"], [8, 1, 1])[0]
        where, waits = f"worker {worker}, kill {number}", chance.random() < LATER_SHARE
        times.append(_kill_one(home, victim, chance.uniform(0, length_s), tally, where, victim_waits=waits))
    return times


def _seconds_of_a_turn(home: Home) -> float:
    begin = time.monotonic()
    home.run("run", "--tool", "codex", "kill nobody")
    return time.monotonic() - begin


def _kill_one(home: Home, victim: str, instant_s: float, tally: Tally, where: str, *, victim_waits: bool) -> float:
    session_id = fresh_id()
    paths = home.store.paths(session_id)
    shown = home.home / "shown"
    with shown.open("wb") as out:
        process = home.start("run", "--tool", "codex", "--stream-json", "--session-id", session_id, "kill me", out=out)
    if victim_waits:
        _wait_for_session(paths, process)
    time.sleep(instant_s)  # the instant itself
    guardian = guardian_of(process.pid)
    if victim != "csa" and guardian:
        os.kill(guardian, signal.SIGSTOP)  # so that it cannot act between the two
    if victim != "guardian" or not guardian:
        process.kill()
    if victim != "csa" and guardian:
        os.kill(guardian, signal.SIGKILL)
    process.wait()
    if victim == "both" and guardian:
        took = 0.0
        _check_found_and_ended(home, paths, tally, where)
    else:
        took = _seconds_until_free(paths) + home.seconds_until_empty(GONE_WITHIN_S + 3)
        tally.expect("nothing is left after 2 s, and the lock is free", took <= GONE_WITHIN_S, where)
    tally.expect("no lock is stuck", not is_locked(paths.session_lock), where)
    _check_records(home, session_id, shown.read_bytes(), tally, where)
    again = home.run("run", "-q", "--tool", "codex", "--session-id", session_id, "go on")
    tally.expect("the next turn works", again.returncode == 0 and again.stdout, where)
    return took


def _wait_for_session(paths: SessionPaths, process: subprocess.Popen[bytes]) -> None:
    """Wait until the session can be seen; most kills are to come after that."""
    while not paths.root.exists() and process.poll() is None:
        time.sleep(0.002)


def _seconds_until_free(paths: SessionPaths) -> float:
    begin = time.monotonic()
    while is_locked(paths.session_lock) and time.monotonic() - begin < GONE_WITHIN_S:
        time.sleep(0.002)
    return time.monotonic() - begin


def _check_found_and_ended(home: Home, paths: SessionPaths, tally: Tally, where: str) -> None:
    """Both killed at one instant: what is left is found by its marks, and the session's next turn ends it."""
    _seconds_until_free(paths)
    left = set(home.processes())
    found = {item.pid for item in find_leftovers(home.root, [paths])}
    tally.expect("what is left of both is found", {pid for pid in left if pid in home.processes()} <= found, where)
    tally.count("processes left by a kill of both, found by their marks", len(found))
    home.run("run", "-q", "--tool", "codex", "--session-id", paths.root.name, "go on")
    tally.expect("the next turn ends what was left of both", home.seconds_until_empty(1) < 1, where)


def _check_records(home: Home, session_id: str, shown: bytes, tally: Tally, where: str) -> None:
    paths = home.store.paths(session_id)
    acknowledged = [json.loads(line) for line in shown.split(b"\n")[:-1]]
    if not paths.root.exists():
        tally.count("absent: killed before the session was there")
        tally.expect("no event was shown of an absent session", not acknowledged, where)
        return
    content = paths.transcript.read_bytes()
    try:
        events = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        record = home.store.record(session_id)
        readable = record.state is not None and record.state.session_id == session_id
    except (OSError, ValueError):
        tally.expect("every file is readable", kept=False, example=where)
        return
    tally.expect("every file is readable", readable, where)
    tally.expect(
        "events are numbered without a gap", [e["seq"] for e in events] == list(range(1, len(events) + 1)), where
    )
    lost = [event for event in acknowledged if event not in events]
    tally.count("events shown", len(acknowledged))
    tally.expect("no event that was shown is lost", not lost, where)
    last = [event for event in events if event["type"] in {"run_started", "run_finished"}][-1]
    expected = last["data"]["status"] if last["type"] == "run_finished" else "lost"
    tally.count(f"status {expected}")
    tally.expect("the status is true", record.status == expected, f"{where}: {record.status}, not {expected}")


# Part two: is-alive


def torture_liveness(base: Path, options: argparse.Namespace) -> bool:
    """is-alive is 0 during and 1 within 100 ms after; touching files changes nothing; probes hinder nobody."""
    tally = Tally()
    home = Home(base, "alive", [{"match": "", "do": [["say", "x"], ["sleep", 0.02]]}])
    delays = [_watch_turn(home, tally, f"turn {number}") for number in range(options.turns)]
    _probe_in_crowd(home, tally)
    kept = tally.report(f"liveness over {options.turns} turns, and 20 probes at once")
    middle, worst = statistics.median(delays) * 1000, max(delays) * 1000
    print(f"  from run_finished to a free lock: median {middle:.1f} ms, worst {worst:.1f} ms")
    return kept


def _watch_turn(home: Home, tally: Tally, where: str) -> float:
    """Watch one turn from outside: alive from the first event shown to the last, not alive soon after."""
    session_id = fresh_id()
    paths = home.store.paths(session_id)
    process = home.start(
        "run", "--tool", "codex", "--stream-json", "--session-id", session_id, "go", out=subprocess.PIPE
    )
    assert process.stdout is not None
    finished_at = 0.0
    for line in process.stdout:
        alive, event = probe(paths).state, json.loads(line)
        if event["type"] == "run_finished":
            finished_at = datetime.fromisoformat(event["ts"]).timestamp()  # when it was recorded
            break  # what follows is the end of the process, which is another matter
        tally.expect("alive while it runs", alive == "alive", where)
        os.utime(paths.state, (0, 0))
        os.utime(paths.heartbeat, (0, 0))
    while probe(paths).state == "alive" and time.time() - finished_at < 2:
        time.sleep(0.001)
    took = time.time() - finished_at
    process.communicate()
    tally.expect("not alive within 100 ms of the end", took <= TRUE_WITHIN_S, f"{where}: {took * 1000:.0f} ms")
    paths.heartbeat.touch()
    paths.session_lock.touch()
    tally.expect("a touched file revives nothing", probe(paths).state == "not_alive", where)
    return took


def _probe_in_crowd(home: Home, tally: Tally) -> None:
    """Twenty threads probe one lock while another takes and releases it."""
    lock = SessionPaths(home.store.paths(home.store.ids()[0]).root)
    stop = threading.Event()

    def probe_on() -> int:
        seen = 0
        while not stop.is_set():
            is_locked(lock.session_lock)
            seen += 1
        return seen

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        probes = [pool.submit(probe_on) for _ in range(20)]
        for _ in range(2000):
            try:
                acquire_lock(lock.session_lock).close()
                kept = True
            except BlockingIOError:
                kept = False
            tally.expect("no probe makes an acquirer fail", kept)
        stop.set()
        tally.count("probes beside 2,000 acquisitions", sum(done.result() for done in probes))


# Part three: many detached turns


def torture_detached(base: Path, options: argparse.Namespace) -> bool:
    """Many detached turns at once end with the right results."""
    tally = Tally()
    go = base / "go"
    steps = [["wait-file", str(go), 600], ["run", "echo worked"]]
    home = Home(base, "detached", [{"match": "", "do": steps}])
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        started = list(
            pool.map(
                lambda n: home.run("run", "-q", "--tool", "codex", "--detach", f"number {n}"), range(options.detached)
            )
        )
    ids = [done.stdout.decode().strip() for done in started]
    tally.expect("every turn is started", all(done.returncode == 0 for done in started))
    started_s = time.monotonic() - begin
    rss = _supervisor_sizes(home)
    go.touch()
    released = time.monotonic()
    while any(is_locked(home.store.paths(session_id).session_lock) for session_id in ids if session_id):
        time.sleep(0.05)
    ending_s = time.monotonic() - released
    for session_id in ids:
        result = home.run("session", "result", "--json", session_id)
        facts = json.loads(result.stdout) if result.stdout else {}
        tally.expect("every turn succeeds", facts.get("status") == "succeeded", f"{session_id}: {facts.get('error')}")
    tally.expect("nothing is left", home.seconds_until_empty(GONE_WITHIN_S) < GONE_WITHIN_S)
    tally.count("supervisors at once", len(rss))
    kept = tally.report(f"{options.detached} concurrent detached turns")
    mib = [size / 1024 for size in rss] or [0.0]
    each_ms = started_s / len(ids) * 1000
    print(f"  all at work after {started_s:.1f} s ({each_ms:.0f} ms a start), all ended {ending_s:.1f} s later")
    print(f"  supervisor RSS: median {statistics.median(mib):.1f} MiB, worst {max(mib):.1f} MiB")
    return kept


def _supervisor_sizes(home: Home) -> list[int]:
    sizes = []
    for pid in home.processes():
        try:
            if b"csa.runner.supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                sizes += [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
        except OSError:
            continue
    return sizes


# Part four: races for a limit, and for what is left of a budget

BUDGET_TOKENS = 20_000
RACERS = 50


def torture_limits(base: Path, options: argparse.Namespace) -> bool:
    """Two racing children never exceed max_children; many never exceed a budget by more than what was running."""
    tally = Tally()
    variables = base / "limits-variables"
    rules = [
        {"match": "root", "do": [["write-env", str(variables)], ["say", "x"]]},
        {"match": "", "do": [["say", "x"]]},
    ]
    home = Home(base, "limits", rules)
    for number in range(options.races):
        inside = _agent_of(home, variables, CSA_CONF_MAX_CHILDREN="1")
        codes = _race(home, inside, 2)
        tally.expect("of two racing children one begins", sorted(codes) == [0, 5], f"race {number}: {codes}")
        tally.count("races of two children for one place")
    inside = _agent_of(home, variables, "--budget-tokens", str(BUDGET_TOKENS), CSA_CONF_MAX_TREE_RUNNING="5")
    codes = _race(home, inside, RACERS, "--wait")
    told = json.loads(home.run("session", "budget", "--json", inside["CSA_SESSION_ID"]).stdout)
    used = told["used"]["tokens"]
    tally.expect("all racers begin or are refused", set(codes) <= {0, 5}, str(sorted(set(codes))))
    tally.count(f"of {RACERS} racing children began within {BUDGET_TOKENS:,} tokens", codes.count(0))
    tally.count("tokens used at the end", used)
    turn = used / (codes.count(0) + 1)
    tally.expect("at most what was running goes beyond", used <= BUDGET_TOKENS + 5 * turn, f"{used} tokens")
    tally.expect("the budget was used", used >= BUDGET_TOKENS, f"{used} tokens")
    return tally.report(f"{options.races} races of two for one place, {RACERS} racing children on a budget")


def _agent_of(home: Home, variables: Path, *words: str, **settings: str) -> dict[str, str]:
    """Run a root; return the variables that its agent's commands have, without settings: only the record binds."""
    process = subprocess.run(
        [CSA, "run", "-q", "--tool", "codex", *words, "root"],
        cwd=home.project,
        env={**home.env, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert process.stdout
    seen = json.loads(variables.read_text())
    return {name: value for name, value in seen.items() if name.startswith("CSA_") and "CONF" not in name}


def _race(home: Home, inside: dict[str, str], count: int, *words: str) -> list[int]:
    """Start children at once; return their exit codes."""
    null = subprocess.DEVNULL
    started = [
        subprocess.Popen(
            [CSA, "run", "-q", "--tool", "codex", *words, f"child {n}"],
            cwd=home.project,
            env={**home.env, **inside},
            stdin=null,
            stdout=null,
            stderr=null,
        )
        for n in range(count)
    ]
    return [process.wait() for process in started]


# Part five: plans

_NEEDS = {f"t{n:02}": [f"t{m:02}" for m in ((n - 3), (n - 4)) if m >= 0] for n in range(12)}
_AGENT = (
    'exec 9> "{locks}/$(basename "$PWD")"; flock -n 9 || echo "$PWD" >> {locks}/twice; '
    "{needs} sleep 0.05; echo {name} > x-{name}; sleep 0.05"
)
_COMMIT = (
    *("git", "-c", "user.name=T", "-c", "user.email=t@localhost"),
    *("commit", "-q", "--allow-empty", "-m", "first"),
)


def torture_plans(base: Path, options: argparse.Namespace) -> bool:
    """SIGKILL of csa at random instants of the run of a plan, which is run again until it has ended by itself."""
    tally, chance = Tally(), random.Random(options.seed)
    undisturbed = _PlanHome(base, "plan-undisturbed")
    length_s = undisturbed.length_s()
    expected = undisturbed.tree()
    kills = number = 0
    while kills < options.instants:
        home = _PlanHome(base, f"plan-{number}")
        for _ in range(min(chance.randint(4, 10), options.instants - kills)):
            home.kill_at(chance.uniform(0.1, length_s))
            kills += 1
            took = home.home.seconds_until_empty(GONE_WITHIN_S + 6)
            tally.expect("nothing is left after 6 s", took <= GONE_WITHIN_S + 4, f"plan {number}: {took:.1f} s")
        done = home.home.run("plan", "run", "plan.toml", "-q")
        where = f"plan {number}: exit code {done.returncode}: {str(done.stdout)[-300:]}{str(done.stderr)[-300:]}"
        tally.expect("run again, the plan is done", done.returncode == 0, where)
        tally.expect("the tree is the same as undisturbed", home.tree() == expected, f"plan {number}")
        tally.expect("no two agents were in one worktree", not (home.locks / "twice").exists(), f"plan {number}")
        lost = home.lost_commits()
        tally.expect("every commit of a turn is reachable", not lost, f"plan {number}: {lost[:1]}")
        tally.count("plans of 12 tasks", 1)
        tally.count("turns", sum(len(home.finished(each)) for each in home.sessions()))
        tally.count("sessions", len(home.sessions()))
        number += 1
    tally.count("SIGKILLs of csa", kills)
    return tally.report(f"{kills} SIGKILLs at random instants of plans")


class _PlanHome:
    """A home whose project is a repository with a plan."""

    def __init__(self, base: Path, name: str) -> None:
        self.locks = base / f"{name}-locks"
        self.locks.mkdir()
        rules = [{"match": f"do {task}!", "do": [["run", self._script(task)], ["say", task]]} for task in _NEEDS]
        self.home = Home(base, name, rules)
        self.git("init", "-q", "-b", "main")
        self._call(*_COMMIT)
        tables = (f'[task.{task}]\nprompt = "do {task}!"\nneeds = {json.dumps(_NEEDS[task])}\n' for task in _NEEDS)
        check = "ls x-*"  # true of each tree, in whatever order tasks are merged
        plan = f'tool = "codex"\ncheck = "{check}"\nmax_running = 4\n' + "".join(tables)
        (self.home.project / "plan.toml").write_text(plan)

    def _script(self, task: str) -> str:
        needs = " ".join(f"test -e x-{need};" for need in _NEEDS[task])
        return "set -e; " + _AGENT.format(locks=self.locks, needs=needs, name=task)

    def git(self, *words: str) -> str:
        return self._call("git", *words)

    def _call(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.home.project, env=self.home.env, capture_output=True, check=False)
        return done.stdout.decode().strip()

    def length_s(self) -> float:
        begin = time.monotonic()
        assert self.home.run("plan", "run", "plan.toml", "-q").returncode == 0
        return time.monotonic() - begin

    def kill_at(self, instant_s: float) -> None:
        process = self.home.start("plan", "run", "plan.toml", "-q")
        time.sleep(instant_s)  # the instant itself
        process.kill()
        process.wait()

    def tree(self) -> str:
        return self.git("rev-parse", "csa/plan-plan^{tree}")

    def sessions(self) -> list[Path]:
        return [path for path in Path(self.home.store.sessions_dir).iterdir() if len(path.name) == len(fresh_id())]

    def finished(self, session: Path) -> list[Json]:
        lines = (session / "transcript.jsonl").read_bytes().splitlines()
        events = [json.loads(line) for line in lines if b'"run_finished"' in line]
        return [event["data"] for event in events if event["type"] == "run_finished"]

    def lost_commits(self) -> list[str]:
        """Return commits that turns have recorded and that no ref leads to."""
        recorded = {data["commit"] for each in self.sessions() for data in self.finished(each) if data.get("commit")}
        return sorted(recorded - {*self.git("rev-list", "--all").split()})


def torture_work(base: Path, options: argparse.Namespace) -> bool:
    """Random lives of worktrees: turns, kills, landing, dropping, deleting, cleaning up, accidents. No work is lost."""
    from tests.store.lostwork import Life  # noqa: PLC0415  # only this part needs it

    tally = Tally()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    named = {f"GIT_{who}_{what}": "u@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for seed in range(options.seed, options.seed + options.lives):
        home = base / f"life-{seed}"
        home.mkdir()
        life = Life(home, {**plain, **named, "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}, seed)
        try:
            life.live(options.steps)
        except AssertionError as error:
            tally.expect("nothing is lost", kept=False, example=f"seed {seed}: {error}")
        else:
            tally.expect("nothing is lost", kept=True)
        tally.count("lives")
        tally.count("steps", len(life.log))
        shutil.rmtree(home, ignore_errors=True)
    return tally.report("work in worktrees")


PARTS: dict[str, Callable[[Path, argparse.Namespace], bool]] = {
    "kills": torture_kills,
    "liveness": torture_liveness,
    "detached": torture_detached,
    "limits": torture_limits,
    "plans": torture_plans,
    "work": torture_work,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--detached", type=int, default=200)
    parser.add_argument("--races", type=int, default=100)
    parser.add_argument("--instants", type=int, default=300, help="at which runs of plans are killed")
    parser.add_argument("--lives", type=int, default=200)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seed", type=int, default=4711)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="csa-torture-") as base:
        kept = [PARTS[name](Path(base), options) for name in options.parts or PARTS]
    print("\nall promises kept" if all(kept) else "\nPROMISES BROKEN")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
