"""Mirrors: what an outlet says makes one, wherever it is cut off; and what is believed of a host that is not heard."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from csa.errors import BusyError, CsaError, NotFoundError, RefusedError
from csa.model.config import Engine
from csa.runner.client import Csa
from csa.runner.hosts.engines import explain_failure
from csa.runner.hosts.frames import GREETING, ProtocolError, read_greeting
from csa.runner.hosts.intake import Intake
from csa.runner.hosts.outlet import Outlet, read_having, write_having
from csa.runner.sessions.fleet import Fleet
from csa.store.held import open_session
from csa.store.journal import Journal
from csa.store.liveness import probe
from csa.store.mirrors import HEARD_FILE, LOST, Mirror, find_mirrors, mirror_for, stores_everywhere
from csa.store.sessions import Store
from csa.store.stores import find_stores
from csa.store.transcript import read_events
from csa.store.trees import read_members
from csa.structs import replace
from tests.store.support import IDS, PLAIN, begin, finish, finished_session, publish

HOST = "n1"


@pytest.fixture
def host(tmp_path: Path) -> Store:
    """Return a store on another host: another state root."""
    return Store(tmp_path / "host", "/p")


@pytest.fixture
def mirror(state_root: Path) -> Mirror:
    """Return the mirror of that host, which is not there yet."""
    return mirror_for(str(state_root), HOST)


@pytest.fixture(params=[235, pytest.param(7, marks=pytest.mark.thorough)])
def every(request: pytest.FixtureRequest) -> int:
    """Return how many bytes are between two offsets that are tried."""
    found: int = request.param
    return found


def stream_of(host: Store, mirror: Mirror) -> bytes:
    """Return what the host's outlet says to an intake that has what is in the mirror."""
    with Intake(mirror) as intake:
        having = io.BytesIO()
        write_having(having, intake.having())
    having.seek(0)
    out = io.BytesIO()
    Outlet(host.root, out, read_having(having)).send_all()
    return out.getvalue()


def take(mirror: Mirror, stream: bytes) -> Intake:
    with Intake(mirror) as intake:
        list(intake.having())
        intake.take(io.BytesIO(stream))
    return intake


def copy_of(mirror: Mirror, number: int) -> Mirror:
    """Return a copy of a mirror, as that of another host."""
    copy = Mirror(f"{mirror.pathname}-{number}")
    shutil.copytree(mirror.pathname, copy.pathname)
    return copy


def sync(host: Store, mirror: Mirror) -> Intake:
    return take(mirror, stream_of(host, mirror))


def seen(host: Store, mirror: Mirror) -> Store:
    """Return the mirrored store."""
    return Store(mirror.pathname, host.project)


def content(store: Store) -> dict[str, bytes]:
    """Return what a mirror and its host have in common."""
    names = ("transcript.jsonl", "state.toml", "result.toml")
    files = [Path(store.paths(each).pathname, name) for each in store.ids() for name in names]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files if path.exists()}


def check_valid(host: Store, mirror: Mirror) -> None:
    """Each session in the mirror is one that can be read, and what it has is the beginning of what its host has."""
    its = seen(host, mirror)
    for session_id in its.ids():
        info = its.record(session_id).examine()
        assert info.record.fault is None
        assert info.status in {"succeeded", "away", "running"}
        have = Path(its.paths(session_id).transcript).read_bytes()
        whole = have[: have.rfind(b"\n") + 1]
        assert host.paths(session_id).transcript.read_bytes().startswith(whole)
        assert have == whole


def test_whatever_is_cut_off_leaves_a_valid_mirror(host: Store, mirror: Mirror, every: int) -> None:
    """Whatever byte a stream ends at, what came can be read, and the next one brings the rest, once."""
    finished_session(host, IDS[0])
    sync(host, mirror)
    with open_session(host, IDS[0], PLAIN) as held:
        begin(held, turn=2)
        finish(held, turn=2)
    finished_session(host, IDS[1])
    stream = stream_of(host, mirror)
    for end in range(0, len(stream), every):
        cut = copy_of(mirror, end)
        take(cut, stream[:end])
        check_valid(host, cut)
        if end % 25 == 0:
            sync(host, cut)
            assert content(seen(host, cut)) == content(host)
    sync(host, mirror)
    again = sync(host, mirror)
    assert (again.taken.lines, again.taken.sessions) == (0, 0)


