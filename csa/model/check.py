"""One line of `csa doctor`: a check and its result."""

from __future__ import annotations

from typing import Any, Literal

from csa.structs import Struct, asdict

ANSWER_LIMIT_S = 10.0  # gemini-cli and opencode take two seconds at their first start, more on a busy machine

Topic = Literal["setup", "tools", "state", "system"]
CheckStatus = Literal["ok", "warn", "fail"]


class Check(Struct):
    """One thing that was checked.

    A `warn` may surprise; a `fail` does not work. `exit_code` is set if a failure prevents every run.
    """

    topic: Topic
    name: str
    status: CheckStatus
    detail: str
    next_step: str | None = None
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `csa doctor --json` prints."""
        known = asdict(self)
        exit_code = known.pop("exit_code")
        return {**known, "level": self.status, "blocks_runs": exit_code != 0}
