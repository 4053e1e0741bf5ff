"""The adapter of docs/adapters.md: a package of its own teaches csa a tool."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from tests.support import Done, Place

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples/adapter"


@pytest.fixture
def parrot(place: Place) -> Place:
    """A place in which the package is installed as pip does it, and its tool is on the PATH."""
    packages = place.tmp / "packages"
    info = packages / "parrot_csa-0.1.dist-info"
    info.mkdir(parents=True)
    (packages / "parrot_csa.py").write_text((EXAMPLE / "parrot_csa.py").read_text())
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["csa.adapters"].items())
    (info / "entry_points.txt").write_text(f"[csa.adapters]\n{points}")
    place.env["PATH"] = f"{EXAMPLE}{os.pathsep}{place.env['PATH']}"
    return place


def run(place: Place, *words: str) -> Done:
    """Run csa with the package."""
    return place.run(*words, env={"PYTHONPATH": str(place.tmp / "packages")})


@pytest.mark.thorough
def test_it_runs_resumes_and_goes_on_when_its_conversation_is_gone(parrot: Place) -> None:
    """A turn, a second one in the same conversation, and a third in a new one that is told of both."""
    done = run(parrot, "run", "--tool", "parrot", "Hello")
    assert (done.code, done.out) == (0, "Hello! (I have heard 1 so far)\n"), done.err
    assert run(parrot, "run", "--last", "Again").out == "Again! (I have heard 2 so far)\n"
    for conversation in (parrot.home / ".parrot").iterdir():
        conversation.unlink()
    third = run(parrot, "run", "--last", "More")
    assert third.code == 0
    assert "User: Again" in third.out
    assert parrot.state(done.session_id)["usage"]["input_tokens"] > 2


@pytest.mark.thorough
def test_doctor_knows_it(parrot: Place) -> None:
    """It is asked for its version, and for its login."""
    (check,) = [each for each in run(parrot, "doctor", "--json").json["checks"] if each["name"] == "parrot"]
    assert (check["status"], check["detail"].partition(",")[0]) == ("ok", "1.0 (tested)")


def test_the_page_shows_these_files() -> None:
    """What can be copied from the page is what is tested here."""
    blocks = re.compile(r'^```\w+ title="(.*?)"\n(.*?)^```', re.MULTILINE | re.DOTALL)
    shown = dict(blocks.findall((DOCS / "adapters.md").read_text()))
    assert shown == {name: (EXAMPLE / name).read_text() for name in ("pyproject.toml", "parrot_csa.py")}
