"""The user's repository after a turn has ended, or was ended, while git was at work in it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import READY_S, RealTool, Workplace, finish

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

LOOSE = 160  # files of 256 KiB: packing them takes seconds


def git(place: Workplace, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=place.project, env=place.env, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.fixture
def repository(place: Workplace) -> Workplace:
    git(place, "config", "user.name", "User")
    git(place, "config", "user.email", "user@example.org")
    return place


def write_loose(place: Workplace) -> None:
    """Write so many objects that git finds two in objects/17, from which alone it estimates how many there are."""
    directory = place.base / "loose"
    directory.mkdir()
    paths = [directory / str(number) for number in range(2000)]
    for path in paths:
        path.write_text(path.name)
    listed = "".join(f"{path}\n" for path in paths)
    hash_them = ["git", "hash-object", "-w", "--stdin-paths"]
    subprocess.run(hash_them, cwd=place.project, env=place.env, input=listed.encode(), capture_output=True, check=True)
    assert len(list((place.project / ".git" / "objects" / "17").iterdir())) > 1


def locks(place: Workplace) -> list[str]:
    return sorted(path.name for path in (place.project / ".git").rglob("*.lock"))


def test_the_last_act_is_a_commit(repository: Workplace, tool: RealTool) -> None:
    """git collects garbage behind the commit; the end of the turn ends that without leaving its lock file."""
    place = repository
    for number in range(LOOSE):
        (place.project / f"random-{number}").write_bytes(os.urandom(256 << 10))
    git(place, "add", ".")
    write_loose(place)
    git(place, "config", "gc.auto", "1")
    place.provider.on("commit", tool_call("git commit -q -m 'by the agent'; echo committed"), text("done"))
    result = place.run(tool, "commit", "--permission", "full")
    assert git(place, "log", "--format=%s") == "by the agent\n"
    warnings = [event.get("kind") for event in place.events(result["session_id"], "warning")]
    assert "leftovers" in warnings  # else it was over before the turn
    assert locks(place) == []
    assert "gc.log" not in git(place, "-c", "gc.autoDetach=false", "gc", "--auto")


def test_a_turn_is_killed_while_git_works(repository: Workplace, tool: RealTool) -> None:
    """A `git add` that is cut short by `session kill` leaves no index.lock, whatever the tool does to its shell."""
    place = repository
    busy = place.base / "busy"
    git(place, "config", "filter.slow.clean", f"touch '{busy}'; sleep 300; cat")
    (place.project / ".gitattributes").write_text("*.big filter=slow\n")
    (place.project / "x.big").write_text("x")
    place.provider.on("add", tool_call("git add x.big"), text("done"))
    running = place.start("run", "--tool", tool.name, "--permission", "full", "add")
    wait_until(busy)
    assert (place.project / ".git" / "index.lock").exists()
    session_id = place.only_session()["id"]
    assert place.csa("session", "kill", "-s", session_id).code == 0
    assert finish(running).code != 0
    assert place.only_session()["status"] == "cancelled"
    assert locks(place) == []
    assert place.gone_after() == {}


def wait_until(path: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} does not come"
        time.sleep(0.05)  # an agent's command makes it, and says nothing
