"""The fake tools keep to the facts known of the real ones, and their scripts fail loudly."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

BIN = Path(__file__).parents[2] / "adapters" / "csa_fakes" / "bin"
CODEX = ["codex", "exec", "--json"]
CLAUDE = ["claude", "-p", "--output-format", "stream-json", "--verbose"]
GEMINI = ["gemini", "--skip-trust", "--output-format", "stream-json"]
BOTH = pytest.mark.parametrize("command", [CODEX, CLAUDE], ids=["codex", "claude"])
UNKNOWN = "01a1f83a-accd-7db1-ada4-435d9ff915d3"
MARK = "FAKE_TEST_MARK"

pytestmark = pytest.mark.thorough

Json = dict[str, Any]
Steps = list[list[Any]]


class Ended:
    """What a fake left behind."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr
        self.events: list[Json] = [json.loads(line) for line in stdout.splitlines() if line.startswith('{"')]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def last(self) -> Json:
        return self.events[-1]

    @property
    def id(self) -> str:
        return str(self.events[0].get("thread_id") or self.events[0]["session_id"])

    @property
    def answer(self) -> str:
        if self.last["type"] == "result":
            return str(self.last["result"])
        return [str(event["item"]["text"]) for event in self.events if event.get("item", {}).get("text")][-1]


class Fakes:
    """Runs fakes in a place of their own."""

    def __init__(self, place: Path, mark: str) -> None:
        self.place = place
        (place / "project" / ".git").mkdir(parents=True)
        (place / "project" / ".git" / "HEAD").touch()
        (place / "home").mkdir()
        path = f"{BIN}:{Path(sys.executable).parent}:/usr/bin:/bin"
        self.env = {"PATH": path, "HOME": str(place / "home"), MARK: mark, "IS_SANDBOX": "1"}

    def write_script(self, *rules: Json, strict: bool = False) -> None:
        script = self.place / "script.json"
        script.write_text(json.dumps({"rules": list(rules), "strict": strict}))
        self.env["FAKE_TOOL_SCRIPT"] = str(script)

    def start(self, argv: list[str], **options: Any) -> subprocess.Popen[str]:
        kept: Json = {"env": self.env, "cwd": self.place / "project", "text": True, **options}
        for stream in ("stdin", "stdout", "stderr"):
            kept.setdefault(stream, subprocess.PIPE)
        return subprocess.Popen(argv, **kept)

    def run(self, argv: list[str], prompt: str = "", **options: Any) -> Ended:
        with self.start(argv, **options) as process:
            stdout, stderr = process.communicate(prompt, timeout=20)
        return Ended(process.returncode, stdout, stderr)

    def play(self, argv: list[str], *steps: list[Any], **options: Any) -> Ended:
        self.write_script({"match": "", "do": list(steps)})
        return self.run(argv, "go", **options)


