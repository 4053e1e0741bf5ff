"""A record that the system does not let be read is damaged, and stands in the way of nothing else.

A directory in the place of a file makes it unreadable for everybody, root included.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.support import Place, Running, snapshot

FILES = ("transcript.jsonl", "locks/session.lock")
GOOD, BAD = session_id(1), session_id(2)


@pytest.fixture(params=FILES)
def broken(request: pytest.FixtureRequest, place: Place) -> Path:
    """Two sessions, of which the newer one's transcript or lock is a directory: that path."""
    for number in (1, 2):
        write_session(store_of(place), number)
    return make_unreadable(place.session(BAD) / request.param)


def make_unreadable(path: Path) -> Path:
    path.unlink()
    path.mkdir(0o700)
    return path


@pytest.mark.parametrize("words", [(), ("--all-projects",), ("--tree",), ("--tree", "--all-projects")])
def test_lists_show_it_as_damaged(place: Place, broken: Path, words: tuple[str, ...]) -> None:
    """Everything else is listed as ever; the damaged one with what cannot be read. Nothing is written."""
    before = snapshot(place.state_root)
    done = place.run("session", "list", *words)
    assert (done.code, done.err) == (0, "")
    lines = {line.split()[0]: line for line in done.out.splitlines()[1:] if line}
    if not words:
        assert "succeeded" in lines[GOOD]
        assert "damaged" in lines[BAD]
    assert f"{broken}: cannot be read (Is a directory)" in done.out
    found = {item["id"]: item for item in place.run("session", "list", *words, "--json").json}
    assert {key: item["status"] for key, item in found.items()} == {GOOD: "succeeded", BAD: "damaged"}
    assert str(broken) in found[BAD]["error"]
    only = place.run("session", "list", "--json", "--status", "damaged").json
    assert [item["id"] for item in only] == [BAD]
    assert snapshot(place.state_root) == before


# What is no file: a pipe keeps whoever opens it waiting, some devices have no end


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["state.toml", "transcript.jsonl", "result.toml", "heartbeat", "locks/session.lock"])
def test_a_pipe_or_device_in_place_of_a_file(place: Place, kind: str, name: str) -> None:
    """It is one damaged session at most, in nobody's way; no command waits for it, or reads on and on."""
    for number in (1, 2):
        write_session(store_of(place), number)
    path = place.session(BAD) / name
    replace_by(kind, path)
    for words in (
        ("session", "list", "--tree"),
        ("stats",),
        ("ps", "--all"),
        ("gc", "--days", "30", "--all-projects"),
        ("kill", "--all", "--yes"),
        ("run", "--tool", "codex", "--name", "n", "hello"),
    ):
        done = place.run(*words)
        is_in_doubt = words[0] == "kill" and name == "locks/session.lock"  # whether it runs is not known
        assert (done.code, "Traceback" in done.err) == (6 if is_in_doubt else 0, False), (words, done.err)
    is_damage = name in FILES or name == "state.toml"
    assert (place.status(GOOD), place.status(BAD)) == ("succeeded", "damaged" if is_damage else "succeeded")
    for command in ("info", "result", "show", "logs", "why", "is-alive", "wait", "artifacts", "export -o x"):
        done = place.run("session", *command.split(), BAD)
        assert "Traceback" not in done.err, command
    problem = "is longer than" if (kind, path.suffix) == ("device", ".toml") else "is not a regular file"
    found = place.run("session", "validate")
    assert (found.code, f"{path}: {problem}" in found.out or f"{path}: cannot be read ({problem}" in found.out) == (
        (0, False) if name == "heartbeat" else (6, True)
    )
    is_mended = place.run("session", "repair", BAD).code == 0
    assert is_mended is (name not in FILES)
    assert place.run("session", "delete", BAD).code == (6 if name == "locks/session.lock" else 0)
    assert place.run("session", "export", GOOD, "-o", "y").code == 0


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["current", "usage_stats.toml", "usage_stats.lock", "audit.jsonl"])
def test_a_pipe_or_device_in_the_store(place: Place, kind: str, name: str) -> None:
    """Sessions run and are told of, whatever stands in the place of what a store knows besides."""
    write_session(store_of(place), 1)
    replace_by(kind, place.store / name)
    for words in (("session", "list"), ("doctor",), ("run", "--tool", "codex", "x"), ("session", "rename", GOOD, "n")):
        assert place.run(*words).code == 0, words
    if name == "current":
        done = place.run("session", "current")
        assert (done.code, "cannot be read (is not a regular file)" in done.err) == (6, True)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["heartbeat", "cancel", "output/turn-0002", "../../../.csa/config.toml"])
