"""An event loop that takes signals, for what has the terminal meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def run_with_signals(
    main: Callable[[], Coroutine[Any, Any, _T]], handlers: Mapping[signal.Signals, Callable[[], object]]
) -> _T:
    """Run an event loop, as `asyncio.run` does, in which these signals call these; in the main thread.

    While the loop is made and taken down, which no signal may break into, they wait. Afterwards they do what they did
    before.
    """
    before = {number: signal.getsignal(number) for number in handlers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)

    async def heed() -> _T:
        loop = asyncio.get_running_loop()
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            return await main()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
            for number in handlers:
                loop.remove_signal_handler(number)

    try:
        return asyncio.run(heed())
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
