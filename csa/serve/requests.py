"""What a request says: the path, the query and the body, checked against the table of routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from csa.errors import UsageError
from csa.model.schemas.checking import check_object, check_text, check_value, known_names, with_article
from csa.model.schemas.route import READ, Route
from csa.serve.problems import RequestError
from csa.structs import Struct, field

MAX_BODY_BYTES = 4 << 20
_FLAGS = {"true": True, "1": True, "": True, "false": False, "0": False}


class Asked(Struct, kw_only=True):
    """A request that makes sense. `end` has the addresses of both ends of its connection."""

    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    access: str = READ  # what who asks may do
    headers: Mapping[str, str] = field(default_factory=dict)
    client: tuple[str, int] | None = None
    server: tuple[str, int] | None = None


def read_query(route: Route, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the values of a query; UsageError for what the route does not take."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in route.query:
            raise UsageError(f"There is no parameter '{name}' here.", hint=known_names(name, route.query))
        if name in found:
            raise UsageError(f"{name} is given twice.")
        found[name] = _converted(value, str(route.query[name]["type"]), name)
        check_value(found[name], route.query[name], name)
    for name in route.needs & route.query.keys() - found.keys():
        raise UsageError(f"{name} is missing.")
    return found


def read_headers(route: Route, given: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the headers that a route reads; UsageError for one that is missing."""
    found = {name: given[name] for name in route.headers if name in given}
    for name, value in found.items():
        check_text(value, name)
    for name in route.needs & route.headers.keys() - found.keys():
        raise UsageError(f"The header {name} is missing.")
    return found


def read_body(route: Route, content: bytes, media_type: str) -> dict[str, Any]:
    """Return the object in a body.

    Raises:
        RequestError: it is not JSON.
        UsageError: it is not what the route takes.
    """
    if route.body is None:
        if content:
            raise UsageError("This takes no body.")
        return {}
    if not content and not route.body["required"]:
        return {}
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "usage", "The body must be JSON.", hint="Content-Type: application/json")
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The body is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise UsageError("The body must be a JSON object.")
    check_object(body, route.body)
    return body


def _converted(value: str, kind: str, name: str) -> Any:
    try:
        if kind == "integer":
            return int(value)
        if kind == "boolean":
            return _FLAGS[value.lower()]
    except (ValueError, KeyError):
        raise UsageError(f"{name} is not {with_article(kind)}.") from None
    return value
