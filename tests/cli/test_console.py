"""The console script as a citizen of a shell: pipes, terminals, start-up, and adapters of third parties."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import CSA, Place

HEAVY = {"anyio", "asyncio", "starlette", "uvicorn", "prompt_toolkit", "rich", "tomlkit", "ulid", "tenacity", "pexpect"}
SLOW = {"contextlib", "dataclasses", "inspect", "pathlib", "signal", "typing"}
ESCAPE = "\033["


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["session", "list"],
        ["session", "list", "--tree"],
        ["session", "list", "--tool", "codex", "--all-projects"],
        ["session", "info", "{}"],
        ["session", "show", "{}"],
        ["stats"],
        ["session", "is-alive", "{}"],
        ["session", "result", "{}"],
        ["session", "logs", "{}"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_hot_commands_import_nothing_heavy(place: Place, words: list[str]) -> None:
    """Hot commands import none of the heavy packages."""
    session_id = place.codex("one").session_id if "{}" in words else ""
    names = place.imports(*(word.format(session_id) for word in words))
    assert "csa" in names
    assert not names & HEAVY


@pytest.mark.parametrize(
    "words",
    [
        ["session", "list"],
        ["session", "list", "--tool", "codex", "--limit", "20", "--json"],
        ["session", "is-alive", "{}", "--cd", "."],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_plain_reads_import_little(place: Place, words: list[str]) -> None:
    """What lists sessions, and says whether one runs, is done when these would have been imported."""
    session_id = place.codex("one").session_id
    assert not place.imports(*(word.format(session_id) for word in words)) & SLOW


def test_version(place: Place) -> None:
    """`--version` prints the version and nothing else."""
    done = place.run("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("csa 0.")


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["session"], ["session", "--help"], ["run", "--help"], ["ls", "--help"]]
)
def test_help(place: Place, words: list[str]) -> None:
    """Help goes to stdout with exit 0, and needs no store."""
    done = place.run(*words)
    assert (done.code, done.err) == (0, "")
    assert "usage: csa" in done.out
    assert not place.state_root.exists()


@pytest.mark.thorough
def test_reader_that_goes_away(place: Place) -> None:
    """`csa ... | head -1` ends without a traceback or a word on stderr."""
    place.play(["emit-many", 6000], ["say", "done"])
    session_id = place.codex("one").session_id
    for command in (f"csa session logs {session_id} --json", f"csa session logs {session_id}"):
        done = place.shell(["bash", "-c", f"set -o pipefail; {command} | head -1"])
        assert done.out.count("\n") == 1
        assert done.err == ""


def on_terminal(place: Place, *words: str, env: dict[str, str | None] | None = None) -> str:
    """Run csa with a terminal for its three streams; return what appeared on it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [CSA, *words],
        cwd=place.project,
        env=place.environment({"TERM": "xterm-256color", **(env or {})}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # the other side is closed
            pass
        os.close(ours)
    assert process.returncode == 0, shown
    return shown.decode()


@pytest.mark.thorough
def test_escape_codes_on_a_terminal_only(place: Place) -> None:
    """Colour appears on a terminal, and neither under NO_COLOR nor in a pipe."""
    place.codex("one")
    assert ESCAPE in on_terminal(place, "session", "list")
    assert ESCAPE not in on_terminal(place, "session", "list", env={"NO_COLOR": "1"})
    assert ESCAPE not in on_terminal(place, "session", "list", env={"TERM": "dumb"})
    assert ESCAPE not in on_terminal(place, "run", "--tool", "codex", "two", env={"TERM": "dumb"})
    done = place.codex("three", env={"TERM": "xterm-256color"})
    assert ESCAPE not in done.out + done.err
    assert ESCAPE not in place.run("session", "list", env={"TERM": "xterm-256color"}).out


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "env", "is_coloured"),
    [
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "3"}, True),
        ((), {"CLICOLOR_FORCE": "1"}, True),
        ((), {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True),
        *(((), {name: value}, False) for name in ("FORCE_COLOR", "CLICOLOR_FORCE") for value in ("", "0")),
        (("--color=always",), {}, True),
        (("--color", "always"), {}, True),
        (("--color=always",), {"NO_COLOR": "1", "TERM": "dumb"}, True),
        (("--color=never",), {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, False),
        (("--color=auto",), {"FORCE_COLOR": "1"}, True),
        (("--color=auto",), {}, False),
    ],
)
def test_colour_that_is_forced(
    place: Place, options: tuple[str, ...], env: dict[str, str | None], *, is_coloured: bool
) -> None:
    """In a pipe there is colour if it is asked for: what is said nearest to the command decides; JSON never has any."""
    place.codex("one")
    env = {"TERM": "xterm-256color", **env}
    assert (ESCAPE in place.run("session", "list", *options, env=env).out) == is_coloured
    assert (ESCAPE in place.run("session", "info", "nosuch", *options, env=env).err) == is_coloured
    done = place.run("session", "list", "--json", *options, env=env)
    assert ESCAPE not in done.out
    assert len(done.json) == 1


