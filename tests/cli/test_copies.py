"""`csa mirror`: copies of sessions in PostgreSQL and Redis; whatever happens, they become what the files are."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
import traceback
from base64 import b64decode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyrage
import pytest
import redis

from csa.errors import ConfigError, UsageError
from csa.model.config import Layer, combine_layers
from csa.model.conversation import read_conversation
from csa.model.state import parse_time
from csa.runner.copies.copying import Copier, source_of
from csa.runner.copies.postgres import migrate, migrations
from csa.runner.copies.reading import Reader
from csa.runner.copies.target import Address, Standing, find_address, open_target
from csa.store.journal import Journal
from csa.store.mirrors import stores_everywhere
from csa.store.sessions import Store
from csa.store.statefile import load_state, save_state
from csa.store.transcript import read_events
from csa.structs import replace
from tests import effort
from tests.store.support import IDS, PLAIN, publish
from tests.support import Place, wait_for

KILLS = int(os.environ.get("CSA_TEST_KILLS", "25"))  # of a copying, at random instants
PASSWORD = "hunter-two-8-words"


@pytest.fixture
def url(postgres_server: str, place: Place) -> str:
    """Return the URL of a new database, with a password; csa has it in COPY."""
    name = f"t{random.SystemRandom().getrandbits(64):x}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    place.env["COPY"] = f"{postgres_server}/{name}".replace("csa@", f"csa:{PASSWORD}@")
    return place.env["COPY"]


@pytest.fixture
def redis_url(redis_server: str, place: Place) -> str:
    place.env["COPY"] = f"{redis_server}/{random.SystemRandom().randrange(256)}"
    with redis.Redis.from_url(place.env["COPY"]) as client:
        client.flushdb()
    return place.env["COPY"]


def configure(place: Place, text: str) -> None:
    """Give the user a configuration."""
    file = place.project.parent / "own.toml"
    file.write_text(text)
    place.env["CSA_CONFIG"] = str(file)


def mirror(place: Place, *words: str, code: int = 0) -> str:
    done = place.run("mirror", "--to", "env:COPY", *words)
    assert done.code == code, done
    assert PASSWORD not in done.out + done.err
    return done.out


def rows(url: str, words: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(words.encode(), values).fetchall()


def expected(root: Path) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return what a copy has to have of sessions and messages: from the files, in the plain way."""
    sessions: list[tuple[Any, ...]] = []
    messages: list[tuple[Any, ...]] = []
    here = os.uname().nodename
    for store in stores_everywhere(root):
        for session_id in [*store.ids(), *store.retired_ids()]:
            info = store.record(session_id).examine()
            assert info.state, info.record.fault
            key = (store.host or here, store.project_pathname, session_id)
            sessions.append((*key, info.state.owner, info.status, info.state.turns, info.record.is_retired))
            for message in read_conversation(read_events(store.find(session_id).transcript)):
                kind = "thought" if message.role == "thought" else "chat"
                sender = {"user": "user", "system": "system"}.get(message.role, "agent")
                if message.content or not message.calls:
                    text = message.content.replace("\0", "\ufffd").replace("\ud800", "?")  # what no database takes
                    messages.append((*key, message.seq, kind, sender, text, None, _seconds(message.timestamp)))
                for call in message.calls:
                    shown = [call.title, call.content]
                    messages.append((*key, call.seq, "chat", "agent", "", shown, _seconds(call.timestamp)))
    return sorted(sessions), sorted(messages, key=lambda row: row[:4])


def _seconds(stamp: str) -> int:
    at = parse_time(stamp)
    assert at
    return int(at.timestamp())


def assert_equal(url: str, root: Path) -> int:
    """Check that the database is row for row what the files are; return how many rows that are, of both kinds."""
    sessions = rows(url, "SELECT host, project, id, owner, status, turns, is_deleted FROM csa.session ORDER BY 1, 2, 3")
    messages = rows(
        url,
        "SELECT s.host, s.project, m.session_id, m.seq, m.message_type, m.sender, m.content ->> 'content',"
        " m.content -> 'tool_result', m.timestamp FROM csa.message m JOIN csa.session s ON s.key = m.session",
    )
    wanted = expected(root)
    assert sorted(sessions) == wanted[0]
    assert sorted(messages, key=lambda row: row[:4]) == wanted[1]
    return len(sessions) + len(messages)


