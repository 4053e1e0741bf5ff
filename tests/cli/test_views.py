"""The live views in a real terminal: `session list --watch`, `top`, and the progress of `run`."""

from __future__ import annotations

import json
import os
import re
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte
import pytest

from csa.cli.views.live import REFRESH_S
from csa.store.sessions import Store
from tests.cli.prepared import store_of, write_session
from tests.cli.terminal import ENTER_SCREEN, HIDE_CURSOR, LEAVE_SCREEN, SHOW_CURSOR, Terminal
from tests.support import Place, Running, snapshot

WATCH = ("session", "list", "--tree", "--watch")


@contextmanager
def running_tree(place: Place) -> Iterator[Running]:
    """Run a codex that has started a claude-code, which waits."""
    place.script(
        {"match": "inner", "do": [["think", "so be it"], *place.hold(), ["usage", 2000, 100], ["say", "inner answer"]]},
        {"match": "outer", "do": [["run", "csa run --tool claude-code 'the inner work'"], ["say", "outer answer"]]},
    )
    running = place.start("run", "--tool", "codex", "the outer work")
    place.wait_ready()
    yield running
    place.release()
    assert running.wait().code == 0


def ends_clean(terminal: Terminal, code: int) -> None:
    """The command ended so, and left the terminal as it was."""
    assert terminal.end() == code, terminal.output
    assert terminal.output.count(ENTER_SCREEN) == terminal.output.count(LEAVE_SCREEN) > 0
    assert terminal.output.rindex(SHOW_CURSOR) > terminal.output.rindex(HIDE_CURSOR)
    _, _, left = terminal.output.rpartition(LEAVE_SCREEN)
    assert re.sub(r"\x1b\[\?\d+[hl]", "", left).strip() == ""
    assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert "Traceback" not in terminal.output


@pytest.mark.thorough
def test_watch_follows_a_tree(place: Place) -> None:
    """The tree is shown with what each agent does, changes as it goes on, and Ctrl-C leaves exit 0 and no trace."""
    with Terminal(place, *WATCH, size=(140, 12)) as terminal:
        terminal.wait_for_frame("No sessions yet")
        with running_tree(place):
            frame = terminal.wait_for_frame("└─ ●", "thinking: so be it", "2 sessions, 2 running", columns=140)
            assert "● " in frame[1]
            assert "codex the outer work · $ csa run --tool claude-code 'the inner work'" in frame[1]
            assert {len(line) for line in frame[:3]} == {140}
        frame = terminal.wait_for_frame("outer answer", "inner answer", "2 sessions, 0 running")
        assert "2.1k" in frame[2]
        terminal.type("\x03")
        ends_clean(terminal, 0)


@pytest.mark.thorough
def test_watching_writes_nothing(place: Place) -> None:
    """The store is byte-identical after it was watched."""
    place.codex("one")
    before = snapshot(place.state_root)
    for words in (WATCH, ("top", "--all")):
        with Terminal(place, *words) as terminal:
            terminal.wait_for_frame("FAKE ECHO: one")
            terminal.type("q")
            ends_clean(terminal, 0)
    place.run("top", "--json", "--all")
    assert snapshot(place.state_root) == before


@pytest.mark.thorough
def test_watch_follows_the_size_of_the_terminal(place: Place) -> None:
    """The right columns move to the new edge, and fewer lines show fewer rows."""
    for number in range(8):
        write_session(store_of(place), number, description=f"task {number}")
    with Terminal(place, *WATCH, size=(80, 24)) as terminal:
        terminal.wait_for_frame("task 0", "task 7", "8 sessions", columns=80)
        terminal.resize(120, 24)
        frame = terminal.wait_for_frame("8 sessions", columns=120)
        assert frame[0].endswith("TIME TOKENS    COST")
        terminal.resize(45, 6)
        terminal.wait(
            lambda: terminal.frame[:1] and terminal.frame[0].endswith("TIME"), "the columns are at the new edge"
        )
        frame = terminal.wait_for_frame("... and 6 more", "8 sessions", columns=45)
        assert len(frame) == 6
        terminal.type("q")
        ends_clean(terminal, 0)


