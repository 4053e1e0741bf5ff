"""A copy in Redis: the extra `csa[redis]`. The only importer of redis-py, and imported late.

For each session a hash `csa:session:NAME` and a stream `csa:events:NAME`, whose entries have the numbers of the events
as their ids; their names, `HOST:PROJECT:ID`, are in the sorted set `csa:sessions`, by when they were used last. Whoever
wants to know what changes subscribes to `csa:changes`. What a copy stands at is put in the same transaction.
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
from csa.runner.copies.target import CONNECT_S, Address, Change, Key, Standing
from csa.structs import asdict

SESSIONS, CHANGES = "csa:sessions", "csa:changes"
_SESSION, _EVENTS, _STANDING = "csa:session:", "csa:events:", "csa:standing:"


class Redis:
    """A database with a copy, for the sessions of one csa. Another one that puts these meanwhile is noticed."""

    takes: Literal["messages", "events"] = "events"

    def __init__(self, address: Address, source: str) -> None:
        self._address, self._standing = address, f"{_STANDING}{source}"
        with self._explaining("it cannot be reached"):
            self._client = redis.Redis.from_url(
                address.url, socket_connect_timeout=CONNECT_S, socket_timeout=3 * CONNECT_S, retry=None
            )
            self._client.ping()

    def standing(self) -> dict[Key, Standing]:
        with self._explaining():
            found: Mapping[Any, Any] = self._client.hgetall(self._standing)
        return {_key_of(name): Standing(**json.loads(content)) for name, content in found.items()}

    def put(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        names = [_name_of(change.key) for change in changes]
        with self._explaining(), self._client.pipeline() as opened:
            pipe: Any = opened
            pipe.watch(*(f"{_EVENTS}{name}" for name in names))
            has = {name: self._last_of(pipe, name) for name in names}
            pipe.multi()
            for name, change in zip(names, changes, strict=True):
                self._put(pipe, name, change, has[name])
            pipe.execute()

    def _last_of(self, pipe: Any, name: str) -> int:
        found = pipe.xrevrange(f"{_EVENTS}{name}", count=1)
        return int(found[0][0].partition(b"-")[0]) if found else -1

    def _put(self, pipe: Any, name: str, change: Change, last: int) -> None:
        if change.anew:
            pipe.delete(f"{_EVENTS}{name}", f"{_SESSION}{name}")
            last = -1
        fields, used = _fields(change.row), change.row.last_active_at
        pipe.hset(f"{_SESSION}{name}", mapping=fields)
        if missing := [each for each in asdict(change.row) if each not in fields]:
            pipe.hdel(f"{_SESSION}{name}", *missing)
        pipe.zadd(SESSIONS, {name: used.timestamp() if used else 0})
        for seq, line in change.events:
            if seq > last:  # else it is there already, or another event has its number
                pipe.xadd(f"{_EVENTS}{name}", {"event": line}, id=f"{seq}-1")
                last = seq
        pipe.hset(self._standing, name, json.dumps(asdict(change.standing)))
        pipe.publish(CHANGES, name)

    def forget(self, keys: Iterable[Key]) -> None:
        with self._explaining(), self._client.pipeline() as pipe:
            for name in map(_name_of, keys):
                pipe.delete(f"{_SESSION}{name}", f"{_EVENTS}{name}")
                pipe.zrem(SESSIONS, name)
                pipe.hdel(self._standing, name)
                pipe.publish(CHANGES, name)
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
            said = str(error) or type(error).__name__
            raise self._address.failure(f"{what}: {said}" if what else said) from None


def _name_of(key: Key) -> str:
    return clean(":".join(key))


def _key_of(name: bytes) -> Key:
    host, _, rest = name.decode().partition(":")
    project, _, session_id = rest.rpartition(":")
    return host, project, session_id


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
