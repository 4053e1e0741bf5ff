"""`session info`, `result`, `logs`, `show` and `artifacts`: what is known of a session, and what it has left."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from csa.store.sessions import Store
from tests.cli.prepared import session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place

INFO_KEYS = {
    "id",
    "prefix",
    "name",
    "description",
    "status",
    "phase",
    "current",
    "pinned",
    "tool",
    "model",
    "tools",
    "turns",
    "last_turn",
    "running",
    "context",
    "is_compacted",
    "last_compacted_at",
    "usage",
    "time_s",
    "owner",
    "branch",
    "permission",
    "extra_writable",
    "project_path",
    "directory",
    "depth",
    "parent_session_id",
    "root_session_id",
    "fork_of",
    "children",
    "created_at",
    "last_accessed",
    "expires_at",
    "last_activity",
    "messages",
    "denied",
}
MESSAGE_KEYS = {"id", "session_id", "role", "content", "tool_calls", "tool_results", "timestamp", "model"}
EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("session_bound", {"provider_session_id": "p1", "model": "model-7"}),
    ("agent_thought", {"text": "First this.\nThen that."}),
    ("agent_message", {"text": "I will look", "chunk": True}),
    ("agent_message", {"text": " around.", "chunk": True}),
    ("tool_call", {"id": "c1", "title": "ls -la", "kind": "execute", "status": "in_progress"}),
    ("tool_call_update", {"id": "c1", "status": "in_progress", "content": "one\n"}),
    ("tool_call_update", {"id": "c1", "status": "completed", "content": "one\ntwo\n", "exit_code": 0}),
    ("tool_call", {"id": "c2", "title": "rm -rf /", "kind": "execute", "status": "in_progress"}),
    ("permission", {"id": "c2", "title": "rm -rf /", "status": "denied"}),
    ("tool_call_update", {"id": "c2", "status": "failed", "content": "not allowed"}),
    ("tool_call", {"id": "c3", "title": "make", "kind": "execute", "status": "in_progress"}),
    ("tool_call_update", {"id": "c3", "status": "failed", "content": "no rule\n", "exit_code": 2}),
    ("agent_message", {"text": "```\n" + "x" * 200 + "\n```\n" + "word " * 60}),
)


@pytest.fixture
def store(place: Place) -> Store:
    """A session with a rich turn, its child, and a failed one."""
    store = store_of(place)
    write_session(store, 1, events=EVENTS, text="All\x1b[31m done", name="auth", result={"denied": ("rm -rf /",)})
    write_session(store, 2, tools=("claude-code",), parent_session_id=session_id(1), depth=1)
    write_session(store, 3, status="failed")
    return store


@pytest.mark.thorough
def test_info_json(place: Place, store: Store) -> None:
    """`info --json` has fixed keys, whatever is known."""
    place.run("switch", "auth")
    cards = {number: place.run("session", "info", session_id(number), "--json").json for number in (1, 2, 3)}
    assert all(set(card) >= INFO_KEYS for card in cards.values())
    card = cards[1]
    assert (card["status"], card["phase"], card["current"], card["tool"]) == ("succeeded", "active", True, "codex")
    assert card["model"] == "model-7"
    assert card["context"] == {
        "turn": 1,
        "input_tokens": 1000,
        "output_tokens": 100,
        "cached_tokens": 0,
        "cost_usd": None,
        "turns_unmeasured": 0,
        "turns_unpriced": 0,
    }
    assert card["denied"] == [{"turn": 1, "what": "rm -rf /"}]
    assert [(child["id"], child["tool"]) for child in card["children"]] == [(session_id(2), "claude-code")]
    assert [message["role"] for message in card["messages"]] == ["user", "assistant", "assistant", "assistant"]
    assert card["last_activity"]["type"] == "run_finished"
    assert cards[3]["last_turn"]["error"] == {"kind": "server", "message": "the provider broke", "retry_at": None}
    assert cards[2]["parent_session_id"] == session_id(1)


def test_info_card(place: Place, store: Store) -> None:
    """The card says all of it in words, with nothing that a terminal would obey."""
    out = place.run("session", "info", "auth").out
    for text in ("succeeded, 1h ago", "codex model-7 (codex-1)", "tester@here", "main", "1.0k in, 100 out in turn 1"):
        assert text in out
    assert "\x1b" not in out
    assert f"children    {session_id(2)} claude-code succeeded  work 2" in out
    assert "denied      turn 1: rm -rf /" in out
    assert "failed, 1h ago: the provider broke" in place.run("session", "info", session_id(3)).out


def test_info_of_keys_of_other_commands(place: Place, store: Store) -> None:
    """What other commands keep in the record (pinned, expires, compacted) is shown."""
    path = store.paths(session_id(3)).state
    lines = path.read_text().replace(
        "is_compacted = false", 'is_compacted = true\nlast_compacted_at = "2026-01-01T00:00:00Z"'
    )
    path.write_text("pinned = true\nexpires_at = 2030-01-01T00:00:00Z\n" + lines)
    card = place.run("session", "info", session_id(3), "--json").json
    assert (card["pinned"], card["is_compacted"]) == (True, True)
    assert card["expires_at"] == "2030-01-01T00:00:00.000Z"
    assert card["last_compacted_at"] == "2026-01-01T00:00:00.000Z"
    assert "pinned" in place.run("session", "info", session_id(3)).out


@pytest.mark.thorough
def test_info_of_a_running_session(place: Place) -> None:
    """A running session's card says who runs it and what was denied so far."""
    place.play(["deny", "Bash", "rm -rf /"], *place.hold(), ["say", "done"])
    running = place.start("run", "--tool", "claude-code", "hello")
    place.wait_ready()
    place.wait_noted(running.session_id, '"type":"permission"')
    card = place.run("session", "info", running.session_id, "--json").json
    assert (card["status"], card["running"]["pid"]) == ("running", running.pid)
    assert card["denied"] == [{"turn": 1, "what": "rm -rf /"}]
    assert f"running, claude-code, turn 1, PID {running.pid}, since " in place.run("session", "info", "@last").out
    place.release()
    assert running.wait().code == 0