@pytest.mark.thorough
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_leave_a_clean_screen(place: Place, number: signal.Signals, code: int) -> None:
    """However it is ended, the screen and the terminal's settings are given back."""
    place.codex("one")
    with Terminal(place, *WATCH) as terminal:
        terminal.wait_for_frame("1 session")
        terminal.process.send_signal(number)
        ends_clean(terminal, code)


@pytest.mark.thorough
def test_stopping_and_going_on(place: Place) -> None:
    """Ctrl-Z gives the screen and the keys back to the shell; going on takes them again."""
    place.codex("one")
    script = f"set -m; csa {' '.join(WATCH)}; echo stopped: $?; stty -a | grep -w echo; read line; fg"
    with Terminal(place, "bash", "-c", script) as terminal:
        terminal.wait_for_frame("1 session")
        terminal.type("\x1a")
        terminal.wait_for(f"stopped: {128 + signal.SIGTSTP}")
        terminal.wait_for(" echo ")
        assert terminal.output.count(LEAVE_SCREEN) == 1
        shown = len(terminal.output)
        terminal.type("\n")
        terminal.wait(lambda: ENTER_SCREEN in terminal.output[shown:], "the screen is taken again")
        terminal.wait(lambda: "1 session" in terminal.output[shown:], "the tree is drawn again")
        terminal.type("q")
        ends_clean(terminal, 0)


