"""A caller whose `CSA_*` variables are gone is found by the processes that started it.

HOME is given all the same: without it the fakes would write to the home of whoever runs the tests.
"""

from __future__ import annotations

import pytest

from tests.support import CSA, Place


def told(place: Place, session_id: str) -> str:
    """Return what the one command of an agent printed."""
    (update,) = [event for event in place.events(session_id) if event["type"] == "tool_call_update"]
    return str(update["data"]["content"])


def run_inside(place: Place, command: str, **rule: object) -> tuple[str, str]:
    """Have an agent run a command; return its session and what the command printed."""
    place.script({"match": "outer", "do": [["run", command], ["say", "x"]], **rule})
    session_id = place.codex("outer").session_id
    return session_id, told(place, session_id)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "way",
    [
        "env -i PATH=$PATH HOME=$HOME {csa}",
        "env -i PATH=$PATH HOME=$HOME setsid {csa}",
        "env -i PATH=$PATH HOME=$TMPDIR XDG_STATE_HOME=$TMPDIR {csa}",
        "env -u CSA_SESSION_ID -u CSA_SESSION_DIR -u CSA_DEPTH -u CSA_PARENT_SESSION {csa}",
        "CSA_SESSION_ID=garbage bash -c 'env -i PATH=$PATH HOME=$HOME {csa}'",
    ],
)
def test_an_agent_without_variables_is_still_inside(place: Place, way: str) -> None:
    """`env -i csa run` becomes a child of the agent's session, under the same state root, with its limits."""
    place.env["CSA_CONF_MAX_CHILDREN"] = "1"
    command = way.format(csa=f"{CSA} run --tool codex inner")
    root, _ = run_inside(place, f"{command}; {command} 2>&1; true")
    (child,) = [session_id for session_id in place.ids() if session_id != root]
    genealogy = place.state(child)["genealogy"]
    assert (genealogy["parent_session_id"], genealogy["depth"]) == (root, 1)
    assert "max_children is 1" in told(place, root)


def test_a_daemon_of_an_agent_is_still_inside(place: Place) -> None:
    """A process that has left its group and its parent is found by the guardian, which has adopted it."""
    done = place.tmp / "done"
    inner = f"env -i PATH=$PATH HOME=$HOME {CSA} run --tool codex inner; touch {done}"
    place.script(
        {"match": "outer", "do": [["run", f"setsid -f bash -c '{inner}'"], ["wait-file", str(done), 20], ["say", "x"]]}
    )
    root = place.codex("outer").session_id
    (child,) = [session_id for session_id in place.ids() if session_id != root]
    assert place.state(child)["genealogy"]["parent_session_id"] == root


@pytest.mark.thorough
def test_another_state_root_is_refused(place: Place) -> None:
    """Inside a session that runs, a state root elsewhere is no way out: exit 5."""
    elsewhere = place.tmp / "elsewhere"
    command = f"env -i PATH=$PATH HOME=$HOME CSA_STATE_DIR={elsewhere} {CSA} run x"
    _, output = run_inside(place, f"{command} 2>&1; echo code $?")
    assert "code 5" in output
    assert "not in the state root" in output
    assert not elsewhere.exists()
    assert len(place.ids()) == 1


@pytest.mark.thorough
def test_readers_find_their_session_too(place: Place) -> None:
    """@self works without variables, and shows the session of the state root it is in."""
    root, output = run_inside(place, f"env -i HOME=$HOME {CSA} session is-alive @self")
    assert output.startswith("alive: codex")
    assert len(place.ids()) == 1
    assert root == place.ids()[0]


@pytest.mark.thorough
def test_a_shell_that_outlived_its_session_is_outside(place: Place) -> None:
    """Variables of an ancestor whose session has ended count no more: a new root is made."""
    _, env = place.agent()
    kept = " ".join(f"{name}={value}" for name, value in env.items())
    root = place.shell(["bash", "-c", f"{kept} bash -c 'env {_unset(env)} {CSA} run --tool codex fresh; true'; true"])
    assert root.code == 0
    assert place.state(root.session_id)["genealogy"]["depth"] == 0


@pytest.mark.thorough
def test_garbled_variables_are_refused_all_the_same(place: Place) -> None:
    """Variables that lead nowhere are refused, and not replaced by what the ancestors say."""
    _, output = run_inside(place, f"CSA_SESSION_ID=garbage {CSA} run x 2>&1; echo code $?")
    assert "code 5" in output
    assert "in a shell of your own, unset" in output
    assert len(place.ids()) == 1


def _unset(env: dict[str, str | None]) -> str:
    return " ".join(f"-u {name}" for name in env if name != "CSA_STATE_DIR")
