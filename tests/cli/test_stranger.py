"""Another implementation of the format at work in a session: csa sees it, and keeps its hands off."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csa.store import flocks
from tests.conftest import ForeignWriter
from tests.stranger import Turn, stranger
from tests.support import CSA, Place, snapshot

OLD = "01JH4QWERT1234567890ABCDEF"
WRITERS = [
    ("session", "delete", OLD),
    ("session", "delete", "--force", OLD),
    ("session", "delete", "--purge", "--force", OLD),
    ("run", "--tool", "codex", "--session", OLD, "go on"),
    ("run", "--tool", "claude-code", "--session", OLD, "go on"),
    ("run", "--steal", "--tool", "codex", "--session", OLD, "go on"),
    ("run", "--detach", "--tool", "codex", "--session", OLD, "go on"),
    ("run", "--tool", "codex", "--fork-from", OLD, "go on"),
    ("session", "compress", OLD),
    ("session", "rename", OLD, "other"),
    ("session", "describe", OLD, "other"),
    ("session", "pin", OLD),
    ("session", "repair", OLD),
    ("session", "repair", "--steal", OLD),
    ("session", "export", "-s", OLD, "-o", "out.tar.gz"),
    ("session", "kill", OLD),
    ("session", "kill", "--force", OLD),
]


@pytest.fixture(params=["its own session", "a session of csa's"])
def session(place: Place, write_foreign: ForeignWriter, request: pytest.FixtureRequest) -> Path:
    """A session in which the other program may work: its own, or one of csa's."""
    if request.param == "its own session":
        keys = {"provider_session_id": "t", "last_action_summary": "x", "last_exit_code": 0}
        return write_foreign(OLD, tools={"codex": keys}).root
    done = place.codex("one")
    shutil.copytree(place.session(done.session_id), place.session(OLD))
    state = place.session(OLD) / "state.toml"
    state.write_text(state.read_text().replace(done.session_id, OLD))
    shutil.rmtree(place.session(done.session_id))
    return place.session(OLD)


@pytest.fixture
def turn(session: Path) -> Iterator[Turn]:
    with stranger(session, "gemini-cli") as turn:
        yield turn


@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
def test_who_writes_is_refused(place: Place, session: Path, turn: Turn, words: tuple[str, ...]) -> None:
    """Every command that would write or end it is busy, names the process, and leaves every byte as it is."""
    before = snapshot(session)
    done = place.run(*words)
    assert done.code == 4, done.err
    assert f"PID {turn.pid}" in done.err
    assert "gemini-cli" in done.err
    assert snapshot(session) == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words", [("gc", "--days", "0"), ("session", "clean", "--days", "0"), ("kill", "--all", "--yes")]
)
def test_who_collects_passes_it_over(place: Place, session: Path, turn: Turn, words: tuple[str, ...]) -> None:
    """It is old, and stays."""
    before = snapshot(session)
    done = place.run(*words)
    assert (done.code, "Traceback" in done.err) == (4 if words[0] == "kill" else done.code, False)
    assert snapshot(session) == before
    turn.end()
    if words[0] != "kill" and place.state(OLD)["last_accessed"].year == 2024:
        place.run(*words)
        assert not session.exists()


@pytest.mark.thorough
def test_retired_and_moved(place: Place, session: Path) -> None:
    """Nor is it brought back, or taken along with a project that has moved, while the other program is there."""
    retired = place.store / "retired" / OLD
    assert place.run("session", "delete", OLD).code == 0
    with stranger(retired) as turn:
        before = snapshot(retired)
        done = place.run("session", "restore", OLD)
        assert (done.code, f"PID {turn.pid}" in done.err) == (4, True)
        assert snapshot(retired) == before
    assert place.run("session", "restore", OLD).code == 0
    place.tmp.joinpath("new").mkdir()
    with stranger(session):
        before = snapshot(session)
        done = place.run("session", "adopt", "--force", str(place.project), "--cd", str(place.tmp / "new"))
        assert OLD in done.out + done.err
        assert snapshot(session) == before


