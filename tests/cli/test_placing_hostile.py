"""What an agent may not get from another host, and what a host may not do to who has placed something on it."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

import pytest

from csa.model.config import Engine
from csa.runner.hosts.acting import Call
from csa.runner.hosts.tether import StoppedError, Tether
from csa.store.statefile import load_state
from tests.cli.hosts import sync
from tests.support import Place

OTHER = "01JH4QWERT0000000000000009"
MINE = "01JH4QWERT0000000000000008"
BEGUN = {"session_id": MINE, "turn": 1, "tool": "codex", "pid": 1, "project": "/srv"}
HOSTILE = """
import json, sys
from itertools import chain
def say(said): print(json.dumps(said), flush=True)
answers, asked = json.loads(sys.argv[1]), None
if "supervise" not in sys.argv:
    sys.exit("no")
say({"csa": "supervise", "protocol": 1, "version": "1", "time": 0})
if "--hold" not in sys.argv:
    asked = next(said for said in map(json.loads, sys.stdin) if "order" in said)["order"]["session_id"]
for answer in answers:
    if answer == "begun":
        answer = {"session_id": asked, "turn": 1, "tool": "codex", "pid": 1, "project": "/srv"}
    say(answer)
"""


def budget_of(place: Place, session_id: str) -> int:
    return load_state(place.session(session_id) / "state.toml").budget.tokens


@pytest.mark.thorough
def test_an_agent_does_not_raise_a_budget_elsewhere(place: Place, remote: Place) -> None:
    """Of a session that is not of its tree, seen here or not; and who goes on with one below that leaves it its own."""
    _, env = place.agent()
    there = remote.codex("hello", "--budget-tokens", "500000", "--name", "auth").session_id
    on = ["run", "--on", "n1", "--tool", "codex", "--cd", str(remote.project)]
    unseen = place.run(*on, "--session-id", there, "--allow-tokens", "90000000", "more", env=env)
    assert (unseen.code, budget_of(remote, there)) == (5, 500000), unseen.err
    sync(place)
    seen = place.run("run", "-s", "n1:auth", "--allow-tokens", "90000000", "more", env=env)
    assert (seen.code, budget_of(remote, there)) == (5, 500000), seen.err
    assert place.run("hosts", "--placed", "--json").json == []
    goes_on = place.run("run", "-s", "n1:auth", "more", env=env)
    assert (goes_on.code, budget_of(remote, there)) == (0, 500000), goes_on.err
    inner = remote.codex("below", "--budget-tokens", "70000", env=remote.agent("-s", "auth")[1]).session_id
    sync(place)
    assert place.run("run", "-s", inner, "more").code == 0
    assert budget_of(remote, inner) == 70000
    refused = place.run("run", "-s", inner, "--allow-tokens", "80000", "more")
    assert (refused.code, there in refused.err, budget_of(remote, inner)) == (2, True, 70000), refused.err


@pytest.mark.thorough
@pytest.mark.parametrize(
    "answer",
    [
        {**BEGUN, "session_id": OTHER},
        {**BEGUN, "project": 7},
        {**BEGUN, "turn": 0},
        {**BEGUN, "session_id": "../../x"},
        {"session_id": 5, "turn": "x"},
        {"nothing": 1},
        {"error": "x"},
        {"error": {"code": 1, "exit_code": 0}},
        {"error": {"code": "appeared", "session_id": "../\x1b[2J"}},
        {"error": {"code": "host", "exit_code": 0, "message": "\x1b[2J", "hint": ["x"]}},
    ],
)
def test_a_host_that_answers_nonsense_is_one_that_cannot_be_trusted(
    place: Place, remote: Place, tmp_path: Path, answer: dict[str, Any]
) -> None:
    """What it says is an error with a next step; what is recorded here can be read, and is of the session asked for."""
    place.env["CSA_CONFIG"] = str(hostile(tmp_path, [answer]))
    done = place.run("run", "--on", "bad", "--tool", "codex", "--session-id", MINE, "x")
    assert done.code not in {0, 2}, done
    assert "hint: " in done.err or "error: " in done.err
    assert ("Traceback" in done.err, "\x1b" in done.err + done.out) == (False, False), done.err
    placed = place.run("hosts", "--placed", "--json")
    assert placed.code == 0, placed.err
    assert all(each["session_id"] == MINE for each in placed.json)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "end", [{"ended": None, "turn": "x"}, {"ended": 0, "turn": 1 << 90, "spent": {"tokens": -9e9}}]
)
def test_a_host_that_ends_with_nonsense(place: Place, remote: Place, tmp_path: Path, end: dict[str, Any]) -> None:
    place.env["CSA_CONFIG"] = str(hostile(tmp_path, ["begun", end]))
    done = place.run("run", "--on", "bad", "--tool", "codex", "x")
    assert (done.code != 0, "Traceback" in done.err) == (True, False), done.err


def hostile(tmp_path: Path, answers: list[Any]) -> Path:
    """Let there be a host, bad, that answers so; return the configuration that names it."""
    (script := tmp_path / "bad.py").write_text(HOSTILE)
    config = tmp_path / "bad.toml"
    reach = [sys.executable, str(script), json.dumps(answers)]
    config.write_text(f'[engines.bad]\nleash_s = 0.1\ncode = "none"\nreach = {json.dumps(reach)}\n')
    return config


@pytest.mark.thorough
@pytest.mark.parametrize("said", ["[" * 100_000, "[5]", '[{"session_id": 7, "queued": "x"}]', "[\n" * 20_000])
def test_a_host_that_prints_nonsense(place: Place, remote: Place, tmp_path: Path, said: str) -> None:
    """Nothing of it reaches the terminal as it is, and nothing is called ended."""
    remote.codex("hello", "--name", "auth")
    sync(place)
    noise = "import sys; sys.stderr.write('\\x1b[2J\\n'); "
    (script := tmp_path / "bad.py").write_text(f"{noise}print('\\x1b[3J\\r\\n' + {said!r})")
    (config := tmp_path / "bad.toml").write_text(f'[engines.n1]\nreach = ["{sys.executable}", "{script}"]\n')
    place.env["CSA_CONFIG"] = str(config)
    killed = place.run("kill", "n1:auth")
    assert "Traceback" not in killed.err
    assert (killed.code, "makes no sense" in killed.err) == (7, True), killed
    renamed = place.run("rename", "n1:auth", "new")
    for done in (killed, renamed):
        assert not set("\x1b\r") & set(done.out + done.err), done


@pytest.mark.thorough
def test_a_signal_while_code_is_sent(
    place: Place, remote: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is asked what became of the order: it was cut off, so that nothing stays reserved for it."""
    for name, value in place.environment(None).items():
        monkeypatch.setenv(name, value)

    class Code:
        key, first_said, said = "a" * 40, {"key": "a" * 40}, {"key": "a" * 40}

        def write_bundle(self, stream: IO[bytes], _haves: list[str]) -> None:
            stream.write(b"half of it")
            raise StoppedError("SIGINT")

    engine = Engine("n1", reach=(str(tmp_path / "bin" / "ssh"), "--", "n1"))
    tether = Tether(engine, OTHER, is_detached=False, tell=print)
    order = {"id": OTHER, "session_id": MINE, "request": {}, "directory": ""}
    with closing(tether), pytest.raises(StoppedError):
        tether.begin(order, passport=None, code=cast("Any", Code()), before_sending=lambda: None)
    assert not tether.is_sent
    assert remote.ids() == []


def test_a_command_there_knows_nothing_of_csa_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reach that passes the environment on would have it look for the session in the state root of this host."""
    monkeypatch.setenv("CSA_STATE_DIR", "/here")
    engine = Engine("n1", reach=("env",), csa=("sh", "-c", 'echo "[\\"$CSA_STATE_DIR\\"]"'))
    assert Call(engine, ["kill"], limit_s=30).answer().json == [""]
