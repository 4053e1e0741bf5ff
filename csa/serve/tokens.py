"""The tokens of a state root's server, in `.serve/tokens.json` (0600): named, for reading or acting, revocable.

Of all but `local`, which `csa serve url` prints, only a hash is kept. They begin with `sk-`, so that the redactor knows
them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csa.errors import NotFoundError, StateError, UsageError
from csa.model.schemas.route import ACT, READ
from csa.model.state import format_time
from csa.paths import SERVE
from csa.store.atomic import make_private_directory, read_regular, write_atomically
from csa.store.locks import acquire_lock
from csa.structs import Struct

LOCAL = "local"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_MARK = "sk-csa-"


class Token(Struct, kw_only=True):
    """One token: `secret` is known of the local one only."""

    name: str
    level: str
    digest: str
    created_at: str
    secret: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `csa serve token --json` prints of it."""
        return {"name": self.name, "level": self.level, "created_at": self.created_at}


class Tokens:
    """The tokens of a state root. Reads the file again when it has changed."""

    def __init__(self, root: Path) -> None:
        self.directory = root / SERVE
        self._path = self.directory / "tokens.json"
        self._seen: tuple[int, int] | None = None
        self._known: list[Token] = []

    def find(self, secret: bytes) -> Token | None:
        """Return the token that was given, compared in constant time; None if there is no such token."""
        digest = hashlib.sha256(secret).hexdigest()
        found = [token for token in self.all() if hmac.compare_digest(token.digest, digest)]
        return found[0] if found else None

    def all(self) -> list[Token]:
        """Return all tokens; StateError if their file cannot be read."""
        try:
            known = os.stat(self._path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError.unreadable(self._path, error) from error
        if (known.st_mtime_ns, known.st_ino) != self._seen:
            self._known = _parse(self._path)
            self._seen = known.st_mtime_ns, known.st_ino
        return self._known

    def local(self) -> str:
        """Return the secret of the local token, which may act; it is made on first use."""
        found = next((token.secret for token in self.all() if token.name == LOCAL and token.secret), None)
        return found or self.add(LOCAL, ACT)

    def add(self, name: str, level: str) -> str:
        """Make a token; return its secret, which is not kept. UsageError if there is one with that name."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"'{name}' is not a name for a token.", hint="lower-case letters, digits and dashes")
        assert level in {READ, ACT}
        secret = _MARK + secrets.token_urlsafe(32)
        with self._change() as tokens:
            if any(token.name == name for token in tokens):
                raise UsageError(f"A token named '{name}' exists.", hint=f"csa serve token {name} --revoke")
            digest = hashlib.sha256(secret.encode()).hexdigest()
            kept = secret if name == LOCAL else None
            tokens.append(
                Token(name=name, level=level, digest=digest, created_at=format_time(datetime.now(UTC)), secret=kept)
            )
        return secret

    def revoke(self, name: str) -> None:
        """Remove a token; NotFoundError if there is none with that name."""
        with self._change() as tokens:
            kept = [token for token in tokens if token.name != name]
            if len(kept) == len(tokens):
                raise NotFoundError(f"There is no token named '{name}'.", hint="csa serve token")
            tokens[:] = kept

    def _change(self) -> _Change:
        try:
            make_private_directory(self.directory)
        except OSError as error:
            raise StateError.denied(self.directory, "cannot be made", error) from error
        return _Change(self, self._path)


class _Change:
    """The tokens under a lock; saved at the end of the block, unless it fails."""

    def __init__(self, tokens: Tokens, path: Path) -> None:
        self._tokens = tokens
        self._path = path

    def __enter__(self) -> list[Token]:
        self._lock = acquire_lock(self._path.with_name("tokens.lock"), wait=True)
        try:
            self._changed = list(self._tokens.all())
        except BaseException:
            self._lock.close()
            raise
        return self._changed

    def __exit__(self, kind: object, *_: object) -> None:
        with self._lock:
            if kind is None:
                content = {"tokens": [vars_of(token) for token in self._changed]}
                try:
                    write_atomically(self._path, json.dumps(content, indent=1).encode())
                except OSError as error:
                    raise StateError.denied(self._path, "cannot be written", error) from error


def vars_of(token: Token) -> dict[str, Any]:
    """Return what is kept of a token."""
    known = {**token.to_json(), "sha256": token.digest}
    return {**known, "secret": token.secret} if token.secret else known


def _parse(path: Path) -> list[Token]:
    try:
        return [
            Token(
                name=str(each["name"]),
                level=READ if each["level"] != ACT else ACT,
                digest=bytes.fromhex(each["sha256"]).hex(),
                created_at=str(each["created_at"]),
                secret=str(each["secret"]) if "secret" in each else None,
            )
            for each in json.loads(read_regular(path))["tokens"]
        ]
    except OSError as error:
        raise StateError.unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError(path, "is not a file of tokens", hint=f"rm {path}; csa serve makes new ones") from error
