"""The fakes against what the real CLIs said: the recordings always, the CLIs themselves where they are installed.

Compared are the sequence of event types, the keys of every event (a fake may say less, never other things) and the
exit code.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.mock_provider import MockProvider, status, text, tool_call

REPOSITORY = Path(__file__).parents[2]
BIN = REPOSITORY / "adapters" / "csa_fakes" / "bin"
REAL_CLIS = os.environ.get("CSA_REAL_CLIS", "")
BRIDGE = Path(__file__).parents[2] / "adapters" / "csa_adapters" / "opencode_bridge.py"
UNKNOWN = "01a1f83a-accd-4db1-ada4-435d9ff915d3"
UNKNOWN_SESSION = "ses_e072d4ba1ffebBlWdt2CHPjKfj"
ARGV = {
    "codex": ["codex", "exec", "--json", "-m", "mock-model"],
    "claude-code": ["claude", "-p", "--output-format", "stream-json", "--verbose", "--allowedTools", "Bash"],
    "gemini-cli": ["gemini", "--skip-trust", "-o", "stream-json", "-m", "gemini-2.5-flash", "--approval-mode", "yolo"],
    "opencode": [sys.executable, "-I", "-S", str(BRIDGE), "opencode"],
}
TOOLS = pytest.mark.parametrize("tool", ["codex", "claude-code", "gemini-cli", "opencode"])
CASES = ["new-text", "tool-call", "resume", "resume-unknown", "fail-401"]
RECORDED = [(tool, case) for tool in ARGV for case in [*CASES, "tool-failed"]] + [
    ("claude-code", "permission-denied"),
    ("claude-code", "compact"),
    ("claude-code", "structured"),
    ("gemini-cli", "permission-denied"),
    ("gemini-cli", "file-change"),
    ("gemini-cli", "session-id-in-use"),
    *(("gemini-cli", f"fail-{kind}") for kind in ("404", "429", "500", "503", "cut", "unreachable")),
    ("opencode", "permission-denied"),
    ("opencode", "outside"),
    ("opencode", "parallel"),
    ("opencode", "reasoning"),
    ("opencode", "retry"),
    ("opencode", "fail-500"),
    ("opencode", "fail-later"),
    *(("opencode", case) for case in ("subagent", "background", "unfinished", "length")),
    ("opencode", "run-tool-call"),
    ("opencode", "run-fail-401"),
]
SCRIPTS: dict[str, list[list[Any]]] = {
    "tool-call": [["call", "pwd", "/\n", 0], ["say", "done"]],
    "tool-failed": [["call", "false", "no\n", 1], ["say", "done"]],
    "permission-denied": [["deny", "Bash", "curl example.com"], ["say", "done"]],
    "file-change": [["edit", "new.txt"], ["say", "done"]],
    "structured": [["answer", {"name": "Ada"}]],
    "outside": [["ask", "external_directory", "/etc/*"], ["say", "done"]],
    "parallel": [["run-parallel", ["echo 1", "echo 2"]], ["say", "done"]],
    "retry": [["retry", "500", 1], ["retry", "500", 2], ["say", "done"]],
    "fail-later": [["retry", "429", 12], ["sleep", 20]],
    "fail-500": [*(["retry", "500", attempt] for attempt in (1, 2, 3, 9)), ["sleep", 20]],
}
SCRIPTS["subagent"] = [["delegate", "inner"], ["say", "done"]]
SCRIPTS["background"] = [["delegate", "inner", True], ["say", "done"]]
SCRIPTS["unfinished"] = [["say", "words"], ["end-step", "unknown"]] * 6
SCRIPTS["length"] = [["say", "so f"], ["end-step", "length"]]
# opencode thinks aloud in these.
SCRIPTS["reasoning"] = SCRIPTS["run-tool-call"] = [["think", "hm"], *SCRIPTS["tool-call"]]
# Failures that are no retries of the stream's: what the script says of them.
FAILURES = {"fail-cut": "stream", "fail-unreachable": "network"}
# Objects whose keys are data, and not the tool's: arguments, models.
OPEN_OBJECTS = {
    "input",
    "tool_input",
    "modelUsage",
    "model_usage_since_last_result",
    "tool_use_result",
    "parameters",
    "models",
    "metadata",
}

Json = dict[str, Any]


@dataclass
class Stream:
    """What one run said."""

    events: list[Json]
    exit_code: int

    @property
    def kinds(self) -> list[str]:
        return [kind_of(event) for event in self.events]

    @property
    def retries(self) -> int:
        return sum(is_retry(event) for event in self.events)

    @property
    def session_id(self) -> str:
        first = self.events[0]
        return str(first.get("thread_id") or first.get("sessionID") or first["session_id"])

    def keys(self) -> dict[str, set[str]]:
        """Collect the paths of all keys, for every kind of event."""
        found: dict[str, set[str]] = {}
        for event in self.events:
            found.setdefault(kind_of(event), set()).update(paths(event))
        return found


def kind_of(event: Json) -> str:
    """Name an event by its type, its subtype and the type of what it holds."""
    message = event.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = [block["type"] for block in content] if isinstance(content, list) else []
    parts = [event["type"], event.get("subtype"), event.get("item", {}).get("type"), *blocks]
    parts += [event.get("role"), event.get("status")]
    return " ".join(part for part in parts if part)


def is_retry(event: Json) -> bool:
    return event.get("subtype") == "api_retry" or str(event.get("message")).startswith("Reconnecting")


def paths(value: object, above: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{above}.{key}"
            if key not in OPEN_OBJECTS:
                yield from paths(inner, f"{above}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner, f"{above}[]")


def parse(output: str, exit_code: int) -> Stream:
    return Stream([json.loads(line) for line in output.splitlines()], exit_code)


class Place:
    """A home and a project, for the fakes or for the real CLIs."""

    def __init__(self, folder: Path, path: str) -> None:
        self.project = folder / "project"
        self.codex_home = folder / "codex"
        for made in (self.project / ".git", self.codex_home, folder / "claude"):
            made.mkdir(parents=True)
        (self.project / ".git" / "HEAD").touch()
        self.env = {
            "PATH": f"{path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "TMPDIR": str(folder),  # gemini leaves reports of errors there
            "CODEX_HOME": str(self.codex_home),
            "CLAUDE_CONFIG_DIR": str(folder / "claude"),
        }

    def run(self, argv: list[str], prompt: str) -> Stream:
        done = subprocess.run(
            argv, input=prompt, env=self.env, cwd=self.project, text=True, capture_output=True, timeout=50, check=False
        )
        return parse(done.stdout, done.returncode)

    def play(self, tool: str, case: str, prompt: str) -> Stream:
        """Run a case as the tool's user would."""
        if tool == "opencode":
            return self.play_opencode(case, prompt)
        stdin = ["-"] if tool == "codex" else []
        session = UNKNOWN
        if case == "structured":
            return self.run([*ARGV[tool], "--json-schema", '{"type": "object"}'], prompt)
        if case in ("resume", "compact", "session-id-in-use"):
            session = self.run([*ARGV[tool], *stdin], "hello").session_id
        if case == "session-id-in-use":
            return self.run([*ARGV[tool], "--session-id", session], prompt)
        if case == "resume-unknown" and tool == "gemini-cli":  # which says something else where there is none at all
            self.run(ARGV[tool], "hello")
        if case in ("resume", "compact", "resume-unknown"):
            resume = ["resume", session] if tool == "codex" else ["--resume", session]
            return self.run([*ARGV[tool], *resume, *stdin], prompt)
        return self.run([*ARGV[tool], *stdin], prompt)

    def play_opencode(self, case: str, prompt: str) -> Stream:
        """Run it as csa does, the case being told on stdin; or by itself, as csa does not."""
        if case.startswith("run-"):
            return self.run(["opencode", "run", "--format", "json", "--thinking", "--title", "x"], prompt)
        session = UNKNOWN_SESSION if case == "resume-unknown" else None
        if case == "resume":
            session = self.run(ARGV["opencode"], json.dumps({"prompt": "hello", "title": "x"})).session_id
        return self.run(ARGV["opencode"], json.dumps({"prompt": prompt, "title": "x", "session": session}))


