"""Plans under random graphs and failures: what starts, what is blocked, and what comes of it, beside a simple model."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from csa.model.globs import outside, overlapping
from csa.model.plan import Plan, parse_plan
from csa.model.planstates import OVER, STUCK, Known, exit_code, judge, may_start
from csa.model.worktree import Refused

_FATES = ("merges", "merges", "merges", "fails", "conflict", "check")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Make a plan of up to nine tasks, each of which needs some of those before it."""
    count = draw(st.integers(1, 9))
    tasks: dict[str, Any] = {}
    for number in range(count):
        needs = draw(st.lists(st.sampled_from([*tasks]), unique=True, max_size=3)) if tasks else []
        touches = draw(st.lists(st.sampled_from(["a/*", "a/b", "c/**", "d"]), max_size=2))
        tasks[f"t{number}"] = {"prompt": "x", "needs": needs, "touches": touches}
    order = draw(st.permutations([*tasks]))
    values = {"max_running": draw(st.integers(1, 4)), "task": {name: tasks[name] for name in order}}
    return parse_plan(values, place="p", read=str)


@given(plans(), st.data())
def test_a_run_takes_every_task_to_an_end_that_a_simple_model_gives(plan: Plan, data: st.DataObject) -> None:
    """All that can be merged is merged, what needs a task that is stuck is blocked, and rules hold at every moment."""
    fates = {name: data.draw(st.sampled_from(_FATES), label=name) for name in plan.tasks}
    known: dict[str, Known] = {}
    tried: set[str] = set()
    while True:
        states = judge(plan, known, tried=tried)
        for name in may_start(plan, states, [*plan.tasks]):
            assert all(states[need].kind in OVER for need in plan.tasks[name].needs)
            assert name not in tried
            tried.add(name)
            known[name] = Known(session_id=name, digest=plan.tasks[name].digest, status="running")
        running = [name for name, each in known.items() if each.status == "running"]
        assert len(running) <= plan.max_running
        for one in running:
            assert not any(
                overlapping(plan.tasks[one].touches, plan.tasks[other].touches) for other in running if other != one
            )
        if not running:
            break
        name = data.draw(st.sampled_from(running))
        known[name] = _ended(name, plan.tasks[name].digest, fates[name])
    states = judge(plan, known, tried=tried)
    ended = {name: states[name].kind for name in plan.tasks}
    assert ended == _expected(plan, fates)
    assert exit_code(states.values()) == (0 if set(ended.values()) <= OVER else 1)
    # Another run tries what was stuck again, and begins with what needs nothing that is.
    again = may_start(plan, judge(plan, known, tried=()), [*plan.tasks])
    assert bool(again) == any(kind in STUCK for kind in ended.values())
    assert all(all(ended[need] in OVER for need in plan.tasks[name].needs) for name in again)


def _ended(name: str, digest: str, fate: str) -> Known:
    same: dict[str, Any] = {"session_id": name, "digest": digest}
    if fate == "fails":
        return Known(**same, status="failed")
    if fate == "merges":
        return Known(**same, status="succeeded", merged=True)
    return Known(**same, status="succeeded", refused=Refused(kind=fate))


def _expected(plan: Plan, fates: dict[str, str]) -> dict[str, str]:
    ended: dict[str, str] = {}
    kinds = {"merges": "merged", "fails": "failed", "conflict": "conflict", "check": "check_failed"}
    for name, task in plan.tasks.items():
        ended[name] = "blocked" if any(ended[need] in STUCK for need in task.needs) else kinds[fates[name]]
    return ended


_PARTS = st.sampled_from(["a", "b", "ab", "*", "**", "a*", "?b", "[ab]", "*b*"])
_GLOBS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_PATHS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), min_size=1, max_size=5).map("/".join)


@given(_GLOBS, _GLOBS, _PATHS)
def test_globs_that_a_path_matches_both_overlap(one: str, other: str, path: str) -> None:
    """Whatever path two globs have in common, they are known to overlap."""
    if not outside([path], [one]) and not outside([path], [other]):
        assert overlapping([one], [other])
        assert overlapping([other], [one])