def test_info_of_a_damaged_session(place: Place, store: Store) -> None:
    """A damaged record is reported with its file, exit 6."""
    store.paths(session_id(3)).state.write_text("[[")
    done = place.run("session", "info", session_id(3))
    assert (done.code, "state.toml" in done.err) == (6, True)


def test_info_of_a_foreign_session(place: Place, write_foreign: Any) -> None:
    """A record of another implementation, without a transcript, has a card too."""
    write_foreign("01JH4QWERT1234567890ABCDEF", tools={"codex": {"provider_session_id": "t", "last_exit_code": 0}})
    card = place.run("session", "info", "01JH4Q", "--json").json
    assert (card["status"], card["turns"], card["context"], card["messages"]) == ("succeeded", 0, None, [])
    assert place.run("session", "info", "01JH4Q").code == 0
    shown = place.run("session", "show", "01JH4Q")
    assert (shown.code, shown.out, shown.err) == (0, "", "csa: the conversation is empty\n")


def test_result_as_text(place: Place, store: Store) -> None:
    """`result --text` is the answer, as without it; with --json it is the whole object."""
    assert place.run("session", "result", session_id(2), "--text").out == "done\n"
    assert place.run("session", "result", session_id(2), "--json").json["text"] == "done"
    assert place.run("session", "result", session_id(2), "--json", "--text").code == 2


@pytest.mark.thorough
def test_logs_of_a_turn(place: Place) -> None:
    """`--turn` narrows every kind of log; a turn that is not there is not found."""
    session = write_session(store_of(place), 1, tools=("codex", "claude-code", "codex"))
    for kind in ([], ["--events"], ["--json"], ["--raw"]):
        assert place.run("session", "logs", session, "--turn", "2", *kind).code == 0
        assert place.run("session", "logs", session, "--turn", "4", *kind).code == 3
    shown = place.run("session", "logs", session, "--turn", "2").out
    assert "started claude-code" in shown
    assert all(line.split()[1] == "2" for line in shown.splitlines())
    last = place.run("session", "logs", session, "--turn", "2", "--tail", "1").out
    assert last == shown.splitlines(keepends=True)[-1]


