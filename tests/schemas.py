"""Holds what csa prints as JSON against the schemas that it prints itself."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from csa.cli.commands import _split_ahead
from csa.cli.schema import schema_name
from csa.model.schemas.table import OUTPUTS, schema_of


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema_of(name), format_checker=Draft202012Validator.FORMAT_CHECKER)


def check_events(events: Iterable[object], *, most: int = 500) -> None:
    """Fail where one of the first events is not what the schema says: the same types follow."""
    for event in islice(events, most):
        check("event", event)


def check_data(kind: str, data: object) -> None:
    """Fail where the data of a type of event is not what the schema says."""
    check("event", {"v": 1, "seq": 1, "ts": "2026-01-01T00:00:00.000Z", "type": kind, "turn": 1, "data": data})


def check(name: str, value: object) -> None:
    """Fail where a value is not what a schema says."""
    if fault := best_match(_validator(name).iter_errors(value)):
        raise AssertionError(f"csa schema {name!r}, at {fault.json_path}: {fault.message}")


def check_output(words: Sequence[str], value: Any) -> None:
    """Fail where a command's output, or its error, is not what the schema says. Other programs' are not looked at."""
    if not words:
        return
    if isinstance(value, dict) and value.keys() == {"error"}:
        check("error", value)
        return
    name = schema_name(_split_ahead(list(words))[1], OUTPUTS)
    assert name is not None, f"no schema for {words}"
    check(name, value)
