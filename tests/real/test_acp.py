"""Real agents over the Agent Client Protocol: codex-acp as a configured tool, gemini and opencode by a flag."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.mock_provider import status, text, thinking, tool_call
from tests.real.workplace import CLIS, Sleepers, Workplace, finish, open_workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

Json = dict[str, Any]

CONFIG = """
[tools.codex-acp]
transport = "acp"
command = ["codex-acp"]
"""
OPENCODE_MODEL: Json = {"limit": {"context": 100_000, "output": 8_000}, "reasoning": True}


@dataclass(frozen=True)
class Agent:
    """How the tests run one agent, and what it can tell."""

    tool: str
    executable: str
    options: tuple[str, ...] = ("--transport", "acp")
    native: bool = True  # csa has an adapter of its own for the tool
    replays: bool = False  # it can only load a session
    counts: int = 3  # input, output, cached: how many of these it tells

    def words(self, *more: str) -> list[str]:
        return ["run", "--json", "--tool", self.tool, *self.options, *more]


AGENTS = (
    Agent("codex-acp", "codex-acp", options=(), native=False),
    Agent("gemini-cli", "gemini", replays=True, counts=2),
    Agent("opencode", "opencode"),
)
INTERCHANGEABLE = pytest.mark.parametrize(
    "agent", [agent for agent in AGENTS if agent.native], ids=lambda agent: agent.tool
)


@pytest.fixture(params=AGENTS, ids=lambda agent: agent.tool)
def agent(request: pytest.FixtureRequest) -> Agent:
    found: Agent = request.param
    return found


@pytest.fixture
def place() -> Iterator[Workplace]:
    """Make a workplace whose user has configured codex-acp, and in which all three agents know their provider."""
    missing = [
        agent.executable for agent in AGENTS if not (Path(CLIS) / "node_modules/.bin" / agent.executable).exists()
    ]
    if missing:
        pytest.fail(f"The real CLIs ({', '.join(missing)}) are not below CSA_REAL_CLIS.", pytrace=False)
    with open_workplace() as found:
        config = found.home / ".config" / "csa" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(CONFIG)
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "options": {"baseURL": f"{found.provider.url}/v1", "apiKey": "mock-credential-of-no-value"},
            "models": {"mock-1": OPENCODE_MODEL},
        }
        # Otherwise it asks the model for a title before it asks what we ask.
        untitled = {"title": {"disable": True}}
        chosen = {"model": "mock/mock-1", "small_model": "mock/mock-1", "share": "disabled", "agent": untitled}
        found.env |= {
            "OPENCODE_CONFIG_CONTENT": json.dumps({**chosen, "provider": {"mock": provider}}),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
        }
        yield found


def run(place: Workplace, agent: Agent, *words: str) -> Json:
    """Run a turn that must succeed; return its result."""
    done = place.csa(*agent.words(*words))
    assert done.code == 0, done
    found: Json = done.json
    assert found["status"] == "succeeded"
    return found


def test_a_new_session_and_a_resume(place: Workplace, agent: Agent) -> None:
    """The answer is the provider's; a resume carries the context and tells nothing of what was said before."""
    place.provider.on("first", thinking("I think", text("one", usage=(120, 7, 20))))
    place.provider.on("second", text("two"))
    before = run(place, agent, "the first question")
    assert before["text"] == "one"
    session_id = before["session_id"]
    # codex-acp also asks for a title, at times before the turn has ended.
    (request,) = [each for each in place.asked("first question") if "short title" not in each.prompt]
    assert f"You run inside csa session {session_id} (depth 0)." in json.dumps(request.body)
    assert (before["usage"]["input_tokens"], before["usage"]["output_tokens"]) == (120, 7)
    after = run(place, agent, "--session", session_id, "the second question")
    assert (after["turn"], after["text"]) == (2, "two")
    assert after["provider_session_id"] == before["provider_session_id"]
    last = place.asked("second question")[-1]
    assert "the first question" in json.dumps(last.body)
    assert "one" in json.dumps(last.body)
    said = "".join(data["text"] for data in place.events(session_id, "agent_message"))
    assert said == "onetwo"
    thoughts = "".join(data["text"] for data in place.events(session_id, "agent_thought"))
    assert "I think" in thoughts
    assert place.events(session_id, "user_message") == []


def test_usage_is_what_the_provider_counted(place: Workplace, agent: Agent) -> None:
    """Of all requests of the turn, not of its last one; and of each turn by itself."""
    counts = [(120, 7, 20), (150, 9, 100), (200, 11, 140)]
    first, second, last = counts
    calls = (tool_call("echo one", usage=first), tool_call("echo two", usage=second), text("done", usage=last))
    place.provider.on("count", *calls)
    place.provider.on("again", text("more", usage=first))
    turn = run(place, agent, "--permission", "full", "count this")
    assert _counted(turn, agent) == tuple(map(sum, zip(*counts, strict=True)))[: agent.counts]
    after = run(place, agent, "--session", turn["session_id"], "and again")
    assert _counted(after, agent) == first[: agent.counts]


def _counted(result: Json, agent: Agent) -> tuple[int, ...]:
    usage = result["usage"]
    return (usage["input_tokens"], usage["output_tokens"], usage["cached_tokens"])[: agent.counts]


