"""Compacts one thread of codex (seen at 0.169.0) through its app-server; the adapter starts it as the tool.

    python -I -S codex_bridge.py codex app-server    with one JSON object on stdin: thread, cwd, and perhaps a model

Why a program: the app-server ends with its stdin, and requests depend on earlier answers. It writes the
server's own lines (JSON-RPC without "jsonrpc") to stdout as they come, and exits when the compaction's turn has ended:
with 0 if it completed. SIGTERM interrupts it, and leaves the thread unchanged.
"""

from __future__ import annotations

import json
import posixpath
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

if __name__ == "__main__":  # -I leaves it out; last, so that it shadows nothing
    sys.path.append(posixpath.dirname(posixpath.dirname(__file__)))

from csa_adapters.bridges import Json, Terminated, end_at_signals

STOP_LIMIT_S = 1.0
_ABOUT = {"clientInfo": {"name": "csa", "title": "csa", "version": "1"}, "capabilities": {}}


def compact(order: Json, requests: IO[str], messages: Iterator[Json]) -> int:
    """Request the compaction and wait for its end; return the exit code."""
    thread = order["thread"]
    kept = {key: order[key] for key in ("cwd", "model") if order.get(key)}
    steps = [
        ("initialize", _ABOUT),
        ("thread/resume", {"threadId": thread, "excludeTurns": True, **kept}),
        ("thread/compact/start", {"threadId": thread}),
    ]
    for number, (method, params) in enumerate(steps, 1):
        _send(requests, {"id": number, "method": method, "params": params})
        if not any(_is_answer(message, number) for message in messages):
            return 1  # it ended, or refused: its last line says why
        if method == "initialize":
            _send(requests, {"method": "initialized"})
    for message in messages:
        params = message.get("params") or {}
        if message.get("method") == "turn/completed" and params.get("threadId") == thread:
            return 0 if (params.get("turn") or {}).get("status") == "completed" else 1
    return 1


def _send(requests: IO[str], message: Json) -> None:
    with suppress(BrokenPipeError):  # the end of its lines shows that it is gone
        requests.write(json.dumps(message) + "\n")
        requests.flush()


class _Refused(Exception):  # noqa: N818  # the server's answer, not a fault
    """A request was answered with an error."""


def _is_answer(message: Json, number: int) -> bool:
    if message.get("id") != number:
        return False
    if "error" in message:
        raise _Refused
    return True


def relay(lines: IO[str]) -> Iterator[Json]:
    """Pass the server's lines on, and yield their content."""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


def main() -> int:
    """Run the compaction that stdin describes, with the server that the arguments start."""
    end_at_signals()
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]  # -I: any locale
    order = json.loads(sys.stdin.buffer.read())
    try:
        server = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        sys.stderr.write(f"error: cannot start {sys.argv[1]}: {error.strerror}\n")
        return 127
    assert server.stdin
    assert server.stdout
    try:
        return compact(order, server.stdin, relay(server.stdout))
    except _Refused:
        return 1
    except Terminated as end:
        return end.code
    finally:
        _leave(server)


def _leave(server: subprocess.Popen[str]) -> None:
    """End it: close its input, TERM, KILL."""
    assert server.stdin
    with suppress(OSError):
        server.stdin.close()
    for end in (server.terminate, server.kill):
        try:
            server.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            end()
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
