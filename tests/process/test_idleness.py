"""--idle-timeout: silence is neither output nor work."""

from __future__ import annotations

import signal

import pytest

from tests.support import Place, Steps, wait_for


def test_silence_ends_the_turn(place: Place) -> None:
    """A tool that neither says nor computes anything is ended, and nothing of it is left."""
    place.play(["spawn-grandchild", "exec setsid sleep 600"], ["say", "one"], ["sleep", 60])
    done = place.run("run", "--tool", "codex", "--idle-timeout", "1", "go")
    assert done.code == 124
    end = place.last_event(done.session_id)
    silent = {"kind": "idle_timeout", "message": "no output and no CPU time for 1 s"}
    assert (end["status"], end["error"]) == ("timed_out", silent)
    assert "error: codex ran out of time: no output and no CPU time for 1 s\n" in done.err
    assert place.processes() == {}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "work",
    [
        ["run", "end=$((SECONDS+3)); while [ $SECONDS -lt $end ]; do :; done"],
        ["run", "for i in 1 2 3 4 5 6; do sleep 0.5; python3 -c 'sum(range(3000000))'; done"],
    ],
    ids=["one process", "many short ones"],
)
def test_work_is_no_silence(place: Place, work: list[str]) -> None:
    """A command that computes without a word is left to do so, also in processes that come and go."""
    place.play(work, ["say", "done"])
    done = place.run("run", "--tool", "codex", "--idle-timeout", "1.5", "go")
    assert (done.code, done.out) == (0, "done\n")


@pytest.mark.thorough
def test_output_is_no_silence(place: Place) -> None:
    """A tool that says something now and then is left alone."""
    place.play(*[step for _ in range(5) for step in (["sleep", 0.6], ["think", "hm"])], ["say", "done"])
    done = place.run("run", "--tool", "codex", "--idle-timeout", "1.5", "go")
    assert (done.code, done.out) == (0, "done\n")


@pytest.mark.thorough
def test_what_csa_has_not_heard_is_no_silence(place: Place) -> None:
    """While csa is stopped, a tool that talks all the time is not silent; when csa goes on, it is left alone."""
    spoken = place.tmp / "spoken"
    talk: Steps = [step for _ in range(4) for step in (["sleep", 0.7], ["think", "hm"])]
    begin: Steps = [
        ["think", "hm"],
        ["sleep", 0.7],
        ["touch", str(place.ready)],
    ]  # what its start has cost is counted by then
    place.play(*begin, *talk, ["touch", str(spoken)], ["wait-file", str(place.go), 60], ["say", "done"])
    running = place.start("run", "--tool", "codex", "--idle-timeout", "2", "go")
    place.wait_ready()
    running.signal(signal.SIGSTOP)
    wait_for(spoken.exists, "the tool has talked for longer than it may be silent")
    running.signal(signal.SIGCONT)
    place.release()
    done = running.wait()
    assert (done.code, done.out) == (0, "done\n")


@pytest.mark.thorough
def test_closed_output_is_silence(place: Place) -> None:
    """A tool that has closed its output and does nothing is ended."""
    tool = place.tmp / "codex"
    tool.write_text("#!/bin/sh\nexec > /dev/null 2>&1 sleep 60\n")
    tool.chmod(0o755)
    path = f"{place.tmp}:{place.env['PATH']}"
    done = place.run("run", "--tool", "codex", "--idle-timeout", "0.4", "go", env={"PATH": path})
    assert (done.code, place.processes()) == (124, {})


@pytest.mark.thorough
def test_the_setting_holds_and_a_project_may_tighten_it(place: Place) -> None:
    """`idle_timeout_s` is a setting like timeout_s."""
    (place.project / ".csa").mkdir()
    (place.project / ".csa" / "config.toml").write_text("idle_timeout_s = 0.8\n")
    place.play(["sleep", 60])
    assert place.run("run", "--tool", "codex", "go").code == 124
