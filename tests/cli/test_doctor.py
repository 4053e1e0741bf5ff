"""`csa doctor`: what it says of a place, and that it changes nothing there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from csa_adapters.codex import CodexAdapter

from csa.model.adapter import Login
from csa.model.config import combine_layers
from csa.runner.doctor.tool_checks import Answer, ToolFinding, judge_tool
from csa.store.locks import acquire_lock
from tests.cli.test_console import on_terminal
from tests.conftest import ForeignWriter
from tests.support import Done, Json, Place, is_running, snapshot, wait_for

CODEX = "0.169.0"
KEYS: dict[str, str | None] = {
    "CODEX_API_KEY": "a-key-of-codex",
    "ANTHROPIC_API_KEY": "a-key-of-claude",
    "GEMINI_API_KEY": "a-key-of-gemini",
    "OPENCODE_API_KEY": "a-key-of-opencode",
}


def found(done: Done) -> dict[str, Json]:
    """Return the checks of `doctor --json` by name."""
    return {check["name"]: check for check in done.json["checks"]}


def doctor(place: Place, env: dict[str, str | None] | None = None, *words: str) -> tuple[Done, dict[str, Json]]:
    """Run `doctor --json`; the exit code and `ok` must agree, and every trouble must have a next step."""
    done = place.run("doctor", "--json", *words, env=env)
    assert done.err == ""
    checks = found(done)
    assert done.json["ok"] == (done.code == 0)
    assert any(check["blocks_runs"] for check in checks.values()) == (done.code != 0)
    for check in checks.values():
        assert check["status"] in {"ok", "warn", "fail"}
        assert (check["status"] == "ok") == (check["next_step"] is None), check
    return done, checks


@pytest.fixture
def no_tools(place: Place) -> dict[str, str | None]:
    """An environment in which no tool is installed."""
    empty = place.tmp / "empty"
    empty.mkdir()
    return {"PATH": str(empty)}


def put_tool(place: Place, name: str, script: str) -> dict[str, str | None]:
    """Put an executable before the fakes; return what finds it."""
    tool = place.tmp / "bin" / name
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(script)
    tool.chmod(0o755)
    return {"PATH": f"{tool.parent}:{place.env['PATH']}"}


def test_empty_home_without_tools(place: Place, no_tools: dict[str, str | None]) -> None:
    """Without any tool it exits 7, tells how to install each, and makes nothing, not even the state root."""
    before = snapshot(place.home)
    done, checks = doctor(place, no_tools)
    assert done.code == 7
    assert checks["codex"]["next_step"] == "npm install -g @openai/codex"
    assert checks["claude-code"]["next_step"] == "npm install -g @anthropic-ai/claude-code"
    assert (checks["run"]["status"], checks["run"]["blocks_runs"]) == ("fail", True)
    assert "does not exist yet" in checks["state root"]["detail"]
    assert checks["git"]["status"] == "warn"
    assert not place.state_root.exists()
    assert snapshot(place.home) == before


def test_run_without_tools_says_the_same_in_two_lines(place: Place, no_tools: dict[str, str | None]) -> None:
    """`csa run` without any tool: what is missing, and the next step, which names doctor."""
    done = place.run("run", "hello", env=no_tools)
    assert (done.code, done.out) == (7, "")
    error, hint = done.err.splitlines()
    assert error.startswith("error: No AI coding tool is installed: none of codex, claude")
    assert hint.startswith("hint: npm install -g @openai/codex, ")
    assert "`csa doctor`" in hint


@pytest.mark.thorough
def test_all_is_well(place: Place) -> None:
    """With the tools there and keys set it exits 0, and nothing is out of order."""
    place.codex("one")
    done, checks = doctor(place, {**KEYS, **put_tool(place, "opencode", "#!/bin/sh\necho 1.18.33\n")})
    assert done.code == 0
    assert {check["status"] for check in checks.values() if check["topic"] in {"tools", "state", "setup"}} == {"ok"}
    assert checks["codex"]["detail"].startswith(f"{CODEX} (tested), logged in or key set, ")
    assert checks["claude-code"]["detail"].startswith("2.1.328 (tested)")
    assert checks["run"]["detail"] == "`csa run` would use codex (first usable tool)"
    assert checks["sessions"]["detail"] == "1 session in 1 project, none damaged"
    assert "a-key-of" not in done.out


@pytest.mark.thorough
def test_tool_without_a_login(place: Place) -> None:
    """A tool without a login that can be seen is a warning with the way to log in; a run could still work."""
    done, checks = doctor(place)
    assert done.code == 0
    assert checks["codex"]["status"] == "warn"
    assert checks["codex"]["next_step"] == "run `codex login`, or set CODEX_API_KEY"


@pytest.mark.thorough
def test_a_key_that_codex_does_not_send(place: Place) -> None:
    """OPENAI_API_KEY alone is no login of codex's: doctor says why and what to do, and no run goes there by itself."""
    _, checks = doctor(place, {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})
    assert "no login or key found (codex does not send OPENAI_API_KEY)" in checks["codex"]["detail"]
    assert checks["codex"]["next_step"].startswith("printenv OPENAI_API_KEY | codex login --with-api-key")
    assert "would use claude-code (first usable tool)" in checks["run"]["detail"]


