"""Showing long text a screen at a time, as git does: on a terminal only, and only what does not fit."""

from __future__ import annotations

import os
import subprocess
import sys

from csa.cli.output import terminal_size

_DEFAULT = "less"


def page(text: str, *, allowed: bool = True) -> None:
    """Print a text; through `$CSA_PAGER`, `$PAGER` or less when stdout is a terminal too small for it."""
    command = os.environ.get("CSA_PAGER", os.environ.get("PAGER", _DEFAULT)).strip()
    if allowed and command not in {"", "cat"} and sys.stdout.isatty() and _is_too_long(text) and _ran(command, text):
        return
    sys.stdout.write(text)


def _is_too_long(text: str) -> bool:
    return text.count("\n") >= terminal_size(sys.stdout)[1]


def _ran(command: str, text: str) -> bool:
    """Hand the text to a pager; False when there is none."""
    environment = {"LESS": "FRX", **os.environ}  # colours stay, and what fits on a screen is just printed
    sys.stdout.flush()
    ended = subprocess.run(  # noqa: S602  # a pager is a command line, as everywhere
        command, shell=True, check=False, input=text.encode("utf-8", "replace"), env=environment
    )
    return ended.returncode not in {126, 127}
