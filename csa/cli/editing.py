"""A session's name, its description and its pin."""

from __future__ import annotations

import argparse
import sys

from csa.cli.output import one_line, print_act
from csa.cli.selecting import add_selector, find, find_one, open_client
from csa.errors import UsageError
from csa.store.shown import SHOWN_LENGTH


def configure_rename(parser: argparse.ArgumentParser) -> None:
    add_selector_and_value(parser, "NAME", "the new name")
    parser.add_argument("--clear", action="store_true", help="remove the name")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_rename(arguments: argparse.Namespace) -> int:
    """Give a session a name, which all commands take in place of its id, or remove its name.

    A name begins with a letter and is unique in the project. A session that is running is renamed, too.
    """
    selector, name = selected_with_value(arguments, "NAME")
    if (name is None) is not arguments.clear:
        raise UsageError("Give a NAME, or use --clear.", hint="csa rename SESSION NAME")
    from csa.runner.sessions.editing import rename_session  # noqa: PLC0415  # `csa completion` loads every command

    edit = rename_session(find(open_client(), selector, acts=True), name)
    session_id, before = edit.after.session_id, edit.before.name
    who = session_id[:SHOWN_LENGTH] if sys.stdout.isatty() else session_id  # the name is what is new
    words = f"{who} is called {name}" if name else f"{who} has no name"
    if edit.is_change and before:
        words += f" (it was {one_line(before)})"
    facts = {"session_id": session_id, "project": edit.after.project_path, "name": name, "before": before}
    print_act(arguments, words, facts, edit.losses)
    return 0


def configure_describe(parser: argparse.ArgumentParser) -> None:
    add_selector_and_value(parser, "TEXT", "the new description")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_describe(arguments: argparse.Namespace) -> int:
    """Change the description of a session: the text that lists show, by default the beginning of its first prompt.

    One line of up to 80 characters; secrets are redacted. It may be running meanwhile.
    """
    selector, text = selected_with_value(arguments, "TEXT")
    if text is None:
        raise UsageError("Give a description.", hint='csa describe SESSION "what it is about"')
    from csa.runner.sessions.editing import describe_session  # noqa: PLC0415  # `csa completion` loads every command

    edit = describe_session(find(open_client(), selector, acts=True), text)
    state = edit.after
    facts = {"session_id": state.session_id, "project": state.project_path, "description": state.description}
    facts["before"] = edit.before.description
    print_act(arguments, f"{state.session_id}: {one_line(state.description)}", facts, edit.losses)
    return 0


def configure_pin(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("--off", action="store_true", help="remove the protection")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_pin(arguments: argparse.Namespace) -> int:
    """Protect a session from clean-up, however old it gets, and from `csa rm` without --force.

    --off removes the protection. The session may be running meanwhile.
    """
    from csa.runner.sessions.editing import pin_session  # noqa: PLC0415  # `csa completion` loads every command

    edit = pin_session(find_one(arguments, acts=True), pinned=not arguments.off)
    state = edit.after
    words = f"{state.session_id} is {'' if state.pinned else 'not '}pinned{'' if edit.is_change else ' already'}"
    if not edit.is_change and not state.pinned:
        words = f"{state.session_id} was not pinned"
    facts = {"session_id": state.session_id, "project": state.project_path, "pinned": state.pinned}
    print_act(arguments, words, facts, edit.losses)
    return 0


def add_selector_and_value(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Add a session, by position or option, followed by a value."""
    add_selector(parser)
    parser.add_argument("value", nargs="?", metavar=name, help=meaning)


def selected_with_value(arguments: argparse.Namespace, name: str) -> tuple[str, str | None]:
    """Return the selector and the value: the first of two arguments is the session, unless -s names it."""
    words = [word for word in (arguments.session, arguments.value) if word is not None]
    if arguments.session_option is not None:
        words = [arguments.session_option, *words]
    if not words:
        raise UsageError("Name a session.", hint="csa ls")
    if len(words) > 2:  # noqa: PLR2004  # the session and the value
        raise UsageError(f"Give one session and one {name}.")
    return words[0], words[1] if len(words) > 1 else None