@pytest.mark.thorough
def test_what_the_configuration_says_counts(place: Place) -> None:
    """`env` and `command` of a tool's table are what a run starts with, and so what its login is judged by."""
    home = place.home / ".codex"
    home.mkdir()
    table = 'model_providers.m = {name = "m", base_url = "http://127.0.0.1:9/v1", env_key = "MYK"}'
    (home / "config.toml").write_text(f"{table}\n")
    settings = Path(place.env["XDG_CONFIG_HOME"]) / "csa" / "config.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('[tools.codex]\ncommand = ["codex", "-c", "model_provider=m"]\n')
    _, checks = doctor(place, {"CODEX_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})
    assert checks["codex"]["next_step"] == "set MYK, which m needs"
    assert "would use claude-code" in checks["run"]["detail"]
    settings.write_text(settings.read_text() + 'env = {MYK = "k"}\n')
    _, checks = doctor(place, {"ANTHROPIC_API_KEY": "k"})
    assert "logged in or key set" in checks["codex"]["detail"]
    assert "would use codex" in checks["run"]["detail"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_login_that_cannot_be_read(place: Place) -> None:
    """What we cannot read the tool cannot either: no login, and no traceback."""
    for name in (".codex", ".claude"):
        (place.home / name).mkdir(mode=0o000)
    try:
        done, checks = doctor(place)
    finally:
        for name in (".codex", ".claude"):
            (place.home / name).chmod(0o700)
    assert done.code == 0
    assert "no login or key found" in checks["codex"]["detail"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho 'cannot find\nlibfoo' >&2\nexit 1\n", "exits 1: cannot find libfoo"),
        ("#!/bin/sh\necho 'no idea what you mean'\n", "does not report a version: no idea what you mean"),
        ("#!/bin/sh\n", "does not report a version, without any output"),
        ("#!/bin/sh\nhead -c 300000 /dev/urandom\n", "does not report a version: "),
        ("#!/bin/sh\nkill -SEGV $$\n", "was killed by signal 11"),
        ("#!/nowhere/node\n", "cannot start"),
    ],
    ids=["exits", "rubbish", "silent", "bytes", "crashes", "no-interpreter"],
)
def test_broken_tool(place: Place, script: str, words: str) -> None:
    """A tool that does not answer fails in its words; with another that does, a run could work, and it says how."""
    env = {**KEYS, **put_tool(place, "codex", script)}
    done, checks = doctor(place, env, "--timeout", "1")
    assert done.code == 0
    assert checks["codex"]["status"] == "fail"
    assert words in checks["codex"]["detail"]
    assert "npm install -g @openai/codex" in checks["codex"]["next_step"]
    assert checks["run"]["status"] == "warn"
    assert "--tool claude-code" in checks["run"]["next_step"]
    for other in ("claude", "gemini", "opencode"):
        put_tool(place, other, script)
    assert doctor(place, env, "--timeout", "1")[0].code == 7


@pytest.mark.thorough
@pytest.mark.parametrize("script", ["trap '' TERM\nsleep 1000 & sleep 1000", "yes"], ids=["hangs", "babbles"])
def test_tool_that_does_not_answer_in_time(place: Place, script: str) -> None:
    """It is there, and may be slow: a warning that says what to try; nothing is left."""
    for tool in ("codex", "claude", "gemini", "opencode"):
        env = put_tool(place, tool, f"#!/bin/sh\n{script}\n")
    done, checks = doctor(place, {**KEYS, **env}, "--timeout", "0.5")
    assert done.code == 0
    assert checks["codex"]["status"] == checks["gemini-cli"]["status"] == "warn"
    assert "did not answer --version within 0.5 s: slow, or stuck" in checks["codex"]["detail"]
    assert "longer --timeout" in checks["codex"]["next_step"]
    assert not place.processes()


def test_prints_as_it_goes(place: Place) -> None:
    """Each check is printed, into a pipe too, while those after it are awaited."""
    env = put_tool(place, "codex", f"#!/bin/sh\nuntil [ -e {place.go} ]; do sleep 0.05; done\necho codex-cli {CODEX}\n")
    running = place.start("doctor", env={**KEYS, **env})
    wait_for(lambda: "claude-code" in running.out, "what is known is printed")
    assert "Setup" in running.out
    assert "codex " not in running.out
    place.release()
    done = running.wait()
    assert done.code == 0
    assert f"✓ codex        {CODEX} (tested)" in done.out


def test_a_slow_tool_is_called_slow(tmp_path: Path) -> None:
    """An answer that took long says how long, and is no fault."""
    answer = Answer(version=CODEX, took_s=9.1)
    finding = ToolFinding(CodexAdapter(), ("/bin/codex",), answer, Login(True))
    check = judge_tool(finding, combine_layers([]))
    assert check.status == "ok"
    assert "took 9 s to answer --version: slow, not broken" in check.detail


@pytest.mark.thorough
def test_tool_that_leaves_a_child_with_its_stdout(place: Place) -> None:
    """A version is taken though something the tool has started holds its stdout open; that is ended."""
    pid_file = place.tmp / "pid"
    env = put_tool(place, "codex", f"#!/bin/sh\nsetsid sleep 1000 &\necho $! > {pid_file}\necho codex 0.169.0\n")
    assert doctor(place, {**KEYS, **env})[1]["codex"]["status"] == "ok"
    assert not is_running(int(pid_file.read_text()))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("0.99.0", "warn", f"0.99.0 (older than the tested {CODEX})"),
        ("0.170.1-alpha.2", "ok", f"0.170.1-alpha.2 (newer than the tested {CODEX})"),
    ],
)
def test_other_version_than_the_tested(place: Place, version: str, status: str, words: str) -> None:
    """An older version than csa is tested with is a warning, a newer one is mentioned."""
    env = put_tool(place, "codex", f"#!/bin/sh\necho 'codex-cli {version}'\n")
    check = doctor(place, {**KEYS, **env})[1]["codex"]
    assert check["status"] == status
    assert words in check["detail"]


