"""The place where csa is run, and the certainty that nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Hermetic
from tests.support import Place, kill_all, wait_for


@pytest.fixture
def place(tmp_path: Path, project: Path, state_root: Path, hermetic: Hermetic) -> Iterator[Place]:
    """Run csa here; what it leaves running fails the test, and is killed."""
    found = Place(tmp_path, project, state_root, hermetic.home)
    yield found
    try:
        wait_for(lambda: not found.processes(), "no process left", within_s=2)
    finally:
        kill_all(left := found.processes())
    assert not left
