"""Whether a session runs, and what became of it: told from the lock and the journal, never written."""

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from csa.paths import SessionPaths
from csa.procfs import boot_id, is_zombie, machine_id, process_start_time
from csa.store.checking import check_session
from csa.store.held import open_session
from csa.store.liveness import probe
from csa.store.locks import acquire_lock
from csa.store.owner import current_owner, may_be_running, parse_owner
from csa.store.sessions import Store
from csa.store.sweep import find_remains
from csa.structs import replace
from tests.conftest import ForeignWriter
from tests.effort import number
from tests.store.support import IDS, PLAIN, begin, child, finish, finished_session, publish
from tests.support import snapshot

ID = IDS[0]
OWNER = {"boot_id": "another boot", "machine_id": "another machine"}

SUPERVISE = """
from csa.store.sessions import Store
from tests.store.support import publish, finish
held = publish(Store(Path(args[0]), Path(args[1])), args[2])
say()
wait()
finish(held)
held.close()
say("finished")
wait()
"""


def status(store: Store, session_id: str = ID) -> str:
    return store.record(session_id).status


def rewrite_owner(paths: SessionPaths, changes: Mapping[str, Any]) -> None:
    owner = json.loads(current_owner(tool="codex", turn=1, since="2024-02-06T12:00:00+00:00").to_bytes())
    paths.session_lock.write_text(json.dumps({**owner, **changes}))


def test_a_session_runs_while_its_supervisor_lives(store: Store) -> None:
    """Running while the lock is held, and lost as soon as the supervisor is killed."""
    with child(SUPERVISE, store.root, store.project, ID) as supervisor:
        assert supervisor.hear() == "ready"
        liveness = probe(store.paths(ID))
        assert liveness.state == "alive"
        assert liveness.owner is not None
        assert (liveness.owner.pid, liveness.owner.tool, liveness.owner.turn) == (supervisor.pid, "codex", 1)
        assert status(store) == "running"
        supervisor.kill()
    assert probe(store.paths(ID)).state == "not_alive"
    assert status(store) == "lost"


def test_a_finished_turn_is_finished_at_once(store: Store) -> None:
    """Nobody has to list a session for it to be over, and its process may live on."""
    with child(SUPERVISE, store.root, store.project, ID) as supervisor:
        assert supervisor.hear() == "ready"
        supervisor.tell()
        assert supervisor.hear() == "finished"
        assert status(store) == "succeeded"
        assert probe(store.paths(ID)).state == "not_alive"


def test_a_turn_is_never_seen_as_lost_while_it_ends(store: Store) -> None:
    """Between running and succeeded there is nothing, however often one looks."""
    for session_id in IDS[: number(8, least=2)]:
        with child(SUPERVISE, store.root, store.project, session_id) as supervisor:
            assert supervisor.hear() == "ready"
            supervisor.tell()
            seen: list[str] = []
            while not seen or seen[-1] == "running":
                seen.append(status(store, session_id))
            assert seen[-1] == "succeeded"


BEGINS_MEANWHILE = """
import sys
from csa.store.held import open_session
from csa.store.sessions import Store
from tests.store.support import PLAIN, begin, finish
store, pending = Store(Path(args[0]), Path(args[1])), [1]

def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("/transcript.jsonl") and pending:
        pending.clear()
        global held
        held = open_session(store, args[2], PLAIN)
        begin(held, turn=2)
        if args[3] == "ends":
            finish(held, turn=2, status="failed")
            held.close()

sys.addaudithook(hook)
say(f"{store.record(args[2]).status} {not pending}")
"""


@pytest.mark.parametrize(("meanwhile", "seen"), [("runs", "running"), ("ends", "failed")])
def test_a_turn_that_begins_while_one_looks_is_not_lost(store: Store, meanwhile: str, seen: str) -> None:
    """Where the lock was free and the journal then tells of a turn without an end, both are looked at again."""
    finished_session(store, ID)
    with child(BEGINS_MEANWHILE, store.root, store.project, ID, meanwhile) as reader:
        assert reader.hear() == f"{seen} True"
        assert reader.end() == 0


@pytest.mark.parametrize("ended", ["succeeded", "failed", "cancelled", "timed_out", "killed"])
def test_the_status_is_that_of_the_last_turn(store: Store, ended: str) -> None:
    """What run_finished says is what is shown."""
    with publish(store, ID) as held:
        finish(held, status=ended, exit_code=1)
        assert status(store) == "running"
    assert status(store) == ended


def test_a_later_turn_decides(store: Store) -> None:
    """A lost second turn is not covered up by a first one that succeeded."""
    finished_session(store, ID)
    with open_session(store, ID, PLAIN) as held:
        begin(held, turn=2)
        assert status(store) == "running"
    assert status(store) == "lost"


