"""Redaction across borders: a secret cut anywhere never gets through."""

import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from csa.model import redaction
from csa.model.redaction import MARK, Redactor, StreamRedactor, redact_long
from csa.process.logs import OutputLog
from csa.store.journal import Journal
from csa.store.transcript import read_events

SECRETS = {
    "shape": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "exact": "correct-horse-battery-staple",
    "spaces": "correct horse battery staple",
    "multiline": "first line of it\nsecond line of it\nthird",
    "repeating": "same\nsame\nother line of it",
    "unicode": "gehéimnis-übergröße",
    "bearer": "Bearer abcdefghijklmnop.qrstuvw",
    "assigned": "password=hunter2hunter2",
    "quoted": 'password="pa,ss hunter2; (hunter3"',
    "quoted_in_json": json.dumps(json.dumps({"api_key": 'pa,ss "hunter2"; (hunter3'})),
    "url": "postgres://user:hunter2hunter2@db/x",
    "token_in_url": "https://0123456789abcdef-hunter2@host/x",
    "pgp": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBFhunter1\n-----END PGP PRIVATE KEY BLOCK-----",
    "pem": "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA1111\nMIIEowIBAAKCAQEA2222\n-----END PRIVATE KEY-----",
}
ENVIRON = {
    "A_SECRET": SECRETS["exact"],
    "B_SECRET": SECRETS["spaces"],
    "C_SECRET": SECRETS["multiline"],
    "D_SECRET": SECRETS["unicode"],
    "E_SECRET": SECRETS["repeating"],
}
REDACTOR = Redactor(ENVIRON)
CORES = {
    **{name: [value] for name, value in SECRETS.items()},
    "bearer": ["abcdefghijklmnop"],
    "assigned": ["hunter2"],
    "quoted": ["hunter2", "hunter3"],
    "quoted_in_json": ["hunter2", "hunter3"],
    "url": ["hunter2"],
    "token_in_url": ["hunter2"],
    "pgp": ["lQOYBFhunter1"],
    "pem": ["MIIEowIBAAKCAQEA1111", "MIIEowIBAAKCAQEA2222"],
    "multiline": ["first line of it", "second line of it"],
    "repeating": ["other line of it"],
}
_NAMES = st.sampled_from(sorted(SECRETS))
_AROUND = st.lists(
    st.sampled_from(["", " ", "\n", "text", "a b, c", "é", "same\n", "first line o", "\nsame\n", "key: "]),
    max_size=4,
).map("".join)
_LITERALS = (
    "sk-",
    "ghp_",
    "github_pat_",
    "xoxb-",
    "AKIA",
    "asia",
    "AIza",
    "eyJ",
    "Bearer ",
    "-----BEGIN PRIVATE KEY-----",
)
_WORDS = (
    "_key",
    "api_key",
    "secret",
    "token",
    "tokens",
    "password",
    "passphrase",
    "://",
    "=",
    '="x y z1"',
    ": 'x y",
    "0123456789abcdefghij@",
    "PGP PRIVATE KEY BLOCK-----",
    "a",
    "k",
    "\N{KELVIN SIGN}",
)
_FRAGMENTS = st.sampled_from(
    [
        *_LITERALS,
        *_WORDS,
        *(word[:2] for word in _LITERALS),
        *(word[2:] for word in _WORDS),
        "abcdef.ghijkl:0123456789@",
    ]
)
_CUTS = st.lists(st.integers(0, 200), max_size=6)


