"""What docs/generate.py writes into docs/man: csa.1, and a page for each command and each of its other names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping

from csa import __version__
from csa.cli.commands import ABOUT, ALIASES, COMMANDS, PURPOSES, Command, command_names
from csa.cli.config import render_value
from csa.cli.helping import overview
from csa.model.configkeys import ENGINE_KEYS, KEYS, STORE_KEYS, TOOL_KEYS, Key

EXITS = (
    ("0", "It succeeded."),
    ("1", "The turn failed; or the answer is no (csa is-alive)."),
    ("2", "The arguments are wrong."),
    ("3", "There is no such session, or the prefix is ambiguous."),
    ("4", "The session is busy, or csa cannot know whether it is running."),
    ("5", "Refused by a limit or a budget, for the caller's own session, or because the session is closed."),
    ("6", "The configuration is wrong, or a record is damaged."),
    ("7", "The tool is missing, or not logged in."),
    ("8", "Rate limited by the provider, or a quota is used up."),
    ("124", "Timed out (--timeout)."),
    ("129, 130, 143", "Ended by a hangup, interrupt or termination signal."),
)
OPTIONS = (
    ("csa --version, csa -V", "Print the version."),
    ("csa help, csa --help", "Print the everyday commands; all of them with --all."),
    ("csa help COMMAND, csa COMMAND --help", "Explain a command."),
)
VARIABLES = (
    ("CSA_STATE_DIR", "Where sessions are kept, instead of $XDG_STATE_HOME/csa or ~/.local/state/csa."),
    ("CSA_CONFIG", "The config file, instead of $XDG_CONFIG_HOME/csa/config.toml or ~/.config/csa/config.toml."),
    ("CSA_CONF_KEY", "A setting, which overrides those of the files: CSA_CONF_MAX_DEPTH=2."),
    ("CSA_SESSION_ID, CSA_SESSION_DIR, CSA_OUTPUT_DIR", "Set for agents: their session, and where to put files."),
    ("CSA_SECRET_NAMES", "Set for agents: the variables that csa run --secret has given them."),
    ("CSA_PAGER, PAGER", "The pager for long help; csa's own comes first, an empty one means none."),
    ("NO_COLOR, COLUMNS", "No colours; the width of the output."),
    ("FORCE_COLOR, CLICOLOR_FORCE", "Colours even if stdout is not a terminal; --color overrides all of these."),
)
FILES = (
    ("~/.config/csa/config.toml", "The user's settings."),
    ("PROJECT/.csa/config.toml", "The project's settings; they can tighten limits, not loosen them."),
    ("~/.local/state/csa", "The sessions, by project."),
)
_INTRODUCTION = """
Every agent is a supervised process with a session you can resume, watch, wait for and kill; nothing is left running
when it ends. A session is named by its name or a unique prefix of its id.

