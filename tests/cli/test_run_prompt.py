"""How a prompt reaches the tool: from the words, stdin or a file, byte for byte, and never on its command line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import CSA, Place

BOTH = pytest.mark.parametrize("tool", ["codex", "claude-code", "opencode"])
BULK = ("--resume \"quoted\" 'single' `back` $HOME \\n\ttab\r\n grüße 漢字 🜁 \u200b--flag\n" * 5000)[: 300 << 10]

UNREAD = "warning: stdin was not read; csa run --stdin adds it to the prompt"


@pytest.fixture
def seen(place: Place) -> Path:
    """Return where the fake writes what it read from stdin."""
    path = place.tmp / "stdin"
    place.play(["write-stdin", str(path)], ["say", "read"])
    return path


@pytest.mark.parametrize("words", [[], ["-"]], ids=["none", "dash"])
def test_prompt_from_stdin(place: Place, seen: Path, words: list[str]) -> None:
    """Without PROMPT, or with `-`, stdin is the prompt."""
    assert place.run("run", "--tool", "codex", *words, stdin=b"from stdin\n").code == 0
    assert seen.read_bytes() == b"from stdin\n"


def test_prompt_from_file(place: Place, seen: Path) -> None:
    """`--prompt-file` reads the prompt from a file, relative to where csa was started."""
    (place.project / "prompt.md").write_text("from a file\n")
    assert place.run("run", "--tool", "codex", "--prompt-file", "prompt.md").code == 0
    assert seen.read_bytes() == b"from a file\n"


def test_prompt_and_stdin_are_joined(place: Place, seen: Path) -> None:
    """PROMPT and `--stdin`: both, with a blank line between."""
    assert place.run("run", "--tool", "codex", "--stdin", "Review this:", stdin=b"a diff\n").code == 0
    assert seen.read_bytes() == b"Review this:\n\na diff\n"


@BOTH
@pytest.mark.parametrize("way", ["stdin", "file"])
def test_long_prompt_arrives_whole(place: Place, seen: Path, tool: str, way: str) -> None:
    """300 KiB with a leading `--`, quotes and UTF-8 arrive byte for byte."""
    content = BULK.encode()
    (place.tmp / "prompt").write_bytes(content)
    if way == "stdin":
        done = place.run("run", "--tool", tool, stdin=content)
    else:
        done = place.run("run", "--tool", tool, "--prompt-file", str(place.tmp / "prompt"))
    assert done.code == 0
    assert seen.read_bytes() == content


@BOTH
def test_prompt_that_looks_like_an_option(place: Place, seen: Path, tool: str) -> None:
    """Behind `--` a prompt may begin with dashes; a lone option-like word without it is a usage error."""
    assert place.run("run", "--tool", tool, "--", "--x").code == 0
    assert seen.read_bytes() == b"--x"
    assert place.run("run", "--tool", tool, "--x").code == 2


def test_prompt_with_a_slash_is_no_command(place: Place) -> None:
    """A prompt that begins with a slash is text for the model, not a command of the tool."""
    done = place.run("run", "--tool", "claude-code", "/compact the code")
    assert done.code == 0
    assert done.out.startswith("FAKE ECHO:")


@BOTH
def test_prompt_is_never_on_the_command_line(place: Place, tool: str) -> None:
    """The tool's arguments hold no part of the prompt."""
    path = place.tmp / "argv"
    place.play(["write-argv", str(path)])
    assert place.run("run", "--tool", tool, "unmistakable words").code == 0
    assert "unmistakable" not in path.read_text()


@pytest.mark.thorough
def test_silent_open_stdin_does_not_block(place: Place, seen: Path) -> None:
    """With PROMPT given, stdin is not touched: an agent's open, silent pipe is no obstacle."""
    running = place.start("run", "--tool", "codex", "hello", stdin=subprocess.PIPE)
    assert running.wait().code == 0
    assert seen.read_bytes() == b"hello"
    assert running.process.stdin
    running.process.stdin.close()


@pytest.mark.thorough
def test_unread_stdin_is_told(place: Place, seen: Path) -> None:
    """Bytes on stdin that are no part of the prompt get one warning."""
    assert place.run("run", "--tool", "codex", "review", stdin=b"a diff\n").err.count(UNREAD) == 1
    assert seen.read_bytes() == b"review"
    assert UNREAD not in place.run("run", "--tool", "codex", "--stdin", "review", stdin=b"a diff\n").err