def test_the_agents_shell_knows_its_session(place: Workplace, agent: Agent) -> None:
    """`CSA_*` and the whole environment reach the agent's commands."""
    place.provider.on("who am I", tool_call("env > seen"), text("seen"))
    done = place.csa(*agent.words("--permission", "full", "who am I"), env={"EXTRA_WORD": "passed on"})
    assert done.code == 0, done
    session_id = done.json["session_id"]
    seen = (place.project / "seen").read_text().splitlines()
    assert {f"CSA_SESSION_ID={session_id}", "CSA_DEPTH=0", "EXTRA_WORD=passed on"} <= set(seen)
    (call,) = place.events(session_id, "tool_call")
    assert (call["kind"], "env > seen" in call["title"]) == ("execute", True)


def test_an_agent_starts_another(place: Workplace, agent: Agent) -> None:
    """`csa run` in the agent's shell makes a child of its session."""
    inner = " ".join(["csa", "run", "-q", "--tool", agent.tool, *agent.options, "'inner part'"])
    place.provider.on("delegate", tool_call(inner), text("delegated"))
    place.provider.on("inner part", text("the inner answer"))
    outer = run(place, agent, "--permission", "full", "delegate it")
    child, root = place.sessions()
    assert (child["parent_session_id"], child["depth"], child["status"]) == (root["id"], 1, "succeeded")
    assert root["id"] == outer["session_id"]
    assert place.csa("session", "result", "-s", child["id"]).stdout == "the inner answer\n"


def test_a_cancelled_turn_leaves_nothing_and_goes_on(place: Workplace, agent: Agent) -> None:
    """TERM ends the agent and its shells; the session can be resumed."""
    sleepers = Sleepers()
    place.provider.on("sleep", tool_call(sleepers.command), text("awake"))
    place.provider.on("go on", text("here I am"))
    process = place.start(*agent.words("--permission", "full", "sleep a little"))
    sleepers.wait_until_running()
    process.terminate()
    done = finish(process)
    assert (done.code, done.json["status"]) == (143, "cancelled"), done
    assert (sleepers.running(), place.gone_after()) == (set(), {})
    after = run(place, agent, "--session", done.json["session_id"], "go on")
    assert after["text"] == "here I am"
    assert after["provider_session_id"] == done.json["provider_session_id"]


@pytest.mark.parametrize("permission", ["read-only", "edit"])
def test_what_the_level_forbids_does_not_happen(place: Workplace, agent: Agent, permission: str) -> None:
    """A command that writes outside of the project is not run."""
    target = place.home / "outside"
    place.provider.on("write it", tool_call(f"touch '{target}'"), text("tried"))
    done = place.csa(*agent.words("--permission", permission, "write it"))
    assert done.json["status"] == "succeeded" or done.json["error"]["kind"] == "permission", done
    assert not target.exists()


@pytest.mark.parametrize(("code", "kind", "exit_code"), [(401, "auth", 7), (404, "invalid_request", 1)])
def test_a_provider_that_refuses_fails_the_turn(
    place: Workplace, agent: Agent, code: int, kind: str, exit_code: int
) -> None:
    """An error is no answer, whatever the agent makes of it."""
    place.provider.on("hello", status(code))
    done = place.csa(*agent.words("hello"))
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (exit_code, "failed", kind), done


def test_a_conversation_that_is_unknown(place: Workplace, agent: Agent) -> None:
    """One that is gone is replaced by a new one that is told what was said; without a handoff the turn is refused."""
    place.provider.on("capital", text("It is Ulm."))
    first = run(place, agent, "Name the capital.")
    run(place, agent, "something else")
    session_id, known = first["session_id"], first["provider_session_id"]
    state = place.session_dir(session_id) / "state.toml"
    unknown = known[:-6] + "abc123" if known[-6:] != "abc123" else known[:-6] + "def456"
    state.write_text(state.read_text().replace(known, unknown))
    refused = place.csa(*agent.words("--session", session_id, "--no-handoff", "go on"))
    assert (refused.code, refused.json["error"]["kind"]) == (1, "unknown_conversation"), refused
    assert place.asked("go on") == []
    done = place.csa(*agent.words("--session", session_id, "Name the river."))
    assert done.code == 0, done
    assert "It is Ulm." in place.asked("Name the river.")[-1].prompt
    (told,) = place.events(session_id, "handoff")
    assert (told["replaces"], done.json["provider_session_id"] not in (known, unknown)) == (unknown, True)


@INTERCHANGEABLE
def test_a_conversation_goes_on_by_the_other_transport(place: Workplace, agent: Agent) -> None:
    """Native, then acp, then native: one conversation."""
    place.provider.on("one", text("1"))
    place.provider.on("two", text("2"))
    place.provider.on("three", text("3"))
    first = place.csa("run", "--json", "--tool", agent.tool, "say one").json
    second = run(place, agent, "--session", first["session_id"], "say two")
    third = place.csa("run", "--json", "--session", first["session_id"], "say three").json
    assert [first["text"], second["text"], third["text"]] == ["1", "2", "3"]
    assert len({result["provider_session_id"] for result in (first, second, third)}) == 1
    assert all(word in json.dumps(place.asked("say three")[-1].body) for word in ("say one", "say two"))
