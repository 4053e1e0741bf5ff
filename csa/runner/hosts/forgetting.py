"""Forgetting what other hosts have deleted long ago: `csa gc`. A mirror that is being updated is left alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from csa.store.locks import acquire_lock
from csa.store.mirrors import LOCK_FILE, Mirror, find_mirrors
from csa.store.searchindex import forget, index_name
from csa.store.sessions import Target

_DAY_S = 86400


def forget_deleted(root: Path, *, days: int, dry_run: bool = False) -> list[Target]:
    """Delete the mirrored sessions that their hosts have deleted more than so many days ago; return which.

    That is when the mirror has learned of it. With `dry_run` nothing is deleted.
    """
    before = time.time() - days * _DAY_S
    found: list[Target] = []
    for mirror in find_mirrors(str(root)):
        try:
            lock = acquire_lock(Path(mirror.pathname, LOCK_FILE))
        except OSError:  # it is being brought up to date, or is not ours
            continue
        with lock:
            old = list(_deleted_before(mirror, before))
            for store, session_id in () if dry_run else old:
                shutil.rmtree(store.retired_paths(session_id).pathname, ignore_errors=True)
            found += old
    if found and not dry_run:
        forget(root, [index_name(store, session_id) for store, session_id in found])
    return found


def _deleted_before(mirror: Mirror, moment: float) -> Iterator[Target]:
    for store in mirror.stores():
        for session_id in store.retired_ids():
            try:
                if os.stat(store.retired_paths(session_id).pathname).st_mtime < moment:
                    yield store, session_id
            except OSError:
                continue
