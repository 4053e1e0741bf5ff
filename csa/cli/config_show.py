"""Print each setting with its value and where it comes from."""

from __future__ import annotations

from csa.cli.output import print_json, printable
from csa.cli.selecting import open_client

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an object of {value, origin}")


def execute(arguments: argparse.Namespace) -> int:
    client = open_client(arguments)
    values = client.setting.redactor.redact_data({k: v for k, (v, _) in client.setting.config.values.items()})
    origins = {key: origin for key, (_, origin) in client.setting.config.values.items()}
    if arguments.json:
        print_json({key: {"value": value, "origin": origins[key]} for key, value in values.items()})
        return 0
    width = max(len(key) for key in values)
    for key, value in values.items():
        print(f"{key:<{width}} = {printable(_render(value))}  # {origins[key]}")
    return 0


def _render(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_render(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_render(item)}" for key, item in value.items()) + " }"
    return str(value)
