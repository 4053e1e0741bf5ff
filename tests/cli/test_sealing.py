"""Encryption at rest: `[store] encrypt = "finished"`, `csa seal` and `csa unseal`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from tests.support import Place

PLANTED = "planted-text-7712"
ANSWER = "planted-answer-3391"


class Sealing:
    """A place whose sessions are encrypted, and the key that opens them."""

    def __init__(self, place: Place) -> None:
        self.place, self.key = place, pyrage.x25519.Identity.generate()
        self.file = place.tmp / "key.txt"
        self.file.write_text(f"{self.key}\n")
        self.configure(f'identity = "{self.file}"')

    def configure(self, more: str, *, encrypt: str = "finished") -> None:
        """Set what opens the sessions."""
        config = self.place.tmp / "own.toml"
        self.place.env["CSA_CONFIG"] = str(config)
        recipients = f'recipients = ["{self.key.to_public()}"]'
        config.write_text(f'[store]\nencrypt = "{encrypt}"\n{recipients}\n{more}\n')

    def plain(self, *words: str) -> list[Path]:
        """Return the files of the state root that have one of the words in plain, and of what is in memory."""
        places = [self.place.state_root, *Path("/dev/shm").glob("csa-open-*")]
        files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
        wanted = [word.encode() for word in words or (PLANTED, ANSWER)]
        return [path for path in files if any(word in path.read_bytes() for word in wanted)]


@pytest.fixture
def sealing(place: Place) -> Iterator[Sealing]:
    yield Sealing(place)
    assert not [path for path in Path("/dev/shm").glob("csa-open-*") if path.stat().st_uid == os.getuid()]


def test_what_has_finished_is_in_no_file_in_plain(sealing: Sealing) -> None:
    """What was asked, said and left is in no file of the state root; with the key everything reads as before."""
    place = sealing.place
    place.play(["run", f"echo {ANSWER} > $CSA_OUTPUT_DIR/left.txt"], ["usage", 20, 10], ["say", f"so: {ANSWER}"])
    done = place.codex(PLANTED, "--name", "kept")
    assert (done.code, ANSWER in done.out, done.err.count("warning")) == (0, True, 0), done.err
    assert sealing.plain() == []
    row = place.run("ls", "--json").json[0]
    assert (row["status"], row["description"], row["usage"]["output_tokens"]) == ("succeeded", "(encrypted)", 10)
    assert PLANTED in place.run("show", "kept").out
    assert place.run("result", "kept").out == f"so: {ANSWER}\n"
    assert PLANTED in place.run("logs", "kept", "--events").out
    assert place.run("artifacts", "kept").out.count("left.txt") == 1
    assert len(place.run("search", "planted", "--json").json) == 3  # the prompt, the call, and the answer
    assert sealing.plain() == []
    sealing.file.unlink()
    for words in (["ls"], ["status", "kept"], ["wait", "kept"], ["ls", "--tree"], ["stats"], ["budget", "kept"]):
        done = place.run(*words)
        assert (done.code, PLANTED in done.out) == (0, False), done
    for words in (["show", "kept"], ["result", "kept"], ["logs", "kept"], ["run", "-s", "kept", "on"]):
        done = place.run(*words)
        assert (done.code, "hint: " in done.err) == (7, True), done
    sealing.file.write_text(str(sealing.key))
    assert place.run("run", "-s", "kept", "and more").code == 0
    assert sealing.plain() == []
    assert [turn["turn"] for turn in place.run("show", "kept", "--json").json][-1] == 2
