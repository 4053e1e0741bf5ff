"""Teaches csa to run parrot."""

from __future__ import annotations

import json
import os.path
from collections.abc import Mapping

from csa.model.adapter import (
    Capabilities,
    Invocation,
    Login,
    LoginRequest,
    Outcome,
    Probe,
    ToolExit,
    TurnRequest,
    Update,
)
from csa.model.usage import Usage


class ParrotAdapter:
    """What csa knows of parrot. An adapter only describes: it starts no process and opens no file."""

    name = "parrot"  # of the entry point, and of `csa run --tool parrot`
    family = "birds"
    executable = "parrot"  # looked up on PATH
    capabilities = Capabilities()  # it cannot fork a conversation, and so on
    outer_markers: frozenset[str] = frozenset()
    probe = Probe(version_arguments=("--version",), login_variables=(), login_files=(), tested="1.0")

    def login(self, _request: LoginRequest) -> Login:
        """Say whether it is logged in. Where the variables and files of `probe` tell, this method is not needed."""
        return Login(is_there=True)

    def account(self, _environ: Mapping[str, str]) -> str:
        """Say whose conversations these are; one is not resumed under another account."""
        return "~/.parrot"

    def homes(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Say where parrot keeps its own files."""
        return (os.path.join(environ["HOME"], ".parrot"),)

    def invocation(self, request: TurnRequest) -> Invocation:
        """Say how to run a turn: never with the prompt among the arguments, which everybody can read."""
        resume = () if request.provider_session_id is None else ("--resume", request.provider_session_id)
        return Invocation(argv=(*request.command, *resume), stdin=request.prompt.encode())

    def decoder(self, request: TurnRequest) -> ParrotDecoder:
        """Begin to read what it prints."""
        return ParrotDecoder(request)


class ParrotDecoder:
    """Reads the lines of one run."""

    def __init__(self, request: TurnRequest) -> None:
        self._asked_for = request.provider_session_id
        self.is_finished = False  # the tool has said that the turn is over
        self.fault: str | None = None  # why csa must end the run at once
        self._text = ""
        self._unknown = ""
        self._usage: Usage | None = None

    def feed(self, line: bytes) -> list[Update]:
        """Turn one line into events of the transcript."""
        try:
            event = json.loads(line)
        except ValueError:
            return [Update("other", {"raw": line.decode(errors="replace")})]
        match event:
            case {"type": "start", "conversation": str(name)}:
                if self._asked_for not in (None, name):
                    self.fault = f"parrot continues {name}, not {self._asked_for}."
                return [Update("session_bound", {"provider_session_id": name})]
            case {"type": "say", "text": str(text)}:
                self._text = text
                return [Update("agent_message", {"text": text})]
            case {"type": "end", "words": int(words)}:
                self.is_finished = True
                self._usage = Usage(input_tokens=words, output_tokens=words)
                return [Update("usage", self._usage.to_dict())]
            case {"type": "unknown", "conversation": str(name)}:
                self._unknown = name  # csa then begins a new one, with a summary of the turns so far
                return []
        return [Update("other", {"raw": event})]

    def close(self, end: ToolExit) -> Outcome:
        """Judge the turn, from what the tool said of it and how it exited; never from what a model wrote."""
        if self._unknown:
            message = f"parrot has no conversation {self._unknown}"
            return Outcome(succeeded=False, error_kind="unknown_conversation", error_message=message)
        if not self.is_finished or end.code not in (0, None):
            message = f"parrot ended without an answer (exit {end.code})"
            return Outcome(succeeded=False, error_kind="protocol", error_message=message)
        return Outcome(succeeded=True, text=self._text, usage=self._usage)
