"""Images and files that come with a prompt."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.cli.test_lost_conversations import of_type
from tests.support import Place

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
NOTE = b"The word is mango.\n"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def image(place: Place) -> Path:
    """An image outside the project, whose name says otherwise, and is of the worst kind."""
    path = place.tmp / "-a, @b\n'c.txt"
    path.write_bytes(PNG)
    return path


@pytest.fixture
def note(place: Place) -> Path:
    path = place.tmp / "a note.md"
    path.write_bytes(NOTE)
    return path


@pytest.mark.parametrize(
    ("tool", "ways"),
    [
        pytest.param("codex", ["image"]),
        pytest.param("claude-code", ["image image/png", "document text/plain"], marks=pytest.mark.thorough),
        pytest.param("gemini-cli", ["@", "@"], marks=pytest.mark.thorough),
        pytest.param("opencode", ["file image/png", "file text/plain"], marks=pytest.mark.thorough),
        pytest.param("blind-acp", ["resource_link", "resource_link"], marks=pytest.mark.thorough),
        pytest.param("seeing-acp", ["image", "resource"], marks=pytest.mark.thorough),
    ],
)
def test_a_tool_gets_the_content(place: Place, image: Path, note: Path, tool: str, ways: list[str]) -> None:
    """In its own way; the transcript has name, size and hash, and `show` shows them."""
    got = place.tmp / "got"
    config = Path(place.env["XDG_CONFIG_HOME"]) / "csa" / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    agents = {"blind-acp": ["fake-acp"], "seeing-acp": ["fake-acp", "--sees"]}
    config.write_text(
        "".join(f'[tools.{name}]\ntransport = "acp"\ncommand = {json.dumps(each)}\n' for name, each in agents.items())
    )
    place.play(["write-attached", str(got)], ["say", "seen"])
    words = ["--image", str(image), *(["--file", str(note)] if len(ways) > 1 else [])]
    done = place.run("run", "--tool", tool, *words, "what is it?")
    assert done.code == 0, done.err
    contents = [PNG, NOTE][: len(ways)]
    assert json.loads(got.read_text()) == [[way, sha256(content)] for way, content in zip(ways, contents, strict=True)]
    (started,) = of_type(place, done.session_id, "run_started")
    assert started["attachments"][0] == {
        "name": image.name,
        "media_type": "image/png",
        "size_bytes": len(PNG),
        "sha256": sha256(PNG),
    }
    assert f"image/png, {len(PNG)} bytes, sha256 {sha256(PNG)[:12]}]" in place.run("show", done.session_id).out
    assert not (place.session(done.session_id) / "runtime").exists()
    assert place.run("artifacts", done.session_id).out == ""
    assert place.run("validate", done.session_id).code == 0


@pytest.mark.thorough
def test_a_file_is_sent_as_it_was_at_the_call(place: Place, note: Path) -> None:
    """Also by `retry`, when it has long been changed; and in the background, from any directory."""
    got = place.tmp / "got"
    place.play(["write-attached", str(got)], ["say", "read"])
    session_id = place.run("run", "-t", "claude-code", "--detach", "--file", str(note), "read it").out.strip()
    note.write_text("changed")
    assert place.run("wait", session_id).code == 0
    assert json.loads(got.read_text()) == [["document text/plain", sha256(NOTE)]]
    note.unlink()
    got.unlink()
    assert place.run("retry", session_id).code == 0
    assert json.loads(got.read_text()) == [["document text/plain", sha256(NOTE)]]
    assert place.run("run", "-s", session_id, "and?").code == 0
    assert json.loads(got.read_text()) == []


@pytest.mark.thorough
def test_a_secret_in_a_file_is_not_stored(place: Place, note: Path) -> None:
    """The tool gets the file as it is; the copy lacks the secret, so that it cannot be sent again."""
    note.write_text("token sk-proj-" + "a1B2" * 10)
    got = place.tmp / "got"
    place.play(["write-attached", str(got)], ["say", "read"])
    done = place.run("run", "-t", "claude-code", "--file", str(note), "read it")
    assert json.loads(got.read_text()) == [["document text/plain", sha256(note.read_bytes())]]
    files = [path for path in place.session(done.session_id).rglob("*") if path.is_file()]
    assert not any(b"a1B2a1B2" in path.read_bytes() for path in files)
    again = place.run("retry", done.session_id)
    assert (again.code, "a secret in it was redacted" in again.err) == (2, True)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("make", "option", "words"),
    [
        (lambda _: None, "--image", "No such file"),
        (lambda path: path.mkdir(), "--file", "Is a directory"),
        (os.mkfifo, "--file", "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "--image", "not a regular file"),
        (lambda path: path.write_bytes(b"\0\1\2"), "--file", "neither text in UTF-8 nor a PDF"),
        (lambda path: path.write_bytes(PNG), "--file", "--image"),
        (lambda path: path.write_text("text"), "--image", "not a PNG, JPEG, GIF or WebP"),
        (lambda path: path.write_bytes(PNG + bytes(11 << 20)), "--image", "larger than 10 MiB"),
    ],
)
def test_what_cannot_be_sent_starts_nothing(place: Place, make: object, option: str, words: str) -> None:
    """It is refused with exit code 2, before there is a session; nothing is waited for."""
    path = place.tmp / "thing.png"
    make(path)  # type: ignore[operator]
    done = place.run("run", "-t", "claude-code", option, str(path), "look")
    assert (done.code, place.ids()) == (2, [])
    assert words in done.err


@pytest.mark.thorough
def test_a_tool_that_takes_no_files_says_which_do(place: Place, note: Path) -> None:
    """Before anything is started; the plan says what would come with the prompt."""
    done = place.run("run", "-t", "codex", "--file", str(note), "read it")
    assert (done.code, place.ids()) == (2, [])
    assert "codex takes no files with a prompt; claude-code, gemini-cli, opencode do." in done.err
    plan = place.run("run", "-t", "claude-code", "--file", str(note), "--dry-run", "--json", "read it").json
    assert plan["attachments"] == [f"[a note.md: text/plain, {len(NOTE)} bytes, sha256 {sha256(NOTE)[:12]}]"]


@pytest.mark.thorough
def test_copies_are_written_nowhere_else(place: Place, note: Path) -> None:
    """A link that an agent has put in the place of the next turn's copies is not followed; its target is left alone."""
    place.play(["say", "ok"])
    session_id = place.run("run", "-t", "claude-code", "first").session_id
    target = place.tmp / "elsewhere"
    target.mkdir()
    (target / "mine").touch()
    turn = place.session(session_id) / "output" / "turn-0002"
    turn.mkdir()
    (turn / "prompt-files").symlink_to(target)
    done = place.run("run", "-s", session_id, "--file", str(note), "second")
    assert (done.code, "cannot be written" in done.err) == (1, True)
    assert [path.name for path in target.iterdir()] == ["mine"]
    assert place.run("run", "-s", session_id, "second").code == 0
