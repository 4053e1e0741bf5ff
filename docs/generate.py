"""Writes docs/commands.md and docs/csa.1 from the parsers. `make docs` runs it; a test fails when they are stale."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from csa import __version__
from csa.cli.commands import ALIASES, COMMANDS, Command, overview

REFERENCE = Path(__file__).parent / "commands.md"
MANUAL = Path(__file__).parent / "csa.1"
COLUMNS = "100"

EXITS = (
    ("0", "It succeeded."),
    ("1", "The turn failed; or the answer is no (csa session is-alive)."),
    ("2", "The words of the command are wrong."),
    ("3", "There is no such session, or a prefix fits several."),
    ("4", "The session is busy; or it cannot be known whether it runs."),
    ("5", "A limit, or the genealogy of sessions, forbids it."),
    ("6", "The configuration is wrong, or a record is damaged."),
    ("7", "The tool is missing, or not logged in."),
    ("8", "The provider limits the rate, or a quota is used up."),
    ("124", "The time given by --timeout is up."),
    ("129, 130, 143", "Ended by a hangup, an interrupt, a termination."),
)
OPTIONS = (
    ("csa --version, csa -V", "Print the version."),
    ("csa --help, csa help COMMAND, csa COMMAND --help", "Print the commands; what one of them takes."),
)
VARIABLES = (
    ("CSA_STATE_DIR", "Where sessions are kept, instead of $XDG_STATE_HOME/csa or ~/.local/state/csa."),
    ("CSA_CONFIG", "The config file, instead of $XDG_CONFIG_HOME/csa/config.toml or ~/.config/csa/config.toml."),
    ("CSA_CONF_KEY", "A setting, over those of the files: CSA_CONF_MAX_DEPTH=2."),
    ("CSA_SESSION_ID, CSA_SESSION_DIR, CSA_OUTPUT_DIR", "Set for agents: their session, and where to put files."),
    ("NO_COLOR, COLUMNS", "No colours; how wide to print."),
)
FILES = (
    ("~/.config/csa/config.toml", "The user's settings."),
    ("PROJECT/.csa/config.toml", "The project's settings; they may tighten limits, not loosen them."),
    ("~/.local/state/csa", "The sessions, by project."),
)


def render() -> str:
    """Return the whole reference."""
    os.environ["COLUMNS"] = COLUMNS  # argparse wraps its help to it
    parts = [
        "# Commands",
        "",
        "This file is generated from the command line's own parsers (`make docs`).",
        "",
        "```",
        overview().rstrip(),
        "```",
        "",
        "## Exit codes",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXITS),
    ]
    for command in COMMANDS:
        parts += ["", f"## csa {' '.join(command.words)}", "", "```", command.parser().format_help().rstrip(), "```"]
    return "\n".join(parts) + "\n"


def render_manual() -> str:
    """Return the man page."""
    _, _, examples = overview().partition("examples:\n")
    lines = [
        r".\" Generated from the command line's own parsers (make docs).",
        f'.TH CSA 1 "" "csa {__version__}" "User Commands"',
        ".SH NAME",
        r"csa \- run trees of AI coding agents as durable sessions",
        ".SH SYNOPSIS",
        r".B csa",
        r".I COMMAND",
        r"[\fIoption\fR ...]",
        ".SH DESCRIPTION",
        *_paragraphs(
            "csa runs AI coding tools as supervised processes, and keeps a session for each piece of work: resumable "
            "by its name or a prefix of its id, with a status that is true, and nothing left behind when it ends.\n\n"
            "An agent that calls csa run makes a child of its own session. csa doctor says whether csa can work here."
        ),
        *_section("OPTIONS", OPTIONS),
        ".SH COMMANDS",
    ]
    for command in COMMANDS:
        lines += _manual_of(command)
    for title, rows in (("EXIT STATUS", EXITS), ("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        lines += _section(title, rows)
    lines.append(".SH EXAMPLES")
    for line in examples.partition("\n\n")[0].splitlines():
        example, meaning = re.split(" {2,}", line.strip())
        lines += _item(rf"\fB{_roff(example)}\fR", meaning)
    lines += [".SH SEE ALSO", _roff("csa COMMAND --help, and the documents that come with the source.")]
    return "\n".join(lines) + "\n"


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f".SH {title}"
    for term, meaning in rows:
        yield from _item(rf"\fB{_roff(term)}\fR", meaning)


def _manual_of(command: Command) -> Iterator[str]:
    parser = command.parser()
    yield f".SS csa {_roff(' '.join(command.words))}"
    yield from _paragraphs(str(parser.description))
    if names := [" ".join(("csa", *alias)) for alias, words in ALIASES.items() if words == command.words]:
        yield ".PP"
        yield _roff(f"Other names: {', '.join(names)}.")
    for action in parser._actions:  # noqa: SLF001  # there is no public way to an argument
        if action.help not in (None, argparse.SUPPRESS) and not isinstance(action, argparse._HelpAction):  # noqa: SLF001
            yield from _item(_term(action), str(action.help) % {"default": action.default})


def _term(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    shown = rf"\fI{_roff(str(value))}\fR"
    if not action.option_strings:
        return shown
    names = ", ".join(rf"\fB{_roff(name)}\fR" for name in action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names}[={shown}]" if action.nargs == argparse.OPTIONAL else f"{names} {shown}"


def _item(term: str, meaning: str) -> list[str]:
    return [".TP", term, _roff(meaning)]


def _paragraphs(text: str) -> Iterator[str]:
    for index, paragraph in enumerate(text.strip().split("\n\n")):
        if index:
            yield ".PP"
        yield _roff(" ".join(paragraph.split()))


def _roff(text: str) -> str:
    """Write a text so that roff takes no letter of it for a command, and no dash for a hyphen."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("~", r"\(ti")
    escaped = escaped.replace("'", r"\(aq").replace("^", r"\(ha")
    escaped = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    for target, content in ((REFERENCE, render()), (MANUAL, render_manual())):
        target.write_text(content)
        sys.stdout.write(f"wrote {target.name}\n")
