"""A program: one turn of an agent that speaks the Agent Client Protocol, reported as lines of JSON.

    python -I -S acp_bridge.py ROOT -- goose acp      < order.json      (see `acp._order`)

ROOT is the directory of the package csa, which a Python without site-packages cannot find by itself.

It runs as the tool under csa's guardian and writes one JSON object a line (`acp_stream` reads them): `agent`, what the
agent reports about itself; `session`, once it has one; `update` and `permission` during the prompt; `notice`; `stray`,
output that is not a message; finally `finished` with the prompt's result, or `failed`. What an agent sends before
the prompt, such as the replayed history of a loaded session, is counted and not repeated. SIGTERM cancels the turn, and
the program exits within 2.5 s.

What agents send beyond the protocol is passed on unchanged. The agent inherits the whole environment and our stderr,
so that nothing has to be drained.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from glob import glob
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # last, so that it shadows nothing
    sys.path += [os.path.dirname(os.path.dirname(__file__)), *sys.argv[1 : sys.argv.index("--")]]

from csa.model.permission import Permission
from csa_adapters.acp_login import AUTH_REQUIRED, choose_method, describe_methods
from csa_adapters.acp_policy import Policy, choose_mode, offers_once, subject_of
from csa_adapters.acp_wire import DYING_WAIT_S, Agent, AgentGoneError, RpcError, Stopped
from csa_adapters.bridge_asks import await_answer, new_ask
from csa_adapters.bridges import say
from csa_adapters.jsonlines import Json, list_of, mapping_of, text_of

if TYPE_CHECKING:
    from csa_adapters.acp_opencode import OpencodeTokens

PROTOCOL_VERSION = 1
QUIET_S = 0.25  # gemini answers `session/load` before it has replayed everything
LATE_QUIET_S, SILENT_QUIET_S = 0.15, 1.0  # after the prompt's answer; the second where nothing was said before it
REPLAY_LIMIT_S = 5.0
LATE_LIMIT_S = 2.0
LIST_S, MAX_PAGES = 10.0, 50  # of an agent's sessions
AUTHENTICATE_S = 30.0  # cursor never answers if nobody is logged in
CANCEL_WAIT_S = 1.5
COMMANDS_WAIT_S, COMMANDS_STEP_S = 3.0, 0.05  # agents announce their commands after they have answered, if at all
LEAVE_WAIT_S = 3.0  # codex-acp needs 2.2 s
TERMINATED = 128 + signal.SIGTERM
_WORDS = 300  # characters of what is quoted

# `notices`, `compaction` and `sessionFailure` make codex-acp send as data what it otherwise sends as agent text: its
# warnings, and provider failures. `terminal_output` makes it send the output of commands.
_CLIENT = {
    "fs": {"readTextFile": False, "writeTextFile": False},
    "terminal": False,
    "session": {"notices": {}, "compaction": {}},
    "_meta": {"terminal_output": True, "jetbrains": {"air": {"version": 1, "capabilities": ["sessionFailure"]}}},
}


class Failed(Exception):  # noqa: N818  # the end of a turn, not of the program
    """The turn cannot continue; the fields are those of a `failed` line."""

    def __init__(self, message: str, **more: Any) -> None:
        super().__init__(message)
        self.line = {"message": message, **more}


def _counter(agent: str | None, command: list[str]) -> OpencodeTokens | None:
    if agent != "opencode" or any(word.startswith("--port") for word in command):  # a port chosen by the user
        return None
    from csa_adapters.acp_opencode import OpencodeTokens  # noqa: PLC0415  # imports all of HTTP, for this agent only

    return OpencodeTokens()


def _minute() -> str:
    return time.strftime("%Y-%m-%dT%H-%M", time.gmtime())


class Turn:
    """One prompt to one agent."""

    def __init__(self, order: Mapping[str, Any], command: list[str]) -> None:
        self._order = order
        self._program = os.path.basename(command[0])
        self._stage = "initialize"
        self._session = ""
        self._is_prompting = False
        self._updates = 0  # what the agent has reported about itself
        self._has_said = False
        self._last_stray = ""
        self._capabilities: Json = {}  # the agent's
        self._can: Json = {}  # ... for sessions
        self._loads = False
        self._methods: list[Any] = []  # to authenticate
        self._default_method = ""
        self._commands: set[str] | None = None  # announced by the agent
        self._policy = Policy(
            Permission(order["permission"]),
            tuple(filter(None, (order["cwd"], os.environ.get("CSA_OUTPUT_DIR")))),
            frozenset({"csa", order["csa_command"]}),
        )
        self._tokens = _counter(order.get("counts"), command)
        self._agent = Agent([*command, *(self._tokens.words if self._tokens else ())], self._heed, self._stray)

    def run(self) -> int:
        """Run the turn and report its end; return the exit code."""
        try:
            self._initialize()
            opened = self._open_session()
            self._settle(opened)
            result = self._command(self._order["command"]) if self._order.get("command") else self._prompt()
        except RpcError as error:
            listed = self._look_up() if self._stage == "session" else {}
            say("failed", stage=self._stage, code=error.code, message=str(error), data=error.data, **listed)
            return 1
        except Failed as error:
            say("failed", stage=self._stage, **error.line)
            return 1
        say("finished", result={**result, **self._counted()})
        return 0

    def _counted(self) -> Json:
        """Return the turn's usage if the agent's own figure is wrong."""
        if self._tokens is None:
            return {}
        try:
            return {"usage": self._tokens.count(self._session, self._order["cwd"], is_stopped=self.is_stopped)}
        except OSError as error:
            say("notice", message=f"the tokens are those of the turn's last request only: {error}")
            return {}

    @property
    def is_stopped(self) -> bool:
        """Whether SIGTERM has come."""
        return self._agent.is_stopped

    def close(self) -> None:
        """End the agent: close its input, TERM, KILL. The guardian sweeps what it leaves."""
        if self._order["ephemeral"] and self._session and self._can.get("delete") is not None:
            with suppress(RpcError, AgentGoneError, TimeoutError):  # a copy that stays does not fail the turn
                number = self._agent.request("session/delete", {"sessionId": self._session})
                self._agent.answer(number, DYING_WAIT_S)
        self._agent.close_input()
        leave_s = DYING_WAIT_S if self.is_stopped else LEAVE_WAIT_S
        for patience_s, number in ((leave_s, signal.SIGTERM), (DYING_WAIT_S, signal.SIGKILL)):
            if self._agent.wait_for_exit(patience_s):
                return
            self._agent.kill(number)
        self._agent.wait_for_exit(DYING_WAIT_S)

    # The steps of a turn

    def _initialize(self) -> None:
        about = {"name": "csa", "version": "1"}
        params = {"protocolVersion": PROTOCOL_VERSION, "clientCapabilities": _CLIENT, "clientInfo": about}
        try:
            answer = self._ask("initialize", params, self._order["initialize_s"])
        except TimeoutError:
            silent = f"{self._program} does not speak ACP: no answer to initialize in {self._order['initialize_s']:g} s"
            raise Failed(silent + self._quoted(), kind="protocol") from None
        version = answer.get("protocolVersion")
        if version != PROTOCOL_VERSION:
            raise Failed(f"the agent speaks version {version} of the protocol, not 1", kind="protocol")
        capabilities = mapping_of(answer.get("agentCapabilities"))
        self._capabilities = capabilities
        self._can = mapping_of(capabilities.get("sessionCapabilities"))
        self._loads = capabilities.get("loadSession") is True
        self._methods = list_of(answer.get("authMethods"))
        self._default_method = text_of(mapping_of(answer.get("_meta")).get("defaultAuthMethodId"))
        say("agent", info=answer.get("agentInfo"), capabilities=capabilities)

    def _open_session(self) -> Json:
        """Start or continue a session; return the agent's modes and options."""
        self._stage = "session"
        asked = text_of(self._order["session_id"])
        where = {"cwd": self._order["cwd"], "mcpServers": self._order["mcp_servers"]}
        if not asked:
            answer = self._ask_for_session("session/new", {**where, **self._system()})
            how, self._session = "new", text_of(answer.get("sessionId"))
            if not self._session:
                raise Failed("the agent did not name its new session", kind="protocol")
        elif self._can.get("resume") is not None:
            how, self._session = "resume", asked
            answer = self._ask_for_session("session/resume", {**where, "sessionId": asked})
        elif self._loads:
            self._wait_for_the_minute()
            how, self._session = "load", asked
            answer = self._ask_for_session("session/load", {**where, "sessionId": asked})
            self._wait_for_quiet(QUIET_S, REPLAY_LIMIT_S)
        else:
            raise Failed("the agent can neither resume nor load a session", kind="forgetful")
        self._session = text_of(answer.get("sessionId")) or self._session
        say("session", session_id=self._session, how=how, replayed=self._updates)
        return answer

    def _look_up(self) -> Json:
        """Check whether the agent lists the session it could not open: opencode gives one reason for everything."""
        asked = text_of(self._order["session_id"])
        cursor: Json = {}
        if not asked or self._can.get("list") is None:
            return {}
        with suppress(RpcError, Failed, TimeoutError):
            for _ in range(MAX_PAGES):
                page = self._ask("session/list", cursor, LIST_S)
                if asked in [mapping_of(one).get("sessionId") for one in list_of(page.get("sessions"))]:
                    return {"listed": True}
                if not (following := text_of(page.get("nextCursor"))):
                    return {"listed": False}
                cursor = {"cursor": following}
        return {}

    def _ask_for_session(self, method: str, params: Json) -> Json:
        """Ask; if the agent requires authentication, authenticate once and ask again."""
        try:
            return self._ask(method, params)
        except RpcError as error:
            if error.code != AUTH_REQUIRED or not (self._methods or self._order["auth_method"]):
                raise
            self._authenticate(error)
        try:
            return self._ask(method, params)
        except RpcError as error:
            if error.code != AUTH_REQUIRED:
                raise
            raise self._not_logged_in(str(error)) from None

    def _authenticate(self, refusal: RpcError) -> None:
        method = self._order["auth_method"] or choose_method(self._methods, os.environ, self._default_method)
        if not method:
            raise self._not_logged_in(str(refusal))
        say("notice", message=f"the agent asked for authentication: '{method}' was used")
        try:
            self._ask("authenticate", {"methodId": method}, AUTHENTICATE_S)
        except TimeoutError:
            raise self._not_logged_in(f"no answer to '{method}' in {AUTHENTICATE_S:g} s") from None
        except RpcError as error:
            raise self._not_logged_in(f"'{method}' failed: {error}") from None

    def _not_logged_in(self, why: str) -> Failed:
        return Failed(f"{why}; log in with the agent itself, or use {describe_methods(self._methods)}", kind="auth")

    def _wait_for_the_minute(self) -> None:
        """Wait until the session may be loaded (`AcpAdapter._patience`): at most until the minute is over."""
        pattern = self._order.get("not_while")
        while pattern and self._agent.is_open and glob(pattern.replace("{minute}", _minute())):
            left_s = 60 - time.time() % 60
            say("notice", message=f"a session cannot be loaded in the minute in which it began: waiting {left_s:.0f} s")
            self._agent.wait(left_s)

    def _settle(self, opened: Json) -> None:
        """Set the mode of the permission level, the model and the effort."""
        self._stage = "settings"
        options = {text_of(o.get("category")): o for o in map(mapping_of, list_of(opened.get("configOptions")))}
        self._set_mode(mapping_of(opened.get("modes")), mapping_of(options.get("mode")))
        if self._order["model"]:
            self._set_model(bool(opened.get("models")), mapping_of(options.get("model")))
        if self._order["effort"]:
            self._set_option("effort", self._order["effort"], mapping_of(options.get("thought_level")))

    def _set_mode(self, modes: Json, option: Json) -> None:
        offered = [text_of(mapping_of(mode).get("id")) for mode in list_of(modes.get("availableModes"))]
        values = offered or [text_of(mapping_of(value).get("value")) for value in list_of(option.get("options"))]
        level = self._policy.permission
        mode = choose_mode(level, values)
        if mode is None:
            if level is not Permission.FULL:
                names = ", ".join(values) or "none"
                words = f"the agent has no mode for '{level.value}' (only {names}): it is restricted only where it asks"
                say("notice", message=words)
        elif mode != (modes.get("currentModeId") or option.get("currentValue")):
            try:
                if offered:
                    self._ask("session/set_mode", {"sessionId": self._session, "modeId": mode})
                else:
                    self._set_option("mode", mode, option)
            except RpcError as error:
                if level is not Permission.FULL:
                    raise
                say("notice", message=f"the agent refused its mode '{mode}': {error}")  # all it asks for is allowed

    def _set_model(self, is_listed: bool, option: Json) -> None:  # noqa: FBT001  # of a private step
        model = self._order["model"]
        if option or not is_listed:
            self._set_option("model", model, option)
        else:
            self._ask("session/set_model", {"sessionId": self._session, "modelId": model})

    def _set_option(self, what: str, value: str, option: Json) -> None:
        if not option:
            raise Failed(f"the agent offers no choice of {what}; set it in its own settings", kind="unsupported")
        params = {"sessionId": self._session, "configId": option.get("id"), "value": value}
        self._ask("session/set_config_option", params)

    def _command(self, name: str) -> Json:
        """Send one of the agent's own commands; if it does not have it, it would be text for the model."""
        self._stage = "prompt"
        limit = time.monotonic() + COMMANDS_WAIT_S
        while self._commands is None and self._agent.is_open and time.monotonic() < limit:
            self._agent.wait(COMMANDS_STEP_S)
        if name not in (self._commands or ()):
            raise Failed(f"the agent has no command /{name}", kind="unsupported")
        return self._send_prompt([f"/{name}"])

    def _prompt(self) -> Json:
        self._stage = "prompt"
        texts = list(self._order["prompt"])
        if self._order["system"] and not self._system():
            texts.insert(0, self._order["system"])
        takes = mapping_of(self._capabilities.get("promptCapabilities"))
        given = self._order.get("attachments", ())
        attached = [each["content" if takes.get(each["needs"]) is True else "link"] for each in given]
        return self._send_prompt(texts, attached)

    def _send_prompt(self, texts: list[str], attached: Sequence[Json] = ()) -> Json:
        self._is_prompting = True
        blocks = [*({"type": "text", "text": text} for text in texts), *attached]
        number = self._agent.request("session/prompt", {"sessionId": self._session, "prompt": blocks})
        try:
            result = self._answer("session/prompt", number)
        except Stopped:
            self._agent.notify("session/cancel", {"sessionId": self._session})
            return self._answer("session/prompt", number, CANCEL_WAIT_S)
        with suppress(Stopped):  # it has ended already
            self._wait_for_quiet(LATE_QUIET_S if self._has_said else SILENT_QUIET_S, LATE_LIMIT_S)
        return result

    def _system(self) -> Json:
        """Send the system text if the agent accepts one; otherwise it goes before the prompt."""
        if not self._order["system"] or self._can.get("systemPrompt") is None:
            return {}
        return {"systemPrompt": {"mode": "append", "content": [{"type": "text", "text": self._order["system"]}]}}

    def _wait_for_quiet(self, quiet_s: float, limit_s: float) -> None:
        """Wait until the agent has been silent for a moment: nothing marks the end of output after an answer."""
        limit, seen = time.monotonic() + limit_s, -1
        while seen != self._updates and self._agent.is_open and time.monotonic() < limit:
            seen = self._updates
            self._agent.wait(quiet_s)

    # Both directions

    def _ask(self, method: str, params: Json, limit_s: float | None = None) -> Json:
        return self._answer(method, self._agent.request(method, params), limit_s)

    def _answer(self, method: str, number: int, limit_s: float | None = None) -> Json:
        try:
            return mapping_of(self._agent.answer(number, limit_s))
        except AgentGoneError as gone:
            said = self._quoted() if method == "initialize" else ""
            raise Failed(f"the agent {gone} during {method}{said}", exit=gone.code) from None

    def _quoted(self) -> str:
        return f": {self._last_stray}" if self._last_stray else ""

    def _heed(self, method: str, params: Any, is_request: bool) -> Json | None:  # noqa: FBT001  # the wire's
        """Handle what the agent sends, in order; we answer only one kind of request."""
        told = mapping_of(params)
        if method == "session/update":
            self._tell_update(told)
        elif method == "session/request_permission":
            return {"outcome": self._decide(told)}
        elif not is_request:
            say("notification", method=method, params=params)
        return None

    def _stray(self, text: str) -> None:
        self._last_stray = text.strip()[:_WORDS]
        say("stray", text=text)

    def _tell_update(self, told: Json) -> None:
        update = mapping_of(told.get("update"))
        if update.get("sessionUpdate") == "available_commands_update":
            self._commands = {text_of(mapping_of(one).get("name")) for one in list_of(update.get("availableCommands"))}
        else:
            self._updates += 1
        if not self._is_prompting:
            return
        self._has_said = self._has_said or update.get("sessionUpdate") == "agent_message_chunk"
        session = told.get("sessionId")
        elsewhere = {} if session == self._session else {"session_id": session}
        say("update", update=told.get("update"), **elsewhere)

    def _decide(self, told: Json) -> Json:
        call = mapping_of(told.get("toolCall"))
        options = list_of(told.get("options"))
        allowed, by = self._is_prompting and self._policy.allows(call), dict[str, str]()
        asks = mapping_of(self._order.get("asks"))
        if self._is_prompting and asks and not allowed and offers_once(options):  # nothing is allowed for ever
            say("permission", tool_call=call, ask=(ask := new_ask()), pending=True, **subject_of(call), options=options)
            allowed, by = await_answer(asks, ask, is_stopped=lambda: self._agent.is_told_to_stop)
        option, takes = self._policy.choose_option(options, allowed=allowed)
        say("permission", tool_call=call, allowed=takes, option=option, **by)
        return {"outcome": "selected", "optionId": option} if option else {"outcome": "cancelled"}


def bridge(order: Mapping[str, Any], command: list[str]) -> int:
    """Run one turn; return the exit code."""
    try:
        os.chdir(order["cwd"])
        turn = Turn(order, command)
    except OSError as error:
        say("failed", stage="start", kind="spawn", message=f"cannot start {command[0]}: {error.strerror}")
        return 1
    code = TERMINATED
    with suppress(Stopped, TimeoutError):  # it was not in a prompt, or has ignored the cancellation
        code = turn.run()
    try:
        turn.close()
    except Stopped:
        turn.close()
    return TERMINATED if turn.is_stopped else code


if __name__ == "__main__":
    sys.exit(bridge(json.load(sys.stdin.buffer), sys.argv[sys.argv.index("--") + 1 :]))