def processes_with(mark: str) -> list[int]:
    """Find the processes that inherited the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture
def fakes(tmp_path: Path) -> Iterator[Fakes]:
    mark = uuid.uuid4().hex
    yield Fakes(tmp_path, mark)
    wait_until(lambda: not processes_with(mark))  # the kernel takes a moment to clear away what was killed


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for what has no file descriptor to wait on."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# codex


def test_codex_answers_with_an_echo_and_names_its_thread_first(fakes: Fakes) -> None:
    """Without a script, codex echoes the prompt between the first line with a UUIDv7 and its usage."""
    ended = fakes.run([*CODEX, "-"], "hello")
    assert ended.types == ["thread.started", "turn.started", "item.completed", "turn.completed"]
    assert uuid.UUID(ended.id).version == 7
    assert ended.answer == "FAKE ECHO: hello [turns=1]"
    assert (ended.code, ended.stderr) == (0, "")


def test_codex_resume_keeps_the_thread_and_adds_up_usage(fakes: Fakes) -> None:
    """A resumed thread counts on its turns and reports the usage of the whole thread."""
    first = fakes.run([*CODEX, "-"], "one")
    second = fakes.run([*CODEX, "resume", first.id, "-"], "two")
    assert (second.id, second.answer) == (first.id, "FAKE ECHO: two [turns=2]")
    assert second.last["usage"]["input_tokens"] == 2 * first.last["usage"]["input_tokens"]


def test_codex_fork_copies_the_thread(fakes: Fakes) -> None:
    """A fork is a new thread that starts with the turns and totals of the old one."""
    first = fakes.run([*CODEX, "-"], "one")
    fork = fakes.run([*CODEX, "fork", first.id, "-"], "two")
    assert fork.id != first.id
    assert fork.answer == "FAKE ECHO: two [turns=2]"
    assert fork.last["usage"]["input_tokens"] > first.last["usage"]["input_tokens"]


def test_codex_refuses_an_unknown_thread(fakes: Fakes) -> None:
    """An id without a rollout fails with exit code 1 and nothing on stdout."""
    ended = fakes.run([*CODEX, "resume", UNKNOWN, "-"], "x")
    assert (ended.code, ended.stdout) == (1, "")
    assert f"no rollout found for thread id {UNKNOWN} (code -32600)" in ended.stderr


def test_codex_takes_what_is_no_id_for_a_new_thread(fakes: Fakes) -> None:
    """Resuming something that is no UUID silently starts a new thread."""
    ended = fakes.run([*CODEX, "resume", "not-a-session", "-"], "x")
    assert (ended.code, ended.answer) == (0, "FAKE ECHO: x [turns=1]")


def test_codex_allows_one_writer(fakes: Fakes) -> None:
    """While a resumed turn runs, another resume of the thread is refused, and the first is not disturbed."""
    gate, busy = fakes.place / "gate", fakes.place / "busy"
    fakes.write_script({"match": "slow", "do": [["touch", str(busy)], ["wait-file", str(gate)], ["say", "late"]]})
    thread = fakes.run([*CODEX, "-"], "one").id
    with fakes.start([*CODEX, "resume", thread, "slow"]) as slow:
        wait_until(busy.exists)
        second = fakes.run([*CODEX, "resume", thread, "-"], "quick")
        gate.touch()
        output = slow.communicate(timeout=20)[0]
    assert (second.code, second.stdout) == (1, "")
    assert f"thread {thread} already has an active writer" in second.stderr
    assert "late" in output


def test_codex_ephemeral_remembers_nothing(fakes: Fakes) -> None:
    """A thread begun with --ephemeral cannot be resumed."""
    thread = fakes.run([*CODEX, "--ephemeral", "-"], "x").id
    assert "no rollout found" in fakes.run([*CODEX, "resume", thread, "-"], "x").stderr


def test_codex_wants_a_repository(fakes: Fakes) -> None:
    """Outside a git repository codex fails, unless told to skip the check or all of them."""
    refused = fakes.run([*CODEX, "-"], "x", cwd="/")
    assert (refused.code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Not inside a trusted directory")
    for flag in ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"):
        assert fakes.run([*CODEX, flag, "-"], "x", cwd="/").code == 0


def test_codex_home_must_exist_when_named(fakes: Fakes) -> None:
    """A CODEX_HOME that does not exist is an error, not a directory to make."""
    fakes.env["CODEX_HOME"] = str(fakes.place / "none")
    ended = fakes.run([*CODEX, "-"], "x")
    assert ended.code == 1
    assert "CODEX_HOME points to" in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense", "x"],
        ["resume", "-s", "read-only", "x"],
        ["resume", "-C", "/tmp", "x"],
        ["-a", "never", "x"],
        ["-s", "everything", "x"],
        ["one", "two"],
        ["-m"],
        ["fork"],
    ],
    ids=" ".join,
)
def test_codex_refuses_misplaced_arguments(fakes: Fakes, arguments: list[str]) -> None:
    """What clap does not know at that place ends with exit code 2."""
    ended = fakes.run([*CODEX, *arguments])
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: ")


def test_codex_takes_options_where_they_belong(fakes: Fakes) -> None:
    """Approval belongs to the root command, sandbox and directory before resume; overrides go anywhere."""
    thread = fakes.run(["codex", "-a", "never", "exec", "--json", "-"], "one").id
    ended = fakes.run([*CODEX, "-s", "workspace-write", "-C", ".", "resume", "-c", 'model="x"', thread, "-"], "two")
    assert ended.code == 0
    assert ended.types[1] == "item.completed"  # the warning about an unknown model
    assert ended.answer == "FAKE ECHO: two [turns=2]"


def test_codex_waits_for_the_end_of_stdin(fakes: Fakes) -> None:
    """Even with a prompt as an argument codex reads stdin to its end, and appends it."""
    with fakes.start([*CODEX, "argued"]) as process:
        assert process.stderr
        assert "Reading additional input" in process.stderr.readline()
        assert process.poll() is None
        output = process.communicate("piped\n", timeout=20)[0]
    assert "argued\\n\\n<stdin>\\npiped\\n</stdin>" in output


def test_codex_app_server_compacts(fakes: Fakes) -> None:
    """A compaction over JSON-RPC is acknowledged at once and proven by its completed item."""
    thread = fakes.run([*CODEX, "-"], "one").id
    requests: list[Json] = [
        {"id": 1, "method": "initialize", "params": {}},
        {"method": "initialized"},
        {"id": 2, "method": "thread/compact/start", "params": {"threadId": thread}},
        {"id": 3, "method": "thread/resume", "params": {"threadId": thread}},
        {"id": 4, "method": "thread/compact/start", "params": {"threadId": thread}},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    messages = [json.loads(line) for line in fakes.run(["codex", "app-server"], lines).stdout.splitlines()]
    assert {m["id"]: "error" in m for m in messages if "id" in m} == {1: False, 2: True, 3: False, 4: False}
    assert [m["method"] for m in messages[-4:]] == ["turn/started", "item/started", "item/completed", "turn/completed"]
    fakes.write_script({"match": "/compact", "do": [["compact", "no network"]]})
    failed = fakes.run(["codex", "app-server"], lines).stdout.splitlines()
    assert json.loads(failed[-1])["params"]["turn"]["status"] == "failed"
    assert not any("item/completed" in line for line in failed)


# claude


def test_claude_names_its_session_in_every_line(fakes: Fakes) -> None:
    """Every line of claude carries the chosen id, and the result line does not begin with its type."""
    chosen = str(uuid.uuid4())
    ended = fakes.run([*CLAUDE, "--session-id", chosen], "hello")
    assert ended.types == ["system", "assistant", "result"]
    assert {event["session_id"] for event in ended.events} == {chosen}
    assert next(iter(ended.last)) != "type"
    assert ended.answer == "FAKE ECHO: hello [turns=1]"


def test_claude_reports_tokens_of_the_run_and_cost_of_the_session(fakes: Fakes) -> None:
    """Tokens count for the run alone, cost and modelUsage for the session so far."""
    first = fakes.run(CLAUDE, "one")
    second = fakes.run([*CLAUDE, "--resume", first.id], "two")
    assert (second.id, second.answer) == (first.id, "FAKE ECHO: two [turns=2]")
    assert second.last["usage"] == first.last["usage"]
    assert second.last["total_cost_usd"] == pytest.approx(2 * first.last["total_cost_usd"])
    (models,) = second.last["modelUsage"].values()
    assert models["inputTokens"] == 2 * first.last["usage"]["input_tokens"]


def test_claude_forks_under_a_chosen_id(fakes: Fakes) -> None:
    """A fork has the history of the old session and the id that was asked for."""
    first, chosen = fakes.run(CLAUDE, "one").id, str(uuid.uuid4())
    fork = fakes.run([*CLAUDE, "--resume", first, "--fork-session", "--session-id", chosen], "two")
    assert (fork.id, fork.answer) == (chosen, "FAKE ECHO: two [turns=2]")


def test_claude_refuses_an_id_in_use(fakes: Fakes) -> None:
    """A session id can be chosen once."""
    session = fakes.run(CLAUDE, "one").id
    ended = fakes.run([*CLAUDE, "--session-id", session], "two")
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr == f"Error: Session ID {session} is already in use.\n"


def test_claude_says_one_line_about_an_unknown_session(fakes: Fakes) -> None:
    """An unknown id gives one result line without an init, and the same text on stderr."""
    ended = fakes.run([*CLAUDE, "--resume", UNKNOWN], "x")
    assert (ended.code, ended.types, ended.id) == (1, ["result"], UNKNOWN)
    assert ended.last["errors"] == [ended.stderr.strip()]


def test_claude_loses_a_turn_of_two_at_once(fakes: Fakes) -> None:
    """Nothing stops two resumes of one session; both succeed, and one turn is lost."""
    gate, busy = fakes.place / "gate", fakes.place / "busy"
    fakes.write_script({"match": "slow", "do": [["touch", str(busy)], ["wait-file", str(gate)], ["say", "late"]]})
    session = fakes.run(CLAUDE, "one").id
    with fakes.start([*CLAUDE, "--resume", session, "slow"], stdin=subprocess.DEVNULL) as slow:
        wait_until(busy.exists)
        assert fakes.run([*CLAUDE, "--resume", session], "quick").code == 0
        gate.touch()
        slow.communicate(timeout=20)
    assert slow.returncode == 0
    assert fakes.run([*CLAUDE, "--resume", session], "next").answer == "FAKE ECHO: next [turns=3]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output-format", "stream-json"], "requires --verbose"),
        (["--nonsense"], "error: unknown option '--nonsense'"),
        (["--output-format", "xml"], "Allowed choices are text, json, stream-json."),
        (["--session-id", "x"], "Invalid session ID"),
        (["--resume", UNKNOWN, "--session-id", UNKNOWN], "also needs --fork-session"),
        (["--resume", "my title"], "is not a UUID and does not match any session title"),
    ],
)
def test_claude_refuses_bad_arguments(fakes: Fakes, arguments: list[str], message: str) -> None:
    """Every usage error of claude ends with exit code 1."""
    ended = fakes.run(["claude", "-p", *arguments], "x")
    assert ended.code == 1
    assert message in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="the refusal is for root")
@pytest.mark.parametrize("flags", [["--dangerously-skip-permissions"], ["--permission-mode", "bypassPermissions"]])
def test_claude_does_not_bypass_permissions_as_root(fakes: Fakes, flags: list[str]) -> None:
    """Only IS_SANDBOX=1, in exactly this spelling, lets root bypass permissions."""
    assert fakes.run([*CLAUDE, *flags], "x").code == 0
    fakes.env["IS_SANDBOX"] = "yes"
    assert fakes.run([*CLAUDE, *flags], "x").code == 1


def test_claude_fails_with_the_subtype_success(fakes: Fakes) -> None:
    """An API error shows in is_error, the status and the exit code, never in the subtype."""
    ended = fakes.play(CLAUDE, ["retry", "auth", 1], ["fail", "auth"])
    assert ended.events[1]["subtype"] == "api_retry"
    assert (ended.last["subtype"], ended.last["is_error"], ended.last["api_error_status"]) == ("success", True, 401)
    assert ended.code == 1


def test_claude_lists_denied_permissions(fakes: Fakes) -> None:
    """A denied tool is an event, a failed tool result and an entry in the result, and the run succeeds."""
    ended = fakes.play(CLAUDE, ["deny", "Bash", "rm x"], ["say", "could not"])
    assert [event.get("subtype") for event in ended.events] == [
        "init",
        None,
        "permission_denied",
        None,
        None,
        "success",
    ]
    assert ended.last["permission_denials"][0]["tool_input"] == {"command": "rm x"}
    assert ended.code == 0


def test_claude_compacts_once(fakes: Fakes) -> None:
    """A compaction is proven by its boundary; a second one fails, though everything else looks like success."""
    session = fakes.run(CLAUDE, "one").id
    first, second = (fakes.run([*CLAUDE, "--resume", session], "/compact") for _ in range(2))
    assert "compact_boundary" in first.stdout
    assert "compact_boundary" not in second.stdout
    assert second.events[1]["compact_error"] == "Not enough messages to compact."
    assert (second.code, second.last["is_error"], second.last["subtype"]) == (0, False, "success")
    assert "No messages to compact" in fakes.run(CLAUDE, "/compact").stdout


def test_claude_prints_the_answer_alone_unless_asked(fakes: Fakes) -> None:
    """The default format is the answer as text, `json` the result line."""
    assert fakes.run(["claude", "-p"], "x").stdout == "FAKE ECHO: x [turns=1]\n"
    assert fakes.run(["claude", "-p", "--output-format", "json"], "x").types == ["result"]


# Both, and the script


@pytest.mark.parametrize(("tool", "version"), [("codex", "codex-cli 0.169.0"), ("claude", "2.1.328 (Claude Code)")])
def test_version(fakes: Fakes, tool: str, version: str) -> None:
    """The version is the real tool's, word for word."""
    assert fakes.run([tool, "--version"]).stdout == version + "\n"


