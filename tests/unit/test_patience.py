"""Waiting for what is busy, without a clock."""

from __future__ import annotations

import time

import pytest

from csa.errors import BusyError, Obstacle
from csa.runner.turns import patience


def test_many_tries_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it was in vain, the pause stays bounded, and what was waited for is told once."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    tries, told = iter(range(3000)), list[str]()

    def attempt() -> str:
        if next(tries, None) is not None:
            raise BusyError("It is busy.")
        return "free"

    assert patience.try_until_free(attempt, limit_s=float("inf"), tell=told.append) == "free"
    assert (len(pauses), max(pauses), told) == (3000, patience.POLL_S, ["It is busy"])


def test_a_crowd_spreads_out_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each try in vain makes the next pause longer, up to a limit."""
    monkeypatch.setattr(patience, "_fraction", lambda: 1.0)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    tries, obstacle = iter(range(1500)), Obstacle("it is full", lambda: True)

    def attempt() -> str:
        if next(tries, None) is not None:
            raise BusyError("It is busy.", obstacle=obstacle)
        return "free"

    patience.try_until_free(attempt, limit_s=float("inf"), tell=lambda _: None)
    assert pauses[1:12:2] == [0.0, 0.1, 0.2, 0.4, 0.8, patience.MAX_PAUSE_S]
    assert max(pauses) == patience.MAX_PAUSE_S
