"""The commands of the tutorial and the recipes work, in the order in which they stand there; and so does the demo."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def playground(replay: Any, tmp_path: Path) -> Iterator[Any]:
    """A playground in which nothing is left running."""
    found = replay.Playground(tmp_path / "play")
    yield found
    found.run("csa kill --all --yes")


@pytest.mark.thorough
@pytest.mark.skipif(not shutil.which("jq"), reason="some recipes use jq")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["tutorial.md", "recipes.md", "plans.md", "../README.md"])
def test_the_commands_of_a_document_work_in_order(replay: Any, playground: Any, name: str) -> None:
    """Each exits 0 (the document prints any other code), in a playground that keeps its sessions."""
    commands = list(replay.commands((ROOT / "docs" / name).read_text()))
    assert len(commands) > 8
    for command in commands:
        done = playground.run(command)
        assert (command, done.returncode) == (command, 0), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), ["7 sessions, 0 running"]),
        (("plan",), ["4 of 4 tasks merged or done", "landed "]),
    ],
)
def test_the_demo_runs_and_says_what_is_next(tmp_path: Path, words: tuple[str, ...], shown: list[str]) -> None:
    """It needs nothing but csa on the PATH, and leaves nothing behind."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "TMPDIR": str(tmp_path)}
    command = ["bash", str(ROOT / "fixtures/demo/demo.sh"), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert [text for text in shown if text not in done.stdout] == []
    assert "make playground" in done.stdout.splitlines()[-2]
    assert list(tmp_path.iterdir()) == []