@BOTH
def test_runs_anywhere_through_a_link(fakes: Fakes, command: list[str]) -> None:
    """A link from elsewhere works, with nothing in the environment but a PATH."""
    (fakes.place / "link").symlink_to(BIN / command[0])
    env = {"PATH": fakes.env["PATH"], "HOME": fakes.env["HOME"]}
    assert fakes.run([str(fakes.place / "link"), *command[1:]], "x", env=env).code == 0


@pytest.mark.parametrize(("command", "variable"), [(CODEX, "CODEX_THREAD_ID"), (CLAUDE, "CLAUDE_CODE_SESSION_ID")])
def test_commands_are_really_run(fakes: Fakes, command: list[str], variable: str) -> None:
    """A command knows its provider session, leads a kernel session of its own, and its result is shown."""
    ended = fakes.play(command, ["run", f"cut -d' ' -f1,6 /proc/self/stat; echo ${variable}; exit 3"])
    shown = ended.events[-2]
    text = shown["item"]["aggregated_output"] if "item" in shown else shown["message"]["content"][0]["content"]
    numbers, own_id = text.split("\n")[-3:-1] if "item" in shown else text.split("\n")[-2:]
    assert own_id == ended.id
    assert len(set(numbers.split())) == 2  # `cut` is a child of the session's leader
    assert ended.code == 0
    assert "3" in str(shown["item"]["exit_code"] if "item" in shown else text)


