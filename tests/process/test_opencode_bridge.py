"""The program that runs opencode's server for a turn, over a fake opencode."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from csa_adapters.opencode import BRIDGE
from csa_adapters.opencode_server import address_in

from tests.conftest import processes_of
from tests.support import allowing

Json = dict[str, Any]
UNKNOWN = "ses_e072d4ba1ffebBlWdt2CHPjKfj"


class Bridge:
    """Starts bridges in a project of their own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.project = place / "my project"
        self.project.mkdir()
        self.env: dict[str, str] = {}

    def play(self, *steps: list[Any]) -> None:
        """Tell the fake what to do."""
        script = self.place / "script.json"
        script.write_text(json.dumps({"rules": [{"match": "", "do": list(steps)}]}))
        self.env["FAKE_TOOL_SCRIPT"] = str(script)

    def start(self, *, cwd: Path | None = None, command: str = "opencode", **asked: Any) -> subprocess.Popen[str]:
        where = cwd or self.project
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", BRIDGE, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=where,
            env={**os.environ, **self.env, "PWD": str(where)},
        )
        assert process.stdin
        process.stdin.write(json.dumps({"prompt": "do it", "title": "it", **asked}))
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, **asked: Any) -> tuple[int, list[Json]]:
        """Run a turn to its end; return the exit code and the lines."""
        process = self.start(**asked)
        stdout, _ = process.communicate(timeout=30)
        return process.returncode, [json.loads(line) for line in stdout.splitlines()]


@pytest.fixture
def bridge(tmp_path: Path) -> Bridge:
    return Bridge(tmp_path)


@pytest.fixture
def running(bridge: Bridge) -> Iterator[tuple[subprocess.Popen[str], Json]]:
    """A turn whose tool shell runs, and its first line."""
    ready = bridge.place / "ready"
    bridge.play(["run", f"touch {ready}; sleep 600"])
    process = bridge.start()
    assert process.stdout
    first = json.loads(process.stdout.readline())
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the shell is no child of ours
    yield process, first
    process.kill()
    process.communicate()


def types_of(lines: list[Json]) -> list[str]:
    return [line["type"] for line in lines]


def read(process: subprocess.Popen[str], kind: str) -> Json:
    """Read lines until one of a kind comes."""
    assert process.stdout
    for raw in process.stdout:
        line: Json = json.loads(raw)
        if line["type"] == kind:
            return line
    raise AssertionError(f"no {kind} line")


def test_a_turn_names_its_session_on_every_line(bridge: Bridge) -> None:
    """The session comes first, the end is the exit."""
    bridge.play(["think", "hm"], ["call", "ls", "a\n"], ["say", "done"])
    code, lines = bridge.run()
    assert types_of(lines) == [
        "session",
        "step_start",
        "reasoning",
        "tool_use",
        "tool_use",
        "step_finish",
        "step_start",
        "text",
        "step_finish",
    ]
    assert len({line["sessionID"] for line in lines}) == 1
    assert lines[0]["directory"] == str(bridge.project)
    assert code == 0


@pytest.mark.thorough
def test_the_session_is_told_before_the_model_is_asked(bridge: Bridge) -> None:
    """A first turn that is killed while the model has said nothing can be gone on with."""
    bridge.play(["sleep", 600])
    process = bridge.start()
    first = read(process, "session")
    process.send_signal(signal.SIGKILL)
    (server,) = [pid for pid, words in processes_of(Path(os.environ["HOME"])).items() if "serve" in words]
    os.kill(server, signal.SIGKILL)  # its guardian's part
    process.communicate()
    bridge.play(["say", "on it"])
    code, lines = bridge.run(session=first["sessionID"])
    assert (code, lines[0]["sessionID"]) == (0, first["sessionID"])


@pytest.mark.thorough
def test_a_resume_elsewhere_runs_and_is_heard_in_the_sessions_directory(bridge: Bridge) -> None:
    """`opencode run` works there in silence and never ends."""
    _, lines = bridge.run()
    elsewhere = bridge.place / "elsewhere"
    elsewhere.mkdir()
    code, after = bridge.run(session=lines[0]["sessionID"], cwd=elsewhere)
    assert code == 0
    assert after[0]["directory"] == str(bridge.project)
    assert "text" in types_of(after)


@pytest.mark.thorough
def test_an_unknown_session_is_an_error_and_not_a_new_one(bridge: Bridge) -> None:
    """Nothing is asked of the model."""
    code, lines = bridge.run(session=UNKNOWN)
    assert (code, types_of(lines)) == (1, ["error"])
    assert lines[0]["error"] == {"name": "NotFoundError", "data": {"message": f"Session not found: {UNKNOWN}"}}


