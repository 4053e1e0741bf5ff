"""Templates: settings and texts of a run under a name, which csa run takes with --template or --as."""

from __future__ import annotations

import argparse
import json
import sys

from csa.cli.output import Style, cut, one_line, print_json, printable, tell, terminal_width, warn
from csa.cli.selecting import find, open_client
from csa.cli.views.table import Column, Table, columns_for
from csa.errors import ConfigError, UsageError
from csa.model.permission import Permission
from csa.model.redaction import MARK
from csa.model.template import KEYS, Template
from csa.runner.templates import (
    Listed,
    apply_template,
    delete_template,
    find_template,
    list_templates,
    save_template,
    values_of,
)

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any

    from csa.runner.context import Context
    from csa.runner.request import RunRequest

_MODEL_FROM, _PLACE_FROM = 60, 70  # columns
_FILES = ("system", "opening", "prompt")  # texts that may come from a file


def chosen_template(context: Context, arguments: argparse.Namespace) -> Template | None:
    """Return the template that `csa run` is to use, with --template or --as; None without."""
    name = arguments.specialist if arguments.template is None else arguments.template
    if name is None:
        if arguments.variables:
            raise UsageError("--var is for the variables of a template.", hint="--template NAME")
        return None
    template = find_template(context, name)
    if arguments.specialist is not None and not template.is_specialist:
        raise UsageError(
            f"Template {name} names no tool, so it is no specialist.", hint=f"csa run --template {name}, or add a tool"
        )
    if template.is_project and not arguments.quiet:
        limit = "; it can lower the permission, not raise it" if "permission" in template.values else ""
        tell("csa", f"template {name} is the project's: {template.place}{limit}")
    return template


def made_from(template: Template, request: RunRequest, words: list[str] | None) -> RunRequest:
    """Return the request of `csa run` with a template; `words` are its --var options."""
    variables: dict[str, str] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"--var takes NAME=VALUE, not '{word}'.", hint=f"--var {word}=...")
        variables[name] = value
    return apply_template(template, request, variables)