@BOTH
def test_commands_run_at_once(fakes: Fakes, command: list[str]) -> None:
    """Parallel commands wait for one another, so they run at the same time; all calls are shown first."""
    ours, theirs = (fakes.place / name for name in ("ours", "theirs"))
    waits = [
        f"touch {mine}; until [ -e {other} ]; do sleep 0.01; done" for mine, other in ((ours, theirs), (theirs, ours))
    ]
    ended = fakes.play(command, ["run-parallel", waits])
    kinds = ended.types[-5:-1]
    assert kinds in (["item.started"] * 2 + ["item.completed"] * 2, ["assistant"] * 2 + ["user"] * 2)


@pytest.mark.parametrize(("command", "code", "survives"), [(CODEX, -signal.SIGTERM, True), (CLAUDE, 143, False)])
def test_term_and_what_it_leaves(fakes: Fakes, command: list[str], code: int, survives: bool) -> None:  # noqa: FBT001
    """SIGTERM kills codex but not the grandchildren of its shell; claude kills them all before it exits."""
    pids = fakes.place / "pids"
    shell = f"nohup sleep 600 >/dev/null 2>&1 & echo $! $$ > {pids}.draft; mv {pids}.draft {pids}; wait"
    fakes.write_script({"match": "", "do": [["run", shell]]})
    with fakes.start(command) as tool:
        pass_prompt(tool)
        wait_until(pids.exists)
        grandchild, leader = (int(pid) for pid in pids.read_text().split())
        tool.terminate()
        tool.communicate(timeout=20)
    assert tool.returncode == code
    wait_until(lambda: has_ended(leader))
    assert has_ended(grandchild) is not survives
    if survives:
        os.kill(grandchild, signal.SIGKILL)
        wait_until(lambda: has_ended(grandchild))


