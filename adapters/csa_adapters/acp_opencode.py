"""What `opencode acp` (1.18.33) does not report: the tokens of a turn.

Its answer to a prompt has only those of the last request, without earlier ones and those of its sub-agents. But it
is also a server, on the loopback interface; so it gets a port and a password (by default it has none, and any
user of the machine could control it), and is asked for the messages of the session and its children when the turn ends.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import socket
import time
from typing import Any
from urllib.parse import quote

from csa_adapters.jsonlines import Json, count_of, list_of, mapping_of, text_of

LIMIT_S, STOPPED_LIMIT_S = 2.0, 0.3  # for each answer; csa kills three seconds after TERM
DEPTH = 8
_USER, _PASSWORD = "OPENCODE_SERVER_USERNAME", "OPENCODE_SERVER_PASSWORD"  # their names


class OpencodeTokens:
    """The tokens that a session uses from now on. Created before opencode starts, with `words` on its command line."""

    def __init__(self) -> None:
        self._since_ms = int(time.time() * 1000)
        self._port = _free_port()
        self._limit_s = LIMIT_S
        self.words = ["--hostname", "127.0.0.1", "--port", str(self._port)]
        os.environ.setdefault(_USER, "opencode")
        os.environ.setdefault(_PASSWORD, secrets.token_urlsafe(24))
        token = base64.b64encode(f"{os.environ[_USER]}:{os.environ[_PASSWORD]}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}"}

    def count(self, session: str, directory: str, *, is_stopped: bool) -> Json:
        """Return the usage in the protocol's form. Raises OSError if the server does not answer."""
        self._limit_s = STOPPED_LIMIT_S if is_stopped else LIMIT_S
        whole = dict.fromkeys(("input", "output", "reasoning", "read", "write"), 0)
        self._add(whole, session, directory, DEPTH)
        return {
            "inputTokens": whole["input"],
            "outputTokens": whole["output"],
            "thoughtTokens": whole["reasoning"],
            "cachedReadTokens": whole["read"],
            "cachedWriteTokens": whole["write"],
            "totalTokens": sum(whole.values()),
        }

    def _add(self, whole: dict[str, int], session: str, directory: str, depth: int) -> None:
        path = f"/session/{quote(session, safe='')}"
        for message in list_of(self._get(f"{path}/message", directory)):
            info = mapping_of(mapping_of(message).get("info"))
            if (
                info.get("role") == "assistant"
                and count_of(mapping_of(info.get("time")).get("created")) >= self._since_ms
            ):
                tokens = mapping_of(info.get("tokens"))
                for name, count in {**tokens, **mapping_of(tokens.get("cache"))}.items():
                    if name in whole:
                        whole[name] += count_of(count)
        for child in list_of(self._get(f"{path}/children", directory)) if depth else ():
            if text_of(mapping_of(child).get("id")):
                self._add(whole, child["id"], text_of(child.get("directory")) or directory, depth - 1)

    def _get(self, path: str, directory: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._limit_s)
        try:
            connection.request("GET", f"{path}?directory={quote(directory)}", headers=self._headers)
            response = connection.getresponse()
            said = response.read()
            if response.status != http.client.OK:
                raise OSError(f"{path} was answered {response.status}")
            return json.loads(said)
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()


def _free_port() -> int:
    """Return a port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
