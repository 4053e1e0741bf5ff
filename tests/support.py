"""Runs the installed csa over the fake tools, as a user or an agent does, and reads what it left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from csa.store.sessions import Store
from tests.forkserver import ForkServer
from tests.schemas import check_events, check_output

CSA = str(Path(sys.executable).parent / "csa")
PATIENCE_S = 45.0  # before a test gives up; a busy machine takes its time
OUTLASTING: set[int] = set()  # children of this process that are there for more than one test
_POLL_S = 0.005
_OF_PYTHON = ("PYTHON", "LANG", "LC_")  # what python reads when it starts
_HEADLINE = re.compile(r"session ([0-9A-HJKMNP-TV-Z]{26}), turn (\d+)")

Json = dict[str, Any]
Steps = list[list[Any]]


def allowing(seconds: float) -> float:
    """Return the time in which a machine as busy as this one does what takes others so many seconds at most."""
    busy = 2 + os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(seconds, min(seconds * busy, PATIENCE_S))


def wait_for(condition: Callable[[], object], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Poll for what has nothing to wait on; fail when it does not come about."""
    deadline = time.monotonic() + allowing(within_s)
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {within_s} s: {what}"
        time.sleep(_POLL_S)


def is_running(pid: int) -> bool:
    """Say whether a process exists and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return [int(c) for t in tasks for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
    except OSError:
        return []


def has_open(pid: int, path: Path) -> bool:
    """Say whether a process has a file open."""
    try:
        return any(os.readlink(entry) == str(path) for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def kill_all(pids: Mapping[int, str]) -> None:
    """Kill by pid."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str
    words: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        """What stdout holds: one JSON value, which is what `csa schema` says of the command."""
        value = json.loads(self.out)
        check_output(self.words, value)
        return value

    @property
    def events(self) -> list[Json]:
        """What stdout holds: an event a line, each as `csa schema event` says."""
        found: list[Json] = [json.loads(line) for line in self.out.splitlines()]
        check_events(found)
        return found

    @property
    def session_id(self) -> str:
        """The id that stderr names first."""
        return headline_id(self.err)


def headline_id(text: str) -> str:
    """Return the session id that csa announced."""
    found = _HEADLINE.search(text)
    assert found, f"no session id in {text!r}"
    return found[1]