def pass_prompt(tool: subprocess.Popen[str]) -> None:
    if tool.stdin:
        tool.stdin.write("go")
        tool.stdin.close()
        tool.stdin = None


@pytest.mark.parametrize(
    ("command", "code", "last"), [([*CODEX, "-"], 1, "turn.started"), (CLAUDE, 0, "user")], ids=["codex", "claude"]
)
def test_interruption_between_calls(fakes: Fakes, command: list[str], code: int, last: str) -> None:
    """SIGINT while the model thinks ends without a typed end: codex with 1, claude with 0."""
    fakes.write_script({"match": "", "do": [["emit", "ready"], ["sleep", 600]]})
    ended = interrupt(fakes, command, lambda line: line == "ready\n")
    assert (ended.code, ended.types[-1]) == (code, last)


@pytest.mark.parametrize(
    ("command", "code", "last"), [([*CODEX, "-"], 1, "item.started"), (CLAUDE, 0, "result")], ids=["codex", "claude"]
)
def test_interruption_of_a_command(fakes: Fakes, command: list[str], code: int, last: str) -> None:
    """SIGINT during a command kills it; claude then says a failed result and exits with 0 all the same."""
    marker = fakes.place / "running"
    fakes.write_script({"match": "", "do": [["run", f"touch {marker}; nohup sleep 600 & wait"]]})
    ended = interrupt(fakes, command, lambda _line: marker.exists())
    assert (ended.code, ended.types[-1]) == (code, last)
    if last == "result":
        assert (ended.last["is_error"], ended.last["terminal_reason"]) == (True, "aborted_tools")


