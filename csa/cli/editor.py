"""Writing a prompt in the user's editor, as `git commit` does for messages.

The text is in a file until the run has begun. If it does not begin, the file stays, and csa names it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

from csa.cli.output import tell
from csa.errors import UsageError

_SCISSORS = "# ------------------------ >8 ------------------------"
_NOTES = f"""
{_SCISSORS}
# Write the prompt above, and leave the editor. All from the line with the scissors on is dropped.
# An empty prompt aborts.
"""
_USUAL = ("editor", "nano", "vi")
_FLAGS = set("eqv")  # short options of `csa retry` without a value


@contextmanager
def composed(text: str = "", *, is_kept: bool = False, session_id: str | None = None) -> Iterator[str]:
    """Let the user write a prompt, starting with a text; it is kept if the block ends with an error, or if asked for.

    `session_id` is named in the way back, where the command line names no session.

    Raises:
        UsageError: it is empty, or there is no editor, or that fails.
    """
    command = _editor()
    fd, name = mkstemp(prefix="csa-prompt-", suffix=".md")
    path = Path(name)
    with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text + _NOTES)
    try:
        code = _edit(command, path)
        written = _without_notes(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        _drop(path)
        raise UsageError(f"Aborted: the file with the prompt cannot be read ({error.strerror}).") from error
    except BaseException:
        _drop(path)
        raise
    if code or not written:
        why = f"the editor exited with {code}" if code else "the prompt is empty"
        if not written or written == text.strip():
            _drop(path)
            raise UsageError(f"Aborted: {why}.")
        raise UsageError(f"Aborted: {why}.", hint=_way_back(path, session_id))
    try:
        yield written
    except BaseException:
        is_kept = True
        raise
    finally:
        if is_kept:
            tell("csa", f"your prompt is kept: {_way_back(path, session_id)}", by_name=False)
        else:
            _drop(path)


def _drop(path: Path) -> None:
    """Delete the file, if the editor has left one there."""
    with suppress(OSError):
        path.unlink()


def _editor() -> str:
    """Return the command line of the editor; UsageError if there is none."""
    for name in ("VISUAL", "EDITOR"):
        if command := os.environ.get(name, "").strip():
            return command
    if found := next(filter(shutil.which, _USUAL), None):
        return found
    raise UsageError("There is no prompt.", hint='csa run "what to do", or set EDITOR to write it there')


def _edit(command: str, path: Path) -> int:
    """Run the editor on the terminal, even if stdout is not one; return its exit code."""
    argv = ["/bin/sh", "-c", f'{command} "$@"', command, str(path)]  # a command line, as everywhere
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's
    try:
        done = subprocess.run(argv, stdout=sys.stderr.fileno(), check=False, preexec_fn=_heed_interrupts)
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _without_notes(text: str) -> str:
    """Return the text without the notes, wherever they have been moved."""
    notes = {*_NOTES.strip().splitlines()}
    above = f"\n{text}".partition(f"\n{_SCISSORS}")[0]
    return "\n".join(line for line in above.splitlines() if line not in notes).strip()


def _way_back(path: Path, session_id: str | None) -> str:
    """Return the command line as it was typed, with the file in place of the editor."""
    words = [_without_edit(word) for word in sys.argv[1:] if word not in {"-e", "--edit", "--dry-run"}]
    end = words.index("--") if "--" in words else len(words)
    named = [] if session_id is None else ["--session", session_id]
    return shlex.join(["csa", *words[:end], *named, "--prompt-file", str(path), *words[end:]])


def _without_edit(word: str) -> str:
    """Return short options that are typed as one word without that for the editor."""
    is_several = word[:1] == "-" and word[1:2] != "-" and set(word[1:]) <= _FLAGS
    return word.replace("e", "") if is_several else word