@pytest.mark.thorough
def test_a_prompt_of_any_kind_and_size_arrives(bridge: Bridge) -> None:
    """300 KiB with quotes, a leading dash and no newline at the end."""
    prompt = "-- \"x y\" 'z' \\ ünï 🚀\r\n" * 12_000
    written = bridge.place / "prompt"
    bridge.play(["write-stdin", str(written)], ["say", "read"])
    assert bridge.run(prompt=prompt)[0] == 0
    assert written.read_bytes() == prompt.encode()


def test_the_password_is_on_no_command_line(bridge: Bridge) -> None:
    """Everybody on the machine can read those; the environment only its user."""
    env, argv = bridge.place / "env", bridge.place / "argv"
    bridge.play(["write-env", str(env)], ["write-argv", str(argv)], ["say", "done"])
    bridge.run()
    password = json.loads(env.read_text())["OPENCODE_SERVER_PASSWORD"]
    assert len(password) > 30
    assert json.loads(argv.read_text()) == ["serve", "--hostname", "127.0.0.1", "--port", "0"]


@pytest.mark.thorough
def test_a_retry_is_told_as_it_happens(bridge: Bridge) -> None:
    """Two failures, and the turn goes on."""
    bridge.play(["retry", "500", 1], ["retry", "500", 2], ["say", "recovered"])
    code, lines = bridge.run()
    retries = [line for line in lines if line["type"] == "retry"]
    assert [(line["attempt"], line["message"]) for line in retries] == [(1, "mock 500"), (2, "mock 500")]
    assert 1 < retries[0]["retry_after_s"] <= 2
    assert (code, types_of(lines)[-1]) == (0, "step_finish")


@pytest.mark.thorough
def test_a_retry_that_is_too_far_away_ends_the_turn(bridge: Bridge) -> None:
    """The turn is aborted, and says how long it would have been."""
    bridge.play(["retry", "429", 12], ["sleep", 600])
    began = time.monotonic()
    code, lines = bridge.run()
    assert time.monotonic() - began < allowing(15)
    assert (code, types_of(lines)) == (1, ["session", "retry", "error"])
    assert lines[-1]["error"]["name"] == "RetriesEndedError"
    assert lines[-1]["error"]["data"]["retryAfterS"] > 4000


def test_a_failure_is_told_with_its_status(bridge: Bridge) -> None:
    """As opencode names it."""
    bridge.play(["fail", "401"])
    code, lines = bridge.run()
    assert (code, lines[-1]["error"]["name"], lines[-1]["error"]["data"]["statusCode"]) == (1, "APIError", 401)


@pytest.mark.thorough
@pytest.mark.parametrize("approve", [True, False])
def test_a_question_of_permission_is_answered_by_the_level(bridge: Bridge, *, approve: bool) -> None:
    """What is refused is told, and the turn goes on in either case."""
    bridge.play(["ask", "external_directory", "/etc/*"], ["say", "done"])
    code, lines = bridge.run(approve=approve)
    end = [line["part"]["state"] for line in lines if line["type"] == "tool_use"][-1]
    assert end["status"] == ("completed" if approve else "error")
    assert ("permission" in types_of(lines)) is not approve
    assert code == 0


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("pattern", "granted"), [("{}/*", True), ("{}/deep/report.txt", True), ("{}/../x", False), ("{}-2/x", False)]
)
def test_the_output_directory_may_be_used(bridge: Bridge, pattern: str, *, granted: bool) -> None:
    """csa tells its agents to put files there; it lies outside the project."""
    output = bridge.place / "output"
    bridge.env["CSA_OUTPUT_DIR"] = str(output)
    bridge.play(["ask", "external_directory", pattern.format(output)], ["say", "done"])
    _, lines = bridge.run()
    assert ("permission" not in types_of(lines)) is granted


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_aborts_the_turn_and_its_shells(
    running: tuple[subprocess.Popen[str], Json], hermetic: Any, number: signal.Signals
) -> None:
    """opencode alone leaves its shells behind; nothing is left here, well before csa would kill."""
    process, _ = running
    process.send_signal(number)
    began = time.monotonic()
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < allowing(2.5)
    assert processes_of(hermetic.home) == {}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM"])
