"""Every example line of docs/sessions.md, and every older one, runs over a store with the sessions that it names.

An example of a command that does not exist, or does not work as shown, fails. What comes of each line is checked where
its command is tested; here it must end with the exit code that the documents promise.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.forkserver import ForkServer
from tests.support import Place, close_place

TABLES = Path(__file__).parents[2] / "docs" / "coming-from.md"
DOCUMENT = Path(__file__).parents[2] / "docs" / "sessions.md"
OLDER = Path(__file__).with_name("old_examples.txt")  # from before `session` could be left out
SESSION = "01JH4QWERT1234567890ABCDEF"  # which 01JH4Q names
RETIRED = "01JH4QZZZZ1234567890ABCDEF"  # which it names to restore
OTHER = "01JH4RWERT1234567890ABCDEF"
_FEWER = 24  # the quick suite runs one of so many
CODES = {"is-alive": {1}, "csa mirror": {7}}  # no database is there; by the words an example contains; all else exits 0
FILES = {
    "login.py": b"print('login')\n",
    "prompts.txt": b"Hello\n",
    "answer.schema.json": b'{"type": "object"}',
    "screen.png": b"\x89PNG\r\n\x1a\n" + bytes(20),
}
GIT = "rm -rf .git && git init -q && git -c user.name=A -c user.email=a@b commit -q --allow-empty -m Start"
TEMPLATES = {"code-review": "Review code.", "file-review": "Review {{file}}."}
NEEDS_SCREEN = ("--watch", "csa top", "csa attach", "csa session attach", "csa open")  # tested where they are


def examples() -> list[str]:
    lines = re.findall(r"^\$ (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    return [line for line in lines if "csa " in line and _needs_no_screen(line)]


def older_examples() -> list[str]:
    return [line for line in OLDER.read_text().splitlines() if _needs_no_screen(line)]


def table_examples() -> list[str]:
    """Return what stands in the right columns of the tables for those who come from elsewhere."""
    rows = [
        line for line in TABLES.read_text().splitlines() if line.startswith("| ") and not line.startswith("| there")
    ]
    cells = [re.split(r"(?<!\\)\|", row)[2] for row in rows]
    found = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    return [code for code in found if re.search(r"(^|&& |=\S+ )csa ", code) and _needs_no_screen(code)]


def _needs_no_screen(line: str) -> bool:
    return not any(words in line for words in NEEDS_SCREEN)


def test_there_are_examples() -> None:
    """They are found at all."""
    assert len(examples()) > 20
    assert len(table_examples()) > 80


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place for all examples, made once."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture
def prepared(template: Path, fork_server: ForkServer | None) -> Iterator[Place]:
    """What the document speaks of, as it was before the example before."""
    root, kept = template / "root", template / "kept"
    if kept.exists():
        shutil.rmtree(root)
        shutil.copytree(kept, root, symlinks=True)
        place = _place(root, fork_server)
    else:
        place = _prepare(_place(root, fork_server))
        shutil.copytree(root, kept, symlinks=True)
    place.script(
        {"match": "Who wrote the first program?", "do": [["answer", {"name": "Ada Lovelace", "born": 1815}]]},
        {"match": "Is it safe to merge?", "do": [["answer", {"ok": True}]]},
    )
    yield place
    close_place(place)


def _place(root: Path, server: ForkServer | None) -> Place:
    for name in ("tmp", "home", "project/.git"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "project/.git/HEAD").write_text("ref: refs/heads/main\n")
    place = Place(root / "tmp", root / "project", root / "state" / "csa", server)
    place.home = root / "home"
    place.env |= {"HOME": str(root / "home"), "XDG_STATE_HOME": str(root / "state"), "TMPDIR": str(root / "tmp")}
    place.env |= {"GH_TOKEN": "an example's", "STAGING_PASSWORD": "an example's"}
    return place


def _prepare(place: Place) -> Place:
    """Make 01JH4Q, with an artifact, and a removed one; 01JH4R; an archive; a moved project; a secret."""
    (place.home / ".secrets").mkdir()
    (place.home / ".secrets" / "npm").write_text("an example's\n")
    place.play(["run", "echo plan > $CSA_OUTPUT_DIR/plan.md"], ["usage", 2000, 100], ["say", "noted"])
    for words in (
        ["--tool", "codex", "--session-id", RETIRED, "Old work"],
        ["--tool", "codex", "--session-id", SESSION, "--name", "auth", "Refactor the login"],
        ["--tool", "claude-code", "--session", SESSION, "Now the tests"],
    ):
        done = place.run("run", *words)
        assert done.code == 0, done.err
    del place.env["FAKE_TOOL_SCRIPT"]
    assert place.run("run", "--tool", "codex", "--session-id", OTHER, "And the logout").code == 0
    assert place.run("session", "delete", RETIRED).code == 0
    moved = place.project.with_name("old-directory")
    (moved / ".csa").mkdir(parents=True)
    assert place.run("run", "--tool", "codex", "Before the move", cwd=moved).code == 0
    shutil.rmtree(moved)
    assert place.run("session", "export", SESSION, "-o", "backup.tar.gz").code == 0
    for name, content in FILES.items():
        (place.project / name).write_bytes(content)
    for name, system in TEMPLATES.items():
        assert place.run("template", "save", name, "--project", "--tool", "codex", "--system", system).code == 0
    assert place.run("use", SESSION).code == 0
    (place.project / "person.json").write_text('{"type": "object", "required": ["name"]}')
    (place.project / "screenshot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (place.project / "spec.pdf").write_bytes(b"%PDF-1.7")
    (place.project / "notes.md").write_text("notes")
    return place


def _cases() -> Iterator[Any]:
    """Yield the examples; most are for the thorough suite."""
    for number, line in enumerate(examples()):
        yield pytest.param(line, marks=[] if number % _FEWER == 0 else [pytest.mark.thorough])
    yield from (pytest.param(line, marks=pytest.mark.thorough) for line in older_examples())


@pytest.mark.parametrize("line", list(_cases()))
def test_example_runs(prepared: Place, line: str) -> None:
    """The line, typed into a shell, does what it says."""
    if "csa diff" in line:
        prepared.shell(["bash", "-c", GIT])
    done = prepared.shell(["bash", "-c", line])
    expected = next((codes for words, codes in CODES.items() if words in line), {0})
    assert done.code in expected, (done.out, done.err)
    assert "Traceback" not in done.err


@pytest.mark.thorough
@pytest.mark.parametrize("line", table_examples())
def test_what_people_of_other_tools_are_told_works(prepared: Place, line: str) -> None:
    """Each line of ours, typed into a shell, does what it says."""
    if "--schema" in line:
        prepared.play(["say", "{}"])
    if "csa import" in line:
        assert prepared.run("rm", "--purge", SESSION).code == 0
    if "git worktree" in line or "--worktree" in line:
        prepared.shell(["bash", "-c", GIT])
    line = line.replace("://localhost", "://127.0.0.1:1")  # nobody's
    done = prepared.shell(["bash", "-c", line])
    expected = next((codes for words, codes in CODES.items() if words in line), {0})
    assert done.code in expected, (done.out, done.err)
    assert "Traceback" not in done.err
