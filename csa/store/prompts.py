"""chat_history of a store: the prompts that were entered in chats of the project, as JSON strings, one a line.

Private and redacted. It is a convenience: what cannot be read or written is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from csa.ownership import open_private
from csa.paths import CHAT_HISTORY
from csa.store.atomic import make_private_directory, open_regular, require_regular, write_atomically
from csa.store.sessions import Store

MAX_BYTES = 256 << 10
_LONGEST = 16 << 10  # bytes of one line


class PromptHistory:
    """The prompts of a project, oldest first."""

    def __init__(self, store: Store, redact: Callable[[str], str], *, keeps: bool = True) -> None:
        """Read it; unless it `keeps` them, as where sessions are encrypted, prompts are not added."""
        self._store = store
        self._path = store.path / CHAT_HISTORY
        self._redact, self._keeps = redact, keeps

    def load(self) -> list[str]:
        """Return what was entered; of a file that has become too long the older half is dropped."""
        try:
            with open(open_regular(str(self._path)), "rb") as file:
                content = file.read()
            lines = content.splitlines()
            if len(content) > MAX_BYTES:
                lines = content[-MAX_BYTES // 2 :].splitlines()[1:]
                write_atomically(self._path, b"".join(line + b"\n" for line in lines))
        except OSError:
            return []
        return [text for line in lines if (text := _decoded(line))]

    def add(self, text: str) -> None:
        """Keep a prompt, in one write, so that those of several chats never mix."""
        line = json.dumps(self._redact(text)).encode() + b"\n"
        if len(line) > _LONGEST or not self._keeps:
            return
        try:
            make_private_directory(self._store.path)
            fd = open_private(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                require_regular(fd)
                os.write(fd, line)
            finally:
                os.close(fd)
        except OSError:
            return


def _decoded(line: bytes) -> str | None:
    try:
        text = json.loads(line)
    except ValueError:
        return None
    return text if isinstance(text, str) else None