def test_a_server_that_dies_takes_the_bridge_with_it(bridge: Bridge, name: str) -> None:
    """What was said is passed on first, and how it ended is told."""
    bridge.play(["say", "so far"], ["signal-self", name])
    code, lines = bridge.run()
    number = signal.Signals[f"SIG{name}"]
    assert types_of(lines)[-2:] == ["text", "error"]
    assert lines[-1]["error"]["name"] == "ServerError"
    assert f"signal {int(number)}" in lines[-1]["error"]["data"]["message"]
    assert code == -number


@pytest.mark.thorough
@pytest.mark.parametrize("code", [0, 3])
def test_a_server_that_leaves_is_followed(bridge: Bridge, code: int) -> None:
    """With its exit code, and an error that says why this is no success."""
    bridge.play(["say", "half"], ["exit", code])
    left, lines = bridge.run()
    assert (left, types_of(lines)[-1]) == (code, "error")


@pytest.mark.thorough
def test_a_server_that_does_not_start_fails_the_turn(bridge: Bridge, tmp_path: Path) -> None:
    """It is tried three times, and its complaint stays on stderr."""
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'Error: Configuration is invalid' >&2\nexit 3\n")
    broken.chmod(0o755)
    process = bridge.start(command=str(broken))
    stdout, stderr = process.communicate(timeout=20)
    (line,) = [json.loads(each) for each in stdout.splitlines()]
    assert line["error"]["name"] == "ServerStartError"
    assert "exit code 3" in line["error"]["data"]["message"]
    assert (process.returncode, stderr) == (3, "Error: Configuration is invalid\n" * 3)


def test_an_opencode_that_is_not_there_is_no_traceback(bridge: Bridge) -> None:
    """It was there when csa looked."""
    process = bridge.start(command="/nowhere/opencode")
    stdout, stderr = process.communicate(timeout=20)
    assert json.loads(stdout)["error"]["name"] == "ServerStartError"
    assert (process.returncode, stderr) == (1, "")


@pytest.mark.thorough
def test_an_ephemeral_turn_is_not_kept(bridge: Bridge) -> None:
    """Its database is in the server's memory."""
    bridge.env["OPENCODE_DB"] = ":memory:"
    _, lines = bridge.run()
    del bridge.env["OPENCODE_DB"]
    assert bridge.run(session=lines[0]["sessionID"])[0] == 1


@pytest.mark.thorough
def test_a_sub_agents_step_is_told_as_usage_alone(bridge: Bridge) -> None:
    """Its words stay its own; what it has used belongs to the turn."""
    bridge.play(["usage", 50, 5, 0], ["delegate", "inner"], ["say", "done"])
    code, lines = bridge.run()
    assert code == 0
    children = [line for line in lines if "child" in line]
    assert [line["type"] for line in children] == ["step_finish"]
    assert children[0]["part"]["tokens"]["input"] == 50
    assert {line["sessionID"] for line in lines} == {lines[0]["sessionID"]}
    assert children[0]["child"] != lines[0]["sessionID"]


def test_a_sub_agent_in_the_background_is_waited_for(bridge: Bridge) -> None:
    """The session is idle meanwhile, after a step that looks like the last; its answer begins another."""
    bridge.play(["delegate", "inner", True], ["say", "done"])
    code, lines = bridge.run()
    assert code == 0
    assert [line["part"]["text"] for line in lines if line["type"] == "text"] == ["launched", "done"]


@pytest.mark.thorough
@pytest.mark.parametrize("reason", ["unknown", "tool-calls"])
def test_steps_that_lead_nowhere_end_the_turn(bridge: Bridge, reason: str) -> None:
    """Opencode asks again for ever when the provider does not say why it stops."""
    bridge.play(*[["say", "words"], ["end-step", reason]] * 100)
    code, lines = bridge.run()
    assert code == 1
    assert types_of(lines).count("step_finish") == 5
    assert lines[-1]["error"]["name"] == "UnfinishedStepsError"
    assert reason in lines[-1]["error"]["data"]["message"]


@pytest.mark.thorough
def test_steps_that_call_tools_may_be_many(bridge: Bridge) -> None:
    """A provider that names no reasons is no matter where something is done."""
    step: list[list[Any]] = [["call", "pwd", "/", 0], ["end-step", "unknown"]]
    bridge.play(*step * 10, ["say", "done"])
    assert bridge.run()[0] == 0


