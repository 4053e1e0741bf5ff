"""csa over an ACP agent: configured in three lines, then a tool like any other."""

from __future__ import annotations

import json
import signal

import pytest

from csa.model.usage import Usage
from tests.support import Place, wait_for

THREE_LINES = """
[tools.goose]
transport = "acp"
command = ["fake-acp"]
"""


@pytest.fixture
def goose(place: Place) -> Place:
    """Make a place whose user has configured the agent."""
    configure(place, THREE_LINES)
    return place


def configure(place: Place, text: str) -> None:
    config = place.tmp / "config.toml"
    config.write_text(text)
    place.env["CSA_CONFIG"] = str(config)


@pytest.mark.thorough
def test_three_lines_make_a_tool(goose: Place) -> None:
    """Its answer is printed, its session is listed, its conversation is known."""
    goose.play(["think", "hm"], ["call", "make test", "ok\n"], ["usage", 100, 5, 20], ["say", "all is well"])
    done = goose.run("run", "--tool", "goose", "check it")
    assert (done.code, done.out) == (0, "all is well\n"), done.err
    assert "$ make test" in done.err
    events = goose.events(done.session_id)
    assert [event["type"] for event in events if event["type"] != "agent_message"] == [
        "run_started",
        "session_bound",
        "agent_thought",
        "tool_call",
        "tool_call_update",
        "usage",
        "run_finished",
    ]
    assert "".join(event["data"]["text"] for event in events if event["type"] == "agent_message") == "all is well"
    assert goose.last_event(done.session_id)["usage"] == Usage(100, 5, 20).to_dict()
    assert goose.state(done.session_id)["tools"]["goose"]["provider_session_id"]
    assert goose.run("session", "list", "--json").json[0]["tools"] == ["goose"]


@pytest.mark.thorough
def test_a_session_goes_on(goose: Place) -> None:
    """By the id in its record; nothing of the first turn is told again."""
    for flags in ([], ["--only-load"], ["--only-load", "--late-replay"]):
        configure(goose, THREE_LINES.replace('"fake-acp"', ", ".join(f'"{word}"' for word in ["fake-acp", *flags])))
        first = goose.run("run", "--tool", "goose", "one")
        second = goose.run("run", "--session", first.session_id, "two")
        assert (second.code, second.out) == (0, "FAKE ECHO: two [turns=2]\n"), second.err
        bound = [event["data"] for event in goose.events(first.session_id) if event["type"] == "session_bound"]
        assert len(bound) == 2
        assert bound[0] == bound[1]


@pytest.fixture
def installed(place: Place) -> Place:
    """Make a place where goose is installed, and nothing configured."""
    program = place.tmp / "bin" / "goose"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec fake-acp "$@"\n')
    program.chmod(0o755)
    place.env["PATH"] = f"{program.parent}:{place.env['PATH']}"
    return place


@pytest.mark.thorough
def test_an_agent_that_is_known_by_name(installed: Place) -> None:
    """It needs no configuration, in the mode that it needs; doctor shows it, auto does not take it."""
    installed.play(["write-argv", str(installed.tmp / "argv")], ["say", "by name"])
    done = installed.run("run", "--tool", "goose", "hello")
    assert (done.code, done.out) == (0, "by name\n"), done.err
    assert json.loads((installed.tmp / "argv").read_text())[-1] == "acp"
    assert installed.run("run", "--last", "again").code == 0
    assert installed.run("run", "--dry-run", "--json", "--tool", "auto", "x").json["tool"] != "goose"
    assert "goose" in installed.run("doctor").out
    assert installed.run("session", "list", "--json", "--tool", "kimi").json == []


def test_a_known_agent_in_the_configuration(installed: Place) -> None:
    """`config validate` accepts it; auto takes it where the order names it first, and its settings hold."""
    configure(installed, 'tools_order = ["goose", "codex"]\n[tools.goose]\nmodel = "m"\n[tools.kimi]\nmodel = "k"\n')
    assert installed.run("config", "validate").code == 0
    plan = installed.run("run", "--dry-run", "--json", "--tool", "auto", "x").json
    assert (plan["tool"], plan["transport"], plan["model"]) == ("goose", "acp", "m")
    configure(installed, 'tools_order = ["goos"]\n')
    assert "did you mean 'goose'" in installed.run("config", "validate").err


@pytest.mark.thorough
def test_an_agent_whose_user_must_log_in(goose: Place) -> None:
    """Kind `auth`, exit 7, and the methods by name; the configured one is used."""
    configure(goose, THREE_LINES.replace('"fake-acp"', '"fake-acp", "--auth-browser"'))
    done = goose.run("run", "--json", "--tool", "goose", "hello")
    assert (done.code, done.json["error"]["kind"]) == (7, "auth")
    assert "login (Sign in with your browser)" in done.json["error"]["message"]
    configure(goose, THREE_LINES.replace('"fake-acp"', '"fake-acp", "--auth-browser"') + 'auth_method = "login"\n')
    assert goose.run("run", "--tool", "goose", "hello").code == 0


