"""What has become here of the work of a session on another host: whether it was landed, or why not.

The session's own record is on its host, so that it is kept beside the work, in the repository here: by a ref that no
host can send, and that is not among those of commits. Lists have it from a copy beside the session's record, in its
mirror.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.model.state import format_time, parse_time
from csa.model.usage import count_of
from csa.model.worktree import Refused, words_of
from csa.paths import SessionPaths
from csa.store.atomic import read_regular, replace_private
from csa.store.gitplumbing import Git
from csa.structs import Struct, asdict

_RECEIVED = "refs/csa-received/"  # and the session's id
_COPY = "received.json"  # in the session's directory in a mirror; its host sends no file that is called so


class Reception(Struct, kw_only=True):
    """What was done with a session's work as it was after a turn.

    Attributes:
        turn: the number of the turn.
        landed: the commit here that has it; None if it has not landed.
        commits: what it became here, oldest first.
        at: when.
        refused: why it could not be landed.
    """

    turn: int
    landed: str | None = None
    commits: tuple[str, ...] = ()
    at: datetime
    refused: Refused | None = None


def read_reception(git: Git, session_id: str) -> Reception | None:
    """Return what has become of a session's work in a repository; None if nothing that can be read was noted."""
    return _parse(git.read_note(f"{_RECEIVED}{session_id}") or b"null")


def read_copy(paths: SessionPaths) -> Reception | None:
    """Return the same as `copy_reception` has written it beside the record of a session in a mirror."""
    try:
        return _parse(read_regular(f"{paths.pathname}/{_COPY}"))
    except OSError:  # nothing was landed, nearly always
        return None


def copy_reception(git: Git, session_id: str, paths: SessionPaths) -> None:
    """Copy what has become of a session's work to where lists find it: its place in a mirror, if it is still there."""
    with suppress(OSError):
        replace_private(Path(paths.pathname, _COPY), git.read_note(f"{_RECEIVED}{session_id}") or b"null")


def _parse(text: bytes) -> Reception | None:
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return _from_json(found)
    return None


def _from_json(found: Mapping[str, Any]) -> Reception:
    landed, refused = found.get("landed"), found.get("refused")
    return Reception(
        turn=count_of(found.get("turn")) or 0,
        landed=landed if isinstance(landed, str) else None,
        commits=words_of(found, "commits"),
        at=parse_time(found.get("at")) or datetime.fromtimestamp(0, UTC),
        refused=refused_from_json(refused) if isinstance(refused, Mapping) else None,
    )


def refused_from_json(found: Mapping[str, Any]) -> Refused:
    """Return what `asdict` has made of a refusal."""
    kind, onto, message = (found.get(name) for name in ("kind", "onto", "message"))
    return Refused(
        kind=str(kind),
        files=words_of(found, "files"),
        onto=onto if isinstance(onto, str) else None,
        message=message if isinstance(message, str) else "",
    )


def note_reception(
    git: Git,
    session_id: str,
    turn: int,
    *,
    landed: str | None = None,
    commits: tuple[str, ...] = (),
    refused: Refused | None = None,
) -> None:
    """Note what has become of a session's work as it is after a turn; GitError."""
    said = {"turn": turn, "landed": landed, "commits": commits, "at": format_time(datetime.now(UTC))}
    text = json.dumps({**said, "refused": asdict(refused) if refused else None})
    git.write_note(f"{_RECEIVED}{session_id}", text.encode())
