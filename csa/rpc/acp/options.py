"""What a client chooses for a session: the mode is the permission; the agent, its model and its effort are options."""

from __future__ import annotations

from typing import Any

from csa.errors import CsaError, UsageError
from csa.model.configkeys import AUTO
from csa.model.permission import Permission
from csa.rpc.jsonrpc import INVALID_PARAMS, Json, RpcError
from csa.runner.client import Csa
from csa.runner.request import RunRequest
from csa.structs import replace

DEFAULT = "default"  # of models and efforts: what the tool takes by itself
MODE, AGENT, MODEL, EFFORT = "mode", "agent", "model", "effort"
_MODES = {
    Permission.READ_ONLY: ("Read only", "Reads files; changes nothing"),
    Permission.EDIT: ("Edit", "Writes in the project; what else it wants to do is asked, where the agent can ask"),
    Permission.FULL: ("Full", "Does everything, unasked"),
}
_EFFORTS = ("low", "medium", "high")
_FIELDS = {MODE: "permission", AGENT: "tool", MODEL: "model", EFFORT: "effort"}  # of a request


class Options:
    """The options of one session. What was not chosen is as the session keeps it, or as configured."""

    def __init__(self, client: Csa, request: RunRequest, session_id: str) -> None:
        self._client, self._id = client, session_id
        self.request = request  # of the next turn, but for its prompt

    def choose(self, option: str, value: Any) -> None:
        """Choose a value; RpcError for one that is none."""
        if option not in _FIELDS:
            raise RpcError(INVALID_PARAMS, f"There is no option {option!r}", {"options": list(_FIELDS)})
        found = next(each for each in self.to_json() if each["id"] == option)
        known = [each["value"] for each in found["options"]]
        if not isinstance(value, str) or not value or (option in {MODE, AGENT} and value not in known):
            raise RpcError(INVALID_PARAMS, f"{option} cannot be {value!r}", {"values": known})
        is_other = option == AGENT and value != found["currentValue"]
        changes: dict[str, Any] = {"model": None, "effort": None} if is_other else {}
        self.request = replace(self.request, **{**changes, _FIELDS[option]: value})

    def modes(self) -> Json:
        """Return the state of the modes, which older clients know instead of options."""
        current = next(each["currentValue"] for each in self.to_json() if each["id"] == MODE)
        known = [
            {"id": level.value, "name": name, "description": what} for level, (name, what) in self._levels().items()
        ]
        return {"currentModeId": current, "availableModes": known}

    def to_json(self) -> list[Json]:
        """Return the options with their current values."""
        config = self._client.context.config
        kept = self._kept()
        tool = self.request.tool or kept[AGENT] or config.tool
        own = config.for_tool(tool).model if tool != AUTO else None
        asked = self.request.permission
        mode = Permission(asked) if asked else Permission(kept[MODE]) if kept[MODE] else config.permission
        caller = self._client.caller
        mode = mode.at_most(caller.permission) if caller else mode
        model = self.request.model or (kept[MODEL] if tool == kept[AGENT] else None) or own or DEFAULT
        effort = self.request.effort or (kept[EFFORT] if tool == kept[AGENT] else None) or DEFAULT
        levels = {level.value: name for level, (name, _) in self._levels().items()}
        models = dict.fromkeys((DEFAULT, own, model))
        efforts = dict.fromkeys((DEFAULT, *_EFFORTS, effort))
        return [
            _select(MODE, "Permission", mode.value, levels, category="mode"),
            _select(AGENT, "Agent", tool, {name: name for name in self._agents(tool)}),
            _select(MODEL, "Model", model, {each: each for each in models if each}, category="model"),
            _select(EFFORT, "Effort", effort, {each: each for each in efforts}, category="thought_level"),
        ]

    def _levels(self) -> dict[Permission, tuple[str, str]]:
        caller = self._client.caller
        return {level: _MODES[level] for level in _MODES if not caller or level.rank <= caller.permission.rank}

    def _agents(self, current: str) -> list[str]:
        from csa.runner.toolbox import find_command, installed_agents, loadable_adapters  # noqa: PLC0415  # adapters

        config, environ = self._client.context.config, self._client.context.environ
        own = [adapter for adapter in loadable_adapters(config)[0] if find_command(adapter, config, environ)]
        names = [adapter.name for adapter in (*own, *installed_agents(config, environ))]
        return list(dict.fromkeys((AUTO, *names, current)))

    def _kept(self) -> dict[str, str | None]:
        """Return what the session keeps of its last turn."""
        try:
            state = self._client.session(self._id).load()
        except (CsaError, UsageError):  # it has not begun, or its record is damaged
            return dict.fromkeys(_FIELDS)
        tool = state.tools.get(state.last_tool or "")
        return {
            MODE: state.permission,
            AGENT: state.last_tool,
            MODEL: tool.model if tool else None,
            EFFORT: tool.effort if tool else None,
        }


def _select(ident: str, name: str, current: str, values: dict[str, str], *, category: str | None = None) -> Json:
    options = [{"value": value, "name": shown} for value, shown in values.items()]
    more = {"category": category} if category else {}
    return {"id": ident, "name": name, "type": "select", "currentValue": current, "options": options, **more}