@pytest.mark.thorough
def test_an_unknown_conversation_is_refused(goose: Place) -> None:
    """Without a handoff the agent's word for it becomes the turn's error; no other conversation is begun."""
    first = goose.run("run", "--tool", "goose", "one")
    state = goose.session(first.session_id) / "state.toml"
    known = goose.state(first.session_id)["tools"]["goose"]["provider_session_id"]
    state.write_text(state.read_text().replace(known, "unknown"))
    done = goose.run("run", "--json", "--no-handoff", "--session", first.session_id, "two")
    assert (done.code, done.json["error"]["kind"]) == (1, "unknown_conversation")
    assert done.json["provider_session_id"] == "unknown"


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("401", "auth", 7),
        ("429", "rate_limit", 8),
        ("quota", "quota", 8),
        ("500", "server", 1),
        ("refusal", "invalid_request", 1),
    ],
)
def test_failures_have_their_kinds(goose: Place, kind: str, error: str, code: int) -> None:
    """Errors of the protocol, and stop reasons that are no success; retries are told before."""
    goose.play(["retry", "500", 2], ["say", "so far"], ["fail", kind])
    done = goose.run("run", "--json", "--tool", "goose", "--retries", "0", "hello")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (code, "failed", error)
    assert done.json["text"] == "so far"
    assert "retry 2/5" in done.err


@pytest.mark.thorough
def test_cancel_and_timeout(goose: Place) -> None:
    """TERM and the end of the time both end the agent with what it runs, and the session goes on."""
    goose.play(["touch", str(goose.ready)], ["say", "so far"], ["run", "setsid sleep 600 & sleep 600"])
    running = goose.start("run", "--tool", "goose", "--json", "work")
    goose.wait_ready()
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert (done.code, done.json["status"], done.json["text"]) == (143, "cancelled", "so far")
    assert not goose.processes()
    late = goose.run("run", "--session", done.session_id, "--timeout", "4", "--json", "work on")
    assert (late.code, late.json["status"]) == (124, "timed_out")
    assert not goose.processes()
    goose.play(["say", "done"])
    assert goose.run("run", "--session", done.session_id, "again").out == "done\n"


@pytest.mark.thorough
def test_the_supervisors_death_takes_the_agent_along(goose: Place) -> None:
    """Bridge, agent and its shells are gone at once."""
    goose.play(["touch", str(goose.ready)], ["run", "setsid sleep 600 & sleep 600"])
    running = goose.start("run", "--tool", "goose", "work")
    goose.wait_ready()
    running.kill()
    goose.wait_until_empty(within_s=5)
    (session_id,) = goose.ids()  # it may be killed before it has said it
    assert goose.status(session_id) == "lost"


@pytest.mark.thorough
def test_a_killed_agent_is_a_failure(goose: Place) -> None:
    """The bridge tells of what."""
    goose.play(["say", "so far"], ["signal-self", "KILL"])
    done = goose.run("run", "--tool", "goose", "--json", "hello")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (1, "failed", "internal")
    assert "died of signal 9" in done.json["error"]["message"]


