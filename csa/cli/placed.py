"""A turn on another host, seen here from the mirror that it comes into, until its end."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator

from csa.cli.fetching import next_steps
from csa.cli.output import lossy, tell, to_json, warn
from csa.cli.run import print_outcome, room_for, run_follow_up, write_text
from csa.cli.views.progress import Progress, Subject, make_progress
from csa.errors import CsaError
from csa.model.events import Event
from csa.process.wakeup import heeded_signals
from csa.runner.client import Csa
from csa.runner.context import Context
from csa.runner.hosts.escrow import Escrow
from csa.runner.hosts.fetching import fetch_work
from csa.runner.hosts.sending import Where, has_code, recording, unseen
from csa.runner.hosts.tether import Begun, Tether
from csa.runner.hosts.watching import LOOK_AT_END_S, SEEN_WITHIN_S, Watching
from csa.runner.on_finish import FollowUp
from csa.runner.session import Session
from csa.store.following import Follower
from csa.store.liveness import probe
from csa.store.sessions import Target

_LOOK_S, _IDLE_LOOK_S = 0.02, 0.1
_IDLE_S = 1.0
_THIRD = f"{SEEN_WITHIN_S:g} s after the first, a third signal leaves without its end"


class Watch:
    """A turn on another host, as it is seen here."""

    def __init__(
        self,
        client: Csa,
        begun: Begun,
        *,
        where: Where,
        tether: Tether,
        sync: Watching,
        arguments: argparse.Namespace,
        after: FollowUp | None,
    ) -> None:
        self._client, self._begun, self._where = client, begun, where
        self._after = after
        self._tether, self._sync, self._arguments = tether, sync, arguments
        self._store, session_id = begun.target(client.store.root_pathname)
        self._paths = self._store.paths(session_id)
        self._follower: Follower | None = None
        self._finished = 0  # the last turn whose end was seen
        self._ended_at = self._looked_at = 0.0
        self._news_at = time.monotonic()
        self._faults: list[OSError] = []  # of stdout
        self._stops = [tether.cancelled] if tether.cancelled else []  # the names of signals
        self._stopped_at = 0.0  # for the first time
        self._is_left = False

    @property
    def has_ended(self) -> bool:
        return self._tether.ended is not None or self._tether.failure is not None

    @property
    def target(self) -> Target:
        return self._store, self._begun.session_id

    def run(self, noted: list[int], escrow: Escrow) -> int:
        """Show the turn to its end, and print its answer; return its exit code. `noted` are signals from before."""
        import anyio  # noqa: PLC0415  # loaded while the host is reached

        arguments, begun = self._arguments, self._begun
        self._tether.attend()
        plain = arguments.stream_json and sys.stdout.isatty()
        there = Csa(begun.project, root=self._store.root_pathname)
        there.context = self._client.context.in_store(self._store)
        progress = make_progress(there, quiet=arguments.quiet, plain=plain, verbose=arguments.verbose)
        try:
            anyio.run(self._show, progress, noted)
        finally:
            if self._follower:
                self._follower.close()
        if self._tether.ended:
            with recording(self._begun.host, warn):
                escrow.ended(self._tether.ended)
        return self._conclude(escrow)

    def _conclude(self, escrow: Escrow) -> int:
        ended = self._tether.ended or {}
        turn = max(self._finished, int(ended.get("turn") or 0))
        if turn < self._begun.turn or turn > self._finished:
            raise unseen(self._begun, self._tether, self._sync, stopped_by=self._stops[-1] if self._stops else "")
        context = self._client.context.in_store(self._store)
        result = Session(context, self._begun.session_id).result(turn=turn)
        unprinted = print_outcome(result, self._arguments, [])
        self._fetch(escrow, context)
        if self._after:
            run_follow_up(self._after, self._client, result, context.redactor)
        if self._faults and not isinstance(self._faults[0], BrokenPipeError):
            raise self._faults[0]
        if unprinted:
            raise unprinted
        if self._stops and result.status == "cancelled":
            return 128 + signal.Signals[self._stops[0]]
        return result.exit_code

    def _fetch(self, escrow: Escrow, context: Context) -> None:
        """Have the commits of the session here, and say what to do with them."""
        state = context.store.record(self._begun.session_id).state
        if not has_code(self._where, state):
            return
        try:
            brought = fetch_work(
                self._client.context, self._tether.engine_now(), self._begun.session_id, self._begun.host
            )
        except (CsaError, OSError) as error:
            if self._where.code is not None:
                warn([f"the commits on {self._begun.host} are not here yet: {error}"])
                tell("hint", f"csa fetch {self._begun.session_id}")
            return
        with recording(self._begun.host, warn):
            escrow.fetched()
        warn(brought.problems)
        if not self._arguments.quiet:
            for step in next_steps(brought):
                tell("hint", step)

    async def _show(self, progress: Progress, noted: list[int]) -> None:
        import anyio  # noqa: PLC0415  # as above

        with anyio.open_signal_receiver(*heeded_signals()) as signals:
            async with anyio.create_task_group() as tasks:

                async def obey() -> None:
                    for number in noted:
                        self._stop(signal.Signals(number).name)
                    async for number in signals:
                        self._stop(signal.Signals(number).name)

                tasks.start_soon(obey)
                await self._await_record()
                with lossy(sys.stderr):
                    progress.begin(self._subject())
                try:
                    tasks.start_soon(progress.keep_fresh)
                    await self._show_new(progress)
                    while not self._is_over():
                        is_idle = time.monotonic() - self._news_at > _IDLE_S
                        await anyio.sleep(_IDLE_LOOK_S if is_idle else _LOOK_S)
                        await self._show_new(progress)
                        if self._lags():
                            await anyio.to_thread.run_sync(self._sync.catch_up, self._tether.engine_now())
                            await self._show_new(progress)
                            break
                    await self._show_new(progress)
                finally:
                    with lossy(sys.stderr):
                        progress.end()
                tasks.cancel_scope.cancel()

    def _stop(self, name: str) -> None:
        """Have the turn end; the second time, do not wait for a host that is not there, nor then for a silent one."""
        self._stopped_at = self._stopped_at or time.monotonic()
        is_late = len(self._stops) > 1 and time.monotonic() - self._stopped_at > SEEN_WITHIN_S
        if is_late or (self._stops and self._tether.is_lost):
            self._is_left = True
        if len(self._stops) == 1 and not (self._is_left or self._arguments.quiet):
            tell("csa", f"{self._begun.host} has been told to end the turn; {_THIRD}")
        self._stops.append(name)
        self._tether.cancel(name)

    async def _await_record(self) -> None:
        """Wait until the session is in the mirror, where everything finds it; but not for long."""
        import anyio  # noqa: PLC0415  # as above

        with anyio.move_on_after(SEEN_WITHIN_S):
            while not self._paths.transcript.exists() and self._tether.ended is None and not self._is_left:  # noqa: ASYNC110  # files set no event
                await anyio.sleep(_LOOK_S)

    def _subject(self) -> Subject:
        begun = self._begun
        return Subject(
            record=self._store.record(begun.session_id),
            turn=begun.turn,
            verb="session" if self._where.is_new else "continuing session",
            facts=f"{begun.tool} on {begun.host}",
            tool=begun.tool,
            is_new=self._where.is_new,
            started_at=time.time(),
        )

    def _is_over(self) -> bool:
        """Say whether all has been seen, or no more will be."""
        if self._is_left or self._tether.failure is not None:
            return True
        if (ended := self._tether.ended) is not None:
            return bool(ended.get("lost")) or self._finished >= max(int(ended["turn"]), self._begun.turn)
        now = time.monotonic()
        if self._finished < self._begun.turn or now - self._looked_at < LOOK_AT_END_S:
            return False
        self._looked_at = now  # nothing is heard of the supervisor: perhaps its connection stands still
        return probe(self._paths).state == "not_alive"

    def _lags(self) -> bool:
        """Say whether the end was told, and is not seen in the mirror for long."""
        if self._tether.ended is None:
            return False
        self._ended_at = self._ended_at or time.monotonic()
        return time.monotonic() - self._ended_at > SEEN_WITHIN_S

    async def _show_new(self, progress: Progress) -> None:
        for event in self._new():
            self._news_at = time.monotonic()
            if event.type == "run_finished":
                self._finished = event.turn
            if self._arguments.stream_json:
                await write_text(self, sys.stdout, to_json(event.to_dict()) + "\n", self._faults)
            if progress.speaks:
                await room_for(self, sys.stderr)
            with lossy(sys.stderr):
                progress.show(event)
            await write_text(self, sys.stderr, progress.text(event))

    def _new(self) -> Iterator[Event]:
        if self._follower is None:
            if not self._paths.transcript.exists():
                return iter(())
            self._follower = Follower(self._paths.transcript)
        return (event for event in self._follower.read() if event.turn >= self._begun.turn)