@pytest.mark.thorough
def test_a_last_step_that_was_cut_short_is_no_success(bridge: Bridge) -> None:
    """The reason is told, and the exit code agrees."""
    bridge.play(["say", "so f"], ["end-step", "length"])
    code, lines = bridge.run()
    assert (code, lines[-1]["part"]["reason"]) == (1, "length")


GRANTS = {"reading": ["read", "grep"], "commands": ["cat *", "env", "csa *"], "edits": True}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("permission", "pattern", "granted"),
    [
        ("read", "src/main.py", True),
        ("read", "../outside.py", True),  # that it is outside was asked before
        ("read", "conf/.env", False),
        ("read", "prod.env.local", False),
        ("read", ".env.example", True),
        ("grep", "*.env", True),  # what is looked for is no file
        ("webfetch", "https://example.com", False),
        ("edit", "{}/new.txt", True),
        ("edit", "{}/../new.txt", False),
        ("edit", "{}-2/new.txt", False),
        ("edit", "{}/link/new.txt", False),
        ("bash", "cat a.txt", True),
        ("bash", "env", True),
        ("bash", "csa run x", True),
        ("bash", "csar run x", False),
        ("bash", "rm a.txt", False),
        ("external_directory", "/etc/*", False),
        ("doom_loop", "bash", False),
        ("plan_exit", "*", False),
        ("probe_note", "*", True),  # an MCP server's
    ],
)
def test_an_ask_at_edit_is_answered_as_the_level_promises(
    bridge: Bridge, permission: str, pattern: str, *, granted: bool
) -> None:
    """Whatever of the user's rules made opencode ask."""
    (bridge.project / "link").symlink_to(bridge.place)
    bridge.play(["ask", permission, pattern.format(bridge.project)], ["say", "done"])
    _, lines = bridge.run(grants=GRANTS)
    assert ("permission" not in types_of(lines)) is granted


@pytest.mark.thorough
@pytest.mark.parametrize(("permission", "granted"), [("read", True), ("edit", False), ("bash", False), ("x_y", False)])
def test_an_ask_at_read_only(bridge: Bridge, permission: str, *, granted: bool) -> None:
    """Reading is what remains."""
    bridge.play(["ask", permission, "a"], ["say", "done"])
    _, lines = bridge.run(grants={**GRANTS, "commands": [], "edits": False})
    assert ("permission" not in types_of(lines)) is granted


WRAPPER = """#!{python}
import signal, subprocess, sys, time
process = subprocess.Popen(["opencode", *sys.argv[1:]], stdout=subprocess.PIPE)
signal.signal(signal.SIGTERM, lambda *_: process.terminate())
line = process.stdout.readline().rstrip(b"\\n")
for piece in {pieces}:
    sys.stdout.buffer.write(piece.replace(b"LINE", line))
    sys.stdout.flush()
    time.sleep(0.2)
sys.exit(process.wait())
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    "pieces",
    [
        [b"loading plugins\nLINE\n"],
        [b"loading plugins\nLINE\nready\n"],
        [b"listening on http://127.0.0.1:1\nLINE\n"],
        [b"load", b"ing plugins\n", b"LINE\r\n"],
        [b"\x1b[32mLINE\x1b[0m\n"],
        [b"\x1b]0;title\x07\x1b[1mLINE\x1b[22m\r\nmore\n"],
        [b"LINE \nopencode server listening on http://127.0.0.1:1\n"],
        [b"opencode server listening on http://127.0.0.1:99999\nLINE\n"],
    ],
    ids=range(8),
)
def test_lines_around_the_servers_address(bridge: Bridge, pieces: list[bytes]) -> None:
    """Plugins and wrappers say things of their own before and after it, at once or in pieces."""
    wrapper = bridge.place / "wrapper"
    wrapper.write_text(WRAPPER.format(python=sys.executable, pieces=pieces))
    wrapper.chmod(0o755)
    bridge.play(["say", "done"])
    process = bridge.start(command=str(wrapper))
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert "done" in stdout


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (b"opencode server listening on http://127.0.0.1:4096", ("127.0.0.1", 4096)),
        (b"opencode server listening on http://[::1]:4096/", ("::1", 4096)),
        (b"opencode server listening on http://localhost:4096\r", ("localhost", 4096)),
        (b"opencode server listening on http://127.0.0.1", None),
        (b"opencode server listening on", None),
        (b"plugin listening on http://127.0.0.1:4096", None),
    ],
)
def test_the_address_is_read_from_its_own_line_alone(line: bytes, address: tuple[str, int] | None) -> None:
    """A plugin may have a server too."""
    assert address_in(line) == address
