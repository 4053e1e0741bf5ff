"""What outlet and intake say to each other: objects as JSON, a line each, of which some are followed by bytes.

The intake speaks first, of what it has, and then is silent. The outlet greets, and answers with frames:

    {"k": "told", "p": PROJECT, "s": SESSION, "n": N}         who holds its lock; N bytes of JSON follow
    {"k": "lines", ..., "at": OFFSET, "n": N}                 N bytes of its transcript, which end at a line's end but
                                                              for parts of a very long line
    {"k": "file", ..., "name": NAME, "at": T, "n": N}         a small file, whole, written at T
    {"k": "anew", ..., "at": OFFSET}                          its transcript is not what was seen: what comes after the
                                                              offset, if there is one, or all of it, comes again
    {"k": "whole", ...}                                       what was said of it so far belongs together
    {"k": "gone", ...}                                        it was deleted
    {"k": "beat", "time": T}                                  everything up to T was sent

A frame that is cut off has not been sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import IO, Any

from csa.errors import CsaError
from csa.structs import Struct, field

PROTOCOL = 1
GREETING = "outlet"
SUPERVISE = "supervise"
MOST_BYTES = 1 << 18  # of what follows a frame
MOST_FILE_BYTES = 1 << 22  # of a small file
SILENCE_S = 600.0  # after which nothing more is expected: a large repository takes time to pack
_MOST_HEAD = 1 << 16
_MOST_NOISE = 1 << 18  # what a login shell may print before the outlet speaks
SMALL_FILES = ("state.toml", "result.toml", "locks/tree.lock")  # the last one says who is in its tree


class ProtocolError(CsaError):
    """What came is not what an outlet, or an intake, of this version says."""

    code = "protocol"


class Frame(Struct):
    """One frame: what it says, and the bytes that follow it."""

    said: Mapping[str, Any]
    content: bytes = b""

    @property
    def kind(self) -> str:
        return str(self.said.get("k"))


class Having(Struct):
    """What an intake has of a session: how much of its transcript, and the digests of its last line and its files.

    `marks` are offsets in a long one, with the digests of the lines that end there, the last ones first.
    """

    bytes: int = 0
    digest: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    is_gone: bool = False
    marks: Sequence[tuple[int, str]] = ()


def digest_of(content: bytes) -> str:
    """Return what stands for a line, or a small file."""
    return hashlib.sha256(content).hexdigest()[:32]


def write_frame(stream: IO[bytes], kind: str, content: bytes | None = None, /, **said: Any) -> None:
    """Write a frame; OSError when nobody reads any more."""
    more = {} if content is None else {"n": len(content)}
    write_line(stream, {"k": kind, **said, **more})
    if content:
        stream.write(content)


def write_line(stream: IO[bytes], said: Mapping[str, Any]) -> None:
    """Write an object as a line."""
    stream.write(line_of(said))


def line_of(said: Mapping[str, Any]) -> bytes:
    """Return an object as a line."""
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def read_frame(stream: IO[bytes]) -> Frame | None:
    """Read a frame; None at the end, which may be in the middle of one. ProtocolError for anything else."""
    said = read_line(stream)
    return None if said is None else frame_of(said, stream)


def frame_of(said: Mapping[str, Any], stream: IO[bytes]) -> Frame | None:
    """Return the frame that begins with a line; None if it is cut off. ProtocolError for one that makes no sense."""
    length = said.get("n", 0)
    if not isinstance(length, int) or not 0 <= length <= MOST_FILE_BYTES:
        raise ProtocolError(f"A frame has the length {length!r}.")
    content = stream.read(length) if length else b""
    return Frame(said, content) if len(content) == length else None


def read_line(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read an object; None at the end, or for a line that is cut off. ProtocolError for another line."""
    line = stream.readline(_MOST_HEAD)
    if not line.endswith(b"\n") and len(line) < _MOST_HEAD:
        return None
    if (said := object_in(line)) is None:
        raise ProtocolError(f"This is no frame: {line[:60]!r}.")
    return said


def object_in(line: bytes) -> dict[str, Any] | None:
    """Return the object that a line is; None for any other line."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def read_greeting(stream: IO[bytes], who: str = GREETING) -> dict[str, Any] | None:
    """Return what an outlet, or `who`, says first; None if it says nothing.

    What a login shell has printed before is skipped. ProtocolError for one that speaks another version.
    """
    noise = 0
    while noise < _MOST_NOISE and (line := stream.readline(_MOST_HEAD)):
        noise += len(line)
        if (said := object_in(line)) and said.get("csa") == who:
            return require_protocol(said)
    return None


def require_protocol(said: dict[str, Any]) -> dict[str, Any]:
    """Return a greeting, or the first line of what an intake has; ProtocolError if it is of another protocol."""
    if said.get("protocol") != PROTOCOL:
        theirs = f"csa {said.get('version', '?')} speaks version {said.get('protocol')!r} of the protocol between hosts"
        raise ProtocolError(
            f"{theirs}, this csa version {PROTOCOL}.", hint="install the same version of csa on both hosts"
        )
    return said
