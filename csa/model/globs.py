"""Globs of paths in a repository: whether a path is among them, and whether two may have one in common. Pure.

`*` and `?` stay within a name, `**` is any number of directories, and a glob of a directory has all that is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator


def overlapping(one: Iterable[str], other: Iterable[str]) -> bool:
    """Say whether there may be a path that globs of both match."""
    others = [_parts(glob) for glob in other]
    return any(_meet(_parts(glob), each) for glob in one for each in others)


def outside(paths: Iterable[str], globs: Iterable[str]) -> list[str]:
    """Return the paths that no glob matches; a glob that names a directory matches all in it, `**` any directories."""
    patterns = [_parts(glob) for glob in globs]
    return [path for path in paths if not any(_covers(pattern, path.split("/")) for pattern in patterns)]


def _parts(glob: str) -> list[str]:
    return [part for part in glob.split("/") if part not in {"", "."}]


def _covers(pattern: list[str], path: list[str]) -> bool:
    from fnmatch import fnmatchcase  # noqa: PLC0415  # few plans say what they touch

    if not pattern:
        return True  # a directory, or the path itself
    if not path:
        return all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _covers(pattern[1:], path) or _covers(pattern, path[1:])
    return fnmatchcase(path[0], pattern[0]) and _covers(pattern[1:], path[1:])


def _meet(one: list[str], other: list[str]) -> bool:
    """Say whether two patterns may match the same path."""
    if not one or not other:
        return True  # what is left is below the directory that the other names
    if one[0] == "**":
        return _meet(one[1:], other) or _meet(one, other[1:])
    if other[0] == "**":
        return _meet(other, one)
    return _meet_in_name(_tokens(one[0]), _tokens(other[0])) and _meet(one[1:], other[1:])


def _tokens(part: str) -> list[str]:
    """Return the characters of a pattern, a class of them as `?`: it may be any."""
    return [*re.sub(r"\*+", "*", re.sub(r"\[!?\]?[^]]*\]", "?", part))]


def _meet_in_name(one: list[str], other: list[str]) -> bool:
    """Say whether two patterns of one name may match the same name: by the states that both can be in."""
    reached = {(0, 0)}
    pending = [(0, 0)]
    while pending:
        for step in _steps(one, other, *pending.pop()):
            if step not in reached:
                reached.add(step)
                pending.append(step)
    return (len(one), len(other)) in reached


def _steps(one: list[str], other: list[str], i: int, j: int) -> Iterator[tuple[int, int]]:
    first = one[i] if i < len(one) else ""
    second = other[j] if j < len(other) else ""
    if first == "*":
        yield i + 1, j
        if second not in {"", "*"}:
            yield i, j + 1
    if second == "*":
        yield i, j + 1
        if first not in {"", "*"}:
            yield i + 1, j
    if first and second and "*" not in {first, second} and (first == second or "?" in {first, second}):
        yield i + 1, j + 1
