"""The one way to write in a session whose lock this process holds: events first, and then what they tell of.

What keeps work from being begun is raised. What cannot be written of work that is done is a loss, and `losses` has them
all in words when the writer is closed: whoever did the work says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

from csa.model.events import Event
from csa.model.redaction import Redactor
from csa.paths import SessionPaths
from csa.store.journal import Journal
from csa.store.transcript import last_turn_event


class SessionWriter:
    """Writes the transcript of a session that the caller holds, whether its record can be read or not.

    `HeldSession` is one that writes the record as well.
    """

    def __init__(self, paths: SessionPaths, redactor: Redactor) -> None:
        self.paths = paths
        self.redactor = redactor
        self.losses: list[str] = []

    @cached_property
    def journal(self) -> Journal:
        """The transcript, opened when it is first written to; StateError or OSError where it cannot be."""
        return Journal(self.paths.transcript, self.redactor, turn=self.last_turn(), may_write=self.is_ours)

    def hide_with(self, redactor: Redactor) -> None:
        """Redact what is written from now on with another redactor."""
        self.redactor = self.journal.redactor = redactor

    def last_turn(self) -> int:
        """Return the number of the last turn, which what is noted after it bears."""
        last = last_turn_event(self.paths.transcript)
        return last.turn if last else 0

    def is_ours(self) -> bool:
        """Say whether the session may still be written."""
        return True

    def append(self, kind: str, data: Mapping[str, Any]) -> list[Event]:
        """Record an event; return it as recorded."""
        return self.journal.append(kind, data)

    def require(self) -> None:
        """Make durable what was appended; OSError, naming the transcript, where that is not possible."""
        self.journal.sync()
        if self.journal.fault:
            raise self.journal.fault

    @contextmanager
    def losing(self, what: str, done: str = "written") -> Iterator[None]:
        """Have what goes wrong with one step of the end be a loss, which takes no other step with it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # a csa that was replaced meanwhile may fail in any way
            self.losses.append(f"{what} could not be {done}: {str(error) or type(error).__name__}")

    def attempt(self, what: str, action: Callable[[], None]) -> None:
        """Write something, unless the session is another's by now; what goes wrong is a loss."""
        if self.is_ours():
            with self.losing(what):
                action()

    def close(self) -> None:
        """Write what is left of the transcript; harmless when done twice."""
        journal = self.__dict__.pop("journal", None)
        if journal:
            with self.losing("the end of the transcript"):
                journal.close()
            if journal.lost or journal.fault:
                why = journal.fault.strerror if journal.fault else "unknown"
                self.losses.append(f"events of the transcript were lost ({journal.lost}): {why}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
