"""What a repair has changed, as it was before: `backup/TIME/` in the session's directory, which `csa gc` removes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from csa.paths import SessionPaths
from csa.store.atomic import make_private_directory, read_regular, sync_directory, write_atomically

BACKUP = "backup"
_TIME = "%Y%m%dT%H%M%S.%fZ"


class Backup:
    """The copies that one repair makes, before it changes anything; with `dry_run` only their names."""

    def __init__(self, paths: SessionPaths, *, dry_run: bool) -> None:
        self._root = paths.root
        self._dry_run = dry_run
        self._at = paths.root / BACKUP / f"{datetime.now(UTC):{_TIME}}"
        self.names: list[str] = []

    @property
    def place(self) -> str:
        """Where they are, in the session's directory."""
        return str(self._at.relative_to(self._root))

    def keep(self, path: Path, content: bytes | None = None) -> None:
        """Keep a file, if it exists, or only this part of it; OSError if that is impossible."""
        if content is None:
            if not os.path.lexists(path):
                return
            content = _read(path)
        name = str(path.relative_to(self._root))
        if not self._dry_run and name not in self.names:
            copy = self._at / name
            make_private_directory(copy.parent)
            if content is None:
                os.link(path, copy, follow_symlinks=False)
                sync_directory(copy.parent)
            else:
                write_atomically(copy, content)
        self.names = list(dict.fromkeys([*self.names, name]))


def _read(path: Path) -> bytes | None:
    """Return the content of a file; None for what is kept as it is: a link, a pipe, what cannot be read."""
    try:
        return None if path.is_symlink() else read_regular(path)
    except IsADirectoryError as error:  # it cannot be replaced either
        raise IsADirectoryError(error.errno, error.strerror, str(path)) from error
    except OSError:
        return None


def old_backups(session: Path, before: datetime) -> Iterator[Path]:
    """Yield the copies of repairs before that moment."""
    with suppress(OSError):
        for name in sorted(os.listdir(session / BACKUP)):
            try:
                made = datetime.strptime(name, _TIME).replace(tzinfo=UTC)
            except ValueError:  # not csa's
                continue
            if made < before:
                yield session / BACKUP / name