def test_logs_as_they_are(place: Place, store: Store) -> None:
    """`--events` prints the transcript's bytes, also of lines csa does not understand; not a partial last one."""
    transcript = store.paths(session_id(2)).transcript
    whole = transcript.read_text() + '{"v":2,"odd":true}\n'
    transcript.write_text(whole + '{"v":1,"se')
    assert place.run("session", "logs", session_id(2), "--events").out == whole
    assert place.run("session", "logs", session_id(2), "--events", "--tail", "1").out == '{"v":2,"odd":true}\n'
    assert place.run("session", "logs", session_id(2), "--tail", "200").code == 0


def test_streamed_messages_are_lines(place: Place, store: Store) -> None:
    """What came in chunks is one line of the logs."""
    lines = place.run("session", "logs", "auth").out.splitlines()
    assert [line[14:] for line in lines if "look" in line or "around" in line] == ["I will look around."]


@pytest.mark.thorough
def test_raw_and_system_logs(place: Place, store: Store) -> None:
    """`--raw` is what the tool wrote, `--system` the supervisor's log where there is one."""
    assert place.run("session", "logs", session_id(2), "--raw").out == "".join(f"raw line {n}\n" for n in range(5))
    assert place.run("session", "logs", session_id(2), "--raw", "--tail", "2").out == "raw line 3\nraw line 4\n"
    done = place.run("session", "logs", session_id(2), "--system")
    assert (done.code, "has no supervisor.log" in done.err) == (3, True)
    (store.paths(session_id(2)).turn_output(1) / "supervisor.log").write_text("noted\n")
    assert place.run("session", "logs", session_id(2), "--system").out == "noted\n"
    log = store.paths(session_id(2)).turn_output(1) / "supervisor.log"
    log.write_text("2026-07-01T22:30:00.000Z stopped\nand so on\n")
    done = place.run("session", "logs", session_id(2), "--system", env={"TZ": "Europe/Berlin"})
    assert done.out == "2026-07-02 00:30:00 stopped\nand so on\n"
    assert place.run("session", "logs", session_id(2), "--system", "--raw").code == 2


def test_show_folds(place: Place, store: Store) -> None:
    """The conversation: what was asked and said, chunks joined, calls folded to a line, thoughts to one."""
    lines = place.run("session", "show", "auth").out.splitlines()
    assert re.match(r"── turn 1 · codex · \d{4}-\d\d-\d\d \d\d:\d\d ──", lines[0])
    for line in ("> do work 1", "(First this. Then that.)", "I will look around.", "  ✓ $ ls -la  2 lines"):
        assert line in lines
    assert "  ⊘ $ rm -rf /  1 line" in lines
    assert "  ✗ $ make (exit 2)  1 line" in lines
    assert "one" not in lines
    assert lines[-1] == "All\N{REPLACEMENT CHARACTER}[31m done"


def test_show_in_full(place: Place, store: Store) -> None:
    """`--full` shows what tools wrote, each line once, and whole thoughts."""
    lines = place.run("session", "show", "auth", "--full").out.splitlines()
    assert lines.count("      one") == 1
    assert "      two" in lines
    assert "  Then that." in lines


def test_show_a_failure(place: Place, store: Store) -> None:
    """A turn that failed says so in its conversation; a turn that is not there is not found."""
    assert "! turn 1 failed: the provider broke" in place.run("session", "show", session_id(3)).out
    assert place.run("session", "show", session_id(3), "--turn", "2").code == 3