def test_where_a_copy_goes_is_checked_before_anything_is_done() -> None:
    """A password in an argument is refused, a missing variable named; a project's file has no say."""
    for to, said in (
        (f"postgresql://me:{PASSWORD}@db/x", "can be seen by every user"),
        (f"redis://db/0?password={PASSWORD}", "can be seen by every user"),
        (f"postgresql://me:{PASSWORD}@db:port/x", "not valid"),
        *((f"postgresql://me:1{cut}{PASSWORD}@db/x", "not valid") for cut in "/?#"),
        (f"postgresql://me:1@{PASSWORD}?2@db/x", "not valid"),
        ("env:NOWHERE", "The variable NOWHERE is not set"),
        ("mysql://db/x", "not mysql://"),
        ("nonsense", "goes to a URL"),
        (None, "Where is the copy to be?"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            find_address(combine_layers([]), {}, to)
        assert PASSWORD not in f"{raised.value.message} {raised.value.hint}"
    own = Layer("own", {"copies": {"team": {"to": "env:URL"}}})
    secret = f"postgresql://me:{PASSWORD}@db/x?sslmode=require"
    assert find_address(combine_layers([own]), {"URL": secret}, None).label == "postgresql://db/x"
    with pytest.raises(ConfigError, match="a project file may not set 'copies'"):
        combine_layers([replace(own, is_project=True)])


def test_each_look_brings_what_is_new(place: Place) -> None:
    """Rows are those of the whole transcript, whether it is read by one that stays, or by another each time."""
    for seed in range(effort.number(8, least=2)):
        chance = random.Random(seed)
        session = Session(Store(place.state_root, f"/p{seed}"), IDS[0])
        found: dict[int, Any] = {}
        reader: Reader | None = None
        standing: Standing | None = None
        for _ in range(12):
            session.say(chance)
            reader = reader if reader and chance.random() < 0.5 else Reader(session.store, IDS[0], "here", standing)
            for change in reader.changes(PLAIN, "messages"):
                found = {} if change.anew else found
                found |= {row.seq: row.content for row in change.messages}
                standing = change.standing
            wanted: dict[int, Any] = {}
            for message in read_conversation(read_events(session.transcript)):
                if message.content or not message.calls:
                    wanted[message.seq] = message.content
                wanted |= {call.seq: [call.title, call.content] for call in message.calls}
            assert {seq: row.get("tool_result") or row["content"] for seq, row in found.items()} == wanted


@pytest.mark.thorough
@pytest.mark.parametrize("to", ["postgresql://...", "redis://..."])
def test_a_host_that_can_be_none(place: Place, to: str) -> None:
    """What the resolver refuses is an address that cannot be reached."""
    done = place.run("mirror", "--to", to)
    assert (done.code, f"error: {to}: it cannot be reached" in done.err, "Traceback" in done.err) == (7, True, False)


@pytest.mark.thorough
def test_a_store_in_a_database_is_refused_with_the_reason(place: Place) -> None:
    """`[store] type = "redis"` of another program names what there is in its place."""
    configure(place, '[store]\ntype = "redis"\n')
    done = place.run("config", "validate")
    assert done.code == 6
    assert "sessions are files" in done.err
    assert "csa mirror --to redis://" in done.err
    configure(place, f'[copies.team]\nto = "postgresql://me:{PASSWORD}@db/x"\n')
    done = place.run("config", "show")
    assert (done.code, "[copies.team]" in done.out, PASSWORD in done.out) == (0, True, False), done.out


@pytest.mark.thorough
def test_a_database_that_is_away_hinders_nothing(place: Place) -> None:
    """csa mirror says so, and exits 7, without its password; nothing else of csa is different."""
    for url in (f"postgresql://me:{PASSWORD}@127.0.0.1:1/x", f"redis://:{PASSWORD}@127.0.0.1:1/0"):
        place.env["COPY"] = url
        done = place.run("mirror", "--to", "env:COPY")
        assert (done.code, PASSWORD in done.err, "cannot be reached" in done.err) == (7, False, True), done
    configure(place, '[copies.team]\nto = "env:COPY"\n')
    assert place.run("mirror").code == 7
    assert place.codex("go on").code == 0


@pytest.mark.thorough
def test_postgres_has_what_was_said(place: Place, url: str) -> None:
    """Rows are those of the files, again after each turn, a deletion, a purge, and a restore; nothing is sent twice."""
    first = place.codex("fix it").session_id

    def copied() -> int:
        mirror(place)
        assert_equal(url, place.state_root)
        return len(rows(url, "SELECT FROM csa.session"))

    assert copied() == 1
    assert "nothing new" in mirror(place)
    place.run("run", "-s", first, "--tool", "codex", "and now?")
    second = place.codex("another").session_id
    assert copied() == 2
    place.run("rm", first)
    copied()
    assert rows(url, "SELECT is_deleted, deleted_at IS NULL FROM csa.session WHERE id = %s", first) == [(True, False)]
    place.run("restore", first)
    copied()
    place.run("rm", "--purge", second)
    assert copied() == 1
    assert rows(url, "SELECT DISTINCT session_id FROM csa.message") == [(first,)]
    place.run("rm", "--purge", first)
    assert copied() == 0
    assert rows(url, "SELECT count(*) FROM csa.message, csa.progress") == [(0,)]


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_whoever_is_killed_loses_nothing(place: Place, url: str) -> None:
    """Killed at random instants, while turns are added; the next run makes the database what the files are."""
    assert kill_again_and_again(place, url, KILLS, assert_equal) > 10 * KILLS
    assert "nothing new" in mirror(place)


def kill_again_and_again(place: Place, url: str, count: int, check: Callable[[str, Path], int]) -> int:
    """Kill copying at random instants of it, and have each followed by another run; return how many rows there are."""
    written = [Session(Store(place.state_root, "/p"), each, owner="me") for each in IDS[:6]]
    chance = random.Random(7)
    took_s, killed = 0.2, 0
    for at in range(count):
        for each in chance.sample(written, 3):
            each.say(chance)
        pid = begin_copying(url, place.state_root)
        time.sleep(chance.uniform(0, took_s))
        os.kill(pid, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        began = time.monotonic()
        assert os.waitstatus_to_exitcode(os.waitpid(begin_copying(url, place.state_root), 0)[1]) == 0
        took_s = (took_s + time.monotonic() - began) / 2
        if at % 20 == 0:
            check(url, place.state_root)
    assert killed > count / 2, "too late"
    return check(url, place.state_root)


def begin_copying(url: str, root: Path) -> int:
    """Copy what is new in a child, which has loaded everything already; return its pid."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        with closing(open_target(Address(url), source_of(root))) as target:
            Copier(root, PLAIN, target).copy_all()
        code = 0
    except BaseException:  # noqa: BLE001  # it is another process
        traceback.print_exc()
    os._exit(code)


class Session:
    """A session that is written as turns do, with all kinds of events."""

    def __init__(self, store: Store, session_id: str, **known: str) -> None:
        with publish(store, session_id, **known) as held:
            self.store, self.transcript = store, held.paths.transcript
        self._turn = 1

    def say(self, chance: random.Random) -> None:
        """Add some events, at times a new turn; at times what was said last is lost before, as after a power cut."""
        if chance.random() < 0.2:
            size = self.transcript.stat().st_size
            os.truncate(self.transcript, chance.randint(max(0, size - 1000), size))
        if chance.random() < 0.3:
            self._turn += 1
            self._add("run_started", tool="codex", prompt="h\u00e9llo\\ \t\0 \ud800")
        for at in range(chance.randrange(40)):
            self._add("agent_message", text=f"part {at}\n", chunk=chance.random() < 0.5)
            self._add("tool_call", id=f"c{self._turn}-{at}", title="ls -l", status="in_progress")
            self._add("tool_call_update", id=f"c{self._turn}-{chance.randrange(40)}", content=f"line {at}\n")
        if chance.random() < 0.3:
            self._add("run_finished", status=chance.choice(["succeeded", "failed"]), tool="codex")

    def _add(self, kind: Any, **data: object) -> None:
        journal = Journal(self.transcript, PLAIN, turn=self._turn)
        journal.append(kind, data)
        journal.close()


@pytest.mark.thorough
def test_an_owner_reads_her_own_rows(place: Place, url: str, postgres_server: str) -> None:
    """By no way does a role see what belongs to another: not by a table, a view, a join, a setting or a function."""
    for owner in ("alice", "bob"):
        place.codex(f"I am {owner}", env={"USER": owner})
    mirror(place)
    roles = {"alice": f"alice_{os.getpid()}", "bob": f"bob_{os.getpid()}"}
    with psycopg.connect(url, autocommit=True) as admin:
        for owner, role in roles.items():
            admin.execute(f"CREATE ROLE {role} LOGIN".encode())
            admin.execute(f"GRANT USAGE ON SCHEMA csa TO {role}".encode())
            admin.execute(
                f"GRANT SELECT ON csa.session, csa.message, csa.conversation, csa.progress TO {role}".encode()
            )
            admin.execute("UPDATE csa.session SET owner = %s || '@n1' WHERE owner LIKE %s", (role, f"{owner}@%"))
    try:
        for owner, role in roles.items():
            assert_only_own(url.replace(f"csa:{PASSWORD}", role), owner, role)
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            for role in roles.values():
                admin.execute(f"DROP OWNED BY {role}".encode())
                admin.execute(f"DROP ROLE {role}".encode())


def assert_only_own(url: str, owner: str, role: str) -> None:
    other = {"alice": "bob", "bob": "alice"}[owner]
    assert rows(url, "SELECT owner FROM csa.session") == [(f"{role}@n1",)]
    assert rows(url, "SELECT count(*) > 0 FROM csa.message") == [(True,)]
    assert rows(url, "SELECT count(*) FROM csa.progress") == [(0,)]
    for words in (
        "SELECT row_to_json(t)::text FROM csa.session t",
        "SELECT row_to_json(t)::text FROM csa.message t",
        "SELECT row_to_json(t)::text FROM csa.conversation t",
        "SELECT row_to_json(t)::text FROM csa.message t LEFT JOIN csa.session s ON true",
        "SELECT set_config('csa.owner', 'alice', false), (SELECT string_agg(m::text, '') FROM csa.message m)",
        "SELECT most_common_vals::text FROM pg_stats WHERE schemaname = 'csa'",
    ):
        found = str(rows(url, words))
        assert f"I am {other}" not in found, words
        assert f"{other}_" not in found, words
    assert f"I am {other}" not in leaked(url)
    assert "I am " + owner in str(rows(url, "SELECT text FROM csa.conversation"))
    for words in ("DELETE FROM csa.message", "SET ROLE csa", "UPDATE csa.session SET owner = current_user"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(url, words)


def leaked(url: str) -> str:
    """Return what a function that costs nothing, and tells what it sees, has seen in a condition."""
    seen: list[str] = []
    with psycopg.connect(url) as connection:
        connection.add_notice_handler(lambda said: seen.append(str(said.message_primary)))
        connection.execute(
            "CREATE FUNCTION pg_temp.tell(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS"
            " $$ BEGIN RAISE NOTICE '%', t; RETURN false; END $$"
        )
        for table in ("session", "message", "conversation"):
            connection.execute(f"SELECT FROM csa.{table} t WHERE pg_temp.tell(t::text)".encode())
    assert seen
    return "\n".join(seen)


@pytest.mark.thorough
def test_tables_are_brought_up_to_date(place: Place, url: str) -> None:
    """A database of an older csa gets what is new; one of a newer csa is left alone."""
    with psycopg.connect(url, autocommit=True) as connection:
        migrate(connection, Address(url).failure, up_to=1)
    place.codex()
    mirror(place)
    assert_equal(url, place.state_root)
    last = migrations()[-1][0]
    assert rows(url, "SELECT max(version) FROM csa.migration") == [(last,)]
    assert rows(url, "SELECT count(*) FROM pg_policies WHERE schemaname = 'csa'") == [(2,)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO csa.migration (version) VALUES (99)")
    done = place.run("mirror", "--to", "env:COPY")
    assert (done.code, "a newer csa" in done.err) == (7, True), done


def assert_equal_in_redis(url: str, root: Path) -> int:
    """Check that hashes, streams and the set are what the files are; return how many events that are."""
    here, names, count = os.uname().nodename, set(), 0
    with redis.Redis.from_url(url, decode_responses=True) as client:
        for store in stores_everywhere(root):
            for session_id in [*store.ids(), *store.retired_ids()]:
                record = store.record(session_id)
                assert record.state, record.fault
                name = f"{store.host or here}:{store.project_pathname}:{session_id}"
                names.add(name)
                found: Any = client.hgetall(f"csa:session:{name}")
                assert (found["owner"], found["status"]) == (record.state.owner or found["owner"], record.status)
                assert found["is_deleted"] == str(int(record.is_retired))
                entries: Any = client.xrange(f"csa:events:{name}")
                events = list(read_events(record.paths.transcript))
                assert [json.loads(fields["event"]) for _, fields in entries] == [event.to_dict() for event in events]
                assert [number for number, _ in entries] == [f"{event.seq}-1" for event in events]
                count += len(events)
        assert set(client.zrange("csa:sessions", 0, -1)) == names
        assert len(list(client.scan_iter("csa:session:*"))) == len(names)
    return count


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_redis_has_what_happened(place: Place, redis_url: str) -> None:
    """Streams have the events, in order, each once; killed 40 times, the next run brings the rest."""
    first = place.codex("fix it").session_id
    mirror(place)
    assert_equal_in_redis(redis_url, place.state_root)
    place.run("rm", first)
    second = place.codex("another").session_id
    mirror(place)
    assert_equal_in_redis(redis_url, place.state_root)
    assert "nothing new" in mirror(place)
    place.run("rm", "--purge", second)
    assert kill_again_and_again(place, redis_url, KILLS, assert_equal_in_redis) > 10 * KILLS
    mirror(place)
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists(f"csa:session:{os.uname().nodename}:{place.project}:{second}")


@pytest.mark.thorough
def test_a_password_is_hidden_when_it_is_wrong(place: Place, redis_url: str) -> None:
    """What a server says of a failed login is passed on, and the password is not; nor is it in the process list."""
    place.env["COPY"] = redis_url.replace("hidden-word", PASSWORD)
    done = place.run("mirror", "--to", "env:COPY")
    assert (done.code, PASSWORD in done.err) == (7, False), done
    assert "invalid username-password pair" in done.err


@pytest.mark.thorough
def test_watching_goes_on_as_things_happen(place: Place, url: str) -> None:
    """A running turn is seen growing, also after the connection was lost; a second copier is refused; TERM ends it."""
    running = place.start("mirror", "--to", "env:COPY", "--watch")
    wait_for(lambda: "watching" in running.err, "it watches")
    place.play(*place.hold())
    turn = place.start("run", "--tool", "codex", "slow work")
    place.wait_ready()

    def in_database() -> list[tuple[Any, ...]]:
        return rows(url, "SELECT status FROM csa.session")

    wait_for(lambda: in_database() == [("running",)], "it is seen")
    wait_for(lambda: rows(url, "SELECT count(*) FROM csa.message")[0][0], "its prompt is seen")
    place.release()
    assert turn.wait().code == 0
    wait_for(lambda: in_database() == [("succeeded",)], "its end is seen")
    with psycopg.connect(url, autocommit=True) as admin:  # the connection is lost
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'csa mirror'")
    place.play()
    place.codex("and another")
    wait_for(lambda: len(in_database()) == 2, "it is there again")
    with publish(
        Store(f"{place.state_root}/.mirrors/n1", "/srv/app"), IDS[1]
    ) as held:  # a mirror, and what comes there
        Path(f"{place.state_root}/.mirrors/n1/.mirror").mkdir()
        wait_for(lambda: len(in_database()) == 3, "another host is seen", within_s=60)
        with closing(Journal(held.paths.transcript, PLAIN, turn=1)) as journal:
            journal.append("agent_message", {"text": "from afar"})
        of_n1 = "SELECT text FROM csa.conversation WHERE host = 'n1' AND sender = 'agent'"
        wait_for(lambda: rows(url, of_n1) == [("from afar",)], "what it says is seen")
    other = place.start("mirror", "--to", "env:COPY")
    assert other.wait().code == 4, other.err
    assert "Another csa mirror" in other.err
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0
    assert PASSWORD not in running.err
    assert_equal(url, place.state_root)


@pytest.mark.thorough
def test_what_may_still_be_there_is_not_removed(place: Place, url: str) -> None:
    """Sessions of other projects, of a state root whose disk is not mounted, and of a host not looked at stay."""
    mine = publish(Store(place.state_root, "/p"), IDS[0])
    theirs = publish(Store(f"{place.state_root}/.mirrors/n1", "/srv/app"), IDS[1])
    for held in (mine, theirs):
        held.close()
    Path(f"{place.state_root}/.mirrors/n1/.mirror").mkdir()
    assert "2 sessions" in mirror(place)
    assert {host for (host,) in rows(url, "SELECT host FROM csa.session")} == {os.uname().nodename, "n1"}
    assert "nothing new" in mirror(place, "--project", "/srv/other")
    place.state_root.rename(f"{place.state_root}.away")
    assert "nothing new" in mirror(place)
    Path(f"{place.state_root}.away").rename(place.state_root)
    assert_equal(url, place.state_root)
    mirrors = Path(f"{place.state_root}/.mirrors")
    mirrors.rename(place.tmp / "mirrors")
    mirrors.symlink_to(".mirrors")  # it cannot be listed
    assert "removed" not in place.run("mirror", "--to", url).out
    mirrors.unlink()
    (place.tmp / "mirrors").rename(mirrors)
    (mirrors / "n1").rename(place.tmp / "n1")
    (mirrors / "n1").mkdir()  # its disk is not mounted
    assert "nothing new" in mirror(place)
    (mirrors / "n1").rmdir()  # the user forgets the host
    assert "1 removed" in mirror(place)
    assert_equal(url, place.state_root)


@pytest.mark.thorough
def test_an_owner_too_long_for_an_index_stops_nothing(place: Place, url: str) -> None:
    """Another host may name any owner; the copy goes on, and whoever it names is still found."""
    ids = {place.codex("one").session_id, place.codex("two").session_id}
    state = place.session(min(ids)) / "state.toml"
    at = load_state(state)
    save_state(state, replace(at, owner="alice@" + random.Random(1).randbytes(9000).hex()))
    mirror(place)
    assert rows(
        url, "SELECT count(*), count(*) FILTER (WHERE split_part(owner, '@', 1) = 'alice') FROM csa.session"
    ) == [(2, 1)]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_with_encrypt_no_text_is_in_the_database(place: Place, kind: str, request: pytest.FixtureRequest) -> None:
    """What was planted is in no table and no key, also of a copy that was plain before; the key brings it back."""
    url = request.getfixturevalue("url" if kind == "postgres" else "redis_url")
    key, planted = pyrage.x25519.Identity.generate(), "planted-text-7712"
    session_id = place.codex(planted, "--name", "kept").session_id
    place.run("run", "-s", "kept", f"and {planted}")
    mirror(place)
    dump = _dump_of_postgres if kind == "postgres" else _dump_of_redis
    assert planted in dump(url)
    words = ("--encrypt", str(key.to_public()))
    mirror(place, *words)
    assert (planted in dump(url), session_id in dump(url)) == (False, True)
    sealed = re.findall(r"['\"]age['\"]: ?['\"]([A-Za-z0-9+/=]+)", dump(url))
    assert sum(planted in pyrage.decrypt(b64decode(each), [key]).decode() for each in sealed) > 1
    assert "nothing new" in mirror(place, *words)
    place.run("run", "-s", "kept", "more")
    mirror(place, *words)
    assert planted not in dump(url)
    mirror(place)
    assert planted in dump(url)


def _dump_of_postgres(url: str) -> str:
    tables = ("session", "message", "progress")
    return "\n".join(str(row[0]) for table in tables for row in rows(url, f"SELECT to_jsonb(t) FROM csa.{table} t"))


def _dump_of_redis(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        found: list[Any] = []
        for key in client.scan_iter():
            read = {b"hash": client.hgetall, b"stream": client.xrange, b"zset": lambda k: client.zrange(k, 0, -1)}
            found.append((key, read.get(client.type(key), lambda _: "")(key)))
    return str(found)
