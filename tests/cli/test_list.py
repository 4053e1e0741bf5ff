"""`session list`: what it shows, filters, sums, and the current session."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from csa.model.usage import Usage
from csa.store.sessions import Store
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place, snapshot

DAY = timedelta(days=1)
MISSING = "01JH4QWEZZ0000000000000000"


@pytest.fixture
def store(place: Place) -> Store:
    """Sessions 0 to 6 of all kinds, of which 6 was collected."""
    store = store_of(place)
    write_session(store, 0, age=10 * DAY, owner="other@there", description="the oldest")
    write_session(store, 1, tools=("codex", "claude-code"), branch="feat/x", usage=Usage(50_000, 2_000, 0, 0.25))
    write_session(store, 2, tools=("gemini-cli",), status="failed", age=2 * DAY + timedelta(hours=2))
    write_session(store, 3, tools=("claude-code",), parent_session_id=session_id(1), depth=1)
    write_session(store, 4, tools=("opencode",), status="lost", phase="available", name="auth")
    damaged = session_id(5)
    shutil.copytree(store.paths(session_id(0)).root, store.paths(damaged).root)
    write_session(store, 6, age=20 * DAY, description="collected")
    retire(store, session_id(6))
    return store


_COUNTING = """
import sys
from csa.cli.main import main
def count(event, args):
    if event == "open" and str(args[0]).endswith(("/state.toml", "/transcript.jsonl")):
        print("opened", "/".join(str(args[0]).split("/")[-2:]), file=sys.stderr)
