"""Shows a text that is longer than the screen in a pager, as git does; other text is printed.

CSA_PAGER overrides PAGER, and `less -FRX` is the default; an empty one, or `cat`, disables it. If the pager does not
work, the text is printed.
"""

from __future__ import annotations

import os
import sys

from csa.cli.output import can_redraw, is_in_background, terminal_size

_FIRST_SIGNAL = 128  # a shell's exit code for a program that was killed by a signal


def page(text: str) -> None:
    """Show a text; return when the reader is done."""
    if not (_is_long(text) and (command := _command()) and _show(command, text)):
        print(text, end="", flush=True)


def _is_long(text: str) -> bool:
    """Say whether there is a screen that is too small for the text."""
    out = sys.stdout
    return can_redraw(out) and text.count("\n") >= terminal_size(out)[1] and not is_in_background(out)


def _command() -> str:
    given = os.environ.get("CSA_PAGER", os.environ.get("PAGER", "less")).strip()
    return "" if given == "cat" else given


def _show(command: str, text: str) -> bool:
    """Run the pager; say whether it has shown the text. Ctrl-C belongs to it meanwhile."""
    import signal  # noqa: PLC0415  # few texts are long
    import subprocess  # noqa: PLC0415  # as above

    sys.stdout.flush()
    before = signal.signal(signal.SIGINT, lambda *_: None)  # ignoring it would be inherited
    try:
        environ = {"LESS": "FRX", "LV": "-c", **os.environ}
        done = subprocess.run(["sh", "-c", command], input=text.encode(), env=environ, check=False)
    except OSError:
        return False
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode <= 0 or done.returncode > _FIRST_SIGNAL
