"""What a command that is silent for long says to the tool whose agent has called it."""

import re
import sys
import time

import pytest

from csa.cli.views.signs import Signs, doing
from csa.paths import SessionPaths
from csa.store.sessions import Record, Store
from csa.store.shown import SessionInfo
from tests.support import Place, wait_for

# csa as it is, but for the length of a minute; it is started as `csa`, which its agents are then told to call.
_HASTY = "import sys, csa.cli.views.signs as s; s.INTERVAL_S = 0.2; from csa.cli.main import main; sys.exit(main())"
HASTY = [sys.executable, "-c", _HASTY]


def said_after(capfd: pytest.CaptureFixture[str], needle: str) -> str:
    """Return what stderr has got when the words have come."""
    heard: list[str] = []

    def has_come() -> bool:
        heard.append(capfd.readouterr().err)
        return needle in "".join(heard)

    wait_for(has_come, needle)
    return "".join(heard)


def test_it_speaks_again_and_again(capfd: pytest.CaptureFixture[str]) -> None:
    """A line comes each time the interval is over, with what is meant by then, until it is to stop."""
    speaker = Signs(interval_s=0.05)
    speaker.start()
    said_after(capfd, "csa: waiting\ncsa: waiting\n")
    speaker.about(lambda: "01JH4QWERT codex 3m00s: $ npm test\nall of it")
    assert "csa: 01JH4QWERT codex 3m00s: $ npm test all of it\n" in said_after(capfd, "npm")
    speaker.stop()
    time.sleep(0.1)
    capfd.readouterr()
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


def test_a_fault_is_no_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be looked at, that it waits is said all the same."""

    def fail() -> str:
        raise RuntimeError("no store")

    speaker = Signs(interval_s=0.05)
    speaker.about(fail)
    speaker.start()
    assert "csa: waiting for 0 s\n" in said_after(capfd, "waiting for")
    speaker.stop()


def test_what_a_session_does() -> None:
    """Who, for how long, and what it did last."""
    record = Record(Store("/", "/"), "01JH4QWERT0000000000000000", SessionPaths("/nowhere"), None)
    info = SessionInfo(record=record, status="running", tool="codex", doing="$ npm test", started_at=1000.0)
    assert doing(info, now=1192.0) == "01JH4QWERT codex 3m12s: $ npm test"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words", [("run", "--tool", "codex", "slowly"), ("run", "--tool", "codex", "--json", "slowly")]
)
def test_a_nested_run_speaks(place: Place, words: tuple[str, ...]) -> None:
    """Inside a session stderr tells what the child does; stdout is the answer alone."""
    _, inside = place.agent()
    place.play(["call", "npm test"], ["sleep", 3], ["say", "all is well"])
    done = place.shell([*HASTY, *words], env=inside)
    assert done.code == 0, done.err
    assert re.search(rf"^csa: {done.session_id[:10]} codex \ds: slowly · \$ npm test$", done.err, re.MULTILINE)
    assert "npm test" not in done.out
    assert "all is well" in done.out


@pytest.mark.thorough
def test_it_keeps_silent(place: Place) -> None:
    """With --quiet, and where nobody's limit counts: outside of any session."""
    _, inside = place.agent()
    place.play(["call", "npm test"], ["sleep", 3], ["say", "all is well"])
    assert place.shell([*HASTY, "run", "--tool", "codex", "--quiet", "slowly"], env=inside).err == ""
    assert "codex 0s: " not in place.shell([*HASTY, "run", "--tool", "codex", "slowly"]).err


@pytest.mark.thorough
@pytest.mark.parametrize("command", ["wait", "attach", "logs -f"])
def test_who_waits_speaks(place: Place, command: str) -> None:
    """An agent that waits for a child, or follows it, is heard while the child says nothing."""
    _, inside = place.agent()
    place.play(["call", "npm test"], ["sleep", 4], ["say", "all is well"])
    child = place.run("run", "--detach", "--tool", "codex", "slowly", env=inside).out.strip()
    done = place.shell([*HASTY, "session", *command.split(), "--session", child], env=inside)
    assert f"csa: {child[:10]} codex " in done.err
    assert "· $ npm test\n" in done.err


@pytest.mark.thorough
def test_a_run_that_waits_for_its_turn_speaks(place: Place) -> None:
    """Also before anything has begun: who holds the session is said again and again."""
    _, inside = place.agent()
    place.script({"match": "first", "do": [*place.hold()]}, {"match": "second", "do": [["say", "done"]]})
    first = place.start("run", "--tool", "codex", "first", env=inside)
    place.wait_ready()
    waiting = place.shell([*HASTY, "run", "--wait=1", "--session", first.session_id, "second"], env=inside)
    place.release()
    assert waiting.code == 4
    assert waiting.err.count(f"csa: waiting: Session {first.session_id} is locked by PID") > 1
    first.wait()