sys.addaudithook(count)
sys.exit(main())
"""


@pytest.mark.parametrize("words", [["--json"], ["--tree"], ["--tree", "--json"]])
def test_each_record_is_read_once(place: Place, store: Store, words: list[str]) -> None:
    """A list and a tree, with all sums and counts of children, open the files of a session that has ended once.

    Only for when the earlier turns ran is a journal read as well.
    """
    done = place.shell([sys.executable, "-c", _COUNTING, "session", "list", *words])
    assert done.code == 0, done.err
    opened = [line.split()[1] for line in done.err.splitlines() if line.startswith("opened")]
    assert [opened.count(f"{session_id(number)}/state.toml") for number in (0, 1, 2, 3)] == [1, 1, 1, 1]
    assert [opened.count(f"{session_id(number)}/transcript.jsonl") for number in (0, 2, 3)] == [1, 1, 1]


def listed(place: Place, *words: str) -> list[int]:
    """Return the numbers of the sessions that are listed, in order."""
    done = place.run("session", "list", "--json", *words)
    assert done.code == 0, done.out
    return [int(item["id"][8:10]) for item in done.json]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ([], [5, 4, 3, 1, 2, 0]),
        (["--tool", "codex"], [1, 0]),
        (["--tool", "claude-code,gemini-cli"], [3, 1, 2]),
        (["--branch", "feat/x"], [1]),
        (["--owner", "other"], [0]),
        (["--owner", "other@there"], [0]),
        (["--owner", "oth"], []),
        (["--status", "failed,lost"], [4, 2]),
        (["--status", "succeeded"], [3, 1, 0]),
        (["--status", "damaged"], [5]),
        (["--status", "available"], [4]),
        (["--status", "active"], [3, 1, 2, 0]),
        (["--status", "retired"], [6]),
        (["--status", "retired,failed"], [2, 6]),
        (["--status", "retired", "--owner", "other"], []),
        (["--since", "2d"], [4, 3, 1]),
        (["--since", "1w"], [4, 3, 1, 2]),
        (["--since", "2020-01-01"], [4, 3, 1, 2, 0]),
        (["--since", "3d", "--tool", "codex,gemini-cli", "--status", "failed"], [2]),
        (["--limit", "2"], [5, 4]),
        (["--tool", "codex", "--limit", "1"], [1]),
        (["--limit", "5"], [5, 4, 3, 1, 2]),
        (["--sort", "used", "--tool", "codex,gemini-cli"], [1, 2, 0]),
        (["--sort", "created"], [5, 4, 3, 2, 1, 0]),
        (["--sort", "created", "--limit", "4"], [5, 4, 3, 2]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_filters(place: Place, store: Store, words: list[str], numbers: list[int]) -> None:
    """Each filter narrows; several must all fit; sessions used last come first, or as --sort says."""
    assert listed(place, *words) == numbers


@pytest.mark.thorough
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles", "Europe/Berlin"])
def test_dates_are_local(place: Place, zone: str) -> None:
    """What is shown of a session can be typed to find it; JSON has UTC."""
    env: dict[str, str | None] = {"TZ": zone}
    place.run("run", "--tool", "codex", "hello", env=env)
    (session,) = place.run("session", "list", "--json", env=env).json
    assert session["last_accessed"].endswith("Z")
    created, used = (
        datetime.fromisoformat(session[key]).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        for key in ("created_at", "last_accessed")
    )
    assert created.strftime("%Y-%m-%d %H:%M") in place.run("session", "info", session["id"], env=env).out
    for command in (("session", "list"), ("stats", "--by", "tool")):
        before, after = (used + timedelta(minutes=minutes) for minutes in (-2, 2))
        found = [place.run(*command, "--since", each.isoformat(), "--json", env=env) for each in (before, after)]
        counts = [len(each.json) if command[0] == "session" else each.json["total"]["turns"] for each in found]
        assert counts == [1, 0]


def test_only_ids(place: Place, store: Store) -> None:
    """--quiet prints whole ids and nothing else, so that they can be passed on; none when none fits."""
    done = place.run("session", "list", "-q", "--status", "failed,lost")
    assert (done.out.split(), done.err) == ([session_id(4), session_id(2)], "")
    assert place.run("session", "list", "-q", "--limit", "1").err == ""
    assert place.run("session", "list", "-q", "--branch", "none").out == ""
    assert place.run("session", "list", "-q", "--tree", "--tool", "codex").out.split()[0] == session_id(1)


def test_a_format(place: Place, store: Store) -> None:
    """--format prints fields by name; what a record does not say is `-`, and what is no field is refused."""
    text = r"{name:<6}|{status:>10}\t{tools} {tokens} {{x}}"
    lines = place.run("session", "list", "--format", text).out.splitlines()
    assert lines[:2] == ["-     |   damaged\t- - {x}", "auth  |      lost\topencode - {x}"]
    lines = place.run("session", "list", "--format", "table {name} {turns}", "--limit", "2").out.splitlines()
    assert lines == ["NAME  TURNS", "-     -", "auth  1"]
    plain = place.run("session", "list").out
    assert place.run("session", "list", "--format", "table").out == plain
    for wrong in ("{nam}", "{name.__class__}", "{id[0]}", "{name!r}", "{name:{id}}", "{", "{}", "no field"):
        done = place.run("session", "list", "--format", wrong)
        assert (done.code, done.out) == (2, ""), wrong
        assert "the fields are name, id, " in done.err, wrong


def test_the_tree_of_one_session(place: Place, store: Store) -> None:
    """`list --tree S` is the session and all below it, also of one that was deleted; without --tree S is a mistake."""
    write_session(store, 8, parent_session_id=session_id(3), depth=2)
    for words in (["--tree", session_id(3)], ["--tree", "-s", session_id(3)], [session_id(3), "--tree", "-q"]):
        lines = place.run("session", "list", *words).out.splitlines()
        assert [line.strip("└─ ").split()[0] for line in lines[:2]] == [session_id(3), session_id(8)], words
    (item,) = place.run("session", "list", "--tree", "auth", "--json").json
    assert (item["name"], item["subtree"]["sessions"]) == ("auth", 1)
    assert place.run("session", "list", "--tree", session_id(6), "-q").out.split() == [session_id(6)]
    assert place.run("session", "list", "--tree", "nobody").code == 3
    done = place.run("session", "list", "auth")
    assert (done.code, "--tree auth" in done.err) == (2, True)


def test_wrong_filters(place: Place) -> None:
    """What cannot be meant is refused with a hint, exit 2."""
    done = place.run("session", "list", "--status", "succeded")
    assert (done.code, "did you mean 'succeeded'?" in done.err) == (2, True)
    done = place.run("session", "list", "--since", "yesterday")
    assert (done.code, "30m, 12h, 7d" in done.err) == (2, True)
    dates = re.findall(r"\d{4}-\S+\d", done.err)
    assert len(dates) == 2
    assert all(place.run("session", "list", "--since", date).code == 0 for date in dates)
    assert place.run("session", "list", "--limit", "0").code == 2


def test_nothing_fits(place: Place, store: Store) -> None:
    """When no session fits, that is said with how to see more, exit 0."""
    done = place.run("session", "list", "--branch", "none")
    assert (done.code, done.out) == (0, "No sessions found\n")
    assert "--all-projects" in done.err


def test_retired_sessions_have_their_phase(place: Place, store: Store) -> None:
    """A collected session is shown as retired, though its record says otherwise."""
    (item,) = place.run("session", "list", "--status", "retired", "--json").json
    assert (item["phase"], item["status"]) == ("retired", "succeeded")
    assert " retired " in place.run("session", "list", "--status", "retired").out
    tree = place.run("session", "list", "--tree", "--status", "retired,failed").out
    assert [line.split()[0] for line in tree.splitlines()[:-1]] == [session_id(6), session_id(2)]


def test_table_in_a_pipe(place: Place, store: Store) -> None:
    """In a pipe there are whole ids, all of the text, and a line of totals."""
    head, *rows, totals = place.run("session", "list").out.splitlines()
    assert head.split() == ["ID", "AGE", "STATUS", "TOOL", "TURNS", "TOKENS", "DESCRIPTION"]
    assert [row.split()[0] for row in rows] == [session_id(number) for number in (5, 4, 3, 1, 2, 0)]
    assert re.search(r"  1h succeeded codex,claude-code +2   104k work 1$", rows[3])
    assert rows[1].endswith("[auth] work 4")
    assert "state.toml" in rows[0]
    assert totals == "6 sessions, 0 running, 6 turns, 107k+ tokens, $0.50+"


@pytest.mark.thorough
def test_the_current_session(place: Place, store: Store) -> None:
    """`switch` chooses the current session, `@current` names it, lists mark it, and `--clear` chooses none."""
    assert place.run("session", "current").code == 3
    assert place.run("session", "current", "--json").json == {"session_id": None}
    assert place.run("session", "switch", "auth").out == f"{session_id(4)}  auth\n"
    for words in (["session", "current"], ["session", "cur"], ["cur"], ["session", "current", "-s", "@current"]):
        assert place.run(*words).out.startswith(session_id(4)), words
    marked = [line for line in place.run("session", "list").out.splitlines() if " * " in line]
    assert [line.split()[0] for line in marked] == [session_id(4)]
    tree = place.run("session", "list", "--tree").out
    assert f"{session_id(4)} * opencode lost" in tree
    assert place.run("session", "result", "@current").code == 3  # it has never ended
    assert place.run("switch", "nothing-like-it").code == 3
    assert place.run("session", "current", "--clear").code == 0
    assert not (place.store / "current").exists()
    assert " * " not in place.run("session", "list").out


@pytest.mark.thorough
def test_the_current_session_is_gone(place: Place, store: Store) -> None:
    """A current session that was removed is an error where it is asked for, and no trouble in lists."""
    place.run("switch", "auth")
    shutil.rmtree(store.paths(session_id(4)).root)
    assert place.run("session", "current").code == 3
    assert place.run("session", "list").code == 0
    (place.store / "current").write_text("garbage")
    done = place.run("cur")
    assert (done.code, "--clear" in done.err) == (6, True)
    assert place.run("session", "list").code == 0


def test_all_projects(place: Place, store: Store) -> None:
    """`--all-projects` lists the sessions of all projects with where they are."""
    other = Store(place.state_root, place.tmp / "other")
    write_session(other, 40, description="elsewhere")
    items = place.run("session", "list", "--all-projects", "--json").json
    assert (items[1]["project"], items[1]["description"]) == (str(other.project), "elsewhere")
    assert {item["project"] for item in (items[0], *items[2:])} == {str(place.project)}
    head, _, first, *_ = place.run("session", "list", "--all-projects").out.splitlines()
    assert "PROJECT" in head
    assert str(other.project) in first
    assert listed(place, "--all-projects", "--branch", "main", "--tool", "codex") == [40, 0]


def test_tree_adds_up(place: Place, store: Store) -> None:
    """The tree's numbers and states are of the session and all below it; what ran at once counts once."""
    write_session(store, 7, status="failed", parent_session_id=session_id(3), depth=2, usage=Usage(500, 0, 0, 0.01))
    lines = place.run("session", "list", "--tree").out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(session_id(1)))
    assert "codex,claude-code succeeded [1 failed]  work 1  (1m00s 106k $0.51+)" in lines[at]
    assert f"└─ {session_id(3)} claude-code succeeded [1 failed]  work 3  (1m00s 1.6k $0.010+)" in lines[at + 1]
    assert f"   └─ {session_id(7)} codex failed  work 7  (1m00s 500 $0.010)" in lines[at + 2]
    items = {item["id"]: item for item in place.run("session", "list", "--tree", "--json").json}
    subtree = items[session_id(1)]["subtree"]
    assert (subtree["sessions"], subtree["statuses"]) == (3, {"failed": 1, "succeeded": 2})
    assert (subtree["time_s"], subtree["usage"]["cost_usd"]) == (60.0, 0.51)
    assert items[session_id(7)]["subtree"]["sessions"] == 1