@pytest.mark.thorough
def test_words_of_a_tool_are_redacted(place: Place) -> None:
    """What a tool says reaches the screen without secrets, and without control of the terminal."""
    env = put_tool(place, "codex", "#!/bin/sh\nprintf 'bad key \\033[31m%s\\a' \"$CODEX_API_KEY\" >&2; exit 3\n")
    done = place.run("doctor", env={**KEYS, **env})
    assert "exits 3: bad key" in done.out
    assert "a-key-of-codex" not in done.out
    assert "\033" not in done.out
    assert "\a" not in done.out


@pytest.mark.thorough
def test_configured_tool_that_is_missing(place: Place) -> None:
    """A command that the config names and that is not there is a failure of that tool."""
    config = Path(place.env["XDG_CONFIG_HOME"]) / "csa" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('tool = "codex"\n[tools.codex]\ncommand = ["/nowhere/codex"]\n')
    done, checks = doctor(place, KEYS)
    assert done.code == 0
    assert checks["codex"]["status"] == "fail"
    assert "/nowhere/codex" in checks["codex"]["detail"]
    assert "`csa run` would fail" in checks["run"]["detail"]


@pytest.mark.thorough
def test_damaged_session_is_named_and_nothing_is_touched(place: Place, write_foreign: ForeignWriter) -> None:
    """Damaged sessions of any project are named with what is wrong; the store stays byte-identical."""
    place.codex("one")
    damaged = "01JH4QWERT1234567890ABCDEF"
    write_foreign(damaged, text="x = [\n", place=place.tmp / "other")
    before = snapshot(place.state_root)
    done, checks = doctor(place, KEYS)
    assert done.code == 0
    assert checks["sessions"]["status"] == "warn"
    assert "2 sessions in 2 projects, 1 damaged" in checks["sessions"]["detail"]
    assert f"/{damaged}/state.toml, line 2: " in checks["sessions"]["detail"]
    assert "is not TOML" in checks["sessions"]["detail"]
    assert snapshot(place.state_root) == before
    assert damaged in place.run("doctor").out


@pytest.mark.thorough
def test_remains_of_crashed_starts(place: Place) -> None:
    """A `.new-` or `.gone-` directory that nobody holds is named; one that is held, or fresh, is not."""
    session = place.session(place.codex("one").session_id)
    old = [session.parent / name for name in (".new-01JH4QWERT0000000000000000", ".gone-01JH4QWERT1111111111111111")]
    held = session.parent / ".new-01JH4QWERT2222222222222222"
    fresh = session.parent / ".new-01JH4QWERT3333333333333333"
    for path in (*old, held, fresh):
        (path / "locks").mkdir(parents=True)
    with acquire_lock(held / "locks" / "session.lock"):
        for path in (*old, held):
            os.utime(path, (1, 1))
        check = doctor(place, KEYS)[1]["remains"]
    assert all(str(path) in check["next_step"] for path in old)
    assert held.name not in check["next_step"]
    assert fresh.name not in check["next_step"]


