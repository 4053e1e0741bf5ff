"""Sessions that are encrypted: killed at any step, nothing is lost, and the next attempt finishes."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pyrage
import pytest

from csa.errors import SealedError, StateError
from csa.paths import SessionPaths
from csa.runner import atrest
from csa.runner.atrest import opened
from csa.runner.content import Content
from csa.store.following import Follower
from csa.store.sealed import is_bared, read_sealed, seal_session, unseal_session
from csa.store.sealing import seal
from csa.store.sessions import Store
from csa.store.statefile import load_state
from csa.store.transcript import read_events
from tests.store.support import IDS, finished_session

EXHAUSTIVE = "CSA_TEST_KILLS" in os.environ  # at each step
_NOBODY = 65534
PLANTED = b"planted-text-7712"
KEY = pyrage.x25519.Identity.generate()
FOR = [str(KEY.to_public())]
_STEPS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.utime",
    "os.truncate",
    "shutil.rmtree",
}


def make(store: Store, number: int) -> tuple[SessionPaths, dict[str, bytes]]:
    """Make a session with files of all kinds; return them."""
    finished_session(store, IDS[number])
    paths = store.paths(IDS[number])
    files = {
        "output/turn-0001/final.md": PLANTED,
        "output/turn-0001/deep/er/a\nname": PLANTED * 1000,
        "backup/then/state.toml": PLANTED,
        "texts.json": PLANTED,  # an agent's, and called as a part of what is encrypted
    }
    for name, content in files.items():
        path = paths.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (paths.output / "link").symlink_to("/etc/passwd")
    (paths.output / "turn-0001" / "empty").mkdir()
    files["transcript.jsonl"] = paths.transcript.read_bytes()
    return paths, files


def assert_has(paths: SessionPaths, files: dict[str, bytes]) -> None:
    assert {name: (paths.root / name).read_bytes() for name in files} == files
    assert os.readlink(paths.output / "link") == "/etc/passwd"
    assert (paths.output / "turn-0001" / "empty").is_dir()


def dies_at(step: int, work: Callable[[], object]) -> bool:
    """Do it in a process that dies at that step, before it is taken; say whether it came that far."""
    pid = os.fork()
    if not pid:
        left = [step]

        def count(event: str, _arguments: object) -> None:
            if event in _STEPS:
                left[0] -= 1
                if not left[0]:
                    os._exit(7)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_killed_at_any_step_nothing_is_lost(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever sealing or unsealing dies, what was said can be read; the next time it is sealed, and opened, whole."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a kernel that goes on needs none
    paths, files = make(store, 0)
    seals, opens = lambda: seal_session(paths, FOR), lambda: unseal_session(paths, load_state(paths.state), [KEY])
    for way in (seals, opens):
        step = 1
        while dies_at(step, way):
            state = load_state(paths.state)
            if state.sealed_at is None:
                assert_has(paths, files)
            else:
                into = tmp_path / f"{len(os.listdir(tmp_path))}"
                into.mkdir()
                assert_has(read_sealed(paths, state, [KEY], into), files)
            seal_session(paths, FOR)
            assert is_bared(paths)
            assert [path for path in paths.root.rglob("*") if path.is_file() and PLANTED in path.read_bytes()] == []
            if way is seals:
                assert load_state(unsealed(paths).state).sealed_at is None
                assert_has(paths, files)
            step += 1 if EXHAUSTIVE else 7
        assert step > 10
        if way is seals:
            seal_session(paths, FOR)
    assert_has(paths, files)


def unsealed(paths: SessionPaths) -> SessionPaths:
    unseal_session(paths, load_state(paths.state), [KEY])
    return paths


def test_what_a_kill_has_left_is_deleted_and_what_is_newer_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft of a plain record goes; a file that was written while others were encrypted stays, whatever died then."""
    paths, files = make(store, 0)
    written = paths.output / "turn-0001" / "final.md"

    def pack_then_write(recipients: Sequence[str], stream: IO[bytes], write: Callable[[IO[bytes]], None]) -> None:
        seal(recipients, stream, write)
        wait_until_files_are_newer(written)
        written.write_bytes(b"from a process that was left")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("csa.store.sealed.seal", pack_then_write)
        patch.setattr("csa.store.sealed._bare", die)
        with pytest.raises(KeyboardInterrupt):
            seal_session(paths, FOR)
    seal_session(paths, FOR)
    assert written.read_bytes() == b"from a process that was left"
    draft = paths.root / ".state.toml.4711.tmp"
    draft.write_bytes(PLANTED)
    assert not is_bared(paths)
    seal_session(paths, FOR)
    assert is_bared(paths)
    assert not draft.exists()
    assert_has(unsealed(paths), files)