@pytest.mark.thorough
def test_tree_that_runs(place: Place) -> None:
    """What runs below a session is counted first, with the time and tokens of its turn so far."""
    place.script(
        {"match": "inner", "do": [["usage", 2000, 100], *place.hold(), ["say", "inner answer"]]},
        {"match": "outer", "do": [["run", "csa run --tool claude-code 'the inner work'"], ["say", "outer answer"]]},
    )
    running = place.start("run", "--tool", "codex", "the outer work")
    place.wait_ready()
    above, below, totals = place.run("session", "list", "--tree").out.splitlines()
    assert " codex running [1 running]  the outer work  (" in above
    assert " claude-code running  the inner work  (" in below
    assert totals.startswith("2 sessions, 2 running")
    assert [item["status"] for item in place.run("session", "list", "--status", "running", "--json").json] == [
        "running"
    ] * 2
    place.release()
    assert running.wait().code == 0


@pytest.mark.thorough
def test_tree_with_filters_keeps_what_is_above(place: Place, store: Store) -> None:
    """A filtered tree shows what fits and, so that it hangs together, what that stands below."""
    lines = place.run("session", "list", "--tree", "--tool", "claude-code").out.splitlines()
    assert [line.strip("└─ ").split()[0] for line in lines[:-1]] == [session_id(1), session_id(3)]
    lines = place.run("session", "list", "--tree", "--branch", "main", "--tool", "claude-code").out.splitlines()
    assert lines[1].startswith(f"└─ {session_id(3)}")