def interrupt(fakes: Fakes, command: list[str], is_time: Callable[[str], bool]) -> Ended:
    """Send SIGINT once a line, or what became of it, says so."""
    with fakes.start(command) as tool:
        pass_prompt(tool)
        assert tool.stdout
        lines = []
        for line in tool.stdout:
            lines.append(line)
            if is_time(line) or '"item.started"' in line or '"tool_use"' in line:
                break
        wait_until(lambda: is_time(lines[-1]))
        tool.send_signal(signal.SIGINT)
        assert tool.stderr
        rest, stderr = tool.stdout.read(), tool.stderr.read()  # communicate() would lose lines that were read ahead
        tool.wait(timeout=20)
    return Ended(tool.returncode, "".join(lines) + rest, stderr)


@BOTH
@pytest.mark.parametrize(
    "step",
    [
        ["expect-arg", "--nonsense"],
        ["expect-arg", "--json", "yes"],
        ["expect-no-arg", "LAST"],
        ["expect-env", "HOME", None],
        ["expect-env", "NONSENSE", "1"],
        ["expect-stdin", "stop"],
        ["expect-cwd", "/"],
        ["wait-file", "/proc/nowhere", 0],
        ["dance"],
        ["say"],
        ["say", 1],
        ["fail", "softly"],
    ],
    ids=str,
)
def test_a_script_that_is_not_met_fails_loudly(fakes: Fakes, command: list[str], step: list[Any]) -> None:
    """A failed expectation and a step that does not exist end with exit code 70 and a message."""
    ended = fakes.play(command, [command[-1] if word == "LAST" else word for word in step])
    assert ended.code == 70
    assert ended.stderr.splitlines()[-1].startswith(f"fake {command[0]}: expected ")


@BOTH
def test_a_script_that_is_met_goes_on(fakes: Fakes, command: list[str]) -> None:
    """Expectations that hold say nothing."""
    steps: Steps = [
        ["expect-arg", command[-1]],
        ["expect-no-arg", "--nonsense"],
        ["expect-env", "NONSENSE", None],
        ["expect-env", "HOME", fakes.env["HOME"]],
        ["expect-stdin", "go"],
        ["expect-cwd", str(fakes.place / "project")],
        ["say", "fine"],
    ]
    assert fakes.play(command, *steps).answer == "fine"


@BOTH
def test_strict_scripts_answer_no_strangers(fakes: Fakes, command: list[str]) -> None:
    """With `strict`, a prompt that no rule matches is a loud failure before any event."""
    fakes.write_script({"match": "known", "do": []}, strict=True)
    assert fakes.run(command, "known").code == 0
    stranger = fakes.run(command, "unknown"[:4])
    assert (stranger.code, stranger.stdout) == (70, "")


