"""A terminal for the real CLIs' own interfaces: it answers what they ask of one."""

import os
import re
import time
from collections.abc import Callable

from tests.cli.terminal import Terminal
from tests.real.workplace import READY_S

# What they ask, and what a dark xterm answers.
_ANSWERS = {
    b"\x1b[6n": b"\x1b[1;1R",  # where is the cursor?
    b"\x1b[c": b"\x1b[?62;22c",  # what are you?
    b"\x1b]10;?": b"\x1b]10;rgb:ffff/ffff/ffff\x1b\\",  # which colours have you?
    b"\x1b]11;?": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
}
_CLEAR_LINE = "\x15"
_ECHO_S = 5.0
_HAND_S = 0.1  # no person is faster; what comes within 40 ms of a paste is part of it for gemini
_QUESTION = re.compile(b"|".join(map(re.escape, _ANSWERS)))
_LONGEST = max(map(len, _ANSWERS))
_ESCAPE = re.compile(r"\x1b\[[0-9;:?>=<]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


class AnsweringTerminal(Terminal):
    """A terminal that answers, and types as a person pastes."""

    patience_s = 1.5 * READY_S  # opencode takes its time to draw
    _unanswered = b""  # the end of what came: a question may have begun there

    def words_since(self, position: int) -> str:
        """Return what was written since, with single spaces: interfaces move over blanks instead of writing them."""
        return " ".join(_ESCAPE.sub(lambda found: "" if found[1] == "m" else " ", self.output[position:]).split())

    def wait_for_words(self, words: str, *, since: int = 0) -> None:
        self.wait(lambda: words in self.words_since(since), words)

    def enter(self, line: str, *, shows: str | None = None) -> None:
        """Paste a line, and press Enter once the interface shows it, or says `shows`."""
        deadline = time.monotonic() + self.patience_s
        while not self._paste(line, shows or line):
            assert time.monotonic() < deadline, f"not taken: {line}; shown: {self.output!r}"
            self.type(_CLEAR_LINE)
        time.sleep(_HAND_S)
        self.type("\r")

    def leave(self, command: str, *, shows: str, is_over: Callable[[], bool]) -> None:
        """Enter what ends it, until it has ended: gemini (0.61.0) passes over what is entered while it answers."""
        deadline = time.monotonic() + self.patience_s
        while not is_over():
            assert time.monotonic() < deadline, f"not taken: {command}; shown: {self.output!r}"
            if self._paste(command, shows):
                time.sleep(_HAND_S)
                self.type("\r")
            again_at = time.monotonic() + _ECHO_S
            self.wait(lambda: is_over() or time.monotonic() > again_at, command)  # noqa: B023  # called at once
            if not is_over():
                self.type(_CLEAR_LINE)

    def _paste(self, line: str, shows: str) -> bool:
        """Return whether it was seen: codex may lose what is typed in the moment after it was continued (0.169.0)."""
        since, deadline = len(self.output), time.monotonic() + _ECHO_S
        self.type(f"\x1b[200~{line}\x1b[201~")
        self.wait(lambda: shows in self.words_since(since) or time.monotonic() > deadline, shows)
        return shows in self.words_since(since)

    def _receive(self, chunk: bytes) -> None:
        super()._receive(chunk)
        seen = self._unanswered + chunk
        questions = list(_QUESTION.finditer(seen))
        for question in questions:
            os.write(self._ours, _ANSWERS[question[0]])
        self._unanswered = seen[questions[-1].end() if questions else 0 :][1 - _LONGEST :]