def test_show_json(place: Place, store: Store) -> None:
    """`show --json` is an array of messages with fixed keys."""
    messages = place.run("session", "show", "auth", "--json").json
    assert all(set(message) >= MESSAGE_KEYS for message in messages)
    looking = next(message for message in messages if message["content"] == "I will look around.")
    assert [call["title"] for call in looking["tool_calls"]] == ["ls -la", "rm -rf /", "make"]
    assert [result["status"] for result in looking["tool_results"]] == ["completed", "denied", "failed"]
    assert looking["tool_results"][0]["content"] == "one\ntwo\n"
    assert (looking["model"], messages[0]["model"]) == ("model-7", None)


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("words", [["show"], ["info"], ["logs"]], ids=" ".join)
def test_views_fit_the_terminal(place: Place, store: Store, columns: int, words: list[str]) -> None:
    """Prose is filled to the terminal, code left alone, and NO_COLOR takes only the styles."""
    shown = []
    for env in ({}, {"NO_COLOR": "1"}):
        environment: dict[str, str | None] = {"PAGER": "cat", **env}
        with Terminal(place, "session", *words, "auth", size=(columns, 100), env=environment) as terminal:
            assert terminal.end() == 0
        shown.append(re.sub(r"\d+h\d\dm ago", "a while ago", terminal.text.replace("\r\n", "\n")))
        assert ("\x1b[" in terminal.output) == (not env)
    assert shown[0] == shown[1]
    assert all(len(line) <= columns for line in shown[0].splitlines() if "xxxx" not in line)


@pytest.mark.thorough
def test_long_conversations_are_paged(place: Place, store: Store) -> None:
    """On a terminal what does not fit goes through the pager; not with --no-pager, in a pipe, or when there is none."""
    seen = place.tmp / "paged"
    env: dict[str, str | None] = {"PAGER": f"tee {seen}"}
    with Terminal(place, "session", "show", "auth", size=(80, 10), env=env) as terminal:
        assert terminal.end() == 0
    assert "I will look around." in seen.read_text()
    seen.unlink()
    for words, more, size in ((["--no-pager"], {}, 10), ([], {}, 100), ([], {"CSA_PAGER": "no-such-pager"}, 10)):
        with Terminal(place, "session", "show", "auth", *words, size=(80, size), env={**env, **more}) as terminal:
            assert terminal.end() == 0
        assert "I will look around." in terminal.text
        assert not seen.exists()
    assert "I will look" in place.run("session", "show", "auth", env=env).out
    assert not seen.exists()


@pytest.fixture
def artifacts(store: Store) -> Path:
    """Files that an agent has left in session 1, and links in and out."""
    output = store.paths(session_id(1)).output
    (output / "turn-0001" / "plots").mkdir()
    (output / "turn-0001" / "plots" / "a.png").write_bytes(b"\x89PNG")
    (output / "turn-0001" / "plots" / "final.md").write_text("the agent's own")
    (output / "report.md").write_text("report")
    (output / "turn-0001" / "link.md").symlink_to("../report.md")
    os.mkfifo(output / "pipe")
    return output


def test_artifacts(place: Place, artifacts: Path) -> None:
    """All that agents left below output/ is listed, by path in a pipe; csa's own files and what is no file are not."""
    names = ["report.md", "turn-0001/link.md", "turn-0001/plots/a.png", "turn-0001/plots/final.md"]
    assert place.run("session", "artifacts", "auth").out.splitlines() == [str(artifacts / name) for name in names]
    items = place.run("session", "artifacts", "auth", "--json").json
    assert [(item["name"], item["turn"]) for item in items] == [(n, 1 if "/" in n else None) for n in names]
    assert items[2]["size_bytes"] == 4
    assert len(place.run("session", "artifacts", "auth", "--turn", "1").out.splitlines()) == 3
    nothing = place.run("session", "artifacts", session_id(2))
    assert (nothing.code, nothing.out) == (0, "")
    with Terminal(place, "session", "artifacts", "auth", size=(80, 24)) as terminal:
        assert terminal.end() == 0
    assert re.search(r"4B +\d+s  turn-0001/plots/a\.png", terminal.text)


