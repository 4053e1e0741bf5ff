"""The place where csa is run, and the certainty that nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Place, close_place


@pytest.fixture
def place(tmp_path: Path, project: Path, state_root: Path) -> Iterator[Place]:
    """Run csa here; what it leaves running fails the test, and is killed."""
    found = Place(tmp_path, project, state_root)
    yield found
    close_place(found)
