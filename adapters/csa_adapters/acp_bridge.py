"""A program: one turn of an agent that speaks the Agent Client Protocol, told in lines of JSON.

    python -I acp_bridge.py -- goose acp      < order.json      (see `acp._order`)

It runs as the tool under csa's guardian and writes, one JSON object a line (`acp_stream` reads them): `agent`, what the
agent says of itself; `session`, once it has one; `update` and `permission` during the prompt; `notice`; at last
`finished` with the prompt's result, or `failed`. What an agent tells before the prompt, such as the history a loaded
session replays, is counted and not repeated. SIGTERM cancels the turn and leaves within 2.5 s.

The only module that imports `agent-client-protocol`, and of that the connection alone: what agents send beyond the
protocol, or beside it, goes through as it came. The agent inherits the whole environment and our stderr, so that
nothing has to be drained, and it is started before the library is imported, which takes longer than most agents do.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from glob import glob
from typing import TYPE_CHECKING, Any

from csa.model.permission import Permission
from csa_adapters.acp_policy import Policy, choose_mode
from csa_adapters.jsonlines import list_of, mapping_of, text_of

if TYPE_CHECKING:
    from acp.connection import Connection

_Json = dict[str, Any]

PROTOCOL_VERSION = 1
LINE_LIMIT_BYTES = 1 << 20  # more is read piece by piece
QUIET_S = 0.25  # gemini answers `session/load` before it has replayed everything
REPLAY_LIMIT_S = 5.0
CANCEL_WAIT_S = 1.5
DYING_WAIT_S = 0.5
LEAVE_WAIT_S = 3.0  # codex-acp needs 2.2 s
TERMINATED = 128 + signal.SIGTERM

# `notices`, `compaction` and `sessionFailure` make codex-acp say as data what it else says as the agent's words: its
# warnings, and that the provider failed. `terminal_output` makes it tell what commands print.
_CLIENT = {
    "fs": {"readTextFile": False, "writeTextFile": False},
    "terminal": False,
    "session": {"notices": {}, "compaction": {}},
    "_meta": {"terminal_output": True, "jetbrains": {"air": {"version": 1, "capabilities": ["sessionFailure"]}}},
}


class Failed(Exception):  # noqa: N818  # the end of a turn, not of the program
    """The turn cannot go on; the fields are those of a `failed` line."""

    def __init__(self, message: str, **more: Any) -> None:
        super().__init__(message)
        self.line = {"message": message, **more}


def say(event: str, /, **fields: Any) -> None:
    """Write one line. Blocks while nobody reads, and then nothing is read from the agent either."""
    line = json.dumps({"type": event, **fields}, ensure_ascii=False) + "\n"
    sys.stdout.buffer.write(line.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


async def _wait_for_exit(process: Process) -> int | None:
    """Wait for the process alone: `Process.wait` also waits for whoever else holds its stdout (Python 3.12)."""
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return process.returncode
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
        limit = loop.time() + DYING_WAIT_S
        while process.returncode is None and loop.time() < limit:  # noqa: ASYNC110  # a thread of the loop's sets it
            await asyncio.sleep(0.005)
        return process.returncode
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


class Turn:
    """One prompt to one agent."""

    def __init__(self, order: Mapping[str, Any], process: Process) -> None:
        self._order = order
        self._process = process
        self._exit = asyncio.ensure_future(_wait_for_exit(process))
        self._stage = "initialize"
        self._session = ""
        self._is_prompting = False
        self._replayed = 0
        self._can: _Json = {}  # the agent's session capabilities
        self._loads = False
        self._policy = Policy(
            Permission(order["permission"]),
            tuple(filter(None, (order["cwd"], os.environ.get("CSA_OUTPUT_DIR")))),
            frozenset({"csa", order["csa_command"]}),
        )
        self._connection: Connection

    async def run(self) -> int:
        """Take the turn and tell its end; return the exit code."""
        from acp.connection import Connection  # noqa: PLC0415  # half a second, while the agent starts
        from acp.exceptions import RequestError  # noqa: PLC0415  # as above

        assert self._process.stdin
        assert self._process.stdout
        self._connection = Connection(self._handle, self._process.stdin, self._process.stdout)
        try:
            await self._initialize()
            opened = await self._open_session()
            await self._settle(opened)
            result = await self._prompt()
        except RequestError as error:
            say("failed", stage=self._stage, code=error.code, message=str(error), data=error.data)
            return 1
        except Failed as error:
            say("failed", stage=self._stage, **error.line)
            return 1
        say("finished", result=result)
        return 0

    async def cancel(self) -> None:
        """Ask the agent to end the turn."""
        if self._is_prompting:
            with suppress(OSError):
                await self._connection.send_notification("session/cancel", {"sessionId": self._session})

    async def close(self, wait_s: float) -> None:
        """Let the agent go: the end of its input, TERM, KILL. What it leaves behind is the guardian's."""
        if hasattr(self, "_connection"):
            if self._order["ephemeral"] and self._session and self._can.get("delete") is not None:
                with suppress(Exception):  # a copy that stays is no failure of the turn
                    await asyncio.wait_for(self._ask("session/delete", {"sessionId": self._session}), DYING_WAIT_S)
            await self._connection.close()
        assert self._process.stdin
        self._process.stdin.close()
        for patience_s, number in ((wait_s, signal.SIGTERM), (DYING_WAIT_S, signal.SIGKILL), (DYING_WAIT_S, None)):
            await asyncio.wait({self._exit}, timeout=patience_s)
            if self._exit.done() or number is None:
                return
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    # The steps of a turn

    async def _initialize(self) -> None:
        about = {"name": "csa", "version": "1"}
        params = {"protocolVersion": PROTOCOL_VERSION, "clientCapabilities": _CLIENT, "clientInfo": about}
        answer = await self._ask("initialize", params)
        version = answer.get("protocolVersion")
        if version != PROTOCOL_VERSION:
            raise Failed(f"the agent speaks version {version} of the protocol, not 1", kind="protocol")
        capabilities = mapping_of(answer.get("agentCapabilities"))
        self._can = mapping_of(capabilities.get("sessionCapabilities"))
        self._loads = capabilities.get("loadSession") is True
        say("agent", info=answer.get("agentInfo"), capabilities=capabilities)

    async def _open_session(self) -> _Json:
        """Begin a session or go on in one; return what the agent says of its modes and options."""
        self._stage = "session"
        asked = text_of(self._order["session_id"])
        where = {"cwd": self._order["cwd"], "mcpServers": self._order["mcp_servers"]}
        if not asked:
            answer = await self._ask("session/new", {**where, **self._system()})
            how, self._session = "new", text_of(answer.get("sessionId"))
            if not self._session:
                raise Failed("the agent did not name its new session", kind="protocol")
        elif self._can.get("resume") is not None:
            how, self._session = "resume", asked
            answer = await self._ask("session/resume", {**where, "sessionId": asked})
        elif self._loads:
            await self._wait_for_the_minute()
            how, self._session = "load", asked
            answer = await self._ask("session/load", {**where, "sessionId": asked})
            await self._wait_for_replay()
        else:
            raise Failed("the agent can neither resume nor load a session", kind="unsupported")
        self._session = text_of(answer.get("sessionId")) or self._session
        say("session", session_id=self._session, how=how, replayed=self._replayed)
        return answer

    async def _wait_for_the_minute(self) -> None:
        """Wait until the session may be loaded (`AcpAdapter._patience`): at most until the minute is over."""
        pattern = self._order.get("not_while")
        while pattern and glob(pattern.replace("{minute}", time.strftime("%Y-%m-%dT%H-%M", time.gmtime()))):
            left_s = 60 - time.time() % 60
            say("notice", message=f"a session cannot be loaded in the minute it was begun: waiting {left_s:.0f} s")
            await asyncio.sleep(left_s)

    async def _settle(self, opened: _Json) -> None:
        """Set the mode of the permission level, the model and the effort."""
        self._stage = "settings"
        options = {text_of(o.get("category")): o for o in map(mapping_of, list_of(opened.get("configOptions")))}
        await self._set_mode(mapping_of(opened.get("modes")), mapping_of(options.get("mode")))
        if self._order["model"]:
            await self._set_model(bool(opened.get("models")), mapping_of(options.get("model")))
        if self._order["effort"]:
            await self._set_option("effort", self._order["effort"], mapping_of(options.get("thought_level")))

    async def _set_mode(self, modes: _Json, option: _Json) -> None:
        offered = [text_of(mapping_of(mode).get("id")) for mode in list_of(modes.get("availableModes"))]
        values = offered or [text_of(mapping_of(value).get("value")) for value in list_of(option.get("options"))]
        level = self._policy.permission
        mode = choose_mode(level, values)
        if mode is None:
            if level is not Permission.FULL:
                names = ", ".join(values) or "none"
                say("notice", message=f"no mode of the agent ({names}) is '{level.value}': it is held where it asks")
        elif mode != (modes.get("currentModeId") or option.get("currentValue")):
            try:
                if offered:
                    await self._ask("session/set_mode", {"sessionId": self._session, "modeId": mode})
                else:
                    await self._set_option("mode", mode, option)
            except Exception as error:
                if level is not Permission.FULL:
                    raise
                say("notice", message=f"the agent refused its mode '{mode}': {error}")  # all it asks for is allowed

    async def _set_model(self, is_listed: bool, option: _Json) -> None:  # noqa: FBT001  # of a private step
        model = self._order["model"]
        if option or not is_listed:
            await self._set_option("model", model, option)
        else:
            await self._ask("session/set_model", {"sessionId": self._session, "modelId": model})

    async def _set_option(self, what: str, value: str, option: _Json) -> None:
        if not option:
            raise Failed(f"the agent offers no choice of {what}; set it in its own configuration", kind="unsupported")
        params = {"sessionId": self._session, "configId": option.get("id"), "value": value}
        await self._ask("session/set_config_option", params)

    async def _prompt(self) -> _Json:
        self._stage = "prompt"
        texts = list(self._order["prompt"])
        if self._order["system"] and not self._system():
            texts.insert(0, self._order["system"])
        self._is_prompting = True
        blocks = [{"type": "text", "text": text} for text in texts]
        try:
            return await self._ask("session/prompt", {"sessionId": self._session, "prompt": blocks})
        finally:
            self._is_prompting = False

    def _system(self) -> _Json:
        """Say the system text where the agent takes one; else it goes before the prompt."""
        if not self._order["system"] or self._can.get("systemPrompt") is None:
            return {}
        return {"systemPrompt": {"mode": "append", "content": [{"type": "text", "text": self._order["system"]}]}}

    async def _wait_for_replay(self) -> None:
        """Wait until the agent has been quiet for a moment: nothing tells the end of a replay."""
        loop = asyncio.get_running_loop()
        limit, seen = loop.time() + REPLAY_LIMIT_S, -1
        while seen != self._replayed and loop.time() < limit:
            seen = self._replayed
            await asyncio.sleep(QUIET_S)

    # Both directions

    async def _ask(self, method: str, params: _Json) -> _Json:
        """Send a request and wait for its answer, or for the agent's end: somebody else may hold its stdout open."""
        try:
            answer = asyncio.ensure_future(self._connection.send_request(method, params))
            await asyncio.wait({answer, self._exit}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await asyncio.wait({answer}, timeout=DYING_WAIT_S)
            if answer.done():
                return mapping_of(await answer)
            answer.cancel()
        except OSError:  # ConnectionError is the library's word for the end of the stream
            await asyncio.wait({self._exit}, timeout=DYING_WAIT_S)
        code = self._process.returncode
        ended = "ended" if self._exit.done() else "closed its output"
        how = ended if code is None else f"exited with {code}" if code >= 0 else f"died of signal {-code}"
        raise Failed(f"the agent {how} during {method}", exit=code)

    async def _handle(self, method: str, params: Any, is_notification: bool) -> _Json | None:  # noqa: FBT001  # theirs
        """Take what the agent sends. Nothing is awaited, so that lines are written in the order of its messages."""
        from acp.exceptions import RequestError  # noqa: PLC0415  # loaded by now

        told = mapping_of(params)
        if method == "session/update":
            self._tell_update(told)
        elif method == "session/request_permission":
            return {"outcome": self._decide(told)}
        elif is_notification:
            say("notification", method=method, params=params)
        else:
            raise RequestError.method_not_found(method)
        return None

    def _tell_update(self, told: _Json) -> None:
        if not self._is_prompting:
            self._replayed += 1
            return
        session = told.get("sessionId")
        elsewhere = {} if session == self._session else {"session_id": session}
        say("update", update=told.get("update"), **elsewhere)

    def _decide(self, told: _Json) -> _Json:
        call = mapping_of(told.get("toolCall"))
        allowed = self._is_prompting and self._policy.allows(call)
        option = self._policy.choose_option(list_of(told.get("options")), allowed=allowed)
        say("permission", tool_call=call, allowed=allowed and option is not None, option=option)
        return {"outcome": "selected", "optionId": option} if option else {"outcome": "cancelled"}


async def bridge(order: Mapping[str, Any], command: list[str]) -> int:
    """Run one turn; return the exit code."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, cwd=order["cwd"], limit=LINE_LIMIT_BYTES
        )
    except OSError as error:
        say("failed", stage="start", kind="spawn", message=f"cannot start {command[0]}: {error.strerror}")
        return 1
    turn = Turn(order, process)
    running, stopped = asyncio.ensure_future(turn.run()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
    is_stopped = not running.done()
    if is_stopped:
        await turn.cancel()
        await asyncio.wait({running}, timeout=CANCEL_WAIT_S)
    code = running.result() if running.done() else TERMINATED
    running.cancel()
    await turn.close(DYING_WAIT_S if is_stopped else LEAVE_WAIT_S)
    return TERMINATED if is_stopped else code


if __name__ == "__main__":
    sys.exit(asyncio.run(bridge(json.load(sys.stdin.buffer), sys.argv[sys.argv.index("--") + 1 :])))
