"""The output of `csa help`, and the hints for words that are not commands."""

from __future__ import annotations

from csa.cli.commands import ABOUT, ALIASES, COMMANDS, EVERYDAY, GROUPS, PURPOSES, Command, command_names, find_command
from csa.cli.output import help_width
from csa.cli.pager import page
from csa.errors import UsageError
from csa.nearest import nearest

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Iterable

_HELP = {"-h", "--help", "help"}
_ALL = {"-a", "--all"}
_NAME_WIDTH, _EVERYDAY_WIDTH, _EXAMPLE_WIDTH = 15, 10, 47
_EXAMPLES = (
    ('csa run "add a rate limit to the API"', "use the first tool that works"),
    ('csa run --tool codex --name api "..."', "use this tool; call it api"),
    ('csa run --session api "now write the tests"', "continue, by name or id prefix"),
    ('csa run -c "and the docs"', "continue the last session"),
    ('git diff | csa run --stdin "review this"', "add what comes from a pipe"),
    ("csa ls --tree", "see who started whom"),
)
# What other programs call it.
_ELSEWHERE = {
    "version": "csa --version",
    "sessions": "csa ls",
    **dict.fromkeys(("stop", "cancel", "abort", "end"), "csa kill"),
    **dict.fromkeys(("remove", "del"), "csa rm"),
    **dict.fromkeys(("ask", "exec", "new", "prompt", "start"), 'csa run "..."'),
    **dict.fromkeys(("continue", "resume"), 'csa run -c "..."'),
    "fork": 'csa run --fork-from SESSION "..."',
    **dict.fromkeys(("follow", "tail"), "csa logs -f"),
    "cat": "csa show",
    "undelete": "csa restore",
    "settings": "csa config show",
}
_SENTENCE = 3  # this many words are treated as a prompt


def explain(words: list[str]) -> int:
    """Print the requested help; UsageError, with a suggestion, for words that are not a command."""
    is_asked = not words or words[0] in _HELP or (words[0] in GROUPS and {*words[1:2]} <= _HELP)
    if not is_asked:
        raise _unknown_command(words)
    words = [word for word in words if word not in _HELP]
    if not words or set(words) <= _ALL:
        page(_fit(overview() if words else everyday()))
    elif words[0] in GROUPS and len(words) == 1:
        page(_fit(_group_overview(words[0])))
    else:
        command, _ = find_command(words)
        if command is None:
            raise _unknown_command(words)
        page(command.parser().format_help())
    return 0


def _unknown_command(words: list[str]) -> UsageError:
    """Make the error for words that are not a command."""
    if words[0].startswith("-"):
        return UsageError(f"There is no command before '{words[0]}'.", hint=_hint_at_option(words))
    typed = " ".join(words[:2]) if words[0] in GROUPS else words[0]
    return UsageError(f"There is no command 'csa {typed}'.", hint=_hint_at_command(words, typed))


def _hint_at_option(words: list[str]) -> str:
    """Return the hint for an option in place of a command: one of csa's own, or one of `run`."""
    name, sign, value = words[0].partition("=")
    if own := nearest(name, ("--version", "--help")):
        return f"did you mean 'csa {own[0]}'?"
    parser = command_names()["run"].parser()
    taken = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001  # no public way
    meant = [name] if name in taken else nearest(name, taken)
    return _line("run", f"{meant[0]}{sign}{value}", *words[1:]) if meant and words[1:] else "csa help"


def _hint_at_command(words: list[str], typed: str) -> str:
    if typed in _ELSEWHERE:
        return f"did you mean '{_ELSEWHERE[typed]}'?"
    names = command_names()
    used = 2 if words[0] in GROUPS and len(words) > 1 else 1
    found = [words[1]] if used > 1 and words[1] in names else nearest(typed, [*names, *GROUPS])
    if not found and used == 1:
        found, used = nearest(" ".join(words[:2]), names), 2
    if found:
        meant = dict.fromkeys(names[each].name if " " in each else each for each in found)
        rest = words[used:] if "'" not in _line(*words[used:]) else []
        lines = [f"'{_line(*each.split(), *rest)}'" for each in meant]
        return f"did you mean {' or '.join(lines)}?"
    if " " in words[0] or len(words) >= _SENTENCE:
        return f"to run a prompt: {_line('run', ' '.join(words))}"
    return "csa help --all"


def _line(*words: str) -> str:
    from shlex import join  # noqa: PLC0415  # only a mistake needs it

    return f"csa {join(words)}"


def everyday() -> str:
    """Render `csa` and `csa help`: the everyday commands, on one screen."""
    names = command_names()
    lines = [ABOUT, "", "usage: csa COMMAND ...", ""]
    lines += [_row(name, names[name].summary, room=_EVERYDAY_WIDTH) for name in EVERYDAY]
    lines += ["", *(f"  {words}" for words, _ in _EXAMPLES[1:4]), ""]
    lines.append("csa help COMMAND explains a command, csa help --all lists all of them.")
    return "\n".join(lines) + "\n"


def overview() -> str:
    """Render `csa help --all`."""
    lines = ["usage: csa COMMAND ...", "", ABOUT, ""]
    for purpose, commands in PURPOSES:
        lines += [f"{purpose}:", *_command_rows(commands), ""]
    lines += [
        "examples:",
        *(_row(words, what, room=_EXAMPLE_WIDTH) for words, what in _EXAMPLES),
        "",
        f"Short names: {', '.join(_short_names())}.",
        "Commands about sessions also take the word: csa session show is csa show.",
        "csa help COMMAND explains a command, csa --version prints the version.",
        "First time here? Run csa doctor.",
    ]
    return "\n".join(lines) + "\n"


def _short_names() -> list[str]:
    """Return what the aliases mean, those of one command together."""
    return [
        f"{'/'.join(alias for alias, meant in ALIASES.items() if meant == name)} for {name}"
        for name in dict.fromkeys(ALIASES.values())
    ]


def _group_overview(group: str) -> str:
    """Render `csa session --help`."""
    lines = [f"usage: csa {group} COMMAND ...", "", f"{GROUPS[group].capitalize()}.", ""]
    members = [command for command in COMMANDS if command.full_name.startswith(f"{group} ")]
    for purpose, commands in PURPOSES:
        if found := [command for command in commands if command in members]:
            lines += [f"{purpose}:", *_command_rows(found), ""]
    return "\n".join([*lines, f"csa help {group} COMMAND explains a command."]) + "\n"


def _command_rows(commands: Iterable[Command]) -> list[str]:
    return [_row(command.name, command.summary, room=_NAME_WIDTH) for command in commands]


def _row(words: str, what: str, *, room: int) -> str:
    """Return a command with its description after it, or below it on a narrow terminal."""
    line, width = f"  {words:<{room}} {what}", help_width()
    if len(line) <= width:
        return line
    if 2 + len(words) > width:
        words = words.replace(' "', ' \\\n    "')
    return f"  {words}\n{_fill(what, indent=' ' * 6)}"


def _fit(text: str) -> str:
    width = help_width()
    return "\n".join(line if len(line) <= width else _fill(line) for line in text.splitlines()) + "\n"


def _fill(text: str, *, indent: str = "") -> str:
    from textwrap import fill  # noqa: PLC0415  # most terminals are wide enough

    return fill(text, help_width(), initial_indent=indent, subsequent_indent=indent)
