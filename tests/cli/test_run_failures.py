"""How `csa run` fails: exit codes, kinds, words and hints, for faults of the tool, the provider and the caller."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from csa.process.framing import KEPT_BYTES
from tests.support import Json, Place, wait_for

BOTH = pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])
OTHER_THREAD = "01a1f83a-0000-7db1-ada4-435d9ff915d3"


@pytest.mark.thorough
@BOTH
@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("401", "auth", 7),
        ("429", "rate_limit", 8),
        ("quota", "quota", 8),
        ("500", "server", 1),
        ("context", "context_overflow", 1),
    ],
)
def test_typed_failures(place: Place, tool: str, fault: str, kind: str, code: int) -> None:
    """A failure the tool announces becomes a kind and an exit code, in the result and on disk."""
    place.play(["fail", fault])
    done = place.run("run", "--tool", tool, "--retries", "0", "--json", "hello")
    assert done.code == code
    assert (done.json["status"], done.json["error"]["kind"]) == ("failed", kind)
    assert done.json["tool_exit_code"] == 1
    assert {"retry_at": None, **place.last_event(done.session_id)["error"]} == done.json["error"]
    assert place.status(done.session_id) == "failed"


def test_failure_in_words(place: Place) -> None:
    """Without --json the failure is one sentence with a hint on stderr; stdout stays empty."""
    place.play(["fail", "401"])
    done = place.run("run", "--tool", "codex", "hello")
    assert done.out == ""
    assert "error: codex failed (auth): " in done.err
    assert "hint: log in with codex" in done.err


@BOTH
def test_prose_about_limits_is_no_failure(place: Place, tool: str) -> None:
    """An agent that writes about 429, quota and 401 Unauthorized succeeds."""
    place.play(
        ["call", "grep 429", "429 Too Many Requests: quota exceeded"], ["say", "401 Unauthorized; rate limit 429"]
    )
    assert place.run("run", "--tool", tool, "hello").code == 0


@pytest.mark.thorough
@BOTH
def test_retries_are_shown_as_they_happen(place: Place, tool: str) -> None:
    """A retry the tool announces is on stderr while it still runs, and in the transcript."""
    place.play(["retry", "429", 1], *place.hold(), ["say", "got through"])
    running = place.start("run", "--tool", tool, "hello")
    place.wait_ready()
    wait_for(lambda: "retry 1/" in running.err and "rate_limit" in running.err, "the retry on stderr")
    place.release()
    done = running.wait()
    assert (done.code, done.out) == (0, "got through\n")
    assert "retry" in [event["type"] for event in place.events(done.session_id)]


def test_tool_that_is_not_installed(place: Place) -> None:
    """A known tool that is not on the PATH: exit 7, its name, a hint; nothing is created."""
    done = place.run("run", "--tool", "codex", "hello", env={"PATH": "/usr/bin:/bin"})
    assert done.code == 7
    assert "codex is not installed" in done.err
    assert "hint: " in done.err
    assert not place.state_root.exists()


def test_no_tool_at_all(place: Place) -> None:
    """`auto` without any tool: exit 7, and a hint how to get one."""
    done = place.run("run", "hello", env={"PATH": "/usr/bin:/bin"})
    assert done.code == 7
    assert "hint: npm install" in done.err


def test_unknown_tool(place: Place) -> None:
    """A misspelt tool is a usage error that names the one meant."""
    done = place.run("run", "--tool", "codx", "hello")
    assert done.code == 2
    assert "Unknown tool 'codx'" in done.err
    assert "did you mean 'codex'?" in done.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["rnu", "x"], "csa run"), (["session", "lst"], "csa list"), (["sesion", "list"], "csa session")],
)
def test_unknown_command(place: Place, words: list[str], meant: str) -> None:
    """A misspelt command is a usage error that names the one meant."""
    done = place.run(*words)
    assert done.code == 2
    assert f"did you mean '{meant}" in done.err


@pytest.mark.parametrize(
    "words", [["run", "--no-such-flag", "x"], ["session", "list", "--no-such-flag"], ["run", "--ver", "x"], ["--nope"]]
)
def test_unknown_flag(place: Place, words: list[str]) -> None:
    """An unknown or abbreviated flag is a usage error with a hint, and nothing is created."""
    done = place.run(*words)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "hint: " in done.err
    assert not place.state_root.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--timeout", "0"],
        ["--timeout", "-5"],
        ["--timeout", "nan"],
        ["--name", "9lives"],
        ["--name", "a/b"],
        ["--session-id", "not a name"],
        ["--session", "x", "--last"],
        ["--ephemeral", "--last"],
        ["--stream-json", "--print-id"],
        ["--permission", "everything"],
        ["--cd", "/no/such/place"],
    ],
    ids=" ".join,
)
def test_unusable_words(place: Place, words: list[str]) -> None:
    """Values and combinations that make no sense are usage errors, and nothing is created."""
    done = place.run("run", "--tool", "codex", *words, "hello")
    assert done.code == 2, done.err
    assert done.err.startswith("error: ")
    assert not place.state_root.exists()


def test_program_that_cannot_start(place: Place) -> None:
    """A configured command whose interpreter is missing: the turn fails with kind spawn, in its record too."""
    broken = place.tmp / "codex"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    done = place.run("run", "--tool", "codex", "--json", "hello", env={"PATH": f"{place.tmp}:/usr/bin:/bin"})
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (1, "failed", "spawn")
    assert place.last_event(done.session_id)["error"]["kind"] == "spawn"


@pytest.mark.thorough
@BOTH
def test_exit_without_a_word(place: Place, tool: str) -> None:
    """A tool that exits without its typed end has failed, whatever code it leaves."""
    for code in (0, 3):
        place.play(["say", "half"], ["exit", code])
        done = place.run("run", "--tool", tool, "--json", "hello")
        assert (done.code, done.json["status"], done.json["tool_exit_code"]) == (1, "failed", code)


@pytest.mark.thorough
def test_stderr_of_the_tool_explains(place: Place) -> None:
    """What the tool said on stderr before it died is the message, and is kept in stderr.log."""
    place.play(["stderr", "Error: the frobnicator is missing"], ["exit", 4], start=False)
    done = place.run("run", "--tool", "codex", "hello")
    assert done.code == 1
    assert "the frobnicator is missing" in done.err
    log = place.session(done.session_id) / "output" / "turn-0001" / "stderr.log"
    assert "the frobnicator is missing" in log.read_text()


def test_last_line_without_newline(place: Place) -> None:
    """The typed end counts even when the tool exits before the newline."""
    end: Json = {"type": "turn.completed", "usage": {"input_tokens": 5, "cached_input_tokens": 0, "output_tokens": 1}}
    place.play(["say", "done"], ["no-finish"], ["emit-partial", json.dumps(end)], ["exit", 0])
    done = place.run("run", "--tool", "codex", "hello")
    assert (done.code, done.out) == (0, "done\n")


@pytest.mark.thorough
def test_last_line_cut_in_the_middle(place: Place) -> None:
    """A line cut in its middle is kept as it is, and is no success."""
    place.play(["say", "done"], ["no-finish"], ["emit-partial", '{"type":"turn.comp'], ["exit", 0])
    done = place.run("run", "--tool", "codex", "hello")
    assert done.code == 1
    raw = [event["data"]["raw"] for event in place.events(done.session_id) if event["type"] == "other"]
    assert raw == ['{"type":"turn.comp']


def test_garbage_on_stdout_is_kept(place: Place) -> None:
    """What is no event of the tool is recorded as it came, and disturbs nothing."""
    place.play(["emit", "Warning: {not json"], ["emit", {"type": "novelty", "x": [1]}], ["emit", "[]"], ["say", "done"])
    done = place.codex("hello")
    assert done.out == "done\n"
    raw = [event["data"]["raw"] for event in place.events(done.session_id) if event["type"] == "other"]
    assert raw == ["Warning: {not json", {"type": "novelty", "x": [1]}, "[]"]


@pytest.mark.thorough
def test_huge_line_in_bounded_memory(place: Place) -> None:
    """A line of 80 MB is drained, its beginning kept, and its loss told, with csa below 150 MB at its peak."""
    place.play(["emit-bytes", 80_000_000], *place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello")
    place.wait_ready()
    transcript = place.session(running.session_id) / "transcript.jsonl"
    wait_for(lambda: b'"warning"' in transcript.read_bytes(), "the line is in the transcript")
    status = Path(f"/proc/{running.pid}/status").read_text()
    (peak_kib,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    place.release()
    done = running.wait()
    assert (done.code, done.out) == (0, "done\n")
    assert peak_kib < 150_000
    events = place.events(running.session_id)
    (raw,) = [event["data"]["raw"] for event in events if event["type"] == "other"]
    assert (len(raw), raw[-3:]) == (KEPT_BYTES, "xxx")
    (lost,) = [event["data"]["message"] for event in events if event["data"].get("kind") == "line"]
    assert re.search(r"of 800\d{5} bytes", lost)


@pytest.mark.thorough
def test_other_conversation_on_resume(place: Place) -> None:
    """codex that resumes another thread than asked for is stopped: kind protocol, and the known id stays."""
    other = {"type": "thread.started", "thread_id": OTHER_THREAD}
    place.script(
        {"match": "", "turn": 1, "do": [["say", "one"]]},
        {"match": "", "start": False, "do": [["emit", other], ["sleep", 60]]},
    )
    first = place.codex("one")
    known = place.state(first.session_id)["tools"]["codex"]["provider_session_id"]
    done = place.run("run", "--session", first.session_id, "--json", "two")
    assert (done.code, done.json["status"], done.json["error"]["kind"]) == (1, "failed", "protocol")
    assert OTHER_THREAD in done.json["error"]["message"]
    assert place.state(first.session_id)["tools"]["codex"]["provider_session_id"] == known


@BOTH
def test_ids_inside_tool_calls_fool_nobody(place: Place, tool: str) -> None:
    """An id that appears in a tool's output, or deeper in an event, is not taken for the session's own."""
    inner = json.dumps({"type": "thread.started", "thread_id": OTHER_THREAD, "session_id": OTHER_THREAD})
    nested = {"type": "novelty", "item": {"type": "thread.started", "thread_id": OTHER_THREAD}}
    place.play(
        ["call", "codex exec", inner + "\n" + inner], *([["emit", nested]] if tool == "codex" else []), ["say", inner]
    )
    done = place.run("run", "--tool", tool, "hello")
    assert done.code == 0
    bound = [e["data"]["provider_session_id"] for e in place.events(done.session_id) if e["type"] == "session_bound"]
    assert bound == [place.state(done.session_id)["tools"][tool]["provider_session_id"]]
    assert OTHER_THREAD not in bound


def test_denied_permissions_are_in_the_transcript(place: Place) -> None:
    """A refused tool call is recorded though the turn succeeds."""
    place.play(["deny", "Bash", "rm -rf build"], ["say", "could not"])
    done = place.run("run", "--tool", "claude-code", "hello")
    assert done.code == 0
    assert "permission" in [event["type"] for event in place.events(done.session_id)]


def test_bad_config_is_named(place: Place) -> None:
    """A misspelt key of the config: exit 6, the file, and the key that was meant."""
    config = place.project / ".csa" / "config.toml"
    config.parent.mkdir()
    config.write_text("max_deph = 3\n")
    done = place.run("run", "--tool", "codex", "hello")
    assert done.code == 6
    assert str(config) in done.err
    assert "did you mean 'max_depth'?" in done.err


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("setting", "key"),
    [('tool = "codx"', "tool"), ('tools_order = ["claude-code", "codx"]', "tools_order"), ("CSA_CONF_TOOL", "tool")],
)
def test_a_configured_tool_that_is_none(place: Place, setting: str, key: str) -> None:
    """A tool's name that the config has wrong: exit 6, the file or variable, and the tool that was meant."""
    origin, env = setting, {"CSA_CONF_TOOL": "codx"} if setting.isupper() else {}
    if not env:
        config = place.project / ".csa" / "config.toml"
        config.parent.mkdir()
        config.write_text(f"{setting}\n")
        origin = str(config)
    for words in (["run", "hello"], ["config", "validate"], ["run", "--tool", "auto", "hello"]):
        if words[1:3] == ["--tool", "auto"] and key == "tool":
            continue  # it is not asked
        done = place.run(*words, env=env)
        assert done.code == 6
        assert done.err == f"error: {origin}: '{key}': Unknown tool 'codx'.\nhint: did you mean 'codex'?\n"
    assert f"{origin}: '{key}': Unknown tool 'codx'." in place.run("doctor", env=env).out
    assert place.ids() == []
    place.codex("hello", env=env)  # neither is needed


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tools.claude]\nmodel = "opus"\n', "'[tools.claude]': Unknown tool 'claude'."),
        ('[tools.mine]\ntransport = "acp"\n', '[tools.mine] has transport = "acp" and no command.'),
    ],
)
def test_settings_that_do_nothing(place: Place, text: str, said: str) -> None:
    """Settings of a tool that there is not, or that cannot be started, are no valid configuration."""
    user = place.tmp / "config.toml"
    place.env["CSA_CONFIG"] = str(user)
    user.write_text(text)
    done = place.run("config", "validate")
    assert (done.code, said in done.err) == (6, True), done.err
    assert "hint: " in done.err
    assert said in place.run("doctor").out
    is_typo = "claude" in text
    assert place.run("run", "--tool", "codex", "hello").code == (6 if is_typo else 0)


def test_a_tool_that_the_user_has_configured(place: Place) -> None:
    """A project may name it, as the default or in the order."""
    user = place.tmp / "config.toml"
    place.env["CSA_CONFIG"] = str(user)
    user.write_text('[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"]\n')
    config = place.project / ".csa" / "config.toml"
    config.parent.mkdir()
    config.write_text('tool = "goose"\ntools_order = ["goose", "codex"]\nfallback = ["goose"]\n')
    done = place.run("config", "validate")
    assert (done.code, done.out) == (0, f"valid: {user}, {config}\n"), done.err
