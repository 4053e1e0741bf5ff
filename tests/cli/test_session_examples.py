"""The example lines of docs/sessions.md on forking, compressing and checkpoints, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import CSA, Place

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "sessions.md"
SECTIONS = ("Forking", "Compressing", "Checkpoints")


def _examples() -> list[str]:
    text = DOCUMENT.read_text()
    parts = [re.search(rf"^## {name}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL) for name in SECTIONS]
    return [line for part in parts if part for line in re.findall(r"^\$ (csa .*)$", part[1], re.MULTILINE)]


@pytest.mark.parametrize("line", _examples())
def test_the_example_runs(place: Place, line: str) -> None:
    """Each line does what it says over a session of two tools, and exits 0."""
    session_id = place.run("run", "--tool", "claude-code", "first").session_id
    place.codex("second", "--session", session_id)
    done = place.shell(["bash", "-c", line.replace("01JH4Q", session_id[:12]).replace("csa ", f"{CSA} ", 1)])
    assert done.code == 0, done
    assert done.out


def test_there_are_examples() -> None:
    """The sections are found."""
    assert len(_examples()) >= 8
