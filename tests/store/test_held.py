"""Held sessions: built unseen, published whole, and gone without a trace when they are not."""

import fcntl
import os
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from csa.errors import BusyError, NotFoundError, StateError
from csa.store.held import build_session, open_session, store_lock
from csa.store.locks import acquire_lock, is_locked
from csa.store.owner import parse_owner
from csa.store.sessions import Store
from csa.structs import replace
from tests.store.support import IDS, PLAIN, begin, child, finish, finished_session, make_state, publish
from tests.support import snapshot

ID = IDS[0]

HOLD = """
from csa.store.held import build_session
from csa.store.sessions import Store
from tests.store.support import PLAIN, make_state, publish
store = Store(Path(args[0]), Path(args[1]))
if args[3] == "built":
    held = build_session(store, make_state(args[2], store.project), PLAIN, tool="codex")
else:
    held = publish(store, args[2])
say()
wait()
held.close()
say("closed")
"""


def test_a_session_is_not_seen_before_it_is_published(store: Store) -> None:
    """Until its first event is durable a session does not resolve, and then it does, locked."""
    with build_session(store, make_state(ID, store.project), PLAIN, tool="codex") as held:
        assert held.paths.root.name == ".new-" + ID
        assert (store.ids(), store.has(ID), list(store.records())) == ([], False, [])
        with pytest.raises(NotFoundError):
            store.resolve(ID)
        begin(held)
        held.publish()
        assert held.is_published
        assert store.resolve(ID[:12]) == ID
        assert is_locked(store.paths(ID).session_lock)
        assert is_locked(store.paths(ID).tool_lock("codex"))
        assert held.paths.root == store.paths(ID).root
    assert not is_locked(store.paths(ID).session_lock)
    assert store.has(ID)


def test_a_session_passes_from_tool_to_tool(store: Store) -> None:
    """The session stays locked, the tool's lock changes, and both say who holds them now."""
    with publish(store, ID) as held:
        held.pass_to("claude-code", turn=2)
        paths = store.paths(ID)
        assert is_locked(paths.session_lock)
        assert (is_locked(paths.tool_lock("codex")), is_locked(paths.tool_lock("claude-code"))) == (False, True)
        for path in (paths.session_lock, paths.tool_lock("claude-code")):
            owner = parse_owner(path.read_bytes())
            assert owner is not None
            assert (owner.tool, owner.turn, owner.pid) == ("claude-code", 2, os.getpid())
        assert paths.tool_lock("codex").read_bytes() == b""
    assert not is_locked(paths.session_lock)
    assert not is_locked(paths.tool_lock("claude-code"))


def test_a_tool_that_another_program_holds_is_refused(store: Store) -> None:
    """Then the session is held as before."""
    with publish(store, ID) as held:
        paths = store.paths(ID)
        before = paths.session_lock.read_bytes()
        with acquire_lock(paths.tool_lock("claude-code"), flock=True), pytest.raises(BusyError, match="claude-code"):
            held.pass_to("claude-code", turn=2)
        assert (is_locked(paths.session_lock), is_locked(paths.tool_lock("codex"))) == (True, True)
        assert paths.session_lock.read_bytes() == before


def test_a_refused_start_leaves_nothing(store: Store) -> None:
    """A session that is closed before it was published is gone."""
    build_session(store, make_state(ID, store.project), PLAIN, tool="codex").close()
    assert os.listdir(store.sessions_dir) == []


def test_a_failed_build_leaves_nothing(store: Store) -> None:
    """A session whose first record cannot be written is gone too."""
    impossible = make_state(ID, store.project, tools={"codex": None})
    with pytest.raises(AttributeError):
        build_session(store, impossible, PLAIN, tool="codex")
    assert os.listdir(store.sessions_dir) == []


def test_two_cannot_create_the_same_session(store: Store) -> None:
    """Whoever comes second is told so, while it is built as well as when it is there."""
    with build_session(store, make_state(ID, store.project), PLAIN, tool="codex"):
        with pytest.raises(BusyError, match=ID):
            build_session(store, make_state(ID, store.project), PLAIN, tool="codex")
        assert os.listdir(store.sessions_dir) == [".new-" + ID]
    finished_session(store, ID)
    before = snapshot(store.paths(ID).root)
    with build_session(store, make_state(ID, store.project), PLAIN, tool="codex") as second:
        begin(second)
        with pytest.raises(BusyError, match=ID):
            second.publish()
    assert os.listdir(store.sessions_dir) == [ID]
    assert snapshot(store.paths(ID).root) == before


