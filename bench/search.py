"""What the search index saves: python bench/search.py [SESSIONS [MEGABYTES]]; by default 5,000 sessions with 96 MB.

Prints what building costs, how large it is, and CPU and wall time of searches with and without it.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from csa.paths import INDEX
from csa.runner.sessions.indexing import update_index
from csa.runner.sessions.searching import Query, search
from csa.store.sessions import Store

_T = TypeVar("_T")
ROOT = Path(__file__).parents[1]
RARE = "xylophone"
LINE = '{"v": 1, "seq": %d, "ts": "2026-01-01T00:00:00.000Z", "type": "%s", "turn": 1, "data": {%s}}\n'


def main() -> None:
    count, size = int((sys.argv[1:] or ["5000"])[0]), float((sys.argv[2:] or ["96"])[0]) * 1e6
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "state", Path(place) / "project")
        _fill(store, count, int(size / count))
        words = ["genealogy", "deploy", "the", RARE, "supervisor lock", "nowhereatall", "re", "transcript"]
        scans = {word: _measured(partial(_search, store, word)) for word in words}
        cpu_s, wall_s, change = _measured(lambda: update_index(store.root, [store]))
        stored = (store.root / INDEX / "search.db").stat().st_size
        print(f"built: {change.added} sessions, {cpu_s:.1f} s CPU, {wall_s:.1f} s, {stored / 1e6:.0f} MB")
        cpu_s, wall_s, change = _measured(lambda: update_index(store.root, [store]))
        print(f"nothing new: {cpu_s * 1e3:.0f} ms CPU")
        ratios = []
        for word in words:
            cpu_s, wall_s, hits = min((_measured(partial(_search, store, word)) for _ in range(3)), key=lambda m: m[0])
            assert hits == scans[word][2], word
            ratios.append(scans[word][0] / cpu_s)
            print(
                f"{word:<16} {hits:>6} hits  reading {scans[word][0] * 1e3:>5.0f} ms CPU  "
                f"index {cpu_s * 1e3:>5.0f} ms CPU ({wall_s * 1e3:.0f} ms)  {ratios[-1]:.1f}x"
            )
        print(f"ratio p50 {statistics.median(ratios):.1f}x")


def _fill(store: Store, count: int, size: int) -> None:
    generator = random.Random(1)
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "csa").rglob("*.py")]
    text = (
        "".join(each.read_text() for each in files)
        .encode("unicode_escape")
        .decode()
        .replace('"', "'")
        .replace("\\", "/")
    )
    for number in range(count):
        directory = Path(store.sessions_dir) / f"01JH4QWE00{number:016d}"
        directory.mkdir(parents=True)
        lines, total = [LINE % (1, "run_started", '"tool": "codex", "prompt": "go"')], 0
        while total < size:
            start = generator.randrange(len(text) - 2000)
            said = text[start : start + generator.randrange(100, 2000)]
            lines.append(LINE % (len(lines) + 1, "agent_message", f'"text": "{said}"'))
            total += len(lines[-1])
        if number % 1000 == 7:
            lines.append(LINE % (len(lines) + 1, "agent_message", f'"text": "a {RARE}"'))
        (directory / "transcript.jsonl").write_text("".join(lines))


def _search(store: Store, word: str) -> int:
    return sum(1 for _ in search([store], Query(words=tuple(word.split()))))


def _measured(call: Callable[[], _T]) -> tuple[float, float, _T]:
    cpu, wall = time.process_time(), time.monotonic()
    found = call()
    return time.process_time() - cpu, time.monotonic() - wall, found


if __name__ == "__main__":
    main()
