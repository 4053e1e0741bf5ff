"""Completion in the shells themselves, and what csa tells them."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from csa.cli.candidates import READ_AT_MOST
from csa.cli.commands import COMMANDS
from csa.ids import unique_prefix_length
from tests.cli.test_console import HEAVY
from tests.conftest import ForeignWriter
from tests.support import CSA, Place, snapshot, wait_for

SHELLS = ("bash", "zsh", "fish")
OLD, NEW = "01JH4QWERT0000000000000001", "01JH5QWERT0000000000000002"
LISTED = 9  # COMP_TYPE of a plain press of TAB
MENU = 37


@pytest.fixture
def sessions(write_foreign: ForeignWriter) -> None:
    """Two sessions, the older one with a name."""
    paths = write_foreign(OLD, description="Old $work `x`")
    paths.state.write_text('name = "auth"\n' + paths.state.read_text())
    write_foreign(NEW, description="New: work")


@pytest.fixture
def scripts(place: Place) -> Path:
    """The directory with the script of each shell."""
    for shell in SHELLS:
        done = place.run("completion", shell)
        assert (done.code, done.err) == (0, "")
        (place.tmp / f"completion.{shell}").write_text(done.out)
    return place.tmp


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
    if not shutil.which(shell, path=place.env["PATH"]):
        pytest.skip(f"there is no {shell}")
    done = place.shell([shell, "-n", str(scripts / f"completion.{shell}")])
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["se"], ["session"]),
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
        (["l"], ["list", "logs", "log", "ls"]),
        (["ls", "--tr"], ["--tree"]),
        (["help", "se"], ["session"]),
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


@pytest.mark.usefixtures("sessions")
@pytest.mark.parametrize(
    ("typed", "inserted"),
    [
        ("session result au", "auth"),
        ("session delete au", "auth"),
        ("session delete -f -s au", "auth"),
        ("session delete 01JH5QWERT au", "auth"),
        ("session kill 01JH5QWERT au", "auth"),
        ("session switch au", "auth"),
        ("switch -s au", "auth"),
        ("kill 01JH5QWERT au", "auth"),
        ("rm au", "auth"),
        ("run --fork-from au", "auth"),
        ("run -s @l", "@last"),
        ("run --session=@l", "@last"),
        ("run -s @cu", "@current"),
        ("session show @pa", "@parent"),
        ("session show @nobody", "@nobody"),
        ("run -s @last --tool co", "codex"),
    ],
)
def test_the_key_itself_in_bash(place: Place, scripts: Path, typed: str, inserted: str) -> None:
    """In an interactive bash, TAB completes sessions, and what begins with @ is none of its names of hosts."""
    seen = place.tmp / "seen"
    hosts = place.tmp / "hosts"
    hosts.write_text("127.0.0.1 lastly current nobody.example\n")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env=place.environment({"TERM": "dumb", "PS1": "ready> ", "HISTFILE": None, "HOSTFILE": str(hosts)}),
        cwd=place.project,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        csa = f'csa() {{ if [[ $1 == __complete ]]; then command {CSA} "$@"; else echo "$@" > {seen}; fi; }}\n'
        os.write(ours, f"source {scripts}/completion.bash\n{csa}csa {typed}\t\n".encode())
        try:
            wait_for(lambda: seen.exists() and seen.read_text(), "the completed command is run, and its words written")
        finally:
            os.write(ours, b"exit\n")
            while True:
                try:
                    if not os.read(ours, 65536):
                        break
                except OSError:  # it has gone
                    break
            os.close(ours)
            shell.kill()
    *before, last = typed.split()
    option = f"{last.partition('=')[0]}=" if "=" in last else ""
    assert seen.read_text().split() == [*before, option + inserted]


@pytest.mark.usefixtures("sessions")
@pytest.mark.skipif(not shutil.which("fish", path="/usr/bin:/bin"), reason="there is no fish")
def test_words_in_fish(place: Place, scripts: Path) -> None:
    """In fish, sessions and tools complete, sessions with what they are about."""

    def complete(line: str) -> list[str]:
        script = f"source {scripts}/completion.fish; complete -C {shlex.quote(line)}"
        done = place.shell(["fish", "--no-config", "-c", script])
        assert (done.code, done.err) == (0, "")
        return done.out.splitlines()

    assert complete("csa session result ") == ["01JH5QWERT\tNew: work", "auth\tOld $work `x`"]
    assert [line.partition("\t")[0] for line in complete("csa run --session=a")] == ["--session=auth"]
    assert [line.partition("\t")[0] for line in complete("csa run --tool co")] == ["codex"]


@pytest.mark.usefixtures("sessions")
@pytest.mark.skipif(not shutil.which("zsh", path="/usr/bin:/bin"), reason="there is no zsh")
def test_words_in_zsh(place: Place, scripts: Path) -> None:
    """In zsh, the name of a session completes, in a zsh of its own inside a pseudo-terminal."""
    seen = place.tmp / "seen"
    driver = f"""
zmodload zsh/zpty
zpty -b inner zsh -f -i
zpty -w inner 'autoload -Uz compinit; compinit -u -D; eval "$(<{scripts}/completion.zsh)"'
zpty -w inner 'show() {{ print -r -- "$@" > {seen} }}; compdef _shtab_csa show'
zpty -w -n inner $'show session result a\\t\\n'
repeat 1000; do [[ -s {seen} ]] && break; sleep 0.02; done
zpty -d inner
"""
    done = place.shell(["zsh", "-f", "-c", driver])
    assert done.code == 0, done.err
    assert seen.read_text().split() == ["session", "result", "auth"]


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