def run_fake(folder: Path, tool: str, case: str, real: Stream) -> Stream:
    """Run the case with the fake, which fails as often as the real tool did before it gives up."""
    place = Place(folder, str(BIN))
    steps = SCRIPTS.get(case, [["say", "done"]])
    if case in {"fail-401", "run-fail-401"} or (tool == "gemini-cli" and case.startswith("fail-")):
        kind = FAILURES.get(case, case.rpartition("fail-")[2])
        steps = [*(["retry", kind, attempt + 1] for attempt in range(real.retries)), ["fail", kind]]
        if case == "fail-cut":
            steps = [["say", "half"], ["say", "half"], *steps]
    script = folder / "script.json"
    script.write_text(json.dumps({"rules": [{"match": "go", "do": steps}]}))
    place.env["FAKE_TOOL_SCRIPT"] = str(script)
    return place.play(tool, case, "/compact" if case == "compact" else "go")


def assert_alike(fake: Stream, real: Stream) -> None:
    assert fake.kinds == real.kinds
    assert fake.exit_code == real.exit_code
    of_real = real.keys()
    invented = {kind: sorted(keys - of_real[kind]) for kind, keys in fake.keys().items() if keys - of_real[kind]}
    assert invented == {}


def recording(tool: str, case: str) -> Stream:
    folder = REPOSITORY / "fixtures" / "recordings" / tool
    about = tomllib.loads((folder / "index.toml").read_text())[f"{case}.jsonl"]
    return parse((folder / f"{case}.jsonl").read_text(), about["exit_code"])