def pieces(content: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    return [content[a:b] for a, b in itertools.pairwise(borders)]


def assert_clean(name: str, out: str) -> None:
    assert [core for core in CORES[name] if core in out] == []
    assert MARK in out


@given(st.lists(_FRAGMENTS, max_size=12).map("".join), st.sampled_from([str, str.upper, str.lower]))
def test_hints_decide_nothing(text: str, spelled: Callable[[str], str]) -> None:
    """A pattern that is not tried, as there is no hint for it, would have found nothing."""
    text = spelled(text)
    redacted = REDACTOR.redact(text)
    every = mock.MagicMock()
    every.__contains__.return_value = True
    with mock.patch.object(redaction, "_hints_in", return_value=every):
        assert REDACTOR.redact(text) == redacted


@given(st.text(max_size=20), st.integers(0, 3), st.booleans(), st.sampled_from(["password", "api_key", "TOKEN"]))
def test_quoted_values_go_whole(value: str, levels: int, ascii_only: bool, key: str) -> None:  # noqa: FBT001
    """Whatever is in it, a value in quotes goes up to its end, inside any number of JSON strings; they stay JSON."""
    text = json.dumps([{key: f"x1 y{value}"}, "so", 'and "so"'], ensure_ascii=ascii_only)
    for _ in range(levels):
        text = json.dumps({"text": text}, ensure_ascii=ascii_only)
    redacted = Redactor().redact(text)
    for _ in range(levels):
        redacted = json.loads(redacted)["text"]
    assert json.loads(redacted) == [{key: MARK}, "so", 'and "so"']


@given(_NAMES, _AROUND, _AROUND, _CUTS)
@example("repeating", "same\n", "", [10])
def test_a_stream_cut_anywhere(name: str, before: str, after: str, cuts: list[int]) -> None:
    """Whatever the chunks, no secret leaves a stream, and what is around it does."""
    stream = StreamRedactor(REDACTOR)
    content = f"<{before} {SECRETS[name]} {after}>"
    out = "".join(map(stream.feed, pieces(content, cuts))) + stream.close()
    assert_clean(name, out)
    assert out.startswith("<")


@given(_NAMES)
def test_every_single_border(name: str) -> None:
    """A secret of one line cut in two at any place is redacted as if it were whole."""
    content = f"a line\nbefore {SECRETS[name]} after\nanother line\n"
    for at in range(len(content) + 1):
        stream = StreamRedactor(REDACTOR)
        assert stream.feed(content[:at]) + stream.feed(content[at:]) + stream.close() == REDACTOR.redact(content)


@given(
    st.sampled_from(sorted(set(SECRETS) - {"multiline", "repeating", "pem", "pgp"})),
    st.integers(0, 400),
    st.integers(1, 97),
    st.sampled_from(["", "x", " ", ", ", '" ', "word ", "-", "é"]),
)
def test_an_endless_line(name: str, before: int, size: int, filler: str) -> None:
    """Where a line is too long to be held, the cut does not go through a secret either."""
    stream = StreamRedactor(REDACTOR, max_held=256)
    content = "a" + filler * before + f" {SECRETS[name]} " + (filler or "y") * 600
    chunks = [content[at : at + size] for at in range(0, len(content), size)]
    out = ""
    for chunk in chunks:
        out += stream.feed(chunk)
    assert_clean(name, out + stream.close())


@given(
    st.lists(
        st.sampled_from([*SECRETS.values(), "Bearer", "first line of it", "same", "key:", "é" * 150]), max_size=12
    ),
    _CUTS,
    st.sampled_from([" ", "\n"]),
    st.sampled_from([REDACTOR.redact, REDACTOR.redact_answer]),
)
@example([SECRETS["pem"]] * 8, [], "\n", REDACTOR.redact_answer)
@example(["Bearer", "abcdefghijklmnop"] * 8, [20, 40], "\n", REDACTOR.redact_answer)
def test_a_long_text_in_pieces(parts: list[str], cuts: list[int], space: str, redact: Callable[[str], str]) -> None:
    """Wherever it comes cut, a long text is redacted as the whole would be."""
    content = space.join(parts)
    chunks = pieces(content, [cut * 7 for cut in cuts])
    assert "".join(redact_long(chunks, redact, size=50, span=200)) == redact(content)


@given(_NAMES, _AROUND, _AROUND, _CUTS)
def test_chunks_in_the_journal(name: str, before: str, after: str, cuts: list[int]) -> None:
    """A message streamed in chunks holds no secret on disk, whole events that come in between included."""
    content = f"<{before} {SECRETS[name]} {after}>"
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "transcript.jsonl"
        journal = Journal(path, REDACTOR, turn=1)
        returned = []
        for piece in pieces(content, cuts):
            returned += journal.append("agent_message", {"text": piece, "chunk": True})
        returned += journal.append("usage", {"input_tokens": 1})
        journal.close()
        events = list(read_events(path))
        raw = path.read_text()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.to_dict() for event in returned] == [event.to_dict() for event in events]
    text = "".join(event.data["text"] for event in events if event.type == "agent_message")
    assert_clean(name, text)
    for core in CORES[name]:
        assert json.dumps(core, ensure_ascii=False)[1:-1] not in raw


@given(
    st.lists(
        st.tuples(st.sampled_from(["agent_message", "agent_thought"]), st.sampled_from(["a", "b\n", "é"])), max_size=12
    )
)
def test_chunks_lose_nothing(chunks: list[tuple[str, str]]) -> None:
    """Without secrets the text of each stretch of chunks arrives whole and in order."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "transcript.jsonl"
        journal = Journal(path, REDACTOR, turn=1)
        for kind, text in chunks:
            journal.append(kind, {"text": text, "chunk": True})
        journal.close()
        found = [(event.type, letter) for event in read_events(path) for letter in event.data["text"]]
    assert found == [(kind, letter) for kind, text in chunks for letter in text]


@given(_NAMES, _AROUND, _AROUND, _CUTS)
def test_a_log_cut_at_any_byte(name: str, before: str, after: str, cuts: list[int]) -> None:
    """A log cut inside a character or a secret holds neither a broken character nor the secret."""
    content = f"<{before} {SECRETS[name]} {after}>".encode()
    borders = [0, *sorted(cut % (len(content) + 1) for cut in cuts), len(content)]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "stdout.log"
        log = OutputLog(path, REDACTOR)
        for a, b in itertools.pairwise(borders):
            log.write(content[a:b])
        log.close()
        assert log.fault is None
        assert_clean(name, path.read_text())


@given(st.binary(max_size=60), st.lists(st.integers(1, 7), min_size=1))
def test_a_log_keeps_every_byte(content: bytes, sizes: list[int]) -> None:
    """What is no secret arrives byte for byte, even when it is no UTF-8."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "stdout.log"
        log = OutputLog(path, Redactor())
        at = turn = 0
        while at < len(content):
            size = sizes[turn % len(sizes)]
            log.write(content[at : at + size])
            at, turn = at + size, turn + 1
        log.close()
        assert path.read_bytes() == content


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_a_log_is_capped_and_keeps_its_end(sizes: list[int]) -> None:
    """A log never grows over its cap, keeps the newest lines, and says what it dropped."""
    lines = [f"{at:04d}{'x' * size}\n".encode() for at, size in enumerate(sizes)]
    whole = b"".join(lines)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "stdout.log"
        log = OutputLog(path, Redactor(), max_bytes=200)
        for line in lines:
            log.write(line)
        log.close()
        first, found, rest = path.read_bytes().partition(b" bytes were dropped]\n")
        assert os.listdir(place) == ["stdout.log"]
    kept = rest if found else first
    assert whole.endswith(kept)
    assert len(kept) <= 200
    if found:
        assert len(kept) >= 60
        assert first == f"[csa: the oldest {len(whole) - len(kept)}".encode()
    else:
        assert kept == whole
