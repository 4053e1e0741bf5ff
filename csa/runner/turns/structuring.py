"""The answer of a turn that has a schema: read, checked, asked for once more, recorded. Loaded by such turns alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio import CancelScope, to_thread

from csa.model.adapter import Outcome
from csa.model.result import json_text
from csa.model.structured import NotJsonError, ask_again, find_json
from csa.runner.turns.conformance import Fault, first_fault
from csa.runner.turns.plan import TurnPlan
from csa.structs import Struct, replace


class Answer(Struct):
    """What an agent answered: the value, or why it cannot be used."""

    value: Any
    fault: Fault | None


async def read_answer(text: str, schema: Mapping[str, Any]) -> Answer:
    """Return the value of an answer, checked; shielded, as the end of the turn depends on it."""
    try:
        value = find_json(text)
    except NotJsonError as error:
        return Answer(None, Fault(str(error)))
    fault = None
    with CancelScope(shield=True):
        fault = await to_thread.run_sync(first_fault, schema, value)
    return Answer(value, fault)


def plan_correction(plan: TurnPlan, fault: Fault, answer: str, *, is_known: bool) -> TurnPlan:
    """Return the plan to ask again; `is_known` says whether the conversation with the answer is continued."""
    known = {} if is_known else {"asked": plan.request.prompt, "answer": answer}
    request = replace(plan.request, prompt=ask_again(fault.message, **known))
    if is_known:
        request = replace(request, images=(), files=())
    return replace(plan, request=request, fork=None, hands_over=False)


def judged(outcome: Outcome, answer: Answer) -> Outcome:
    """Return the outcome of a turn with this answer: its text is the JSON alone, or it has failed."""
    if answer.fault is None:
        return replace(outcome, text=json_text(answer.value))
    what = "could not be checked" if answer.fault.is_of_schema else "does not conform to the schema"
    message = f"the answer {what}: {answer.fault.message}"
    return replace(outcome, succeeded=False, error_kind="invalid_output", error_message=message)
