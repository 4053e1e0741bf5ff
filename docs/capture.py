"""Draws the views as terminals show them, with their colours, into docs/captures/: `make captures` runs it.

A place of its own is set up with the agents of csa_fakes/demo and a few more, all of them fakes. Each command runs in a
pseudo-terminal of 140 and of 80 columns; a terminal emulator reads what it prints, and its screen becomes an SVG.
A tour with three named sessions, one of them a tree over two projects, is drawn at three sizes of terminals as well.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pexpect
import pyte

HERE = Path(__file__).parent
TARGET = HERE / "captures"
FAKES = HERE.parent / "adapters/csa_fakes"
WIDTHS = (140, 80)
LINES, LOW = 60, 14  # LOW for what fills the screen
CHAT_LINES = 32
PATIENCE_S = 30.0
ENOUGH = 4  # sessions at work make a view worth drawing

BACKGROUND, FOREGROUND, DIM = "#16181d", "#d6d9e0", "#7d8590"
SELECTED = f'fill="{BACKGROUND}"'
COLOURS = {"red": "#ff7b72", "green": "#56d364", "brown": "#e3b341", "cyan": "#56d4dd", "white": "#ffffff"}
FONTS = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
FAINT, ITALICS = 2, 3  # of terminals' escape sequences
CELL, LINE, MARGIN = 8.0, 18, 14  # pixels

MIGRATION = """Written: `migrations/0003.sql`.

```sql
ALTER TABLE users ADD COLUMN quota integer NOT NULL DEFAULT 100;
```