@pytest.mark.parametrize(("tool", "case"), RECORDED)
def test_fake_says_what_was_recorded(tmp_path: Path, tool: str, case: str) -> None:
    """A fake gives the event types, keys and exit code of a recorded run of its tool."""
    real = recording(tool, case)
    assert_alike(run_fake(tmp_path, tool, case, real), real)


@pytest.fixture
def provider() -> Iterator[MockProvider]:
    with MockProvider() as provider:
        provider.on("tool-call", tool_call("pwd"), text("done"))
        provider.on("fail-401", status(401))
        yield provider


@pytest.fixture
def real_place(tmp_path: Path, provider: MockProvider) -> Place:
    """Point the real CLIs at the provider; they retry once."""
    place = Place(tmp_path / "real", str(Path(REAL_CLIS) / "node_modules" / ".bin"))
    place.env |= {
        "ANTHROPIC_BASE_URL": provider.url,
        "ANTHROPIC_API_KEY": "mock-key-of-no-value",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "DISABLE_AUTOUPDATER": "1",
        "MOCK_API_KEY": "mock-key-of-no-value",
        "GEMINI_API_KEY": "mock-key-of-no-value",
        "GOOGLE_GEMINI_BASE_URL": provider.url,
        "GEMINI_CLI_NO_RELAUNCH": "true",
    }
    settings = place.project.parent / ".gemini" / "settings.json"
    settings.parent.mkdir()
    settings.write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    (place.codex_home / "config.toml").write_text(f"""
model_provider = "mock"
[model_providers.mock]
name = "mock"
base_url = "{provider.url}/v1"
wire_api = "responses"
env_key = "MOCK_API_KEY"
request_max_retries = 0
stream_max_retries = 1
""")
    place.env |= {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    write_opencode_config(tmp_path / "real", provider.url)
    return place


def write_opencode_config(home: Path, url: str) -> None:
    """Point it at the provider, and its hunt for a package of its own nowhere."""
    options = {"baseURL": f"{url}/v1", "apiKey": "mock-key-of-no-value"}
    model = {"limit": {"context": 1_000_000, "output": 8000}}
    mock = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"mock-model": model}}
    config = home / ".config" / "opencode" / "opencode.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"model": "mock/mock-model", "provider": {"mock": mock}}))
    (home / ".npmrc").write_text("offline=true\nregistry=http://127.0.0.1:9/\n")


@pytest.mark.real
@pytest.mark.skipif(not REAL_CLIS, reason="CSA_REAL_CLIS names no directory with node_modules/.bin")
@pytest.mark.parametrize("case", CASES)
@TOOLS
def test_fake_says_what_the_real_one_says(tmp_path: Path, real_place: Place, tool: str, case: str) -> None:
    """A fake gives the event types, keys and exit code that the installed CLI gives now."""
    real = real_place.play(tool, case, case)
    assert_alike(run_fake(tmp_path / "fake", tool, case, real), real)
