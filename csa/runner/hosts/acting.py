"""Acting on sessions of other hosts: a command of csa there, through what reaches the host. Its words say all.

Nothing is known of what did not answer: a host that cannot be reached is an error, never an end.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from csa.errors import RefusedError
from csa.model.config import Engine
from csa.runner.hosts.answers import error_in, nonsense
from csa.runner.hosts.engines import HostError, explain_failure, start_command
from csa.structs import Struct

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)  # what the shell that ssh calls there does not change

LIMIT_S = 60.0
NOT_OF_CSA = {126, 127, 255}  # exit codes of what reaches the host

_BLOCK = 1 << 16
_MOST_OUT, _MOST_ERR = 1 << 25, 1 << 18  # 10,000 sessions are 3 MB
_DECODER = json.JSONDecoder()
_BEGINS = re.compile(r"^[\[{]", re.MULTILINE)
_MOST_BEGINS = 1000  # a host that says nonsense shall not keep us busy


class Answer(Struct):
    """What a command on another host has said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON value at the end of what it has printed, behind what a login shell did; None if there is none."""
        out = self.out.rstrip()
        for begin in islice(_BEGINS.finditer(out), _MOST_BEGINS):
            with suppress(ValueError, RecursionError):
                value, end = _DECODER.raw_decode(out, begin.start())
                if end == len(out):
                    return value
        return None


def do_there(engine: Engine, session_id: str, words: Sequence[str]) -> Any:
    """Have csa on a host do what words say, and return the JSON it prints.

    Raises:
        RefusedError: a word would not arrive as it is.
        HostError: the host cannot be reached, or answers with what makes no sense. Others as the host says.
    """
    if not all(map(is_plain, words)):
        way = f"ssh {engine.name} csa {words[0]} -s {session_id} ..."
        raise RefusedError("Another host takes words without spaces and quotes only.", hint=f"act there: {way}")
    call = Call(engine, words, limit_s=LIMIT_S)
    answer = call.answer()
    said = answer.json
    if isinstance(said, dict) and isinstance(error := said.get("error"), dict) and answer.code:
        told = {"code": error.get("kind"), "exit_code": answer.code}
        raise error_in(engine.name, {"error": {**error, **told}}) or nonsense(engine.name, "an error")
    if answer.code or said is None:
        raise call.failure(answer)
    return said


class Call:
    """A command of csa that runs on another host. HostError if what reaches it cannot be started."""

    def __init__(self, engine: Engine, words: Sequence[str], *, limit_s: float) -> None:
        self.engine, self._command, self._limit_s = engine, words[0], limit_s
        self._process = start_command(engine, words, stdin=subprocess.DEVNULL, bufsize=0)

    def answer(self) -> Answer:
        """Wait for its end; HostError if it takes too long."""
        try:
            out, err = self._read()
        finally:
            self.close()
        return Answer(self._process.returncode, *(each.decode(errors="replace") for each in (out, err)))

    def _read(self) -> tuple[bytearray, bytearray]:
        """Read all that it says, up to its end; of what it complains about no more than anybody reads."""
        host, deadline = self.engine.name, time.monotonic() + self._limit_s
        out, err = bytearray(), bytearray()
        with selectors.DefaultSelector() as sources:
            for stream, found in ((self._process.stdout, out), (self._process.stderr, err)):
                assert stream
                sources.register(stream, selectors.EVENT_READ, found)
            while sources.get_map():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not (ready := sources.select(left_s)):
                    words = f"{host} has not answered within {self._limit_s:g} s."
                    raise HostError(words, hint=f"csa hosts --check {host}")
                for key, _ in ready:
                    block = os.read(key.fd, _BLOCK)
                    if not block:
                        sources.unregister(key.fileobj)
                    elif key.data is out or len(err) < _MOST_ERR:
                        key.data.extend(block)
                if len(out) > _MOST_OUT:
                    words = f"{host} has answered with more than {_MOST_OUT >> 20} MB."
                    raise HostError(words, hint=f"csa hosts --check {host}")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return out, err

    def close(self) -> None:
        """See to it that nothing of it is left here; harmless when repeated."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream
            stream.close()

    def failure(self, answer: Answer) -> HostError:
        """Say why there is no answer of csa's."""
        return explain_failure(self.engine, answer.code, answer.err, self._command)


def is_plain(word: str) -> bool:
    """Say whether a word arrives as it is, whatever reaches the host."""
    return _PLAIN.fullmatch(word) is not None
