"""The configuration: every setting with its origin, and whether the files are valid."""

from __future__ import annotations

import argparse
import os
import re

from csa.cli.output import print_json, printable, warn
from csa.cli.selecting import open_client
from csa.model.config import combine_layers
from csa.runner.toolbox import check_config
from csa.store.configfile import config_layers

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any


_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_MAX_SHORT = 0xFFFF  # the largest with four digits


def configure_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an object of {value, origin, ignored}")


def execute_show(arguments: argparse.Namespace) -> int:
    """Print every setting, its value and where it comes from.

    The output is a valid config file. Defaults are comments, and so are settings that hold a secret, which is hidden.
    What a project's file asked for and did not get, because it may only tighten limits, is a comment below the setting
    that applies.
    """
    context = open_client().context
    warn(context.config.warnings)
    config, redact_data = context.config, context.redactor.redact_data
    if arguments.json:

        def shown(values: Mapping[str, tuple[Any, str]], key: str) -> dict[str, Any] | None:
            return {"value": redact_data(values[key][0], key), "origin": values[key][1]} if key in values else None

        facts = {
            key: {**(shown(config.values, key) or {}), "ignored": shown(config.ignored, key)} for key in config.values
        }
        print_json({context.redactor.redact(key): each for key, each in facts.items()})
        return 0
    for line in render_settings(config.values, redact_data, config.ignored):
        print(printable(line))
    return 0


def render_settings(
    values: Mapping[str, tuple[Any, str]],
    redact_data: Callable[[Any, str], Any] = lambda value, _: value,
    ignored: Mapping[str, tuple[Any, str]] | None = None,
) -> Iterator[str]:
    """Yield the lines of a config file with these settings: value and origin by dotted key."""
    ignored = ignored or {}
    tables: dict[str, list[str]] = {"": []}
    for key in values:
        tables.setdefault(key.rpartition(".")[0], []).append(key)
    for table, keys in tables.items():
        if table:
            yield ""
            group, _, each = table.partition(".")
            yield f"[{group}.{_render_key(redact_data(each, ''))}]"
        names = [key.rpartition(".")[2] for key in keys]
        width = max(map(len, names))
        for key, name in zip(keys, names, strict=True):
            value, origin = values[key]
            shown = render_value(redact_data(value, key))
            mark = "# " if origin == "default" or shown != render_value(value) else ""
            yield f"{mark}{name:<{width}} = {shown}  # {''.join(map(_escape, origin))}"
            if key in ignored:
                asked, origin = ignored[key]
                why = "ignored: a project's file may only tighten this"
                yield f"# {name:<{width}} = {render_value(asked)}  # {''.join(map(_escape, origin))}; {why}"


def render_value(value: object) -> str:
    """Render a value as TOML, on one line."""
    if isinstance(value, str):
        return _render_text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(render_value, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_render_key(str(key))} = {render_value(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return str(value)


def _render_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _render_text(key)


def _render_text(text: str) -> str:
    inside = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(map(_escape, inside))}"'


def _escape(char: str) -> str:
    """Escape a character that TOML does not allow in a string or comment, or that is invisible there."""
    if char.isprintable():
        return char
    return f"\\u{ord(char):04X}" if ord(char) <= _MAX_SHORT else f"\\U{ord(char):08X}"


def configure_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an object")


def execute_validate(arguments: argparse.Namespace) -> int:
    """Check the config files and the CSA_CONF_* variables. Exits 0 when they are valid, else 6 with the first error."""
    layers = config_layers(open_client().context.config_directory, os.environ)
    config = combine_layers(layers)
    check_config(config)
    warn(config.warnings)
    sources = [layer.origin for layer in layers]
    if arguments.json:
        print_json({"valid": True, "sources": sources})
    else:
        print("valid: " + (", ".join(sources) if sources else "no config files; using the defaults"))
    return 0