@pytest.mark.thorough
def test_watch_without_colour(place: Place) -> None:
    """Under NO_COLOR the view is redrawn as ever, without colours or bold; what is selected is in reverse."""
    place.codex("one")
    with Terminal(place, *WATCH, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for_frame("FAKE ECHO: one")
        terminal.type("q")
        ends_clean(terminal, 0)
        assert set(re.findall(r"\x1b\[([\d;]*)m", terminal.output)) == {"0", "0;7"}


@pytest.mark.thorough
def test_a_dumb_terminal_is_not_redrawn(place: Place) -> None:
    """Where the cursor cannot be moved `--watch` is refused with a hint, and `top` prints once."""
    place.codex("one")
    with Terminal(place, *WATCH, env={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 2
        assert "hint: csa ls --tree" in terminal.output
        assert "\x1b" not in terminal.output
    with Terminal(place, "top", "--all", env={"TERM": "dumb"}) as terminal:
        assert terminal.end() == 0
        assert "FAKE ECHO: one" in terminal.output
        assert "\x1b" not in terminal.output


def test_watch_in_a_pipe_is_refused(place: Place) -> None:
    """A reader of a pipe would wait for ever: exit 2, and what to call instead."""
    done = place.run(*WATCH)
    assert (done.code, done.out) == (2, "")
    assert "hint: csa ls --tree" in done.err
    assert place.run(*WATCH, "--json").code == 2


@pytest.mark.thorough
def test_escapes_of_agents_do_not_reach_the_screen(place: Place) -> None:
    """What an agent says cannot move the cursor or break the columns."""
    place.play(["say", "\x1b[2J\x1b]0;title\x07日本語 " * 20])
    place.codex("one")
    with Terminal(place, *WATCH, env={"NO_COLOR": "1"}) as terminal:
        frame = terminal.wait_for_frame("日本語", "1 session")
        assert frame[0].endswith("TIME TOKENS    COST")
        terminal.type("q")
        ends_clean(terminal, 0)
        assert "\x1b[2J" not in terminal.output.partition(ENTER_SCREEN)[2].partition("日")[2]
        assert "title\x07" not in terminal.output


@pytest.mark.thorough
def test_top_shows_all_projects(place: Place) -> None:
    """What runs in each project, below the project's name; what has ended only with --all."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    finished = place.run("run", "--tool", "codex", "--cd", str(other), "long over").session_id
    assert place.run("top").out.splitlines()[1:] == [
        "Nothing is running; --all shows the newest sessions",
        "0 sessions, 0 running",
    ]
    with running_tree(place) as running:
        with Terminal(place, "top", size=(100, 20)) as terminal:
            frame = terminal.wait_for_frame("the inner work", "thinking: so be it", "2 sessions, 2 running")
            assert str(other) not in "\n".join(frame)
            assert any(line.startswith(str(place.project)[:60]) for line in frame)
            terminal.type("q")
            ends_clean(terminal, 0)
        once = place.run("top", "--all").out
        assert "long over" in once
        assert str(other) in once
        assert "\x1b" not in once
        listed = place.run("top", "--json").json
        assert [item["tool"] for item in listed] == ["claude-code", "codex"]
        inner, outer = listed
        assert outer["id"] == inner["parent"] == running.session_id
        assert set(inner) >= {"project", "id", "parent", "tool", "turn", "status", "doing", "elapsed_s", "usage"}
        assert (inner["project"], inner["turn"], inner["status"]) == (str(place.project), 1, "running")
        assert inner["doing"] == "thinking: so be it"
        assert inner["elapsed_s"] >= 0
        assert [item["id"] for item in place.run("top", "--json", "--all").json][-1] == finished
    assert place.run("top", "--json").json == []


@pytest.mark.thorough
def test_a_tree_that_spans_projects(place: Place) -> None:
    """`top` shows a child in another project below its parent, and so does the progress of the run."""
    other = place.tmp / "other"
    (other / ".csa").mkdir(parents=True)
    place.script(
        {"match": "inner", "do": [*place.hold(), ["say", "x"]]},
        {"match": "outer", "do": [["run", f"csa run --cd {other} --tool codex inner"], ["say", "outer answer"]]},
    )
    with Terminal(place, "run", "--tool", "codex", "outer", size=(140, 20)) as terminal:
        place.wait_ready()
        terminal.wait_for("└─ ● ")
        terminal.wait_for(f"codex ({other})")
        headings = [line.split()[0] for line in place.run("top").out.splitlines() if line.startswith("/")]
        assert headings == [str(place.project)]
        place.release()
        assert terminal.end() == 0


@pytest.mark.thorough
def test_progress_of_a_run(place: Place) -> None:
    """While it runs the tree is drawn in place; what stays is the headline, who was there, their sum and the answer."""
    place.script(
        {"match": "inner", "do": [*place.hold(), ["usage", 2000, 100], ["say", "inner answer"]]},
        {"match": "outer", "do": [["run", "csa run --tool claude-code inner"], ["say", "outer answer"]]},
    )
    with Terminal(place, "run", "--tool", "codex", "outer", size=(100, 20)) as terminal:
        place.wait_ready()
        terminal.wait_for("└─ ● ")
        terminal.wait_for("2 sessions, 2 running")
        terminal.resize(60, 20)
        place.release()
        assert terminal.end() == 0
    assert ENTER_SCREEN not in terminal.output
    assert terminal.output.rindex(SHOW_CURSOR) > terminal.output.rindex(HIDE_CURSOR)
    headline = re.match(r"csa: session (\w{10}), turn 1, codex \(asked for\)\n", terminal.text.replace("\r", ""))
    assert headline
    *_, root, child, total, answer = terminal.text.splitlines()
    assert f"✓ {headline[1]} codex outer" in root
    assert re.match(r"└─ ✓ \w{10} claude-code inner", child)
    assert re.fullmatch(r"csa: 2 sessions in \d+s, [\d.]+k\+? tokens(, \$[\d.]+\+?)?", total)
    assert answer == "outer answer"


def _left_on(terminal: Terminal, columns: int) -> list[str]:
    """Return the lines that stay on the terminal."""
    screen = pyte.Screen(columns, 60)
    pyte.ByteStream(screen).feed(terminal.output.encode())
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.thorough
def test_a_failure_is_told_once(place: Place) -> None:
    """Not as it comes, in a closing line and as the error; of a child in the tree that is left."""
    place.script(
        {"match": "inner", "do": [["fail", "auth"]]},
        {"match": "outer", "do": [["run", "csa run --tool claude-code inner"], ["fail", "server"]]},
    )
    with Terminal(place, "run", "--tool", "codex", "--name", "api", "outer", size=(100, 30)) as terminal:
        assert terminal.end() == 1
    lines = _left_on(terminal, 100)
    assert lines[0] == "csa: session api, turn 1, codex (asked for)"
    assert sum("error: codex failed (server)" in line for line in lines) == 1
    assert lines[1].startswith("✗ api codex failed  ")
    assert re.match(r"└─ ✗ \w{10} claude-code inner · failed: ", lines[2])
    assert re.match(r"csa: 2 sessions in \d+s, 2 failed", lines[3])
    plain = place.run("run", "--tool", "codex", "--session", "api", "inner")
    assert [line.partition(":")[0] for line in plain.err.splitlines()] == ["csa", "csa", "error", "hint"]


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 2])
def test_keys_do_not_disturb_what_is_drawn(place: Place, count: int) -> None:
    """What is typed, Ctrl-C included, is not echoed into the tree, which would stay behind; then the echo is back."""
    place.play(["ignore-term"], *place.hold())
    with Terminal(place, "run", "--tool", "codex", "go on") as terminal:
        terminal.wait_for("● ")
        place.wait_ready()
        terminal.wait(lambda: not is_echoing(terminal), "the echo is off")
        terminal.type("typed\n" + "\x03" * count)
        assert terminal.end() == 130
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert "^C" not in terminal.text
    assert "typed" not in terminal.text
    assert "csa: ended after" in terminal.text


@pytest.mark.thorough
def test_stopping_a_run_gives_the_echo_back(place: Place) -> None:
    """The shell that Ctrl-Z leads back to echoes; a run that goes on in the background leaves that alone."""
    place.play(*place.hold(), ["say", "the answer"])
    script = "set -m; csa run --tool codex go; stty -a | grep -w echo; bg; echo in the background; read line; fg"
    with Terminal(place, "bash", "-c", script) as terminal:
        terminal.wait_for("● ")
        place.wait_ready()
        terminal.wait(lambda: not is_echoing(terminal), "the echo is off")
        terminal.type("\x1a")
        terminal.wait_for(" echo ")
        terminal.wait_for("in the background")
        shown = len(terminal.output)
        time.sleep(4 * REFRESH_S)  # nothing is drawn meanwhile
        terminal.type("\n")
        terminal.wait(lambda: not is_echoing(terminal), "the echo is off again")
        terminal.wait(lambda: "●" in terminal.output[shown:], "it is drawn on")
        assert terminal.output[shown:].partition(HIDE_CURSOR)[0].strip() == "csa run --tool codex go"
        place.release()
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert terminal.text.count("csa: succeeded in") == 1


def hides_cursor(text: str) -> bool:
    """Say whether a terminal that was sent this shows no cursor."""
    return text.rfind(HIDE_CURSOR) > text.rfind(SHOW_CURSOR)


@pytest.mark.thorough
def test_a_background_job_draws_nothing(place: Place) -> None:
    """`csa run ... &` says its lines, once each; in the foreground it draws, and after Ctrl-Z and `bg` no more."""
    later = place.tmp / "later"
    place.play(["say", "one"], *place.hold(), ["run", "echo two"], ["wait-file", str(later), 60], ["say", "the answer"])
    script = "set -m; csa run --tool codex go & read line; fg; echo stopped: $?; bg; read line; wait"
    with Terminal(place, "bash", "-c", script) as terminal:
        place.wait_ready()
        terminal.wait_for("turn 1, codex")
        assert HIDE_CURSOR not in terminal.output
        assert is_echoing(terminal)
        terminal.type("\n")
        terminal.wait(lambda: "●" in terminal.output, "it is drawn in the foreground")
        assert not is_echoing(terminal)
        terminal.type("\x1a")
        terminal.wait_for(f"stopped: {128 + signal.SIGTSTP}")
        assert not hides_cursor(terminal.output)
        assert is_echoing(terminal)
        shown = len(terminal.output)
        place.release()
        terminal.wait(lambda: "two" in terminal.output[shown:], "a line for what happens")
        later.touch()
        terminal.wait(lambda: "succeeded in" in terminal.output[shown:], "it ends")
        terminal.type("\n")
        assert terminal.end() == 0
    assert HIDE_CURSOR not in terminal.output[shown:]
    assert "\x1b[2K" not in terminal.output[shown:]
    assert terminal.text.count("csa: succeeded in") == 1


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGABRT, signal.SIGXCPU])
@pytest.mark.parametrize("words", [("run", "--tool", "codex", "go"), WATCH, ("top", "--all")])
def test_signals_that_kill_leave_the_terminal_as_it_was(
    place: Place, words: tuple[str, ...], number: signal.Signals
) -> None:
    """Ctrl-\\ and its like kill csa as any program, but the cursor, the echo and the screen are given back first."""
    place.play(*place.hold(), ["say", "the answer"])
    with Terminal(place, *words) as terminal:
        terminal.wait(lambda: hides_cursor(terminal.output), "it is drawn")
        if words[0] == "run":
            place.wait_ready()
        if number == signal.SIGQUIT:
            terminal.type("\x1c")
        else:
            terminal.process.send_signal(number)
        assert terminal.end() == -number
        assert not hides_cursor(terminal.output)
        assert termios.tcgetattr(terminal.theirs) == terminal.before
    assert terminal.output.count(ENTER_SCREEN) == terminal.output.count(LEAVE_SCREEN)


@pytest.mark.thorough
def test_a_stop_that_nobody_hears_of(place: Place) -> None:
    """After SIGSTOP what is drawn stays where it is, and the tree is drawn anew below what the shell has written."""
    place.play(*place.hold(), ["say", "the answer"])
    script = "set -m; csa run --tool codex go; echo stopped; read line; fg"
    with Terminal(place, "bash", "-c", script) as terminal:
        terminal.wait_for("● ")
        place.wait_ready()
        (csa,) = children(terminal.process.pid)
        os.kill(csa, signal.SIGCONT)  # that says nothing to who was not stopped
        os.kill(csa, signal.SIGSTOP)
        terminal.wait_for("stopped")
        time.sleep(4 * REFRESH_S)  # as long as a person takes
        shown = len(terminal.output)
        terminal.type("\n")
        terminal.wait(lambda: "●" in terminal.output[shown:], "it is drawn again")
        assert terminal.output[:shown].count(HIDE_CURSOR) == 1
        again = terminal.output[shown:]
        assert "\x1b[1A" not in again[: again.index("●")]
        place.release()
        assert terminal.end() == 0


@pytest.mark.thorough
@pytest.mark.parametrize("words", [WATCH, ("top", "--all")])
@pytest.mark.parametrize("stdin", ["", "< /dev/null"])
def test_the_whole_screen_is_not_taken_from_the_background(place: Place, words: tuple[str, ...], stdin: str) -> None:
    """What would cover the screen is stopped until it is in the foreground, as with any pager."""
    place.codex("one")
    script = f"set -m; csa {' '.join(words)} {stdin} & read line; jobs; fg"
    with Terminal(place, "bash", "-c", script) as terminal:
        terminal.wait(lambda: children(terminal.process.pid, state="T"), "it is stopped")
        assert ENTER_SCREEN not in terminal.output
        terminal.type("\n")
        terminal.wait_for("Stopped")
        terminal.wait_for_frame("FAKE ECHO: one")
        terminal.type("\x03" if stdin else "q")
        assert terminal.end() == 0
    assert terminal.output.count(ENTER_SCREEN) == terminal.output.count(LEAVE_SCREEN) == 1


def children(pid: int, state: str = "") -> list[int]:
    """Return the children of a process, in a state if one is given."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    states = {each: Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] for each in found}
    return [int(each) for each, is_in in states.items() if not state or is_in == state]


def is_echoing(terminal: Terminal) -> bool:
    """Say whether the terminal shows what is typed."""
    return bool(termios.tcgetattr(terminal.theirs)[3] & termios.ECHO)


@pytest.mark.thorough
def test_events_in_a_pipe_beside_a_live_view(place: Place) -> None:
    """`run --stream-json` with stderr on a terminal: the events are on stdout, all of them, and nowhere else."""
    read, write = os.pipe()
    with Terminal(place, "run", "--tool", "codex", "--stream-json", "hello", stdout=write) as terminal:
        os.close(write)
        assert terminal.end() == 0
    with os.fdopen(read) as pipe:
        events = [json.loads(line) for line in pipe]
    assert [event["type"] for event in events][-1] == "run_finished"
    assert '"run_finished"' not in terminal.output
    with Terminal(place, "run", "--tool", "codex", "--stream-json", "hello") as terminal:
        assert terminal.end() == 0
    assert HIDE_CURSOR not in terminal.output  # no view is drawn between the lines
    assert sum(line.startswith('{"v"') for line in terminal.output.splitlines()) == len(events)


@pytest.mark.thorough
def test_the_tree_has_columns_where_there_is_room(place: Place) -> None:
    """`session list --tree` ends its lines with time, tokens and cost from 80 columns on, and in a pipe."""
    place.play(["usage", 2000, 100], ["say", "x"])
    session_id = place.run("run", "--tool", "claude-code", "a description that is rather long " * 4).session_id
    for columns in (79, 80, 140):
        with Terminal(place, "session", "list", "--tree", size=(columns, 24)) as terminal:
            assert terminal.end() == 0
        *_, line, _ = terminal.text.splitlines()
        assert len(line) == columns
        assert ("2.1k" in line) == (columns >= 80)
    assert place.run("session", "list", "--tree").out.startswith(f"{session_id} * claude-code succeeded  a description")
    assert "(0s 2.1k $0.010)" in place.run("session", "list", "--tree").out


def test_top_imports_nothing_heavy_in_a_pipe(place: Place) -> None:
    """Only a terminal pays for prompt_toolkit."""
    names = place.imports("top")
    assert "csa" in names
    assert not names & {"rich", "prompt_toolkit", "anyio", "asyncio", "tomlkit", "ulid"}
    assert not Store(place.state_root, place.project).path.exists()


@pytest.mark.thorough
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_ids_stay_whole_on_a_narrow_terminal(place: Place, env: dict[str, str | None]) -> None:
    """Where an id is there to be copied, as much as is needed is shown, and the terminal folds the line."""
    size = (40, 24)
    with Terminal(place, "run", "--tool", "codex", "hello", size=size, env=env) as terminal:
        assert terminal.end() == 0
    (session_id,) = place.ids()
    assert f"csa: session {session_id[:10]}, turn 1, codex (asked for)\r\n" in terminal.text
    place.run("session", "checkpoint", session_id)
    state = place.session(session_id) / "state.toml"
    state.write_text(re.sub(r"last_accessed = .*", "last_accessed = 2026-01-01T00:00:00Z", state.read_text()))
    for words in (["checkpoints"], ["checkpoints", "--verify"], ["clean", "--days", "1", "--dry-run"]):
        with Terminal(place, "session", *words, size=size, env=env) as terminal:
            assert terminal.end() == 0
        assert session_id[:10] in terminal.text
