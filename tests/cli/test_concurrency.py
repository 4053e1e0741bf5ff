"""Many at once: new sessions, readers beside them, and two that want the same one."""

from __future__ import annotations

import pytest

from tests.effort import number as often
from tests.support import Place, Running, wait_for

RACING = often(5, least=3)


@pytest.mark.thorough
def test_many_new_sessions_while_others_read(place: Place) -> None:
    """Twenty runs started together become twenty valid records; every list meanwhile is whole."""
    started = [place.start("run", "--tool", "codex", "--quiet", f"task {number}") for number in range(20)]
    seen: list[int] = []
    while any(running.process.poll() is None for running in started):
        listed = place.run("session", "list", "--json")
        assert listed.code == 0, listed.err
        assert all(item["error"] is None for item in listed.json)
        assert {item["status"] for item in listed.json} <= {"running", "succeeded"}
        seen.append(len(listed.json))
    ended = [running.wait() for running in started]
    assert [done.code for done in ended] == [0] * 20, [done.err for done in ended if done.code]
    assert sorted(done.out for done in ended) == sorted(f"FAKE ECHO: task {n} [turns=1]\n" for n in range(20))
    assert seen == sorted(seen)
    assert len(place.ids()) == 20
    for session_id in place.ids():
        assert place.last_event(session_id)["status"] == "succeeded"
        assert place.state(session_id)["tools"]["codex"]["provider_session_id"]


def race(place: Place, *words: str) -> list[Running]:
    """Start some runs of the same words, of which those that get through hold until released."""
    place.play(*place.hold(), ["say", "done"])
    return [place.start("run", "--tool", "codex", *words, f"go {number}") for number in range(RACING)]


def settle(place: Place, started: list[Running]) -> list[int]:
    """Let the losers end, release the winner, and return the exit codes in order."""
    wait_for(lambda: sum(r.process.poll() is None for r in started) == 1, "all but one have given up")
    place.wait_ready()
    place.release()
    return sorted(running.wait().code for running in started)


def test_one_session_one_turn(place: Place) -> None:
    """Of several resumes of one session one wins; the others are told that it is busy, and leave no trace."""
    session_id = place.codex("first").session_id
    assert settle(place, race(place, "--session", session_id)) == [0] + [4] * (RACING - 1)
    assert place.state(session_id)["turns"] == 2
    assert [e["turn"] for e in place.events(session_id) if e["type"] == "run_started"] == [1, 2]


@pytest.mark.thorough
def test_one_id_one_session(place: Place) -> None:
    """Of several creations of one id one wins; the others are told that it is busy, and no remains are left."""
    session_id = "01JH4QWERT1234567890ABCDEF"
    assert settle(place, race(place, "--session-id", session_id)) == [0] + [4] * (RACING - 1)
    assert place.ids() == [session_id]
    assert place.state(session_id)["turns"] == 1


@pytest.mark.thorough
def test_one_name_one_session(place: Place) -> None:
    """Of five creations of one name one wins; no second session of that name appears, nor remains of one."""
    codes = settle(place, race(place, "--session-id", "nightly"))
    assert codes == [0] + [4] * (RACING - 1)
    (session_id,) = place.ids()
    assert place.state(session_id)["name"] == "nightly"


@pytest.mark.thorough
def test_parallel_turns_of_different_sessions(place: Place) -> None:
    """Sessions do not wait for each other: three run at the same time."""
    place.script(
        *(
            {"match": f"task {n}", "do": [["touch", f"{place.tmp}/up-{n}"], ["wait-file", str(place.go), 60]]}
            for n in range(3)
        )
    )
    started = [place.start("run", "--tool", "codex", f"task {number}") for number in range(3)]
    wait_for(lambda: all((place.tmp / f"up-{number}").exists() for number in range(3)), "all three run")
    assert {item["status"] for item in place.run("session", "list", "--json").json} == {"running"}
    place.release()
    assert [running.wait().code for running in started] == [0, 0, 0]