def test_a_pipe_where_a_turn_writes(place: Place, name: str) -> None:
    """A supervisor waits for no reader of what it writes, and for no writer of what it reads."""
    session = place.codex("hello").session_id
    if name == "output/turn-0002":
        for log in ("stdout.log", "stderr.log", "final.md"):
            replace_by("pipe", place.session(session) / name / log)
    elif name.endswith("config.toml"):
        replace_by("pipe", place.project / ".csa" / "config.toml")
    else:
        replace_by("pipe", place.session(session) / name)
    done = place.run("run", "--tool", "codex", "--session", session, "again")
    is_config = name.endswith("config.toml")
    assert (done.code, "is not a regular file" in done.err) == ((6, True) if is_config else (0, False)), done.err


def test_a_config_that_the_user_names_may_be_a_pipe(place: Place) -> None:
    """As a shell makes one of `<(...)`."""
    words = "CSA_CONFIG=<(echo max_sessions = 5) exec csa config show --json"
    done = place.shell(["bash", "-c", words])
    assert (done.code, done.json["max_sessions"]["value"]) == (0, 5)


def replace_by(kind: str, path: Path) -> None:
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.thorough
def test_what_asks_for_it_says_so(place: Place, broken: Path) -> None:
    """Whatever needs the file names it and exits 6; others are answered."""
    for command in ("info", "export -o x", "wait", "kill"):
        if command == "kill" and broken.name == "transcript.jsonl":
            continue  # it is known not to run
        done = place.run("session", *command.split(), "-s", BAD)
        assert (done.code, f"{broken}: cannot be read (Is a directory)" in done.out + done.err) == (6, True), command
        assert place.run("session", *command.split(), "-s", GOOD).code == 0, command
    both = place.run("session", "wait", BAD, GOOD, "--json")
    assert both.code == 6
    assert {item["session_id"]: item["status"] for item in both.json} == {GOOD: "succeeded", BAD: "damaged"}
    if broken.name == "transcript.jsonl":
        for words in (
            ("result",),
            ("show",),
            ("logs",),
            ("logs", "-f"),
            ("logs", "-f", "--tail", "2"),
            ("checkpoint",),
        ):
            done = place.run("session", *words, "-s", BAD, "--json")
            assert (done.code, done.json["error"]["code"]) == (6, "damaged"), words
    run = place.run("run", "--tool", "codex", "--session", BAD, "hello")
    assert (run.code, str(broken) in run.err) == (6, True)


def test_why(place: Place, broken: Path) -> None:
    """The evidence is shown as far as it can be read."""
    found = place.run("session", "why", "-s", BAD, "--json").json
    assert (found["status"], str(broken) in found["error"]) == ("damaged", True)
    is_lock = broken.name == "session.lock"
    assert found["lock"]["held"] is (None if is_lock else False)
    assert ("whether it is running is unknown" if is_lock else "its lock is free") in found["why"]
    shown = place.run("session", "why", "-s", BAD)
    assert (shown.code, "lock        cannot be read" in shown.out) == (0, is_lock)