def test_rules_can_be_for_a_tool_and_a_turn(fakes: Fakes) -> None:
    """The first rule wins that fits prompt, tool and turn."""
    fakes.write_script(
        {"match": "go", "tool": "claude-code", "do": [["say", "claude"]]},
        {"match": "go", "turn": 2, "do": [["say", "again"]]},
        {"match": "go", "do": [["say", "first"]]},
    )
    first = fakes.run(CODEX, "go")
    assert first.answer == "first"
    assert fakes.run([*CODEX, "resume", first.id, "-"], "go").answer == "again"
    assert fakes.run(CLAUDE, "go").answer == "claude"


@BOTH
def test_raw_output_comes_as_it_is(fakes: Fakes, command: list[str]) -> None:
    """Raw lines, parts of lines and stderr are passed through, before the first line of the tool if so wished."""
    steps: Steps = [["emit", "noise"], ["start"], ["emit", {"type": "odd"}], ["stderr", "hm"], ["emit-partial", "{"]]
    fakes.write_script({"match": "", "start": False, "do": [*steps, ["exit", 9]]})
    ended = fakes.run(command, "go")
    assert ended.stdout.startswith("noise\n{")
    assert ended.stdout.endswith('{"type": "odd"}\n{')
    assert ended.stderr.endswith("hm\n")
    assert ended.code == 9


@BOTH
def test_large_and_many_events(fakes: Fakes, command: list[str]) -> None:
    """A tool output can have megabytes, and events can come by the thousand; every line is whole."""
    ended = fakes.play(command, ["emit-bytes", 3_000_000, "y"], ["emit-many", 2000], ["say", "end"])
    assert ended.stdout.count("y" * 3_000_000) == 1
    assert len(ended.events) == len(ended.stdout.splitlines()) == 2000 + 2 + (4 if command is CODEX else 3)
    assert ended.answer == "end"


@BOTH
def test_a_finished_tool_can_stay(fakes: Fakes, command: list[str]) -> None:
    """After a typed end the fake may ignore SIGTERM and stay until it is killed."""
    with fakes.start(command) as tool:
        tool.communicate("default")
    fakes.write_script(
        {"match": "", "do": [["say", "x"], ["finish"], ["ignore-term"], ["emit", "end"], ["sleep", 600]]}
    )
    with fakes.start(command) as tool:
        pass_prompt(tool)
        assert tool.stdout
        lines = list(iter(tool.stdout.readline, "end\n"))
        tool.terminate()
        assert tool.poll() is None
        tool.kill()
    assert json.loads(lines[-1])["type"] in ("turn.completed", "result")


@BOTH
def test_an_end_can_be_missing(fakes: Fakes, command: list[str]) -> None:
    """The typed end can be left out, and the fake can die of a signal."""
    quiet = fakes.play(command, ["say", "x"], ["no-finish"])
    assert quiet.code == 0
    assert quiet.types[-1] not in ("turn.completed", "result")
    assert fakes.play(command, ["signal-self", "KILL"]).code == -signal.SIGKILL


@BOTH
def test_a_grandchild_can_hold_the_output(fakes: Fakes, command: list[str]) -> None:
    """A grandchild outlives the fake and keeps its output open until it is killed."""
    pid_file = fakes.place / "pid"
    options = {"hold_stdout": True, "pid_file": str(pid_file)}
    fakes.write_script({"match": "", "do": [["spawn-grandchild", "setsid sleep 600", options], ["say", "x"]]})
    with fakes.start(command) as tool:
        pass_prompt(tool)
        tool.wait(timeout=20)
        pid = int(pid_file.read_text())
        assert not has_ended(pid)
        os.kill(pid, signal.SIGKILL)
        assert tool.stdout
        tool.stdout.read()
    wait_until(lambda: has_ended(pid))


@BOTH
def test_the_surroundings_can_be_written_down(fakes: Fakes, command: list[str]) -> None:
    """Environment, arguments and stdin are recorded in files."""
    files = {name: fakes.place / name for name in ("env", "argv", "stdin")}
    fakes.play(command, *[[f"write-{name}", str(path)] for name, path in files.items()])
    assert json.loads(files["env"].read_text())["HOME"] == fakes.env["HOME"]
    assert json.loads(files["argv"].read_text()) == command[1:]
    assert files["stdin"].read_text() == "go"