@pytest.mark.parametrize("said", [{"project": "/a\0b"}, {"project": "/../../.."}, {"project": "x"}, {"parent": [1]}])
def test_a_hostile_list_of_members_leads_nowhere(host: Store, said: dict[str, object]) -> None:
    """A path that leaves the mirror, one that no system takes, a parent that is none: such a line is skipped."""
    finished_session(host, IDS[0])
    paths = host.paths(IDS[0])
    lines = [
        {"id": IDS[1], "project": "/ok", "parent": IDS[0]},
        {"id": IDS[2], "project": "/x", "parent": None, **said},
    ]
    paths.tree_lock.write_text("".join(json.dumps(each) + "\n" for each in ({"v": 1}, *lines)))
    state = host.record(IDS[0]).state
    assert state
    assert [each.session_id for each in read_members(host.root, state)[0]] == [IDS[0], IDS[1]]


def test_an_outlet_of_one_project_says_nothing_of_others(host: Store, mirror: Mirror) -> None:
    """What was not served was not looked up: it stays in the mirror; what is gone of the project goes."""
    other = Store(host.root, Path("/home/other"))
    for store, session_id in ((host, IDS[0]), (host, IDS[1]), (other, IDS[2])):
        finished_session(store, session_id)
    sync(host, mirror)
    shutil.rmtree(host.paths(IDS[0]).root)
    out = io.BytesIO()
    with Intake(mirror) as intake:
        Outlet(host.root, out, dict(intake.having()), lambda project: project == host.project_pathname).send_all()
    take(mirror, out.getvalue())
    assert seen(host, mirror).ids() == [IDS[1]]
    assert seen(other, mirror).ids() == [IDS[2]]


def test_what_a_host_has_lost_is_kept_aside(host: Store, mirror: Mirror) -> None:
    """A host that lost its last lines and went on has another transcript: the mirror follows, and keeps what it saw."""
    finished_session(host, IDS[0])
    sync(host, mirror)
    transcript = host.paths(IDS[0]).transcript
    before = transcript.read_bytes()
    transcript.write_bytes(b"".join(before.splitlines(keepends=True)[:-1]))
    journal = Journal(transcript, PLAIN, turn=1)
    journal.append("run_finished", {"tool": "codex", "status": "failed", "duration_s": 1.0})
    journal.append("agent_message", {"text": "after the power cut"})
    journal.close()
    stream = stream_of(host, mirror)
    for end in range(0, stream.index(b'"whole"'), 53):  # wherever that is cut off, what was seen stays
        cut = copy_of(mirror, end)
        take(cut, stream[:end])
        assert seen(host, cut).paths(IDS[0]).transcript.read_bytes() == before
    sync(host, mirror)
    session = Path(seen(host, mirror).paths(IDS[0]).pathname)
    assert (session / f"{LOST}1").read_bytes() == before
    assert not (session / f"{LOST}2").exists()
    assert content(seen(host, mirror)) == content(host)


