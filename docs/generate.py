"""Writes docs/commands.md from the parsers. `make docs` runs it; a test fails when the file is stale."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from csa.cli.commands import COMMANDS, overview

TARGET = Path(__file__).parent / "commands.md"
COLUMNS = "100"


def render() -> str:
    """Return the whole reference."""
    os.environ["COLUMNS"] = COLUMNS  # argparse wraps its help to it
    parts = [
        "# Commands",
        "",
        "This file is generated from the command line's own parsers (`make docs`).",
        "",
        "```",
        overview().rstrip(),
        "```",
    ]
    for command in COMMANDS:
        parts += ["", f"## csa {' '.join(command.words)}", "", "```", command.parser().format_help().rstrip(), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
    sys.stdout.write(f"wrote {TARGET.name}\n")
