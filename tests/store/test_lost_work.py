"""Nothing that an agent wrote is lost, in random lives of worktrees; `make torture` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.lostwork import Life
from tests.store.test_session_worktrees import environment


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    """Turns, kills, landing, dropping, deleting, cleaning up and accidents, in any order."""
    Life(tmp_path, environment(tmp_path), seed).live()