@pytest.mark.thorough
def test_readers_see_it(place: Place, session: Path, turn: Turn) -> None:
    """All that says what runs, says that it runs and who runs it; nothing is taken, nothing changes."""
    before = snapshot(session)
    alive = place.run("session", "is-alive", OLD)
    assert (alive.code, alive.out) == (0, f"alive: another program (gemini-cli, PID {turn.pid})\n")
    alive = place.run("is-alive", OLD, "--json").json
    assert (alive["session_id"], alive["state"], alive["another_program"]) == (OLD, "alive", True)
    assert (alive["tool"], alive["pid"], alive["turn"]) == ("gemini-cli", turn.pid, None)
    assert place.status(OLD) == "running"
    (row,) = place.run("ps", "--json").json
    assert (row["id"], row["tool"], row["pid"]) == (OLD, "gemini-cli", turn.pid)
    why = place.run("session", "why", OLD)
    assert f"PID {turn.pid}" in why.out
    assert "running" in why.out
    assert place.run("session", "why", OLD, "--json").json["another_program"]["pid"] == turn.pid
    assert f"PID {turn.pid}" in place.run("session", "info", OLD).out
    assert place.run("session", "info", OLD, "--json").json["running"]["pid"] == turn.pid
    waited = place.run("session", "wait", OLD, "--timeout", "0.1")
    assert waited.code == 4
    assert place.run("session", "attach", OLD).code == 4
    assert snapshot(session) == before
    turn.end()
    assert place.run("session", "is-alive", OLD).code == 1
    assert place.run("ps", "--json").json == []


RECORD = f"""meta_session_id = "{OLD}"
description = "Auth refactor"
project_path = "PROJECT"
created_at = "2024-02-06T10:00:00.123456789Z"
last_accessed = "2024-02-06T14:30:00.5Z"
turn_count = 4
phase = "tool_exhausted"
is_seed_candidate = false
identity_version = 1

[genealogy]
depth = 0
fork_of_session_id = "01JH4QWERT0000000000000000"

[context_status]
is_compacted = false

[total_token_usage]
input_tokens = 1000
output_tokens = 20
total_tokens = 1020
estimated_cost_usd = 0.5

[tools.codex]
last_action_summary = "Reviewed"
last_exit_code = 0
updated_at = "2024-02-06T14:30:00.5Z"

[task_context]
task_type = "review"
"""


@pytest.fixture
def strange(place: Place, write_foreign: ForeignWriter) -> Path:
    """A session with all that the other implementation writes."""
    return write_foreign(OLD, text=RECORD.replace("PROJECT", str(place.project))).root


def test_its_record_is_read_for_what_it_is(place: Place, strange: Path) -> None:
    """Its count of turns, its sums, its forks; a phase that csa does not know is shown, and no damage."""
    (listed,) = place.run("session", "list", "--json").json
    assert (listed["status"], listed["phase"], listed["turns"]) == ("succeeded", "tool_exhausted", 4)
    assert (listed["usage"]["input_tokens"], listed["usage"]["cost_usd"]) == (1000, 0.5)
    assert "tool_exhausted" in place.run("session", "info", OLD).out
    assert place.run("session", "info", OLD, "--json").json["fork_of"] == "01JH4QWERT0000000000000000"
    assert place.run("session", "rename", OLD, "auth").code == 0
    text = (strange / "state.toml").read_text()
    for line in RECORD.replace("PROJECT", str(place.project)).splitlines():
        assert line in text
    assert (place.status(OLD), place.run("session", "info", OLD, "--json").json["turns"]) == ("succeeded", 4)


@pytest.mark.thorough
def test_what_csa_adds_to_its_record_it_can_read(place: Place, strange: Path) -> None:
    """It puts a record aside in which a time is a TOML date, or a tool has no exit code; csa writes neither."""
    assert place.run("session", "pin", OLD).code == 0
    place.play(*place.hold())
    run = place.start("run", "--tool", "claude-code", "--session", OLD, "go on")
    place.wait_ready()
    running = place.state(OLD)
    place.release()
    assert run.wait().code == 0
    for record in (running, place.state(OLD)):
        assert all(isinstance(record[key], str) for key in ("created_at", "last_accessed"))
        assert all(
            isinstance(tool["updated_at"], str) and isinstance(tool["last_exit_code"], int)
            for tool in record["tools"].values()
        )
        assert (record["turns"], record["turn_count"], record["phase"]) == (5, 5, "active")


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        ("success", "succeeded", 0),
        ("failure", "failed", 1),
        ("interrupted", "cancelled", 1),
        ("timeout", "timed_out", 124),
        ("signal", "killed", 1),
        ("something new", "failed", 1),
    ],
)
@pytest.mark.parametrize("of_csa", [False, True])
def test_its_result_counts(place: Place, strange: Path, status: str, shown: str, code: int, *, of_csa: bool) -> None:
    """Where it ended a turn after csa's last one, that is the last one: for list, wait, result and all who ask."""
    if of_csa:
        assert place.run("run", "--tool", "codex", "--session", OLD, "go on").code == 0
    with stranger(strange) as turn:
        turn.end(summary="The answer.\nAll of it.\n", result={"status": status, "summary": "Done"})
    assert place.status(OLD) == shown
    waited = place.run("session", "wait", OLD)
    assert (waited.code, shown in waited.out) == (code, True)
    result = place.run("session", "result", OLD, "--json").json
    assert (result["status"], result["text"]) == (shown, "The answer.\nAll of it.\n")
    assert result["turn"] == (6 if of_csa else 4)
    assert place.run("session", "result", OLD).out.startswith("The answer.\n")
    assert place.run("session", "validate", OLD, "--json").code == 0
    assert place.run("session", "repair", OLD).code == 0
    assert place.run("session", "result", OLD, "--json").json["status"] == shown


