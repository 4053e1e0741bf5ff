"""Which signals csa reacts to; and signals as something to read, for loops that wait on descriptors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return these signals without those our parent made us ignore (nohup, a shell's `&`), which stay ignored."""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def woken_by(numbers: Iterable[signal.Signals]) -> Iterator[int]:
    """Yield a descriptor from which the numbers of these signals can be read, a byte each; they do nothing else.

    For the main thread only; `set_wakeup_fd` of the library.
    """
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in heeded(numbers)}
    old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(old)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)
