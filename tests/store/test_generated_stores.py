"""bench/generate_store.py, which makes the stores that others are measured with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from csa.store.sessions import Store

SCRIPT = Path(__file__).parents[2] / "bench" / "generate_store.py"


def generate(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_a_store_is_made(tmp_path: Path) -> None:
    """As many sessions as asked for, whose last turn succeeded."""
    assert generate(tmp_path, "large", "3", "2.5").returncode == 0
    store = Store((tmp_path / "large" / "state").resolve(), (tmp_path / "large" / "project").resolve())
    assert [record.status for record in store.records()] == ["succeeded"] * 3


def test_words_that_name_no_store(tmp_path: Path) -> None:
    """Help is given, what is no number is refused, and nothing is made."""
    assert "usage: generate_store.py" in generate(tmp_path, "--help").stdout
    assert generate(tmp_path).returncode == generate(tmp_path, "large", "many").returncode == 2
    assert list(tmp_path.iterdir()) == []
