"""Compacts one conversation of gemini-cli (seen at 0.61.0) in its terminal interface; started as the tool.

    python -I gemini_bridge.py -- gemini --resume ID ...    with one JSON object on stdin: session, chats, log

`/compress` exists nowhere else: as a prompt, and over ACP, it is text for the model. So gemini gets a terminal, and the
command is typed as a person would. A typing error would be a prompt, so the bridge presses Enter only when the
line looks right, and ends gemini by hanging up, not by another command.

The proof is gemini's own record: the conversation's file (`chats` is a pattern for its name) gained a history that
begins with a `<state_snapshot>`. The screen shows the tokens. It does not show provider failures: gemini retries
without end, five times a minute (0.61.0). Only its debug log (`log`) has the attempts, and after the third the
compaction has failed, as a turn would have. stdout has lines of JSON: `state` for each step, `retry`, and finally
`compressed` or `failed`. The only module that imports pexpect.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

import pexpect

if __name__ == "__main__":  # -I leaves it out; last, so that it shadows nothing
    sys.path.append(os.path.dirname(os.path.dirname(__file__)))

from csa_adapters.bridges import Json, Terminated, end_at_signals, say

COMMAND = "/compress"
START_LIMIT_S = 90.0  # a busy machine needs 30 s
ANSWER_LIMIT_S = 600.0
MAX_ATTEMPTS = 3
RECORD_LIMIT_S = 5.0
QUIET_S = 0.8  # the prompt is drawn before a resumed history, and input in between is lost
KEY_S = 0.02
ENTER_LIMIT_S = 4.0
ATTEMPTS = 5
SIZE = (50, 160)
_READ_BYTES = 1 << 16
_WORDS = 300  # characters of what is quoted
_CLEAR_LINE = "\x15"
_ESCAPES = re.compile(r"\x1b\[[0-9;?>=<]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78]|\r")
_READY = "Type your message"
_RESUMING = "Resuming session"
_WORKING = "Compressing chat history"
_DONE = re.compile(r"Chat history compressed from (\d+) to (\d+) tokens")
_NOTHING = re.compile(r"Compression was not beneficial|Nothing to compress|Already compress", re.IGNORECASE)
_ATTEMPT = re.compile(r"Attempt \d{1,4} failed(?: with status (\d{3}))?[:.]? ?(.*)")
_RETRYING = re.compile(r"\.? *Retrying (?:after|with).*?\.\.\.(?: _?\w*Error:)? ?")
_FAILED = re.compile(r"(?:✕|✖|✗|Could not compress|Failed to compress|Compression failed)[^\n]*")
_REFUSED = re.compile(r"^Error resuming session: .*", re.MULTILINE)
_DIALOG = re.compile(r"How would you like to authenticate|Enter .{0,20}API Key|Do you trust", re.IGNORECASE)


class Failed(Exception):  # noqa: N818  # the end of a compaction, not of the program
    """The compaction cannot continue; `why` is the kind of failure, for the decoder."""

    def __init__(self, why: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.why = why
        self.status = status


class Screen:
    """What gemini has drawn, without the terminal's control sequences; `since` is where the current step begins."""

    def __init__(self, command: list[str]) -> None:
        self._drawn = ""
        self._since = 0
        self._changed = time.monotonic()
        try:
            self._child = pexpect.spawn(
                command[0],
                command[1:],
                env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
                dimensions=SIZE,
                encoding="utf-8",
                codec_errors="replace",
            )
        except pexpect.ExceptionPexpect as error:
            raise Failed("spawn", f"cannot start {command[0]}: {error}") from error

    @property
    def text(self) -> str:
        """What was drawn in this step."""
        return _ESCAPES.sub("", self._drawn[self._since :])

    def begin_step(self) -> None:
        self._since = len(self._drawn)

    def wait(self, condition: Callable[[], Any], limit_s: float) -> Any:
        """Read until the condition is true, and return its value; None on timeout or if gemini has ended."""
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            if time.monotonic() > deadline or not self._read():
                return condition() or None
        return found

    def is_quiet(self) -> bool:
        """Say whether nothing has been drawn for a moment."""
        return time.monotonic() - self._changed > QUIET_S

    def type(self, text: str) -> None:
        for key in text:
            self._child.send(key)
            time.sleep(KEY_S)

    def close(self) -> str:
        """Hang up, and make sure it has ended."""
        with suppress(pexpect.ExceptionPexpect, OSError):
            self._child.close(force=True)
        return self.text

    def _read(self) -> bool:
        try:
            self._drawn += self._child.read_nonblocking(_READ_BYTES, timeout=0.1)
            self._changed = time.monotonic()
        except pexpect.TIMEOUT:
            pass
        except (pexpect.EOF, OSError):
            return False
        return True


