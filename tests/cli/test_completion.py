"""Completion in the shells themselves, and what csa tells them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from csa.cli.candidates import READ_AT_MOST
from csa.cli.commands import COMMANDS
from csa.cli.completion import render_script
from csa.ids import unique_prefix_length
from tests.cli.pressing import Pressed, shell_environment
from tests.cli.terminal import SHELLS
from tests.cli.test_console import HEAVY
from tests.conftest import ForeignWriter
from tests.support import Place, snapshot

OLD, NEW = "01JH4QWERT0000000000000001", "01JH5QWERT0000000000000002"
LISTED = 9  # COMP_TYPE of a plain press of TAB
MENU = 37


@pytest.fixture
def sessions(write_foreign: ForeignWriter) -> None:
    """Two sessions, the older one with a name."""
    paths = write_foreign(OLD, description="Old $work `x`")
    paths.state.write_text('name = "auth"\n' + paths.state.read_text())
    write_foreign(NEW, description="New: work")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the script of each shell."""
    place = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        (place / f"completion.{shell}").write_text(render_script(shell))
    return place


def in_bash(place: Place, scripts: Path, *words: str, comp_type: int = LISTED) -> list[str]:
    """Return what bash's completion function makes of the words, the last of which is being typed."""
    lines = [
        f"source {scripts}/completion.bash",
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1} COMP_TYPE={comp_type}",
        "set -u; _csa",
        r'(( ${#COMPREPLY[@]} )) && printf "%s\n" "${COMPREPLY[@]}" || true',
    ]
    done = place.shell(["bash", "--norc", "-c", "\n".join(lines)])
    assert (done.code, done.err) == (0, ""), done.err
    return done.out.splitlines()


def candidates(place: Place, *words: str) -> list[str]:
    """Return what csa offers, without descriptions."""
    done = place.run("__complete", *words)
    assert (done.code, done.err) == (0, "")
    return [line.partition("\t")[0] for line in done.out.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_parse(place: Place, scripts: Path, shell: str) -> None:
    """Each shell that is there takes its script."""
    assert place.run("completion", shell).out == (scripts / f"completion.{shell}").read_text()
    done = place.shell([shell, "-n", str(scripts / f"completion.{shell}")], env=shell_environment(place, shell))
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ses"], ["session"]),
        (["session", "is"], ["is-alive"]),
        (["config", ""], ["show", "validate"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["run", "--per"], ["--permission"]),
        (["run", "--permission", ""], ["read-only", "edit", "full"]),
        (["run", "-q", "--permission", "re"], ["read-only"]),
        (["run", "--tool", "c"], ["claude-code", "codex"]),
        (["run", "--tool", "=", "co"], ["codex"]),
        (["run", "-t", "a"], ["auto"]),
        (["run", "--fallback", "co"], ["codex"]),
        (["run", "--fallback", "codex,"], ["codex,claude-code", "codex,gemini-cli", "codex,opencode"]),
        (["session", "list", "--tool", "a"], []),
        (["session", "clean", "--tool", "a"], []),
        (["session", "list", "--tool", "=", "codex,cl"], ["codex,claude-code"]),
        (["session", "list", "--status", "f"], ["failed"]),
        (["session", "list", "--status", "failed,l"], ["failed,lost"]),
        (["session", "sw"], ["switch"]),
        (["session", "cu"], ["current", "cur"]),
        (["l"], ["land", "list", "logs", "log", "ls"]),
        (["ls", "--tr"], ["--tree"]),
        (["help", "ses"], ["session"]),
        (["help", "att"], ["attach"]),
        (["nonsense", "wor"], []),
    ],
    ids=" ".join,
)
def test_words_in_bash(place: Place, scripts: Path, words: list[str], expected: list[str]) -> None:
    """Commands, options, choices and tools complete."""
    assert in_bash(place, scripts, "csa", *words) == expected


@pytest.mark.thorough
def test_every_command_completes_in_bash(place: Place, scripts: Path) -> None:
    """No command is missing, and each one's options are there."""
    for command in COMMANDS:
        for words in (command.name.split(), command.full_name.split()):
            assert words[-1] in in_bash(place, scripts, "csa", *words)
            assert "--cd" in in_bash(place, scripts, "csa", *words, "--c")


