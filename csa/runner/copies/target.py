"""Where a copy goes: its address, what it has of each session, and what is put there.

A target has all of a `put` or nothing. What it has of a session, and how far that is, are put together, so that
whoever is killed at any instant has the rest put again by the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Protocol
from urllib.parse import urlsplit

from csa.errors import CsaError, UsageError
from csa.runner.copies.rows import MessageRow, SessionRow
from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.model.config import Config

Key = tuple[str, str, str]  # host, project and id
CONNECT_S = 10
_ENV = "env:"
_POSTGRES, _REDIS = ("postgresql", "postgres"), ("redis", "rediss")


class DatabaseError(CsaError):
    """A database cannot be reached, or refuses what it is asked for."""

    code = "database"
    exit_code = 7


class ContentRefusedError(DatabaseError):
    """A database takes other sessions, but not what is in one of these."""


class Standing(Struct):
    """How much of a session's transcript a target has, and as of which state of its files."""

    inode: str = ""
    read_bytes: int = 0
    digest: str = ""  # of the last line before that
    turn_at: int = 0  # where the last turn begins
    stamp: str = ""  # empty: it has to be looked at again


class Change(Struct):
    """What is put of a session. If it is `anew`, whatever was there of its transcript is replaced."""

    key: Key
    row: SessionRow
    standing: Standing
    anew: bool
    messages: list[MessageRow]
    events: list[tuple[int, bytes]]  # numbers and lines


class Target(Protocol):
    """A database with a copy. Everything raises DatabaseError; a connection that was lost does not come back."""

    takes: Literal["messages", "events"]

    def standing(self) -> dict[Key, Standing]:
        """Return what there is of all sessions that this csa has put."""

    def put_by_others(self) -> dict[tuple[str, str], str]:
        """Return the sessions, by project and id, that the csa of another host has put as its own; by which csa."""

    def put(self, changes: Iterable[Change]) -> None:
        """Put what has changed of some sessions, each of them once: all of it, or nothing.

        ContentRefusedError if it is what one of them has that cannot be put.
        """

    def forget(self, keys: Iterable[Key]) -> None:
        """Remove sessions."""

    def close(self) -> None:
        """End the connection; harmless when repeated."""


class Address(Struct):
    """The address of a database. The password in it is never shown."""

    url: str

    @property
    def label(self) -> str:
        """What it is called in messages: without a name, a password and options."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def is_postgres(self) -> bool:
        return self.url.partition(":")[0] in _POSTGRES

    def failure(
        self, words: str, *, hint: str | None = None, kind: type[DatabaseError] = DatabaseError
    ) -> DatabaseError:
        """Make the error of a database, without what is secret in its address."""
        said = " ".join(words.split())
        for secret in self._secrets():
            said = said.replace(secret, "[REDACTED]")
        return kind(f"{self.label}: {said.rstrip('.')}.", hint=hint)

    def _secrets(self) -> list[str]:
        from urllib.parse import parse_qsl, unquote  # noqa: PLC0415  # only a failure needs them

        parts = urlsplit(self.url)
        written = parts.netloc.rpartition("@")[0].partition(":")[2]
        options = [value for name, value in parse_qsl(parts.query) if "password" in name]
        found = {self.url, parts.query, written, unquote(written), *options}
        return sorted(filter(None, found), key=len, reverse=True)


def find_address(config: Config, environ: Mapping[str, str], to: str | None) -> Address:
    """Return the address that `--to` means: a URL, `env:NAME`, or a name of [copies].

    Without one, the only of these. UsageError if it is none, or has a password that others can see.
    """
    known = config.copies
    if to is None:
        if len(known) != 1:
            words = f"Name one of {', '.join(known)}." if known else "Where is the copy to be?"
            raise UsageError(
                words, hint="--to postgresql://..., --to redis://..., or --to env:NAME with that in a variable"
            )
        to = next(iter(known))
    is_named = to in known
    url = known.get(to, to)
    if url.startswith(_ENV):
        name = url.removeprefix(_ENV)
        if not (url := environ.get(name, "")):
            raise UsageError(f"The variable {name} is not set.", hint=f"export {name}=postgresql://...")
        is_named = True
    return _checked(Address(url), is_on_command_line=not is_named)


def _checked(address: Address, *, is_on_command_line: bool) -> Address:
    scheme = address.url.partition(":")[0]
    if "://" not in address.url or scheme not in {*_POSTGRES, *_REDIS}:
        shown = f" not {scheme}://" if "://" in address.url else ""
        raise UsageError(
            f"A copy goes to postgresql:// or redis://,{shown}." if shown else "A copy goes to a URL, or to a name.",
            hint="--to postgresql://HOST/DATABASE, --to redis://HOST, --to env:NAME, or a name of [copies]",
        )
    try:
        parts = urlsplit(address.url)
        has_password = bool(parts.password) or "password=" in parts.query
        if "," not in parts.netloc:  # several hosts, as PostgreSQL takes them
            parts.port  # noqa: B018  # which raises if it is none
    except ValueError:
        raise _not_valid() from None
    if "@" in parts.path + parts.query + parts.fragment:  # the password was cut off by one of its characters
        raise _not_valid()
    if has_password and is_on_command_line:
        raise UsageError(
            "A password in an argument can be seen by every user of this machine.",
            hint="--to env:NAME, with the URL in that variable; ~/.pgpass; or [copies.NAME] in your own configuration",
        )
    return address


def _not_valid() -> UsageError:
    hint = "percent-encode what is in its password, and any @ in its options (%40)"
    return UsageError("The URL of the database is not valid.", hint=hint)


def open_target(address: Address, source: str) -> Target:
    """Connect to a database, for the sessions of one csa; DatabaseError, also if the package for it is missing."""
    kind = "postgres" if address.is_postgres else "redis"
    try:
        return _open(kind, address, source)
    except ImportError as error:
        words = f"{address.label} needs a package that is not there ({error.name or error})."
        raise DatabaseError(words, hint=f"pip install 'csa[{kind}]'") from error


def _open(kind: str, address: Address, source: str) -> Target:
    if kind == "postgres":
        from csa.runner.copies.postgres import Postgres  # noqa: PLC0415  # an extra, and slow

        return Postgres(address, source)
    from csa.runner.copies.redisdb import Redis  # noqa: PLC0415  # as above

    return Redis(address, source)