@pytest.mark.thorough
def test_secrets_do_not_reach_the_disk(goose: Place) -> None:
    """Also where a chunk's border cuts one in two."""
    goose.env["GOOSE_API_KEY"] = secret = "very-secret-value-4711"
    goose.play(["say", f"the key is {secret} indeed"], ["call", "env", f"GOOSE_API_KEY={secret}\n"], ["say", "done"])
    done = goose.run("run", "--tool", "goose", "what is the key")
    assert done.code == 0
    files = [path for path in goose.session(done.session_id).rglob("*") if path.is_file()]
    assert [path.name for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.thorough
def test_an_agent_starts_a_child(goose: Place) -> None:
    """Its shell has csa's variables, and a nested run makes a child."""
    goose.script(
        {"match": "outer", "do": [["run", "csa run -q --tool goose 'inner task'"], ["say", "done"]]},
        {"match": "inner", "do": [["say", "the inner answer"]]},
    )
    done = goose.run("run", "--tool", "goose", "--permission", "full", "outer task")
    assert done.code == 0, done.err
    child = next(found for found in goose.ids() if found != done.session_id)
    assert goose.state(child)["genealogy"]["parent_session_id"] == done.session_id
    outputs = [e["data"] for e in goose.events(done.session_id) if e["type"] == "tool_call_update"]
    assert outputs[-1]["content"] == "the inner answer\n"


@pytest.mark.thorough
def test_permissions(goose: Place) -> None:
    """What is denied is in the result; a handed-down level holds."""
    goose.play(["ask", "execute", "rm -rf /"], ["ask", "execute", "csa run x"], ["say", "tried"])
    done = goose.run("run", "--json", "--tool", "goose", "try")
    assert (done.code, done.json["denied"]) == (0, ["rm -rf /"])
    full = goose.run("run", "--json", "--tool", "goose", "--permission", "full", "try")
    assert full.json["denied"] == []


@pytest.mark.thorough
def test_a_handoff_between_transports_and_tools(goose: Place) -> None:
    """A session goes from codex to the agent and back, each told what the other did."""
    first = goose.codex("remember the word Ulm")
    second = goose.run("run", "--session", first.session_id, "--tool", "goose", "which word")
    assert second.code == 0, second.err
    handed = [event["data"] for event in goose.events(first.session_id) if event["type"] == "handoff"]
    assert handed[0]["to"] == "goose"
    assert set(goose.state(first.session_id)["tools"]) == {"codex", "goose"}


def test_the_plan_says_how(goose: Place) -> None:
    """A dry run names the transport; the flag goes before the configuration."""
    assert goose.run("run", "--dry-run", "--json", "--tool", "goose", "x").json["transport"] == "acp"
    assert goose.run("run", "--dry-run", "--json", "--tool", "codex", "x").json["transport"] == "native"
    done = goose.run("run", "--dry-run", "--tool", "goose", "--transport", "native", "x")
    assert (done.code, "--transport acp" in done.err) == (2, True)


def test_a_known_tool_by_configuration_and_by_flag(place: Place) -> None:
    """`transport` alone is enough for a tool csa knows how to start; the flag native undoes it for a turn."""
    binary = place.tmp / "bin" / "opencode"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\nexit 1\n")
    binary.chmod(0o755)
    place.env["PATH"] = f"{binary.parent}:{place.env['PATH']}"
    dry = ("run", "--dry-run", "--json", "--tool", "opencode")
    assert place.run(*dry, "--transport", "acp", "x").json["transport"] == "acp"
    configure(place, '[tools.opencode]\ntransport = "acp"\n')
    assert place.run(*dry, "x").json["transport"] == "acp"
    assert place.run(*dry, "--transport", "native", "x").json["transport"] == "native"


@pytest.mark.parametrize(
    ("config", "words", "code", "said"),
    [
        ('[tools.agentx]\ntransport = "acp"\n', ["--tool", "agentx"], 6, "no command"),
        ('[tools.goose]\ntransport = "acp"\n', ["--tool", "goose"], 7, "no 'goose' on the PATH"),
        ('[tools.goose]\ntransport = "http"\ncommand = ["x"]\n', ["--tool", "goose"], 6, "native or acp"),
        ("[tools.goose]\ntransport = 3\n", ["--tool", "goose"], 6, "native or acp"),
        (THREE_LINES, ["--tool", "gose"], 2, "did you mean 'goose'"),
        (THREE_LINES.replace("fake-acp", "no-such-agent"), ["--tool", "goose"], 7, "no-such-agent"),
        ("", ["--tool", "agentx", "--transport", "acp"], 2, "Unknown tool"),
        ("", ["--tool", "cursor-agent"], 2, "did you mean 'cursor'"),
        ("", ["--tool", "goose"], 7, "no 'goose' on the PATH"),
        ("", ["--tool", "goose", "--transport", "native"], 2, "over ACP only"),
        ("", ["--tool", "codex", "--transport", "acp"], 2, "does not know how to start codex"),
        ('[tools.codex]\ncommand = ["codex"]\n', ["--tool", "codex", "--transport", "acp"], 2, "does not know how"),
        ("", ["--tool", "codex", "--transport", "carrier-pigeon"], 2, "carrier-pigeon"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(place: Place, config: str, words: list[str], code: int, said: str) -> None:
    """Before anything is started or written."""
    configure(place, config)
    done = place.run("run", *words, "hello")
    assert (done.code, said in done.err) == (code, True), done.err
    assert place.ids() == []


def test_a_project_may_not_choose_the_transport(place: Place) -> None:
    """It decides how a permission is enforced, and a command would be run."""
    for line in ('transport = "acp"', 'command = ["evil"]'):
        config = place.project / ".csa" / "config.toml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(f"[tools.goose]\n{line}\n")
        done = place.run("run", "--tool", "codex", "hello")
        assert (done.code, "a project file may not set" in done.err) == (6, True)


@pytest.mark.thorough
def test_one_broken_agent_leaves_the_other_tools_alone(place: Place) -> None:
    """What is wrong with its table is a warning of a run with another tool."""
    configure(place, '[tools.agentx]\ntransport = "acp"\n')
    done = place.codex("hello")
    warnings = [event["data"] for event in place.events(done.session_id) if event["type"] == "warning"]
    assert "no command" in json.dumps(warnings)
    wait_for(lambda: not place.processes(), "codex is gone")
