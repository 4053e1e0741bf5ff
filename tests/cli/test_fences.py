"""What is on its way to another host, and what a host that lies or breaks cannot do here."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import IO, cast

import pytest

from csa.errors import StateError
from csa.model.config import Engine
from csa.model.limits import Limits
from csa.model.placement import Placement
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.hosts import acting
from csa.runner.hosts import outlet as outlets
from csa.runner.hosts.acting import Call
from csa.runner.hosts.engines import HostError
from csa.runner.hosts.frames import read_frame
from csa.runner.hosts.outlet import Outlet
from csa.runner.hosts.starting import take_up
from csa.runner.hosts.watching import Keeping
from csa.store.held import HeldSession
from csa.store.locks import Lock, acquire_lock
from csa.store.mirrors import Mirror, find_mirrors
from csa.store.placements import save_placement
from csa.store.sessions import Store
from csa.store.slots import SlotHolder, take_slot
from csa.store.statefile import load_state, save_state
from csa.structs import replace
from tests.cli.hosts import place_below, sync
from tests.cli.test_escrow import AWAY, Family
from tests.cli.test_placing import order_for, speak
from tests.cli.worktrees import NAMES, sh, work
from tests.store.support import publish
from tests.support import CSA, Json, Place, wait_for

OTHER, HELD = "01JH4QWERT0000000000000007", "01JH4QWERT0000000000000008"


@pytest.fixture
def family(place: Place) -> Family:
    return Family(place)


def context_in(place: Place, directory: Path | str) -> Context:
    environ = {name: value for name, value in place.environment(None).items() if value}
    return Csa.from_environment(directory, environ=environ).context


def watch_again(place: Place) -> None:
    """Do what the next `csa serve` does at its start."""
    take_up(context_in(place, place.project), Keeping(str(place.state_root)), partial(context_in, place))


def kill_tree(place: Place) -> tuple[int, dict[str, Json]]:
    done = place.run("kill", "--tree", "--json", "root")
    return done.code, {each["session_id"]: each for each in done.json}


def placed(place: Place) -> list[Json]:
    found: list[Json] = place.run("hosts", "--placed", "--json").json
    return found


@pytest.mark.thorough
def test_what_is_on_its_way_never_begins_after_a_kill(family: Family, place: Place, remote: Place) -> None:
    """An order that arrives later is refused, and holds nothing; if its host is not reached, it is not called ended."""
    with family.reserve(4000) as escrowed:
        escrowed.sent()
    gone = place.run("kill", "--tree", "root", env={"PATH": "/usr/bin:/bin"})
    assert gone.code == 7, gone
    code, ended = kill_tree(place)
    assert (code, ended[AWAY]["outcome"]) == (0, "not_running"), ended
    assert placed(place) == []
    late = speak(remote, order_for(remote, escrowed.id, session_id=AWAY))
    assert late[1]["error"]["code"] == "not_placed"
    assert remote.ids() == []


@pytest.mark.thorough
def test_what_a_server_that_was_killed_was_about_to_send_is_given_back(
    family: Family, place: Place, remote: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one gives back what was not sent, and has a host refuse for all time what has not arrived there."""
    monkeypatch.setattr("csa.runner.hosts.starting.ON_ITS_WAY_S", 0.0)
    monkeypatch.setenv("PATH", place.env["PATH"])
    with family.reserve(4000):
        watch_again(place)
        assert [each["state"] for each in placed(place)] == ["reserved"]
    watch_again(place)
    assert placed(place) == []
    with family.reserve(4000) as escrowed:
        escrowed.sent()
    watch_again(place)
    wait_for(lambda: placed(place) == [], "it is given back")
    late = speak(remote, order_for(remote, escrowed.id, session_id=AWAY))
    assert late[1]["error"]["code"] == "not_placed"
    assert family.budget()["used"]["tokens"] == family.used