@pytest.mark.thorough
def test_its_turn_is_kept_when_csa_goes_on(place: Place, strange: Path) -> None:
    """The next turn has the next number, and what the other program had answered is in the transcript."""
    with stranger(strange) as turn:
        turn.end(summary="The answer.", result={})
    done = place.run("run", "--tool", "codex", "--session", OLD, "go on", "--json")
    assert (done.code, done.json["turn"]) == (0, 5)
    assert place.run("session", "result", OLD, "--turn", "4").out == "The answer.\n"
    assert place.run("session", "result", OLD, "--json").json["turn"] == 5
    assert [event["seq"] for event in place.events(OLD)] == list(range(1, len(place.events(OLD)) + 1))


def test_an_answer_of_its_is_redacted(place: Place, strange: Path) -> None:
    """csa did not write it, so it may hold a secret of this environment."""
    with stranger(strange) as turn:
        turn.end(summary="the key is s3cr3t-value-of-it", result={})
    shown = place.run("session", "result", OLD, env={"SOME_API_KEY": "s3cr3t-value-of-it"})
    assert shown.out == "the key is [REDACTED]\n"


def test_full_text_where_there_is_no_summary(place: Place, strange: Path) -> None:
    """output/full.md is the answer then."""
    with stranger(strange) as turn:
        turn.end(summary="", result={})
    (strange / "output" / "full.md").write_text("All of it.")
    assert place.run("session", "result", OLD).out == "All of it.\n"


def test_an_end_that_nothing_tells_of_is_no_success(place: Place, write_foreign: ForeignWriter) -> None:
    """Its turns begin with exit code 0 and no summary; without a result nobody knows how they ended."""
    write_foreign(OLD, tools={"codex": {"last_action_summary": "", "last_exit_code": 0}})
    assert place.status(OLD) == "unknown"
    assert place.run("session", "wait", OLD).code == 4
    assert "no outcome" in place.run("session", "why", OLD).out
    assert place.run("session", "delete", OLD).code == 0


@pytest.mark.thorough
def test_events_without_a_turn(place: Place, strange: Path) -> None:
    """They are events: shown, sound, and numbered on from."""
    lines = ["message", "tool_call"]
    events = [
        f'{{"v":1,"seq":{seq},"ts":"2024-02-06T10:00:00Z","type":"{kind}","data":{{"text":"hi {seq}"}}}}\n'
        for seq, kind in enumerate(lines)
    ]
    (strange / "transcript.jsonl").write_text("".join(events))
    assert place.run("session", "validate", OLD).code == 0
    assert "hi 0" in place.run("session", "logs", OLD, "--json").out
    assert place.run("run", "--tool", "codex", "--session", OLD, "go on").code == 0
    seqs = [json.loads(line)["seq"] for line in (strange / "transcript.jsonl").read_text().splitlines()]
    assert seqs == list(range(len(seqs)))
    assert place.run("session", "validate", OLD).code == 0


MINIMAL = f"""meta_session_id = "{OLD}"
description = "(recovered from corrupt state)"
project_path = "(unknown)"
created_at = "2026-02-06T10:00:00Z"
last_accessed = "2026-02-06T10:00:00Z"
turn_count = TURNS

[genealogy]
depth = 0

[tools]
"""
ITS_TOOL = """
[tools.gemini-cli]
last_action_summary = "More"
last_exit_code = 0
updated_at = "2026-02-06T11:00:00Z"
"""


