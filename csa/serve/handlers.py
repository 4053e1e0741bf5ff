"""What each route does: the library's verbs, and their objects as the command line prints them.

These are plain calls, in threads: starts, ends and reads have limiters of their own, so that slow ones of a kind do not
hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import IO, Any

from csa import __version__
from csa.errors import AmbiguousError, BusyError, NotFoundError, StateError, UsageError
from csa.model.conversation import read_conversation, shown_to_json
from csa.model.schemas.api import openapi
from csa.runner.client import Csa
from csa.runner.detach import AppearedError
from csa.runner.request import RunRequest
from csa.runner.session import Session
from csa.runner.sessions.auditing import note_read
from csa.runner.sessions.listing import PHASES, STATUSES, Selection, select_sessions
from csa.serve.elsewhere import (
    do_elsewhere,
    edit_there,
    fetch_before_landing,
    list_hosts,
    read_elsewhere,
    start_elsewhere,
)
from csa.serve.problems import status_of
from csa.serve.requests import Asked
from csa.serve.served import Served, client_of
from csa.store.artifacts import find_artifacts, find_log, open_artifact
from csa.store.atomic import open_regular
from csa.store.lines import read_page, start_of_tail
from csa.store.placements import list_placements
from csa.store.transcript import parse_line, read_events
from csa.structs import replace

_SESSIONS, _EVENTS, _MESSAGES, _HITS, _SHOWN = 100, 100, 200, 50, 60
_MOST = 1000  # of what is listed
_MOST_EVENTS = 10_000
_LONGEST_WAIT_S = 600.0
_TOOLS_LIMIT_S = 5.0
_SAID = (
    *("prompt", "tool", "model", "effort", "permission", "ask", "ask_timeout_s", "system", "schema"),
    *("timeout_s", "idle_timeout_s", "budget_tokens", "budget_usd", "budget_time_s"),
)
_SAID_OF_NEW = ("name", "description", "worktree", "with_changes")


def health(_: Served, __: Asked) -> Any:
    return {"ok": True}


def version(served: Served, asked: Asked) -> Any:
    return {"version": __version__, "api": 1, "root": served.root, "access": asked.access}


def describe_api(_: Served, __: Asked) -> Any:
    return openapi(__version__)


def projects(served: Served, _: Asked) -> Any:
    running = [info.project for info in served.fleet.infos if info.is_running]
    return [
        {
            "project": store.project_pathname,
            "sessions": len(store.ids()),
            "running": running.count(store.project_pathname),
        }
        for store in served.places()
    ]


def tools(served: Served, asked: Asked) -> Any:
    from csa.runner.doctor.tool_list import look_at_tools  # noqa: PLC0415  # brings the checks of doctor

    project = asked.query.get("project")
    client = served.client(served.require(project) if project else None)
    return look_at_tools(client.context, _TOOLS_LIMIT_S)[0]


def list_sessions(served: Served, asked: Asked) -> Any:
    statuses = _words(asked, "status")
    for status in statuses - {*STATUSES, *PHASES}:
        raise UsageError(f"There is no status '{status}'.", hint=", ".join((*STATUSES, *PHASES)))
    selection = Selection(tools=_words(asked, "tool"), statuses=statuses)
    limit = _limit(asked, _SESSIONS, _MOST)
    found = select_sessions(served.stores(asked.query), selection, limit=limit, by_use=True)
    return [info.to_json() for info in found.infos]


def create(served: Served, asked: Asked) -> Any:
    """Get or create, so that asking again does no harm; the second of the pair says which."""
    directory, on = asked.body["directory"], asked.body.get("on")
    served.require(directory)
    client = served.client(directory, asked)
    wanted = asked.body.get("session_id")
    if wanted is not None and (kept := _existing(served, client, wanted, on)):
        return kept
    own = {name: asked.body[name] for name in _SAID_OF_NEW if name in asked.body}
    request = _request(asked, session_id=wanted, **own)
    try:
        if on is None:
            return _begin(client, asked, request)
        return start_elsewhere(served, client, request, on, wait_s=_wait_s(asked))
    except (AppearedError, BusyError) as error:
        if wanted is not None and (kept := _existing(served, client, wanted, on)):  # another request was faster
            return kept
        if isinstance(error, AppearedError) and on is not None:
            return _kept(error.session_id)
        raise


def _existing(served: Served, client: Csa, wanted: str, on: str | None) -> tuple[dict[str, Any], int] | None:
    """Return the answer for a session that has exactly that id or name; None if there is none.

    On another host, one that was seen there, or that was sent there and may yet come.
    """
    if on is not None and any(each.session_id == wanted.upper() for each in list_placements(client.store.root)):
        return _kept(wanted.upper())
    try:
        found = client.session(wanted if on is None else f"{on}:{wanted}", mirrored=True)
    except (NotFoundError, AmbiguousError):
        return None
    if wanted.startswith("@") or wanted not in {found.session_id, found.session_id.lower(), found.record.name}:
        return None
    served.refuse_others(found.store.label)
    return _kept(found.session_id)


def _kept(session_id: str) -> tuple[dict[str, Any], int]:
    return {"session_id": session_id, "created": False}, 200


def fork(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True, retired=True)
    names = {name: asked.body.get(name) for name in ("name", "description")}
    return _begin(client_of(session), asked, _request(asked, fork_from=session.session_id, **names))


def turn(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True, mirrored=True)
    own = {name: asked.body[name] for name in ("after_turn", "repair") if name in asked.body}
    request = _request(asked, session=session.session_id, **own)
    if session.store.host is None:
        return _begin(client_of(session), asked, request)
    client = served.client(served.home(), asked)
    there = replace(request, session=f"{session.store.host}:{session.session_id}")
    return start_elsewhere(served, client, there, None, wait_s=_wait_s(asked))


def enqueue(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True)
    return client_of(session).queue(_request(asked, session=session.session_id)).to_json()


def _begin(client: Csa, asked: Asked, request: RunRequest) -> dict[str, Any]:
    return client.start(request, wait_s=_wait_s(asked)).to_json()


def _wait_s(asked: Asked) -> float | None:
    wait_s = asked.body.get("wait_s")
    return None if wait_s is None else min(float(wait_s), _LONGEST_WAIT_S)


def _request(asked: Asked, **own: Any) -> RunRequest:
    said = {name: asked.body[name] for name in _SAID if name in asked.body}
    if not (said["prompt"].strip() or own.get("repair")):
        raise UsageError("The prompt is empty.")
    fallback = asked.body.get("fallback")
    return RunRequest(**said, fallback=None if fallback is None else tuple(fallback), **own)


def show_session(served: Served, asked: Asked) -> Any:
    return _card(_read(served, asked, "session info"))


def _card(session: Session) -> dict[str, Any]:
    from csa.runner.sessions.inspection import inspect_session, unreadable_to_json  # noqa: PLC0415  # many modules

    try:
        return inspect_session(session).to_json()
    except StateError:
        return unreadable_to_json(session)


def edit(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True, mirrored=True)
    if session.store.host:
        edit_there(served, session, asked.body)
        return _card(session)
    client = client_of(session)
    if "name" in asked.body:
        client.rename(session.session_id, asked.body["name"])
    if "description" in asked.body:
        client.describe(session.session_id, asked.body["description"])
    if "pinned" in asked.body:
        client.pin(session.session_id, pinned=asked.body["pinned"])
    return _card(session)


def delete(served: Served, asked: Asked) -> Any:
    from csa.runner.sessions.removal import deletion_to_json  # noqa: PLC0415  # only this needs it

    session = served.find(asked, acts=True, mirrored=True)
    force, purge = asked.query.get("force", False), asked.query.get("purge", False)
    if session.store.host:
        return do_elsewhere(served, session, "delete", *["--force"] * force, *["--purge"] * purge)[0]
    before = deletion_to_json(session)
    (removed,) = client_of(session).delete(session.session_id, force=force, purge=purge)
    return {**before, "done": "purged" if removed.is_purged else "removed"}


def restore(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True, retired=True)
    return client_of(session).restore(session.session_id).to_json(session.store)


def cancel(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True, mirrored=True)
    found = client_of(session).kill(session.session_id, tree=asked.body.get("tree", False))
    return next(each for each in found if each.session_id == session.session_id).to_json()


def asks(served: Served, asked: Asked) -> Any:
    session = served.find(asked, retired=True)
    return [each.to_json() for each in client_of(session).asks(session.session_id)]


def answer(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True)
    body = asked.body
    return client_of(session).answer(session.session_id, body["ask"], allow=body["allow"], via="http").to_json()


def land(served: Served, asked: Asked) -> Any:
    import anyio  # noqa: PLC0415  # only this and compacting need an event loop of their own

    from csa.runner.sessions.landing import refuse_to_land  # noqa: PLC0415  # as above
    from csa.runner.sessions.landing_outcome import LandError, outcome_to_json  # noqa: PLC0415  # as above

    session, into = served.find(asked, acts=True, mirrored=True), asked.body["into"]
    served.require(into)
    client = client_of(session)
    if session.store.host:
        refuse_to_land(session, into)
        fetch_before_landing(served, asked, session, into)
    options = {name: asked.body[name] for name in ("squash", "check", "dry_run", "keep") if name in asked.body}
    try:
        landed = anyio.run(partial(client.land, session.session_id, into=into, **options))
    except LandError as error:
        return outcome_to_json(session.session_id, error=error, told=error.to_json()), status_of(error)
    return outcome_to_json(session.session_id, landed)


def checkpoint(served: Served, asked: Asked) -> Any:
    session = served.find(asked, acts=True)
    return client_of(session).checkpoint(session.session_id, label=asked.body.get("label")).to_json()


def compress(served: Served, asked: Asked) -> Any:
    import anyio  # noqa: PLC0415  # only this needs an event loop of its own: it may take minutes

    client = client_of(served.find(asked, acts=True))
    call = partial(client.compress, tool=asked.body.get("tool"), timeout_s=asked.body.get("timeout_s"))
    return anyio.run(call, client.resolve(asked.path["id"])).to_json()


def messages(served: Served, asked: Asked) -> Any:
    session, wanted = _read(served, asked, "session show"), asked.query.get("turn")
    found = [m for m in read_conversation(read_events(session.content.transcript)) if wanted in {None, m.turn}]
    return [shown_to_json(session.session_id, m) for m in found[-_limit(asked, _MESSAGES, _MOST) :]]


def conversation(served: Served, asked: Asked) -> Any:
    from csa.serve import conversation as pages  # noqa: PLC0415  # brings markdown-it

    session, query = _read(served, asked, "session show"), asked.query
    transcript = session.content.transcript
    if (seq := query.get("whole")) is not None:
        return pages.read_whole(transcript, seq).to_json()
    if (seq := query.get("since")) is not None:
        return pages.read_since(transcript, session.session_id, seq).to_json()
    limit = _limit(asked, _SHOWN, _MOST)
    return pages.read_before(transcript, session.session_id, query.get("before"), limit).to_json()


def events(served: Served, asked: Asked) -> Any:
    session = _read(served, asked, "session logs")
    after, limit = asked.query.get("after"), _limit(asked, _EVENTS, _MOST_EVENTS)
    lines = read_page(session.content.transcript, after=after, before=asked.query.get("before"), limit=limit + 1)
    found = [event.to_dict() for event in map(parse_line, lines) if event]
    is_more = len(found) > limit
    kept = found[:limit] if after is not None else found[-limit:]
    return {"events": kept, "next": kept[-1]["seq"] if is_more and after is not None else None}


def transcript_of(served: Served, asked: Asked) -> Session:
    """Return the session whose events are to be streamed, with its content open."""
    session = _read(served, asked, "session logs")
    _ = session.content
    return session


def result(served: Served, asked: Asked) -> Any:
    return _read(served, asked, "session result").result(turn=asked.query.get("turn")).to_json()


def why(served: Served, asked: Asked) -> Any:
    from csa.runner.sessions.conclusion import evidence_to_json  # noqa: PLC0415  # only this needs it
    from csa.runner.sessions.evidence import gather_evidence  # noqa: PLC0415  # as above

    return evidence_to_json(gather_evidence(*_read(served, asked, "session why").target))


def budget(served: Served, asked: Asked) -> Any:
    session = _read(served, asked, "session budget")
    return client_of(session).budget(session.session_id).to_json()


def artifacts(served: Served, asked: Asked) -> Any:
    content = _read(served, asked, "session artifacts").content
    found = find_artifacts(content, turn=asked.query.get("turn"))
    return [{**item.to_json(), "path": content.in_place(item.path)} for item in found]


def artifact(served: Served, asked: Asked) -> IO[bytes]:
    """Open a file of an agent's; csa's own, and links, are none."""
    return open_artifact(_read(served, asked, "session artifacts").content, asked.path["name"])


def logs(served: Served, asked: Asked) -> IO[bytes]:
    """Open a turn's log, where the lines begin that are asked for; a growing one is read as far as it goes now."""
    paths = _read(served, asked, "session logs").content
    log = find_log(paths, asked.query.get("kind", "raw"), turn=asked.query.get("turn"))
    file = open(open_regular(log), "rb")  # noqa: SIM115  # who sends it closes it
    file.seek(start_of_tail(file, tail) if (tail := asked.query.get("tail")) is not None else 0)
    return file