def test_a_crashed_start_does_not_bar_its_id(store: Store) -> None:
    """A start that was killed before it published can be tried again under the same id."""
    with child(HOLD, store.root, store.project, ID, "built") as starter:
        assert starter.hear() == "ready"
        with pytest.raises(BusyError):
            build_session(store, make_state(ID, store.project), PLAIN, tool="codex")
        starter.kill()
    assert store.ids() == []
    finished_session(store, ID)
    assert os.listdir(store.sessions_dir) == [ID]


def test_a_busy_session_names_its_holder(store: Store) -> None:
    """The message says who holds the session, with which tool, in which turn and since when."""
    with child(HOLD, store.root, store.project, ID, "published") as holder:
        assert holder.hear() == "ready"
        with pytest.raises(BusyError) as caught:
            open_session(store, ID, PLAIN)
        assert f"{ID} is locked by PID {holder.pid} (codex, turn 1, since " in str(caught.value)
        assert caught.value.exit_code == 4
        holder.tell()
        assert holder.hear() == "closed"
    open_session(store, ID, PLAIN).close()


def test_a_busy_session_is_not_touched(store: Store) -> None:
    """Failing to open a session changes nothing in it."""
    with publish(store, ID):
        before = snapshot(store.root)
        with pytest.raises(BusyError):
            open_session(store, ID, PLAIN, tool="claude-code")
        assert {k: v for k, v in snapshot(store.root).items() if "locks" not in k} == {
            k: v for k, v in before.items() if "locks" not in k
        }


def test_a_tool_lock_of_another_program_is_respected(store: Store) -> None:
    """Where another implementation holds the tool's lock the session is busy, and our own lock is free again."""
    finished_session(store, ID)
    fd = os.open(store.paths(ID).tool_lock("codex"), os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BusyError, match="another program"):
        open_session(store, ID, PLAIN, tool="codex")
    assert not is_locked(store.paths(ID).session_lock)
    with pytest.raises(BusyError, match="another program"):  # which writes the session's record at its end
        open_session(store, ID, PLAIN, tool="claude-code")
    os.close(fd)
    open_session(store, ID, PLAIN, tool="codex").close()


def test_opening_reads_the_state_anew(store: Store) -> None:
    """The next turn sees what the last one wrote, and its tool's lock is taken."""
    finished_session(store, ID)
    with open_session(store, ID, PLAIN) as held:
        assert held.state.turns == 1
        assert is_locked(store.paths(ID).tool_lock("codex"))
        held.save(replace(held.state, description="next"))
    assert store.load(ID).description == "next"


CHANGED_MEANWHILE = """
import sys
from csa.store.held import open_session
from csa.store.sessions import Store
from csa.store.statefile import load_state, save_state
from tests.store.support import PLAIN
from csa.structs import replace
store, pending = Store(Path(args[0]), Path(args[1])), [1]

def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("/session.lock") and pending:
        pending.clear()
        state = store.paths(args[2]).state
        save_state(state, replace(load_state(state), name="auth", turns=7))

sys.addaudithook(hook)
with open_session(store, args[2], PLAIN) as held:
    held.save(replace(held.state, description="next"))
say(not pending)
"""


def test_what_is_written_before_the_lock_is_taken_is_kept(store: Store) -> None:
    """Who waits at the lock while another process ends its work goes on from what that one has written."""
    finished_session(store, ID)
    with child(CHANGED_MEANWHILE, store.root, store.project, ID) as opener:
        assert opener.hear() == "True"
        assert opener.end() == 0
    state = store.load(ID)
    assert (state.name, state.turns, state.description) == ("auth", 7, "next")


def test_what_cannot_be_opened(store: Store) -> None:
    """An unknown session and a damaged one are told apart, and neither is locked afterwards."""
    with pytest.raises(NotFoundError):
        open_session(store, ID, PLAIN)
    finished_session(store, ID)
    store.paths(ID).state.write_text("meta_session_id = ")
    with pytest.raises(StateError):
        open_session(store, ID, PLAIN)
    assert not is_locked(store.paths(ID).session_lock)
    assert store.paths(ID).state.read_text() == "meta_session_id = "