@pytest.mark.thorough
def test_an_order_to_go_on_is_not_settled_by_the_turn_before(
    family: Family, place: Place, remote: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though that has ended there: what it was given holds until its own turn has, or can never begin."""
    monkeypatch.setattr("csa.runner.hosts.starting.ON_ITS_WAY_S", 0.0)
    monkeypatch.setenv("PATH", place.env["PATH"])
    with family.reserve(4000) as first:
        first.sent()
        used = family.run_there(remote)
    sync(place)
    assert placed(place) == []
    with family.reserve(5000) as second:
        second.sent()
    sync(place)
    assert [each["state"] for each in placed(place)] == ["sent"]
    watch_again(place)
    wait_for(lambda: placed(place) == [], "it is called off")
    assert family.budget()["used"]["tokens"] == family.used + used


@pytest.mark.thorough
@pytest.mark.parametrize("is_agents", [True, False])
def test_what_an_agent_has_placed_is_fetched_as_it_may(
    family: Family, place: Place, remote: Place, monkeypatch: pytest.MonkeyPatch, *, is_agents: bool
) -> None:
    """Whoever watches it later runs no git in a repository that the agent has made: that can name programs to run."""
    monkeypatch.setenv("PATH", place.env["PATH"])
    own = place.tmp / "own"
    place.env |= NAMES
    sh(place, f"git init -q {own}; cd {own}; git commit -q --allow-empty -m first", cwd=place.tmp)
    remote.env |= NAMES
    sh(remote, f"git clone -q {own} {remote.project}", cwd=remote.tmp)
    there = work(remote, "echo one > new")
    save_placement(
        place.state_root,
        Placement(
            id=OTHER,
            session_id=there,
            host="n1",
            project=str(place.project),
            at="2026-12-01T00:00:00Z",
            state="placed",
            turn=1,
            parent=family.root if is_agents else None,
            directory=str(own),
            awaits_code=True,
        ),
    )
    threads = threading.active_count()
    watch_again(place)
    wait_for(lambda: threading.active_count() == threads, "it is over")
    assert [each["state"] for each in placed(place)] == (["settled"] if is_agents else [])
    assert bool(sh(place, "git for-each-ref refs/csa", cwd=own)) is not is_agents


@pytest.mark.thorough
@pytest.mark.parametrize("is_held", [False, True])
def test_what_is_being_prepared_never_begins_after_a_kill(
    family: Family, place: Place, remote: Place, *, is_held: bool
) -> None:
    """Its code is still coming, or it waits for its session, which is busy: `csa kill --tree` ends that."""
    with family.reserve(4000) as escrowed:
        escrowed.sent()
    first, order = order_for(remote, escrowed.id, session_id=AWAY).splitlines()
    if is_held:
        remote.play(*remote.hold())
        busy = remote.start("run", "--tool", "codex", "--session-id", AWAY, "long")
        remote.wait_ready()
        given = json.loads(order)
        given["order"] |= {"wait_s": 60, "request": {**given["order"]["request"], "session": AWAY}}
        order = json.dumps(given).encode()
    else:
        code: Json = {"key": "0" * 40, "commit": "1" * 40, "cut": [], "form": "sha1", "below": "", "target": None}
        first = json.dumps({**json.loads(first), "code": code}).encode()
        order = json.dumps({**json.loads(order), "code": code}).encode()
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [CSA, "supervise"], env=remote.environment(None), cwd="/", stdin=pipe, stdout=pipe
    ) as preparing:
        assert preparing.stdin
        preparing.stdin.write(first + b"\n" + order + b"\n")
        preparing.stdin.flush()
        wait_for((remote.state_root / ".orders" / f"{escrowed.id}.json").exists, "it has come")
        code_of_kill, ended = kill_tree(place)
        assert code_of_kill == 0, ended
        assert preparing.wait() != 0
    assert not remote.processes()
    assert remote.last_event(AWAY)["status"] == "cancelled" if is_held else remote.ids() == []
    if is_held:
        assert (busy.wait().code != 0, remote.events(AWAY)[-1]["turn"]) == (True, 1)
    assert placed(place) == []


@pytest.mark.thorough
@pytest.mark.parametrize("harm", ["purged", "damaged"])
def test_an_order_that_is_lost_begins_nothing(remote: Place, harm: str) -> None:
    """Its job waits for who holds it; but whoever asks for it would be told that it never came, or nothing."""
    quiet = subprocess.DEVNULL
    argv = [CSA, "supervise", "--job"]
    with subprocess.Popen(argv, env=remote.environment(None), cwd="/", stdin=subprocess.PIPE, stdout=quiet) as process:
        assert process.stdin
        process.stdin.write(order_for(remote, OTHER, session_id=AWAY))
        process.stdin.flush()
        order = remote.state_root / ".orders" / f"{OTHER}.json"
        wait_for(lambda: order.exists() and order.stat().st_size, "it is taken")
        shutil.rmtree(order.parent) if harm == "purged" else order.write_bytes(order.read_bytes() + b"{\n")
        assert process.wait() == 1
    assert remote.ids() == []


@pytest.mark.thorough
def test_a_damaged_record_hides_nothing_that_was_placed(family: Family, place: Place, remote: Place) -> None:
    """The tree's list names it, whatever the record of its root is."""
    with family.reserve(4000) as escrowed:
        escrowed.sent()
    (place.session(family.root) / "state.toml").write_text("not toml")
    done = place.run("kill", "--tree", "--json", family.root)
    assert isinstance(done.json, list), done
    ended = {each["session_id"]: each["outcome"] for each in done.json}
    assert ended[AWAY] == "not_running", done


@pytest.mark.thorough
def test_a_mirror_cannot_book_in_another_tree(family: Family, place: Place, remote: Place) -> None:
    """Whose child a session elsewhere is, the lists here say: what its host says of a parent here is not enough."""
    there = remote.codex("hello", "--name", "auth").session_id
    at = remote.session(there) / "state.toml"
    lie: Json = {"parent_session_id": family.root, "parent_project": str(place.project), "parent_host": "here"}
    save_state(at, replace(load_state(at), root_session_id=family.root, depth=1, **lie))
    sync(place)
    used = family.budget()["used"]["tokens"]
    done = place.run("run", "-s", "n1:auth", "more")
    assert done.code == 0, done.err
    assert family.budget()["used"]["tokens"] == used
    place_below(place, remote, family.root, there)
    sync(place)
    refused = place.run("run", "-s", "n1:auth", "--allow-tokens", "8900000", "more")
    assert (refused.code, "is placed on another host" in refused.err) == (4, True), refused  # now it is listed here


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_host_that_says_too_much(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """Neither is kept beyond a limit, nor read for longer than one waits."""
    monkeypatch.setattr(acting, "_MOST_OUT", 1 << 20)
    endless = f"import sys\nwhile True: sys.{stream}.write('x' * 65536)"
    call = Call(Engine("n1", reach=(sys.executable, "-ISc", endless)), ["kill"], limit_s=0.5)
    with pytest.raises(HostError, match="1 MB" if stream == "stdout" else "within"):
        call.answer()


def test_mirrors_that_cannot_be_listed_are_not_gone(tmp_path: Path) -> None:
    """Whoever would delete what is not there any more, or look for something, is told so."""
    assert find_mirrors(str(tmp_path)) == []
    (tmp_path / ".mirrors").symlink_to(".mirrors")  # ELOOP, as root reads every directory
    with pytest.raises(StateError):
        find_mirrors(str(tmp_path))
    faults: list[StateError] = []
    assert (find_mirrors(str(tmp_path), faults.append), len(faults)) == ([], 1)
    (tmp_path / ".mirror").symlink_to(".mirror")
    assert Mirror(str(tmp_path)).exists()


@pytest.mark.thorough
def test_what_a_killed_process_has_left_beside_placements_goes(place: Place, tmp_path: Path) -> None:
    """`csa gc` deletes a lock that nobody holds and that is of nothing, and an old draft; nothing else."""
    placed = place.state_root / ".placed"
    placed.mkdir(parents=True)
    record, draft, new = (f"{AWAY}.json", f".{AWAY}.json.1.tmp", f".{AWAY}.json.2.tmp")
    for name in (record, f"{AWAY}.lock", f"{OTHER}.lock", f"{HELD}.lock", draft, new):
        (placed / name).touch(0o600)
    os.utime(placed / draft, (0, 0))
    with acquire_lock(placed / f"{HELD}.lock"):
        assert place.run("gc", "--days", "30").code == 0
    assert {each.name for each in placed.iterdir()} == {record, f"{AWAY}.lock", f"{HELD}.lock", new}


def test_a_session_of_another_host_names_those_above_it(place: Place, remote: Place) -> None:
    """`@parent` and `@root` say where they are; and all that are above it, it may not touch, on any host."""
    _, env = remote.agent("--name", "kid")
    at = remote.session(remote.ids()[0]) / "state.toml"
    above: Json = {"parent_session_id": AWAY, "parent_project": "/p", "parent_host": "home", "root_session_id": HELD}
    save_state(at, replace(load_state(at), depth=3, above=(AWAY, OTHER, HELD), **above))
    for word in ("@parent", "@root"):
        done = remote.run("status", word, env=env)
        assert (done.code, "is on home" in done.err) == (3, True), done.err
    store = publish(Store(f"{remote.state_root}/.mirrors/n0", "/srv"), OTHER)
    store.close()
    Path(f"{remote.state_root}/.mirrors/n0/.mirror").mkdir()
    refused = remote.run("kill", OTHER, env=env)
    assert (refused.code, "is an ancestor" in refused.err) == (5, True), refused


def test_what_runs_is_sent_before_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host with many sessions, a turn is seen at once that begins while its mirror is being made."""
    store, sent = Store(tmp_path, "/srv/app"), io.BytesIO()
    monkeypatch.setattr(outlets, "RUNNING_S", 0.0)
    ids = [f"01JH4QWERT{number:016d}" for number in range(9)]
    for each in ids[:-1]:
        publish(store, each).close()
    held: list[Lock | HeldSession] = []  # what runs

    class Slow(Outlet):
        def _send(self, store: Store, session_id: str) -> None:
            super()._send(store, session_id)
            if session_id == ids[-4]:
                held.append(publish(Store(tmp_path, "/srv/new"), ids[-1]))
                held.append(take_slot(tmp_path, SlotHolder(ids[-1], "codex"), Limits()))

    Slow(tmp_path, cast("IO[bytes]", sent), {}).send_all()
    sent.seek(0)
    order = [frame.said["s"] for frame in iter(lambda: read_frame(sent), None) if frame.kind == "whole"]
    for running in held:
        running.close()
    assert order == [*reversed(ids[-4:-1]), ids[-1], *reversed(ids[:-4])]


@pytest.mark.thorough
def test_a_directory_that_is_only_there(place: Place, remote: Place) -> None:
    """`--cd` names it on the host; without `--on`, or as a relative path, it has to be here."""
    there = Path(remote.env["HOME"], "there")
    there.mkdir()
    done = place.run("run", "--on", "n1", "--tool", "codex", "--cd", "~/there", "--json", "hello")
    assert done.code == 0, done.err
    assert remote.state(done.json["session_id"], there)["project_path"] == str(there)
    for words in (["--cd", "~/there"], ["--on", "n1", "--cd", "there"], ["--on", "here", "--cd", "/nowhere"]):
        assert place.run("run", "--tool", "codex", *words, "hello").code == 2
