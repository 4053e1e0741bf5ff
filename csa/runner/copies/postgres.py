"""A copy in PostgreSQL: the extra `csa[postgres]`. The only importer of psycopg, and imported late.

What has changed comes by COPY into temporary tables, and from there into the tables that others read, in one
transaction. The tables are made, and changed, by the numbered files in `migrations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any, Literal

import psycopg
from psycopg import sql

from csa.errors import BusyError
from csa.runner.copies.rows import MESSAGE_COLUMNS, SESSION_COLUMNS, clean, values_of
from csa.runner.copies.target import CONNECT_S, Address, Change, ContentRefusedError, DatabaseError, Key, Standing
from csa.structs import asdict

_POOLED = "name PostgreSQL itself, or a pooler that pools sessions, not transactions"
_TRIES = 3
OLDEST = 150000  # whose views can have the rights of who asks
_LOCK_S = 5  # in which the connection of a killed one ends
_BLOCK = 1 << 16
_STANDING = ("inode", "read_bytes", "digest", "turn_at", "stamp")
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_OPTIONS = {
    "connect_timeout": CONNECT_S,
    "application_name": "csa mirror",
    "tcp_user_timeout": 30000,
    "client_encoding": "UTF8",  # whatever PGCLIENTENCODING says
    "prepare_threshold": None,  # a pooler may not know what was prepared
}
_SETTINGS = {
    # A batch takes its time, and a watch may have nothing to say for hours.
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    # With which the server notices soon that nobody is there any more, and lets go of the lock.
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "default_transaction_isolation": "read committed",
    "search_path": "pg_catalog",  # nobody else's functions, in none of the statements here
}
_SET = "SELECT set_config(name, %s, false) FROM pg_catalog.pg_settings WHERE name = %s"  # if this version has it
_REFUSED = {"22", "23", "54"}  # classes of errors of what is to be put: data, constraints, limits
_NOT_A_CHARACTER = "22021"
_HINTS: dict[type[Exception], str] = {
    psycopg.errors.InsufficientPrivilege: "does its role have CREATE on the database? docs/copies.md",
    psycopg.errors.ReadOnlySqlTransaction: "name the primary: this one is a replica, or set to be read only",
    # Temporary tables, and with them the lock, belong to a connection.
    psycopg.errors.UndefinedTable: _POOLED,
    psycopg.errors.DuplicateTable: _POOLED,
    psycopg.errors.DiskFull: "the disk of the database is full; what was copied stays",
}
_KEY = "s.source = i.source AND s.host = i.host AND s.project = i.project AND s.id = i.id"


def _names(columns: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in columns)


def _upsert(columns: Sequence[str], key: str) -> str:
    """Return the end of a statement that inserts, or changes what is different."""
    sets = ", ".join(f'"{name}" = excluded."{name}"' for name in columns)
    return (
        f"ON CONFLICT ({key}) DO UPDATE SET {sets} "
        f"WHERE ({_names(columns, 't.')}) IS DISTINCT FROM ({_names(columns, 'excluded.')})"
    )


_INCOMING_SESSION = (
    "CREATE TEMPORARY TABLE incoming_session ON COMMIT DELETE ROWS AS "
    f"SELECT source, {_names(SESSION_COLUMNS)}, {_names(_STANDING)}, false AS anew, 0::bigint AS n "
    "FROM csa.session, csa.progress WITH NO DATA"
)
_INCOMING_MESSAGE = (
    "CREATE TEMPORARY TABLE incoming_message ON COMMIT DELETE ROWS AS "
    f"SELECT 0::bigint AS n, {_names(MESSAGE_COLUMNS)} FROM csa.message WITH NO DATA"
)
_PUT_SESSIONS = (
    f"INSERT INTO csa.session AS t (source, {_names(SESSION_COLUMNS)}) "
    f"SELECT source, {_names(SESSION_COLUMNS)} FROM incoming_session "
) + _upsert([name for name in SESSION_COLUMNS if name not in {"host", "project", "id"}], "source, host, project, id")
_DROP_OLD = (
    f"DELETE FROM csa.message m USING incoming_session i JOIN csa.session s ON {_KEY} "
    "WHERE i.anew AND m.session = s.key"
)
_PUT_MESSAGES = (
    f"INSERT INTO csa.message AS t (session, {_names(MESSAGE_COLUMNS)}) "
    f"SELECT s.key, {_names(MESSAGE_COLUMNS, 'm.')} FROM incoming_message m JOIN incoming_session i USING (n) "
    f"JOIN csa.session s ON {_KEY} "
) + _upsert([name for name in MESSAGE_COLUMNS if name != "seq"], "session, seq")
_PUT_PROGRESS = (
    f"INSERT INTO csa.progress AS t (session, {_names(_STANDING)}) "
    f"SELECT s.key, {_names(_STANDING, 'i.')} FROM incoming_session i JOIN csa.session s ON {_KEY} "
) + _upsert(_STANDING, "session")
_KNOWN = (
    f"SELECT host, project, id, {_names(_STANDING)} FROM csa.session "
    "JOIN csa.progress ON session = key WHERE source = %s"
)
_OF_OTHERS = "SELECT project, id, source FROM csa.session WHERE source <> %s AND starts_with(source, host || ':')"
_FORGET = "DELETE FROM csa.session WHERE source = %s AND host = %s AND project = %s AND id = %s"


class Postgres:
    """A database with the tables of a copy, for the sessions of one csa: nobody else puts these meanwhile."""

    takes: Literal["messages", "events"] = "messages"

    def __init__(self, address: Address, source: str) -> None:
        self._address, self._source = address, clean(source)
        with self._explaining("it cannot be reached"):
            self._connection = psycopg.connect(address.url, autocommit=True, **_options(address.url))
        try:
            with self._explaining():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def standing(self) -> dict[Key, Standing]:
        with self._explaining():
            rows = self._connection.execute(_KNOWN, (self._source,)).fetchall()
        return {(host, project, session_id): Standing(*more) for host, project, session_id, *more in rows}

    def put_by_others(self) -> dict[tuple[str, str], str]:
        with self._explaining():
            rows = self._connection.execute(_OF_OTHERS, (self._source,)).fetchall()
        return {(project, session_id): source for project, session_id, source in rows}

    def put(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        with self._explaining(), self._connection.transaction():
            columns = (*SESSION_COLUMNS, *_STANDING, "anew", "n")
            self._copy("incoming_session", ("source", *columns), self._session_lines(changes))
            self._connection.execute(_PUT_SESSIONS)
            if any(change.anew for change in changes):
                self._connection.execute(_DROP_OLD)
            if any(change.messages for change in changes):
                lines = ((n, *values_of(row)) for n, change in enumerate(changes) for row in change.messages)
                self._copy("incoming_message", ("n", *MESSAGE_COLUMNS), lines)
                self._connection.execute(_PUT_MESSAGES)
            self._connection.execute(_PUT_PROGRESS)

    def forget(self, keys: Iterable[Key]) -> None:
        with self._explaining(), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(_FORGET, [(self._source, *key) for key in keys])

    def close(self) -> None:
        self._connection.close()

    def _session_lines(self, changes: list[Change]) -> Iterator[Iterable[Any]]:
        for n, change in enumerate(changes):
            yield self._source, *values_of(change.row), *asdict(change.standing).values(), change.anew, n

    def _copy(self, table: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
        words = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with self._connection.cursor() as cursor, cursor.copy(words) as copy:
            held: list[str] = []
            size = 0
            for row in rows:
                held.append("\t".join(map(_copied, row)))
                size += len(held[-1])
                if size > _BLOCK:
                    copy.write("\n".join([*held, ""]))
                    held, size = [], 0
            if held:
                copy.write("\n".join([*held, ""]))

    def _prepare(self) -> None:
        """Take the lock of this csa, and bring the tables up to date."""
        connection = self._connection
        if (version := connection.info.server_version) < OLDEST:
            raise self._address.failure(f"PostgreSQL {version // 10000} is too old", hint="15 or newer is needed")
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            hint = "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            raise self._address.failure(f"its encoding is {encoding}, which does not have every character", hint=hint)
        self._refuse_pooling()
        connection.execute("SET client_min_messages = warning")
        for name, value in _SETTINGS.items():
            connection.execute(_SET, (value, name))
        connection.execute(f"SET lock_timeout = '{_LOCK_S}s'")
        try:
            connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"csa {self._source}",))
        except psycopg.errors.LockNotAvailable:
            raise BusyError(
                f"Another csa mirror copies these sessions to {self._address.label}.", hint="one is enough"
            ) from None
        migrate(connection, self._address.failure)
        connection.execute("SET lock_timeout = 0")
        for words in (_INCOMING_SESSION, _INCOMING_MESSAGE):
            connection.execute(words)  # type: ignore[arg-type, unused-ignore]  # not a literal

    def _refuse_pooling(self) -> None:
        """Refuse a pooler that gives a connection away after each transaction, before others have our settings."""
        words, own = "SELECT pg_backend_pid()", self._connection
        if own.execute(words).fetchone() == (own.info.backend_pid,):  # there is none
            return
        for _ in range(_TRIES):
            before = own.execute(words).fetchone()
            with psycopg.connect(self._address.url, autocommit=True, **_options(self._address.url)) as other:
                if other.execute(words).fetchone() == before:
                    raise self._address.failure("a pooler gives each transaction another connection", hint=_POOLED)

    @contextmanager
    def _explaining(self, what: str = "") -> Iterator[None]:
        """Make a DatabaseError of whatever psycopg raises, without what is secret in it."""
        try:
            yield
        except (psycopg.Error, UnicodeError) as error:  # as of a host that can be none
            said = str(error).strip().partition("\n")[0]
            kind = ContentRefusedError if _code_of(error)[:2] in _REFUSED else DatabaseError
            words = f"{what}: {said}" if what else said
            raise self._address.failure(words, hint=_HINTS.get(type(error)), kind=kind) from None


def _options(url: str) -> dict[str, Any]:
    """Return what the URL does not say itself."""
    return {name: value for name, value in _OPTIONS.items() if f"{name}=" not in url}


def _code_of(error: Exception) -> str:
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else _NOT_A_CHARACTER


def _copied(value: Any) -> str:
    """Render a value as COPY reads it."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def migrations() -> list[tuple[int, str]]:
    """Return the files that make the tables, by their numbers."""
    found = (each for each in (files(__package__) / "migrations").iterdir() if each.name.endswith(".sql"))
    return sorted((int(each.name.partition("_")[0]), each.read_text("utf-8")) for each in found)


def migrate(
    connection: psycopg.Connection[Any], failure: Callable[..., DatabaseError], *, up_to: int | None = None
) -> None:
    """Bring the tables up to date, each step in a transaction of its own; DatabaseError if a newer csa has done so."""
    known = migrations()
    connection.execute("SELECT pg_advisory_lock(hashtextextended('csa migrate', 0))")
    try:
        if connection.execute("SELECT to_regclass('csa.migration')").fetchone() == (None,):
            with connection.transaction():
                connection.execute("CREATE SCHEMA IF NOT EXISTS csa")
                connection.execute(
                    "CREATE TABLE csa.migration (version bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
                )
        done = {version for (version,) in connection.execute("SELECT version FROM csa.migration").fetchall()}
        if newer := max(done, default=0) > known[-1][0]:
            raise failure(f"a newer csa has made its tables (version {newer})", hint="update csa")
        for version, words in known:
            if version not in done and (up_to is None or version <= up_to):
                with connection.transaction():
                    connection.execute(words)  # type: ignore[arg-type, unused-ignore]  # not a literal
                    connection.execute("INSERT INTO csa.migration (version) VALUES (%s)", (version,))
    finally:
        connection.execute("SELECT pg_advisory_unlock(hashtextextended('csa migrate', 0))")
