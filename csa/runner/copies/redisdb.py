"""A copy in Redis: the extra `csa[redis]`. The only importer of redis-py, and imported late.

For each session a hash `csa:session:NAME` and a stream `csa:events:NAME`, whose entries have the numbers of the events
as their ids; their names, `HOST:PROJECT:ID`, are in the sorted set `csa:sessions`, by when they were used last. Whoever
wants to know what changes subscribes to `csa:changes`.

A transaction of Redis does what it can, also when one of its commands fails. So what a copy stands at is put after it:
whoever is killed in between has the same put again, and an event whose number is there already is not added twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

import redis

from csa.errors import BusyError
from csa.model.state import format_time
from csa.runner.copies.rows import SessionRow, clean
from csa.runner.copies.target import CONNECT_S, Address, Change, ContentRefusedError, DatabaseError, Key, Standing
from csa.structs import asdict, fields, replace

SESSIONS, CHANGES = "csa:sessions", "csa:changes"
_SESSION, _EVENTS, _STANDING = "csa:session:", "csa:events:", "csa:standing:"
_SOURCES, _LAYOUT = "csa:sources", "csa:layout"
_VERSION = 1  # of the keys; a csa that changes what they mean counts on
_CHUNK = 1000
_PIPELINE = "caused error: "  # after which redis-py has what the server says
_OF_CONTENT = ("WRONGTYPE", "The ID specified in XADD")
_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (redis.exceptions.ReadOnlyError, "name the primary: this one is a replica"),
    (redis.exceptions.OutOfMemoryError, "raise its maxmemory, or copy fewer projects (--project)"),
    (redis.exceptions.NoPermissionError, "docs/copies.md has what its user needs"),
    (redis.exceptions.AskError, "a cluster is not supported"),
    (redis.exceptions.ClusterError, "a cluster is not supported"),
    (redis.exceptions.ClusterCrossSlotError, "a cluster is not supported"),
)


class Redis:
    """A database with a copy, for the sessions of one csa. Another one that puts these meanwhile is noticed."""

    takes: Literal["messages", "events"] = "events"

    def __init__(self, address: Address, source: str) -> None:
        self._address, self._source, self._standing = address, source, f"{_STANDING}{source}"
        with self._explaining("it cannot be reached"):
            self._client = redis.Redis.from_url(
                address.url, socket_connect_timeout=CONNECT_S, socket_timeout=3 * CONNECT_S, retry=None
            )
            layout: Any = self._client.get(_LAYOUT)
        if int(layout or 0) > _VERSION:
            raise address.failure(f"a newer csa has made its keys (version {int(layout)})", hint="update csa")

    def standing(self) -> dict[Key, Standing]:
        with self._explaining():
            content: Mapping[Any, Any] = self._client.hgetall(self._standing)
            found = {_key_of(name): _standing_of(said) for name, said in content.items()}
            if found and self._may_evict():
                found |= {key: replace(found[key], inode="", stamp="") for key in self._evicted(list(found))}
            return found

    def _may_evict(self) -> bool:
        """Say whether this database forgets keys when its memory is full."""
        try:
            memory: Mapping[str, Any] = self._client.info("memory")
        except redis.exceptions.NoPermissionError:
            return True
        return bool(memory.get("maxmemory")) and memory.get("maxmemory_policy") != "noeviction"

    def _evicted(self, keys: list[Key]) -> Iterator[Key]:
        for at in range(0, len(keys), _CHUNK):
            names = [_name_of(key) for key in keys[at : at + _CHUNK]]
            with self._client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.exists(f"{_SESSION}{name}", f"{_EVENTS}{name}")
                counts = pipe.execute()
            yield from (key for key, count in zip(keys[at : at + _CHUNK], counts, strict=True) if count < 2)  # noqa: PLR2004

    def put_by_others(self) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        with self._explaining():
            members: Any = self._client.smembers(_SOURCES)
            for source in {each.decode("utf-8", "replace") for each in members} - {self._source}:
                names: Iterable[Any] = self._client.hkeys(f"{_STANDING}{source}")
                for host, project, session_id in map(_key_of, names):
                    if source.startswith(f"{host}:"):
                        found[project, session_id] = source
        return found

    def put(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        names = [_name_of(change.key) for change in changes]
        with self._explaining(), self._client.pipeline() as opened:
            pipe: Any = opened
            pipe.watch(*(f"{_EVENTS}{name}" for name in names))
            known = [name for name, change in zip(names, changes, strict=True) if not change.anew]
            has = {name: self._last_of(pipe, name) for name in known}
            pipe.multi()
            pipe.set(_LAYOUT, _VERSION)
            pipe.sadd(_SOURCES, self._source)
            for name, change in zip(names, changes, strict=True):
                self._put(pipe, name, change, has.get(name, -1))
            pipe.execute()
            standing: dict[Any, Any] = {_name_of(each.key): json.dumps(asdict(each.standing)) for each in changes}
            self._client.hset(self._standing, mapping=standing)

    def _last_of(self, pipe: Any, name: str) -> int:
        """Return the highest number that a stream has had, also if somebody has trimmed it."""
        if not pipe.exists(f"{_EVENTS}{name}"):
            return -1
        return int(pipe.xinfo_stream(f"{_EVENTS}{name}")["last-generated-id"].partition(b"-")[0])

    def _put(self, pipe: Any, name: str, change: Change, last: int) -> None:
        if change.anew:
            pipe.delete(f"{_EVENTS}{name}", f"{_SESSION}{name}")
        known, used = _fields(change.row), change.row.last_active_at
        pipe.hset(f"{_SESSION}{name}", mapping={**known, "source": self._source})
        if missing := [each for each in asdict(change.row) if each not in known]:
            pipe.hdel(f"{_SESSION}{name}", *missing)
        pipe.zadd(SESSIONS, {name: used.timestamp() if used else 0})
        for seq, line in change.events:
            if seq > last:  # else it is there already, or another event has its number
                pipe.xadd(f"{_EVENTS}{name}", {"event": line}, id=f"{seq}-1")
                last = seq
        pipe.publish(CHANGES, name)

    def forget(self, keys: Iterable[Key]) -> None:
        names = list(map(_name_of, keys))
        with self._explaining():
            for at in range(0, len(names), _CHUNK):
                self._forget(names[at : at + _CHUNK])

    def _forget(self, names: list[str]) -> None:
        with self._client.pipeline(transaction=False) as reading, self._client.pipeline() as pipe:
            for name in names:
                reading.hget(f"{_SESSION}{name}", "source")
            for name, source in zip(names, reading.execute(), strict=True):
                if source in {None, self._source.encode()}:  # else another csa has put it since
                    pipe.delete(f"{_SESSION}{name}", f"{_EVENTS}{name}")
                    pipe.zrem(SESSIONS, name)
                    pipe.publish(CHANGES, name)
            pipe.hdel(self._standing, *names)
            pipe.execute()

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _explaining(self, what: str = "") -> Iterator[None]:
        """Make a DatabaseError of whatever redis-py raises, without what is secret in the address."""
        try:
            yield
        except redis.WatchError:
            raise BusyError(
                f"Another csa mirror copies these sessions to {self._address.label}.", hint="one is enough"
            ) from None
        except (redis.RedisError, OSError, ValueError) as error:  # the last of a URL that makes no sense to it
            said = (str(error) or type(error).__name__).rpartition(_PIPELINE)[2]
            hint = next((hint for kind, hint in _HINTS if isinstance(error, kind)), None)
            kind = ContentRefusedError if any(each in said for each in _OF_CONTENT) else DatabaseError
            raise self._address.failure(f"{what}: {said}" if what else said, hint=hint, kind=kind) from None


def _name_of(key: Key) -> str:
    return clean(":".join(key))


def _key_of(name: bytes) -> Key:
    host, _, rest = name.decode().partition(":")
    project, _, session_id = rest.rpartition(":")
    return host, project, session_id


def _standing_of(said: bytes) -> Standing:
    """Return what was put of a session, also by a csa that says more of it."""
    known = json.loads(said)
    return Standing(**{name: known[name] for name in fields(Standing) if name in known})


def _fields(row: SessionRow) -> dict[str, str | int | float]:
    """Return what a hash has of a session: nothing for what is not known, times as everywhere in csa."""
    found: dict[str, str | int | float] = {}
    for name, value in asdict(row).items():
        if isinstance(value, bool):
            found[name] = int(value)
        elif isinstance(value, datetime):
            found[name] = format_time(value)
        elif value is not None:
            found[name] = clean(value) if isinstance(value, str) else value
    return found
