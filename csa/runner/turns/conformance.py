"""Whether a schema can be used, and whether a value conforms to it. The only importer of jsonschema.

A value is checked in a process of its own, with a limit on its CPU time and memory: `pattern` takes any regular
expression, and some take for ever, as do schemas that double their work at each level or refer to themselves.
Nothing is ever fetched: a `$ref` leads to a place within the schema, or to one of the standard's own schemas.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.result import json_text
from csa.model.structured import MAX_DEPTH, depth_of
from csa.structs import Struct, asdict

MAX_SCHEMA_BYTES = 64 << 10  # it may be part of a command line
CPU_LIMIT_S = 10
_MEMORY_LIMIT_BYTES = 2 << 30
_LONGEST_FAULT = 500
_DATA = frozenset({"enum", "const", "default", "examples"})  # what looks like a reference there is not one


class Fault(Struct):
    """Why an answer is not accepted; `is_of_schema` if it cannot be told whether it conforms."""

    message: str
    is_of_schema: bool = False


def check_schema(schema: Any) -> None:
    """Raise UsageError for what cannot be used as a schema."""
    if not isinstance(schema, Mapping):
        raise UsageError("A schema is a JSON object.", hint='--schema \'{"type": "object", ...}\'')
    if depth_of(schema) > MAX_DEPTH:
        raise UsageError(f"The schema is nested more than {MAX_DEPTH} levels deep.")
    try:
        size = len(json_text(schema).encode())
    except (TypeError, ValueError) as error:
        raise UsageError(f"The schema cannot be written as JSON: {error}.") from error
    if size > MAX_SCHEMA_BYTES:
        raise UsageError(f"The schema is larger than {MAX_SCHEMA_BYTES >> 10} KiB.")
    _check_meaning(dict(schema))


def _check_meaning(schema: dict[str, Any]) -> None:
    from jsonschema import FormatChecker  # noqa: PLC0415  # 0.1 s, and few turns have a schema
    from jsonschema.exceptions import best_match  # noqa: PLC0415  # as above
    from jsonschema.validators import validator_for  # noqa: PLC0415  # as above
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # noqa: PLC0415  # as above
    from referencing.exceptions import Unresolvable  # noqa: PLC0415  # as above
    from referencing.jsonschema import DRAFT202012, specification_with  # noqa: PLC0415  # as above

    dialect = schema.get("$schema")
    known = validator_for(schema, default=None)  # type: ignore[arg-type]
    if dialect is not None and (not isinstance(dialect, str) or known is None):
        raise UsageError(
            f"The schema's $schema is not known: {dialect}.", hint="leave it out, or name a JSON Schema draft"
        )
    kind = _validator_class(schema)
    meta = kind(kind.META_SCHEMA, registry=REGISTRY, format_checker=FormatChecker(["regex"]))
    if found := best_match(meta.iter_errors(schema)):
        raise UsageError(f"The schema is not valid: {_cut(f'{found.json_path}: {found.message}')}")
    specification = specification_with(dialect) if dialect else DRAFT202012
    resolver = REGISTRY.resolver_with_root(specification.create_resource(schema))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError) as error:
            raise UsageError(
                f"The schema refers to {reference}, which is not a part of it.",
                hint='csa fetches nothing: put it under "$defs", and refer to it by "#/$defs/..."',
            ) from error


def _references(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        place = waiting.pop()
        if isinstance(place, Mapping):
            yield from (place[key] for key in ("$ref", "$dynamicRef") if isinstance(place.get(key), str))
            waiting += (value for key, value in place.items() if key not in _DATA)
        elif isinstance(place, list):
            waiting += place


def first_fault(schema: Mapping[str, Any], value: Any) -> Fault | None:
    """Return how a value does not conform to a schema that was checked; None if it does. It blocks, for 0.2 s."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(CPU_LIMIT_S)],
            input=json_text([schema, value]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for csa, which records what was answered
            timeout=3 * CPU_LIMIT_S,
            check=False,
        )
        told = json.loads(done.stdout)
        return Fault(**told) if told else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        what = f"checking it took more than {CPU_LIMIT_S} s of CPU time, or failed"
        return Fault(f"{what} ({error})" if isinstance(error, OSError) else what, is_of_schema=True)


def _find_fault(schema: dict[str, Any], value: Any) -> Fault | None:
    from jsonschema.exceptions import best_match  # noqa: PLC0415  # see _check_meaning
    from jsonschema_specifications import REGISTRY  # noqa: PLC0415  # as above

    try:
        found = best_match(_validator_class(schema)(schema, registry=REGISTRY).iter_errors(value))
    except RecursionError:
        return Fault("the schema refers to itself without an end", is_of_schema=True)
    except Exception as error:  # noqa: BLE001  # such as a pattern that Python does not read, anywhere in the library
        return Fault(_cut(f"the schema cannot be applied: {error}"), is_of_schema=True)
    return Fault(_cut(f"{found.json_path}: {found.message}")) if found else None


def _validator_class(schema: dict[str, Any]) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for  # noqa: PLC0415  # see _check_meaning

    return validator_for(schema, default=Draft202012Validator)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_FAULT else f"{text[: _LONGEST_FAULT // 2]} … {text[-_LONGEST_FAULT // 2 :]}"


def main() -> None:
    """Check what stdin names, a schema and a value; print the fault, or null."""
    for kind, most in (
        (resource.RLIMIT_CPU, int(sys.argv[1])),
        (resource.RLIMIT_AS, _MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    schema, value = json.loads(sys.stdin.buffer.read())
    fault = _find_fault(schema, value)
    sys.stdout.write(json.dumps(asdict(fault) if fault else None))


if __name__ == "__main__":
    main()