# opencode


OPENCODE = ["opencode", "run", "--format", "json"]


def test_opencode_answers_in_steps_and_remembers(fakes: Fakes) -> None:
    """Every line has the session; a resume counts on."""
    first = fakes.run(OPENCODE, "one")
    assert first.types == ["step_start", "text", "step_finish"]
    session = first.events[0]["sessionID"]
    second = fakes.run([*OPENCODE, "--session", session], "two")
    assert second.events[1]["part"]["text"] == "FAKE ECHO: two [turns=2]"
    assert {event["sessionID"] for event in second.events} == {session}


def test_opencode_run_tells_a_call_once_and_no_retry(fakes: Fakes) -> None:
    """When it has ended; a call's end begins another step."""
    ended = fakes.play(OPENCODE, ["retry", "500", 1], ["call", "false", "no", 1], ["say", "done"])
    assert ended.types == ["step_start", "tool_use", "step_finish", "step_start", "text", "step_finish"]
    assert ended.events[1]["part"]["state"]["metadata"]["exit"] == 1
    assert [event["part"]["reason"] for event in (ended.events[2], ended.last)] == ["tool-calls", "stop"]


@pytest.mark.parametrize("kind", ["loop", "max-turns", "hook", "hook-stop"])
def test_gemini_calls_a_turn_that_was_broken_off_a_success(fakes: Fakes, kind: str) -> None:
    """Only a line before the result tells, and of a hook that stops it not even that."""
    ended = fakes.play(GEMINI, ["fail", kind])
    assert ended.types == ["init", "message", *(["error"] if kind != "hook-stop" else []), "result"]
    assert (ended.code, ended.last["status"], ended.last["stats"]["models"]) == (0, "success", {})


def test_codex_completes_a_turn_that_a_hook_refuses(fakes: Fakes) -> None:
    """With nothing used, and nothing said."""
    ended = fakes.play(CODEX, ["fail", "hook"])
    assert (ended.code, ended.types) == (0, ["thread.started", "turn.started", "turn.completed"])
    assert ended.last["usage"]["input_tokens"] == 0


def test_opencode_fails_with_a_typed_error(fakes: Fakes) -> None:
    """One line, and exit code 1."""
    ended = fakes.play(OPENCODE, ["fail", "401"])
    assert (ended.code, ended.types) == (1, ["error"])
    assert ended.last["error"]["data"]["statusCode"] == 401


def test_opencode_refuses_an_unknown_session(fakes: Fakes) -> None:
    """Only stderr says so."""
    ended = fakes.run([*OPENCODE, "--session", "ses_none"], "x")
    assert (ended.code, ended.stdout, ended.stderr) == (1, "", "Error: Session not found\n")


def test_opencode_resumed_elsewhere_is_mute_and_does_not_end(fakes: Fakes) -> None:
    """As the real one: what csa's bridge is for."""
    session = fakes.run(OPENCODE, "one").events[0]["sessionID"]
    done, elsewhere = fakes.place / "done", fakes.place / "elsewhere"
    elsewhere.mkdir()
    fakes.write_script({"match": "", "do": [["say", "heard by nobody"], ["touch", str(done)]]})
    with fakes.start([*OPENCODE, "--session", session, "--dir", str(elsewhere)]) as tool:
        pass_prompt(tool)
        wait_until(done.exists)
        assert tool.poll() is None
        tool.kill()
        assert tool.communicate(timeout=20)[0] == ""


def test_opencode_serve_wants_its_password(fakes: Fakes) -> None:
    """Without it every call is refused."""
    fakes.env["OPENCODE_SERVER_PASSWORD"] = "of-no-value"
    with fakes.start(["opencode", "serve", "--port", "0"]) as tool:
        assert tool.stdout
        address = urlsplit(tool.stdout.readline().split()[-1])
        connection = http.client.HTTPConnection(str(address.hostname), int(address.port or 0), timeout=10)
        connection.request("GET", "/session/ses_none")
        assert connection.getresponse().status == 401
        connection.close()
        tool.terminate()
        tool.communicate(timeout=20)
    assert tool.returncode == -signal.SIGTERM
