"""`csa mirror` where something is in its way: what a database refuses, forgets or does not allow, and other copiers."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from csa.runner.copies.postgres import migrate
from csa.runner.copies.reading import Reader
from csa.runner.copies.target import Address, open_target
from csa.store.held import open_session
from csa.store.sessions import Store
from tests.cli.test_copies import PASSWORD, assert_equal, assert_equal_in_redis, mirror, redis_url, rows, url
from tests.databases import pooling
from tests.store.support import IDS, PLAIN, begin, finish, finished_session, publish
from tests.support import Place, wait_for

__all__ = ["redis_url", "url"]  # fixtures
HERE = os.uname().nodename
pytestmark = pytest.mark.thorough


@pytest.fixture(params=["postgres", "redis"])
def either(request: pytest.FixtureRequest) -> str:
    """Return the URL of a database of either kind; csa has it in COPY."""
    found: str = request.getfixturevalue("url" if request.param == "postgres" else "redis_url")
    return found


def administer(url: str, *words: str) -> None:
    """Let the administrator of a PostgreSQL change something."""
    with psycopg.connect(url, autocommit=True) as connection:
        for each in words:
            connection.execute(each.encode())


def say(place: Place, session_id: str, text: str) -> Store:
    """Add a session with one turn that has said something; return its store."""
    store = Store(place.state_root, "/p")
    with publish(store, session_id, owner="me") as held:
        finish(held, text=text)
    return store


def add_turn(store: Store, session_id: str, *, turn: int) -> None:
    with open_session(store, session_id, PLAIN) as held:
        begin(held, turn=turn)
        finish(held, turn=turn)


def check(url: str, root: Path) -> None:
    """Check that a database is what the files are."""
    (assert_equal if url.startswith("postgres") else assert_equal_in_redis)(url, root)


def failing(place: Place) -> str:
    """Copy; return what is said, which is no fault of csa's and names the next step."""
    done = place.run("mirror", "--to", "env:COPY")
    assert done.code == 7, done
    assert "hint: " in done.err, done
    assert PASSWORD not in done.err
    return done.err


def put_as(url: str, source: str, host: str, store: Store, *ids: str) -> None:
    """Put sessions as the csa of another host does."""
    with closing(open_target(Address(url), source)) as target:
        for session_id in ids:
            target.put(Reader(store, session_id, host, None).changes(PLAIN, target.takes))


def has_put(url: str) -> set[tuple[str, str]]:
    """Return the hosts and ids of all sessions in a database, whoever has put them."""
    if url.startswith("postgres"):
        return {(host, session_id) for host, session_id in rows(url, "SELECT host, id FROM csa.session")}
    with redis.Redis.from_url(url, decode_responses=True) as client:
        names: Any = client.zrange("csa:sessions", 0, -1)
        return {(name.partition(":")[0], name.rpartition(":")[2]) for name in names}


def test_what_is_refused_of_one_session_stops_no_other(place: Place, url: str) -> None:
    """It is named, also while watching; once the database takes it, it comes whole."""
    for session_id, said in zip(IDS[:3], ("one", "poison", "three"), strict=True):
        say(place, session_id, said)
    with psycopg.connect(url, autocommit=True) as connection:
        migrate(connection, Address(url).failure)
    administer(
        url, "ALTER TABLE csa.message ADD CONSTRAINT no_poison CHECK (content ->> 'content' IS DISTINCT FROM 'poison')"
    )
    done = place.run("mirror", "--to", "env:COPY")
    assert (done.code, "2 sessions" in done.out, done.err.count("not copied")) == (1, True, 1), done
    assert f"not copied: Session {IDS[1]} in /p on {HERE}: " in done.err
    watching = place.start("mirror", "--to", "env:COPY", "--watch")
    wait_for(lambda: "watching" in watching.err, "it watches")
    assert "no_poison" in watching.err
    say(place, IDS[3], "four")
    wait_for(lambda: len(rows(url, "SELECT FROM csa.session")) == 3, "it goes on")
    watching.signal(signal.SIGTERM)
    assert watching.wait().err.count("not copied") == 1
    administer(url, "ALTER TABLE csa.message DROP CONSTRAINT no_poison")
    assert "1 session" in mirror(place)
    assert_equal(url, place.state_root)


