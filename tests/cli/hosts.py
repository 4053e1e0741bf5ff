"""Another host, n1: a home and a state root of its own, which the ssh of a place reaches."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from csa.model.limits import Spent
from csa.store.mirrors import HEARD_FILE, Mirror, mirror_for
from csa.store.statefile import load_state, save_state
from csa.structs import replace
from tests.support import Place, close_place

SSH = """#!/bin/sh
# As ssh HOST COMMAND..., for a host that has a home and a state root of its own.
while [ "$1" != -- ]; do shift; done
case "$2" in
  n1) ;;
  nowhere) echo "ssh: Could not resolve hostname nowhere: Name or service not known" >&2; exit 255;;
  strange) echo "Host key verification failed." >&2; exit 255;;
  bare) echo "sh: 1: csa: not found" >&2; exit 127;;
  hung) exec sleep 60;;
esac
shift 2
export HOME={home} CSA_STATE_DIR={state}
cd "$HOME" && echo "Welcome to n1!" && exec "$@"
"""


@pytest.fixture
def remote(place: Place, tmp_path: Path) -> Iterator[Place]:
    """Return a place on the host n1, which the ssh of the other place reaches."""
    home, project, state = (tmp_path / "n1" / name for name in ("home", "app", "state"))
    for each in (home, project):
        each.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(SSH.replace("{home}", str(home)).replace("{state}", str(state)))
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    place.env["PATH"] = f"{ssh.parent}:{place.env['PATH']}"
    there = Place(tmp_path / "n1", project, state, place.server)
    there.env |= {"HOME": str(home), "CSA_STATE_DIR": str(state)}
    yield there
    close_place(there)


@pytest.fixture
def mirror(place: Place) -> Mirror:
    return mirror_for(str(place.state_root), "n1")


def sync(place: Place) -> str:
    """Bring the mirror up to date; return what is printed."""
    done = place.run("sync", "n1")
    assert done.code == 0, done.err
    return done.out


def make_old(mirror: Mirror, seconds: float = 250) -> None:
    """Let the host not have been heard of for that long."""
    then = time.time() - seconds
    os.utime(f"{mirror.pathname}/{HEARD_FILE}", (then, then))


def place_below(place: Place, remote: Place, parent: str, child: str) -> None:
    """Let a session of the host have been placed there by one that is here: by its record there, and the roll here."""
    name_parent(remote, parent, child)
    roll = place.session(parent) / "locks" / "tree.lock"
    held = {"id": child, "gone": Spent().to_dict(), "held": True}
    line = {"id": child, "project": str(remote.project), "parent": parent, "host": "n1"}
    with roll.open("a") as file:
        file.writelines(json.dumps(each, separators=(",", ":")) + "\n" for each in (held, line))


def name_parent(remote: Place, parent: str, child: str) -> None:
    """Let the host say that a session of another host is the parent of one of its own."""
    for each in remote.ids():
        at = remote.session(each) / "state.toml"
        state = load_state(at)
        if each == child:
            save_state(at, replace(state, parent_session_id=parent, root_session_id=parent, depth=1))
        elif state.root_session_id == child:
            save_state(at, replace(state, root_session_id=parent, depth=state.depth + 1))
