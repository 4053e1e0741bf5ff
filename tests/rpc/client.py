"""A client of csa acp that says each frame as it is, and checks each frame it gets against the protocol's schema."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from typing import Any, Self

from tests.support import CSA, PATIENCE_S, Place, wait_for

Json = dict[str, Any]
PROJECT: Any = object()  # the project's directory


class Client:
    """A running csa acp. `frames` are all messages it has sent; those of a session are its updates."""

    def __init__(self, place: Place, *words: str, env: dict[str, str | None] | None = None) -> None:
        self.place = place
        self.frames: list[Json] = []
        self.allow: Callable[[Json], Json | None] = lambda _: {"outcome": {"outcome": "cancelled"}}  # None: no answer
        self.err = place.tmp / f"acp-stderr-{len(place.started)}"
        self._answers: dict[int, Json] = {}
        self._asked = 0
        self._methods: dict[int, str] = {}
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [CSA, "acp", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                env=place.environment(env),
                cwd=place.project,
            )
        place.started.append(self.process)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> int:
        """Close its stdin; return its exit code when it has ended."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.leave()

    def send(self, method: str, **params: Any) -> int:
        """Send a request; return its id."""
        self._asked += 1
        self._methods[self._asked] = method
        self._write({"id": self._asked, "method": method, "params": params})
        return self._asked

    def notify(self, method: str, **params: Any) -> None:
        self._write({"method": method, "params": params})

    def answer(self, number: int) -> Json:
        """Wait for the answer to a request; it has a `result` or an `error`."""
        wait_for(lambda: number in self._answers or self.process.poll() is not None, f"answer {number}")
        assert number in self._answers, self.err.read_text()
        return self._answers[number]

    def ask(self, method: str, **params: Any) -> Any:
        """Return the result of a request that must succeed."""
        answer = self.answer(self.send(method, **params))
        assert "result" in answer, answer
        return answer["result"]

    def fail(self, method: str, **params: Any) -> Json:
        """Return the error of a request that must fail."""
        error: Json = self.answer(self.send(method, **params))["error"]
        return error

    def new(self, cwd: Any = PROJECT, **more: Any) -> str:
        """Open a new session."""
        where = str(self.place.project if cwd is PROJECT else cwd)
        return str(self.ask("session/new", cwd=where, mcpServers=[], **more)["sessionId"])

    def reopen(self, method: str, session: str) -> Any:
        return self.ask(f"session/{method}", sessionId=session, cwd=str(self.place.project), mcpServers=[])

    def send_prompt(self, session: str, *blocks: str | Json) -> int:
        prompt = [{"type": "text", "text": each} if isinstance(each, str) else each for each in blocks]
        return self.send("session/prompt", sessionId=session, prompt=prompt)

    def prompt(self, session: str, *blocks: str | Json) -> Json:
        """Run a prompt that must succeed; return its answer."""
        answer = self.answer(self.send_prompt(session, *blocks))
        assert "result" in answer, answer
        result: Json = answer["result"]
        return result

    def updates(self, session: str, *kinds: str) -> list[Json]:
        """Return the updates of a session so far, in their order."""
        found = [frame["params"] for frame in list(self.frames) if frame.get("method") == "session/update"]
        of = [params["update"] for params in found if params["sessionId"] == session]
        return [update for update in of if not kinds or update["sessionUpdate"] in kinds]

    def text(self, session: str, kind: str = "agent_message_chunk") -> str:
        return "".join(update["content"]["text"] for update in self.updates(session, kind))

    def wait_update(self, session: str, condition: Callable[[Json], object], what: str) -> Json:
        """Wait for an update like this; return the first."""
        wait_for(lambda: any(map(condition, self.updates(session))), what)
        return next(filter(condition, self.updates(session)))

    def _write(self, message: Json) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            frame = json.loads(line)
            self.frames.append(frame)
            if frame.get("method") == "session/request_permission":
                if answer := self.allow(frame["params"]):
                    self._write({"id": frame["id"], "result": answer})
            elif "method" not in frame:
                self._answers[frame["id"]] = frame

    # The schema

    def check_frames(self) -> None:
        """Check all frames; the schema's models drop what they do not know, so nothing may be missing after that."""
        from acp import schema  # noqa: PLC0415  # takes most of a second to load

        answers = {
            "initialize": schema.InitializeResponse,
            "session/new": schema.NewSessionResponse,
            "session/load": schema.LoadSessionResponse,
            "session/resume": schema.ResumeSessionResponse,
            "session/fork": schema.ForkSessionResponse,
            "session/list": schema.ListSessionsResponse,
            "session/prompt": schema.PromptResponse,
            "session/set_mode": schema.SetSessionModeResponse,
            "session/set_config_option": schema.SetSessionConfigOptionResponse,
            "session/close": schema.CloseSessionResponse,
            "session/delete": schema.DeleteSessionResponse,
        }
        calls = {
            "session/update": schema.SessionNotification,
            "session/request_permission": schema.RequestPermissionRequest,
            "$/cancel_request": schema.CancelRequestNotification,
        }
        for frame in self.frames:
            assert frame["jsonrpc"] == "2.0"
            if "method" in frame:
                _check(calls[frame["method"]], frame["params"])
            elif "error" in frame:
                _check(schema.Error, frame["error"])
            elif self._methods[frame["id"]] in answers:
                _check(answers[self._methods[frame["id"]]], frame["result"])


def _check(model: Any, value: Json) -> None:
    read = model.model_validate(value).model_dump(mode="json", by_alias=True)
    assert _without_nulls(read) == _without_nulls(value), (model.__name__, value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value
