"""The conversation as it comes: `run -v` on stderr, `show -f` on stdout."""

from __future__ import annotations

import pytest

from tests.cli.prepared import store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Place, wait_for


def test_a_turn_that_is_shown_as_it_runs(place: Place) -> None:
    """`run -v` and `show -f` show messages and calls before the turn ends; stdout of run has the answer alone."""
    call = ["call", "make test", "one\ntwo\n", 3]
    place.play(["think", "hm"], call, ["say", "first"], *place.hold(), ["say", "last"])
    running = place.start("run", "-v", "--tool", "codex", "--name", "api", "check it")
    place.wait_ready()
    following = place.start("show", "-f", "api")
    wait_for(lambda: "\nfirst\n" in running.err and "\nfirst\n" in following.out, "both show the message")
    assert "last" not in running.err + following.out
    place.release()
    done, shown = running.wait(), following.wait()
    assert (done.code, done.out, shown.code) == (0, "last\n", 0)
    assert done.err.rpartition("csa: ")[2].startswith("succeeded in ")
    text = shown.out.partition("\n")[2]
    assert text.startswith("\n> check it\n\n(hm)\n\n")
    assert text.endswith("  ✗ $ make test (exit 3)  2 lines\n\nfirst\n\nlast\n")
    assert text in done.err
    whole = place.run("show", "api").out
    assert [line for line in shown.out.splitlines() if not line.startswith("  … ")] == whole.splitlines()
    assert place.run("run", "-v", "-q", "x").code == 2
    assert place.run("run", "-v", "--detach", "--tool", "codex", "x").code == 2
    assert place.run("show", "-f", "api", "--json").code == 2


def test_a_message_in_pieces_is_one(place: Place) -> None:
    """Pieces of a message stand together, and a message that follows below a blank line; what fails says so."""
    pieces = [("agent_message", {"text": text, "chunk": True}) for text in ("It wo", "rks.\nAll", " of it")]
    thought = ("agent_thought", {"text": "let me\nsee", "chunk": True})
    denied = ("permission", {"id": "p", "status": "denied", "title": "rm -rf x"})
    write_session(store_of(place), 1, name="api", status="failed", events=(thought, *pieces, denied), text="bye")
    text = place.run("show", "-f", "api").out
    said = (
        "\n\nlet me\nsee\n\nIt works.\nAll of it\n\n  ⊘ other: rm -rf x\n\nbye\n\n! turn 1 failed: the provider broke\n"
    )
    assert text.endswith(said)


@pytest.mark.thorough
def test_on_a_terminal(place: Place) -> None:
    """The end of a call takes the place of its beginning; the answer is not printed again below the conversation."""
    place.play(["call", "make test", "one\n", 0], ["say", "the answer"])
    with Terminal(place, "run", "-v", "--tool", "codex", "check", size=(80, 24)) as terminal:
        assert terminal.end() == 0
    assert "… $ make test\r\n\x1b[1A\x1b[2K" in terminal.text
    assert terminal.text.count("the answer") == 1


@pytest.mark.thorough
def test_nobody_reads_or_may_follow(place: Place) -> None:
    """A closed pipe ends `show -f`; an agent does not follow the turn that waits for it."""
    place.codex("x", "--name", "api")
    done = place.shell(["bash", "-c", "csa show -f api | head -1; echo ${PIPESTATUS[0]}"])
    assert (done.err, done.out.splitlines()[-1] in {"0", "141"}) == ("", True)
    place.play(["run", "csa show -f @self; echo code $?"], ["say", "done"])
    done = place.codex("follow yourself")
    assert "code 5" in place.run("show", "--full", done.session_id).out