@pytest.mark.thorough
def test_colour_that_is_forbidden(place: Place) -> None:
    """On a terminal `--color=never` and NO_COLOR take away colour; the view of a run is drawn all the same."""
    for options, env in ((("--color=never",), {}), ((), {"NO_COLOR": "1"}), ((), {"CLICOLOR": "0"})):
        assert ESCAPE not in on_terminal(place, "session", "list", *options, env={**env})
        shown = on_terminal(place, "run", "--tool", "codex", *options, "two", env={**env})
        assert "\x1b[?25l" in shown
        assert not re.search(r"\x1b\[[0-9;]*m", shown)
    forced = on_terminal(place, "session", "list", "--color=always", env={"NO_COLOR": "1"})
    assert ESCAPE in forced
    assert place.run("session", "list", "--color=blue").code == 2


@pytest.mark.thorough
def test_options_of_every_command_may_stand_before_it(place: Place) -> None:
    """`csa --cd DIR COMMAND` and `csa --color=always COMMAND` are what they are behind the command's name."""
    place.codex("one")
    for options in (("--color=always",), ("--color", "always"), ("--cd", ".", "--color=always")):
        assert ESCAPE in place.run(*options, "session", "list").out
    elsewhere = place.run("--cd", str(place.project), "session", "list", "--json", cwd=place.tmp)
    assert len(elsewhere.json) == 1
    assert place.run("--color=never").out == place.run("--help").out
    assert place.run("--cd").code == place.run("--color", "always", "nosuch").code == 2


@pytest.mark.thorough
def test_live_view_on_a_terminal(place: Place) -> None:
    """On a terminal a run draws its tree, and leaves the answer and a closing line."""
    place.play(["call", "ls"], ["run", "csa run --tool codex inner"], ["say", "the answer"])
    place.script(
        {"match": "inner", "do": [["say", "x"]]},
        {"match": "", "do": [["run", "csa run --tool codex inner"], ["say", "the answer"]]},
    )
    shown = on_terminal(place, "run", "--tool", "codex", "hello")
    assert ESCAPE in shown
    assert "the answer" in shown
    assert "2 sessions in" in shown
    assert "Traceback" not in shown


def test_terminal_as_the_only_source_of_a_prompt(place: Place) -> None:
    """Without a prompt, and a terminal as stdin, csa does not wait: it is a usage error."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [CSA, "run", "--tool", "codex"],
        cwd=place.project,
        env=place.env,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert "There is no prompt" in done.stderr


def test_control_characters_are_not_obeyed(place: Place) -> None:
    """Escape sequences in what agents say do not reach the terminal by way of progress, list or logs."""
    place.play(["think", "a\033[31mb\033]0;title\007"], ["call", "printf '\033[2J'"], ["say", "done"])
    done = place.codex("hi \033[31mred")
    session_id = done.session_id
    for text in (done.err, place.run("session", "list").out, place.run("session", "logs", session_id).out):
        assert "\033" not in text
        assert "\007" not in text


ADAPTER = """
from csa.model.adapter import Capabilities, Invocation, Outcome, Probe, Update
from csa_adapters.jsonlines import read_object


class Decoder:
    is_finished = False
    fault = None

    def __init__(self):
        self.text = ""

    def feed(self, line):
        self.text = line.decode()
        return [Update("session_bound", {"provider_session_id": "p-1"}), Update("agent_message", {"text": self.text})]

    def close(self, end):
        return Outcome(succeeded=end.code == 0, text=self.text)


class ParrotAdapter:
    name = "parrot"
    family = "birds"
    executable = "parrot"
    capabilities = Capabilities()
    outer_markers = frozenset({"PARROT_INSIDE"})
    probe = Probe(("--version",), ("PARROT_KEY",), ())

    def account(self, environ):
        return "cage"

    def homes(self, environ):
        return ()

    def invocation(self, request):
        resumed = ("--resume", request.provider_session_id) if request.provider_session_id else ()
        return Invocation((*request.command, *resumed), request.prompt.encode(), {"PARROT_MODE": "loud"})

    def decoder(self, request):
        return Decoder()
