"""What mirrors cost: python bench/hosts.py [EVENTS]; by default 200,000, of about 250 bytes.

With --on [HOST], what a turn on another host costs: one that does nothing, by a fake codex, after the same turn here;
over a stand-in for ssh, and over ssh HOST, if that is given and has csa and a codex. With --sshd (as root), over a
real ssh between two hosts of the tests' kind, with what `ssh HOST true` takes in the same rounds. With --shared, ssh
shares one connection among all. With --real, the tools are the real CLIs (CSA_REAL_CLIS as in make test-real), which
greet a provider on each host's loopback.

Prints how many events a second go through an outlet and an intake, beside `cat` of the same transcript into a file in
the same round, and how long it takes until an event of a running turn can be read in the mirror.

python bench/hosts.py --many SESSIONS [HOSTS] prints what finding some costs where mirrors of so many hosts (10) have
so many sessions: one by its id, the newest 50, and those below a session here that has placed one. The first look makes
the indexes of ids. With TMPDIR=/dev/shm 1,000,000 sessions are made in a minute, and take 2 GB: only sessions that
are read have content, that of three turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from csa.model.redaction import Redactor
from csa.model.state import SessionState, ToolState, render_state
from csa.model.usage import Usage
from csa.runner.client import Csa
from csa.runner.hosts.intake import Intake
from csa.runner.hosts.outlet import write_having
from csa.runner.session import find_session
from csa.runner.sessions.listing import select_sessions
from csa.store.family import family_of
from csa.store.held import build_session
from csa.store.journal import Journal
from csa.store.mirrors import Mirror, find_mirrors, mirror_for
from csa.store.sessions import Store
from csa.store.tomlfile import render_toml
from csa.structs import replace

CSA = str(Path(sys.executable).with_name("csa"))
SESSION = "01JH4QWERT0000000000000000"
ROUNDS, SINGLE, TURNS, REAL_TURNS = 5, 100, 15, 7
SHARED_S = 3
READ = 200  # of many records, those that lists may read
_THEN = datetime(2026, 1, 1, tzinfo=UTC)  # the records' time
_THEN_S = _THEN.timestamp()
_TURN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("run_started", {"tool": "codex", "cwd": "/srv/app", "argv": ["x" * 1200], "prompt": "y" * 800}),
    ("agent_message", {"text": "z" * 400}),
    (
        "run_finished",
        {"status": "succeeded", "exit_code": 0, "tool": "codex", "summary": "z" * 200, "duration_s": 0.129}
        | {"started_at": "2026-01-01T00:00:00.000Z", "denied": [], "usage": {"input_tokens": 1001, "cost_usd": None}},
    ),
)
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


def _place(hosts: list[str]) -> None:
    """Print how long a turn takes on each host, as a ratio to one here in the same round."""
    with tempfile.TemporaryDirectory() as base:
        place = Path(base)
        for name in ("home", "there", "project"):
            (place / name).mkdir()
        reach = ["env", f"HOME={place}/there", f"CSA_STATE_DIR={place}/there/state"]
        config = place / "config.toml"
        config.write_text(f"[engines.stand-in]\nreach = {json.dumps(reach)}\ncsa = {json.dumps([CSA])}\n")
        fakes = Path(__file__).parents[1] / "adapters" / "csa_fakes" / "bin"
        path = os.pathsep.join([str(fakes), str(Path(CSA).parent), os.environ["PATH"]])
        own = {"HOME": f"{place}/home", "CSA_STATE_DIR": f"{place}/state", "CSA_CONFIG": str(config), "PATH": path}
        environ = {**os.environ, **own}
        for host in ("stand-in", *hosts):
            rounds = [[_turn(environ, place, *words) for words in ((), ("--on", host))] for _ in range(TURNS + 1)][1:]
            here_s, there_s = (statistics.median(each) for each in zip(*rounds, strict=True))
            ratio = statistics.median(there / here for here, there in rounds)
            print(f"a turn: here {here_s * 1e3:.0f} ms, on {host} {there_s * 1e3:.0f} ms, {ratio:.1f}x")


def _place_over_sshd(options: set[str]) -> None:
    """Print how long a turn takes on a host behind a real sshd, as a ratio to one here, and what of it is ssh's own."""
    from tests.realhosts import Hosts, make_openssh, why_not  # noqa: PLC0415  # only this needs it

    if why := why_not():
        sys.exit(f"no hosts of their own: {why}")
    fakes = Path(__file__).parents[1] / "adapters" / "csa_fakes" / "bin"
    os.environ["PATH"] = os.pathsep.join([str(fakes), str(Path(CSA).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as base:
        for name in ("keys", "hosts"):
            Path(base, name).mkdir()
        hosts = Hosts(Path(base, "hosts"), make_openssh(Path(base, "keys")))
        home, _ = hosts.up("a", "n1")
        config = home.tmp / "own.toml"
        config.write_text('[engines.n1]\ncode = "none"\n')
        home.env["CSA_CONFIG"] = str(config)
        if "--shared" in options:
            shares = f"Host *\nControlMaster auto\nControlPersist {SHARED_S}\nControlPath {home.tmp}/%C\n"
            with (home.home / ".ssh" / "config").open("a") as file:
                file.write(shares)
        with ExitStack() as stack:
            stack.callback(hosts.close)
            tools, count = ["codex"], TURNS
            if "--real" in options:
                tools, count = _real_tools(stack, hosts), REAL_TURNS
            for tool in tools:
                _compare(home, tool, count)
            if "--shared" in options:
                time.sleep(SHARED_S + 1)


def _real_tools(stack: ExitStack, hosts: Any) -> list[str]:
    """Set the real CLIs up on both hosts; return their names."""
    from tests.real.elsewhere import furnish, provider_on  # noqa: PLC0415  # only this needs it
    from tests.real.workplace import TOOLS  # noqa: PLC0415  # likewise

    for host in hosts.up("a", "n1"):
        provider = provider_on(host)
        stack.callback(provider.__exit__, None, None, None)
        furnish(host, provider)
    return [tool.name for tool in TOOLS]


def _compare(home: Any, tool: str, count: int) -> None:
    turn = ("run", "-q", "--tool", tool, "hello")
    ways = {
        "here": lambda: home.run(*turn),
        "on n1": lambda: home.run(*turn, "--on", "n1"),
        "ssh n1 true": lambda: home.shell(["ssh", "n1", "true"]),
    }
    rounds = [[_timed(way) for way in ways.values()] for _ in range(count + 1)][1:]
    medians = (statistics.median(seconds) * 1e3 for seconds in zip(*rounds, strict=True))
    print(f"{tool}: " + ", ".join(f"{what} {ms:.0f} ms" for what, ms in zip(ways, medians, strict=True)))
    ratios = [(there / here, (there - ssh) / here) for here, there, ssh in rounds]
    whole, rest = (statistics.median(each) for each in zip(*ratios, strict=True))
    print(f"{tool}: on n1 {whole:.2f}x of here; without one ssh {rest:.2f}x", flush=True)


def _timed(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    done = way()
    assert done.code == 0, done
    return time.perf_counter() - began


def _turn(environ: dict[str, str], place: Path, *words: str) -> float:
    began = time.perf_counter()
    argv = [CSA, "run", "-q", "--tool", "codex", "--cd", str(place / "project"), *words, "hello"]
    subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _state() -> SessionState:
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


def _many(count: int, hosts: int) -> None:
    """Print how much work it is to find sessions among many mirrored ones."""
    with tempfile.TemporaryDirectory() as base:
        root = Path(base) / "state"
        here = Store(root, "/here")
        _many_states(root, hosts, count)
        top = build_session(here, replace(_state(), project_path="/here"), Redactor(), tool="codex")
        top.publish()
        top.close()
        wanted = _ulid(count // 2)
        with here.paths(SESSION).tree_lock.open("a") as roll:
            host = f"h{count // 2 % hosts}"
            roll.write(f'{{"v":1}}\n{{"id":"{wanted}","project":"/srv/app","parent":"{SESSION}","host":"{host}"}}\n')
        context = Csa("/", root=root).context
        for look in ("first", "second"):
            began = time.process_time()
            stores = [store for mirror in find_mirrors(str(root)) for store in mirror.stores()]
            print(f"the {look} look at all mirrors: {(time.process_time() - began) * 1e3:.1f} ms of CPU")
        for what, call in (
            ("the id", lambda: find_session(context, wanted, retired=True)),
            ("a prefix of 14", lambda: find_session(context, wanted[:14], retired=True)),
            ("newest 50", lambda: select_sessions(stores, limit=50, by_use=True)),
            ("newest 50 by id", lambda: select_sessions(stores, limit=50)),
            ("all below one", lambda: family_of([(here, SESSION)]).look()),
        ):
            seconds = []
            for _ in range(3):
                began = time.process_time()
                call()
                seconds.append(time.process_time() - began)
            print(f"{count:,} sessions of {hosts} hosts: {what:<16} {min(seconds) * 1e3:8.1f} ms of CPU")


def _ulid(number: int) -> str:
    return f"01JH{number:010d}{0:012d}"


def _many_states(root: Path, hosts: int, count: int) -> None:
    """Make so many sessions in the mirrors of so many hosts. The one in the middle has a parent here."""
    for host in range(hosts):
        mirror = mirror_for(str(root), f"h{host}")
        Path(mirror.pathname, ".mirror").mkdir(parents=True)
        store = Store(mirror.pathname, "/srv/app")
        os.makedirs(store.sessions_dir)
        for number in range(host, count, hosts):
            os.mkdir(session := f"{store.sessions_dir}/{_ulid(number)}")
            if number == count // 2 or number >= count - READ:
                _write_session(session, number, SESSION if number == count // 2 else None)
                Path(session, "home.json").write_text('{"state":"not_alive","owner":null}')
            else:
                open(f"{session}/state.toml", "w").close()
            os.utime(f"{session}/state.toml", (_THEN_S + number / 1e6,) * 2)


def _write_session(session: str, number: int, parent: str | None) -> None:
    """Write the files of a session that has had three turns, as lists read them."""
    used = _THEN + timedelta(microseconds=number)
    tool = ToolState(provider_session_id=f"{number:032x}", cwd="/srv/app", last_exit_code=0, updated_at=used)
    state = SessionState(
        session_id=_ulid(number),
        project_path="/srv/app",
        created_at=_THEN,
        last_accessed=used,
        description=f"number {number}",
        owner="me@host",
        permission="edit",
        turns=3,
        parent_session_id=parent,
        depth=int(parent is not None),
        max_depth=5,
        tools={"codex": replace(tool, totals={"input_tokens": 3003, "cached_tokens": 0, "output_tokens": number})},
        usage=Usage(input_tokens=3003, output_tokens=number, turns_unpriced=3),
        duration_s=0.406,
        schema=1,
    )
    Path(session, "state.toml").write_bytes(render_toml(render_state(state)))
    with Path(session, "transcript.jsonl").open("w") as file:
        for turn in range(1, 4):
            for kind, data in _TURN:
                line = {"v": 1, "seq": 1, "ts": "2026-01-01T00:00:00.000Z", "type": kind, "turn": turn, "data": data}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--many"]:
        _many(int(sys.argv[2]), int((sys.argv[3:] or ["10"])[0]))
    elif sys.argv[1:3] == ["--on", "--sshd"]:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        _place_over_sshd(set(sys.argv[3:]))
    elif sys.argv[1:2] == ["--on"]:
        _place(sys.argv[2:])
    elif sys.argv[1:2] == ["--intake"]:
        _take(sys.argv[2])
    else:
        main()
