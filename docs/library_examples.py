"""Writes the Python examples of README.md and docs/library.md into a directory, for type checkers: a file for each."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
DOCUMENTS = (DOCS.parent / "README.md", DOCS / "library.md")


def examples() -> Iterator[tuple[str, str]]:
    """Yield each example, with the name of its document and its line there."""
    for document in DOCUMENTS:
        text = document.read_text()
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield f"{document.stem.lower()}_{text.count(chr(10), 0, found.start(1)) + 1}", found[1]


def main() -> None:
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.py"):
        old.unlink()
    for name, code in examples():
        (directory / f"{name}.py").write_text(code)


if __name__ == "__main__":
    main()
