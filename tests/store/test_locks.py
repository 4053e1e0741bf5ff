"""Locks: held is what the kernel says, by whoever asks, and a probe takes nothing."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from csa.errors import BusyError, StateError
from csa.store.locks import Heeding, acquire_lock, is_locked, place_flock, probe_lock, seems_locked
from tests.effort import number
from tests.store.support import child
from tests.support import has_open, wait_for

HOLD = """
from csa.store.locks import acquire_lock
lock = acquire_lock(Path(args[0]), flock=len(args) > 1)
lock.write(b"me")
say()
wait()
"""


def test_a_lock_is_seen_by_others_and_goes_with_its_holder(tmp_path: Path) -> None:
    """While another process holds the lock it is seen and cannot be taken; a SIGKILL frees it."""
    path = tmp_path / "x.lock"
    assert not is_locked(path)
    with child(HOLD, path) as holder:
        assert holder.hear() == "ready"
        assert probe_lock(path) == (True, b"me")
        with pytest.raises(BlockingIOError):
            acquire_lock(path)
        holder.kill()
    assert probe_lock(path) == (False, b"me")
    acquire_lock(path).close()


def test_a_probe_makes_no_file(tmp_path: Path) -> None:
    """Asking about a lock that was never taken leaves no trace."""
    assert probe_lock(tmp_path / "none" / "x.lock") == (False, b"")
    assert os.listdir(tmp_path) == []


def test_what_is_no_regular_file_is_no_lock(tmp_path: Path) -> None:
    """A pipe or a device in a lock's place is refused at once, rather than waited for."""
    os.mkfifo(tmp_path / "x.lock")
    for path in (tmp_path / "x.lock", Path("/dev/null")):
        with pytest.raises(StateError, match=f"{path}: is not a regular file"):
            probe_lock(path)


def test_what_cannot_be_looked_at_is_named(tmp_path: Path) -> None:
    """Where nobody knows whether a lock is held, the error says which, and why."""
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for path, reason in ((tmp_path / "file" / "x.lock", "Not a directory"), (tmp_path / "directory", "Is a directory")):
        with pytest.raises(StateError, match=reason) as caught:
            probe_lock(path)
        assert caught.value.path == path


def test_only_who_asks_for_it_places_a_flock(tmp_path: Path) -> None:
    """The two families do not see each other: another program may have a flock where csa has its own lock alone."""
    path = tmp_path / "x.lock"
    with acquire_lock(path), path.open("rb") as file:
        assert place_flock(file.fileno()) == 0
    with path.open("rb") as file:
        assert place_flock(file.fileno()) == 0
        acquire_lock(path).close()


def test_a_stopped_holder_holds(tmp_path: Path) -> None:
    """Silence is not death: a stopped process keeps its lock."""
    with child(HOLD, tmp_path / "x.lock") as holder:
        assert holder.hear() == "ready"
        os.kill(holder.pid, signal.SIGSTOP)
        assert is_locked(tmp_path / "x.lock")


def test_the_holder_itself_sees_its_lock(tmp_path: Path) -> None:
    """A probe opens the file anew, so that the own lock is seen too, and survives the probe."""
    with acquire_lock(tmp_path / "x.lock") as lock:
        assert is_locked(lock.path)
        assert is_locked(lock.path)
        with pytest.raises(BlockingIOError):
            acquire_lock(lock.path)
        assert is_locked(lock.path)
    assert not is_locked(lock.path)
    lock.close()


def test_probes_never_get_in_the_way(tmp_path: Path) -> None:
    """However many processes probe, taking the lock never fails."""
    path = tmp_path / "x.lock"
    probing = """
        from csa.store.locks import probe_lock
        say()
        while not Path(args[1]).exists():
            probe_lock(Path(args[0]))
        say("over")
    """
    end = tmp_path / "end"
    with ExitStack() as stack:
        probers = [stack.enter_context(child(probing, path, end)) for _ in range(number(20))]
        for prober in probers:
            assert prober.hear() == "ready"
        for _ in range(number(2000)):
            acquire_lock(path).close()
        end.touch()
        assert [prober.hear() for prober in probers] == ["over"] * len(probers)


def test_a_child_that_inherited_nothing_does_not_hold(tmp_path: Path) -> None:
    """The descriptor closes on exec: what a dead holder has started does not keep its lock alive."""
    path = tmp_path / "x.lock"
    code = """
        import subprocess
        from csa.store.locks import acquire_lock
        lock = acquire_lock(Path(args[0]))
        survivor = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, close_fds=False)
        say(survivor.pid)
        wait()
    """
    with child(code, path) as holder:
        survivor = int(holder.hear())
        assert is_locked(path)
        holder.kill()
        try:
            os.kill(survivor, 0)
            assert not is_locked(path)
        finally:
            os.kill(survivor, signal.SIGKILL)


def test_who_shares_the_description_holds(tmp_path: Path) -> None:
    """The lock lasts as long as any process has a descriptor of its description."""
    path = tmp_path / "x.lock"
    lock = acquire_lock(path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd]) as sharer:
        lock.close()
        assert is_locked(path)
        with pytest.raises(BlockingIOError):
            acquire_lock(path)
        sharer.communicate(b"\n")
    assert not is_locked(path)


