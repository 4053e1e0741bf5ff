"""A copy in which what was said can be read with a key alone: a target in front of another one.

Encrypted are titles (which are left out), the content of messages, and the data of events; each by itself, as a file of
age in base64. What a session is called, its times, status and usage, and the kinds and numbers of its messages are not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from csa.runner.copies.rows import MessageRow
from csa.runner.copies.target import Change, Key, Standing, Target
from csa.store.sealing import Sealer
from csa.structs import replace

SEALED = "age"  # the key of what is encrypted


class Encrypted:
    """Puts changes into a target, encrypted. What was not put so, or for others, is put again."""

    def __init__(self, target: Target, sealer: Sealer) -> None:
        self._target, self._sealer = target, sealer
        self._mark = f"{SEALED}:{sealer.label} "  # of what was put with the same keys

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)  # what has nothing to encrypt

    def standing(self) -> dict[Key, Standing]:
        return {key: self._known(has) for key, has in self._target.standing().items()}

    def put(self, changes: Iterable[Change]) -> None:
        self._target.put([self._sealed(change) for change in changes])

    def _known(self, has: Standing) -> Standing:
        """Return where a session stands; one that was put in another way as one whose transcript is another."""
        if not has.inode.startswith(self._mark):
            return replace(has, inode="", stamp="")
        return replace(has, inode=has.inode.removeprefix(self._mark), stamp=has.stamp.removeprefix(self._mark))

    def _sealed(self, change: Change) -> Change:
        has = change.standing
        marked = replace(has, inode=self._mark + has.inode, stamp=has.stamp and self._mark + has.stamp)
        return replace(
            change,
            standing=marked,
            row=replace(change.row, title=None),
            messages=[self._message(row) for row in change.messages],
            events=[(seq, self._event(line)) for seq, line in change.events],
        )

    def _message(self, row: MessageRow) -> MessageRow:
        return replace(row, content=self._seal(row.content))

    def _event(self, line: bytes) -> bytes:
        event = json.loads(line)
        return json.dumps({**event, "data": self._seal(event["data"])}, separators=(",", ":")).encode()

    def _seal(self, content: Mapping[str, Any]) -> dict[str, str]:
        return {SEALED: self._sealer.seal(json.dumps(content, ensure_ascii=False))}