class Running:
    """A command that runs; what it prints goes to files, so that it can be read at any time and never blocks it."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path, words: tuple[str, ...] = ()) -> None:
        self.process = process
        self._words = words
        self._out = out
        self._err = err

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def session_id(self) -> str:
        """The id on stderr, as soon as it is there."""
        wait_for(lambda: _HEADLINE.search(self.err) or self.process.poll() is not None, "the id on stderr")
        return headline_id(self.err)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def wait(self) -> Done:
        code = self.process.wait(PATIENCE_S)
        return Done(code, self.out, self.err, self._words)


class Place:
    """A project, a state root and the environment of a user, with the fakes on the PATH."""

    running = Running  # what `start` returns

    def __init__(self, tmp: Path, project: Path, state_root: Path, server: ForkServer | None = None) -> None:
        self.tmp = tmp
        self.server = server
        self.project = project
        self.state_root = state_root
        self.home = Path(os.environ["HOME"])
        self.mark = "mark" + uuid.uuid4().hex  # in the command line of what is told to have no environment
        self.env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.ready = tmp / "ready"
        self.go = tmp / "go"
        self.started: list[subprocess.Popen[bytes]] = []

    # Scripts

    def script(self, *rules: Json, strict: bool = False) -> None:
        """Tell the fakes what to do."""
        path = self.tmp / "script.json"
        for uses in self.tmp.glob("script.json.uses-*"):
            uses.unlink()
        path.write_text(json.dumps({"rules": list(rules), "strict": strict}))
        self.env["FAKE_TOOL_SCRIPT"] = str(path)

    def play(self, *steps: list[Any], **rule: Any) -> None:
        """Tell the fakes to do this for every prompt."""
        self.script({"match": "", "do": list(steps), **rule})

    def hold(self) -> Steps:
        """Steps that say `ready` and wait for `go`."""
        return [["touch", str(self.ready)], ["wait-file", str(self.go), 60]]

    def wait_ready(self) -> None:
        wait_for(self.ready.exists, "the tool gets ready")

    def wait_noted(self, session_id: str, text: str) -> None:
        """Wait until something is in the transcript: a tool that is ready may have said more than csa has read."""
        path = self.session(session_id) / "transcript.jsonl"
        wait_for(lambda: text in path.read_text(), f"{text} is noted")

    def release(self) -> None:
        self.go.touch()

    # Commands

    def prepare(self, argv: list[str], cwd: Path) -> tuple[list[str], Path | None]:
        """Return what starts a command in a directory, and where that is to be started."""
        return argv, cwd

    def start(
        self,
        *words: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        program: Path | str = CSA,
    ) -> Running:
        """Start csa."""
        number = len(self.started) + 1
        out, err = self.tmp / f"stdout-{number}", self.tmp / f"stderr-{number}"
        argv, directory = self.prepare([str(program), *words], cwd or self.project)
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                argv,
                env=self.environment(env),
                cwd=directory,
                stdin=stdin,
                stdout=out_file,
                stderr=err_file,
            )
        self.started.append(process)
        return self.running(process, out, err, words if program == CSA else ())

    def popen(self, argv: list[str]) -> subprocess.Popen[bytes]:
        """Start any command in the same surroundings, its streams connected to nothing."""
        null = subprocess.DEVNULL
        argv, directory = self.prepare(argv, self.project)
        return subprocess.Popen(argv, env=self.environment(None), cwd=directory, stdin=null, stdout=null, stderr=null)

    def run(
        self,
        *words: str,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Done:
        """Run csa to its end; stdin is empty unless given."""
        if self.server is None or any(name.startswith(_OF_PYTHON) for name in env or ()):
            return self.shell([CSA, *words], env=env, cwd=cwd, stdin=stdin)
        with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
            given.write(stdin or b"")
            streams = given.fileno(), out.fileno(), err.fileno()
            for file in (given, out, err):
                file.seek(0)
            code = self.server.run(
                [CSA, *words],
                env=self.environment(env),
                cwd=cwd or self.project,
                streams=streams,
                limit_s=PATIENCE_S,
            )
            out.seek(0)
            err.seek(0)
            return Done(code, out.read().decode(), err.read().decode(), words)

    def imports(self, *words: str) -> set[str]:
        """Return the modules that a command imports, and the packages they are in."""
        done = self.shell([sys.executable, "-X", "importtime", CSA, *words])
        lines = [line for line in done.err.splitlines() if line.startswith("import time:")]
        names = {line.rpartition("|")[2].strip() for line in lines}
        return names | {name.partition(".")[0] for name in names}

    def shell(
        self,
        argv: list[str],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Done:
        """Run any command in the same surroundings."""
        words = tuple(argv[1:]) if argv[0] == CSA else ()
        argv, directory = self.prepare(argv, cwd or self.project)
        ended = subprocess.run(
            argv,
            env=self.environment(env),
            cwd=directory,
            input=stdin or b"",
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return Done(ended.returncode, ended.stdout.decode(), ended.stderr.decode(), words)

    def codex(self, prompt: str = "hello", *words: str, env: Mapping[str, str | None] | None = None) -> Done:
        """Run a turn of codex that must succeed."""
        done = self.run("run", "--tool", "codex", *words, prompt, env=env)
        assert done.code == 0, done.err
        return done

    def environment(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        """The environment of a command; None removes a variable."""
        merged = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def agent(self, *words: str, env: Mapping[str, str | None] | None = None) -> tuple[str, dict[str, str | None]]:
        """Run a turn; return its session and the environment in which its agent's commands ran."""
        path = self.tmp / f"env-{uuid.uuid4().hex}"
        before = self.env.get("FAKE_TOOL_SCRIPT")
        self.play(["write-env", str(path)], ["say", "noted"])
        done = self.codex("who are you", *words, env=env)
        if before:
            self.env["FAKE_TOOL_SCRIPT"] = before
        else:
            del self.env["FAKE_TOOL_SCRIPT"]
        seen = json.loads(path.read_text())
        return done.session_id, {name: value for name, value in seen.items() if name.startswith("CSA_")}

    # What is left

    @property
    def store(self) -> Path:
        return Store(self.state_root, self.project).path

    def ids(self, project: Path | None = None) -> list[str]:
        """Name all that is in sessions/, hidden or not."""
        sessions = Store(self.state_root, project or self.project).path / "sessions"
        return sorted(os.listdir(sessions)) if sessions.exists() else []

    def published(self) -> list[str]:
        """Name the sessions that others see."""
        return [name for name in self.ids() if not name.startswith(".")]

    def session(self, session_id: str) -> Path:
        return self.store / "sessions" / session_id

    def state(self, session_id: str, project: Path | None = None) -> Json:
        """Return the record of a session."""
        sessions = Store(self.state_root, project or self.project).path / "sessions"
        return tomllib.loads((sessions / session_id / "state.toml").read_text())

    def events(self, session_id: str) -> list[Json]:
        """Return a transcript whose lines are whole and numbered without a gap."""
        return read_transcript(self.session(session_id) / "transcript.jsonl")

    def last_event(self, session_id: str) -> Json:
        """Return how a session's last turn ended."""
        event = self.events(session_id)[-1]
        assert event["type"] == "run_finished"
        data: Json = event["data"]
        return data

    def status(self, session_id: str) -> str:
        """Return what `session list` says of a session."""
        listed = self.run("session", "list", "--json").json
        return next(str(item["status"]) for item in listed if item["id"] == session_id)

    def processes(self) -> dict[int, str]:
        """Find what has our HOME in its environment or our mark in its command line; zombies have neither."""
        found: dict[int, str] = {}
        home, mark = f"HOME={self.home}".encode(), self.mark.encode()
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                environ = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if words and (mark in words or home in environ.split(b"\0")):
                found[int(name)] = words.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def wait_until_empty(self, *, within_s: float) -> None:
        """Wait until nothing of ours runs."""
        wait_for(lambda: not self.processes(), f"no process left, there are {self.processes()}", within_s=within_s)


def close_place(place: Place) -> None:
    """Fail when something still runs, and kill it."""
    deadline = time.monotonic() + allowing(2)
    while (left := place.processes()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    kill_all(left)
    if left:  # reaped, so that one test that fails does not make another one fail
        for process in place.started:
            process.wait(PATIENCE_S)
    assert not left, f"processes left behind: {left}"


def read_transcript(path: Path, *, is_made_up: bool = False) -> list[Json]:
    """Parse a transcript; fail on a partial line, a gap in `seq`, or an event that is not what its schema says.

    The events of a test's own (`is_made_up`) need not keep to it.
    """
    content = path.read_text()
    assert content.endswith("\n") or not content
    events: list[Json] = [json.loads(line) for line in content.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    if not is_made_up:
        check_events(events)
    return events


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the content, mode and time of everything below a directory."""
    found: dict[str, tuple[int, int, bytes]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
    return found
