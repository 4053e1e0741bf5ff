"""Have a session's tool compact its conversation, so that the next turn starts from a summary.

csa reports success only if the tool confirms the compaction. Exits 1 when nothing was compacted, for whatever reason;
the session is then unchanged. Exits 3 when there is no such session, 4 when it is running, 124 when it timed out.
"""

from __future__ import annotations

import argparse
import signal
import sys

from csa.cli.ourselves import own_command
from csa.cli.output import print_json, print_problem, warn
from csa.cli.selecting import add_selector, find, selected
from csa.cli.views.naming import as_read
from csa.cli.views.signs import signs_of_life
from csa.errors import CsaError, UsageError
from csa.model.result import UNKNOWN_CONVERSATION, kind_in_words
from csa.model.wording import tokens
from csa.process.launch import become_subreaper
from csa.process.wakeup import heeded_signals
from csa.runner.client import Csa
from csa.runner.sessions.acting import record_act

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from csa.runner.turns.compaction import Compaction, CompactionResult


def configure(parser: argparse.ArgumentParser) -> None:
    add_selector(parser)
    parser.add_argument("-t", "--tool", metavar="T", help="the tool (default: that of the last turn)")
    parser.add_argument("--timeout", type=float, metavar="S", help="cancel after S seconds")
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    if arguments.timeout is not None and not 0 < arguments.timeout < float("inf"):
        raise UsageError("--timeout must be more than 0 seconds.")
    import anyio  # noqa: PLC0415  # `csa completion`, in each new shell, loads every command

    from csa.runner.turns.compaction import Compaction, plan_compaction  # noqa: PLC0415  # as above

    client = Csa.from_environment(command=own_command(), owns_process=True)
    session = find(client, selected(arguments), acts=True)
    plan = plan_compaction(session, tool=arguments.tool, timeout_s=arguments.timeout)
    become_subreaper()
    compaction = Compaction(plan)
    with signs_of_life(plan.context.caller) as signs:
        name = plan.state.name or plan.state.session_id
        signs.about(lambda: f"{name}: {plan.adapter.name} is compacting its conversation")
        result = anyio.run(_drive_compaction, compaction)
    loss = record_act(plan.context, "session compress", result.session_id, what=result.status)
    warn([*compaction.losses, *([loss] if loss else [])])
    if arguments.json:
        print_json(result.to_json())
    elif result.exit_code == 0:
        print(as_read(_compaction_in_words(result), sys.stdout))
    if result.exit_code != 0:
        _print_failed_compaction(result)
    return result.exit_code


async def _drive_compaction(compaction: Compaction) -> CompactionResult:
    import anyio  # noqa: PLC0415  # imported by the caller

    with anyio.open_signal_receiver(*heeded_signals()) as signals:
        async with anyio.create_task_group() as tasks:

            async def obey() -> None:
                async for number in signals:
                    compaction.cancel(signal.Signals(number).name)

            tasks.start_soon(obey)
            try:
                outcome: CompactionResult | CsaError = await compaction.run()
            except CsaError as error:  # it must not be wrapped in a group
                outcome = error
            tasks.cancel_scope.cancel()
    if isinstance(outcome, CsaError):
        raise outcome
    return outcome


def _compaction_in_words(result: CompactionResult) -> str:
    before, after = result.outcome.tokens_before, result.outcome.tokens_after
    sizes = f" from {tokens(before)} to {tokens(after)} tokens" if before is not None and after is not None else ""
    if before is not None and after is None:
        sizes = f" (it had {tokens(before)} tokens)"
    return f"{result.session_id}: {result.tool} has compacted its conversation{sizes}"


def _print_failed_compaction(result: CompactionResult) -> None:
    kind = kind_in_words(result.status, result.error_kind)
    how = {"cancelled": "was cancelled", "timed_out": "ran out of time"}.get(result.status, "failed")
    hint = f"log in with {result.tool}, or set its key" if result.error_kind == "auth" else None
    if result.error_kind == UNKNOWN_CONVERSATION:
        again = f'csa run --session {result.session_id} --tool {result.tool} "go on"'
        hint = f"{again} continues in a new conversation, with a summary; until then there is nothing to compact"
    message = (result.error_message or "unknown reason").rstrip(".")
    print_problem(f"{result.tool}'s compaction {how}{kind}: {message}. The session's state is unchanged.", hint=hint)
    sys.stderr.flush()
