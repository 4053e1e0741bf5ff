"""The adapters, transports and engines that packages provide, found as importlib.metadata does, in a tenth of the time.

importlib.metadata takes longer to load than python takes to start. If only one package has entry points for csa, which
is csa itself, only that package's list is read; everything else goes to importlib.metadata (a test compares the two).
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from functools import cache, reduce
from importlib import import_module
from importlib.machinery import PathFinder

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from importlib.metadata import EntryPoint as StandardEntryPoint
    from typing import Any

_PREFIX = b"csa."
_VALUE = re.compile(r"[\w.]+(:[\w.]+)?")


class EntryPoint(Struct):
    """Where an object is: `module:attribute`, or a module."""

    value: str

    def load(self) -> Any:
        """Import the object; raises whatever its module raises."""
        module, _, attribute = self.value.partition(":")
        return reduce(getattr, filter(None, attribute.split(".")), import_module(module))


@cache
def entry_points(group: str) -> dict[str, EntryPoint] | dict[str, StandardEntryPoint]:
    """Return the entry points of a group that begins with `csa.`, by name."""
    text = _only_list()
    points = None if text is None else _parse(text, group)
    if points is not None:
        return points
    from importlib.metadata import entry_points  # noqa: PLC0415  # as above

    return {point.name: point for point in entry_points(group=group)}


def _only_list() -> str | None:
    """Return the one entry_points.txt that names csa; empty if none does, None if the fast path does not suffice."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return None
    packages: Counter[str] = Counter()
    found: dict[str, str] = {}
    for place in dict.fromkeys(sys.path):
        try:
            names = os.listdir(place or ".")
        except NotADirectoryError:  # an archive
            return None
        except OSError:
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                package = re.sub(r"[-_.]+", "-", name.rpartition(".")[0].partition("-")[0]).lower()
                packages[package] += 1
                if text := _read(os.path.join(place, name, "entry_points.txt")):
                    found[package] = text
    is_plain = len(found) <= 1 and all(packages[package] == 1 for package in found)  # the first of two would count
    is_egg = any(place.endswith(".egg") for place in sys.path)
    return "".join(found.values()) if is_plain and not is_egg else None


def _read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # most packages have none
        return ""
    with open(fd, "rb") as file:
        content = file.read()
    return content.decode() if _PREFIX in content else ""


def _parse(text: str, group: str) -> dict[str, EntryPoint] | None:
    """Return the entry points of a group; None if one is not in the plain form."""
    points: dict[str, EntryPoint] = {}
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line.strip("[]")
        elif line and line[0] != "#" and section == group:
            name, _, value = (part.strip() for part in line.partition("="))
            if not _VALUE.fullmatch(value):
                return None
            points[name] = EntryPoint(value)
    return points
