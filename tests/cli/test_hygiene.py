"""Keeping the store in order: deleting many, backups of repairs, sessions that nobody goes on with, short answers."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta

import pytest

from csa.model.result import ABRIDGED_LENGTH, abridge
from tests.cli.test_context import talk
from tests.support import Place


def backdate(place: Place, session_id: str, age: timedelta) -> None:
    """Make a session one that was last used so long ago."""
    path = place.session(session_id) / "state.toml"
    then = (datetime.now(UTC) - age).isoformat().replace("+00:00", "Z")
    path.write_text(re.sub(r"(?m)^last_accessed = .*$", f"last_accessed = {then}", path.read_text()))


@pytest.mark.thorough
def test_deleting_the_sessions_of_a_tool(place: Place) -> None:
    """Those that have used no other; pinned and running ones stay, and nothing goes without being confirmed."""
    pinned, plain, other = talk(place, "one"), talk(place, "two"), talk(place, "three", tool="claude-code")
    mixed = talk(place, "four")
    assert place.run("run", "--session", mixed, "--tool", "claude-code", "five").code == 0
    assert place.run("pin", pinned).code == 0
    words = ("rm", "--all", "--tool", "codex")
    done = place.run(*words)
    assert (done.code, "hint: csa rm --all --tool codex --yes" in done.err) == (2, True), done
    done = place.run(*words, "--yes")
    assert (done.code, done.out, "is pinned" in done.err) == (0, f"removed {plain}\n", True), done
    assert sorted(place.ids()) == sorted([pinned, other, mixed])
    damaged = place.store / "sessions" / "01JH4QWERT1234567890ABCDEF"
    damaged.mkdir()
    (damaged / "state.toml").write_text("damaged")
    found = place.run("rm", "--all", "--yes", "--json").json
    assert damaged.is_dir()
    assert {each["session_id"]: each["done"] for each in found} == {pinned: None, other: "removed", mixed: "removed"}


@pytest.mark.thorough
def test_what_all_does_not_go_with(place: Place) -> None:
    """Names, --force and --tree; an agent deletes what it names."""
    session_id = talk(place, "one")
    for words in (["--all", session_id], ["--all", "--force"], ["--all", "--tree"], ["--tool", "codex", session_id]):
        assert place.run("rm", *words).code == 2, words
    assert place.run("rm", "--all", "--tool", "codax", "--yes").code == 2
    assert place.run("rm", "--all", "--tool", "opencode", "--yes").code == 0
    _, env = place.agent()
    assert place.run("rm", "--all", "--yes", env=env).code == 5
    assert session_id in place.ids()


@pytest.mark.thorough
def test_an_idle_session_is_not_continued_unasked(place: Place) -> None:
    """--last and --continue say so when `session_timeout` has passed; the name of the session is enough to go on."""
    session_id = talk(place, "one")
    env = {"CSA_CONF_SESSION_TIMEOUT": "1h"}
    assert place.run("run", "--last", "two", env=env).code == 0
    backdate(place, session_id, timedelta(hours=3))
    for word in ("--last", "--continue", "--session=@last", "--session=@current"):
        done = place.run("run", word, "three", env=env)
        assert (done.code, "was idle for 3h, and session_timeout is 1h" in done.err) == (5, True), done
    assert place.run("run", "--session", session_id, "three", env=env).code == 0
    backdate(place, session_id, timedelta(hours=3))
    assert place.run("run", "--last", "four").code == 0


@pytest.mark.thorough
def test_another_name_for_the_window(place: Place) -> None:
    """`max_context_tokens` is `context_window_tokens`, in files and in the environment, but not beside it."""
    shown = place.run("config", "show", "--json", env={"CSA_CONF_MAX_CONTEXT_TOKENS": "9"}).json
    assert shown["context_window_tokens"]["value"] == 9
    (place.project / ".csa").mkdir(exist_ok=True)
    path = place.project / ".csa/config.toml"
    path.write_text("max_context_tokens = 7\n")
    assert place.run("config", "show", "--json").json["context_window_tokens"]["value"] == 7
    path.write_text("max_context_tokens = 7\ncontext_window_tokens = 8\n")
    done = place.run("config", "show")
    assert (done.code, "are the same" in done.err) == (6, True), done


@pytest.mark.thorough
def test_a_repair_keeps_what_it_changes(place: Place) -> None:
    """Each file as it was, named in the output; gc removes the copies some days later, and nothing sooner."""
    session_id = talk(place, "one")
    directory = place.session(session_id)
    (directory / "result.toml").write_text("damaged")
    with (directory / "transcript.jsonl").open("ab") as file:
        file.write(b'{"half')
    assert "would keep transcript.jsonl, result.toml" in place.run("repair", session_id, "--dry-run").out
    assert not (directory / "backup").exists()
    done = place.run("repair", session_id, "--json").json
    assert done["kept"] == ["transcript.jsonl", "result.toml"]
    kept = directory / done["backup"]
    assert (kept / "result.toml").read_text() == "damaged"
    assert (kept / "transcript.jsonl").read_text() == '{"half'
    assert place.run("validate", session_id).code == 0
    assert place.run("gc", "--days", "30").out == ""
    kept.rename(kept.with_name("20200101T000000.000000Z"))
    assert "1 backup of a repair" in place.run("gc", "--days", "30").out
    assert list((directory / "backup").iterdir()) == []


@pytest.mark.thorough
def test_a_summary_of_a_long_answer(place: Place) -> None:
    """Its beginning and its end, and the command that prints all of it; a short answer is whole."""
    middle = " ".join(f"Sentence {number} of the middle." for number in range(300))
    place.play(["say", f"First things first.\n\n{middle}\n\nIn the end it works."])
    done = place.run("run", "--tool", "codex", "--summary", "go")
    session_id = done.session_id
    assert done.out.startswith("First things first.\n\nSentence 0 of the middle. ")
    assert done.out.endswith(".\n\nIn the end it works.\n")
    (way,) = re.findall(r"about [\d,]+ tokens left out; `csa (result .*)` prints all", done.out)
    assert len(done.out) < ABRIDGED_LENGTH + 200
    assert place.run("result", session_id, "--summary").out == done.out
    assert "Sentence 150 " in place.run(*way.split()).out
    place.play(["say", "short"])
    assert place.codex("go", "--summary").out == "short\n"
    for option in ("--detach", "--ephemeral"):
        assert place.run("run", option, "--summary", "go").code == 2


@pytest.mark.parametrize("text", ["x" * 5000, "ab " * 2000, "A sentence. " * 500, "a\n" * 3000, "p\n\n" * 2000])
def test_a_long_text_is_cut_where_it_may_be(text: str) -> None:
    """Whatever it is made of, what is left is about as long as promised, and says how much is not there."""
    short = abridge(text, "csa result X")
    head, note, tail = re.split(
        r"\n\n(\[\.\.\. about [\d,]+ tokens left out; `csa result X` prints all \.\.\.\])\n\n", short
    )
    assert text.startswith(head)
    assert text.endswith(tail)
    assert ABRIDGED_LENGTH // 2 <= len(head) + len(tail) <= ABRIDGED_LENGTH
    left = int(re.sub(r"\D", "", note.split("tokens")[0]))
    assert abs(left * 4 - (len(text) - len(head) - len(tail))) <= 8


@pytest.mark.thorough
def test_stats_name_the_most_active_tool(place: Place) -> None:
    """`session stats` is the same command; one line says what is running and which tool has run most."""
    talk(place, "one", "two", "three")
    talk(place, "four", tool="claude-code")
    done = place.run("session", "stats")
    assert done.out.splitlines()[-1] == "0 turns running, most active tool: codex (75% of the turns)"
    found = place.run("stats", "--by", "day", "--json").json
    assert (found["running"], found["most_active_tool"]) == (0, "codex")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["result.toml", "state.toml"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_repair_replaces_what_is_no_file(place: Place, name: str, kind: str) -> None:
    """A pipe or a link in a record's place is kept as it is, not read."""
    session_id = talk(place, "one")
    path = place.session(session_id) / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc")
    found = place.run("repair", session_id, "--json")
    assert (found.code, found.json["kept"]) == (0, [name]), found
    kept = place.session(session_id) / found.json["backup"] / name
    assert kept.is_fifo() if kind == "pipe" else kept.is_symlink()
    assert place.run("validate", session_id).code == 0
