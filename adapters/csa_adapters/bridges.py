"""What the bridges share. They are programs: each runs as the tool, writes lines of JSON, and ends at a signal.

They run without site-packages, some of them in every turn, so this module imports only what each of them needs.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, NoReturn

Json = dict[str, Any]

ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Terminated(BaseException):
    """A signal requested the end; `code` is the program's exit code."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number


def end_at_signals() -> None:
    """Make the termination signals raise `Terminated`."""
    for number in ENDS:
        signal.signal(number, _terminate)


def _terminate(number: int, _frame: object) -> NoReturn:
    raise Terminated(number)


def say(event: str, /, **fields: Any) -> None:
    """Write one line. Blocks until it is read."""
    line = json.dumps({"type": event, **fields}, ensure_ascii=False) + "\n"
    sys.stdout.buffer.write(line.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
