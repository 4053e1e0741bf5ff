"""Where the real CLIs run: a private home outside /tmp, a project, a provider on the loopback, and csa.

Every tool of `TOOLS` is set up in every workplace, so that agents can start each other. A further tool is one more
entry there.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.mock_provider import MockProvider, Recorded, Reply, tool_call

Json = dict[str, Any]

# Read while the tests are collected: each test has an environment of its own.
CLIS = os.environ.get("CSA_REAL_CLIS", "")
SEARCH_PATH = os.environ.get("PATH", os.defpath)
# Not in /tmp, which codex's sandbox leaves writable: there a home would be writable by accident.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-real-work"
CSA = Path(sys.executable).parent / "csa"
KEY = "mock-credential-of-no-value"
# The tools also ask their vendors and GitHub for news, models and plugins; no test leaves this machine.
SILENT = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
    "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1",
}
GRACE_S = 2.0
READY_S = 40.0


@dataclass(frozen=True)
class RealTool:
    """What the tests must know of one tool; URLs are the provider's, without `/v1`."""

    name: str
    executable: str
    request_path: str  # how the path of its requests begins
    key_variable: str  # holds the key of its provider
    env: Callable[[str], dict[str, str]]
    files: Callable[[str], dict[str, str]]  # by their place below HOME
    conversation: str  # a glob below HOME for the file that a resume reads; {id} is the provider session's
    marker: str  # a variable by which what its agent starts knows that it runs inside
    project_file: str  # what it reads of a project's instructions
    tells_cost: bool
    tells_denials: bool
    hears_system_again: bool  # a system text that is given at a resume reaches the model
    effort: Callable[[Json], Any]  # of a request
    shell_permissions: tuple[str, ...]  # the levels at which its agent may run any command
    writes: Callable[[str], tuple[Reply, ...]]  # how its agent may try to write the file
    tells_thoughts: bool = True
    tells_failed_commands: bool = True  # a command that fails is not reported as one that succeeded
    keeps_lost_text: bool = False  # what a connection that broke had brought stays in the answer
    silent_failures: frozenset[str] = frozenset()  # cases of test_failures that are not retried, or not audibly
    longest_answer: int = 2 << 20  # gemini exits before it has written more than a pipe holds
    project_file_always: bool = False  # it reads the project's instructions in an ephemeral run too
    holds: Callable[[Path, str], bool] = lambda _path, _session: True  # whether a found file has the conversation
    keeps_model: bool = False  # a conversation goes on with its last model when none is asked for
    model: str = "some-model-9"  # what a run may ask for; the provider sees what follows a slash
    misses_key: bool = True  # whether it says so itself when the key of its provider is missing


def _codex_files(url: str) -> dict[str, str]:
    config = f"""
model = "mock-model"
model_provider = "mock"
[model_providers.mock]
name = "mock"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "MOCK_API_KEY"
[analytics]
enabled = false
"""
    return {".codex/config.toml": config}


def _claude_env(url: str) -> dict[str, str]:
    silent = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING")
    return {"ANTHROPIC_BASE_URL": url, **dict.fromkeys(silent, "1")}