def test_validate_and_repair(place: Place, broken: Path) -> None:
    """Both, which are there for this, tell of it and of the others; there is nothing that could be mended."""
    done = place.run("session", "validate", "--json")
    assert done.code == 6
    errors = [item for item in done.json if item["severity"] == "error"]
    assert [(item["session_id"], item["path"]) for item in errors] == [(BAD, str(broken))]
    assert place.run("session", "validate").out.endswith("2 sessions checked, 1 damaged\n")
    before = snapshot(place.session(BAD))
    repaired = place.run("session", "repair", "-s", BAD)
    assert (repaired.code, str(broken) in repaired.err) == (6, True)
    after = snapshot(place.session(BAD))
    assert {path: what[2] for path, what in after.items()} == {path: what[2] for path, what in before.items()}


def test_a_file_that_cannot_be_replaced(place: Place) -> None:
    """Repair says what stands in the way of what it would write."""
    write_session(store_of(place), 1)
    broken = make_unreadable(place.session(GOOD) / "result.toml")
    done = place.run("session", "repair", "-s", GOOD)
    assert (done.code, f"{broken}: cannot be repaired" in done.err) == (6, True)


def test_export(place: Place, broken: Path) -> None:
    """All but the damaged one are exported where that is asked for, and it is named."""
    refused = place.run("session", "export", "--all", "-o", "x.tar.gz")
    assert (refused.code, str(broken) in refused.err) == (6, True)
    done = place.run("session", "export", "--all", "--skip-corrupted", "-o", "x.tar.gz")
    assert (done.code, done.err.splitlines()) == (
        0,
        [f"warning: left out: {BAD}: {broken}: cannot be read (Is a directory)."],
    )
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    imported = place.run("session", "import", str(place.project / "x.tar.gz"), "--json", cwd=other)
    assert [item["id"] for item in imported.json] == [GOOD]


@pytest.mark.parametrize("is_retired", [False, True])
def test_stats(place: Place, is_retired: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """The turns of the others are counted; what could not be read is named. Collected sessions are no exception."""
    for number in (1, 2):
        write_session(store_of(place), number)
    if is_retired:
        retire(store_of(place), BAD)
    place_of = store_of(place).find(BAD).root
    make_unreadable(place_of / "transcript.jsonl")
    done = place.run("stats", "--json")
    assert (done.code, done.json["total"]["turns"]) == (0, 1)
    assert done.err == f"warning: left out: {place_of}/transcript.jsonl: cannot be read (Is a directory).\n"


def test_views(place: Place, broken: Path) -> None:
    """The live views show it in its place."""
    found = {item["id"]: item["status"] for item in place.run("ps", "--all", "--json").json}
    assert found == {GOOD: "succeeded", BAD: "damaged"}
    assert str(broken) in place.run("ps", "--all").out


@pytest.mark.thorough
def test_doctor(place: Place, broken: Path) -> None:
    """Doctor counts it among the damaged."""
    done = place.run("doctor", "--json")
    (check,) = [check for check in done.json["checks"] if check["name"] == "sessions"]
    assert (check["status"], str(broken) in check["detail"]) == ("warn", True)


def test_collecting_leaves_it_alone(place: Place, broken: Path) -> None:
    """However old, it stays and is named; one whose lock cannot be looked at stays even with --damaged."""
    for session in (GOOD, BAD):
        path = place.session(session) / "state.toml"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join("last_accessed = 2020-01-01T00:00:00Z\n" if "last_acc" in x else x for x in lines))
    for directory, _, files in os.walk(place.session(BAD)):
        for name in (".", *files):
            os.utime(Path(directory, name), (0, 0))
    for command in (("session", "clean"), ("gc",)):
        done = place.run(*command, "--days", "30", "--dry-run")
        assert GOOD in done.out
        assert BAD not in done.out
        assert str(broken) in done.err
    done = place.run("session", "clean", "--days", "30")
    assert (done.code, place.ids()) == (0, [BAD])
    assert place.run("session", "clean", "--days", "30", "--damaged").code == 0
    assert place.ids() == ([BAD] if broken.name == "session.lock" else [])


