"""A prompt that is only sent if nobody else has sent one: of several at once exactly one is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from csa.errors import ChangedError, UsageError
from csa.runner.client import Csa
from tests.serving import serving
from tests.support import Place


def test_another_turn_came_first(place: Place) -> None:
    """Exit 4 with the kind `changed`, and nothing is started; a new session is at turn 0."""
    session_id = place.codex("one").session_id
    done = place.run("run", "-s", session_id, "--after-turn", "0", "--json", "two")
    assert (done.code, done.json["error"]["kind"]) == (4, "changed")
    assert place.run("run", "--tool", "codex", "--after-turn", "1", "two").code == 4
    assert place.run("run", "-s", session_id, "--after-turn", "1", "two").code == 0
    assert place.state(session_id)["turns"] == 2
    with pytest.raises(UsageError):
        Csa.from_environment(place.project, environ=place.environment(None)).queue(
            "three", session=session_id, after_turn=2
        )


@pytest.mark.thorough
@pytest.mark.parametrize("wait_s", [None, 30])
def test_several_at_once(place: Place, wait_s: float | None) -> None:
    """Of eight at the same time one wins, and the others are told that it has: whether they would wait or not."""
    session_id = place.codex("one").session_id
    client = Csa.from_environment(place.project, environ=place.environment(None))
    place.play(*place.hold(), ["say", "won"])

    def send(number: int) -> int | None:
        try:
            return client.start(f"prompt {number}", session=session_id, after_turn=1, wait_s=wait_s).turn
        except ChangedError:
            return None

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(send, range(8)))
    place.release()
    assert sorted(found, key=str) == [2, *[None] * 7]
    place.run("wait", session_id)
    assert place.state(session_id)["turns"] == 2


@pytest.mark.thorough
def test_over_http(place: Place) -> None:
    """412 for all but one."""
    session_id = place.codex("one").session_id
    with serving(place) as server, ThreadPoolExecutor(4) as threads:
        body = {"prompt": "again", "after_turn": 1}
        codes = list(threads.map(lambda _: server.ask("POST", f"/sessions/{session_id}/turns", body).status, range(4)))
        assert sorted(codes) == [202, 412, 412, 412]
        place.run("wait", session_id)