It is not applied yet, as I may not reach the database; run it on a copy first and look at how long the lock on \
`users` is held."""
CLIENT = "csa run --tool claude-code --name client --cd ../web 'Adapt the client'"
CHECKS = "csa run --tool codex 'Check the examples in the manual'"
RULES = [
    {
        "match": "Write the migration for quotas",
        "do": [
            ["think", "The schema first."],
            ["call", "ls migrations", "0001.sql\n0002.sql\n", 0],
            ["deny", "Bash", "psql -c 'DROP TABLE users'"],
            ["usage", 42000, 900],
            ["say", MIGRATION],
        ],
    },
    {"match": "Find the flaky test", "do": [["call", "make test", "FAILED test_login\n", 1], ["fail", "500"]]},
    {
        "match": "Release the new API",
        "do": [
            ["run", f"{CLIENT} & {CHECKS} & wait"],
            ["usage", 8200, 640],
            ["say", "Released: the client is adapted. The manual's examples could not be checked; see checks."],
        ],
    },
    {
        "match": "Adapt the client",
        "do": [
            ["run", "csa run --tool opencode --name pages 'Describe the new pages'"],
            ["usage", 21000, 1800],
            ["say", "The client sends its key, and waits as Retry-After says."],
        ],
    },
    {"match": "Check the examples in the manual", "do": [["call", "make examples", "", 1], ["fail", "500"]]},
    {"match": "Describe the new pages", "do": [["usage", 3100, 240], ["say", "Two pages: limits, and errors."]]},
    *(
        {"match": prompt, "do": [["think", "One moment."], ["run", command], ["say", "done"]]}
        for prompt, command in (
            ("Port the SDK to Go", "sleep 60; go test ./..."),
            ("Write the docs", "sleep 60; make docs"),
        )
    ),
]


@dataclass(frozen=True)
class View:
    """A command to draw. `until`: draw it when the screen shows that, then press `q`; else when it has ended.

    `talk` is what a person types, each when the screen shows the text before it.
    """

    name: str
    words: tuple[str, ...]
    until: Callable[[str], bool] | None = None
    talk: tuple[tuple[str, str], ...] = ()


def is_busy(text: str) -> bool:
    """Say whether a live view shows several sessions at work."""
    return text.count("●") >= ENOUGH


def is_varied(text: str) -> bool:
    """Say whether it also shows one that has ended."""
    return is_busy(text) and "✓" in text


VIEWS = (
    View("list", ("ls",)),
    View("tree", ("ls", "--tree")),
    View("status", ("status", "limits")),
    View("show", ("show", "quota")),
    View("logs", ("logs", "quota")),
    View("log", ("log", "limits")),
    View("stats", ("stats",)),
    View("doctor", ("doctor",)),
    View("help", ("--help",)),
)
LIVE = (
    View("run", ("run", "--tool", "codex", "--name", "api", "Add rate limiting to the API"), is_varied),
    View("watch", ("ls", "--tree", "--watch"), is_varied),
    View("top", ("top",), is_busy),
)
CHATS = (
    View(
        "chat",
        ("chat", "--tool", "codex", "--name", "api"),
        lambda text: is_busy(text) and "queued:" in text,
        (("codex>", "Add rate limiting to the API\r"), ("started", "Now write the migration\r")),
    ),
    View(
        "chat-commands",
        ("chat", "--session", "quota"),
        lambda text: "saved checkpoint" in text and "/prune" in text,
        (
            ("claude-code>", "Write the migration for quotas\r"),
            ("succeeded in", "/context\r"),
            ("oldest turn", "/save migration written\r"),
            ("saved checkpoint", "/p"),
        ),
    ),
)
SIZES = ((160, 50), (80, 24), (50, 15))
TOUR = (
    View("tour-run", ("run", "--tool", "codex", "--name", "release", "Release the new API")),
    View("tour-list", ("ls",)),
    View("tour-tree", ("ls", "--tree")),
    View("tour-top", ("top", "--once")),
    View("tour-status", ("status", "release")),
)


class Screen(pyte.Screen):
    """A screen that knows faint text, which pyte does not: it is kept as italics, which csa does not use."""

    def select_graphic_rendition(self, *attributes: int, **how: bool) -> None:
        super().select_graphic_rendition(*(ITALICS if each == FAINT else each for each in attributes), **how)


class Place:
    """A home with two projects in it, and csa run there."""

    def __init__(self, home: Path, *, is_for_tour: bool = False) -> None:
        self.project, other = home / "api", home / "web"
        for directory in (self.project / "api", other / ".csa", home / "tmp", *(home / name for name in _HOMES)):
            directory.mkdir(parents=True)
        script = home / "script.json"
        demo = json.loads((FAKES / "demo/script.json").read_text())
        script.write_text(json.dumps({"rules": [*RULES, *demo["rules"]]}))
        shutil.copytree(FAKES, home / "csa_fakes")  # doctor names the place
        search = [home / "csa_fakes/bin", Path(sys.executable).parent, "/usr/bin", "/bin"]
        self.env = {
            "HOME": str(home),
            "PATH": os.pathsep.join(map(str, search)),
            "FAKE_TOOL_SCRIPT": str(script),
            "TMPDIR": str(home / "tmp"),
            "USER": "demo",
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }
        self._run("git", "init", "-q", "-b", "feat/limits", ".")
        self._run("git", "config", "user.name", "demo")
        self._run("git", "config", "user.email", "demo@example.com")
        (self.project / "api/server.py").write_text("def handle(request):\n    return 200\n")
        self._run("git", "add", "-A")
        self._run("git", "commit", "-q", "-m", "Start")
        if is_for_tour:
            self.csa("run", "--detach", "--tool", "claude-code", "--name", "sdk", "Port the SDK to Go")
            self.csa("run", "--detach", "--tool", "gemini-cli", "--name", "docs", "Write the docs")
            return
        self.csa("run", "--tool", "opencode", "Why is the build slow?")
        self.csa("run", "--tool", "codex", "--name", "limits", "Add rate limiting to the API")
        self.csa("run", "--tool", "codex", "Find the flaky test", allowed=1)
        self.csa(
            "run", "--tool", "claude-code", "--fork-from", "limits", "--name", "quota", "Write the migration for quotas"
        )
        self.csa("session", "checkpoint", "limits", "--label", "before the quotas")
        self.csa("run", "--tool", "codex", "--cd", str(other), "Describe the pages")
        self.csa("session", "switch", "limits")

    def csa(self, *words: str, allowed: int = 0) -> None:
        self._run("csa", *words, allowed=allowed)

    def _run(self, *words: str, allowed: int = 0) -> None:
        done = subprocess.run(words, cwd=self.project, env=self.env, capture_output=True, check=False, text=True)
        if done.returncode != allowed:
            raise RuntimeError(f"{' '.join(words)} exited with {done.returncode}: {done.stderr}")

    def show(self, view: View, columns: int, lines: int = LINES) -> Screen:
        """Run a view in a terminal, and return the screen that is to be drawn."""
        screen = Screen(columns, lines)
        stream = pyte.ByteStream(screen)
        terminal: pexpect.spawn[bytes] = pexpect.spawn(
            "csa", list(view.words), cwd=self.project, env=self.env, dimensions=(lines, columns), timeout=PATIENCE_S
        )
        deadline, talk = time.monotonic() + PATIENCE_S, list(view.talk)
        try:
            while time.monotonic() < deadline:
                try:
                    stream.feed(terminal.read_nonblocking(1 << 16, timeout=0.1))
                except pexpect.TIMEOUT:  # between two frames
                    if talk and talk[0][0] in "\n".join(screen.display):
                        terminal.send(talk.pop(0)[1])
                    if view.until is not None and view.until("\n".join(screen.display)):
                        return screen
                except pexpect.EOF:
                    return screen
            raise RuntimeError(f"csa {' '.join(view.words)} has not shown what is to be drawn")
        finally:
            if view.talk:
                terminal.kill(signal.SIGTERM)  # Ctrl-C ends its turn only
            terminal.sendintr()
            terminal.expect(pexpect.EOF)
            terminal.close()


_HOMES = (".codex", ".claude", ".gemini", ".local/share/opencode")


def draw(screen: Screen, title: str) -> str:
    """Return the screen as SVG: a line of text for each piece of one style, stretched to its cells."""
    rows = [screen.buffer[number] for number in range(screen.lines)]
    while rows and not any(rows[-1][column].data.strip() for column in range(screen.columns)):
        rows.pop()
    width = screen.columns * CELL + 2 * MARGIN
    height = (len(rows) + 1) * LINE + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">',
        f"<title>{escape(title)}, {screen.columns} columns</title>",
        f'<rect width="100%" height="100%" rx="6" fill="{BACKGROUND}"/>',
        f'<g font-family="{FONTS}" font-size="13" xml:space="preserve">',
        _text(0, 0, f"$ {title}", f'fill="{DIM}"'),
    ]
    for number, row in enumerate(rows, 1):
        parts += _pieces(number, [row[column] for column in range(screen.columns)])
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _pieces(number: int, cells: list[pyte.screens.Char]) -> Iterator[str]:
    column = 0
    for style, group in groupby(cells, _style):
        text = "".join(cell.data for cell in group)
        if style == SELECTED:
            yield _bar(column, number, len(text))
        for word in re.finditer(r"\S+( \S+)*", text):  # some renderers fold several blanks
            yield _text(column + word.start(), number, word[0], style)
        column += len(text)


def _bar(column: int, row: int, count: int) -> str:
    """Return the ground of text in reverse."""
    x, y = MARGIN + column * CELL, MARGIN + row * LINE
    return f'<rect x="{x:g}" y="{y:g}" width="{count * CELL:g}" height="{LINE}" fill="{FOREGROUND}"/>'


def _style(cell: pyte.screens.Char) -> str:
    if cell.reverse:
        return SELECTED
    colour = COLOURS.get(cell.fg, DIM if cell.italics else FOREGROUND)
    return f'fill="{colour}"' + (' font-weight="bold"' if cell.bold else "")


def _text(column: int, row: int, text: str, style: str) -> str:
    x, y = MARGIN + column * CELL, MARGIN + (row + 0.75) * LINE
    return f'<text x="{x:g}" y="{y:g}" textLength="{len(text) * CELL:g}" {style}>{escape(text)}</text>'


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.glob("*.svg"):  # pictures of the page are capture_page.py's
        old.unlink()
    draw_chats()
    with tempfile.TemporaryDirectory(prefix="csa-captures-") as base:
        place = Place(Path(base).resolve() / "demo")
        for columns in WIDTHS:
            for view in VIEWS:
                _write(view, columns, place.show(view, columns))
        for columns in WIDTHS:
            for view in LIVE:
                try:
                    if view.words[0] != "run":
                        place.csa("run", "--tool", "codex", "--detach", "Add rate limiting to the API")
                    _write(view, columns, place.show(view, columns, LINES if view.words[0] == "run" else LOW))
                finally:
                    place.csa("kill", "--all", "--yes")
                    if view.name == "run":
                        place.csa("rename", "api", "--clear")  # the next one has that name
        for number, (columns, lines) in enumerate(SIZES):
            place = Place(Path(base).resolve() / str(number) / "demo", is_for_tour=True)
            try:
                for view in TOUR:
                    _write(view, columns, place.show(view, columns, lines), lines=lines)
            finally:
                place.csa("kill", "--all", "--yes")


def draw_chats() -> None:
    """Draw the chats, in a place of their own for each width."""
    for columns in WIDTHS:
        with tempfile.TemporaryDirectory(prefix="csa-captures-") as base:
            place = Place(Path(base).resolve() / "demo")
            try:
                for view in CHATS:
                    _write(view, columns, place.show(view, columns, CHAT_LINES))
            finally:
                place.csa("kill", "--all", "--yes")


def _write(view: View, columns: int, screen: Screen, *, lines: int | None = None) -> None:
    title = " ".join(["csa", *(f'"{word}"' if " " in word else word for word in view.words)])
    path = TARGET / f"{view.name}-{columns}{f'x{lines}' if lines else ''}.svg"
    path.write_text(draw(screen, title))
    print(f"wrote {path.relative_to(HERE)}")


if __name__ == "__main__":
    main()
