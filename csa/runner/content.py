"""Where the text of a session can be read: in its place, or, while it is encrypted, in memory.

It is looked up at each use, since somebody else may encrypt or open the session meanwhile. Who encrypts one puts the
encrypted file there first and deletes the plain ones last, so that what was looked up can still be opened.
"""

from __future__ import annotations

import os

from csa.paths import SEALED_FILE, SessionPaths

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from csa.runner.atrest import Keys


class Content(SessionPaths, frozen=False):
    """The files of a session. What is opened in memory stays there as long as this object does.

    Looking one up raises SealedError if there is no key that opens it, and StateError if what is encrypted is damaged.
    """

    _files: SessionPaths
    _keys: Callable[[], Keys]
    _stamp: tuple[int, int] | None
    _opened: SessionPaths

    def __init__(self, files: SessionPaths, keys: Callable[[], Keys]) -> None:
        self._files = self._opened = files
        self._keys, self._stamp = keys, None

    @property  # type: ignore[misc]  # as below
    def pathname(self) -> str:  # type: ignore[override]  # nobody sets it
        """The directory in which they are now."""
        return self.now().pathname

    def in_place(self, path: Path | str) -> str:
        """Return where a file is, once the session is opened in its place."""
        below = os.path.relpath(path, self.pathname)
        return f"{self._files.pathname}/{below}"

    @property
    def is_in_memory(self) -> bool:
        """Whether what was found here goes with this process."""
        return self.now() is not self._files

    def now(self) -> SessionPaths:
        """Return the files where they are now."""
        stamp = stamp_of_sealed(sealed := f"{self._files.pathname}/{SEALED_FILE}")
        if stamp is None:
            return self._files
        if stamp != self._stamp:
            from csa.runner.atrest import opened  # noqa: PLC0415  # few are encrypted

            self._opened = opened(self._files, self._keys())
            is_leftover = self._opened is self._files  # as a crash leaves one
            self._stamp = None if is_leftover or stamp_of_sealed(sealed) != stamp else stamp
        return self._opened


def stamp_of_sealed(pathname: str) -> tuple[int, int] | None:
    """Return what tells an encrypted file from another one in its place; None if there is none."""
    try:
        found = os.stat(pathname)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
