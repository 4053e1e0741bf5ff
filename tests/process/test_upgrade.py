"""csa is upgraded while it works: its files are gone, and what has begun comes to its end all the same."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import csa_adapters
import pytest

import csa
from tests.support import Place, Running, wait_for

SITE = sysconfig.get_path("purelib")
SETTLED: list[Any] = ["sleep", 4]  # by then a turn has loaded what it needs


class Installed:
    """A csa in an environment of its own, which can be taken away."""

    def __init__(self, place: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
        (self.site / "others.pth").write_text(f"{SITE}\n")  # without the .pth files there: csa itself is not found
        for package in (csa, csa_adapters):
            source = Path(str(package.__file__)).parent
            shutil.copytree(source, self.site / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        for found in Path(SITE).glob("csa-*.dist-info"):
            shutil.copytree(found, self.site / found.name)
        self.csa = place / "bin" / "csa"
        self.csa.write_text(f"#!{place}/bin/python\nimport sys\nfrom csa.cli.main import main\nsys.exit(main())\n")
        self.csa.chmod(0o755)

    @property
    def removal(self) -> str:
        """The shell command of an upgrade, as far as it has come."""
        return f"rm -rf '{self.site}/csa' '{self.site}/csa_adapters' '{self.site}'/csa-*.dist-info"


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path / "installed")


def start(place: Place, installed: Installed, *words: str, **env: str) -> Running:
    return place.start("run", *words, "go", env=env, program=installed.csa)


def remove(installed: Installed) -> list[Any]:
    return ["run", installed.removal]


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["codex", "claude-code"])
def test_the_end(place: Place, installed: Installed, tool: str) -> None:
    """A turn ends as ever: its answer, its records, its exit code, and the command that follows."""
    place.play(SETTLED, remove(installed), ["say", "done"])
    done = start(place, installed, "--tool", tool, "--on-finish", "cat > finished").wait()
    assert (done.code, done.out) == (0, "done\n"), done
    assert "warning" not in done.err
    assert json.loads((place.project / "finished").read_text())["text"] == "done"
    assert place.status(done.session_id) == "succeeded"
    assert not (installed.site / "csa").exists()


@pytest.mark.thorough
def test_a_checkpoint(place: Place, installed: Installed) -> None:
    """The checkpoint that belongs to the end is made."""
    place.play(SETTLED, remove(installed), ["say", "done"])
    done = start(place, installed, "--tool", "codex", CSA_CONF_CHECKPOINT_EVERY_TURNS="1").wait()
    assert (done.code, done.out) == (0, "done\n"), done
    assert "checkpoint" in [event["type"] for event in place.events(done.session_id)]


@pytest.mark.thorough
def test_a_retry(place: Place, installed: Installed) -> None:
    """csa tries again, which takes another guardian."""
    place.script(
        {"match": "", "times": 1, "do": [SETTLED, ["spawn-grandchild", installed.removal], SETTLED, ["fail", 500]]},
        {"match": "", "do": [["say", "done"]]},
    )
    done = start(place, installed, "--tool", "codex").wait()
    assert (done.code, done.out) == (0, "done\n"), done
    assert not (installed.site / "csa").exists()


@pytest.mark.thorough
def test_a_fallback(place: Place, installed: Installed) -> None:
    """Another tool goes on."""
    place.script(
        {"match": "", "times": 1, "do": [SETTLED, ["spawn-grandchild", installed.removal], SETTLED, ["fail", 429]]},
        {"match": "", "do": [["say", "done"]]},
    )
    done = start(place, installed, "--tool", "codex", "--retries", "0", "--fallback", "claude-code").wait()
    assert (done.code, done.out) == (0, "done\n"), done
    assert not (installed.site / "csa").exists()


@pytest.mark.thorough
def test_a_detached_turn(place: Place, installed: Installed) -> None:
    """A supervisor comes to its end, and runs what was to follow."""
    place.play(SETTLED, remove(installed), ["say", "done"])
    done = start(place, installed, "--tool", "codex", "--detach", "--on-finish", "cat > finished").wait()
    wait_for((place.project / "finished").exists, "the command has run")
    place.wait_until_empty(within_s=3)
    assert place.status(done.out.strip()) == "succeeded"


@pytest.mark.thorough
@pytest.mark.parametrize("detached", [(), ("--detach",)], ids=["foreground", "detached"])
def test_a_run_that_waits(place: Place, installed: Installed, detached: tuple[str, ...]) -> None:
    """A run that waits for its session begins when that is free."""
    place.play(*place.hold(), ["say", "first"])
    first = place.start("run", "--tool", "codex", "go")
    place.wait_ready()
    second = start(place, installed, "--session", first.session_id, "--wait", *detached)
    wait_for(lambda: "waiting" in second.err, "it waits")
    subprocess.run(installed.removal, shell=True, check=True)
    place.release()
    assert first.wait().code == 0
    assert second.wait().code == 0
    place.wait_until_empty(within_s=5)
    turns = [event["data"]["status"] for event in place.events(first.session_id) if event["type"] == "run_finished"]
    assert turns == ["succeeded", "succeeded"]