@pytest.mark.thorough
@pytest.mark.usefixtures("sessions")
def test_sessions_in_bash(place: Place, scripts: Path) -> None:
    """Sessions complete by id and by name; a list shows what they are about, what is inserted does not."""
    for before in (["session", "result"], ["session", "logs", "-s"], ["run", "--session"], ["run", "-s"]):
        assert in_bash(place, scripts, "csa", *before, "") == ["01JH5QWERT  (New: work)", "auth        (Old $work `x`)"]
        assert in_bash(place, scripts, "csa", *before, "a") == ["auth"]
        assert in_bash(place, scripts, "csa", *before, "01JH4") == ["01JH4QWERT"]
        assert in_bash(place, scripts, "csa", *before, "", comp_type=MENU) == ["01JH5QWERT", "auth"]
    assert in_bash(place, scripts, "csa", "run", "--session", "=", "01JH5") == ["01JH5QWERT"]
    assert in_bash(place, scripts, "csa", "run", "--session", "=") == in_bash(
        place, scripts, "csa", "run", "--session", ""
    )


# What is typed before TAB, and what its last word becomes. The first three of each shell are tried in the quick suite.
PRESSED = (
    ("wait 01JH5QWERT au", "auth"),
    ("kill --tree --session=au", "--session=auth"),
    ("help session kil", "kill"),
    ("show au", "auth"),
    ("session result au", "auth"),
    ("kill 01JH5QWERT au", "auth"),
    ("delete 01JH5QWERT au", "auth"),
    ("rm -f -s au", "auth"),
    ("session wait au", "auth"),
    ("switch -s au", "auth"),
    ("run --fork-from au", "auth"),
    ("run -s @l", "@last"),
    ("run --session=@l", "--session=@last"),
    ("show @pa", "@parent"),
    ("run -s @last --tool co", "codex"),
    ("run --tool=co", "--tool=codex"),
    ("run --permission re", "read-only"),
    ("artif", "artifacts"),
    ("help artif", "artifacts"),
    ("session artif", "artifacts"),
    ("logs --eve", "--events"),
)
ONLY_IN_BASH = (("run -s @cu", "@current"), ("session show @nobody", "@nobody"))


@pytest.mark.usefixtures("sessions")
@pytest.mark.parametrize("count", [3, pytest.param(None, marks=pytest.mark.thorough)], ids=["quick", "all"])
@pytest.mark.parametrize("shell", SHELLS)
def test_the_key_itself(place: Place, scripts: Path, shell: str, count: int | None) -> None:
    """In an interactive shell, TAB completes commands, options, tools, and sessions wherever one can be named.

    In bash what begins with @ is none of its names of hosts.
    """
    hosts = place.tmp / "hosts"
    hosts.write_text("127.0.0.1 lastly current nobody.example\n")
    lines = (*PRESSED, *(ONLY_IN_BASH if shell == "bash" else ()))[:count]
    with Pressed(place, shell, scripts / f"completion.{shell}", HOSTFILE=str(hosts)) as pressed:
        completed = {typed: pressed.complete(typed) for typed, _ in lines}
    assert completed == {typed: [*typed.split()[:-1], inserted] for typed, inserted in lines}


@pytest.mark.thorough
@pytest.mark.usefixtures("sessions")
def test_words_in_fish(place: Place, scripts: Path) -> None:
    """In fish, sessions have what they are about, and no name has the help of its argument."""
    described = ["01JH5QWERT\tNew: work", "auth\tOld $work `x`"]
    expected = {
        "session result ": described,
        "wait ": described,
        "kill 01JH5QWERT ": described,
        "kill auth ": described[:1],
        "run -s ": described,
        "run --session=a": ["--session=auth\tOld $work `x`"],
        "run --tool co": ["codex"],
        "run --permission r": ["read-only"],
        "show @pa": ["@parent\tits parent"],
        "show @ro": ["@root"],
        "help session kil": ["kill"],
    }
    lines = [f"complete -C {shlex.quote(f'csa {line}')}; echo; echo" for line in expected]
    script = "; ".join([f"source {scripts}/completion.fish", *lines])
    done = place.shell(["fish", "--no-config", "-c", script], env=shell_environment(place, "fish"))
    assert (done.code, done.err) == (0, "")
    found = [part.split("\n") for part in done.out.removesuffix("\n\n\n").split("\n\n\n")]
    assert dict(zip(expected, found, strict=True)) == expected


@pytest.mark.usefixtures("sessions")
def test_candidates_in_the_case_they_were_begun(place: Place) -> None:
    """Shells compare letter by letter: an id goes on in the case it was begun in, and behind its prefix to its end."""
    assert candidates(place, "sessions", "01jh5") == ["01jh5QWERT"]
    assert candidates(place, "sessions", "01JH5QWERT0") == [NEW]
    assert candidates(place, "sessions", "@") == ["@current", "@last", "@self", "@parent", "@root"]
    assert candidates(place, "sessions", "nobody") == []


