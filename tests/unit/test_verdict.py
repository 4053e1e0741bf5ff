"""The table of how turns end."""

from typing import Any

import pytest

from csa.model.adapter import ErrorKind, Outcome, ToolExit
from csa.process.memory import Kills, count_kills, explain_kill
from csa.runner.turns.verdict import Stop, Verdict, judge, lock_lost, out_of_budget, out_of_time, too_silent

GOOD = Outcome(succeeded=True, text="done")
UNSAID = Outcome(succeeded=False)
QUOTA = Outcome(succeeded=False, error_kind="quota", error_message="no more")
BROKEN = Outcome(succeeded=False, error_kind="protocol", error_message="no end")
EXIT_0, EXIT_1, KILLED, REAPED = ToolExit(0, None), ToolExit(1, None), ToolExit(None, 9), ToolExit(None, None)
INT = Stop("cancelled", "SIGINT")
ASKED = Stop("cancelled", detail="asked for by the cancel file")
LATE, SILENT = out_of_time(5), too_silent(1.5)
STUCK = Stop("reaped")
WRONG = Stop("fault", detail="another conversation")
LOST, SPENT = lock_lost(), out_of_budget("01JH", "5 of 5 tokens")


@pytest.mark.parametrize(
    ("outcome", "end", "stop", "status", "kind"),
    [
        (GOOD, EXIT_0, None, "succeeded", None),
        (GOOD, REAPED, STUCK, "succeeded", None),
        (GOOD, EXIT_0, INT, "succeeded", None),
        (GOOD, EXIT_0, LATE, "succeeded", None),
        (GOOD, EXIT_0, WRONG, "failed", "protocol"),
        (GOOD, EXIT_0, LOST, "failed", "fenced"),
        (UNSAID, KILLED, LOST, "failed", "fenced"),
        (GOOD, EXIT_0, SPENT, "succeeded", None),
        (QUOTA, KILLED, SPENT, "failed", "budget"),
        (QUOTA, KILLED, STUCK, "failed", "quota"),
        (UNSAID, EXIT_1, None, "failed", "internal"),
        (UNSAID, EXIT_0, None, "failed", "internal"),
        (QUOTA, EXIT_1, None, "failed", "quota"),
        (QUOTA, KILLED, None, "failed", "quota"),
        (UNSAID, KILLED, None, "killed", "internal"),
        (BROKEN, KILLED, None, "killed", "internal"),
        (BROKEN, EXIT_0, None, "failed", "protocol"),
        (UNSAID, KILLED, INT, "cancelled", None),
        (QUOTA, EXIT_1, INT, "cancelled", None),
        (UNSAID, EXIT_0, INT, "cancelled", None),
        (UNSAID, KILLED, LATE, "timed_out", "timeout"),
        (QUOTA, EXIT_1, SILENT, "timed_out", "idle_timeout"),
        (UNSAID, KILLED, STUCK, "failed", "internal"),
    ],
)
def test_the_table(outcome: Outcome, end: ToolExit, stop: Stop | None, status: str, kind: str | None) -> None:
    """Typed evidence, exit and the reason csa stopped the tool decide together."""
    verdict = judge(outcome, end, stop)
    assert (verdict.status, verdict.error_kind) == (status, kind)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((UNSAID, EXIT_1, None), "code 1"),
        ((UNSAID, KILLED, None), "signal 9"),
        ((UNSAID, REAPED, STUCK), "without a result"),
        ((QUOTA, EXIT_1, None), "no more"),
        ((UNSAID, KILLED, INT), "SIGINT"),
        ((UNSAID, KILLED, ASKED), "cancel file"),
        ((UNSAID, KILLED, LATE), "longer than 5 s"),
        ((UNSAID, KILLED, SILENT), "no output and no CPU time for 1.5 s"),
        ((GOOD, EXIT_0, WRONG), "another conversation"),
        ((GOOD, EXIT_0, LOST), "the session's lock was lost, so another may hold it"),
        ((UNSAID, KILLED, SPENT), "the budget of session 01JH is used up: 5 of 5 tokens"),
        ((UNSAID, ToolExit(7, None), None), "the tool exited with code 7 without giving a reason"),
    ],
)
def test_every_end_but_success_says_why(arguments: Any, part: str) -> None:
    """A turn that is no success has a message."""
    assert part in (judge(*arguments).error_message or "")
    assert judge(GOOD, EXIT_0, None) == Verdict("succeeded")


def test_why_csa_ended_a_turn() -> None:
    """Each limit has a kind of its own, and says its value."""
    assert out_of_time(2.5) == Stop("timed_out", None, "the turn took longer than 2.5 s", "timeout")
    assert too_silent(60) == Stop("timed_out", None, "no output and no CPU time for 60 s", "idle_timeout")
    assert out_of_budget("01JH", "5 of 5") == Stop(
        "budget", None, "the budget of session 01JH is used up: 5 of 5", None
    )
    lost = lock_lost()
    assert (lost.reason, lost.signal_name, lost.kind) == ("fenced", None, None)
    assert lost.detail == "the session's lock was lost, so another may hold it; nothing more was recorded"


@pytest.mark.parametrize("kind", [None, "internal", "protocol"])
def test_a_tool_that_died_is_killed_unless_it_said_more(kind: ErrorKind | None) -> None:
    """What a decoder says of a stream that broke off is not the reason; the signal is."""
    verdict = judge(Outcome(succeeded=False, error_kind=kind, error_message="cut"), KILLED, None)
    assert verdict == Verdict("killed", "internal", "the tool died of signal 9")


@pytest.mark.parametrize(
    ("outcome", "end", "message"),
    [
        (UNSAID, EXIT_1, "the tool exited with code 1 without giving a reason"),
        (UNSAID, ToolExit(None, 15), "the tool died of signal 15"),
        (UNSAID, KILLED, "the tool died of signal 9 (no memory)"),
        (
            UNSAID,
            ToolExit(137, None),
            "the tool exited with code 137 without giving a reason: something in it was killed (no memory)",
        ),
        (QUOTA, ToolExit(137, None), "no more"),
    ],
)
def test_only_what_may_have_been_killed_is_explained(outcome: Outcome, end: ToolExit, message: str) -> None:
    """The explanation is for SIGKILL alone, and for who did not say why."""
    assert judge(outcome, end, None, explain=lambda: "no memory").error_message == message


@pytest.mark.parametrize(("end", "is_explained"), [((None, 9), True), ((None, 15), False), ((137, None), True)])
def test_a_kill_that_nobody_explains_may_be_for_lack_of_memory(
    end: tuple[int | None, int | None], *, is_explained: bool
) -> None:
    """SIGKILL that csa has not sent comes from a person or the kernel; a launcher reports it as exit code 137."""
    outcome = Outcome(succeeded=False)
    verdict = judge(outcome, ToolExit(*end), None, explain=lambda: "perhaps out of memory")
    assert ("perhaps out of memory" in (verdict.error_message or "")) is is_explained


def test_the_kernels_counters_are_evidence() -> None:
    """Those of the cgroup prove it; those of the machine are a hint."""
    assert explain_kill(Kills(), Kills()) == explain_kill(Kills(1, 1), Kills(1, 1)) == "perhaps out of memory"
    assert explain_kill(Kills(0, 5), Kills(2, 7)).startswith("out of memory: ")
    assert "2 processes of this cgroup" in explain_kill(Kills(0, 5), Kills(2, 7))
    assert "1 process on this machine" in explain_kill(Kills(None, 5), Kills(None, 6))
    assert count_kills().machine is not None