@pytest.mark.thorough
def test_tree_of_forks_and_the_missing(place: Place) -> None:
    """A fork hangs on a dashed edge; children of what is gone, retired or elsewhere stand below a node that says so."""
    store = store_of(place)
    write_session(store, 1)
    write_session(store, 2, fork_of=session_id(1))
    write_session(store, 3, fork_of=MISSING)
    write_session(store, 4, parent_session_id=session_id(1), fork_of=session_id(3), depth=1)
    write_session(store, 5, parent_session_id=MISSING, depth=1)
    write_session(store, 6)
    write_session(store, 7, parent_session_id=session_id(6), depth=1)
    retire(store, session_id(6))
    away = "01JH4QWEYY0000000000000000"
    write_session(store, 8, parent_session_id=away, parent_project=str(place.home / "web"), depth=1)
    lines = place.run("session", "list", "--tree").out.splitlines()
    assert f"{away}  (in ~/web)  (1m00s 1.1k -)" in lines
    assert f"{MISSING}  (missing)  (1m00s 1.1k -)" in lines
    assert f"{session_id(6)}  (retired)  (1m00s 1.1k -)" in lines
    assert any(line.startswith(f"{session_id(3)} codex succeeded  (fork of {MISSING[:10]}") for line in lines)
    at = next(index for index, line in enumerate(lines) if line.startswith(session_id(1)))
    assert lines[at + 1].startswith(f"├╌ {session_id(2)}")
    assert "(fork) work 2" in lines[at + 1]
    assert lines[at + 2].startswith(f"└─ {session_id(4)} codex succeeded  (fork of {session_id(3)[:10]}")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_cycles_are_harmless(place: Place, length: int) -> None:
    """Sessions that are each other's ancestors are all shown once."""
    store = store_of(place)
    for number in range(length):
        above = session_id((number + 1) % length)
        changes: dict[str, Any] = {"fork_of": above} if number % 2 else {"parent_session_id": above}
        write_session(store, number, depth=1, **changes)
    lines = place.run("session", "list", "--tree").out.splitlines()
    assert sorted(re.findall(r"^\W*(01JH\w+)", "\n".join(lines), re.MULTILINE)) == sorted(
        map(session_id, range(length))
    )
    assert len(place.run("session", "list", "--tree", "--json").json) == length


