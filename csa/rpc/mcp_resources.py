"""The MCP resources: sessions by address, for clients that attach them to a conversation. Whatever the transport."""

from __future__ import annotations

import base64
import json
from itertools import islice
from typing import Any
from urllib.parse import quote, unquote

from csa.errors import NotFoundError
from csa.model.schemas.mcp import LIST, SCHEME
from csa.rpc.mcp_tools import list_sessions
from csa.runner.client import Csa
from csa.runner.session import Session
from csa.runner.sessions.auditing import note_read
from csa.store.artifacts import find_artifacts, open_artifact
from csa.store.lines import read_page

Json = dict[str, Any]
_LISTED = 20  # sessions whose answers are listed
_LISTED_FILES = 50  # of each
_MOST_EVENTS = 1000
_MOST_BYTES = 4 << 20


def list_resources(client: Csa) -> list[Json]:
    """Return the list of sessions, and the answers and files of those used last."""
    found: list[Json] = [dict(LIST)]
    for row in list_sessions(client, limit=_LISTED)["sessions"]:
        if not row["turn"] or row["status"] == "running":
            continue
        place, title = f"{SCHEME}/{row['session_id']}", row["name"] or row["description"] or row["session_id"]
        answer = {"uri": f"{place}/answer", "name": f"{row['session_id']}-answer", "title": f"{title}: answer"}
        found.append({**answer, "mimeType": "text/markdown"})
        files = (each for each in find_artifacts(client.paths(row["session_id"])) if not each.leads_out)
        for artifact in islice(files, _LISTED_FILES):
            uri = f"{place}/artifacts/{quote(artifact.name)}"
            found.append({"uri": uri, "name": artifact.name, "title": f"{title}: {artifact.name}"})
    return found


def read_resource(client: Csa, uri: str) -> Json:
    """Return the contents of a resource; NotFoundError if there is none at that address, and as the library raises."""
    if uri == SCHEME:
        return _said(uri, "application/json", json.dumps(list_sessions(client, limit=200), ensure_ascii=False))
    selector, _, what = uri.removeprefix(f"{SCHEME}/").partition("/")
    if not uri.startswith(f"{SCHEME}/") or not selector or not what:
        raise NotFoundError(f"There is no resource {uri}.", hint=f"{SCHEME}/ID/answer, transcript or artifacts/NAME")
    session = client.session(unquote(selector), retired=True)
    if what == "answer":
        note_read(session.context, session.session_id, "session result")
        return _said(uri, "text/markdown", session.result().text)
    if what == "transcript":
        return _said(uri, "application/x-ndjson", _transcript(session))
    if what.startswith("artifacts/"):
        return _artifact(session, uri, unquote(what.removeprefix("artifacts/")))
    raise NotFoundError(f"There is no resource {uri}.", hint=f"{SCHEME}/ID/answer, transcript or artifacts/NAME")


def _transcript(session: Session) -> str:
    note_read(session.context, session.session_id, "session logs")
    lines = read_page(session.content.transcript, after=None, before=None, limit=_MOST_EVENTS)
    kept: list[bytes] = []
    left = _MOST_BYTES
    for line in reversed(list(lines)):
        left -= len(line) + 1
        if left < 0:
            break
        kept.append(line)
    return b"\n".join(reversed(kept)).decode("utf-8", "replace")


def _artifact(session: Session, uri: str, name: str) -> Json:
    note_read(session.context, session.session_id, "session artifacts")
    with open_artifact(session.content, name) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        hint = f"csa artifacts {session.session_id} --copy-to DIR"
        raise NotFoundError(f"{name} is larger than {_MOST_BYTES >> 20} MiB.", hint=hint)
    try:
        return _said(uri, "text/plain", content.decode())
    except UnicodeDecodeError:
        blob = base64.b64encode(content).decode()
        return {"contents": [{"uri": uri, "mimeType": "application/octet-stream", "blob": blob}]}


def _said(uri: str, kind: str, text: str) -> Json:
    return {"contents": [{"uri": uri, "mimeType": kind, "text": text}]}
