"""The commands of the tutorial and the recipes work, in the order in which they stand there; and so do the demos."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import Terminal
from tests.conftest import Hermetic
from tests.support import Place, snapshot, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def replay() -> Any:
    """The module docs/replay.py."""
    spec = importlib.util.spec_from_file_location("replay", ROOT / "docs/replay.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SSH = """#!/bin/sh
# As ssh HOST COMMAND..., for a host with a home of its own.
while [ "$1" != -- ]; do shift; done
shift 2
export HOME={home} CSA_STATE_DIR={home}/state
mkdir -p "$HOME" && cd "$HOME" && exec "$@"
"""


@pytest.fixture
def playground(replay: Any, tmp_path: Path) -> Iterator[Any]:
    """A playground in which nothing is left running, and another host."""
    found = replay.Playground(tmp_path / "play")
    found.run("true")
    ssh = tmp_path / "play/bin/ssh"
    ssh.write_text(SSH.replace("{home}", str(tmp_path / "there")))
    ssh.chmod(0o755)
    yield found
    found.run("csa kill --all --yes")


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("jq"), reason="some recipes use jq")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["tutorial.md", "recipes.md", "plans.md", "../README.md"])
@pytest.mark.long
def test_the_commands_of_a_document_work_in_order(replay: Any, playground: Any, name: str) -> None:
    """Each exits 0 (the document prints any other code), in a playground that keeps its sessions."""
    commands = list(replay.commands((ROOT / "docs" / name).read_text()))
    assert len(commands) > 8
    for command in commands:
        done = playground.run(command)
        assert (command, done.returncode) == (command, 0), done.stderr
        assert "Traceback" not in done.stderr


def test_what_the_demo_needs(place: Place, tmp_path: Path) -> None:
    """A plan needs git. In a session there is no demo, and a directory with anything else in it is no playground."""
    bare = tmp_path / "bare"
    bare.mkdir()
    done = place.run("demo", "plan", env={"PATH": str(bare)})
    assert (done.code, done.err.splitlines()[0]) == (7, "error: git is not installed: there is no 'git' on the PATH.")
    done = place.run("demo", env={"CSA_SESSION_ID": "01JH4QWERT1234567890ABCDEF"})
    assert (done.code, done.err.splitlines()[0]) == (5, "error: The demo cannot run inside of a session.")
    (bare / "notes").touch()
    done = place.run("demo", "shell", str(bare), "-c", "true")
    assert (done.code, done.out) == (2, "")
    assert [file.name for file in bare.iterdir()] == ["notes"]
    server = bare / "project/api/server.py"  # as somebody's own project may have it, in their own home
    server.parent.mkdir(parents=True)
    server.touch()
    assert place.run("demo", "shell", str(bare), "-c", "true").code == 2
    assert sorted(file.name for file in bare.iterdir()) == ["notes", "project"]


@pytest.mark.thorough
@pytest.mark.long
def test_the_demo_without_git_in_a_narrow_terminal(place: Place, tmp_path: Path, hermetic: Hermetic) -> None:
    """A tree of agents needs no git; Ctrl-C ends the demo, and nothing is left either way."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("bash", "cat", "ls", "mkdir", "python3", "setsid"):
        (bare / name).symlink_to(shutil.which(name) or "")
    left = hermetic.tmp
    with Terminal(place, "demo", "--color", "never", size=(40, 24), env={"PATH": str(bare)}) as terminal:
        terminal.patience_s = 60
        assert terminal.end() == 0, terminal.text
    assert "7 sessions, 0 running" in terminal.text
    assert "csa demo plan" in terminal.text.splitlines()[-3]
    assert list(left.iterdir()) == []
    with Terminal(place, "demo", "plan") as terminal:
        terminal.wait(lambda: "plan.limits codex" in terminal.text, "the plan runs")
        terminal.type("\x03")
        assert terminal.end() == 130
    assert list(left.iterdir()) == []
    running = place.start("demo", "plan")
    wait_for(lambda: "turn 1, plan" in running.err, "the plan runs")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    assert list(left.iterdir()) == []


@pytest.mark.thorough
def test_a_shell_that_leaves_the_history_of_yours_as_it_is(place: Place, tmp_path: Path) -> None:
    """Where HISTFILE is exported, bash would cut it to 500 lines, and add what was typed."""
    history = tmp_path / "history"
    history.write_text("".join(f"mine {number}\n" for number in range(900)))
    before = history.read_text()
    with Terminal(place, "demo", "shell", env={"HISTFILE": str(history)}) as terminal:
        terminal.wait(lambda: "playground$" in terminal.text, "the shell is there")
        terminal.type("csa ls\nexit\n")
        assert terminal.end() == 0
    assert history.read_text() == before


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """csa, installed from a wheel into an environment of its own that has what csa needs."""
    base = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(base))
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = base.glob("*.whl")
    home = base / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (library,) = home.glob("lib/python*/site-packages")
    (library / "needed.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read: not ours
    pip = (sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "-q", "--no-deps", "--no-index")
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    return home / "bin/csa"


@pytest.mark.thorough
@pytest.mark.timeout(180)
@pytest.mark.long
def test_the_demos_of_a_wheel(installed: Path, tmp_path: Path, hermetic: Hermetic) -> None:
    """They need nothing but csa, by its path, with stdin closed; the user's home is as it was, and nothing is left."""
    (hermetic.home / ".gitconfig").write_text("[user]\nname = Ada\n[commit]\ngpgsign = true\n")
    before = snapshot(hermetic.home)
    env = {**os.environ, "PATH": "/usr/bin:/bin", "GIT_AUTHOR_NAME": "Eve", "CSA_MAX_DEPTH": "0"}

    def demo(words: str) -> subprocess.CompletedProcess[str]:
        command = f'exec "$0" demo {words}'
        argv = ["bash", "-c", command, str(installed)]
        return subprocess.run(argv, cwd="/", env=env, capture_output=True, text=True, check=False)

    plan = demo("plan <&-")
    assert plan.returncode == 0, plan.stderr
    shown = ("4 of 4 tasks merged or done", "landed ", "csa demo shell")
    assert [text for text in shown if text not in plan.stdout] == []
    tree = demo("<&- | head -4")
    assert len(tree.stdout.splitlines()) == 4
    assert "Traceback" not in tree.stderr
    shell = demo("""shell -c 'csa run --detach "Run the long benchmark"; git log --format=%an'""")
    assert (shell.returncode, shell.stdout.splitlines()[1:]) == (0, ["demo"]), shell.stderr
    kept = demo(f"shell {tmp_path}/kept -c 'exit 3'"), demo(f"shell {tmp_path}/kept -c 'git log --format=%s'")
    assert [each.returncode for each in kept] == [3, 0]
    assert kept[1].stdout == "Start\n"
    assert (snapshot(hermetic.home), list(hermetic.tmp.iterdir())) == (before, [])