@pytest.mark.thorough
@pytest.mark.parametrize("columns", [40, 50, 60, 80, 140])
@pytest.mark.parametrize("words", [[], ["--tree"], ["--all-projects"], ["--status", "retired"]], ids=" ".join)
def test_on_a_terminal(place: Place, store: Store, columns: int, words: list[str]) -> None:
    """At any width no line is broken, the unique part of ids is bold, and NO_COLOR takes only the styles."""
    place.run("switch", session_id(4))
    shown: dict[str, list[str]] = {}
    for colours, env in (("with", {}), ("without", {"NO_COLOR": "1"})):
        with Terminal(place, "session", "list", *words, size=(columns, 30), env=dict(env)) as terminal:
            assert terminal.end() == 0
        shown[colours] = terminal.text.splitlines()
        assert ("\x1b[" in terminal.output) == (colours == "with")
        if colours == "with" and not words:
            assert f"\x1b[1m{session_id(5)[:10]}\x1b[0m" in terminal.output
    assert shown["with"] == shown["without"]
    assert all(len(line) <= columns for line in shown["with"])
    assert re.search(r"^\d+ sessions?, 0 running", "\n".join(shown["with"][-2:]), re.MULTILINE)


@pytest.mark.thorough
def test_more_than_a_screen(place: Place) -> None:
    """A terminal is shown the 50 newest, and told how many more there are; a pipe gets all."""
    store = store_of(place)
    first = write_session(store, 0)
    content = (store.paths(first).root / "state.toml").read_text()
    for number in range(1, 60):
        root = store.paths(session_id(number)).root
        root.mkdir()
        (root / "state.toml").write_text(content.replace(first, session_id(number)))
    with Terminal(place, "session", "list", size=(80, 24)) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert len(lines) == 53
    assert lines[-2].startswith("50 of 60 sessions, ")
    assert lines[-1] == "csa: ... and 10 more (--limit 60 shows all)"
    assert len(place.run("session", "list").out.splitlines()) == 62
    assert "... and 57 more" in place.run("session", "list", "--limit", "3").err


