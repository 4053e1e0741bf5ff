"""Orders of detached turns that wait for a quota: `parked/<session id>.json` of the project, with their time.

They exist in case the waiting supervisor does not survive until then. A process that starts one claims it
first, by renaming it; starting a turn in the session, or ending the wait, removes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.ids import is_session_id
from csa.ownership import make_directory
from csa.store.atomic import read_regular, write_atomically
from csa.store.liveness import probe
from csa.store.sessions import Store

_DIRECTORY, _SUFFIX, _CLAIMED = "parked", ".json", ".claimed"


def save_parked(store: Store, session_id: str, order: dict[str, Any], *, until: float) -> None:
    """Store an order, to be executed from `until` (seconds since the epoch) on; OSError if it cannot be written."""
    directory = store.path / _DIRECTORY
    make_directory(directory)
    write_atomically(_path(store, session_id), json.dumps({"until": until, "order": order}).encode())


def forget_parked(store: Store, session_id: str) -> None:
    """Remove the order of a session, if there is one."""
    with suppress(OSError):
        _path(store, session_id).unlink(missing_ok=True)


def claim_due(store: Store, now: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the sessions whose time has come and that no supervisor waits for, each claimed, with its order."""
    with suppress(FileNotFoundError, PermissionError):
        for name in sorted(os.listdir(store.path / _DIRECTORY)):
            session_id = name.removesuffix(_SUFFIX)
            if not name.endswith(_SUFFIX) or not is_session_id(session_id):
                continue
            if (order := _claim(store, session_id, now)) is not None:
                yield session_id, order


def _claim(store: Store, session_id: str, now: float) -> dict[str, Any] | None:
    path = _path(store, session_id)
    claimed = path.with_suffix(_CLAIMED)
    try:
        if probe(store.paths(session_id)).state != "not_alive":
            return None
        record = json.loads(read_regular(path))
        if not store.has(session_id):
            path.unlink(missing_ok=True)
            return None
        if float(record["until"]) > now:
            return None
        order: dict[str, Any] = dict(record["order"])
        os.rename(path, claimed)
        claimed.unlink()
    except (OSError, ValueError, KeyError, TypeError):  # another process was first, or it is not ours
        return None
    return order


def _path(store: Store, session_id: str) -> Path:
    return store.path / _DIRECTORY / f"{session_id}{_SUFFIX}"
