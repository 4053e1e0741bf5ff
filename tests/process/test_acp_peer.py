"""csa's own JSON-RPC against an agent written with the protocol's library, and its reader of lines by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from csa_adapters.acp_wire import read_message
from hypothesis import given
from hypothesis import strategies as st

from tests.process.test_acp_bridge import bridge, chunks, named, session_of
from tests.support import Place

PEER = (sys.executable, "-I", str(Path(__file__).parents[2] / "fixtures" / "acp_sdk_agent.py"))
MESSAGE = {"jsonrpc": "2.0", "method": "session/update", "params": {"text": "grün"}}


@pytest.mark.thorough
def test_a_turn_with_the_library(place: Place) -> None:
    """Its models accept what we send; requests we do not offer are refused as JSON-RPC says, and the turn goes on."""
    code, lines, err = bridge(place, command=PEER)
    assert (code, chunks(lines)) == (0, "permission selected -32601 -32601 -32601 -32601 hello"), err
    assert session_of(lines) == f"session of {place.project}"
    code, lines, err = bridge(place, command=PEER, session_id="s", prompt=["again"])
    assert (code, named(lines, "session")[0]["how"]) == (0, "load"), err
    assert "old" not in chunks(lines)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(MESSAGE).encode(),
        json.dumps(MESSAGE, ensure_ascii=False).encode() + b"\r",
        b"\xef\xbb\xbf" + json.dumps(MESSAGE).encode(),
        b"\x1b[2K\x1b[1G" + json.dumps(MESSAGE).encode() + b"\x1b[0m",
        b"\x1b]0;title\x07" + json.dumps(MESSAGE).encode(),
        b'> {"x": 1} ' + json.dumps(MESSAGE).encode(),
        b'\xef\xbb\xbf{"method":"session/update","params":{"text":"gr\x1b[1m\xfcn"},"jsonrpc":"2.0"}',
        b"Loading... " + json.dumps(MESSAGE).encode(),
        json.dumps(MESSAGE, ensure_ascii=False).encode("latin-1"),
    ],
)
def test_a_message_is_read_through_what_stands_around_it(line: bytes) -> None:
    """Marks of the byte order, escape codes, a prompt, other line ends, and bytes of Latin-1."""
    assert read_message(line)[0] == MESSAGE


@pytest.mark.parametrize("line", [b"7", b'"x"', b"null", b"[]", b"{}", b'[{"jsonrpc":"2.0"}]', b"text", b"[" * 200_000])
def test_what_is_no_message(line: bytes) -> None:
    """Only an object with `jsonrpc` is one."""
    assert read_message(line) == (None, line.decode())


@given(st.binary(max_size=200))
def test_no_line_is_too_odd(line: bytes) -> None:
    """Whatever comes: a message or text, and no error."""
    message, text = read_message(line)
    assert message is None or "jsonrpc" in message
    assert isinstance(text, str)