@pytest.mark.thorough
def test_leftover_process(place: Place) -> None:
    """A process of a session that has ended is reported with its pid and left alone."""
    session_id = place.codex("one").session_id
    env = {**place.env, "CSA_SESSION_ID": session_id, "CSA_SESSION_DIR": str(place.session(session_id))}
    with subprocess.Popen(["sleep", "1000"], env=env) as left:
        try:
            done, checks = doctor(place, KEYS)
            assert done.code == 0
            assert f"{left.pid} sleep 1000 (session {session_id})" in checks["leftovers"]["detail"]
            assert f"kill {left.pid}" in checks["leftovers"]["next_step"]
            assert left.poll() is None
        finally:
            left.kill()
    assert doctor(place, KEYS)[1]["leftovers"]["status"] == "ok"


@pytest.mark.thorough
def test_processes_of_a_running_session_are_no_leftovers(place: Place) -> None:
    """What belongs to a session that runs is not reported; neither is an agent that calls doctor itself."""
    report = place.tmp / "report.json"
    place.play(["run", f"csa doctor --json > {report}"], *place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "codex", "hello", env=KEYS)
    place.wait_ready()
    inside = found(Done(0, report.read_text(), ""))
    assert inside["leftovers"]["status"] == "ok"
    assert inside["caller"]["detail"].startswith(f"inside session {running.session_id}")
    assert doctor(place, KEYS)[1]["leftovers"]["status"] == "ok"
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_faulty_configuration(place: Place) -> None:
    """A config that is wrong exits 6 with its error and hint; the tools are looked at all the same."""
    done, checks = doctor(place, {**KEYS, "CSA_CONF_MAX_DEPHT": "3"})
    assert done.code == 6
    assert "CSA_CONF_MAX_DEPHT" in checks["config"]["detail"]
    assert checks["codex"]["status"] == "ok"


@pytest.mark.thorough
def test_state_root_that_cannot_be_used(place: Place) -> None:
    """A state root that is a file, or below one, exits 6."""
    place.state_root.parent.mkdir(parents=True, exist_ok=True)
    place.state_root.write_text("")
    for root in (place.state_root, place.state_root / "below"):
        done, checks = doctor(place, {**KEYS, "CSA_STATE_DIR": str(root)})
        assert done.code == 6
        assert f"{place.state_root} is not a directory" in checks["state root"]["detail"]
    assert place.state_root.read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_state_root_that_is_not_writable(place: Place) -> None:
    """A state root without permission to write exits 6."""
    place.state_root.mkdir(parents=True, mode=0o500)
    assert doctor(place, KEYS)[0].code == 6


@pytest.mark.thorough
def test_shell_of_a_lost_session(place: Place) -> None:
    """Where the shell's variables name a session that is not there, runs are refused: doctor says so and exits 5."""
    done, checks = doctor(place, {**KEYS, "CSA_SESSION_ID": "01JH4QWERT1234567890ABCDEF"})
    assert done.code == 5
    assert "unset CSA_SESSION_ID" in checks["caller"]["next_step"]


@pytest.mark.thorough
def test_broken_adapter_is_named(place: Place) -> None:
    """A third party's adapter that cannot be loaded is a failure of its own, and keeps no run from working."""
    info = place.tmp / "packages" / "parrot-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[csa.adapters]\nparrot = parrot_adapter:Gone\n")
    done, checks = doctor(place, {**KEYS, "PYTHONPATH": str(info.parent)})
    assert done.code == 0
    assert "parrot" in checks["adapter"]["detail"]


@pytest.mark.thorough
def test_words_for_people(place: Place, no_tools: dict[str, str | None]) -> None:
    """In a pipe each check is a line without colour, its next step behind an arrow, and a verdict comes last."""
    done = place.run("doctor", env=KEYS)
    assert done.code == 0
    assert "\033" not in done.out
    assert [line for line in done.out.splitlines() if line and not line.startswith(" ")] == [
        "Setup",
        "Tools",
        "State",
        "System",
        done.out.splitlines()[-1],
    ]
    assert done.out.splitlines()[-1].startswith("Ready")
    done = place.run("doctor", env=no_tools)
    assert done.code == 7
    assert "→ npm install -g @openai/codex" in done.out
    assert done.out.splitlines()[-1] == "csa cannot run anything yet; fix: run."


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [80, 40])
def test_fits_the_terminal(place: Place, columns: int) -> None:
    """On a terminal it is wrapped to the width, and readable without colour."""
    place.codex("one")
    shown = on_terminal(place, "doctor", env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    lines = shown.replace("\r", "").splitlines()
    assert all(len(line) <= columns for line in lines if "/" not in line), shown  # a path is not broken
    assert "✓ config" in shown
    assert "\033" not in shown


def test_bad_words(place: Place) -> None:
    """Bad words are usage errors, with a suggestion."""
    assert place.run("doctor", "--timeout", "0").code == 2
    assert place.run("doctor", "--timeot", "3").err.endswith("hint: did you mean '--timeout'?\n")
