"""The program of the tool `plan`: `python -P -m csa.runner.plans`, in the session of a plan, which comes on stdin.

It writes a line of JSON for each thing that happens, and one at its end. TERM ends the turns of all tasks first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from csa.errors import CsaError
from csa.model.result import SIGNAL_EXITS
from csa.process.launch import become_subreaper
from csa.runner.client import Csa
from csa.runner.plans.reading import plan_of_text
from csa.runner.plans.scheduler import Order, Scheduler
from csa.runner.plans.words import parse_words


def main() -> int:
    """Run the plan; the exit code is the plan's."""
    words = parse_words(sys.argv[1:])
    become_subreaper()
    try:
        read = plan_of_text(
            sys.stdin.buffer.read().decode(),
            place=words.file or words.stem,
            file=words.file,
            base=words.base,
            stem=words.stem,
            instead=words.instead,
        )
        client = Csa.from_environment(command=words.command, owns_process=True)
        order = Order(tasks=words.tasks, fresh=words.fresh, takes=words.takes)
        scheduler = Scheduler(client, read, order, directory=os.getcwd(), tell=_tell)
        return _unwrapped(lambda: anyio.run(_run, scheduler))
    except CsaError as error:
        hint = f" ({error.hint})" if error.hint else ""
        _tell({"type": "ended", "code": error.exit_code, "text": "", "message": f"{error.message}{hint}"})
        return error.exit_code


def _unwrapped(run: Callable[[], int]) -> int:
    """Run something; an error comes out of the groups that task groups have put it into."""
    try:
        return run()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


async def _run(scheduler: Scheduler) -> int:
    """Run to the end, or to a signal."""
    code = 1
    async with anyio.create_task_group() as tasks:

        async def obey() -> None:
            nonlocal code
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    code = SIGNAL_EXITS[signal.Signals(number).name]
                    tasks.cancel_scope.cancel()

        tasks.start_soon(obey)
        code = await scheduler.run()
        tasks.cancel_scope.cancel()
    return code


def _tell(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
