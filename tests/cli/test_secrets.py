"""Secrets planted wherever they could come in are nowhere in what csa keeps and shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import Place

FROM_ENVIRONMENT = "tr0ub4dor&3-horse-staple"
MULTILINE = "line-one-of-it-9f2\nline-two-of-it-7c1"
SHAPES = {
    "openai": "sk-" + "proj-AbCdEfGhIjKlMnOpQrStUvWx",
    "github": "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345",
    "slack": "xoxb-" + "123456789012-abcdefABCDEF",
    "aws": "AKIA" + "ABCDEFGHIJKLMNOP",
    "jwt": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
}
ASSIGNED = "hunter2hunter2"
IN_URL = "hunter3-0123456789abcdef0123456789"
QUOTED = 'pa,ss;word & "hunter4"'
BOTH = pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])


def planted() -> str:
    """A text with a secret of each kind."""
    lines = [f"value {FROM_ENVIRONMENT} here", *SHAPES.values(), f'"db_password": "{ASSIGNED}"']
    lines += [f"https://user:{ASSIGNED}@example.org/", f"https://{IN_URL}@example.org/"]
    lines += [f"DB_PASSWORD='{QUOTED}'", json.dumps({"password": QUOTED})]
    return "\n".join([*lines, MULTILINE])


def found_below(root: Path) -> list[str]:
    """Name the files that hold a secret, in whichever form."""
    needles = [FROM_ENVIRONMENT, ASSIGNED, IN_URL, "hunter4", *SHAPES.values(), *MULTILINE.split("\n")]
    return [
        f"{path.relative_to(root)}: {needle}"
        for path in sorted(root.rglob("*"))
        if path.is_file()
        for needle in needles
        if needle.encode() in path.read_bytes() or needle in str(path)
    ]


def secrets_env() -> dict[str, str | None]:
    return {"DEPLOY_TOKEN": FROM_ENVIRONMENT, "SIGNING_KEY": MULTILINE}


def test_a_part_of_a_secret_is_one(place: Place) -> None:
    """What is cut to its first line, for a description or a summary, is redacted before it is cut."""
    first = MULTILINE.partition("\n")[0]
    place.play(["say", f"done: {MULTILINE}"])
    session_id = place.codex(f"deploy with {MULTILINE}", env=secrets_env()).session_id
    state = place.state(session_id)
    assert (state["description"], state["tools"]["codex"]["last_action_summary"]) == (
        "deploy with [REDACTED]",
        "done: [REDACTED]",
    )
    assert place.run("session", "describe", session_id, f"with {MULTILINE}", env=secrets_env()).code == 0
    assert first not in (place.session(session_id) / "state.toml").read_text()
    assert found_below(place.state_root) == []


@BOTH
def test_secrets_are_nowhere(place: Place, tool: str) -> None:
    """Secrets in prompt, description, tool calls, answers, stderr and odd lines: none is on disk or on stderr."""
    text = planted()
    nested = json.dumps({"api_key": ASSIGNED, "text": text})
    nested_twice = json.dumps({"inner": json.dumps({"api_key": ASSIGNED, "text": text.removesuffix(MULTILINE)})})
    place.play(
        ["think", text],
        ["call", f"curl -H 'Authorization: Bearer {SHAPES['openai']}'", text],
        ["emit", {"type": "novelty", "raw": text, "password": ASSIGNED}],
        ["call", "cat a.json", nested],
        ["call", "cat b.json", nested_twice],
        ["stderr", text],
        ["say", f"first {text}"],
        ["say", text],
    )
    done = place.run("run", "--tool", tool, text, env=secrets_env())
    assert done.code == 0, done.err
    assert found_below(place.state_root) == []
    assert not [n for n in (FROM_ENVIRONMENT, ASSIGNED, *SHAPES.values(), *MULTILINE.split("\n")) if n in done.err]
    assert not [n for n in (FROM_ENVIRONMENT, *SHAPES.values()) if n in done.out]
    assert "[REDACTED]" in (place.session(done.session_id) / "transcript.jsonl").read_text()


@pytest.mark.thorough
def test_secret_of_several_lines_deep_in_json(place: Place) -> None:
    """A value of several lines is found however often it is wrapped in JSON strings."""
    wrapped = MULTILINE
    for _ in range(3):
        wrapped = json.dumps({"content": wrapped})
        place.play(["call", "cat transcript.jsonl", wrapped], ["say", "done"])
        place.codex("hello", env=secrets_env())
    assert found_below(place.state_root) == []


@BOTH
def test_secrets_split_across_chunks(place: Place, tool: str) -> None:
    """A secret that reaches csa in two writes is redacted as if it came in one, on stdout and on stderr."""
    secret = SHAPES["openai"]
    whole = json.dumps({"type": "novelty", "text": f"{secret} {FROM_ENVIRONMENT}"})
    at, later = whole.index(secret) + 9, whole.index(FROM_ENVIRONMENT) + 5
    place.play(
        ["emit-partial", whole[:at]],
        ["sleep", 0.15],
        ["emit-partial", whole[at:later]],
        ["sleep", 0.15],
        ["emit-partial", whole[later:] + "\n"],
        ["run", f"printf %s {FROM_ENVIRONMENT[:9]}; sleep 0.1; printf %s '{FROM_ENVIRONMENT[9:]}'"],
        ["emit-partial", f"no json {secret[:12]}"],
        ["sleep", 0.15],
        ["emit-partial", secret[12:] + "\n"],
        ["say", "done"],
    )
    done = place.run("run", "--tool", tool, "hello", env=secrets_env())
    assert done.code == 0, done.err
    assert found_below(place.state_root) == []


@pytest.mark.thorough
def test_secrets_in_failures(place: Place) -> None:
    """The message of a failure is redacted: in the words, in --json, and in the record."""
    place.play(
        ["stderr", f"Error: cannot log in with {SHAPES['github']} at {FROM_ENVIRONMENT}"], ["exit", 3], start=False
    )
    for words in ([], ["--json"]):
        done = place.run("run", "--tool", "codex", *words, "hello", env=secrets_env())
        assert done.code != 0
        assert "[REDACTED]" in done.err + done.out
        assert not [n for n in (FROM_ENVIRONMENT, SHAPES["github"]) if n in done.err + done.out]
    assert found_below(place.state_root) == []


@pytest.mark.thorough
def test_secrets_in_streamed_json(place: Place) -> None:
    """The events on stdout are those of the transcript: redacted."""
    place.play(["call", "cat .env", planted()], ["say", planted()])
    done = place.codex(planted(), "--stream-json", env=secrets_env())
    assert not [n for n in (FROM_ENVIRONMENT, ASSIGNED, *SHAPES.values()) if n in done.out]


def test_secrets_in_words_of_the_command(place: Place) -> None:
    """Secrets in --description, --system and the configuration reach neither record nor screen."""
    (place.home / "config.toml").write_text(f'[tools.codex]\nenv = {{ MY_API_KEY = "{ASSIGNED}" }}\n')
    env = {**secrets_env(), "CSA_CONFIG": str(place.home / "config.toml")}
    argv = place.tmp / "argv"
    place.play(["write-argv", str(argv)], ["call", "env", f"MY_API_KEY={ASSIGNED}"])
    place.codex("hello", "--description", SHAPES["aws"], "--system", f"use {SHAPES['slack']}", env=env)
    assert SHAPES["slack"] in argv.read_text()  # the tool is told
    assert found_below(place.state_root) == []
    shown = place.run("config", "show", env=env).out
    assert ASSIGNED not in shown
    assert '\n[tools.codex]\n# env = { MY_API_KEY = "[REDACTED]" }  # ' in shown  # which is no setting to be read back
    assert ASSIGNED not in place.run("config", "show", "--json", env=env).out


def test_harmless_text_survives(place: Place) -> None:
    """What only resembles a secret is kept: attribute chains, hashes, words."""
    text = "call some_module.long_function.attribute with 3f786850e387550fdab836ed7e6dc881de23001b; tokens: 950"
    place.play(["say", text])
    done = place.codex("hello")
    assert done.out == text + "\n"
    assert text in (place.session(done.session_id) / "output" / "turn-0001" / "final.md").read_text()
