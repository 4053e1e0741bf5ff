"""Making checkpoints: what they say about a session, and those csa makes automatically."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from csa.errors import BusyError, CsaError, SealedError
from csa.store.checkpoints import Checkpoint, Facts, digest_transcript, make_checkpoint
from csa.store.held import open_session
from csa.store.owner import CHANGE
from csa.store.transcript import last_turn_event

if TYPE_CHECKING:
    from csa.runner.context import Context
    from csa.runner.session import Session
    from csa.runner.turns.turnrecorder import TurnRecorder

MAX_LABEL = 200


def checkpoint_session(session: Session, *, label: str | None = None) -> tuple[Checkpoint, list[str]]:
    """Make a checkpoint of a session; also return what could not be written elsewhere.

    Its transcript gets an event, unless the session is running.

    Raises:
        NotFoundError, StateError: the session does not exist, or its record is damaged.
        Others as `make_checkpoint`.
    """
    context, session_id = session.context, session.session_id
    if session.load().sealed_at is not None:
        raise SealedError(f"Session {session_id} is encrypted.", hint=f"csa unseal {session_id}")
    words = "".join(c if c.isprintable() else " " for c in context.redactor.redact(label or "")).split()
    made = _make(context, session_id, label=" ".join(words)[:MAX_LABEL] or None, automatic=False)
    try:
        held = open_session(context.store, session_id, context.redactor, errand=CHANGE)
    except BusyError:  # only its supervisor writes there; the checkpoint itself is recorded
        return made, []
    except OSError as error:
        return made, [f"the transcript does not record it: {error}"]
    with held, held.losing("the transcript"):
        held.append("checkpoint", event_data(made))
        held.journal.sync()
    return made, held.losses


def checkpoint_turn(recorder: TurnRecorder) -> None:
    """Make the checkpoint that `checkpoint_every_turns` asks for; an error is a loss, not a failure."""
    context = recorder.plan.context
    every = context.config.checkpoint_every_turns
    if not every or recorder.turn % every or recorder.plan.state.ephemeral or recorder.held.is_lost:
        return
    try:
        recorder.journal.flush()
        made = _make(context, recorder.plan.state.session_id, label=None, automatic=True)
        recorder.append("checkpoint", event_data(made))
    except (CsaError, OSError) as error:
        recorder.losses.append(f"the checkpoint could not be made: {error}")


def event_data(made: Checkpoint) -> dict[str, object]:
    """Return the data of the `checkpoint` event."""
    facts = made.facts
    proof = {"sha256": facts.sha256, "events": facts.events, "bytes": facts.bytes}
    return {"commit": made.commit, "label": facts.label, "automatic": facts.automatic, **proof}


def _make(context: Context, session_id: str, *, label: str | None, automatic: bool) -> Checkpoint:
    paths = context.store.paths(session_id)
    sha256, events, count = digest_transcript(paths)
    last = last_turn_event(paths.transcript)
    is_finished = last is not None and last.type == "run_finished"
    facts = Facts(
        session_id=session_id,
        turn=last.turn if last else 0,
        status=str(last.data.get("status")) if last and is_finished else None,
        tool=str(last.data.get("tool")) if last else None,
        label=label,
        automatic=automatic,
        sha256=sha256,
        events=events,
        bytes=count,
    )
    return make_checkpoint(context.store, facts, context.environ, now=int(time.time()))