def test_a_stopped_holder_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds for long what is held for moments is named; when it has let go the obstacle is over."""
    monkeypatch.setattr("csa.store.locks.LOOK_S", 0.05)
    with child(HOLD, tmp_path / "x.lock") as holder:
        assert holder.hear() == "ready"
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(BusyError, match=rf"x\.lock is held by PID {holder.pid} \(.*python") as caught:
            acquire_lock(tmp_path / "x.lock", wait=True)
        assert "kill -CONT" in (caught.value.hint or "")
        assert caught.value.obstacle is not None
        assert not caught.value.obstacle.is_over()
        holder.kill()
        assert caught.value.obstacle.is_over()
    acquire_lock(tmp_path / "x.lock", wait=True).close()


def test_waiting_can_be_ended(tmp_path: Path) -> None:
    """What is to be heeded is, between two tries, and no longer than it is to be."""

    def check() -> None:
        raise InterruptedError

    with acquire_lock(tmp_path / "x.lock"):
        with Heeding(check), pytest.raises(InterruptedError):
            acquire_lock(tmp_path / "x.lock", wait=True)
        with Heeding(check), pytest.raises(BlockingIOError):
            acquire_lock(tmp_path / "x.lock")
    with Heeding(check):
        acquire_lock(tmp_path / "x.lock", wait=True).close()


def test_a_lock_file_that_is_renamed_away_is_not_the_lock(tmp_path: Path) -> None:
    """Who waited for a file that has another name by then takes the one that has the name now."""
    path, aside = tmp_path / "x.lock", tmp_path / "aside"
    waiting = """
        from csa.store.locks import acquire_lock
        say()
        lock = acquire_lock(Path(args[0]), wait=True)
        say("got")
        wait()
    """
    with child(HOLD, path) as holder:
        assert holder.hear() == "ready"
        with child(waiting, path) as waiter:
            assert waiter.hear() == "ready"
            wait_for(lambda: has_open(waiter.pid, path), "the waiter has the file open")
            path.rename(aside)
            holder.kill()
            assert waiter.hear() == "got"
            assert is_locked(path)
            assert not is_locked(aside)


def test_a_lock_file_that_is_replaced_is_taken_anew(tmp_path: Path) -> None:
    """Two names in turn never make two holders of one path."""
    path = tmp_path / "x.lock"
    with acquire_lock(path):
        path.unlink()
        with acquire_lock(path) as second:
            assert os.stat(path).st_ino == os.fstat(second.fd).st_ino
            with pytest.raises(BlockingIOError):
                acquire_lock(path)


def test_other_families_see_the_tool_lock(tmp_path: Path) -> None:
    """With flock, programs of the flock family see the lock and csa sees theirs when it takes it."""
    path = tmp_path / "codex.lock"
    with child(HOLD, path, "flock") as holder:
        assert holder.hear() == "ready"
        fd = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            acquire_lock(path, flock=True)
        assert not is_locked(path)
        os.close(fd)
    acquire_lock(path, flock=True).close()


def test_lock_files_are_private_and_say_who(tmp_path: Path) -> None:
    """A lock file is mode 0600, and a shorter owner replaces a longer one whole."""
    with acquire_lock(tmp_path / "x.lock") as lock:
        lock.write(b"a long owner")
        lock.write(b"short")
    assert lock.path.read_bytes() == b"short"
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600


def test_a_lock_is_intact_while_its_file_says_what_was_written(tmp_path: Path) -> None:
    """Another's record in it, another file in its place, or none: the lock is lost, and looking takes nothing."""
    path = tmp_path / "x.lock"
    with acquire_lock(path) as lock:
        assert lock.is_intact(path)
        lock.write(b"me")
        lock.touch()
        assert (lock.is_intact(path), lock.read(), path.read_bytes()) == (True, b"me", b"me")
        path.write_bytes(b"my")
        assert not lock.is_intact(path)
        lock.touch()  # writes the first byte alone, since what is there may be another's by now
        assert path.read_bytes() == b"my"
        lock.write(b"me")
        assert lock.is_intact(path)
        path.rename(tmp_path / "aside")
        assert (lock.is_intact(path), lock.is_intact(tmp_path / "aside")) == (False, True)
        path.write_bytes(b"me")
        assert not lock.is_intact(path)


def test_before_its_owner_is_written_a_lock_shows_an_earlier_one(tmp_path: Path) -> None:
    """Whoever takes it can read whom it had."""
    (tmp_path / "x.lock").write_bytes(b"earlier")
    with acquire_lock(tmp_path / "x.lock") as lock:
        assert (lock.read(), lock.is_intact(tmp_path / "x.lock")) == (b"earlier", False)


def test_the_kernels_list_tells_of_a_lock(tmp_path: Path) -> None:
    """Also of one whose file may not be read; a flock is no lock of ours."""
    path = tmp_path / "x.lock"
    assert not seems_locked(path)
    with acquire_lock(path):
        if f":{path.stat().st_ino} " not in Path("/proc/locks").read_text():
            pytest.skip("this kernel does not tell")
        path.chmod(0)
        assert (seems_locked(path), seems_locked(str(path)), seems_locked(tmp_path)) == (True, True, False)
    assert not seems_locked(path)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not seems_locked(path)


def test_who_waits_gets_the_lock_when_it_is_let_go(tmp_path: Path) -> None:
    """However many wait, each has it in turn, and nobody fails."""
    taking = """
        from csa.store.locks import acquire_lock
        say()
        with acquire_lock(Path(args[0]), wait=True) as lock:
            lock.write(b"x" + lock.read())
        say("had it")
    """
    with ExitStack() as stack:
        with acquire_lock(tmp_path / "x.lock"):
            waiting = [stack.enter_context(child(taking, tmp_path / "x.lock")) for _ in range(4)]
            assert [waiter.hear() for waiter in waiting] == ["ready"] * 4
            wait_for(lambda: all(has_open(w.pid, tmp_path / "x.lock") for w in waiting), "they try")
        assert [waiter.hear() for waiter in waiting] == ["had it"] * 4
    assert (tmp_path / "x.lock").read_bytes() == b"xxxx"
