"""A turn that a scheduler places: its order waits in a queue until there is a host for it.

Then it is as with any host: who waits here holds the turn, which has begun there as the scheduler's job. As long as
the job runs, it is reached through the scheduler, and then as the host is called in the configuration.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from csa.errors import CsaError
from csa.model.config import Config, Engine
from csa.runner.hosts.code import Outgoing
from csa.runner.hosts.engines import HostError
from csa.runner.hosts.jobs import Job, UnclearError, WithdrawnError, is_always_held, name_of, submit
from csa.runner.hosts.schedulers import GONE, PENDING, RUNNING, Look, adapter_of
from csa.runner.hosts.tether import Begun, GoneError, StoppedError, Tether, first_line
from csa.store.mirrors import is_host_name
from csa.structs import replace

_HEED_S = 0.1
_HURRIED_S = 5.0
_CANCELLED_WITHIN_S = 3.0  # by what holds the turn; or else the job is


class QueuedTether(Tether):
    """As a Tether. `engine` is the host, once there is one.

    Attributes:
        moved: called with the host that the turn is on, before it begins there.
    """

    hold_options = ("--within", "60")  # a job runs before its script does

    def __init__(
        self,
        config: Config,
        engine: Engine,
        order_id: str,
        *,
        node: str | None,
        queue_s: float | None,
        is_detached: bool,
        noted: Callable[[], str],
        moved: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(engine, order_id, is_detached=is_detached, tell=tell)
        self._config, self._scheduler = config, engine
        self._node, self._queue_s = node, queue_s
        self._noted, self._moved = noted, moved
        self._job: Job | None = None
        self._is_given_up = False
        self._unreached = ""  # why, when it was tried last

    def begin(
        self,
        order: Mapping[str, Any],
        *,
        passport: Mapping[str, Any] | None,
        code: Outgoing | None,
        before_sending: Callable[[], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Begun:
        """Submit the order, wait for its host, and return the turn that has begun there; `meanwhile` is done first.

        Raises:
            WithdrawnError: it has waited for too long, and has not begun.
            StoppedError: a signal was noted; it was cancelled, and has not begun if `is_sent` is False.
            HostError, CsaError: as of a Tether.
        """
        given = self._written(order, passport, code)
        before_sending()
        self.is_sent = True
        job = self._job = self._submit(given)
        self._tell(f"{job.in_words} has the turn")
        meanwhile()
        found = job.await_host(self._queue_s, lambda: bool(self._noted()), self._tell)
        if found.state == PENDING:
            found = self._withdraw(job, found)
        self._require_host(job, found)
        self._moved(found.host)
        self.engine = job.engine_at(found.host, self._config)
        self._start(self._heed)
        self._start(self._beat)
        return self._begun(self._ask_again(job.explain_end(found)))

    def _written(self, order: Mapping[str, Any], passport: Mapping[str, Any] | None, code: Outgoing | None) -> bytes:
        """Return all that would be said to a host: what it has of the code is not known."""
        written = io.BytesIO()
        written.write(json.dumps(first_line(code)).encode() + b"\n")
        written.write(self._spelled(order, passport, code) + b"\n")
        if code:
            code.write_bundle(written, [])
        return written.getvalue()

    def _terms(self) -> dict[str, Any]:
        linger_s = 0 if self._lasts else self._scheduler.linger_s
        return {"held_s": self.leash_s if self._is_held else 0, "linger_s": linger_s}

    @property
    def _lasts(self) -> bool:
        """Whether the host is there when its job has ended."""
        return adapter_of(self._scheduler).lasts(self._scheduler)

    @property
    def _is_held(self) -> bool:
        """Whether the turn begins only once its job is held: one that nobody holds has not begun, and never will."""
        return not self._is_detached or is_always_held(self._scheduler)

    def _submit(self, given: bytes) -> Job:
        def is_noted() -> bool:
            return bool(self._noted())

        try:
            return submit(self._scheduler, given, name_of(self.order_id), self._node, is_stopped=is_noted)
        except CsaError as error:
            self.is_sent = isinstance(error, UnclearError) and not self._is_held
            if is_noted() and not self.is_sent:
                raise StoppedError(self._noted()) from error
            raise

    def _withdraw(self, job: Job, found: Look) -> Look:
        """Take it back, and say why; or return how it is, if it has just got a host."""
        try:
            if self._noted():
                job.look(tries=1, limit_s=_HURRIED_S)  # nobody who wants to end waits for a scheduler that hangs
            if not job.withdraw():
                return job.look()
        except HostError:
            if not self._is_held:
                raise
        self.is_sent = False
        if name := self._noted():
            raise StoppedError(name)
        why = f" ({found.reason})" if found.reason else ""
        raise WithdrawnError(f"{job.in_words} has waited for {self._queue_s:g} s{why}, and was withdrawn.")

    def _require_host(self, job: Job, found: Look) -> None:
        """Raise for a job without a host: it has not begun, unless the scheduler has forgotten it, or keeps it."""
        if is_host_name(found.host):
            return
        if found.host:  # it would be part of a path
            job.cancel()
            self.is_sent = not self._is_held
            words = f"{job.in_words} is on {found.host!r}, which cannot name a host here; it was cancelled."
            raise HostError(words, hint="A-Z, a-z, 0-9, dots, - and _ can, 63 of them at most")
        self.is_sent = found.state == PENDING or not found.reason
        if (name := self._noted()) and not self.is_sent:
            raise StoppedError(name)
        raise job.explain_end(found)

    def _heed(self) -> None:
        """Have a signal that is noted end what has not begun yet: whoever watches the turn does it later."""
        while not self._noted():
            if self._has_begun or self._over.wait(_HEED_S):
                return
        self.cancel(self._noted())
        assert self._job
        if self._over.wait(_CANCELLED_WITHIN_S) or self._has_begun:
            return
        self._job.cancel(limit_s=_HURRIED_S)
        if self._over.wait(_CANCELLED_WITHIN_S) or self._has_begun:
            return
        self._is_given_up = True  # neither the host nor the scheduler says anything
        if self._link:
            self._link.end()

    def _is_left(self) -> bool:
        return self._over.is_set() or self._is_given_up

    def engine_now(self) -> Engine:
        """Return how the host is reached: through the scheduler as long as the job runs, and else as any host."""
        assert self._job
        with suppress(HostError):  # the host may be there all the same
            found = self._job.look(is_stopped=self._is_left)
            if found.state == RUNNING and found.host == self.engine.name:
                return self._job.engine_at(found.host, self._config)
        return self._config.engine(self.engine.name)

    def _ask(self, failure: CsaError) -> Mapping[str, Any] | None:
        """Ask as the host is reached now, which may be without the job."""
        assert self._job
        if self._is_given_up:
            self._tell(f"{self._job.in_words} may still have the turn: csa hosts --placed")
            raise StoppedError(self._noted())
        found = self._job.look(is_stopped=self._is_left)
        if found.state == RUNNING and found.host != self.engine.name and not self._lasts:
            self._job.cancel()  # begun again, in another pod: that would be another turn, and nobody holds it
            found = replace(found, state=GONE, host=self.engine.name, reason=f"it was begun again on {found.host}")
        if found.state == GONE:
            if not self._has_begun and self._noted():
                raise StoppedError(self._noted())
            is_told = found.host or not found.reason  # of a pod that is deleted it is said that its job has failed
            ended = self._job.explain_end(found if is_told else replace(found, host=self.engine.name))
            if self._unreached and not self._has_begun:
                ended.message += f" It was not reached: {self._unreached}"
            if not self._has_begun and found.is_without_csa:
                self.is_sent = False
                nothing = CsaError(ended.message, hint=ended.hint)
                nothing.exit_code = HostError.exit_code
                raise nothing
            if not self._lasts:
                raise GoneError(ended.message, hint=ended.hint)
            failure = failure if self._has_begun else ended
        self.engine = self.engine_now()
        try:
            return super()._ask(failure)
        except CsaError as nothing:
            self._unreached = nothing.message
            if self.is_sent or self._is_held:
                raise
            self._job.cancel()  # its node may have lost what it knew, and its state root with it: it could begin yet
            self.is_sent = True
            hint = f"csa hosts --release {self.order_id} gives back what it holds"
            raise GoneError(f"{nothing.message.rstrip('.')}; its job was cancelled.", hint=hint) from nothing