def start_elsewhere(place: Place) -> Running:
    """Start a turn in another project."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "--cd", str(other), "hello")
    place.wait_ready()
    return running


@pytest.mark.thorough
def test_everything_else_is_killed(place: Place, broken: Path) -> None:
    """`csa kill --all` ends what runs. Where a lock cannot be looked at it says that it does not know."""
    running = start_elsewhere(place)
    done = place.run("kill", "--all", "--yes")
    assert running.wait().code != 0
    is_unknown = broken.name == "session.lock"
    assert f"{running.session_id}: ended (codex, turn 1): cancelled" in done.out
    assert (done.code, str(broken) in done.err) == (6 if is_unknown else 0, is_unknown)
    again = place.run("kill", "--all", "--yes", "--json")
    assert (again.code, [item["session_id"] for item in again.json]) == ((6, [BAD]) if is_unknown else (0, []))


def without_privileges(*words: str) -> list[str]:
    """Return a command whose root may list no more than other users: without CAP_DAC_OVERRIDE and _READ_SEARCH."""
    drop = "import ctypes, os, sys; [ctypes.CDLL(None).prctl(24, cap, 0, 0, 0) for cap in (1, 2)]"
    return [sys.executable, "-c", f"{drop}; os.execvp(sys.argv[1], sys.argv[1:])", *words]


@pytest.fixture
def unlistable(place: Place) -> Iterator[Path]:
    """A directory with sessions, of the project, that may not be listed: for what runs `without_privileges`."""
    write_session(store_of(place), 1)
    sessions = place.store / "sessions"
    sessions.chmod(0)
    try:
        if place.shell(without_privileges("ls", str(sessions))).code == 0:
            pytest.skip("here everything can be listed")
        yield sessions
    finally:
        sessions.chmod(0o700)


@pytest.mark.thorough
@pytest.mark.parametrize("words", [("kill", "--all", "--yes"), ("session", "kill", "--tree")])
def test_killed_where_sessions_cannot_be_listed(place: Place, unlistable: Path, words: tuple[str, ...]) -> None:
    """What is found is ended; a directory that may not be listed is named, exit 6, since something may run there."""
    running = start_elsewhere(place)
    if "--tree" in words:
        words = (*words, "--cd", str(place.tmp / "other"), running.session_id)
    done = place.shell(without_privileges("csa", *words))
    again = place.shell(without_privileges("csa", *words, "--json"))
    assert running.wait().code != 0
    assert f"{running.session_id}: ended (codex, turn 1): cancelled" in done.out
    assert (done.code, done.err.count(f"error: {unlistable}: cannot be read (Permission denied).\n")) == (6, 1)
    assert (again.code, str(unlistable) in again.err) == (6, True)
    assert [item["outcome"] for item in again.json] == ["not_running"] * ("--tree" in words)
    unlistable.chmod(0o700)
    assert place.run(*words).code == 0


@pytest.mark.thorough
def test_descendants_that_cannot_be_listed(place: Place, unlistable: Path) -> None:
    """Nobody knows of all descendants: a `wait` says so when the others have ended, an archive is not made unasked."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    place.play(["say", "hello"])
    session_id = place.run("run", "--tool", "codex", "--cd", str(other), "hello").session_id
    about = ("--cd", str(other), "--tree", "-s", session_id)
    problem = f"{unlistable}: cannot be read (Permission denied)"
    waited = place.shell(without_privileges("csa", "session", "wait", *about))
    assert (waited.code, waited.out.startswith(f"{session_id}: succeeded"), problem in waited.err) == (6, True, True)
    export = ("session", "export", *about, "-o", str(place.tmp / "archive"))
    refused = place.shell(without_privileges("csa", *export))
    assert (refused.code, "hint: --skip-corrupted" in refused.err, (place.tmp / "archive").exists()) == (6, True, False)
    done = place.shell(without_privileges("csa", *export, "--skip-corrupted", "--json"))
    assert (done.code, done.json["sessions"]) == (0, [session_id])
    assert done.json["left_out"] == [{"what": str(unlistable), "why": "cannot be read (Permission denied)"}]
    read = place.shell(without_privileges("csa", "session", "export", *about, "--format", "md"))
    assert (read.code, f"warning: left out: {problem}" in read.err) == (0, True)


