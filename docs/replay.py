"""Runs the commands of documents again and writes down what a terminal of 80 columns shows: `make replay` runs it.

In these documents a block of ```console holds commands behind `$ `, each followed by what it prints. They run in order,
each document in a playground of its own (csa demo shell), where all agents are fakes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from textwrap import fill

import pexpect
import pyte

HERE = Path(__file__).parent
DOCUMENTS = ("tutorial.md", "recipes.md", "plans.md")
COLUMNS, LINES = 80, 200
PATIENCE_S = 120
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)


def commands(text: str) -> Iterator[str]:
    """Yield the commands of a document, in order."""
    for block in BLOCK.findall(text):
        yield from COMMAND.findall(block)


class Playground:
    """A place in which the commands of a document run one after the other."""

    def __init__(self, directory: Path) -> None:
        self._home = str(directory)
        self._outside = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
            "HOME": str(directory),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }

    @cached_property
    def _env(self) -> dict[str, str]:
        """The environment of the playground's shell, which is opened once: each command then has a shell of its own."""
        words = ("csa", "demo", "shell", self._home, "-c", "env -0")
        found = subprocess.run(words, env=self._outside, capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in found.rstrip("\0").split("\0"))

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal."""
        return subprocess.run(
            ["bash", "-c", command],
            env=self._env,
            cwd=self._env["PWD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def show(self, command: str) -> str:
        """Run a command in a terminal; return what that shows in the end."""
        stream = pyte.ByteStream(screen := pyte.Screen(10 * COLUMNS, LINES))  # so that it does not break words
        terminal: pexpect.spawn[bytes] = pexpect.spawn(
            "bash",
            ["-c", command],
            env=self._env,
            cwd=self._env["PWD"],
            dimensions=(LINES, COLUMNS),
            timeout=PATIENCE_S,
        )
        terminal.expect(pexpect.EOF)
        stream.feed(terminal.before or b"")
        terminal.close()
        return "\n".join(_folded(self._at_home(line.rstrip())) for line in screen.display).strip("\n")

    def _at_home(self, line: str) -> str:
        """Write the playground's place as that of a home: the name of a store holds it in the middle."""
        return re.sub(rf"(?<![\w/]){re.escape(self._home)}", "~", line).replace(self._home, "/home/ann")


def _folded(line: str) -> str:
    return line if len(line) <= COLUMNS else fill(line, COLUMNS, break_long_words=False, break_on_hyphens=False)


def replayed(text: str, playground: Playground) -> str:
    """Return a document with what its commands print now."""

    def block(match: re.Match[str]) -> str:
        parts = []
        for command in COMMAND.findall(match[1]):
            print(f"$ {command}", flush=True)
            shown = playground.show(command)
            parts.append(f"$ {command}\n{shown}\n" if shown else f"$ {command}\n")
        return "```console\n" + "".join(parts) + "```"

    return BLOCK.sub(block, text)


def main() -> None:
    for name in sys.argv[1:] or DOCUMENTS:
        document = HERE / name
        with tempfile.TemporaryDirectory(prefix="csa-replay-") as base:
            playground = Playground(Path(base).resolve() / "play")
            document.write_text(replayed(document.read_text(), playground))
            playground.run("csa kill --all --yes")


if __name__ == "__main__":
    main()