def test_artifacts_are_copied_without_harm(place: Place, artifacts: Path) -> None:
    """`--copy-to` copies them by name; what is there is never overwritten, and then nothing is copied."""
    target = place.tmp / "copies"
    done = place.run("session", "artifacts", "auth", "--copy-to", str(target))
    assert done.code == 0
    assert (target / "report.md").read_text() == "report"
    assert (target / "turn-0001" / "plots" / "a.png").read_bytes() == b"\x89PNG"
    assert not (target / "turn-0001" / "link.md").is_symlink()
    other = place.tmp / "other"
    (other / "turn-0001").mkdir(parents=True)
    (other / "turn-0001" / "link.md").symlink_to("/nowhere")
    refused = place.run("session", "artifacts", "auth", "--copy-to", str(other))
    assert (refused.code, "not overwritten" in refused.err) == (5, True)
    assert sorted(path.name for path in other.rglob("*")) == ["link.md", "turn-0001"]


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../state.toml", "nowhere", "."])
def test_links_that_lead_out_are_not_copied(place: Place, artifacts: Path, target: str) -> None:
    """A link to what is not a file below output/ is shown, and refused when it comes to copying."""
    (artifacts / "turn-0001" / "out").symlink_to(target)
    items = {item["name"]: item for item in place.run("session", "artifacts", "auth", "--json").json}
    assert items["turn-0001/out"]["leads_out"] is True
    refused = place.run("session", "artifacts", "auth", "--copy-to", str(place.tmp / "copies"))
    assert (refused.code, "points outside" in refused.err) == (5, True)
    assert not (place.tmp / "copies").exists()


def test_an_output_that_is_a_link(place: Place, store: Store, artifacts: Path) -> None:
    """It is shown as what leads out, and neither listed nor copied."""
    artifacts.rename(place.tmp / "private")
    artifacts.symlink_to(place.tmp / "private")
    (item,) = place.run("session", "artifacts", "auth", "--json", "--turn", "1").json
    assert (item["path"], item["name"], item["leads_out"]) == (str(artifacts), ".", True)
    refused = place.run("session", "artifacts", "auth", "--copy-to", "here")
    assert (refused.code, f"{artifacts} is a link" in refused.err) == (5, True)
    assert not (place.project / "here").exists()
    assert place.run("session", "result", "auth", "--json").json["artifacts"] == []
    with Terminal(place, "session", "artifacts", "auth") as terminal:
        assert terminal.end() == 0
    assert "(link to " in terminal.text


def test_a_directory_that_is_a_link(place: Place, artifacts: Path) -> None:
    """It leads out, also where it stands for the directory of a turn; what is behind it is no artifact of a result."""
    (place.tmp / "private").mkdir()
    (place.tmp / "private" / "notes.md").touch()
    (artifacts / "turn-0002").symlink_to(place.tmp / "private")
    (artifacts / "turn-0001" / "out").symlink_to(place.tmp / "private" / "notes.md")
    items = place.run("session", "artifacts", "auth", "--json", "--turn", "2").json
    assert [(item["name"], item["leads_out"]) for item in items] == [("turn-0002", True)]
    assert place.run("session", "artifacts", "auth", "--copy-to", "here").code == 5
    named = place.run("session", "result", "auth", "--json").json["artifacts"]
    assert named == [
        str(artifacts / name)
        for name in ("report.md", "turn-0001/link.md", "turn-0001/plots/a.png", "turn-0001/plots/final.md")
    ]


def test_artifacts_as_json_with_copies(place: Place, artifacts: Path) -> None:
    """With --json and --copy-to each object says where its copy is."""
    items = json.loads(place.run("session", "artifacts", "auth", "--copy-to", "here", "--json").out)
    assert items[0]["copied_to"] == str(place.project / "here" / "report.md")
    assert (place.project / "here" / "report.md").read_text() == "report"


ORDINARY = "a\r\nVoilà\N{NO-BREAK SPACE}: 日\N{IDEOGRAPHIC SPACE}本 👩\N{ZERO WIDTH JOINER}💻"


@pytest.mark.thorough
def test_an_answer_is_the_same_everywhere(place: Place) -> None:
    """Its ends of lines, wide blanks and joiners are nowhere replaced; what is laid out has its own ends of lines."""
    place.play(["say", ORDINARY])
    ran = place.codex("hello", "-q", "--name", "it")
    assert ran.out == ORDINARY + "\n"
    assert place.run("session", "result", "it").out == ran.out
    assert place.run("session", "result", "--json", "it").json["text"] == ORDINARY
    messages = place.run("session", "export", "--format", "jsonl", "it").out.splitlines()
    assert json.loads(messages[-1])["content"] == ORDINARY
    assert ORDINARY.replace("\r\n", "\n") in place.run("session", "show", "it").out


