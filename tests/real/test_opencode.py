"""What only opencode does: sub-agents in sessions of their own, steps without an end, and limits of its shell."""

import json
from typing import Any

import pytest

from fixtures.mock_provider import Reply, ended, text, tool_call
from tests.real.workplace import OPENCODE, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

SHELL_LIMIT = "OPENCODE_EXPERIMENTAL_BASH_DEFAULT_TIMEOUT_MS"
BACKGROUND = {"OPENCODE_EXPERIMENTAL_BACKGROUND_SUBAGENTS": "true"}


def delegated(prompt: str, **more: Any) -> Reply:
    task = {"description": "Look", "prompt": prompt, "subagent_type": "general", **more}
    return tool_call(name="task", arguments=task, usage=(100, 10, 0))


def configure(place: Workplace, **changes: Any) -> None:
    path = place.home / ".config" / "opencode" / "opencode.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_sub_agents_are_in_the_usage(place: Workplace) -> None:
    """What the provider counted for their sessions is the turn's, token by token, and known while the turn runs."""
    place.provider.on("inner part", tool_call("pwd", usage=(50, 5, 20)), text("inner answer", usage=(60, 6, 30)))
    place.provider.on("delegate", delegated("inner part"), text("done", usage=(200, 20, 0)))
    result = place.run(OPENCODE, "delegate it")
    assert result["text"] == "done"
    usage = result["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["cached_tokens"]) == (410, 41, 50)
    assert usage["cost_usd"] == pytest.approx((360 * 1 + 41 * 4) / 1e6)
    told = [each["input_tokens"] for each in place.events(result["session_id"], "usage")]
    assert told == sorted(told)
    assert {50, 110, 210, 410} <= set(told)


def test_a_model_without_a_price_costs_an_unknown_amount(place: Workplace) -> None:
    """opencode says 0 for it."""
    path = place.home / ".config" / "opencode" / "opencode.json"
    path.write_text(path.read_text().replace('"cost"', '"unused"'))
    result = place.run(OPENCODE, "hello")
    assert result["usage"]["input_tokens"] > 0
    assert result["usage"].get("cost_usd") is None


def test_a_sub_agent_in_the_background_belongs_to_the_turn(place: Workplace) -> None:
    """The session is idle while it works; what comes of it is the answer."""
    place.provider.on("inner part", tool_call("sleep 3; pwd", usage=(50, 5, 0)), text("found", usage=(60, 6, 0)))
    place.provider.on("delegate", delegated("inner part", background=True), text("launched", usage=(200, 20, 0)))
    place.provider.on("<task id", text("it is found", usage=(300, 30, 0)))
    result = place.run(OPENCODE, "delegate it", "--permission", "full", env=BACKGROUND)
    assert result["text"] == "it is found"
    assert (result["usage"]["input_tokens"], result["usage"]["output_tokens"]) == (710, 71)


def test_a_sub_agent_of_an_earlier_turn_is_answered_too(place: Workplace) -> None:
    """Its session is not made anew, and what it asks for would wait for ever."""
    configure(place, permission={"*": "ask"})
    (place.project / "facts.txt").write_text("the capital is Ulm\n")
    place.provider.on("inner part", text("inner answer"))
    place.provider.on("delegate", delegated("inner part"), text("done"))
    first = place.run(OPENCODE, "delegate it")
    shown = place.shown(first["session_id"])
    known = shown[shown.index("ses_") :].split('"')[0]
    read = tool_call(name="read", arguments={"filePath": str(place.project / "facts.txt")})
    place.provider.on("the rest of it", read, text("Ulm"))
    place.provider.on("ask again", delegated("the rest of it", task_id=known), text("done again"))
    assert place.resume(first["session_id"], "ask again")["text"] == "done again"
    assert "the capital is Ulm" in json.dumps(place.asked("the rest of it")[-1].body)


@pytest.mark.parametrize(
    ("finish", "kind", "words"),
    [
        ("length", "context_overflow", "length"),
        ("content_filter", "invalid_request", "content filter"),
        ("", "protocol", "unknown"),
        ("tool_calls", "protocol", "tool-calls"),
    ],
)
def test_an_answer_without_its_end_is_a_failure(place: Workplace, finish: str, kind: str, words: str) -> None:
    """Where opencode would ask for ever, it is asked a few times; the answer so far is kept."""
    place.provider.on("hello", ended(finish, text("so far")))
    done = place.csa("run", "--json", "--tool", "opencode", "hello")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (1, "failed", kind), done
    assert words in done.json["error"]["message"]
    assert done.json["text"] == "so far"
    assert len(place.provider.requests) <= 7


def test_a_conversation_that_never_fits_is_not_compacted_for_ever(place: Workplace) -> None:
    """A context smaller than what opencode says itself makes it compact after every step."""
    path = place.home / ".config" / "opencode" / "opencode.json"
    path.write_text(path.read_text().replace("1000000", "3000").replace("8000", "1000"))
    place.provider.on("", text("words", usage=(5000, 10, 0)))
    done = place.csa("run", "--json", "--tool", "opencode", "hello")
    assert (done.code, done.json["error"]["kind"]) == (1, "context_overflow"), done
    assert 5000 * 5 <= done.json["usage"]["input_tokens"] <= 5000 * len(place.provider.requests)
    assert len(place.provider.requests) <= 9


def test_the_users_limit_for_commands_wins(place: Workplace) -> None:
    """It is his own; csa sets one only where there is none."""
    place.provider.on("wait", tool_call("sleep 30; echo late"), text("no answer"))
    result = place.run(OPENCODE, "wait for it", "--permission", "full", env={SHELL_LIMIT: "1500"})
    assert "exceeding timeout 1500 ms" in place.shown(result["session_id"])


@pytest.mark.slow
def test_a_silent_command_may_take_longer_than_opencode_would_wait(place: Workplace) -> None:
    """130 seconds with nothing configured; it would be ended after 120."""
    place.provider.on("wait", tool_call("sleep 130; echo in time"), text("waited"))
    done = place.start("run", "--json", "--tool", "opencode", "--permission", "full", "wait for it")
    stdout, stderr = done.communicate(timeout=220)
    assert done.returncode == 0, stderr
    session_id = json.loads(stdout)["session_id"]
    assert "in time" in place.shown(session_id)