An agent that calls csa run starts a child of its own session. csa doctor checks which tools are installed and
logged in.
"""


def pages() -> Mapping[str, str]:
    """Return the text of each page by the name of its file."""
    made = {"csa.1": _render(_overview_page())}
    made |= {f"{_title(command.name)}.1": _render(_command_page(command)) for command in COMMANDS}
    return made | {f"{_title(alias)}.1": f".so man1/{_title(name)}.1\n" for alias, name in ALIASES.items()}


def _render(lines: Iterable[str]) -> str:
    return "\n".join([r".\" Generated from the command line's own parsers (make docs).", *lines]) + "\n"


def _title(name: str) -> str:
    return f"csa-{name.replace(' ', '-')}"


def _head(title: str, about: str) -> Iterator[str]:
    yield f'.TH {_roff(title.upper())} 1 "" "csa {__version__}" "csa manual"'
    yield from (".nh", ".ad l")  # so that no command is torn, and lines are not stretched
    yield ".SH NAME"
    yield rf"{_roff(title)} \- {_roff(about)}"
    yield ".SH SYNOPSIS"


def _overview_page() -> Iterator[str]:
    yield from _head("csa", ABOUT[:1].lower() + ABOUT[1:-1])
    yield r"\fBcsa\fR \fICOMMAND\fR [\fIOPTION\fR ...]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(_INTRODUCTION)
    yield from _section("OPTIONS", OPTIONS)
    yield ".SH COMMANDS"
    yield _roff("Each has a page of its own: man csa-run.")
    for purpose, commands in PURPOSES:
        yield f".SS {_roff(purpose.capitalize())}"
        for command in commands:
            yield from _item(rf"\fB{_roff(_title(command.name))}\fR(1)", f"{_sentence(command.summary)}.")
    for title, rows in (("EXIT STATUS", EXITS), ("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        yield from _section(title, rows)
    yield from _section("CONFIGURATION", ((name, _in_words(key)) for name, key in _all_keys()))
    yield ".SH EXAMPLES"
    for line in overview().partition("examples:\n")[2].partition("\n\n")[0].splitlines():
        example, meaning = re.split(" {2,}", line.strip())
        yield from _item(rf"\fB{_roff(example)}\fR", _sentence(meaning))


def _command_page(command: Command) -> Iterator[str]:
    parser = command.parser()
    yield from _head(_title(command.name), command.summary)
    yield " ".join([rf"\fBcsa {_roff(command.name)}\fR", r"[\fIOPTION\fR ...]", *_operands(parser)])
    yield ".SH DESCRIPTION"
    yield from _paragraphs(str(parser.description))
    names = [f"csa {name}" for name, each in command_names().items() if each is command and name != command.name]
    if names:
        yield ".PP"
        yield _roff(f"Other names: {', '.join(names)}.")
    for group in parser._action_groups:  # noqa: SLF001  # there is no public way to an argument
        rows = [(_term(action), _meaning(action)) for action in group._group_actions if _is_shown(action)]  # noqa: SLF001
        if rows:
            title = "arguments" if group.title == "positional arguments" else str(group.title)
            yield f'.SH "{_roff(title.upper())}"'
            for term, meaning in rows:
                yield from _item(term, meaning)
    yield ".SH SEE ALSO"
    yield r"\fBcsa\fR(1), for exit codes, the environment and the configuration"


def _operands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._get_positional_actions():  # noqa: SLF001  # as above
        value = rf"\fI{_roff(_value(action))}\fR"
        more = f"{value} ..." if action.nargs in {"*", "+"} else value
        yield f"[{more}]" if action.nargs in {"?", "*"} else more


def _is_shown(action: argparse.Action) -> bool:
    return action.help not in {None, argparse.SUPPRESS} and not isinstance(action, argparse._HelpAction)  # noqa: SLF001


def _meaning(action: argparse.Action) -> str:
    return str(action.help) % {"default": action.default}


def _value(action: argparse.Action) -> str:
    return str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper()))


def _term(action: argparse.Action) -> str:
    shown = rf"\fI{_roff(_value(action))}\fR"
    if not action.option_strings:
        return shown
    names = ", ".join(rf"\fB{_roff(name)}\fR" for name in action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names}[={shown}]" if action.nargs == argparse.OPTIONAL else f"{names} {shown}"


def _section(title: str, rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f'.SH "{title}"'
    for term, meaning in rows:
        yield from _item(rf"\fB{_roff(term)}\fR", meaning)


def _all_keys() -> Iterator[tuple[str, Key]]:
    yield from KEYS.items()
    yield from ((f"tools.NAME.{name}", key) for name, key in TOOL_KEYS.items())
    yield from ((f"engines.NAME.{name}", key) for name, key in ENGINE_KEYS.items())
    yield from ((f"store.{name}", key) for name, key in STORE_KEYS.items())


def _in_words(key: Key) -> str:
    return f"{key.meaning} (default: {render_value(key.default)})"


def _item(term: str, meaning: str) -> list[str]:
    return [".TP", term, _roff(meaning)]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _paragraphs(text: str) -> Iterator[str]:
    for index, paragraph in enumerate(text.strip().split("\n\n")):
        if index:
            yield ".PP"
        yield _roff(" ".join(paragraph.split()))


def _roff(text: str) -> str:
    """Write a text so that roff takes no letter of it for a command, and no dash for a hyphen."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("~", r"\(ti")
    escaped = escaped.replace("'", r"\(aq").replace("^", r"\(ha").replace('"', r"\(dq")
    escaped = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
    return rf"\&{escaped}" if escaped.startswith(".") else escaped
