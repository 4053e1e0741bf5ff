"""Files of agents: sent as attachments, which no browser shows as a page of ours; in part where that is asked for."""

from __future__ import annotations

import mimetypes
import os
import re
from pathlib import Path
from typing import IO
from urllib.parse import quote

import anyio.to_thread

from csa.serve.guard import Receive, Scope, Send
from csa.serve.problems import RequestError

_PIECE = 1 << 16
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)  # only one


class Attachment:
    """An answer with what is in a file from where it stands, as far as it goes now, or a range of that."""

    def __init__(self, file: IO[bytes], name: str, asked: str | None) -> None:
        self._file = file
        self._name = Path(name).name
        start = file.tell()
        self._size = max(0, os.fstat(file.fileno()).st_size - start)
        self._range = _range_of(asked or "", self._size)
        if self._range is not None and not self._range:
            file.close()
            headers = {"Content-Range": f"bytes */{self._size}"}
            raise RequestError(416, "usage", f"There are only {self._size} bytes.", headers=headers)
        file.seek(start + (self._range.start if self._range else 0))

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it; the file is closed at the end."""
        kind = mimetypes.guess_type(self._name)[0] or "application/octet-stream"
        left = len(self._range) if self._range else self._size
        headers = [
            (b"content-type", kind.encode() if not kind.startswith("text/") else b"text/plain; charset=utf-8"),
            (b"content-disposition", f"attachment; filename*=utf-8''{quote(self._name)}".encode()),
            (b"accept-ranges", b"bytes"),
            (b"content-length", str(left).encode()),
        ]
        if part := self._range:
            headers.append((b"content-range", f"bytes {part.start}-{part.stop - 1}/{self._size}".encode()))
        with self._file:
            await send({"type": "http.response.start", "status": 206 if part else 200, "headers": headers})
            while scope["method"] != "HEAD" and left:
                piece = await anyio.to_thread.run_sync(self._file.read, min(left, _PIECE))
                if not piece:  # it was cut meanwhile: the client sees that it is not whole
                    return
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _range_of(asked: str, size: int) -> range | None:
    """Return the bytes that are asked for, none if there are none of them; None for all, or what is not understood."""
    found = _RANGE.fullmatch(asked.strip())
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # so many at the end
        return range(max(0, size - int(found[2])), size)
    first, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if last < first and found[2]:
        return None
    return range(first, min(last + 1, size))
