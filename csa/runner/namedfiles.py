"""Files of a tool's configuration, by the names that adapters give them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from csa.store.atomic import open_regular

LARGEST_BYTES = 1 << 20


def read_named_files(names: tuple[str, ...], environ: Mapping[str, str], directory: str) -> dict[str, str]:
    """Return the texts of the named files; missing, unreadable or huge ones are left out."""
    found: dict[str, str] = {}
    for name in names:
        path = expand_place(name, environ, directory)
        if path is None:
            continue
        with suppress(OSError):
            with open(open_regular(path), "rb") as file:
                content = file.read(LARGEST_BYTES + 1)
            if len(content) <= LARGEST_BYTES:
                found[name] = content.decode("utf-8", "replace")
    return found


def expand_place(name: str, environ: Mapping[str, str], directory: str) -> Path | None:
    """Return the path that a name stands for; None where its variable is not set."""
    if name.startswith("~/"):
        return Path(environ.get("HOME") or "/") / name[2:]
    if name.startswith("./"):
        return Path(directory) / name[2:]
    if name.startswith("$"):
        variable, _, rest = name[1:].partition("/")
        return Path(directory, environ[variable], rest) if environ.get(variable) else None
    return Path(name)
