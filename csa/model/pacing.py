"""How fast a recording is played: the pauses between its events. Pure."""

from __future__ import annotations

from csa.errors import UsageError

AT_ONCE = 0.0
LONGEST_PAUSE_S = 3.0  # of a recording; somebody who thought for an hour is not waited for


def parse_speed(text: str) -> float:
    """Return the speed: 1 is as recorded, 2 twice as fast, and 0 or `max` is at once; UsageError for anything else."""
    try:
        speed = AT_ONCE if text.strip().lower() == "max" else float(text)
    except ValueError:
        speed = -1.0
    if not 0 <= speed < float("inf"):
        raise UsageError(
            f"'{text}' is not a speed.", hint="1 is as recorded, 2 twice as fast, and 0 or max without any pause"
        )
    return speed


def pause_s(recorded_s: float, speed: float) -> float:
    """Return how long to wait in place of a recorded pause: a long one is cut, and then all are scaled."""
    return min(max(recorded_s, 0.0), LONGEST_PAUSE_S) / speed if speed else 0.0
