"""List the files that agents have left in a session's output, csa's own apart; or copy them somewhere.

In a pipe each line is the path of a file. Copies keep their names below output/; nothing is ever overwritten, and
links that lead out of the output are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from csa.cli.output import Style, one_line, print_json, text_for
from csa.cli.selecting import add_selector, find_one
from csa.model.state import format_time
from csa.store.artifacts import Artifact, copy_artifacts, find_artifacts
from csa.store.sessions import format_age

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse

_KIB = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--turn", type=int, metavar="N", help="only those of turn N")
    parser.add_argument("--copy-to", metavar="DIR", help="copy them into DIR")
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute(arguments: argparse.Namespace) -> int:
    paths = find_one(arguments, retired=True).files
    artifacts = find_artifacts(paths, turn=arguments.turn)
    copies: list[Path] = []
    if arguments.copy_to is not None:
        copies = copy_artifacts(artifacts, Path(arguments.copy_to).absolute())
    if arguments.json:
        targets = [{"copied_to": str(path)} for path in copies] or [{} for _ in artifacts]
        print_json([{**_to_json(item), **target} for item, target in zip(artifacts, targets, strict=True)])
    elif copies:
        print("\n".join(text_for(sys.stdout, str(path)) for path in copies))
    else:
        _print_artifacts(artifacts)
    return 0


def _print_artifacts(artifacts: Sequence[Artifact]) -> None:
    if not artifacts:
        print("no artifacts", file=sys.stderr)
        return
    if not sys.stdout.isatty():
        print("\n".join(str(item.path) for item in artifacts))
        return
    style, now = Style(sys.stdout), datetime.now(UTC)
    for item in artifacts:
        numbers = f"{human_bytes(item.size_bytes):>6} {format_age(now, item.modified_at):>4}"
        out = style(f"  (leads to {one_line(str(item.path.readlink()))})", "yellow") if item.leads_out else ""
        print(f"{style(numbers, 'dim')}  {one_line(item.name)}{out}")


def _to_json(item: Artifact) -> dict[str, object]:
    return {
        "path": str(item.path),
        "name": item.name,
        "turn": item.turn,
        "size_bytes": item.size_bytes,
        "modified_at": format_time(item.modified_at),
        "leads_out": item.leads_out,
    }


def human_bytes(count: float) -> str:
    """Render a size in at most six characters: 512B, 3.4K, 120M, 1.0G."""
    for unit in ("B", "K", "M", "G"):
        if count < _KIB or unit == "G":
            break
        count /= _KIB
    return f"{count:.0f}{unit}" if unit == "B" or count >= 100 else f"{count:.1f}{unit}"  # noqa: PLR2004  # three digits