def wait_until_files_are_newer(path: Path) -> None:
    """Return when a file that is written has another time than one that was written before the call."""
    probe = path.with_name("probe")
    probe.touch()
    before = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == before:
        probe.unlink()
        probe.touch()
    probe.unlink()


def test_who_heeds_something_else_leaves_it_as_it_was(store: Store) -> None:
    """Nothing of what was encrypted so far stays, and no reader has seen anything of it."""
    paths, files = make(store, 0)
    (paths.output / "large").write_bytes(os.urandom(1 << 20))
    names, left = sorted(os.listdir(paths.root)), [5]

    def heed() -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        seal_session(paths, FOR, heed=heed)
    assert sorted(os.listdir(paths.root)) == names
    assert load_state(paths.state).sealed_at is None
    assert_has(paths, files)


def test_another_key_and_damage_change_nothing(store: Store) -> None:
    """A wrong key and a damaged file are errors of their kinds; everything is as it was."""
    paths, files = make(store, 0)
    state = seal_session(paths, FOR)
    sealed = paths.root / "sealed.age"
    whole, names = sealed.read_bytes(), sorted(os.listdir(paths.root))
    with pytest.raises(SealedError, match="None of your keys"):
        unseal_session(paths, state, [pyrage.x25519.Identity.generate()])
    for damaged in (whole[:-1], whole[:200], b"", whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        sealed.write_bytes(damaged)
        with pytest.raises(StateError, match="is damaged"):
            unseal_session(paths, state, [KEY])
        assert sorted(os.listdir(paths.root)) == names
    sealed.unlink()
    with pytest.raises(StateError, match="is missing"):
        unseal_session(paths, state, [KEY])
    sealed.write_bytes(whole)
    later = paths.output / "turn-0001"
    later.mkdir(parents=True)
    (later / "final.md").write_bytes(b"from a process that was left")
    seal_session(paths, FOR)
    assert (later / "final.md").exists()  # what is not encrypted is not deleted
    assert_has(unsealed(paths), files)
    assert (later / "final.md.later").read_bytes() == b"from a process that was left"


def test_what_is_newer_stays_whatever_has_its_other_name(store: Store) -> None:
    """Also where that is a directory with files, or the name of a file that is encrypted."""
    paths, files = make(store, 0)
    files["output/turn-0001/final.md.later"] = PLANTED
    (paths.root / "output/turn-0001/final.md.later").write_bytes(PLANTED)
    seal_session(paths, FOR)
    turn = paths.output / "turn-0001"
    for below in ("final.md/made", "final.md.later-2/made", "empty.later/made"):
        (turn / below).parent.mkdir(parents=True)
        (turn / below).write_bytes(b"newer")
    (turn / "empty").write_bytes(b"newer")
    (paths.output / "link").mkdir()
    assert_has(unsealed(paths), files)
    newer = {
        str(path.relative_to(turn)) for path in turn.rglob("*") if path.is_file() and path.read_bytes() == b"newer"
    }
    assert newer == {"final.md.later-3/made", "final.md.later-2/made", "empty.later/made", "empty.later-2"}
    assert os.listdir(paths.output / "link.later") == []


def test_rights_that_an_agent_has_taken_away_keep_nothing_in_plain() -> None:
    """Files and directories that not even their owner may read or write; nor do they keep a session encrypted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:  # where every user gets to
        seal_session(make(Store(Path(directory, "loads"), Path(directory)), 1)[0], FOR)  # what is imported on use
        if os.geteuid() == 0:
            os.chown(directory, _NOBODY, _NOBODY)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setgid(_NOBODY)
                    os.setuid(_NOBODY)
                _seal_without_rights(Store(Path(directory, "state"), Path(directory)))
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _seal_without_rights(store: Store) -> None:
    paths, files = make(store, 0)
    locked = paths.output / "locked"
    locked.mkdir()
    (locked / "file").write_bytes(PLANTED)
    for path in (locked / "file", locked):
        path.chmod(0)
    seal_session(paths, FOR)
    assert is_bared(paths)
    locked.mkdir(parents=True)
    (locked / "file").write_bytes(b"newer")
    locked.chmod(0o500)
    assert_has(unsealed(paths), {**files, "output/locked/file": PLANTED, "output/locked/file.later": b"newer"})


class _Asked:
    """Keys that somebody takes time to give."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self._meanwhile = [meanwhile]

    @property
    def found(self) -> list[object]:
        if self._meanwhile:
            self._meanwhile.pop()()
        return [KEY]


def test_a_reader_finds_the_text_wherever_it_is_by_now(store: Store) -> None:
    """What was looked up before the session was encrypted, or opened again, is looked up anew at each use."""
    paths, files = make(store, 0)
    content = Content(paths, _Asked)  # type: ignore[arg-type]
    follower = Follower(content.transcript, tail=0)
    assert list(follower.read()) == []
    assert content.pathname == paths.pathname
    for _ in range(2):
        seal_session(paths, FOR)
        assert content.pathname != paths.pathname
        assert_has(content, files)
        unsealed(paths)
        assert content.pathname == paths.pathname
        assert_has(content, files)
    with paths.transcript.open("a") as file:
        file.write('{"v": 1, "seq": 90, "ts": "2026-01-01T00:00:00Z", "type": "warning", "data": {"message": "new"}}\n')
    assert [event.seq for event in follower.read()] == [90]
    follower.close()


def test_what_is_encrypted_again_while_the_key_is_asked_for_is_read_as_it_is(store: Store) -> None:
    """Not with the record of before, which would have what is left of a later turn follow what was said."""
    paths, files = make(store, 0)
    seal_session(paths, FOR)

    def run_and_seal() -> None:
        unsealed(paths)
        with paths.transcript.open("a") as file:
            file.write('{"v": 1, "seq": 90, "ts": "2026-01-01T00:00:00Z", "type": "usage", "data": {"text": "new"}}\n')
        seal_session(paths, FOR)

    found = opened(paths, _Asked(run_and_seal))  # type: ignore[arg-type]
    events = list(read_events(found.transcript))
    assert (len(events), events[-1].data) == (files["transcript.jsonl"].count(b"\n") + 1, {"text": "new"})


@pytest.mark.parametrize("make_lock", [Path.mkdir, os.mkfifo])
def test_what_others_call_as_csa_does_in_memory_keeps_nothing_closed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_lock: Callable[[Path], None]
) -> None:
    """An agent, say, which may write there; it is none of csa's, whose lock is a file."""
    monkeypatch.setattr(atrest, "_memory", lambda: str(tmp_path))
    paths, files = make(store, 0)
    seal_session(paths, FOR)
    left = tmp_path / "csa-open-x"
    left.mkdir()
    make_lock(left / "lock")
    os.utime(left, (1, 1))
    assert_has(opened(paths, _Asked()), files)  # type: ignore[arg-type]
    assert left.exists()