def test_of_a_long_transcript_only_what_differs_comes_again(host: Store, mirror: Mirror) -> None:
    """Wherever that is cut off, what was seen stays; an intake that names no places gets all of it."""
    with publish(host, IDS[0]) as held:
        transcript = held.paths.transcript
        with transcript.open("rb+") as file:
            line = file.readline()
            file.seek(0, os.SEEK_END)
            file.writelines([line.replace(b"hello", b"x" * 5000)] * 1000)
        finish(held)
    sync(host, mirror)
    before = transcript.read_bytes()
    os.truncate(transcript, len(before) - 20_000)
    lines = transcript.read_bytes()
    os.truncate(transcript, lines.rfind(b"\n") + 1)
    with open_session(host, IDS[0], PLAIN) as held:
        finish(held, text="after the power cut")
    stream = stream_of(host, mirror)
    assert len(stream) < 300_000
    for end in range(0, stream.index(b'"whole"'), len(stream) // 5):
        take(mirror, stream[:end])
        assert seen(host, mirror).paths(IDS[0]).transcript.read_bytes() == before
    old = io.BytesIO()
    with Intake(mirror) as intake:
        having = {key: replace(has, marks=()) for key, has in intake.having()}
    Outlet(host.root, old, having).send_all()
    for name, each in (("new", stream), ("old", old.getvalue())):
        its = Mirror(f"{mirror.pathname}-{name}")
        shutil.copytree(mirror.pathname, its.pathname)
        take(its, each)
        assert content(seen(host, its)) == content(host)
        assert Path(seen(host, its).paths(IDS[0]).pathname, f"{LOST}1").read_bytes() == before
    with pytest.raises(ProtocolError, match="not in"):
        take(mirror, f'{{"k":"anew","p":"{host.project}","s":"{IDS[0]}","at":99999999}}\n'.encode())


def test_only_its_host_says_that_a_turn_was_lost(host: Store, mirror: Mirror) -> None:
    """Fresh news of a turn that runs: alive. No news: away, with how long ago, and up to what. The host's own: lost."""
    held = publish(host, IDS[0])
    sync(host, mirror)
    its = seen(host, mirror)
    paths = its.paths(IDS[0])
    assert (probe(paths).state, its.record(IDS[0]).status) == ("alive", "running")
    heard = Path(mirror.pathname, HEARD_FILE)
    os.utime(heard, (time.time() - 250, time.time() - 250))
    away = probe(paths).away
    last = list(read_events(paths.transcript))[-1].seq
    assert away
    assert away.in_words == f"running when last seen 4 min ago (event {last})"
    assert its.record(IDS[0]).status == "away"
    held.close()
    sync(host, mirror)
    assert (probe(paths).state, its.record(IDS[0]).status) == ("not_alive", "lost")
    os.utime(heard, (time.time() - 250, time.time() - 250))
    assert its.record(IDS[0]).status == "lost"


def test_what_was_heard_of_a_new_turn_outweighs_what_was_said_before_it(
    host: Store, mirror: Mirror, every: int
) -> None:
    """Cut off anywhere in the news of a turn that has begun since, a mirror never says that this turn is lost."""
    finished_session(host, IDS[0])
    sync(host, mirror)
    with open_session(host, IDS[0], PLAIN) as held:
        begin(held, turn=2)
        stream = stream_of(host, mirror)
    for end in range(0, len(stream), every):
        cut = copy_of(mirror, end)
        take(cut, stream[:end])
        assert seen(host, cut).record(IDS[0]).status in {"succeeded", "running", "away"}


def test_what_is_deleted_there_is_in_the_trash_here(host: Store, mirror: Mirror) -> None:
    """And back in its place when it is restored there; an outlet that finds nothing at all deletes nothing."""
    for each in IDS[:2]:
        finished_session(host, each)
    sync(host, mirror)
    its = seen(host, mirror)
    place, aside = Path(host.paths(IDS[0]).pathname), host.root / "aside"
    place.rename(aside)
    sync(host, mirror)
    assert (its.ids(), its.retired_ids()) == ([IDS[1]], [IDS[0]])
    aside.rename(place)
    with open_session(host, IDS[0], PLAIN) as held:
        begin(held, turn=2)
        finish(held, turn=2)
    sync(host, mirror)
    assert (its.ids(), its.retired_ids()) == (sorted(IDS[:2]), [])
    assert content(its) == content(host)
    host.root.rename(host.root.with_name("unmounted"))
    host.root.mkdir()
    sync(host, mirror)
    assert its.ids() == sorted(IDS[:2])


def test_mirrors_are_read_and_nothing_else(state_root: Path, project: Path, host: Store, mirror: Mirror) -> None:
    """A full id finds a mirrored session, `n1:` a part of one; who acts is told where; the own root does without it."""
    finished_session(host, IDS[0])
    sync(host, mirror)
    client = Csa(project, root=state_root)
    for selector in (IDS[0], IDS[0][:14], f"{HOST}:{IDS[0][:14].lower()}"):
        assert client.session(selector, retired=True).store.host == HOST
        with pytest.raises(RefusedError, match="is on n1; here it can only be read") as refused:
            client.session(selector)
        assert refused.value.hint == f"act there: ssh n1 csa ... -s {IDS[0]}"
    with pytest.raises(NotFoundError, match="no mirror of a host 'n2'"):
        client.session(f"n2:{IDS[0]}", retired=True)
    with pytest.raises(RefusedError), open_session(seen(host, mirror), IDS[0], PLAIN):
        pass
    assert list(find_stores(state_root, with_retired=True)) == []
    assert [store.host for store in stores_everywhere(state_root)] == [HOST]
    assert [each.host for each in find_mirrors(str(state_root))] == [HOST]
    with Intake(mirror), pytest.raises(BusyError):
        Intake(mirror)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b'{"k":"lines","p":"/p/../../x","s":"%s","at":0,"n":1}\nx', "names a session"),
        (b'{"k":"lines","p":"/p","s":"../x","at":0,"n":1}\nx', "names a session"),
        (b'{"k":"lines","p":"/p\\u0000","s":"%s","at":0,"n":1}\nx', "names a session"),
        (b'{"k":"lines","p":"/p\\ud800","s":"%s","at":0,"n":1}\nx', "names a session"),
        (b'{"k":"lines","p":"/p","s":"%s","at":0.0,"n":1}\nx', "goes on at 0.0"),
        (b'{"k":"file","p":"/p","s":"%s","name":"../x","n":1}\nx', "sends a file called"),
        (b'{"k":"lines","p":"/p","s":"%s","at":7,"n":1}\nx', "goes on at 7"),
        (b'{"k":"lines","p":"/p","s":"%s","at":0,"n":99999999}\nx', "has the length"),
        (b'{"k":"else","p":"/p","s":"%s"}\n', "of the kind 'else'"),
        (b"Welcome to n1!\n", "This is no frame"),
    ],
)
def test_what_makes_no_sense_is_refused(mirror: Mirror, said: bytes, words: str) -> None:
    """An outlet cannot make an intake write anything but the files of sessions."""
    with pytest.raises(ProtocolError, match=words):
        take(mirror, said.replace(b"%s", IDS[0].encode()))


