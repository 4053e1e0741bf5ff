"""`csa search`: which messages and calls it finds, and what it says of what it cannot read."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import pytest

from csa.store.sessions import Store
from tests.cli.prepared import retire, session_id, store_of, write_session
from tests.cli.terminal import Terminal
from tests.support import Json, Place

DAY = timedelta(days=1)


def _said(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "agent_message", {"text": text, **more}


@pytest.fixture
def store(place: Place) -> Store:
    """Sessions in which something was said: in one piece, in pieces, in a call, in another turn."""
    store = store_of(place)
    call = ("tool_call", {"id": "c1", "kind": "execute", "title": "make Deploy", "status": "in_progress"})
    end = ("tool_call_update", {"id": "c1", "status": "failed", "content": "no\nsuch quota", "exit_code": 2})
    write_session(store, 1, age=9 * DAY, events=(_said('The "Rate" limiter\nuses a bucket'), call, end))
    pieces = (
        tuple(_said(text, chunk=True) for text in ("The buck", "et over", "flows ")),
        ("usage", {"input_tokens": 1}),
    )
    write_session(store, 2, name="api", tools=("codex", "claude-code"), events=(*pieces[0], pieces[1], _said("daily")))
    write_session(store, 3, age=2 * DAY, description="ÜBER deploy")
    write_session(store, 4, events=(_said("a bucket that was deleted"),))
    retire(store, session_id(4))
    for number, days in ((1, 9), (3, 2)):
        then = time.time() - days * 86400
        os.utime(store.paths(session_id(number)).transcript, (then, then))
    return store


def found(place: Place, *words: str) -> list[Json]:
    """Return what is found."""
    done = place.run("search", "--json", *words)
    items: list[Json] = done.json
    assert done.code == (0 if items else 1), done.err
    return items


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["bucket"], [2, 2, 1]),
        (["BUCKET", "rate"], [1]),
        (['"rate" limiter'], [1]),
        (["deploy", "quota"], [1]),
        (["über"], [3]),
        (["overflows"], [2, 2]),
        (["overflows", "daily"], []),
        (["bucket", "--tool", "claude-code"], [2]),
        (["bucket", "--since", "3d"], [2, 2]),
        (["bucket", "--limit", "1"], [2]),
        (["bucket", "--deleted"], [4, 2, 2, 1]),
        (["run_started"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_what_is_found(place: Place, store: Store, words: list[str], numbers: list[int]) -> None:
    """Every word must occur in one message or call, in any case; newest first.

    Messages in pieces count whole, and calls with their output.
    """
    assert [int(hit["session_id"][8:10]) for hit in found(place, *words)] == numbers


def test_what_is_printed(place: Place, store: Store) -> None:
    """A line names the session first, then turn, age and the text around the words, in bold on a terminal."""
    done = place.run("search", "bucket", "over")
    assert done.out.splitlines() == [f"{session_id(2)} {turn:>3}   1h  [api] The bucket overflows" for turn in (2, 1)]
    first = found(place, "bucket", "over")[0]
    assert (first["name"], first["project"], first["turn"], first["tool"]) == (
        "api",
        str(place.project),
        2,
        "claude-code",
    )
    assert (first["role"], first["text"]) == ("assistant", "The bucket overflows ")
    with Terminal(place, "search", "bucket", size=(44, 20)) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert [line.split()[0] for line in lines] == ["api", "api", session_id(1)[:10]]
    assert all(len(line) <= 44 for line in lines)
    assert "\x1b[1;33mbucket\x1b[0m" in terminal.output
    assert place.run("search").code == 2
    assert place.run("search", "x", "--limit", "0").code == 2
    assert place.run("search", "x", "--tool", "codexx").code == 2


def test_what_cannot_be_read(place: Place, store: Store) -> None:
    """Lines that are no events are passed over, a transcript that cannot be read is named, and the rest is found."""
    transcript = store.paths(session_id(3)).transcript
    transcript.unlink()
    transcript.mkdir()
    with store.paths(session_id(1)).transcript.open("ab") as file:
        file.write(b'bucket\n\xff\xfe bucket\n{"type": "bucket"}\n{"seq": 99, "ts": "bucket')
    done = place.run("search", "bucket")
    assert (done.code, len(done.out.splitlines())) == (0, 3)
    assert done.err.startswith("warning: left out: ")
    assert session_id(3) in done.err
    done = place.shell(["bash", "-c", "csa search bucket | head -1"])
    assert (len(done.out.splitlines()), done.err.count("Traceback")) == (1, 0)