def diff(served: Served, asked: Asked) -> Any:
    from csa.runner.sessions.changes import read_changes  # noqa: PLC0415  # only this needs it

    session, turn = _read(served, asked, "session diff"), asked.query.get("turn")
    return (read_elsewhere(served, session, turn) if session.store.host else read_changes(session, turn=turn)).to_json()


def search(served: Served, asked: Asked) -> Any:
    from csa.runner.sessions.searching import Query, search  # noqa: PLC0415  # only this needs it

    words = tuple(dict.fromkeys(asked.query.get("q", "").lower().split()))
    if not words:
        raise UsageError("q names no word.")
    query = Query(words=words, tools=_words(asked, "tool"))
    hits = search(served.stores(asked.query), query, keys=served.client().context.keys)
    return [hit.to_json() for hit in islice(hits, _limit(asked, _HITS, _MOST))]


def stats(served: Served, asked: Asked) -> Any:
    from csa.runner.sessions.statistics import gather_statistics  # noqa: PLC0415  # only this needs it

    by = asked.query.get("by", "tool")
    return gather_statistics(served.stores(asked.query), by=by).to_json(by=by, since=None)


def _read(served: Served, asked: Asked, command: str) -> Session:
    session = served.find(asked, retired=True)
    note_read(session.context, session.session_id, command)
    return session


def _words(asked: Asked, name: str) -> frozenset[str]:
    return frozenset(word.strip() for word in asked.query.get(name, "").split(",") if word.strip())


def _limit(asked: Asked, usual: int, most: int) -> int:
    limit = asked.query.get("limit", usual)
    if not 1 <= limit <= most:
        raise UsageError(f"limit is a number from 1 to {most}.")
    return int(limit)


HANDLERS: Mapping[str, Callable[[Served, Asked], Any]] = {
    "health": health,
    "version": version,
    "openapi": describe_api,
    "projects": projects,
    "hosts": list_hosts,
    "tools": tools,
    "sessions": list_sessions,
    "create": create,
    "session": show_session,
    "edit": edit,
    "delete": delete,
    "restore": restore,
    "turn": turn,
    "enqueue": enqueue,
    "fork": fork,
    "cancel": cancel,
    "asks": asks,
    "answer": answer,
    "land": land,
    "checkpoint": checkpoint,
    "compress": compress,
    "messages": messages,
    "conversation": conversation,
    "events": events,
    "result": result,
    "why": why,
    "budget": budget,
    "artifacts": artifacts,
    "artifact": artifact,
    "logs": logs,
    "diff": diff,
    "search": search,
    "stats": stats,
}
