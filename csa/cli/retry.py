"""Send the last prompt of a session again, in the same session, as csa run --session would.

Without a session, the one used last is taken. The options are those of csa run; what the session keeps (tool, model,
permission) stays unless they change it. A prompt from which csa has redacted a secret cannot be sent again, since the
secret is not stored: give it with --prompt, --prompt-file or --edit. Exits as csa run does.
"""

from __future__ import annotations

import argparse
from shlex import join, quote

from csa.cli.output import cut, one_line, tell, warn
from csa.cli.run import run_turn
from csa.cli.run_options import add_turn_options, defaults_of_run
from csa.cli.selecting import add_selector, find_to_show, selectors_given
from csa.errors import NotFoundError, UsageError
from csa.model.events import Event
from csa.model.redaction import MARK
from csa.runner.session import Session
from csa.store.artifacts import PROMPT_FILES, SCHEMA_FILE
from csa.store.atomic import read_regular
from csa.store.transcript import last_started

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.attachment import Attachment

_SHOWN = 60  # characters of the prompt
_WAY_TO_STDIN = "csa retry --prompt-file - sends it instead"


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    prompt = parser.add_argument_group("the prompt")
    ways = prompt.add_mutually_exclusive_group()
    ways.add_argument("--prompt", metavar="TEXT", help="send this prompt instead")
    ways.add_argument("--prompt-file", metavar="FILE", help="send a file's text instead; `-` is stdin")
    ways.add_argument("-e", "--edit", action="store_true", help="edit it in $EDITOR first")
    add_turn_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    session = find_to_show(arguments)
    named = f"{session.store.host}:{session.session_id}" if session.store.host else session.session_id
    given = {**vars(arguments), "session": named, "is_literal": True, "way_to_stdin": _WAY_TO_STDIN}
    words = argparse.Namespace(**{**defaults_of_run(), **given})
    started = last_started(session.content.transcript)
    if started:
        _refuse_without_secrets(session, started, arguments)
        _tell_flags(started)
    if words.schema is None:
        words.schema = _last_schema(session, started)
    if words.image is None and words.file is None:
        words.image, words.file = _last_attachments(session, started)
    if arguments.prompt is not None or arguments.prompt_file is not None:
        return run_turn(words)
    turn, prompt = _last_prompt(session, started)
    if arguments.edit:
        from csa.cli.editor import composed  # noqa: PLC0415  # most prompts are sent as they are

        unnamed = None if selectors_given(arguments) else session.session_id
        with composed(prompt, is_kept=arguments.dry_run, session_id=unnamed) as words.prompt:
            _refuse_redacted(session.session_id, turn, words.prompt)
            return run_turn(words)
    _refuse_redacted(session.session_id, turn, prompt)
    if not arguments.quiet:
        tell("csa", f"the prompt of turn {turn}: {cut(one_line(prompt), _SHOWN)}")
    words.prompt = prompt
    return run_turn(words)


def _last_prompt(session: Session, started: Event | None) -> tuple[int, str]:
    """Return the last turn that has begun, and its redacted prompt."""
    state = session.record.state
    turn = max(state.turns if state else 0, started.turn if started else 0)
    if started and started.turn == turn:
        return turn, str(started.data.get("prompt") or "")
    try:
        return turn, read_regular(session.content.turn_output(turn) / "prompt.md").decode(errors="surrogateescape")
    except OSError:
        raise NotFoundError(
            f"Session {session.session_id} has no prompt to send again.",
            hint=f'csa run --session {session.session_id} "what to do"',
        ) from None


def _last_attachments(session: Session, started: Event | None) -> tuple[list[Attachment], list[Attachment]]:
    """Return the images and the files that came with the prompt of the last turn that has begun."""
    if started is None or not (recorded := started.data.get("attachments")):
        return [], []
    from csa.runner.attaching import read_copies  # noqa: PLC0415  # few turns have some

    found = read_copies(recorded, session.content.turn_output(started.turn) / PROMPT_FILES)
    return [each for each in found if each.is_image], [each for each in found if not each.is_image]


def _last_schema(session: Session, started: Event | None) -> str | None:
    """Return the schema of the last turn that has begun, if it had one."""
    if started is None or not started.data.get("schema"):
        return None
    try:
        schema = read_regular(session.content.turn_output(started.turn) / SCHEMA_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The schema of turn {started.turn} cannot be read ({error}).",
            hint="give it with --schema FILE, or --schema none",
        ) from error
    if MARK in schema:
        raise UsageError(
            f"The schema of turn {started.turn} contained a secret, which csa has not stored.",
            hint="give it with --schema FILE",
        )
    return schema


def _refuse_without_secrets(session: Session, started: Event, arguments: argparse.Namespace) -> None:
    """Have the secrets of the turn named again: a record may come from elsewhere, and must not choose files to read."""
    secrets = started.data.get("secrets")
    if not isinstance(secrets, list) or not secrets or arguments.secret:
        return
    again = [f"--secret {quote(str(each.get('name')))}={quote(str(each.get('source')))}" for each in secrets]
    raise UsageError(
        f"Turn {started.turn} had {len(again)} secret{'s' * (len(again) > 1)}, whose values csa has not stored.",
        hint=f"csa retry {session.session_id} {' '.join(again)}",
    )


def _tell_flags(started: Event) -> None:
    if isinstance(flags := started.data.get("flags"), list):
        warn([f"turn {started.turn} had flags for its tool, which are not given again: -- {join(map(str, flags))}"])


def _refuse_redacted(session_id: str, turn: int, prompt: str) -> None:
    """Refuse a prompt with the mark in place of a secret: the agent would take it literally."""
    if MARK in prompt:
        raise UsageError(
            f"The prompt of turn {turn} contained a secret, which csa has not stored: it has {MARK} in its place.",
            hint=f'csa retry {session_id} --prompt "..."',
        )