def configure_save(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("-s", "--session", metavar="SESSION", help="take what this session is set to")
    values = parser.add_argument_group("what it says; these come before what a session is set to")
    values.add_argument("-t", "--tool", metavar="T", help=KEYS["tool"].meaning.replace("`", ""))
    values.add_argument("-m", "--model", metavar="M", help=KEYS["model"].meaning)
    values.add_argument("--effort", metavar="E", help=KEYS["effort"].meaning)
    values.add_argument("--worktree", nargs="?", const="", metavar="NAME", help=KEYS["worktree"].meaning)
    levels = [level.value for level in Permission]
    values.add_argument("--permission", choices=levels, help=KEYS["permission"].meaning)
    for key in ("description", *_FILES):
        values.add_argument(f"--{key}", metavar="TEXT", help=KEYS[key].meaning.replace("`", ""))
    for key in _FILES:
        values.add_argument(f"--{key}-file", metavar="FILE", help=f"the text of --{key}, from a file")
    values.add_argument("--schema", metavar="FILE", help="a JSON Schema that answers must conform to: a file, or JSON")
    for key in ("context_window", "context_tokens"):
        values.add_argument(f"--{key.replace('_', '-')}", type=int, metavar="N", help=KEYS[key].meaning)
    parser.add_argument("--force", action="store_true", help="replace a template of that name")
    _add_place(parser)


def execute_save(arguments: argparse.Namespace) -> int:
    """Save a template: what a session is set to, what the options say, or both.

    From a session come its tool, model, effort, permission and context window, and the system text of its last turn.
    Texts may have variables, {{file}} for csa run --var file=...; write {{{{file}}}} for the characters {{file}}. In
    the prompt, {{prompt}} is where the prompt of csa run goes; without it, that comes after the template's.

    The template is a file: templates/NAME.toml in ~/.config/csa, or with --project .csa/templates/NAME.toml of
    the project. An agent cannot save yours.
    """
    client = open_client()
    values = values_of(find(client, arguments.session)) if arguments.session is not None else {}
    values |= {key: value for key in KEYS if (value := _given(arguments, key)) is not None}
    values = {key: value for key, value in values.items() if value is not None}
    if not values:
        raise UsageError("A template says something.", hint=f"csa template save {arguments.template} -s SESSION")
    try:
        template = save_template(
            client.context, arguments.template, values, is_project=arguments.project, replaces=arguments.force
        )
    except ConfigError as error:
        raise UsageError(error.message, hint=error.hint) from error
    hidden = [key for key, value in template.values.items() if isinstance(value, str) and MARK in value]
    warn(f"'{key}' has {MARK} in place of a secret, which csa has not stored" for key in hidden)
    if arguments.json:
        print_json(_to_json(Listed(template.name, template.place, template.is_project, template, None)))
    else:
        print(printable(f"saved {template.name}: {template.place}"))
    return 0


def _given(arguments: argparse.Namespace, key: str) -> Any:
    from csa.cli.run_request import read_file, read_schema  # noqa: PLC0415  # showing templates needs none of it

    if key == "schema":
        found = read_schema(arguments.schema)
        return json.dumps(found, indent=2, ensure_ascii=False) if found else None
    if key == "worktree":
        return True if arguments.worktree == "" else arguments.worktree
    name = getattr(arguments, f"{key}_file", None)
    value = getattr(arguments, key)
    if name is not None and value is not None:
        raise UsageError(f"--{key} and --{key}-file cannot be combined.")
    return value if name is None else read_file(f"--{key}-file", name)


def configure_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an array of objects")


def execute_list(arguments: argparse.Namespace) -> int:
    """List the templates: yours, and those of the project.

    Of two with the same name yours is used; the project's is then marked hidden.
    """
    found = list_templates(open_client().context)
    if arguments.json:
        print_json([_to_json(each) for each in found])
    elif found:
        _print_table(found)
    else:
        print("No templates found")
        tell("hint", "csa template save NAME -s SESSION")
    return 0


def _print_table(found: list[Listed]) -> None:
    style, width = Style(sys.stdout), terminal_width(sys.stdout)

    def cell(key: str) -> Any:
        return lambda each: one_line(str(each.template.values.get(key, "-"))) if each.template else "-"

    columns = columns_for(
        width,
        (
            Column("NAME", lambda each: each.name),
            Column("TOOL", cell("tool")),
            Column("MODEL", cell("model"), since=_MODEL_FROM),
            Column("PERMISSION", cell("permission"), since=_MODEL_FROM),
            Column("WHOSE", _whose, since=_PLACE_FROM),
        ),
    )
    table = Table(columns, found)
    room = None if width is None else max(0, width - table.width)
    print(style(f"{table.head()}{cut('DESCRIPTION', room)}".rstrip(), "dim"))
    for each in found:
        print(f"{table.line(each)}{cut(one_line(_about(each)), room)}".rstrip())


def _about(each: Listed) -> str:
    """Return the description, or what is wrong with the file."""
    if each.fault:
        return each.fault.message.removeprefix(f"{each.place}: ")
    return str(each.template.values.get("description", "")) if each.template else ""


def _whose(each: Listed) -> str:
    return "project, hidden" if each.is_hidden else "project" if each.is_project else "yours"


def configure_show(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _add_place(parser, otherwise="yours, or else the project's")


def execute_show(arguments: argparse.Namespace) -> int:
    """Show what a template says, as TOML, where its file is, and which variables it needs."""
    template = find_template(open_client().context, arguments.template, is_project=arguments.project or None)
    if arguments.json:
        print_json(_to_json(Listed(template.name, template.place, template.is_project, template, None)))
        return 0
    from csa.store.tomlfile import render_texts  # noqa: PLC0415  # nothing else here needs it

    whose = "the project's: it can lower the permission, not raise it" if template.is_project else "yours"
    print(printable(f"# {one_line(template.place)} ({whose})"))
    print(printable(render_texts(template.values).decode()), end="")
    if template.variables:
        print(f"# variables: {', '.join(template.variables)}")
    return 0


def configure_delete(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    _add_place(parser)


def execute_delete(arguments: argparse.Namespace) -> int:
    """Delete a template: its file. Sessions that were run with it stay as they are."""
    place = delete_template(open_client().context, arguments.template, is_project=arguments.project)
    if arguments.json:
        print_json({"template": arguments.template, "place": str(place)})
    else:
        print(printable(f"deleted {place}"))
    return 0


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("template", metavar="NAME", help="the template's name")


def _add_place(parser: argparse.ArgumentParser, otherwise: str = "yours") -> None:
    parser.add_argument("--project", action="store_true", help=f"the project's (default: {otherwise})")
    parser.add_argument("--json", action="store_true", help="print an object")


def _to_json(each: Listed) -> dict[str, Any]:
    values = each.template.values if each.template else {}
    return {
        "template": each.name,
        "place": each.place,
        "whose": "project" if each.is_project else "user",
        "hidden": each.is_hidden,
        "variables": each.template.variables if each.template else [],
        **{key: values.get(key) for key in KEYS},
        "fault": each.fault.to_json() if each.fault else None,
    }