def test_what_another_implementation_may_write(place: Place, either: str) -> None:
    """Half characters, NUL and numbers that only Python reads, as values, keys and statuses: everything is copied."""
    store = say(place, IDS[0], "one")
    odd = {"a\0\ud800": [float("nan"), {"\ud800": float("-inf")}, 10**4000, "\\N\t\0"]}
    data = {"id": "c", "title": "\0\ud800", "content": "\\.", "status": odd, "kind": odd, "exit_code": odd, "text": odd}
    with store.paths(IDS[0]).transcript.open("a") as file:
        for seq, kind in enumerate(
            ("run_started", "tool_call", "tool_call_update", "agent_message", "run_finished"), 100
        ):
            known = {"status": "\ud800 of \0"} if kind == "run_finished" else data
            event = {"v": 1, "seq": seq, "ts": "0001-01-01T00:00:00+14:00", "type": kind, "turn": 1, "data": known}
            file.write(json.dumps(event) + "\n")
    assert "1 session" in mirror(place)
    assert "nothing new" in mirror(place)
    if either.startswith("postgres"):
        assert rows(either, "SELECT FROM csa.message WHERE seq = 101 AND position('nan' IN content ->> 'status') > 0")


def test_what_is_in_the_way_in_redis_stops_no_other(place: Place, redis_url: str) -> None:
    """A key that is somebody else's, and events that somebody has cut off; nothing counts as copied that is not."""
    say(place, IDS[0], "one")
    store = say(place, IDS[1], "two")
    name = f"{HERE}:/p:{IDS[1]}"
    mirror(place)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(f"csa:session:{name}")
        client.set(f"csa:session:{name}", "mine")
        add_turn(store, IDS[1], turn=2)
        say(place, IDS[2], "three")
        done = place.run("mirror", "--to", "env:COPY")
        assert (done.code, "1 session" in done.out, "WRONGTYPE" in done.err) == (1, True, True), done
        client.delete(f"csa:session:{name}")
        assert "1 session" in mirror(place)
        assert_equal_in_redis(redis_url, place.state_root)
        client.xtrim(f"csa:events:{name}", maxlen=0)
        add_turn(store, IDS[1], turn=3)
        assert "1 session" in mirror(place)
        entries: Any = client.xrange(f"csa:events:{name}")
        assert {json.loads(line[b"event"])["turn"] for _, line in entries} == {3}


def test_a_newer_csa_is_respected(place: Place, redis_url: str) -> None:
    """What it says more of a session does not matter; if it has changed what the keys mean, an older one stops."""
    say(place, IDS[0], "one")
    mirror(place)
    with redis.Redis.from_url(redis_url) as client:
        key, name = f"csa:standing:{HERE}:{place.state_root}", f"{HERE}:/p:{IDS[0]}"
        said: Any = client.hget(key, name)
        client.hset(key, name, json.dumps({**json.loads(said), "more": 1}))
        assert "nothing new" in mirror(place)
        client.set("csa:layout", 2)
    assert "a newer csa has made its keys (version 2)" in failing(place)


def test_the_csa_of_a_host_copies_its_own_sessions(place: Place, either: str) -> None:
    """A hub that has a mirror of it leaves these to it, whoever was first, and copies what that one has not."""
    theirs = Store(f"{place.state_root}/.mirrors/n1", "/srv/app")
    for each in IDS[:2]:
        finished_session(theirs, each, owner="me")
    Path(f"{theirs.root}/.mirror").mkdir()
    say(place, IDS[2], "mine")
    mirror(place)
    check(either, place.state_root)
    put_as(either, "node1:/root", "node1", theirs, IDS[0])
    put_as(either, "n1:/root", "n1", theirs, IDS[1])
    assert "2 removed" in mirror(place)
    assert "nothing new" in mirror(place)
    assert has_put(either) == {("node1", IDS[0]), ("n1", IDS[1]), (HERE, IDS[2])}
    mirror(place, "--forget", "n1:/root")
    assert "1 session" in mirror(place)
    assert has_put(either) == {("node1", IDS[0]), ("n1", IDS[1]), (HERE, IDS[2])}