def test_a_greeting_comes_after_what_a_shell_prints() -> None:
    """And of an outlet of another version, both versions are named."""
    greeting = f'{{"csa":"{GREETING}","protocol":%d,"version":"9.9"}}\n'
    assert read_greeting(io.BytesIO(b"Last login: today\n\n[1]\n" + (greeting % 1).encode()))
    assert read_greeting(io.BytesIO(b"bash: csa: command not found\n")) is None
    with pytest.raises(ProtocolError, match=r"csa 9\.9 speaks version 2 .*, this csa version 1"):
        read_greeting(io.BytesIO((greeting % 2).encode()))


@pytest.mark.parametrize("at", ["null", '"now"', "NaN", "1e999", "{}", "1" + "0" * 400])
def test_a_greeting_has_a_time(mirror: Mirror, at: str) -> None:
    """And of what else a host says of itself, what makes no sense is left out."""
    greeting = '{"csa":"outlet","protocol":1,"time":%s,"tools":[1,"codex"],"running":"x","version":[]}\n'
    said = read_greeting(io.BytesIO((greeting % at).encode()))
    assert said
    with Intake(mirror) as intake:
        with pytest.raises(ProtocolError, match="what time it is"):
            intake.greet(said)
        intake.greet({**said, "time": time.time() + 7200})
    about = dict(mirror.about())
    assert round(about.pop("skew_s"), -1) == 7200
    assert about == {"tools": ["codex"], "running": 0}


