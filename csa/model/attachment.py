"""What a prompt comes with: images, and files. A value with its content, which stays what it was at the call. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

MAX_COUNT = 20
MAX_BYTES = 10 << 20  # of one
MAX_TOTAL_BYTES = 20 << 20
_IMAGES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}
_SUFFIXES |= {"application/pdf": ".pdf"}
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 80


class Attachment(Struct, kw_only=True):
    """An image or a file. `name` is the last part of its path; `path` is that of the tool's copy, during the turn."""

    name: str
    media_type: str
    content: bytes
    path: str = ""

    @property
    def is_image(self) -> bool:
        return self.media_type.startswith("image/")

    @property
    def text(self) -> str | None:
        """The content of a text file."""
        return self.content.decode() if self.media_type == "text/plain" else None

    @property
    def base64(self) -> str:
        """The content, as protocols want it."""
        from base64 import b64encode  # noqa: PLC0415  # `show` only describes them

        return b64encode(self.content).decode()

    @property
    def sha256(self) -> str:
        from hashlib import sha256  # noqa: PLC0415  # as above

        return sha256(self.content).hexdigest()

    def to_json(self) -> dict[str, str]:
        """Return it as JSON, whole, for another process."""
        return {"name": self.name, "media_type": self.media_type, "content": self.base64}

    def to_event(self) -> dict[str, Any]:
        """Return what a transcript has of it."""
        known = {"name": self.name, "media_type": self.media_type, "size_bytes": len(self.content)}
        return {**known, "sha256": self.sha256}


def attachment_from_json(value: Mapping[str, str]) -> Attachment:
    """Return what `to_json` was called on."""
    from base64 import b64decode  # noqa: PLC0415  # as above

    return Attachment(name=value["name"], media_type=value["media_type"], content=b64decode(value["content"]))


def media_type_of(content: bytes) -> str | None:
    """Return what a content is, whatever its name says: an image, a PDF or text in UTF-8; None for anything else."""
    for start, kind in _IMAGES:
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    if content.startswith(b"%PDF-"):
        return "application/pdf"
    try:
        return None if "\0" in content.decode() else "text/plain"
    except UnicodeDecodeError:
        return None


def copy_names(attachments: Iterable[Attachment]) -> list[str]:
    """Return names for copies that no tool misreads: numbered, in plain ASCII, with the suffix of the type."""
    return [f"{number:02d}-{_plain(each)}" for number, each in enumerate(attachments, 1)]


def _plain(attachment: Attachment) -> str:
    suffix = _SUFFIXES.get(attachment.media_type, "")
    name = _UNSAFE.sub("_", attachment.name)[-_LONGEST_NAME:]
    return name if name.lower().endswith(suffix) else name + suffix


def describe(known: Mapping[str, Any]) -> str:
    """Write what a transcript has of an attachment on one line."""
    size, sha256 = known.get("size_bytes"), str(known.get("sha256") or "")[:12]
    name = "".join(character if character.isprintable() else "?" for character in str(known.get("name")))
    return f"[{name}: {known.get('media_type')}, {size} bytes, sha256 {sha256}]"
