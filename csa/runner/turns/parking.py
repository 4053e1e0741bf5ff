"""A turn that failed because a quota is used up: when the provider can be asked again, and waiting for that.

Nothing is ever waited for that was not stated, by a typed field of the tool or in the words of its error.
"""

from __future__ import annotations

from datetime import datetime

from csa.model.adapter import Outcome
from csa.model.clock import from_timestamp
from csa.model.resets import delay_of, stated_reset
from csa.structs import replace

LIMIT_KINDS = frozenset({"quota", "rate_limit"})


def with_stated_delay(outcome: Outcome) -> Outcome:
    """Return the outcome with the delay that its message states, where its tool has none in a field."""
    if outcome.succeeded or outcome.error_kind != "rate_limit" or outcome.retry_after_s is not None:
        return outcome
    return replace(outcome, retry_after_s=delay_of(outcome.error_message or ""))


def retry_moment(outcome: Outcome, now: datetime) -> datetime | None:
    """Return when the provider can be asked again after a failure at `now`; None where that was not stated."""
    if outcome.succeeded or outcome.error_kind not in LIMIT_KINDS:
        return None
    at = outcome.retry_at
    if at is None and outcome.retry_after_s is not None:
        at = now.timestamp() + outcome.retry_after_s
    if at is None:
        at = stated_reset(outcome.error_message or "", now.astimezone())
    return None if at is None else from_timestamp(at)