@pytest.mark.parametrize(
    ("code", "said", "words", "hint"),
    [
        (255, "ssh: Could not resolve hostname n1: Name or service not known", "n1 cannot be reached", "~/.ssh/config"),
        (255, "Host key verification failed.", "n1 cannot be reached: Host key verification failed.", "ssh n1, and"),
        (255, "ann@n1: Permission denied (publickey).", "n1 cannot be reached", "ssh-copy-id n1"),
        (255, "ssh: connect to host n1 port 22: Connection refused", "n1 cannot be reached", "try: ssh"),
        (127, "bash: csa: command not found", "There is no csa on n1", '[engines.n1] csa = ["/path/to/csa"]'),
        (2, "error: There is no command 'outlet'.", "too old", "the same version"),
    ],
)
def test_why_a_host_is_not_reached(code: int, said: str, words: str, hint: str) -> None:
    """What ssh says becomes a sentence and the next step."""
    error = explain_failure(Engine(HOST), code, f"Welcome!\n{said}\n")
    assert words in error.message
    assert hint in str(error.hint)


def test_who_watches_all_sessions_sees_those_of_mirrors(host: Store, mirror: Mirror, state_root: Path) -> None:
    """What an intake changes is seen at the next look, also a mirror, or project, that is new; silence is seen too."""
    fleet = Fleet(str(state_root), mirrors=True)
    assert fleet.look() == {}
    label = f"{HOST}:{host.project_pathname}"
    finished_session(host, IDS[0])
    with publish(host, IDS[1]) as held:
        take(mirror, stream_of(host, mirror))
        fleet.look()  # the directory may have been listed in the tick in which the rest came
        assert {key: info.status for key, info in zip(_keys(fleet), fleet.infos, strict=True)} == {
            (label, IDS[0]): "succeeded",
            (label, IDS[1]): "running",
        }
        then = time.time() - 60
        os.utime(f"{mirror.pathname}/{HEARD_FILE}", (then, then))
        away = fleet.look()[label, IDS[1]]
        assert away
        assert (away.status, away.to_row()["heard_at"] is not None) == ("away", True)
        assert fleet.look() == {}
        finish(held)
    take(mirror, stream_of(host, mirror))
    assert set(fleet.look()) == {(label, IDS[1])}
    Csa(host.project, root=host.root).rename(IDS[0], "api")
    take(mirror, stream_of(host, mirror))
    seen = fleet.look()[label, IDS[0]]
    assert seen
    assert seen.name == "api"
    other = Store(host.root, "/q")
    finished_session(other, IDS[2])
    take(mirror, stream_of(host, mirror))
    assert set(fleet.look()) == {(f"{HOST}:/q", IDS[2])}
    assert Fleet(str(state_root)).look() == {}


def test_what_is_watched_of_a_host_is_bounded(
    host: Store, mirror: Mirror, state_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many projects and sessions it has, or sends: those in which something was new last, and their newest."""
    monkeypatch.setattr("csa.runner.sessions.fleet._MOST_PROJECTS", 2)
    monkeypatch.setattr("csa.runner.sessions.fleet._MOST_OF_HOST", 2)
    projects = [Store(host.root, f"/{name}") for name in "abc"]
    for number, store in enumerate(projects):
        finished_session(store, IDS[number])
    take(mirror, stream_of(host, mirror))
    for number, store in enumerate(projects):
        os.utime(Store(mirror.pathname, store.project).sessions_dir, (number, number))
    fleet = Fleet(str(state_root), mirrors=True)
    fleet.look()
    assert {info.project for info in fleet.infos} == {"/b", "/c"}
    for session_id in IDS[3:]:
        finished_session(projects[2], session_id)
    take(mirror, stream_of(host, mirror))
    fleet.look()
    assert {info.session_id for info in fleet.infos if info.project == "/c"} == {max(IDS[2:])}


def test_other_hosts_leave_files_to_this_one(host: Store, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which few more files fit takes no more, however small they are."""
    finished_session(host, IDS[0])
    sent = stream_of(host, mirror)
    monkeypatch.setattr("csa.runner.hosts.intake._LOOK_BYTES", 0)
    real = os.statvfs(Path(mirror.pathname).anchor)
    values = [*real[:5], 3000, 100, 100, *real[8:]]
    monkeypatch.setattr("csa.runner.hosts.intake.os.statvfs", lambda _: os.statvfs_result(values))
    with pytest.raises(CsaError, match="room for only"):
        take(mirror, sent)


def _keys(fleet: Fleet) -> list[tuple[str, str]]:
    return [info.store.key(info.session_id) for info in fleet.infos]