class Attempts:
    """The provider's failures, from gemini's debug log; `last` is the status and message of the last one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._told = 0
        self.last: tuple[int | None, str] = (None, "")

    def is_over(self) -> bool:
        """Report new ones; say whether this was the last attempt to wait for."""
        found = [match for line in _lines(self._path) if (match := _ATTEMPT.search(line))]
        for match in found[self._told :]:
            self._told += 1
            self.last = (int(match[1]) if match[1] else None, _RETRYING.sub("", match[2])[:_WORDS])
            if self._told < MAX_ATTEMPTS:
                status, message = self.last
                say("retry", attempt=self._told, max=MAX_ATTEMPTS, status=status, message=message)
        return self._told >= MAX_ATTEMPTS


def compress(screen: Screen, order: Json) -> Json:
    """Compress the conversation; return the report."""
    snapshots = count_snapshots(order["chats"])
    _get_ready(screen)
    _enter_command(screen)
    tokens = _wait_for_answer(screen, Attempts(order["log"]))
    if not screen.wait(lambda: count_snapshots(order["chats"]) > snapshots, RECORD_LIMIT_S):
        raise Failed("protocol", "gemini reports that it compressed the history, but has not recorded it")
    return {"tokens_before": tokens[0], "tokens_after": tokens[1]}


def count_snapshots(pattern: str) -> int:
    """Count the histories in the conversation's files that begin with a snapshot; each resume repeats one."""
    return sum(_begins_with_snapshot(line) for name in glob(pattern) for line in _lines(name))


def _lines(name: str) -> list[str]:
    try:
        return Path(name).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _begins_with_snapshot(line: str) -> bool:
    if "<state_snapshot>" not in line:
        return False
    try:
        messages = json.loads(line)["$set"]["messages"]
    except (ValueError, KeyError, TypeError):
        return False
    return any(_text(message.get("content")).startswith("<state_snapshot>") for message in messages)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _get_ready(screen: Screen) -> None:
    """Wait until the prompt is shown and the resumed history has been drawn."""
    say("state", step="starting")

    def is_ready() -> bool:
        drawn = screen.text
        return _READY in drawn and screen.is_quiet() and drawn.rfind(_READY) > drawn.rfind(_RESUMING)

    if screen.wait(lambda: is_ready() or _DIALOG.search(screen.text), START_LIMIT_S) is not True:
        found = _DIALOG.search(screen.text)
        if found:
            raise Failed("auth", f"gemini asks: {found[0]}")
        refused = _REFUSED.search(screen.text)
        said = refused[0].strip() if refused else _last_words(screen.text)
        raise Failed("start", said or "gemini showed no prompt")


def _enter_command(screen: Screen) -> None:
    """Type the command until it is alone on the line, then enter it; a menu may consume the first Enter."""
    say("state", step="entering")
    for _ in range(ATTEMPTS):
        screen.begin_step()
        screen.type(_CLEAR_LINE)
        screen.type(COMMAND)
        if screen.wait(lambda: re.search(rf"> +{COMMAND}\s", screen.text), ENTER_LIMIT_S):
            break
    else:
        raise Failed("protocol", "gemini does not echo what is typed")
    for _ in range(ATTEMPTS):
        screen.wait(screen.is_quiet, ENTER_LIMIT_S)
        screen.begin_step()
        screen.type("\r")
        if screen.wait(lambda: _WORKING in screen.text or _answer(screen.text), ENTER_LIMIT_S):
            return
    raise Failed("protocol", f"gemini did not accept {COMMAND}")


def _wait_for_answer(screen: Screen, attempts: Attempts) -> tuple[int, int]:
    say("state", step="compressing")
    answer = screen.wait(lambda: _answer(screen.text) or attempts.is_over(), ANSWER_LIMIT_S)
    if answer is True:
        status, message = attempts.last
        raise Failed("failed", f"the provider failed {MAX_ATTEMPTS} times: {message or status}", status)
    if answer is None:
        raise Failed("protocol", _last_words(screen.text) or "gemini ended without an answer")
    if found := _DONE.search(answer):
        return int(found[1]), int(found[2])
    if _NOTHING.search(answer):
        raise Failed("nothing", answer.strip().rstrip("."))
    raise Failed("failed", answer.strip())


def _answer(text: str) -> str | None:
    """Return the line that ends a compression."""
    found = _DONE.search(text) or _NOTHING.search(text) or _FAILED.search(text)
    return found[0] if found else None


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1][:_WORDS] if lines else ""


def main() -> int:
    """Run the compaction that stdin describes, of the gemini that the arguments start."""
    end_at_signals()
    order = json.loads(sys.stdin.buffer.read())
    screen = None
    try:
        screen = Screen(sys.argv[sys.argv.index("--") + 1 :])
        told = compress(screen, order)
    except Failed as failure:
        say("failed", why=failure.why, message=str(failure), status=failure.status)
        return 1
    except Terminated as end:
        return end.code
    finally:
        if screen is not None:
            screen.close()
    say("compressed", session=order["session"], **told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