def test_a_session_that_never_ran_is_idle(store: Store, write_foreign: ForeignWriter) -> None:
    """Neither a transcript nor an exit code: idle."""
    write_foreign(ID)
    assert status(store) == "idle"


@pytest.mark.parametrize(("code", "expected"), [(0, "succeeded"), (1, "failed"), (137, "failed")])
def test_a_foreign_session_is_judged_by_its_exit_code(
    store: Store, write_foreign: ForeignWriter, code: int, expected: str
) -> None:
    """Without a transcript the last exit code decides, and nothing is lost."""
    paths = write_foreign(ID, tools={"codex": {"last_exit_code": code, "provider_session_id": "t"}})
    assert status(store) == expected
    (paths.root / "locks").mkdir()
    with acquire_lock(paths.session_lock):
        assert status(store) == "running"


def test_a_reused_pid_or_an_old_owner_does_not_revive(store: Store) -> None:
    """The owner record of a lock that is free proves nothing of a process that is gone, or that beats no longer."""
    with publish(store, ID) as held:
        paths = held.paths
    paths.heartbeat.touch()
    for changes in ({"start_time": 1}, {"pid": 2**22 + 1}, {"pid_namespace": 1, "machine_id": "a container's"}):
        rewrite_owner(paths, changes)
        assert probe(paths).state == "not_alive", changes
    rewrite_owner(paths, {})
    os.utime(paths.heartbeat, (time.time() - 60,) * 2)
    assert probe(paths).state == "not_alive"
    assert status(store) == "lost"


def test_a_process_is_its_pid_and_its_start() -> None:
    """Whoever has the pid of an owner now, and began at another time, is not that owner."""
    owner = current_owner(tool="codex", turn=1, since="2024-02-06T12:00:00+00:00")
    assert may_be_running(owner)
    assert not may_be_running(replace(owner, start_time=owner.start_time - 1))
    assert not may_be_running(replace(owner, start_time=owner.start_time + 1))
    assert may_be_running(replace(owner, boot_id="another boot", start_time=1))  # which cannot be looked at from here


@pytest.mark.parametrize(("changes", "is_dead"), [({}, False), ({"start_time": 1}, True), ({"boot_id": "x"}, False)])
def test_a_start_whose_pid_was_used_again_is_a_crashed_one(
    store: Store, changes: Mapping[str, Any], *, is_dead: bool
) -> None:
    """What a killed start has left is collected at once, though another process has its pid by now."""
    with publish(store, ID) as held:
        paths = held.paths
    remains = SessionPaths(paths.root.rename(Path(store.sessions_dir) / f".new-{ID}"))
    rewrite_owner(remains, changes)
    assert (remains.root in find_remains(store, datetime.now(UTC))) is is_dead


def test_a_supervisor_that_has_lost_its_lock_is_alive(store: Store) -> None:
    """Its process is there and its heart beats; a zombie's does not."""
    with publish(store, ID) as held:
        paths = held.paths
    with child("say(); wait()") as process:
        process.hear()
        rewrite_owner(paths, {"pid": process.pid, "start_time": process_start_time(process.pid)})
        paths.heartbeat.touch()
        assert (probe(paths).state, probe(paths).is_held, status(store)) == ("alive", False, "running")
        process.process.kill()
        while not is_zombie(process.pid):
            time.sleep(0.01)
        assert (probe(paths).state, status(store)) == ("not_alive", "lost")


def test_a_reboot_is_concluded_from_a_heartbeat_before_it(store: Store) -> None:
    """Machine ids are cloned: with a heartbeat since this machine was started, the owner is another machine."""
    if not machine_id():
        pytest.skip("this machine has no id")
    with publish(store, ID) as held:
        paths = held.paths
    rewrite_owner(paths, {"boot_id": "another boot"})
    paths.heartbeat.touch()
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for at, state in (
        (booted - 60, "not_alive"),
        (time.time(), "alive"),
        (max(booted + 5, time.time() - 60), "unknown"),
    ):
        os.utime(paths.heartbeat, (at, at))
        assert probe(paths).state == state, at
    paths.heartbeat.unlink()
    assert probe(paths).state == "not_alive"


def test_another_machine_is_judged_by_its_heartbeat(store: Store) -> None:
    """The lock of another machine cannot be seen: a young heartbeat means alive, an old one unknown."""
    with publish(store, ID) as held:
        paths = held.paths
    rewrite_owner(paths, OWNER)
    assert (probe(paths).state, status(store)) == ("unknown", "unknown")
    paths.heartbeat.touch()
    assert (probe(paths).state, status(store)) == ("alive", "running")
    os.utime(paths.heartbeat, (time.time() - 60,) * 2)
    assert (probe(paths).state, status(store)) == ("unknown", "unknown")


