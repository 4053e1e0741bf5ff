"""The store of the test's project."""

from pathlib import Path

import pytest

from csa.store.sessions import Store


@pytest.fixture
def store(state_root: Path, project: Path) -> Store:
    """Return the project's store; nothing is there yet."""
    return Store(state_root, project)