CODEX = RealTool(
    name="codex",
    executable="codex",
    request_path="/v1/responses",
    key_variable="MOCK_API_KEY",
    env=lambda _url: {},
    files=_codex_files,
    conversation=".codex/sessions/*/*/*/rollout-*-{id}.jsonl",
    marker="CODEX_THREAD_ID",
    project_file="AGENTS.md",
    tells_cost=False,
    tells_denials=False,
    hears_system_again=False,
    effort=lambda body: body["reasoning"]["effort"],
    shell_permissions=("edit", "full"),
    writes=lambda path: (tool_call(f"echo x > '{path}'"),),
)
CLAUDE_CODE = RealTool(
    name="claude-code",
    executable="claude",
    request_path="/v1/messages",
    key_variable="ANTHROPIC_API_KEY",
    env=_claude_env,
    files=lambda _url: {},
    conversation=".claude/projects/*/{id}.jsonl",
    keeps_model=True,
    marker="CLAUDECODE",
    project_file="CLAUDE.md",
    tells_cost=True,
    tells_denials=True,
    hears_system_again=True,
    effort=lambda body: body["output_config"]["effort"],
    shell_permissions=("full",),
    writes=lambda path: (
        tool_call(f"echo x > '{path}'"),
        tool_call(name="Write", arguments={"file_path": path, "content": "x"}),
    ),
)
GEMINI_CLI = RealTool(
    name="gemini-cli",
    executable="gemini",
    request_path="/v1beta/models/",
    key_variable="GEMINI_API_KEY",
    # Without a model it asks another one first which to take.
    env=lambda url: {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_MODEL": "gemini-2.5-flash"},
    files=lambda _url: {},
    conversation=".gemini/tmp/*/chats/session-*-{id:.8}.jsonl",
    marker="GEMINI_CLI",
    project_file="GEMINI.md",
    tells_cost=False,
    tells_denials=True,
    hears_system_again=True,
    effort=lambda body: body["generationConfig"]["thinkingConfig"]["thinkingLevel"].lower(),
    shell_permissions=("full",),
    writes=lambda path: (
        tool_call(name="run_shell_command", arguments={"command": f"echo x > '{path}'"}),
        tool_call(name="write_file", arguments={"file_path": path, "content": "x"}),
    ),
    tells_thoughts=False,
    tells_failed_commands=False,
    keeps_lost_text=True,
    silent_failures=frozenset({"always 401", "always cut"}),
    longest_answer=900 << 10,
    project_file_always=True,
)


def _opencode_files(url: str) -> dict[str, str]:
    about = {"limit": {"context": 1_000_000, "output": 8000}, "reasoning": True, "cost": {"input": 1, "output": 4}}
    about |= {"attachment": True, "modalities": {"input": ["text", "image"], "output": ["text"]}}
    effort = {"variants": {"high": {"reasoningEffort": "high"}}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": "{env:OPENCODE_MOCK_KEY}"},
        "models": {"mock-model": about, "some-model-9": {**about, **effort}},
    }
    config = {"model": "mock/mock-model", "small_model": "mock/mock-model", "share": "disabled"}
    # At its first start it would get a package of its own for plugins from the registry; here it has done so.
    installed = {"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
    return {
        ".config/opencode/opencode.json": json.dumps({**config, "provider": {"mock": provider}}),
        ".config/opencode/package-lock.json": json.dumps(installed),
        ".config/opencode/node_modules/.package-lock.json": "{}",
        ".cache/opencode/models.json": "{}",  # the thousands that are built in take it a third of each start
        ".npmrc": "offline=true\nregistry=http://127.0.0.1:9/\n",
    }


def _opencode_holds(path: Path, session: str) -> bool:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("select count(*) from session where id glob ?", [session]).fetchone()
    return bool(found[0])


OPENCODE = RealTool(
    name="opencode",
    executable="opencode",
    request_path="/v1/chat/completions",
    key_variable="OPENCODE_MOCK_KEY",
    env=lambda _url: {"OPENCODE_DISABLE_MODELS_FETCH": "1"},
    files=_opencode_files,
    conversation=".local/share/opencode/opencode.db",
    marker="OPENCODE",
    project_file="AGENTS.md",
    tells_cost=True,
    tells_denials=True,
    hears_system_again=True,
    effort=lambda body: body["reasoning_effort"],
    shell_permissions=("full",),
    writes=lambda path: (
        tool_call(name="bash", arguments={"command": f"echo x > '{path}'", "description": "Writes"}),
        tool_call(name="write", arguments={"filePath": path, "content": "x"}),
    ),
    holds=_opencode_holds,
    keeps_model=True,
    model="mock/some-model-9",
    silent_failures=frozenset({"always 401"}),
    misses_key=False,
)
# CSA_REAL_TOOLS may name some of them; conftest leaves out the tests that need others.
TOOLS = tuple(
    tool
    for tool in (CODEX, CLAUDE_CODE, GEMINI_CLI, OPENCODE)
    if tool.name in os.environ.get("CSA_REAL_TOOLS", tool.name).split(",")
)
# For what csa does by itself, whichever tool it is; the two that take longest are left to the slow suite.
OF_TWO = pytest.mark.parametrize(
    "tool",
    [pytest.param(tool, marks=[pytest.mark.slow] * (tool in (GEMINI_CLI, OPENCODE)), id=tool.name) for tool in TOOLS],
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Workplace:
    """A home, a project in it, a provider, and csa run there."""

    def __init__(self, base: Path, provider: MockProvider) -> None:
        self.base = base
        self.provider = provider
        self.home = base / "home"
        self.project = self.home / "my projéct"  # paths have spaces
        self.project.mkdir(parents=True)
        (base / "tmp").mkdir()
        self.state_root = self.home / ".local" / "state" / "csa"
        self.env = {
            "HOME": str(self.home),
            "PATH": os.pathsep.join([str(executables()), str(CSA.parent), SEARCH_PATH]),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "TMPDIR": str(base / "tmp"),
            "USER": "tester",
            **SILENT,
        }
        self._started: list[subprocess.Popen[bytes]] = []
        for tool in TOOLS:
            self.env |= {tool.key_variable: KEY, **tool.env(provider.url)}
            for place, content in tool.files(provider.url).items():
                path = self.home / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
        subprocess.run(["git", "init", "-q", "."], cwd=self.project, env=self.env, check=True)

    def environment(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        """Return the environment of a command; None removes a variable."""
        merged = {**self.env, **(changes or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def start(
        self, *words: str, env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start csa; end it with `finish`."""
        process = subprocess.Popen(
            [CSA, *words],
            cwd=self.project,
            env=self.environment(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(process)
        return process

    def csa(self, *words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Done:
        """Run csa to its end."""
        done = subprocess.run(
            [CSA, *words],
            cwd=self.project,
            env=self.environment(env),
            input=stdin,
            capture_output=True,
            timeout=100,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def run(self, tool: RealTool, prompt: str, *options: str, env: Mapping[str, str] | None = None) -> Json:
        """Run a new session that must succeed; return its result."""
        done = self.csa("run", "--json", "--tool", tool.name, *options, prompt, env=env)
        assert done.code == 0, done
        found: Json = done.json
        assert found["status"] == "succeeded"
        return found

    def resume(self, session_id: str, prompt: str, *options: str) -> Json:
        """Run a turn in a session, which must succeed; return its result."""
        done = self.csa("run", "--json", "--session", session_id, *options, prompt)
        assert done.code == 0, done
        found: Json = done.json
        return found

    def sessions(self) -> list[Json]:
        """List the sessions, newest first."""
        found: list[Json] = self.csa("session", "list", "--sort", "created", "--json").json
        return found

    def only_session(self) -> Json:
        (found,) = self.sessions()
        return found

    def events(self, session_id: str, kind: str) -> list[Json]:
        """Return what the events of one type in a transcript say."""
        lines = (self.session_dir(session_id) / "transcript.jsonl").read_text().splitlines()
        return [event["data"] for event in map(json.loads, lines) if event["type"] == kind]

    def shown(self, session_id: str) -> str:
        """Return the output of all tool calls in a transcript."""
        return "\n".join(str(data.get("content", "")) for data in self.events(session_id, "tool_call_update"))

    def session_dir(self, session_id: str) -> Path:
        return self.state_root.joinpath(*self.project.parts[1:]) / "sessions" / session_id

    def state(self, session_id: str) -> Json:
        return tomllib.loads((self.session_dir(session_id) / "state.toml").read_text())

    def conversations(self, tool: RealTool, provider_session_id: str = "*") -> list[Path]:
        """Find what the tool itself keeps of its conversations."""
        found = self.home.glob(tool.conversation.format(id=provider_session_id))
        return [path for path in found if tool.holds(path, provider_session_id)]

    def forget_conversations(self, tool: RealTool) -> None:
        """Remove what the tool keeps, and what lies beside it under the same name: a database has companions."""
        for path in self.conversations(tool):
            for each in path.parent.glob(f"{path.name}*"):
                each.unlink()

    def asked(self, needle: str) -> list[Recorded]:
        """Return the requests to the provider whose latest prompt has `needle`."""
        return [request for request in self.provider.requests if needle in request.prompt]

    def processes(self) -> dict[int, str]:
        """Find the processes whose environment mentions this place, by pid."""
        return _processes(lambda entry: str(self.base).encode() in (entry / "environ").read_bytes())

    def gone_after(self, grace_s: float = GRACE_S) -> dict[int, str]:
        """Wait until no process is left; return those that are there when the grace is over."""
        deadline = time.monotonic() + grace_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)  # the processes are not ours to wait for
        return left

    def close(self) -> dict[int, str]:
        """End what still runs, and return it."""
        left = self.gone_after()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self._started:
            process.communicate()
        return left


class Sleepers:
    """A shell command that leaves two processes, one in a session of its own, that no other test has."""

    def __init__(self) -> None:
        first = random.randrange(1_000_000, 9_000_000)
        self.names = {f"sleep {first}", f"sleep {first + 1}"}
        self.command = f"setsid sleep {first} & sleep {first + 1}"

    def running(self) -> set[str]:
        found = _processes(lambda entry: self._words(entry) in self.names)
        return set(found.values())

    def wait_until_running(self) -> None:
        deadline = time.monotonic() + READY_S
        while self.running() != self.names:
            assert time.monotonic() < deadline, f"the agent's shell runs only {self.running()}"
            time.sleep(0.05)  # they are processes of the agent, and say nothing

    @staticmethod
    def _words(entry: Path) -> str:
        return (entry / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def finish(process: subprocess.Popen[bytes]) -> Done:
    """Wait for the end of what `Workplace.start` has started."""
    stdout, stderr = process.communicate(timeout=100)
    return Done(process.returncode, stdout.decode(), stderr.decode())


def executables() -> Path:
    """Return where the real CLIs are; a test that needs them fails where they are not."""
    found = Path(CLIS) / "node_modules" / ".bin"
    missing = [tool.executable for tool in TOOLS if not CLIS or not (found / tool.executable).exists()]
    if missing:
        pytest.fail(
            f"The real CLIs ({', '.join(missing)}) are not below CSA_REAL_CLIS: run `make test-real`, which gets them.",
            pytrace=False,
        )
    return found.resolve()


@contextmanager
def open_workplace() -> Iterator[Workplace]:
    """Make a workplace; in the end it fails when a process is left, ends that, and removes everything."""
    executables()
    CACHE.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(dir=CACHE)).resolve()
    left: dict[int, str] = {}
    try:
        with MockProvider() as provider:
            place = Workplace(base, provider)
            try:
                yield place
            finally:
                left = place.close()
    finally:
        shutil.rmtree(base)
    assert not left, f"processes left behind: {left}"


def _processes(is_meant: Callable[[Path], bool]) -> dict[int, str]:
    """Return the words of the processes that are meant; zombies have ended."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if is_meant(entry) and (words := (entry / "cmdline").read_bytes()):
                found[int(entry.name)] = words.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # another user's, or just gone
            continue
    return found