@pytest.mark.thorough
@pytest.mark.parametrize("goes_on", [False, True])
def test_a_record_that_it_has_put_aside_is_restored(place: Place, *, goes_on: bool) -> None:
    """It cannot read TOML's dates, and begins a minimal record; `repair` brings the whole one back."""
    session_id = place.codex("one", "--name", "auth").session_id
    session = place.session(session_id)
    before = (session / "state.toml").read_bytes()
    (session / "state.toml").rename(session / "state.toml.corrupt")
    minimal = MINIMAL.replace(OLD, session_id).replace("TURNS", str(int(goes_on))) + ITS_TOOL * goes_on
    (session / "state.toml").write_text(minimal)
    found = place.run("session", "validate", session_id)
    assert (found.code, "state.toml.corrupt" in found.out + found.err) == (6, True)
    tree = snapshot(session)
    assert "state.toml.corrupt" in place.run("session", "repair", "--dry-run", session_id).out
    assert snapshot(session) == tree
    assert place.run("session", "repair", session_id).code == 0
    state = place.state(session_id)
    assert (state["name"], state["turns"]) == ("auth", 1 + goes_on)
    assert set(state["tools"]) == ({"codex", "gemini-cli"} if goes_on else {"codex"})
    assert goes_on or (session / "state.toml").read_bytes() == before
    (kept,) = session.glob("backup/*/state.toml")
    assert kept.read_text() == minimal
    assert not (session / "state.toml.corrupt").exists()
    assert place.run("session", "validate", session_id).code == 0
    assert place.codex("two", "--session", "auth").code == 0


@pytest.mark.thorough
def test_its_configuration_is_passed_over(place: Place) -> None:
    """It has a .csa/config.toml of its own form in projects: a warning, and no error."""
    (place.project / ".csa").mkdir(exist_ok=True)
    file = place.project / ".csa" / "config.toml"
    file.write_text('schema_version = 1\n[project]\nname = "p"\n[tools.codex]\nenabled = true\n')
    done = place.codex("one")
    assert (done.code, done.err.count(f"warning: {file}")) == (0, 1)
    for words in (("config", "validate"), ("config", "show")):
        shown = place.run(*words)
        assert (shown.code, f"warning: {file}" in shown.err) == (0, True)
    check = {each["name"]: each for each in place.run("doctor", "--json").json["checks"]}["config"]
    assert (check["status"], str(file) in check["detail"]) == ("warn", True)
    file.write_text("max_deph = 1\n")
    assert place.run("run", "--tool", "codex", "one").code == 6


@pytest.mark.thorough
def test_doctor_names_its_store_and_its_command(place: Place) -> None:
    """Sessions that are looked for here may be there, and agents that call csa may call that program."""
    names = {each["name"] for each in place.run("doctor", "--json").json["checks"]}
    assert not names & {"other store", "command"}
    other = Path(place.env.get("XDG_STATE_HOME") or place.home / ".local/state") / "cli-sub-agent"
    other.mkdir(parents=True)
    command = place.tmp / "bin" / "csa"
    command.parent.mkdir()
    command.write_bytes(b"\x7fELF")
    command.chmod(0o755)
    done = place.run("doctor", "--json", env={"PATH": f"{command.parent}:{place.env['PATH']}"})
    checks = {each["name"]: each for each in done.json["checks"]}
    assert (checks["other store"]["status"], str(other) in checks["other store"]["detail"]) == ("warn", True)
    assert (checks["command"]["status"], str(command) in checks["command"]["detail"]) == ("warn", True)


def test_export_says_what_it_leaves_out(place: Place, strange: Path) -> None:
    """What that program keeps beside csa's files is in no archive."""
    (strange / "resume-target.toml").write_text("")
    (strange / "logs").mkdir()
    done = place.run("session", "export", "-s", OLD, "-o", str(place.tmp / "out.tar.gz"), "--json")
    assert done.code == 0
    assert [Path(each["what"]).name for each in done.json["left_out"]] == ["logs", "resume-target.toml"]
    assert place.run("session", "import", str(place.tmp / "out.tar.gz"), "--new-ids").code == 0


def test_no_time_of_creation(place: Place, write_foreign: ForeignWriter) -> None:
    """Then it is that of the id."""
    text = f'meta_session_id = "{OLD}"\nproject_path = "{place.project}"\n[genealogy]\ndepth = 0\n'
    write_foreign(OLD, text=text)
    (listed,) = place.run("session", "list", "--json").json
    assert (listed["created_at"], listed["created_at"]) == ("2025-01-09T05:16:37.018Z", listed["last_accessed"])
    assert place.run("session", "pin", OLD).code == 0


