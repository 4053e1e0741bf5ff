"""The request of `csa run`, from its arguments and the files and pipes they name."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from csa.cli.output import warn
from csa.errors import UsageError
from csa.model.duration import parse_duration, parse_on_quota
from csa.model.permission import Permission
from csa.runner.context import REPLAY
from csa.runner.request import RunRequest


def request_from(arguments: argparse.Namespace) -> RunRequest:
    _refuse_both(arguments)
    request = RunRequest(
        prompt=_read_prompt(arguments),
        tool=arguments.tool,
        transport=arguments.transport,
        session="@current" if arguments.continues else arguments.session,
        last=arguments.last,
        session_id=arguments.session_id,
        fork_from=arguments.fork_from,
        description=arguments.description,
        name=arguments.name,
        model=arguments.model,
        effort=arguments.effort,
        extra_writable=None if arguments.extra_writable is None else tuple(arguments.extra_writable),
        permission=Permission(arguments.permission) if arguments.permission else None,
        ask=arguments.ask,
        ask_timeout_s=arguments.ask_timeout,
        system=_system(arguments),
        flags=arguments.flags or None,
        secrets=None if arguments.secret is None else tuple(arguments.secret),
        schema=read_schema(arguments.schema),
        images=tuple(arguments.image or ()),
        files=tuple(arguments.file or ()),
        ephemeral=arguments.ephemeral,
        steal=arguments.steal,
        reopen=arguments.reopen,
        after_turn=arguments.after_turn,
        timeout_s=arguments.timeout,
        ttl=_ttl(arguments.ttl) if arguments.ttl is not None else None,
        idle_timeout_s=arguments.idle_timeout,
        keep_background=arguments.keep_background,
        retries=arguments.retries,
        fallback=_split_names(arguments.fallback),
        park_limit_s=_park_limit(arguments.on_quota),
        handoff=False if arguments.no_handoff else None,
        shared=None if arguments.shared is None else arguments.shared == "on",
        context_window=arguments.context_window,
        context_tokens=arguments.context_tokens,
        budget_tokens=arguments.budget_tokens,
        budget_usd=arguments.budget_usd,
        budget_time_s=arguments.budget_time,
        directory=Path.cwd() if arguments.cd else None,
        worktree=arguments.worktree,
        with_changes=arguments.with_changes,
        setup=arguments.setup,
        repair=arguments.repair,
    )
    if request.images or request.files:
        from csa.runner.attaching import with_contents  # noqa: PLC0415  # few turns have some

        request = with_contents(request, os.getcwd())  # as they are now, however long the turn has to wait
    if arguments.template is None:
        return request
    from csa.cli.templates import made_from  # noqa: PLC0415  # most runs have none

    return made_from(arguments.template, request, arguments.variables)


def _refuse_both(arguments: argparse.Namespace) -> None:
    """Refuse --continue and --new together with each other, and with what names another session."""
    ways = {"--continue": arguments.continues, "--session": arguments.session, "--last": arguments.last}
    ways |= {"--session-id": arguments.session_id, "--fork-from": arguments.fork_from}
    given = [name for name, value in ways.items() if value not in {None, False}]
    if arguments.new and (named := [name for name in given if name != "--fork-from"]):
        raise UsageError(f"--new starts a new session; it cannot be combined with {named[0]}.")
    if arguments.continues and len(given) > 1:
        raise UsageError(f"--continue and {given[1]} cannot be combined.")


def _split_names(text: str | None) -> tuple[str, ...] | None:
    """Split a list of names; an empty one means none, None leaves it to the configuration."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _ttl(text: str) -> timedelta:
    if (found := parse_duration(text)) is None:
        raise UsageError(f"--ttl takes a duration such as 7d, 12h or 30m, not '{text}'.")
    return found


def _park_limit(text: str | None) -> float | None:
    if text is None:
        return None
    if (limit := parse_on_quota(text)) is None:
        raise UsageError(f"--on-quota takes fail, wait, or wait=TIME such as wait=26h, not '{text}'.")
    return limit.total_seconds()


def is_prompt_given(arguments: argparse.Namespace) -> bool:
    """Say whether the arguments name a prompt; otherwise it comes from a pipe or the editor."""
    return arguments.prompt is not None or arguments.prompt_file is not None or arguments.stdin


