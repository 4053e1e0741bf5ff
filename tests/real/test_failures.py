"""What a failing provider makes of a turn: status, kind, exit code, and retries that are told as they happen.

Several cases run at once, since most of their time is waiting, and each is looked at by a test of its own. Not all at
once: starting 28 tools together, and some again for csa's own retries, would take a small machine minutes by itself.
"""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from fixtures.mock_provider import Reply, cut, status, text
from tests.real.workplace import TOOLS, Json, RealTool, Workplace, open_workplace

# One process runs them all (conftest): they share the runs.
pytestmark = [pytest.mark.real, pytest.mark.timeout(900), pytest.mark.long]

LIMIT_S = 60.0
AT_ONCE = 4
UNREACHABLE = "unreachable"
ANSWERS: dict[str, tuple[Reply, ...]] = {
    "always 401": (status(401),),
    "always 429": (status(429, retry_after=2),),
    "always 500": (status(500),),
    "always cut": (cut("an answer that never ends"),),
    "500 twice": (status(500), status(500), text("recovered")),
    "cut once": (cut("an answer that ends early"), text("recovered")),
}
FAILING = {
    "always 401": ("auth", 7),
    "always 429": ("rate_limit", 8),
    "always 500": ("server", 1),
    "always cut": ("network", 1),
    UNREACHABLE: ("network", 1),
}
RECOVERING = ["500 twice", "cut once"]


@dataclass(frozen=True)
class Watched:
    """A run, with the moment (in seconds from its start) of each line on stderr and of its end."""

    code: int
    result: Json
    lines: list[tuple[float, str]]
    ended_at: float
    retries: list[Json]

    @property
    def told_retries(self) -> list[float]:
        return [moment for moment, line in self.lines if line.startswith("csa: retry")]


Runs = dict[tuple[str, str], Watched]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Run every case with every tool, several at once."""
    with open_workplace() as place, socket.socket() as closed, ThreadPoolExecutor(AT_ONCE) as threads:
        closed.bind(("127.0.0.1", 0))  # and never listens: to connect there is refused
        for case, replies in ANSWERS.items():
            place.provider.on(case, *replies)
        cases = [(tool, case) for tool in TOOLS for case in (*ANSWERS, UNREACHABLE)]
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
        found = threads.map(lambda one: _watch(place, one[0], one[1], dead if one[1] == UNREACHABLE else None), cases)
        yield {(tool.name, case): watched for (tool, case), watched in zip(cases, found, strict=True)}


def _watch(place: Workplace, tool: RealTool, case: str, dead: str | None) -> Watched:
    words = ["run", "--json", "--tool", tool.name, case]
    began = time.monotonic()
    process = place.start(*words, env=_dead_environment(place, tool, dead) if dead else None)
    assert process.stderr
    assert process.stdout
    lines = [(time.monotonic() - began, line.decode()) for line in process.stderr]
    said = process.stdout.read()
    process.wait()
    ended_at = time.monotonic() - began
    assert said, lines
    result: Json = json.loads(said)
    return Watched(process.returncode, result, lines, ended_at, place.events(result["session_id"], "retry"))


def _dead_environment(place: Workplace, tool: RealTool, url: str) -> dict[str, str]:
    """Point the tool elsewhere: its files stand in another home, the state root stays."""
    home = place.base / f"home-{tool.name}"
    for name, content in tool.files(url).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "CSA_STATE_DIR": str(place.state_root), **tool.env(url)}


@pytest.mark.parametrize("case", FAILING)
def test_a_provider_that_fails_fails_the_turn(runs: Runs, tool: RealTool, case: str) -> None:
    """Status, kind of error and exit code say what it was, within a minute."""
    run = runs[tool.name, case]
    kind, code = FAILING[case]
    assert run.result["status"] == "failed"
    assert (run.result["error"]["kind"], run.code) == (kind, code), run.result["error"]
    assert run.result["error"]["message"]
    assert run.result["exit_code"] == code
    assert run.ended_at < LIMIT_S


@pytest.mark.parametrize("case", FAILING)
def test_retries_are_recorded_and_told_as_they_happen(runs: Runs, tool: RealTool, case: str) -> None:
    """The transcript has each retry of the tool, and of csa, and stderr shows the first one long before the end."""
    run = runs[tool.name, case]
    if case in tool.silent_failures:
        assert [retry for retry in run.retries if retry.get("by") != "csa"] == []
        return
    assert run.retries
    assert len(run.told_retries) == len(run.retries), run.lines
    assert run.told_retries[0] < run.ended_at - 1


@pytest.mark.parametrize("case", RECOVERING)
def test_a_provider_that_recovers_fails_nothing(runs: Runs, tool: RealTool, case: str) -> None:
    """Two errors, or one lost connection, and then an answer make a turn that succeeds."""
    run = runs[tool.name, case]
    assert (run.code, run.result["status"]) == (0, "succeeded"), run.lines
    allowed = {"recovered"} | ({"an answer threcovered"} if case == "cut once" and tool.keeps_lost_text else set())
    assert run.result["text"] in allowed


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool.misses_key], ids=lambda tool: tool.name)
def test_a_missing_key_is_no_login(place: Workplace, tool: RealTool) -> None:
    """Without the provider's key the turn ends at once, exits 7 and says what is missing."""
    done = place.csa("run", "--json", "--tool", tool.name, "hello", env={tool.key_variable: ""})
    assert done.code == 7, done
    assert done.json["error"]["kind"] == "auth"
    assert tool.key_variable in done.stderr or "log in" in done.stderr
    assert place.provider.requests == []
