"""Which signals csa reacts to; and signals as something to read, for loops that wait on descriptors."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return these signals without those our parent made us ignore (nohup, a shell's `&`), which stay ignored."""
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def heeded_signals() -> list[signal.Signals]:
    """Return the signals that end a turn, as far as they are not ignored."""
    return heeded(_ENDING)


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Have signals that end a turn noted, from before it begins until the event loop takes them."""
    noted: list[int] = []
    with handled(lambda number, _: noted.append(number)):
        yield noted


@contextmanager
def handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """Have the signals that end a turn handled so."""
    before = {number: signal.signal(number, handler) for number in heeded_signals()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


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
