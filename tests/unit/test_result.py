"""How a turn ended, and what csa exits with."""

from datetime import UTC, datetime, timedelta

import pytest

from csa.model.result import Link, RunResult, exit_code_for, result_from_event, summarise
from csa.model.usage import Usage
from csa.structs import replace

ID = "01JH4QWERT1234567890ABCDEF"
BEGAN = datetime(2024, 2, 6, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "kind", "signal_name", "expected"),
    [
        ("succeeded", None, None, 0),
        ("failed", "internal", None, 1),
        ("failed", "network", None, 1),
        ("failed", "auth", None, 7),
        ("failed", "rate_limit", None, 8),
        ("failed", "quota", None, 8),
        ("cancelled", None, "SIGINT", 130),
        ("cancelled", None, "SIGTERM", 143),
        ("cancelled", None, "SIGHUP", 129),
        ("cancelled", "auth", "SIGTERM", 143),
        ("timed_out", None, None, 124),
        ("killed", "internal", None, 1),
        ("lost", None, None, 1),
        ("of a newer csa", None, None, 1),
    ],
)
def test_exit_codes(status: str, kind: str | None, signal_name: str | None, expected: int) -> None:
    """One exit code per meaning, and no other."""
    assert exit_code_for(status, error_kind=kind, signal_name=signal_name) == expected


def make_result() -> RunResult:
    return RunResult(
        session_id=ID,
        turn=2,
        tool="codex",
        status="failed",
        exit_code=8,
        tool_exit_code=1,
        model="m",
        provider_session_id="t",
        stop_reason="error",
        text="",
        summary="it failed",
        error_kind="quota",
        error_message="no more",
        usage=Usage(1, 2, 3, 0.25),
        duration_s=1.5,
        started_at=BEGAN,
        finished_at=BEGAN + timedelta(seconds=1.5),
        peak_rss_bytes=1000,
        denied=("Bash",),
        output={"a": [1, None]},
    )


def test_a_result_survives_its_event() -> None:
    """The run_finished event holds all of a result but its text and artifacts."""
    result = make_result()
    assert RunResult(**result_from_event(ID, 2, result.to_event())) == result


def test_the_json_has_the_promised_keys() -> None:
    """The object that commands print has the keys the manual promises."""
    shown = make_result().to_json()
    promised = """session_id turn tool model provider_session_id status exit_code tool_exit_code text summary error
        usage duration_s started_at finished_at artifacts"""
    assert set(promised.split()) <= set(shown)
    assert shown["error"] == {"kind": "quota", "message": "no more", "retry_at": None}
    assert shown["finished_at"] == "2024-02-06T12:00:01.500Z"


def test_a_success_has_no_error() -> None:
    """The error of a success is null."""
    event = {**make_result().to_event(), "status": "succeeded", "exit_code": 0, "error": None, "usage": None}
    result = RunResult(**result_from_event(ID, 2, event))
    assert (result.error, result.usage, result.to_json()["usage"]) == (None, None, None)


def test_a_summary_is_the_first_line_that_says_something() -> None:
    """Blank lines are passed over, and long ones cut to 200 characters."""
    assert summarise("\n  \n Done. \nmore") == "Done."
    assert summarise("") == ""
    assert len(summarise("x" * 500)) == 200
    assert summarise("x" * 200) == "x" * 200


def test_the_chain_of_a_run_survives() -> None:
    """It is in the event and in the JSON; where there was only one turn, the event lacks it and the JSON has none."""
    chain = (
        Link(turn=1, tool="codex", status="failed", error_kind="quota"),
        Link(turn=2, tool="my tool", status="succeeded"),
    )
    result = replace(make_result(), chain=chain)
    assert result_from_event(ID, 2, result.to_event())["chain"] == chain
    assert result.to_json()["chain"][1] == {"turn": 2, "tool": "my tool", "status": "succeeded", "error_kind": None}
    assert "chain" not in make_result().to_event()
    assert make_result().to_json()["chain"] == []
    assert result_from_event(ID, 2, make_result().to_event())["chain"] == ()
