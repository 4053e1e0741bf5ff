"""audit.jsonl of a store: who did what to which session, one action per line. Append-only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.model.state import format_time
from csa.ownership import open_private
from csa.store.atomic import require_regular
from csa.store.sessions import Store


def audit_file(store: Store) -> Path:
    """Return the path of audit.jsonl."""
    return store.path / "audit.jsonl"


def append_audit(
    store: Store,
    command: str,
    *,
    session_id: str | None,
    what: Mapping[str, Any],
    who: str,
    caller: str | None = None,
    now: datetime | None = None,
) -> None:
    """Record one action, in a single write, so that lines of several processes never mix.

    Args:
        store: whose session it was; the store's directory must exist.
        command: what was called, as `session delete`.
        session_id: the session; None for an action on the store.
        what: what was done; must already be redacted.
        who: the user, as `user@host`.
        caller: the session csa was called in.
        now: the time; the clock's when None.

    Raises:
        OSError: it cannot be written.
    """
    line = {
        "ts": format_time(now or datetime.now(UTC)),
        "who": who,
        "caller": caller,
        "command": command,
        "session_id": session_id,
        **what,
    }
    content = json.dumps(line, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"
    fd = open_private(audit_file(store), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        size = require_regular(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":  # a full disk cut the last line short
            content = b"\n" + content
        os.write(fd, content)
    finally:
        os.close(fd)