STEERING = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\u202e"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words", [["run", "-q", "--tool", "codex", "go"], ["session", "result"], ["session", "attach"]]
)
def test_an_answer_does_not_steer_the_terminal(place: Place, words: list[str]) -> None:
    """On a terminal its control characters are only shown; in a pipe it is what the agent said."""
    place.play(["say", f"1\t{STEERING}2\nthree"])
    session_id = place.codex().session_id
    words = [*words, session_id] if words[0] == "session" else words
    assert place.run(*words).out == f"1\t{STEERING}2\nthree\n"
    with Terminal(place, *words) as terminal:
        assert terminal.end() == 0
    assert "1\t\ufffd]52;c;aGk=\ufffd\ufffd[2J\ufffd31m\ufffd2\r\nthree\r\n" in terminal.output
    with Terminal(place, *words, "--json") as terminal:
        assert terminal.end() == 0
    assert not {*STEERING} & {*terminal.output} - {*"]52;c;aGk=[2J31m"}


EVIL = "\x1b[31mx\x9b2Jy\u202ez"
NO_STYLE: dict[str, str | None] = {"NO_COLOR": "1", "PAGER": "cat"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words",
    [
        "session list",
        "session list --tree",
        "session list --all-projects",
        "session info it",
        "session show it --full",
        "session logs it",
        "session logs it --events",
        "session logs it --raw",
        "session why it",
        "session wait it",
        "session export --format md it",
        "session export --format html it",
        "session export --format jsonl it",
        "session artifacts it",
        "session artifacts it --copy-to copies",
        "session clean --days 0 --dry-run",
        "session result it",
        "session is-alive it",
        "session validate",
        "session budget it",
        "session current it",
        "session kill it",
        "session list --json",
        "gc --days 0 --dry-run --all-projects",
        "ps --all",
        "stats",
        "stats --by owner",
        f"run --tool no{EVIL} hello",
        f"session info no{EVIL}",
        f"session list --tool no{EVIL}",
        f"no{EVIL}",
    ],
    ids=ascii,
)
def test_records_do_not_steer_the_terminal(place: Place, words: str) -> None:
    """Whatever is in a record, which may have come from elsewhere, or in what is asked for, is only shown."""
    project = place.tmp / f"pro{EVIL}ject"
    (project / ".csa").mkdir(parents=True)
    store = Store(place.state_root, project)
    call = {"id": "c1", "title": f"call{EVIL}", "kind": f"kind{EVIL}", "status": f"odd{EVIL}"}
    events = (
        ("agent_message", {"text": f"text{EVIL}"}),
        ("tool_call", call),
        ("tool_call_update", {"id": "c1", "status": "failed", "content": f"content{EVIL}"}),
        ("retry", {"kind": f"kind{EVIL}", "message": f"message{EVIL}"}),
        ("permission", {"status": f"status{EVIL}", "title": f"title{EVIL}"}),
        ("compaction", {"status": f"status{EVIL}", "error": {"message": f"message{EVIL}"}}),
    )
    tool = f"tool{EVIL}"
    changes: dict[str, Any] = {name: f"{name}{EVIL}" for name in ("description", "owner", "branch", "permission")}
    known = {"error_kind": f"kind{EVIL}", "error_message": f"message{EVIL}", "model": f"model{EVIL}"}
    age, text = timedelta(days=3), f"text{EVIL}"
    kept: dict[str, Any] = {"tools": (tool,), "status": "failed", "events": events, "text": text, "result": known}
    made = write_session(store, 1, age=age, name="it", **kept, **changes)
    paths = store.paths(made)
    (paths.turn_output(1) / "stdout.log").write_text(f"line{EVIL}\nline\n")
    (paths.turn_output(1) / f"file{EVIL}").touch()
    with Terminal(place, *words.split(), "--cd", str(project), size=(300, 100), env=NO_STYLE) as terminal:
        terminal.end()
    assert "Traceback" not in terminal.output
    assert terminal.output.strip()
    assert not {"\x1b", "\x9b", "\u202e"} & {*terminal.output}
