"""Showing long text a screen at a time, as git does: on a terminal only, and only what does not fit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable

from csa.cli.output import terminal_size

_DEFAULT = "less"


def page(lines: Iterable[str], *, allowed: bool = True) -> None:
    """Print lines; through `$CSA_PAGER`, `$PAGER` or less when stdout is a terminal too small for them."""
    command = _command() if allowed and sys.stdout.isatty() else ""
    if not command:
        for line in lines:
            print(line)
        return
    text = "".join(f"{line}\n" for line in lines)
    if text.count("\n") < terminal_size(sys.stdout)[1] or not _ran(command, text):
        sys.stdout.write(text)


def _command() -> str:
    """Return the command line of the pager; empty for none."""
    command = os.environ.get("CSA_PAGER", os.environ.get("PAGER", _DEFAULT)).strip()
    is_missing = command == _DEFAULT and shutil.which(_DEFAULT) is None
    return "" if command == "cat" or is_missing else command


def _ran(command: str, text: str) -> bool:
    """Hand the text to a pager; False when there is none."""
    environment = {"LESS": "FRX", **os.environ}  # colours stay, and what fits on a screen is just printed
    sys.stdout.flush()
    process = subprocess.Popen(  # noqa: S602  # a pager is a command line, as everywhere
        command, shell=True, stdin=subprocess.PIPE, env=environment
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the pager's, which has its own use for it
    try:
        process.communicate(text.encode("utf-8", "replace"))
    finally:
        signal.signal(signal.SIGINT, before)
    return process.returncode not in {126, 127}
