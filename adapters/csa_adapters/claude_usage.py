"""The usage of one run of Claude Code (seen at 2.1.328).

A run writes several results. Each has, in `model_usage_since_last_result`, all calls since the previous one, including
those of sub-agents; their sums are exact, whatever a kill did to the conversation's totals. Without that field
(older versions) there are `usage`, only the main agent's tokens, and the cost of the whole conversation. What was
requested since the last result is known from the messages: the input exactly, the output only in part.
"""

from __future__ import annotations

from csa.model.adapter import TurnRequest
from csa.model.usage import Usage
from csa_adapters.jsonlines import Json, count_of, mapping_of, number_of, text_of


class ClaudeUsage:
    """The running account of a run. `cost` is the conversation's, so far; None when unknown."""

    def __init__(self, request: TurnRequest) -> None:
        self.cost = _cost_before(request)
        self._stated: Usage | None = None  # by results
        self._since: dict[str, Usage] = {}  # by messages since the last result: of each call, by the message's id

    @property
    def total(self) -> Usage | None:
        """Return the run's usage so far; None if nothing is known."""
        found = self._stated
        for usage in self._since.values():
            found = usage if found is None else found + usage
        return found

    def add_message(self, message: Json) -> bool:
        """Take a line of an answer, which comes as one line per block; return whether it had anything new."""
        reported = mapping_of(message.get("usage"))
        if number_of(reported.get("input_tokens")) is None:
            return False
        call, usage = text_of(message.get("id")), _of_messages(reported, None)
        if self._since.get(call) == usage or usage == Usage():
            return False
        self._since[call] = usage
        return True

    def add_result(self, result: Json) -> None:
        """Take a result of the conversation."""
        before, total = self.cost, number_of(result.get("total_cost_usd"))
        self.cost = before if total is None else total
        models = result.get("model_usage_since_last_result")
        if type(models) is dict:
            used = _of_models(models)
        else:
            spent = None if total is None or before is None else round(total - before, 6)
            used = _of_messages(mapping_of(result.get("usage")), spent if spent is not None and spent >= 0 else None)
        self._stated = used if self._stated is None else self._stated + used
        self._since = {}


def _of_messages(reported: Json, cost: float | None) -> Usage:
    cached = count_of(reported.get("cache_read_input_tokens"))
    fresh = count_of(reported.get("input_tokens")) + count_of(reported.get("cache_creation_input_tokens"))
    return Usage(fresh + cached, count_of(reported.get("output_tokens")), cached, cost)


def _of_models(models: Json) -> Usage:
    each = [_of_model(mapping_of(used)) for used in models.values()]
    return sum(each, Usage(cost_usd=0.0)) if all(used.cost_usd is not None for used in each) else _without_cost(each)


def _of_model(used: Json) -> Usage:
    cached = count_of(used.get("cacheReadInputTokens"))
    fresh = count_of(used.get("inputTokens")) + count_of(used.get("cacheCreationInputTokens"))
    return Usage(fresh + cached, count_of(used.get("outputTokens")), cached, number_of(used.get("costUSD")))


def _without_cost(each: list[Usage]) -> Usage:
    """Sum tokens if the cost of some is unknown: a partial cost would look like the total."""
    return Usage(
        sum(used.input_tokens for used in each),
        sum(used.output_tokens for used in each),
        sum(used.cached_tokens for used in each),
    )


def _cost_before(request: TurnRequest) -> float | None:
    """Return the conversation's cost before this run; None if unknown, as for a conversation csa has no figures for.

    A fork starts with the cost of the conversation it copies (2.1.328).
    """
    if request.provider_session_id is None and request.fork_of is None:
        return 0.0
    return number_of((request.previous_totals or {}).get("cost_usd"))