@pytest.mark.parametrize(
    "words",
    [
        ("ps",),
        ("top",),
        ("top", "--json"),
        ("session", "list", "--all-projects"),
        ("session", "list", "--all-projects", "--tree"),
        ("stats", "--all-projects"),
        ("gc", "--all-projects", "--days", "30"),
    ],
)
def test_all_projects_but_one(place: Place, unlistable: Path, words: tuple[str, ...]) -> None:
    """What shows all projects says once on stderr what it could not list."""
    (place.tmp / "other" / ".csa").mkdir(parents=True)
    done = place.shell(without_privileges("csa", *words, "--cd", str(place.tmp / "other")))
    warning = f"warning: {unlistable}: cannot be read (Permission denied); what is there is left out\n"
    assert (done.code, done.err.removesuffix('hint: csa run "what to do" starts one\n')) == (0, warning)


@pytest.mark.thorough
@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_is_no_session(place: Place, *, is_link: bool) -> None:
    """A plain file or a link that is named by a ULID is ignored, by lists and look-ups alike, and hinders nothing."""
    write_session(store_of(place), 1)
    stray = place.store / "sessions" / BAD
    outside = place.tmp / "outside"
    if is_link:
        write_session(store_of(place), 2)
        place.session(BAD).rename(outside)
        stray.symlink_to(outside)
        before = snapshot(outside)
    else:
        stray.touch()
    running = start_elsewhere(place)
    assert place.run("kill", "--all", "--yes").code == 0
    assert running.wait().code != 0
    assert [item["id"] for item in place.run("session", "list", "--json").json] == [GOOD]
    assert place.run("session", "validate").out.endswith("1 session checked, 0 damaged\n")
    assert place.run("session", "export", "--all", "-o", "x").code == 0
    for command in ("info", "is-alive", "why", "kill"):
        for selector in (BAD, BAD[:10]):
            assert place.run("session", command, "-s", selector).code == 3, command
    done = place.run("run", "--tool", "codex", "--session-id", BAD, "hello")
    assert (done.code, str(stray) in done.err) == (6, True)
    for words in ("session delete --purge " + BAD, "session clean --older-than 1s --purge", "gc --days 0"):
        place.run(*words.split())
    assert place.ids() == [BAD]
    assert not is_link or snapshot(outside) == before


@pytest.mark.thorough
def test_a_transcript_that_is_missing(place: Place) -> None:
    """Whatever the record says of the last turn: without a transcript nobody knows, and nothing claims success."""
    for number in (1, 2):
        write_session(store_of(place), number)
    missing = place.session(BAD) / "transcript.jsonl"
    missing.unlink()
    assert (place.status(GOOD), place.status(BAD)) == ("succeeded", "damaged")
    for command in ("info", "result", "wait", "export -o x", "validate", "repair"):
        done = place.run("session", *command.split(), "-s", BAD)
        text = f"{missing}: is missing, but the record has 1 turn"
        assert (done.code, text in done.out + done.err) == (6, True), command
    found = place.run("session", "why", "-s", BAD, "--json").json
    assert (found["status"], "another program" in found["why"]) == ("damaged", False)
    assert {item["id"]: item["status"] for item in place.run("ps", "--all", "--json").json}[BAD] == "damaged"
    assert place.run("session", "clean", "--older-than", "1s", "--dry-run").out.count(BAD) == 0
    assert place.run("session", "validate").out.endswith("2 sessions checked, 1 damaged\n")
    assert place.run("stats").err == f"warning: left out: {missing}: is missing, but the record has 1 turn.\n"
