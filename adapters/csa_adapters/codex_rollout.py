"""Reads codex's own record of its threads (rollouts, seen at 0.169.0) for tokens that are not in its stream.

The stream has one figure, for the whole thread, in the line that completes a turn: none for a turn that failed or was
killed, after which the thread's figure lacks the last answer; and never those of codex's own sub-agents,
which are threads of their own. A rollout has a line for each answer of the provider, with the thread it belongs to, and
the turn of the user's thread that it was for.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from csa.model.usage import Usage
from csa_adapters.homes import is_uuid, literal
from csa_adapters.jsonlines import count_of, mapping_of, read_object, text_of

_KINDS = (b'"token_usage_record"', b'"task_started"', b'"SubAgentActivity"')
_HEAD_BYTES = 300  # the part of a line with its kind: most lines are long, and irrelevant


class Rollouts:
    """The tokens of one turn of `thread`, whose own rollout must be read first."""

    def __init__(self) -> None:
        self.thread = ""
        self._turn = ""
        self._turns: set[str] = set()
        self._answers: set[tuple[str, str]] = set()  # counted; a copied history repeats them
        self.own: Usage | None = None  # of the turn, without its agents'; None if no answer to it is recorded
        self.agents = Usage()
        self.threads: dict[str, None] = {}  # the agents', in order

    def feed(self, line: bytes) -> None:
        """Take one line of a rollout."""
        head = line[:_HEAD_BYTES]
        if not any(kind in head for kind in _KINDS):
            return
        event = read_object(line) or {}
        payload = mapping_of(event.get("payload"))
        if payload.get("type") == "task_started":
            self._begin(text_of(payload.get("turn_id")), text_of(payload.get("root_turn_id")))
        elif event.get("type") == "token_usage_record":
            self._count(payload)
        elif agent := text_of(mapping_of(payload.get("item")).get("agent_thread_id")):
            self.threads[agent] = None

    def _begin(self, turn: str, root: str) -> None:
        """Begin a turn of the thread itself: its agents' turns have another root."""
        if turn == root and turn not in self._turns:
            self._turns.add(turn)
            self._turn, self.own, self.agents, self.threads = turn, None, Usage(), {}

    def _count(self, record: Mapping[str, Any]) -> None:
        thread = text_of(record.get("thread_id"))
        answer = (thread, text_of(record.get("response_id")))
        if not self._turn or record.get("root_turn_id") != self._turn or answer in self._answers:
            return
        self._answers.add(answer)
        used = usage_of(mapping_of(record.get("usage")))
        if thread.lower() == self.thread.lower():
            self.own = used if self.own is None else self.own + used
        else:
            self.agents += used


def usage_of(counts: Mapping[str, Any]) -> Usage:
    """Read codex's names of tokens."""
    return Usage(
        count_of(counts.get("input_tokens")),
        count_of(counts.get("output_tokens")),
        count_of(counts.get("cached_input_tokens")),
    )


def rollout_patterns(home: str, threads: Iterable[str]) -> tuple[str, ...]:
    """Return globs for the rollouts of threads in a CODEX_HOME; none for anything that is not a thread id."""
    place = posixpath.join(literal(home), "sessions", "*", "*", "*")
    return tuple(f"{place}/rollout-*-{thread}.jsonl" for thread in threads if is_uuid(thread))
