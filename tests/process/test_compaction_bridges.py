"""The programs that have codex, gemini and opencode compact a conversation, over the fakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from csa_adapters import codex, gemini_cli, opencode

from tests.conftest import processes_of
from tests.support import wait_for

Json = dict[str, Any]
UNKNOWN = "01a1f83a-accd-7db1-ada4-435d9ff915d3"


class Bridges:
    """Starts bridges in a project of their own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.project = place / "my project"
        self.project.mkdir()
        self.env = {"GEMINI_DEBUG_LOG_FILE": str(place / "debug.log")}

    def play(self, match: str, *steps: list[Any]) -> None:
        script = self.place / "script.json"
        script.write_text(json.dumps({"rules": [{"match": match, "do": list(steps)}]}))
        self.env["FAKE_TOOL_SCRIPT"] = str(script)

    def start(self, argv: list[str], order: Mapping[str, Any]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-I", *argv],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            cwd=self.project,
            env={**os.environ, **self.env, "PWD": str(self.project)},
        )
        assert process.stdin
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, argv: list[str], order: Mapping[str, Any]) -> tuple[int, list[Json], str]:
        """Return the exit code, the lines of stdout, and stderr."""
        process = self.start(argv, order)
        stdout, stderr = process.communicate(timeout=30)
        return process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr

    def tool(self, *words: str) -> None:
        """Run a turn of a fake."""
        env = {**os.environ, "PWD": str(self.project)}
        subprocess.run(words, cwd=self.project, env=env, input=b"hello", capture_output=True, check=True)

    def gemini(self) -> tuple[list[str], Json]:
        """Begin a conversation of gemini; return how its compaction is started."""
        self.tool("gemini", "--skip-trust", "-o", "stream-json", "--session-id", UNKNOWN)
        return self.gemini_of(UNKNOWN)

    def gemini_of(self, session: str) -> tuple[list[str], Json]:
        chats = Path(os.environ["HOME"], ".gemini", "tmp", "*", "chats", f"session-*-{session[:8]}.jsonl")
        argv = [gemini_cli.BRIDGE, "--", "gemini", "--skip-trust", "--resume", session]
        return argv, {"session": session, "chats": str(chats), "log": str(self.place / "debug.log")}


@pytest.fixture
def bridges(tmp_path: Path) -> Bridges:
    return Bridges(tmp_path)


def test_codex_refuses_an_unknown_thread(bridges: Bridges) -> None:
    """What the server answers is passed on, and the bridge leaves with 1."""
    code, lines, _ = bridges.run([codex.BRIDGE, "codex", "app-server"], {"thread": UNKNOWN})
    assert code == 1
    assert lines[-1]["error"]["message"] == f"no rollout found for thread id {UNKNOWN}"


def test_a_codex_that_is_not_there(bridges: Bridges) -> None:
    """It is said on stderr, with the code a shell would leave with."""
    code, lines, stderr = bridges.run([codex.BRIDGE, str(bridges.place / "none"), "app-server"], {"thread": UNKNOWN})
    assert (code, lines) == (127, [])
    assert "cannot start" in stderr


@pytest.mark.thorough
def test_gemini_is_told_once_and_correctly(bridges: Bridges) -> None:
    """What is typed before gemini listens is lost; nothing but the command is ever entered."""
    argv, order = bridges.gemini()
    code, lines, _ = bridges.run(argv, order)
    assert code == 0, lines
    assert [line.get("step", line["type"]) for line in lines] == ["starting", "entering", "compressing", "compressed"]
    assert lines[-1] == {"type": "compressed", "session": UNKNOWN, "tokens_before": 9645, "tokens_after": 199}


@pytest.mark.thorough
def test_gemini_that_will_not_start(bridges: Bridges) -> None:
    """Its last words say why."""
    bridges.gemini()
    argv, order = bridges.gemini_of("99999999-accd-4db1-ada4-435d9ff915d3")
    code, lines, _ = bridges.run(argv, order)
    assert code == 1
    assert "Invalid session identifier" in lines[-1]["message"]
    argv[2] = str(bridges.place / "none")
    code, lines, _ = bridges.run(argv, order)
    assert (code, lines[-1]["why"]) == (1, "spawn")


@pytest.mark.thorough
def test_gemini_whose_provider_fails_again_and_again(bridges: Bridges) -> None:
    """It would go on for ever and show nothing; its debug log tells, and the third failure is the last."""
    argv, order = bridges.gemini()
    words = "[WARN] Attempt {} failed with status 503. Retrying with backoff... _ApiError: busy"
    for number in (1, 2, 3):
        bridges.play("/compress", ["sleep", 30])
        with open(order["log"], "a", encoding="utf-8") as log:
            log.write(words.format(number) + "\n")
    code, lines, _ = bridges.run(argv, order)
    assert code == 1
    assert [(line["attempt"], line["status"]) for line in lines if line["type"] == "retry"] == [(1, 503), (2, 503)]
    assert (lines[-1]["status"], lines[-1]["message"]) == (503, "the provider failed 3 times: busy")


@pytest.mark.thorough
def test_a_gemini_that_lies_is_not_believed(bridges: Bridges) -> None:
    """A line on the screen is no proof: without a new snapshot in the file nothing was compacted."""
    argv, order = bridges.gemini()
    code, lines, _ = bridges.run(argv, {**order, "chats": str(bridges.place / "nothing-*")})
    assert (code, lines[-1]["why"]) == (1, "protocol")
    assert "has not recorded it" in lines[-1]["message"]


@pytest.mark.thorough
def test_term_ends_gemini_too(bridges: Bridges) -> None:
    """The terminal is hung up, and nobody is left in it."""
    argv, order = bridges.gemini()
    ready = bridges.place / "ready"
    bridges.play("/compress", ["touch", str(ready)], ["sleep", 60])
    process = bridges.start(argv, order)
    wait_for(ready.exists, "gemini compresses")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    wait_for(lambda: not processes_of(Path(os.environ["HOME"])), "nothing is left", within_s=3)


@pytest.mark.thorough
def test_opencode_has_nothing_to_compact(bridges: Bridges) -> None:
    """A session without messages, or one whose last message is a summary, is not summed up again."""
    argv = ["-S", opencode.BRIDGE, "opencode"]
    _, lines, _ = bridges.run(argv, {"prompt": "hello", "title": "it"})
    order = {"prompt": "", "title": "it", "session": lines[0]["sessionID"], "compact": True}
    code, lines, _ = bridges.run(argv, order)
    assert (code, lines[-1]["type"], lines[-1]["messageID"]) == (0, "compacted", "msg_s")
    code, lines, _ = bridges.run(argv, order)
    assert (code, lines[-1]["error"]["name"]) == (1, "NothingToCompactError")


def test_opencode_forks_before_it_is_prompted(bridges: Bridges) -> None:
    """The copy has a new id, which is told first, and what was said."""
    argv = ["-S", opencode.BRIDGE, "opencode"]
    _, first, _ = bridges.run(argv, {"prompt": "hello", "title": "it"})
    code, lines, _ = bridges.run(argv, {"prompt": "more", "title": "it", "fork": first[0]["sessionID"]})
    assert (code, lines[0]["type"]) == (0, "session")
    assert lines[0]["sessionID"] != first[0]["sessionID"]
    assert [line["part"]["text"] for line in lines if line["type"] == "text"] == ["FAKE ECHO: more [turns=2]"]
