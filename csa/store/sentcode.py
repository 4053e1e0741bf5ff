"""Which projects' code was sent to other hosts: there it is in `<state root>/.code/<key>`, which nobody here knows.

`.placed/code.json` has the project here by the key. It is for people to read; without it, nothing else is different.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from csa.paths import CODE, PLACED
from csa.store.atomic import read_regular, replace_private
from csa.store.sessions import Store

_FILE = f"{PLACED}/code.json"
_SHOWN = 10  # characters of a key that nobody knows


def note_sent(root: Path, key: str, project: str) -> None:
    """Note that the code of a project was sent, by its key; OSError. What is noted meanwhile may be lost."""
    known = _read(root)
    if known.get(key) != project and f"/{CODE}/" not in project:  # nor is it known here what that is
        replace_private(root / _FILE, json.dumps({**known, key: project}).encode())


def project_called(store: Store) -> str:
    """Return the project of a store; where that is code which was sent from here, the project here."""
    _, mark, rest = store.project_pathname.partition(f"/{CODE}/")
    key, slash, below = rest.partition("/")
    if not mark or not key:
        return store.project_pathname
    return f"{_read(store.home).get(key) or f'{CODE}/{key[:_SHOWN]}'}{slash}{below}"


def _read(root: Path) -> Mapping[str, str]:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_regular(root / _FILE))
        if isinstance(found, dict):
            return {key: project for key, project in found.items() if isinstance(project, str)}
    return {}
