"""The page's files, which are the package's data in `page/`.

All but the start page have an address with the hash of all of them, under which they never change. So a browser never
mixes files of two versions: it asks for the start page every time, and gets the rest of the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from csa.errors import NotFoundError
from csa.structs import Struct

INDEX = "index.html"
_HERE = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
_PLACE = "@PLACE@"  # in the start page and the manifest: where the files are


class Asset(Struct):
    """One file as it is sent."""

    content: bytes
    headers: Mapping[str, str]


@lru_cache(maxsize=1)
def _assets() -> Mapping[str, Asset]:
    """Return all files by path; of a server that runs, so that it stays the same while csa is upgraded."""
    files = {path.name: path.read_bytes() for path in sorted(_HERE.iterdir()) if path.suffix in _TYPES}
    content = hashlib.sha256(b"\0".join(part for name in files for part in (name.encode(), files[name])))
    version = content.hexdigest()[:16]
    found = {}
    for name, body in files.items():
        is_index = name == INDEX
        sent = body.replace(_PLACE.encode(), f"/page/{version}".encode())
        found["/" if is_index else f"/page/{version}/{name}"] = Asset(
            sent,
            {
                "content-type": _TYPES[Path(name).suffix],
                "etag": f'"{version}"',
                "cache-control": "no-cache" if is_index else "public, max-age=31536000, immutable",
            },
        )
    return found


def load() -> None:
    """Read the files; those of an upgrade are another server's."""
    _assets()


def find_asset(path: str) -> Asset:
    """Return the file with a path; NotFoundError if there is none, or none of this version."""
    found = _assets().get(path)
    if found is None:
        raise NotFoundError("There is no such page.", hint="the page is at /")
    return found