@pytest.mark.thorough
def test_unread_stdin_in_a_pipe(place: Place) -> None:
    """In a pipe too, whatever else is quiet; an empty stdin, and one that is the prompt, are in order."""
    place.play(["say", "read"])
    shown = place.shell(["sh", "-c", f"echo a diff | {CSA} run --tool codex -q review"]).err
    assert [line for line in shown.splitlines() if line.startswith("warning")] == [UNREAD]
    assert UNREAD not in place.run("run", "--tool", "codex", stdin=b"the prompt\n").err
    assert UNREAD not in place.run("run", "--tool", "codex", "review").err


@pytest.mark.thorough
def test_unread_stdin_that_comes_late(place: Place) -> None:
    """Who writes into the pipe only when the turn runs is told too; a pipe that stays empty, and a socket, are not."""
    place.play(*place.hold(), ["say", "done"])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"keys that somebody types")
        late = place.start("run", "--tool", "codex", "review", stdin=subprocess.PIPE)
        quiet = place.start("run", "--tool", "codex", "review", stdin=theirs.fileno())
        place.wait_noted(late.session_id, "run_started")
        assert UNREAD not in late.err
        assert late.process.stdin
        late.process.stdin.write(b"a diff\n")
        late.process.stdin.close()
        place.release()
        assert late.wait().err.count(UNREAD) == 1
        assert UNREAD not in quiet.wait().err


@pytest.mark.thorough
def test_stdin_is_left_to_the_caller(place: Place) -> None:
    """With PROMPT given, nothing of the caller's stdin is consumed (`while read` loops go on)."""
    command = 'while read -r line; do csa run --tool codex --quiet "$line"; done'
    done = place.shell(["bash", "-c", command], stdin=b"one\ntwo\n")
    assert done.out == "FAKE ECHO: one [turns=1]\nFAKE ECHO: two [turns=1]\n"


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        ([], b""),
        ([""], b""),
        (["  \n"], b""),
        (["-"], b"\n\n"),
        (["both"], None),
        (["-"], b"\xff\xfe"),
        (["-"], b"a\0b"),
    ],
    ids=["nothing", "empty", "blank", "blank-stdin", "two-sources", "not-utf8", "nul"],
)
def test_unusable_prompt(place: Place, words: list[str], stdin: bytes | None) -> None:
    """An empty, undecodable or doubled prompt is a usage error, and nothing is created."""
    if stdin is None:
        (place.project / "prompt").write_text("file")
        words = [*words, "--prompt-file", "prompt"]
    done = place.run("run", "--tool", "codex", *words, stdin=stdin)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert not place.state_root.exists()


def test_missing_prompt_file(place: Place) -> None:
    """A prompt file that is not there is a usage error that names it."""
    done = place.run("run", "--prompt-file", "gone.md")
    assert done.code == 2
    assert "gone.md" in done.err


@pytest.mark.thorough
@pytest.mark.parametrize("words", [["--prompt-file", ""], ["--prompt-file", "", "hello"], ["--tool", "", "hello"]])
def test_an_empty_word_is_not_none(place: Place, words: list[str]) -> None:
    """A variable that is empty by mistake is told, and stdin is not read for it."""
    read, write = os.pipe()  # open, and silent
    running = place.start("run", *words, stdin=read)
    assert running.wait().code == 2
    assert running.err.startswith("error: ")
    assert place.run("run", "--tool", "codex", "--system-file", "", "hello").code == 2
    os.close(read)
    os.close(write)


@pytest.mark.thorough
def test_system_text_reaches_the_tool(place: Place) -> None:
    """`--system` and `--system-file` are handed to the tool beside csa's own note."""
    argv = place.tmp / "argv"
    place.play(["write-argv", str(argv)])
    (place.tmp / "system").write_text("Answer in French.")
    for words in (["--system", "Answer in French."], ["--system-file", str(place.tmp / "system")]):
        done = place.run("run", "--tool", "claude-code", *words, "hello")
        given = " ".join(json.loads(argv.read_text()))
        assert "Answer in French." in given
        assert done.session_id in given  # the note says which session this is
