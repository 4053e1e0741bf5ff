"""Print the JSON Schema (draft 2020-12) of what a command prints with --json; without a command, list the schemas.

The command may be given as it is typed, with or without `session`, and with the option that decides what is printed:
csa schema "run --dry-run". `error` is what any command prints when it fails, `event` a line of run --stream-json.
"""

from __future__ import annotations

from csa.cli.commands import find_command
from csa.cli.output import print_json
from csa.errors import NotFoundError

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

_NAME_WIDTH = 22
_EVENTS = {"--stream-json", "--events"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="the command, or `error` or `event`")
    parser.add_argument("--json", action="store_true", help="print the list as JSON, too")


def execute(arguments: argparse.Namespace) -> int:
    from csa.model.schemas.table import OUTPUTS, schema_of  # noqa: PLC0415  # `csa completion` loads every command

    if arguments.words:
        import json  # noqa: PLC0415  # as above

        print(json.dumps(schema_of(_chosen(arguments.words, OUTPUTS)), indent=2, ensure_ascii=False))
    elif arguments.json:
        print_json([{"name": name, "about": about} for name, (about, _) in OUTPUTS.items()])
    else:
        for name, (about, _) in OUTPUTS.items():
            print(f"{name:<{_NAME_WIDTH}}  {about}")
    return 0


def _chosen(given: Sequence[str], known: Iterable[str]) -> str:
    words = [word for text in given for word in text.split()]
    name = " ".join(words)
    if name in known:
        return name
    found = schema_name(words[1:] if words[:1] == ["csa"] else words, known)
    if found is None:
        from difflib import get_close_matches  # noqa: PLC0415  # only a typo pays for it

        close = get_close_matches(name, known, n=1)
        hint = f"did you mean 'csa schema {close[0]}'?" if close else "csa schema lists them"
        raise NotFoundError(f"There is no schema '{name}'.", hint=hint)
    return found


def schema_name(words: Sequence[str], known: Iterable[str]) -> str | None:
    """Return the schema of what a command line prints as JSON; None where it is no such command."""
    command, rest = find_command(list(words))
    if command is None:
        return None
    name = command.name
    if name == "logs" or _EVENTS & set(rest):
        return "event"
    given = " ".join(word.replace("=", " ") for word in rest if word != "--") + " "
    variants = [each for each in known if each.startswith(f"{name} --") and f"{each[len(name) + 1 :]} " in given]
    return next(iter([*variants, *(each for each in known if each == name)]), None)
