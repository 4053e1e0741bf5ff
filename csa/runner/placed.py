"""The process that owns an attached turn on another host: `python -P -m csa.runner.placed`, from `start_placed`.

Its order comes as one line of JSON on stdin. It answers with one line on stdout, the turn that has begun there or why
none has, and after its end with another one if that was not seen. It keeps the host's mirror up to date meanwhile. At
the end the commits are here, and what was used is settled. When stdin ends, or TERM comes, the turn ends as cancelled.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from csa.errors import CsaError
from csa.model.limits import Budget
from csa.process.wakeup import noted_signals
from csa.runner.context import Context
from csa.runner.detach import error_to_json, request_from_json
from csa.runner.hosts.escrow import Escrow, settle_heard
from csa.runner.hosts.fetching import fetch_work
from csa.runner.hosts.sending import (
    begin_there,
    find_where,
    has_code,
    heed,
    recording,
    reserve_for,
    tether_to,
    unseen,
)
from csa.runner.hosts.sharing import part_of_budgets
from csa.runner.hosts.tether import Begun, StoppedError, Tether
from csa.runner.hosts.watching import LOOK_AT_END_S, SEEN_WITHIN_S, Watching
from csa.runner.ordered import client_for
from csa.runner.turns.patience import try_until_free
from csa.store.liveness import probe
from csa.store.sessions import Record
from csa.store.transcript import last_turn_event

_LOOK_S = 0.05


def main() -> int:
    """Execute the order; the exit code is that of the turn."""
    order = json.loads(sys.stdin.buffer.readline())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which our caller's end is, however it was started
    with noted_signals() as noted:
        threading.Thread(target=_end_with_caller, daemon=True).start()
        try:
            return _Placing(client_for(order, os.environ, is_detached=False).context, order, noted).run()
        except CsaError as error:
            _say({"error": error_to_json(error)})
            return error.exit_code
        except StoppedError as stopped:
            _say({"error": error_to_json(CsaError(f"{stopped.name} came before anything had begun there."))})
            return 128 + signal.Signals[stopped.name]


def _end_with_caller() -> None:
    """Have what we do end when stdin does, whose other end our caller alone has."""
    while os.read(0, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _say(said: Mapping[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(0, 1)  # nobody reads it any more


def _tell(words: str) -> None:
    _say({"said": words})


def _warn(words: Sequence[str]) -> None:
    for each in words:
        _tell(each)


class _Placing:
    """A turn on another host, from its order to its end."""

    def __init__(self, context: Context, order: Mapping[str, Any], noted: list[int]) -> None:
        self._context, self._order, self._noted = context, order, noted
        self._where = find_where(context, request_from_json(order["request"]), order["host"], None)
        self._sync = Watching(context.store.root_pathname)

    def run(self) -> int:
        """Place it, and see it through; return its exit code."""
        where, sync = self._where, self._sync
        for warning in where.code.warnings if where.code else ():
            _tell(warning)
        wait_s = self._order["wait_s"] or 0
        try:
            with try_until_free(self._reserved, limit_s=wait_s, tell=_tell, check=lambda: heed(self._noted)) as escrow:
                code = self._place(escrow)
            if sync.engine:
                settle_heard(self._context.store.root, sync.engine.name)  # if it was not the connection that said so
            return code
        finally:
            sync.end()

    def _reserved(self) -> Escrow:
        """Book the allowance that was given; of a budget above of which none is said, a new session gets a part."""
        allowance = Budget(**self._order["allowance"])
        if self._where.is_new:
            allowance = part_of_budgets(self._context, allowance, self._order["parts"])
        return reserve_for(self._context, self._where, allowance)

    def _place(self, escrow: Escrow) -> int:
        context, where, noted = self._context, self._where, self._noted
        queue_s, wait_s = self._order["queue_s"], self._order["wait_s"]
        tether = tether_to(
            context, where, escrow, is_detached=False, queue_s=queue_s, noted=noted, tell=_tell, watching=self._sync
        )
        try:
            begun = begin_there(context, where, escrow, tether, wait_s=wait_s, noted=noted, warn=_warn)
            _say({**begun.to_json(), "host": begun.host})
            if not self._sync.engine:
                self._sync.begin(tether.engine)
            tether.attend()
            return self._see_through(escrow, begun, tether)
        finally:
            tether.close()

    def _see_through(self, escrow: Escrow, begun: Begun, tether: Tether) -> int:
        """Wait for the end of the turn, and until it can be seen here, with its commits; return its exit code."""
        store, session_id = begun.target(self._context.store.root_pathname)
        record = store.record(session_id)
        self._await_end(record, begun.turn, tether)
        ended = tether.ended or {}
        if ended:
            with recording(begun.host, _warn):
                escrow.ended(ended)
        turn, deadline = max(begun.turn, int(ended.get("turn") or 0)), time.monotonic() + SEEN_WITHIN_S
        while not (ended.get("lost") or _has_finished(record, turn)) and ended and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        if ended and not _has_finished(record, turn):
            self._sync.catch_up(tether.engine_now())
        if not _has_finished(record, turn):
            raise unseen(begun, tether, self._sync)
        if has_code(self._where, record.state):
            fetch_work(self._context, tether.engine_now(), begun.session_id, begun.host)
            with recording(begun.host, _warn):
                escrow.fetched()
        return int(ended.get("ended") or 0)

    def _await_end(self, record: Record, turn: int, tether: Tether) -> None:
        """Wait until the host has said it, or its mirror shows it; what is noted meanwhile ends the turn.

        After that nobody waits for longer than the host would, if we were gone.
        """
        told, looked_at, patience_ends = 0, 0.0, float("inf")
        while tether.ended is None and tether.failure is None and time.monotonic() < patience_ends:
            for number in self._noted[told:]:
                tether.cancel(signal.Signals(number).name)
                patience_ends = min(patience_ends, time.monotonic() + tether.leash_s)
                told += 1
            time.sleep(_LOOK_S)
            if time.monotonic() - looked_at > LOOK_AT_END_S:  # perhaps the connection stands still
                looked_at = time.monotonic()
                if _has_finished(record, turn) and probe(record.paths).state == "not_alive":
                    return


def _has_finished(record: Record, turn: int) -> bool:
    """Say whether the mirror shows the end of a turn."""
    last = last_turn_event(record.paths.transcript)
    return last is not None and last.type == "run_finished" and last.turn >= turn


if __name__ == "__main__":
    sys.exit(main())