@pytest.mark.thorough
def test_reading_collected_sessions(place: Place, store: Store) -> None:
    """Read commands find a collected session; those that act say that it was retired, and how to restore it."""
    collected = session_id(6)
    reads = [["result"], ["info"], ["logs"], ["show"], ["artifacts"], ["export", "--format", "md"], ["why"], ["wait"]]
    reads += [["budget"], ["checkpoints"], ["log"], ["validate"], ["attach"], ["repair", "--dry-run"]]
    before = snapshot(place.state_root)
    for words in reads:
        assert place.run("session", *words, collected).code == 0, words
        assert place.run("session", *words, "-s", collected.lower()).code == 0, words
    assert snapshot(place.state_root) == before
    assert place.run("session", "wait", collected).out.startswith(f"{collected}: succeeded (codex, turn 1")
    assert place.run("session", "attach", "-q", collected).out == "done\n"
    assert place.run("session", "result", collected).out == "done\n"
    assert place.run("session", "is-alive", collected).code == 1
    assert place.run("session", "info", collected, "--json").json["phase"] == "retired"
    for words in (["run", "--session", collected, "more"], ["session", "switch", collected]):
        done = place.run(*words)
        assert done.code == 3
        assert f"hint: csa restore {collected}" in done.err


@pytest.mark.thorough
def test_looking_writes_nothing(place: Place, store: Store) -> None:
    """Every way of listing leaves the store byte-identical, times included."""
    before = snapshot(place.state_root)
    for words in ([], ["--tree"], ["--json"], ["--tree", "--json"], ["--all-projects"], ["--status", "retired"]):
        assert place.run("session", "list", *words).code == 0
    for words in (["info", session_id(4)], ["show", session_id(1)], ["artifacts", session_id(6)], ["current"]):
        place.run("session", *words)
    place.run("stats", "--all-projects")
    assert place.run("session", "export", session_id(1), "--tree", "-o", str(place.tmp / "archive")).code == 0
    assert snapshot(place.state_root) == before


def test_list_reads_no_more_than_it_shows(place: Place, store: Store) -> None:
    """A short list of the newest does not open the records of the others."""
    old = store.paths(session_id(0)).state
    old.unlink()
    os.mkfifo(old)  # whoever opens it to read waits for ever
    done = place.run("session", "list", "--limit", "3")
    assert (done.code, len(done.out.splitlines())) == (0, 5)


def test_paths_are_shown_from_home(place: Place) -> None:
    """In the column of projects the home directory is `~`."""
    project: Path = place.home / "api"
    write_session(Store(place.state_root, project), 1)
    assert " ~/api " in place.run("session", "list", "--all-projects").out
    assert json.loads(place.run("session", "list", "--all-projects", "--json").out)[0]["project"] == str(project)


@pytest.mark.thorough
def test_a_tool_that_is_none(place: Place) -> None:
    """A name that is no tool's is not found silently; one that a record has, or that csa can run, is."""
    first = place.codex("hello").session_id
    state = place.session(first) / "state.toml"
    for words in (
        ["list"],
        ["list", "--json"],
        ["list", "--tree"],
        ["list", "--all-projects"],
        ["clean", "--days", "0"],
    ):
        done = place.run("session", *words, "--tool", "codxe,claude-code")
        assert done.code == 2
        assert "Unknown tool 'codxe'." in done.err + done.out
        assert "did you mean 'codex'?" in done.err + done.out
        done = place.run("session", *words, "--tool", "claude-code")
        assert (done.code, first in done.out) == (0, False)
    state.write_text(state.read_text().replace("[tools.codex]", "[tools.codxe]"))
    assert first in place.run("session", "list", "--tool", "codxe").out
    done = place.run("session", "list", "--tool", "codxe", "--branch", "none")
    assert (done.code, done.out) == (0, "No sessions found\n")
    assert place.run("session", "clean", "--days", "30", "--tool", "codxe").code == 0


@pytest.mark.thorough
def test_one_more_tree(place: Place) -> None:
    """What the limit leaves out is counted, in the singular too."""
    for number in range(3):
        place.codex(f"task {number}")
    for limit, rest in ((2, "1 more tree"), (1, "2 more trees")):
        done = place.run("session", "list", "--tree", "--limit", str(limit))
        assert done.err == f"csa: ... and {rest} (--limit 3 shows all)\n"
