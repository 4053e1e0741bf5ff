"""The command line of the scheduler, as `csa plan run` writes it and the scheduler reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from csa.structs import Struct, field


class Words(Struct, kw_only=True):
    """What the scheduler is told besides the plan.

    Attributes:
        file: the plan's file; empty for one from a pipe.
        base: where paths in it start from.
        stem: what its sessions are named by.
        instead: keys in place of those at the top.
        tasks: those to run, with what they need; all if none is named.
        fresh: those that begin again.
        takes: alternatives of races to merge.
        command: how agents call csa.
    """

    file: str
    base: str
    stem: str
    instead: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    command: str = "csa"

    def render(self) -> tuple[str, ...]:
        """Return the words, without `command`, which the adapter adds."""
        pairs = [("--file", self.file), ("--base", self.base), ("--stem", self.stem)]
        pairs += [("--set", f"{key}={json.dumps(value)}") for key, value in self.instead.items()]
        pairs += [("--fresh", name) for name in self.fresh] + [("--take", name) for name in self.takes]
        return (*(word for pair in pairs for word in pair), *self.tasks)


def parse_words(words: Sequence[str]) -> Words:
    """Read what `render` has written."""
    given: dict[str, list[str]] = {}
    tasks: list[str] = []
    rest: Iterator[str] = iter(words)
    for word in rest:
        if word.startswith("--"):
            given.setdefault(word, []).append(next(rest))
        else:
            tasks.append(word)
    pairs = (each.partition("=") for each in given.get("--set", ()))
    return Words(
        file=given["--file"][0],
        base=given["--base"][0],
        stem=given["--stem"][0],
        instead={key: json.loads(value) for key, _, value in pairs},
        tasks=tuple(tasks),
        fresh=tuple(given.get("--fresh", ())),
        takes=tuple(given.get("--take", ())),
        command=given.get("--csa", ["csa"])[0],
    )
