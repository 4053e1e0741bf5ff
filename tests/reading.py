"""The workers of pytest-xdist read the tests together: what one has compiled, the others load.

Each of them imports all of the tests, and to compile them, with their assertions rewritten, is most of the time before
the first one runs. So each begins elsewhere in the list, and what has been compiled is kept where all of them look:
beside the tests, or for as long as they run where PYTHONDONTWRITEBYTECODE asks for nothing there.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

_PLACE = "bytecode"
_Place = TemporaryDirectory[str]
_MADE = pytest.StashKey[_Place]()


def tell(node: Any) -> None:
    """Tell a worker that is about to be started where bytecode goes."""
    config: pytest.Config = node.config
    if sys.dont_write_bytecode:
        if _MADE not in config.stash:
            config.stash[_MADE] = made = _Place(prefix="csa-tests-")
            config.add_cleanup(made.cleanup)
        node.workerinput[_PLACE] = config.stash[_MADE].name


def read(session: pytest.Session, *, is_wanted: Callable[[Path], bool]) -> None:
    """Import the tests that are wanted, if this is a worker; what fails here will fail where pytest imports it."""
    worker: dict[str, Any] | None = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    if place := worker.get(_PLACE):
        sys.pycache_prefix, sys.dont_write_bytecode = place, False
    modules = [path for path in _modules(session.config) if is_wanted(path)]
    first = len(modules) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in modules[first:] + modules[:first]:
            name = ".".join(path.relative_to(session.config.rootpath).with_suffix("").parts)
            with suppress(Exception, pytest.skip.Exception):
                import_module(name)


def _modules(config: pytest.Config) -> list[Path]:
    """Return the modules in the directories that pytest was given: one that was named itself is soon read."""
    directories = [config.invocation_params.dir / argument for argument in config.args if "::" not in argument]
    return sorted({path.resolve() for directory in directories for path in directory.rglob("test_*.py")})
