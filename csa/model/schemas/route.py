"""What a route of the HTTP API is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.schemas.kit import Schema
from csa.structs import Struct, field

ROOT = "/api"  # below it nothing is answered without a token
PREFIX = f"{ROOT}/v1"
MCP = "/mcp"  # where MCP is spoken; its messages are described by the protocol
READ, ACT = "read", "act"  # what a token may do


class Route(Struct, kw_only=True):
    """One route. `answer` names a schema of `csa schema`, or one of OWN; an `item_of` it is one of its array's."""

    method: str
    path: str
    name: str
    about: str
    answer: str
    is_item: bool = False
    access: str = READ
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)  # that it reads, in lower case
    needs: frozenset[str] = frozenset()  # names of the query, or headers, that must be given
    body: Schema | None = None
    status: int = 200
    streams: bool = False  # with `Accept: text/event-stream`, or always if there is no other answer
    prefix: str = PREFIX

    @property
    def place(self) -> str:
        """The whole path."""
        return self.prefix + self.path

    @property
    def parameters(self) -> list[str]:
        """The names in the path."""
        return [part[1:-1].partition(":")[0] for part in self.path.split("/") if part.startswith("{")]