@pytest.mark.thorough
def test_a_session_that_stands_for_another(place: Place, write_foreign: ForeignWriter) -> None:
    """That program resumes a session under an id of its own: what is asked of that one, is asked of the session."""
    target = place.codex("one").session_id
    wrapper = write_foreign(OLD).root
    text = f'kind = "resume-wrapper"\ntarget_session_id = "{target}"\ncreated_at = "2026-02-06T10:00:00Z"\n'
    (wrapper / "resume-target.toml").write_text(text)
    assert place.run("session", "result", OLD, "--json").json["session_id"] == target
    assert place.run("session", "wait", OLD).code == 0
    assert place.run("session", "is-alive", OLD).code == 1
    assert target in place.run("session", "info", OLD).out
    with stranger(place.session(target)) as turn:
        assert place.run("session", "is-alive", OLD).out == f"alive: another program (codex, PID {turn.pid})\n"
    done = place.run("run", "--tool", "codex", "--session", OLD, "go on", "--json")
    assert (done.json["session_id"], done.json["turn"]) == (target, 2)
    assert place.run("session", "delete", OLD).code == 0
    assert place.session(target).exists()
    (place.store / "retired" / OLD / "resume-target.toml").write_text(text.replace(target, OLD))
    assert place.run("session", "result", OLD).code == 3


UNSHARED = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def can_unshare() -> bool:
    return subprocess.run([*UNSHARED, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.thorough
@pytest.mark.skipif(not can_unshare(), reason="needs a pid namespace of its own")
def test_where_its_lock_is_not_shown(place: Place, strange: Path) -> None:
    """In another pid namespace the kernel does not show it: unknown to readers, and still in the way of writers."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [*UNSHARED, str(CSA), *words]
        return subprocess.run(command, env=place.env, cwd=place.project, capture_output=True, text=True, check=False)

    with stranger(strange, "gemini-cli") as turn:
        seen = run("session", "is-alive", OLD)
        assert (seen.returncode, seen.stdout) == (4, f"unknown: another program (gemini-cli, PID {turn.pid})\n")
        assert "not visible from here" in run("session", "why", OLD).stdout
        assert run("session", "wait", OLD).returncode == 4
        assert run("session", "kill", OLD).returncode == 4
        before = (strange / "state.toml").read_bytes()
        for words in (("session", "delete", "--force", OLD), ("session", "pin", OLD), ("session", "repair", OLD)):
            done = run(*words)
            assert (done.returncode, "gemini-cli" in done.stderr) == (4, True), done.stderr
        assert (strange / "state.toml").read_bytes() == before
        turn.end(result={})
    assert run("session", "is-alive", OLD).stdout == "not alive\n"
    with stranger(strange, "gemini-cli"):
        pass  # killed: nothing tells of its end
    assert run("session", "is-alive", OLD).returncode == 4
    assert run("session", "delete", OLD).returncode == 0


@pytest.mark.thorough
def test_in_a_long_list(place: Place, write_foreign: ForeignWriter) -> None:
    """Of many sessions the one in which the other program works is found."""
    ids = [f"01JH4QWERT12345678900000{number:02}" for number in range(40)]
    for session_id in ids:
        write_foreign(session_id, tools={"codex": {"last_exit_code": 0}}).session_lock.parent.mkdir()
        (place.session(session_id) / "locks" / "codex.lock").touch()
    with stranger(place.session(ids[7])) as turn:
        listed = place.run("session", "list", "--json").json
        assert [each["id"] for each in listed if each["status"] == "running"] == [ids[7]]
        assert [row["pid"] for row in place.run("ps", "--json").json] == [turn.pid]
        place.run("session", "clean", "--days", "0")
        assert place.ids() == [ids[7]]


@pytest.mark.thorough
def test_a_table_that_lacks_its_lock(strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel hands out /proc/locks in pieces, and may miss a lock: the process that the lock file names has it."""
    table = tmp_path / "locks"
    table.write_text("1: FLOCK  ADVISORY  WRITE 1 00:01:1 0 EOF\n")
    monkeypatch.setattr(flocks, "_LOCKS", str(table))
    monkeypatch.setattr(flocks, "_last", [])
    monkeypatch.setattr(flocks._Table, "asked", 0)  # noqa: SLF001  # a command that looks at one session
    with stranger(strange, "gemini-cli") as turn:
        found = flocks.find_stranger(str(strange))
        assert found
        assert (found.tool, found.pid, found.is_seen) == ("gemini-cli", turn.pid, True)
        turn.end(result={})
    assert flocks.find_stranger(str(strange)) is None