def test_a_host_that_was_renamed(place: Place, either: str) -> None:
    """What it had copied under its old name is still there; csa says so, and how it is removed."""
    store = say(place, IDS[0], "one")
    put_as(either, "old:/state", "old", store, IDS[0])
    done = place.run("mirror", "--to", "env:COPY")
    assert "csa mirror --forget old:/state" in done.err
    assert has_put(either) == {("old", IDS[0]), (HERE, IDS[0])}
    assert "1 session of old:/state removed" in mirror(place, "--forget", "old:/state")
    assert "--forget" not in place.run("mirror", "--to", "env:COPY").err
    check(either, place.state_root)
    assert place.run("mirror", "--to", "env:COPY", "--forget", "old:/state").code == 3
    if either.startswith("postgres"):
        with closing(open_target(Address(either), "old:/state")):
            assert place.run("mirror", "--to", "env:COPY", "--forget", "old:/state").code == 4


def test_what_a_postgres_does_not_allow_is_explained(place: Place, url: str, postgres_server: str) -> None:
    """Time limits of the server do not matter; a database that is read only, or has few characters, is named so."""
    say(place, IDS[0], "one")
    name = url.rpartition("/")[2]
    mirror(place)
    say(place, IDS[2], "slow")
    administer(
        url,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON csa.message EXECUTE FUNCTION slow()",
        f"ALTER DATABASE {name} SET statement_timeout = '300ms'",
    )
    mirror(place)
    assert_equal(url, place.state_root)
    administer(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    say(place, IDS[1], "two")
    assert "name the primary" in failing(place)
    administer(
        f"{postgres_server}/postgres", f"CREATE DATABASE {name}l ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    place.env["COPY"] = f"{url}l"
    assert "its encoding is LATIN1" in failing(place)


def test_a_pooler_between(place: Place, url: str) -> None:
    """One that pools sessions will do; one that pools transactions is refused, and others do not get our settings."""
    say(place, IDS[0], "one")
    with pooling(url, "session") as place.env["COPY"]:
        mirror(place)
    assert_equal(url, place.state_root)
    with pooling(url, "transaction") as pooled:
        place.env["COPY"] = pooled
        assert "a pooler gives each transaction another connection" in failing(place)
        assert rows(pooled, "SHOW search_path") == [('"$user", public',)]
    place.env["COPY"] = url
    assert "nothing new" in mirror(place)


def test_what_a_redis_does_not_allow_is_explained(place: Place, redis_url: str) -> None:
    """The rights in docs/copies.md are enough; with fewer, or without memory, it is said what to do."""
    say(place, IDS[0], "one")
    docs = (Path(__file__).parents[2] / "docs" / "copies.md").read_text()
    found = re.search(r"ACL SETUSER csa on '>PASSWORD' (.*)", docs)
    assert found
    with redis.Redis.from_url(redis_url) as client:
        user = f"u{os.getpid()}"
        client.execute_command("ACL", "SETUSER", user, "on", f">{PASSWORD}", *found[1].split())
        try:
            place.env["COPY"] = redis_url.replace(":hidden-word@", f"{user}:{PASSWORD}@")
            mirror(place)
            assert_equal_in_redis(redis_url, place.state_root)
            client.execute_command("ACL", "SETUSER", user, "-hset")
            say(place, IDS[1], "two")
            assert "docs/copies.md" in failing(place)
        finally:
            client.execute_command("ACL", "DELUSER", user)
        place.env["COPY"] = redis_url
        client.config_set("maxmemory", "1kb")
        try:
            assert "raise its maxmemory" in failing(place)
        finally:
            client.config_set("maxmemory", "0")
        mirror(place)
        assert_equal_in_redis(redis_url, place.state_root)


def test_what_a_redis_has_evicted_is_put_again(place: Place, redis_url: str) -> None:
    """With a policy that forgets keys when the memory is full, each run looks whether they are there."""
    for each in IDS[:3]:
        say(place, each, "one")
    mirror(place)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(f"csa:session:{HERE}:/p:{IDS[0]}", f"csa:events:{HERE}:/p:{IDS[1]}")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "1gb")
        try:
            assert "2 sessions" in mirror(place)
            assert "nothing new" in mirror(place)
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")
    assert_equal_in_redis(redis_url, place.state_root)