"""


@pytest.fixture
def parrot(place: Place) -> dict[str, str | None]:
    """Install a third party's adapter and its tool for this test; return what finds them."""
    packages = place.tmp / "packages"
    info = packages / "parrot-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / "parrot_adapter.py").write_text(ADAPTER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[csa.adapters]\nparrot = parrot_adapter:ParrotAdapter\n")
    tool: Path = place.tmp / "bin" / "parrot"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$(cat)! ${PARROT_MODE}${PARROT_INSIDE} $*"\n')
    tool.chmod(0o755)
    return {"PYTHONPATH": str(packages), "PATH": f"{tool.parent}:{place.env['PATH']}", "PARROT_INSIDE": "yes"}


@pytest.mark.thorough
def test_third_party_adapter(place: Place, parrot: dict[str, str | None]) -> None:
    """A tool whose adapter comes by an entry point runs, resumes, and lists like any other."""
    first = place.run("run", "--tool", "parrot", "hello", env=parrot)
    assert (first.code, first.out) == (0, "hello! loud \n"), first.err
    second = place.run("run", "--last", "again", env=parrot)
    assert (second.code, second.out) == (0, "again! loud --resume p-1\n"), second.err
    (listed,) = place.run("session", "list", "--json").json  # readers need no adapter
    assert (listed["tools"], listed["turns"], listed["status"]) == (["parrot"], 2, "succeeded")


@pytest.mark.thorough
def test_third_party_adapter_that_is_gone(place: Place, parrot: dict[str, str | None]) -> None:
    """A session whose adapter was uninstalled still reads; resuming it names the tool that is unknown."""
    session_id = place.run("run", "--tool", "parrot", "hello", env=parrot).session_id
    assert place.run("session", "result", session_id).out == "hello! loud \n"
    done = place.run("run", "--session", session_id, "again")
    assert done.code != 0
    assert "parrot" in done.err
    assert "Traceback" not in done.err


@pytest.mark.thorough
def test_broken_third_party_adapter_is_contained(place: Place, parrot: dict[str, str | None]) -> None:
    """An adapter that cannot be imported does not keep the other tools from running."""
    Path(str(parrot["PYTHONPATH"]), "parrot_adapter.py").write_text("raise RuntimeError('broken')\n")
    done = place.run("run", "--tool", "codex", "hello", env=parrot)
    assert (done.code, done.out) == (0, "FAKE ECHO: hello [turns=1]\n"), done.err
    asked = place.run("run", "--tool", "parrot", "hello", env=parrot)
    assert asked.code != 0
    assert "Traceback" not in asked.err


@pytest.mark.thorough
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8:strict"])
def test_stdout_that_is_not_utf8(place: Place, encoding: str) -> None:
    """What the encoding of stdout lacks is written as an escape: no answer is lost; JSON stays JSON."""
    env: dict[str, str | None] = {"PYTHONIOENCODING": encoding}
    text = "50 € für 漢 \N{GRINNING FACE}"
    place.play(["say", text])
    answer = text.encode(encoding.partition(":")[0], "backslashreplace")
    done = subprocess.run(
        [CSA, "run", "-q", "--tool", "codex", "--name", "cost", text],
        env=place.environment(env),
        cwd=place.project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, answer + b"\n", b"")
    assert place.run("session", "result", "--json", "cost", env=env).json["text"] == text
    assert place.run("session", "list", "--json", env=env).json[0]["description"] == text
    if encoding == "latin-1":  # which the tests do not read
        return
    for words in (["session", "list"], ["list", "--tree"], ["session", "show", "cost"], ["doctor"], ["run", "--help"]):
        shown = place.run(*(["session", *words] if words[0] == "list" else words), env=env)
        assert "Traceback" not in shown.err
        assert shown.code == 0, shown.err


@pytest.mark.thorough
def test_bytes_that_are_no_text_come_out_as_they_were(place: Place) -> None:
    """The path of an artifact is printed byte for byte, whatever stdout's encoding does with the rest."""
    session_id = place.codex("one").session_id
    odd = os.fsencode(place.session(session_id) / "output") + b"/caf\xe9"
    Path(os.fsdecode(odd)).touch()
    for changes in ({}, {"PYTHONIOENCODING": "utf-8"}, {"PYTHONIOENCODING": "ascii"}):
        done = subprocess.run(
            [CSA, "session", "artifacts", session_id],
            env=place.environment(changes),
            cwd=place.project,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, odd + b"\n", b"")


def test_errors_on_a_full_disk(place: Place) -> None:
    """The exit code is that of the error, also where the error cannot be told."""
    for words, stream in ((("info", "nope"), "2"), (("info", "--json", "nope"), "1")):
        done = place.shell(["bash", "-c", f"{CSA} session {' '.join(words)} {stream}>/dev/full"])
        assert (done.code, done.out, done.err) == (3, "", "")