@pytest.mark.thorough
@pytest.mark.usefixtures("sessions")
def test_what_can_be_restored(place: Place, scripts: Path) -> None:
    """`restore` takes sessions that were collected, and is offered those; the others are offered the rest."""
    assert in_bash(place, scripts, "csa", "session", "restore", "") == []
    assert place.run("session", "delete", NEW).code == 0
    assert in_bash(place, scripts, "csa", "session", "restore", "") == ["01JH5QWERT"]
    assert in_bash(place, scripts, "csa", "session", "restore", "-s", "01") == ["01JH5QWERT"]
    assert in_bash(place, scripts, "csa", "session", "show", "") == ["auth"]


@pytest.mark.usefixtures("sessions")
def test_candidates_of_another_project(place: Place) -> None:
    """`--cd` on the line says where sessions are looked up; what cannot be looked up offers nothing, in silence."""
    elsewhere = place.tmp / "elsewhere"
    elsewhere.mkdir()
    assert candidates(place, "sessions", "", "csa", "run", "--cd", str(elsewhere)) == []
    assert candidates(place, "sessions", "", "csa", "run", f"--cd={elsewhere}") == []
    assert candidates(place, "sessions", "", "csa", "run", "--cd", "/nowhere/at/all") == []
    assert candidates(place, "nonsense", "") == []
    assert candidates(place) == []
    assert "auth" in place.run("__complete", "sessions", "", "csa", "--cd", str(place.project), cwd=elsewhere).out


def test_configured_tools(place: Place, scripts: Path) -> None:
    """Agents that the user's configuration makes tools of complete; a broken one leaves what is installed."""
    config = place.tmp / "config.toml"
    place.env["CSA_CONFIG"] = str(config)
    config.write_text('[tools.goose]\ntransport = "acp"\ncommand = ["goose", "acp"]\n')
    assert in_bash(place, scripts, "csa", "run", "--tool", "g") == ["gemini-cli", "goose"]
    installed = [name for name in candidates(place, "tools", "") if name != "goose"]
    config.write_text("[tools.goose\n")
    assert candidates(place, "tools", "") == installed
    assert {"codex", "auto"} < set(installed)


@pytest.mark.thorough
@pytest.mark.parametrize("shell", SHELLS)
def test_hosts(place: Place, scripts: Path, shell: str) -> None:
    """Where a host is named, those of the configuration, the mirrors and those of ssh are there; `--host`: mirrors."""
    (place.tmp / "config.toml").write_text('[engines.gpu]\nkind = "ssh"\n')
    place.env["CSA_CONFIG"] = str(place.tmp / "config.toml")
    (place.home / ".ssh").mkdir()
    (place.home / ".ssh/config").write_text("Host build1 *.example\n  HostName b\nhost=web\n")
    (place.state_root / ".mirrors/seen/.mirror").mkdir(parents=True)
    assert candidates(place, "hosts", "") == ["gpu", "seen", "build1", "web"]
    lines = {"sync gp": "gpu", "sync web bu": "build1", "ls --host s": "seen", "run --on se": "seen"}
    with Pressed(place, shell, scripts / f"completion.{shell}") as pressed:
        completed = {typed: pressed.complete(typed) for typed in lines}
    assert completed == {typed: [*typed.split()[:-1], inserted] for typed, inserted in lines.items()}


def test_only_the_newest_are_read(place: Place, write_foreign: ForeignWriter) -> None:
    """Of many sessions the newest are offered, damaged ones too; nothing is written."""
    ids = [f"01JH4QWERT00000000000{number:05d}" for number in range(READ_AT_MOST + 20)]
    for session_id in ids:
        write_foreign(session_id)
    (place.session(ids[-1]) / "state.toml").write_text("x = [\n")
    before = snapshot(place.state_root)
    found = candidates(place, "sessions", "")
    assert found == [
        session_id[: unique_prefix_length(session_id, ids)] for session_id in ids[: -READ_AT_MOST - 1 : -1]
    ]
    assert snapshot(place.state_root) == before


def test_completing_imports_nothing_heavy(place: Place, sessions: None) -> None:
    """The key's press waits for none of the heavy packages, nor for argparse."""
    for kind, offered in (("sessions", "auth"), ("tools", "codex")):
        done = place.run("__complete", kind, "")
        assert offered in done.out
        assert not place.imports("__complete", kind, "") & {*HEAVY, "shtab", "argparse"}


def test_an_unknown_shell(place: Place) -> None:
    """A shell that is not supported is a usage error that names those that are."""
    done = place.run("completion", "tcsh")
    assert done.code == 2
    assert "bash" in done.err