def wants_editor(arguments: argparse.Namespace) -> bool:
    """Say whether to open the editor: there is no prompt, and a person at a terminal."""
    if is_prompt_given(arguments) or os.environ.get(REPLAY):  # there is one in the recording
        return False
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _read_prompt(arguments: argparse.Namespace) -> str:
    """Assemble the prompt. stdin is read only if requested, or if it is the only source."""
    words = None if _is_dash(arguments) else arguments.prompt
    name = arguments.prompt_file
    if words is not None and name is not None:
        raise UsageError("PROMPT and --prompt-file cannot be combined.")
    if name == "-" and arguments.stdin:
        raise UsageError("--prompt-file - and --stdin cannot be combined: stdin can only be read once.")
    if name not in {None, "-"}:
        words = read_file("--prompt-file", name)
    if words is None:
        return _read_stdin()
    return f"{words}\n\n{_read_stdin()}" if arguments.stdin else str(words)


@contextmanager
def unread_stdin_told(arguments: argparse.Namespace) -> Iterator[None]:
    """Warn about a pipe or file on stdin that has bytes and is not part of the prompt, before or after the work.

    Never waits for them: they may come later, or never.
    """
    is_read = (
        arguments.stdin
        or arguments.prompt_file == "-"
        or ((arguments.prompt is None or _is_dash(arguments)) and arguments.prompt_file is None)
    )
    is_told = is_read or _tell_unread(arguments.way_to_stdin)
    try:
        yield
    finally:
        if not is_told:
            _tell_unread(arguments.way_to_stdin)


def _is_dash(arguments: argparse.Namespace) -> bool:
    """Say whether the prompt is the sign for stdin; one that was written or sent before stands for itself."""
    return arguments.prompt == "-" and not arguments.is_literal


def _tell_unread(way: str) -> bool:
    has_bytes = _unread_bytes() > 0
    warn([f"stdin was not read; {way}"] if has_bytes else [])
    return has_bytes


def _unread_bytes() -> int:
    """Return how many bytes can be read from stdin now; 0 unless it is a pipe or a file.

    A file of which something has been read is another's, such as a `while read` loop's.
    """
    from fcntl import ioctl  # noqa: PLC0415  # nobody else needs it here
    from termios import FIONREAD  # noqa: PLC0415  # as above

    if sys.stdin is None:
        return 0
    try:
        found = os.fstat(0)
        if stat.S_ISFIFO(found.st_mode):
            return int.from_bytes(ioctl(0, FIONREAD, bytes(4)), sys.byteorder)
        is_whole_file = stat.S_ISREG(found.st_mode) and os.lseek(0, 0, os.SEEK_CUR) == 0
    except OSError:
        return 0
    return found.st_size if is_whole_file else 0


def _system(arguments: argparse.Namespace) -> str | None:
    if arguments.system_file is None:
        return arguments.system  # type: ignore[no-any-return]  # a word, or None
    return read_file("--system-file", arguments.system_file)


def read_schema(words: str | None) -> dict[str, Any] | None:
    """Read a schema from a file, or from the word itself; `none` is none."""
    if words is None or words == "none":
        return None
    if not words.strip():  # as from a shell variable that is not set: nothing would be checked
        raise UsageError("--schema is empty.", hint="name a FILE, or say --schema none")
    from csa.model.structured import NotJsonError, parse_json  # noqa: PLC0415  # few turns have one

    is_inline = words.lstrip().startswith("{")
    try:
        found = parse_json(words if is_inline else read_file("--schema", words))
    except NotJsonError as error:
        raise UsageError(f"--schema: {'it' if is_inline else words} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError(f"--schema: {words} is not a JSON object.")
    return found


def _read_stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        if os.environ.get(REPLAY):
            return ""
        raise UsageError("There is no prompt.", hint='csa run "what to do", or pipe it in')
    return _decode("the prompt on stdin", sys.stdin.buffer.read())


def read_file(option: str, name: str) -> str:
    """Return the text of a file that an option names; UsageError if it cannot be read."""
    try:
        return _decode(name, Path(name).read_bytes())
    except OSError as error:
        raise UsageError(f"{option}: {name} cannot be read ({error.strerror}).") from error


def _decode(what: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 (byte {error.start}).") from error