def test_another_machines_finished_turn_is_over(store: Store) -> None:
    """A turn whose end is in the journal is over, whatever the heartbeat says."""
    finished_session(store, ID)
    rewrite_owner(store.paths(ID), OWNER)
    store.paths(ID).heartbeat.touch()
    assert (probe(store.paths(ID)).state, status(store)) == ("not_alive", "succeeded")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b"null", b"\xff", b"[" * 4096, b'{"pid": 5}', b'{"pid":"x"}'],
    ids=["empty", "partial", "list", "number", "null", "bytes", "deep", "few", "type"],
)
def test_a_lock_file_of_another_program(store: Store, content: bytes) -> None:
    """Whatever a lock file says, it is only shown; held and free are the kernel's word."""
    assert parse_owner(content) is None
    finished_session(store, ID)
    paths = store.paths(ID)
    paths.session_lock.write_bytes(content)
    assert probe(paths).state == "not_alive"
    with acquire_lock(paths.session_lock):
        assert probe(paths).state == "alive"
        assert status(store) == "running"


def test_an_owner_of_wrong_types_is_none() -> None:
    """An owner record whose values have other types is another program's."""
    owner = json.loads(current_owner(tool="codex", turn=1, since="2024-02-06T12:34:56+00:00").to_bytes())
    known = parse_owner(json.dumps(owner).encode())
    assert known is not None
    assert known.since_clock == "2024-02-06 12:34"
    for changes in ({"since": 5}, {"since": "yesterday"}, {"pid": "x"}, {"tool": None}):
        assert parse_owner(json.dumps({**owner, **changes}).encode()) is None


def test_this_machine_is_known() -> None:
    """Boot and machine have ids on any Linux that can run this."""
    assert len(boot_id()) == 36
    assert machine_id() == machine_id()


def test_looking_changes_nothing(store: Store) -> None:
    """Status and liveness leave every byte and time as they were."""
    finished_session(store, ID)
    with publish(store, IDS[1]):
        before = snapshot(store.root)
        assert [record.status for record in store.records()] == ["running", "succeeded"]
        assert snapshot(store.root) == before


@pytest.mark.parametrize(
    "content", [None, b"\xff\x00garb\xffage\n\xfe\n", b"{}\n"], ids=["missing", "binary", "no event"]
)
def test_turns_that_are_not_in_the_journal(store: Store, content: bytes | None) -> None:
    """A session of csa's own whose turns are gone is damaged: nobody knows how they ended."""
    finished_session(store, ID)
    paths = store.paths(ID)
    paths.transcript.unlink()
    if content is not None:
        paths.transcript.write_bytes(content)
    info = store.record(ID).examine()
    record = info.record
    assert info.status == "damaged"
    assert record.fault is not None
    assert (record.fault.path, record.fault.exit_code) == (paths.transcript, 6)
    assert record.fault.problem == f"{'is missing' if content is None else 'has no turn'}, but the record has 1 turn"
    assert [problem.path for problem in check_session(store, paths) if problem.severity == "error"][
        -1
    ] == paths.transcript
    with acquire_lock(paths.session_lock):
        assert status(store) == "running"


def test_a_first_turn_that_was_cut_off_before_its_first_event(store: Store, write_foreign: ForeignWriter) -> None:
    """csa takes over another implementation's record, and dies before the first event: lost, and nothing is damaged."""
    paths = write_foreign(ID, tools={"codex": {"last_exit_code": 0, "provider_session_id": "t"}})
    with open_session(store, ID, PLAIN) as held:
        held.save(replace(held.state, turns=1))
        assert status(store) == "running"
    paths.transcript.touch()
    assert status(store) == "lost"
    paths.transcript.unlink()
    assert status(store) == "damaged"


def test_what_never_ran_here_is_not_damaged(store: Store, write_foreign: ForeignWriter) -> None:
    """A record that csa has only renamed keeps the status that it tells of; one without a turn is idle."""
    paths = write_foreign(ID, tools={"codex": {"last_exit_code": 0, "provider_session_id": "t"}})
    with open_session(store, ID, PLAIN) as held:
        held.save(replace(held.state, name="renamed"))
    state = store.load(ID)
    assert (state.schema, state.turns, status(store)) == (1, 0, "succeeded")
    assert not [problem for problem in check_session(store, paths) if problem.severity == "error"]


def test_a_session_that_is_removed_meanwhile(store: Store) -> None:
    """Who has read a record whose session goes before its journal is read does not call it damaged."""
    finished_session(store, ID)
    record = store.record(ID)
    record.paths.root.rename(Path(store.sessions_dir) / f".gone-{ID}")
    assert record.status != "damaged"
