"""Who may ask, before anything is routed: the Host first, then the Origin, then the token. No cookies are read or set.

A page of another origin cannot get past this: with a name of its own for our address (DNS rebinding) the Host is not
ours, from its own place the Origin is not, and the token is not sent by a browser on its own.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from csa.errors import CsaError, StateError
from csa.model.schemas.route import ACT, MCP, READ
from csa.serve.problems import RequestError, status_of
from csa.serve.tokens import Token, Tokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    b"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TOKEN = "csa.token"  # noqa: S105  # in the scope of a request that may be answered
_HEADERS = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
_OPEN = ("/", "/page/")  # the page's files, which say nothing of anybody; everything else needs a token
_SAFE = {"GET", "HEAD"}
_KEYS = (b"aomi-app-key", b"x-api-key")  # where clients of the chat API have theirs; no browser sends one on its own
_CREDENTIALS = (b"authorization", *_KEYS)
_ONCE = (b"host", b"origin", *_CREDENTIALS, b"content-type", b"content-length", b"x-session-id")


class Guard:
    """Passes on requests that may be answered; with the token in the scope."""

    def __init__(self, app: Application, tokens: Tokens, hosts: frozenset[str], *, read_only: bool) -> None:
        self._app = app
        self._tokens = tokens
        self._hosts = hosts  # names, in lower case; with a port, only on that one
        self._read_only = read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        guarded = _with_headers(send)
        if scope["type"] != "http":
            return
        try:
            self._check(scope)
        except CsaError as error:
            await send_error(error, guarded)
            return
        await self._app(scope, receive, guarded)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = {}
        doubled = set[bytes]()
        for name, value in scope["headers"]:
            doubled |= {name} & headers.keys()
            headers[name] = value
        host = headers.get(b"host", b"").decode("latin-1")
        if b"host" in doubled or not self._is_ours(host, scope):
            raise RequestError(421, "misdirected", "This Host is not served.", hint="csa serve --allow-host NAME")
        origin = headers.get(b"origin")
        is_ours = origin is None or _is_same(origin.decode("latin-1"), host, scope["scheme"])
        if b"origin" in doubled or not is_ours:
            raise RequestError(403, "origin", "Pages of another origin may not ask.")
        if scope["path"] == _OPEN[0] or scope["path"].startswith(_OPEN[1]):
            return
        token = None if doubled.intersection(_CREDENTIALS) else self._find(_secret(headers))
        if token is None:
            raise RequestError(401, "unauthorized", "A token is needed.", hint="csa serve url prints one")
        if doubled.intersection(_ONCE):
            raise RequestError(400, "usage", "A header is given twice.")
        if b"transfer-encoding" in headers and b"content-length" in headers:  # a proxy may have read the other one
            raise RequestError(400, "usage", "The body has two lengths.", headers={"connection": "close"})
        scope["csa.access"] = READ if self._read_only else token.level
        is_safe = scope["method"] in _SAFE or scope["path"] == MCP  # whose messages all are posted: the tools look
        if not is_safe and scope["csa.access"] != ACT:
            raise only_reads(token)
        scope[TOKEN] = token

    def _find(self, secret: bytes) -> Token | None:
        try:
            return self._tokens.find(secret)
        except StateError:  # who asks may be anybody: what is wrong, and where, is not for him
            raise RequestError(500, "error", "The tokens cannot be read.", hint="csa serve token says why") from None

    def _is_ours(self, host: str, scope: Scope) -> bool:
        """Say whether a Host is a name that is served, or the very address that was connected to: never a name's."""
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
        name = name.strip().lower().rstrip(".")
        if name in self._hosts or f"{name}:{port}" in self._hosts:
            return True
        server = scope.get("server") or ("", None)
        try:
            address = ipaddress.ip_address(name.strip("[]"))
            own = ipaddress.ip_address(str(server[0]).partition("%")[0])
            known = {own, getattr(own, "ipv4_mapped", None)}  # a socket for both kinds has IPv4 addresses as IPv6
            return address in known and (not port or int(port) == server[1])
        except ValueError:
            return False

    def still_knows(self, token: Token) -> bool:
        """Say whether a token was not revoked meanwhile: for answers that take long."""
        try:
            return any(each.digest == token.digest for each in self._tokens.all())
        except StateError:
            return False


def only_reads(token: Token) -> RequestError:
    """Return why a request that would change something is refused."""
    whose = "This token is" if token.level != ACT else "The server is"
    return RequestError(403, "refused", f"{whose} for reading only.")


def _secret(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the token that a request comes with: `Authorization` comes before the keys of the chat API's clients."""
    if b"authorization" not in headers:
        return next((headers[name] for name in _KEYS if name in headers), b"")
    words = headers[b"authorization"].split(b" ")
    return words[1] if len(words) == 2 and words[0].lower() == b"bearer" else b""  # noqa: PLR2004


def _is_same(origin: str, host: str, scheme: str) -> bool:
    """Say whether an origin is ours: with TLS of our own only its https, else also that of a proxy with TLS."""
    own, _, place = origin.partition("://")
    return own in {scheme, "https"} and place.lower() == host.lower()


def _with_headers(send: Send) -> Send:
    async def out(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", []))
            names = {name for name, _ in given}
            more = [(b"cache-control", b"no-store")] if b"cache-control" not in names else []
            message["headers"] = [*given, *_HEADERS, *more]
        await send(message)

    return out


async def send_error(error: CsaError, send: Send) -> None:
    """Answer with an error object."""
    status = status_of(error)
    body = json.dumps({"error": error.to_json()}, ensure_ascii=False).encode("utf-8", "backslashreplace")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if isinstance(error, RequestError):
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []  # noqa: PLR2004
    headers += [(b"connection", b"close")] if status in {408, 413} else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