def test_a_full_disk_leaves_no_lock_behind(store: Store) -> None:
    """Where the owner cannot be written the session is not held for the rest of the process's life."""
    finished_session(store, ID)
    code = """
        import resource, signal
        from csa.store.held import open_session
        from csa.store.locks import is_locked
        from tests.store.support import PLAIN
        from csa.store.sessions import Store
        store = Store(Path(args[0]), Path(args[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            open_session(store, args[2], PLAIN)
        except OSError as error:
            say(type(error).__name__)
        say(is_locked(store.paths(args[2]).session_lock))
    """
    with child(code, store.root, store.project, ID) as full:
        assert (full.hear(), full.hear()) == ("OSError", "False")


def test_an_ephemeral_session_is_removed_whole(store: Store) -> None:
    """Removing leaves neither the session nor a remainder of it."""
    with publish(store, ID, ephemeral=True) as held:
        finish(held)
        held.remove()
    assert os.listdir(store.sessions_dir) == []


def test_all_is_private(store: Store) -> None:
    """Directories are 0700 and files 0600, from the state root down."""
    finished_session(store, ID)
    for path in (store.root, *store.root.rglob("*")):
        if "final.md" in path.name or path.name.startswith("turn-"):
            continue  # written by this test
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert (path, oct(mode)) == (path, oct(0o700 if path.is_dir() else 0o600))


def test_names_are_chosen_one_at_a_time(store: Store) -> None:
    """The names' lock makes the second wait until the first has published."""
    waiting = """
        from csa.store.held import store_lock
        from csa.store.sessions import Store
        store = Store(Path(args[0]), Path(args[1]))
        say()
        with store_lock(store):
            say(store.find_name("auth"))
    """
    made = build_session(store, make_state(ID, store.project, name="auth"), PLAIN, tool="codex")
    lock = store_lock(store)
    with child(waiting, store.root, store.project) as waiter:
        assert waiter.hear() == "ready"
        begin(made)
        made.publish()
        lock.close()
        assert waiter.hear() == ID
    made.close()


@pytest.mark.thorough
def test_one_id_made_by_many_again_and_again(store: Store) -> None:
    """Whoever loses is told that it is busy, at whatever step of another's making or giving up it comes."""
    racing = """
        import os
        from csa.errors import BusyError
        from csa.store.held import build_session
        from csa.store.sessions import Store
        from tests.store.support import PLAIN, make_state
        store = Store(Path(args[0]), Path(args[1]))
        say()
        wait()
        won = 0
        for number in range(100):
            try:
                with build_session(store, make_state(args[2], store.project), PLAIN, tool="codex") as held:
                    held.publish()
                    won += 1
                    os.rename(held.paths.root, store.path / f"{os.getpid()}-{number}")  # gone, as if collected
            except BusyError:
                pass
        say(won)
    """
    with ExitStack() as stack:
        racers = [stack.enter_context(child(racing, store.root, store.project, ID)) for _ in range(4)]
        for racer in racers:
            assert racer.hear() == "ready"
        for racer in racers:
            racer.tell()
        won = [int(racer.hear()) for racer in racers]
    assert os.listdir(store.sessions_dir) == []
    assert sum(name.partition("-")[2].isdigit() for name in os.listdir(store.path)) == sum(won) > 0


@pytest.mark.thorough
def test_twenty_create_while_others_list(store: Store) -> None:
    """Sessions made at once are all there, and nobody who lists meanwhile sees half of one."""
    creating = """
        from csa.store.sessions import Store
        from tests.store.support import finished_session
        store = Store(Path(args[0]), Path(args[1]))
        say()
        wait()
        for session_id in args[2:]:
            finished_session(store, session_id)
        say("made")
    """
    listing = """
        from csa.store.sessions import Store
        store = Store(Path(args[0]), Path(args[1]))
        say()
        bad = set()
        while not Path(args[2]).exists():
            for record in store.records():
                if record.status not in ("running", "succeeded"):
                    bad.add((record.session_id, record.status))
        say(sorted(bad))
    """
    end = Path(store.project) / "end"
    with ExitStack() as stack:
        makers = [stack.enter_context(child(creating, store.root, store.project, *IDS[at::20])) for at in range(20)]
        listers = [stack.enter_context(child(listing, store.root, store.project, end)) for _ in range(2)]
        for one in (*makers, *listers):
            assert one.hear() == "ready"
        for maker in makers:
            maker.tell()
        assert [maker.hear() for maker in makers] == ["made"] * 20
        end.touch()
        assert [lister.hear() for lister in listers] == ["[]"] * 2
    assert store.ids() == sorted(IDS)
    assert {record.status for record in store.records()} == {"succeeded"}
