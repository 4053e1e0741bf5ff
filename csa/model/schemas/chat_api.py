"""The chat API of aomi's clients as routes of the same table: `X-Session-Id` names the session. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from csa.model.schemas.kit import Schema, each, flag, maybe, moment, one_of, record, text
from csa.model.schemas.route import ACT, ROOT, Route

SESSION = "x-session-id"
NEW_CHAT = "New chat"  # the title of a session in which nothing was said
_HEADER: Mapping[str, Schema] = {SESSION: text("the session: a UUID that the client has made, or any session's id")}
_FORMER: Mapping[str, Schema] = {"session_id": text("the session, where a client cannot send `X-Session-Id`")}
_MESSAGE = record(
    {
        "sender": one_of("who says it", "user", "agent", "system"),
        "content": text("what is said; empty for a tool call"),
        "timestamp": moment("when it began"),
        "is_streaming": flag("the agent is still working, and may go on with it"),
        "tool_result": maybe(each({"type": "string"}, "of a tool call: its title, and its output so far")),
    }
)
_SYSTEM_EVENT = record(
    {"SystemNotice": text("what csa has done"), "SystemError": text("why the turn has failed")},
    "one of the two keys",
    optional="SystemNotice SystemError",
)
_THREAD: Mapping[str, Schema] = {
    "session_id": text("the client's UUID, or the session's id"),
    "title": text("the description, which is the beginning of the first message unless it was changed"),
}
CHAT_OWN: Mapping[str, Schema] = {
    "chat": record(
        {
            "messages": each(_MESSAGE, "the conversation, at most the last 1000 messages"),
            "system_events": each(_SYSTEM_EVENT, "what csa has to say about the last turn"),
            "title": maybe(text("the description; null while nothing was said")),
            "is_processing": flag("a turn is running, or queued"),
            "user_state": {
                "type": ["object", "null"],
                "description": "what the client has sent last as `user_state`, while the server is running",
            },
        }
    ),
    "thread": record(
        {
            **_THREAD,
            "is_archived": flag("it is closed"),
            "created_at": moment("when it was made"),
            "updated_at": moment("when it was last used"),
            "last_active_at": moment("likewise"),
        }
    ),
    "new_thread": record(_THREAD),
    "gone_thread": record({"session_id": text("its id"), "deleted": flag("always true")}),
}
CHAT_OWN = {
    **CHAT_OWN,
    "threads": each(CHAT_OWN["thread"], "the sessions, the last used first"),
}
_ONE = "/sessions/{id}"
CHAT_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/chat",
        name="chat",
        about="Say something in a session, which is made by the first message; a message to a busy one is queued",
        answer="chat",
        access=ACT,
        headers=_HEADER,
        query={
            "message": text("what is said"),
            "app": text("a template or a tool; `default` is what is configured"),
            "public_key": text("the owner of a session that is made"),
            "user_state": text("a JSON object that /state returns; the agent is not told"),
            "client_id": text("has no meaning here"),
            **_FORMER,
        },
        needs=frozenset({"message"}),
        prefix=ROOT,
    ),
    Route(
        method="GET",
        path="/state",
        name="chat_state",
        about="Show a session as it is now; an unknown one is an empty one",
        answer="chat",
        headers=_HEADER,
        query={
            "user_state": text("a JSON object that is returned from now on"),
            "client_id": text("has no meaning here"),
            **_FORMER,
        },
        prefix=ROOT,
    ),
    Route(
        method="GET",
        path="/updates",
        name="updates",
        about="Stream what happens in a session, also in one that is yet to be made",
        answer="",
        headers=_HEADER,
        query=_FORMER,
        streams=True,
        prefix=ROOT,
    ),
    Route(
        method="POST",
        path="/interrupt",
        name="interrupt",
        about="End what is running in a session",
        answer="chat",
        access=ACT,
        headers=_HEADER,
        query=_FORMER,
        prefix=ROOT,
    ),
    Route(
        method="POST",
        path="/sessions",
        name="new_thread",
        about="Make a session in which nothing is said yet, unless there is one",
        answer="new_thread",
        access=ACT,
        headers=_HEADER,
        body=record({"public_key": maybe(text("its owner")), "title": text("its title")}, optional="public_key title"),
        needs=frozenset({SESSION}),
        prefix=ROOT,
    ),
    Route(
        method="GET",
        path="/sessions",
        name="threads",
        about="List sessions, the last used first",
        answer="threads",
        headers=_HEADER,
        query={"public_key": text("only those of this owner")},
        prefix=ROOT,
    ),
    Route(method="GET", path=_ONE, name="thread", about="Show one session", answer="thread", prefix=ROOT),
    Route(
        method="PATCH",
        path=_ONE,
        name="retitle",
        about="Give a session another title",
        answer="thread",
        access=ACT,
        headers=_HEADER,
        body=record({"title": text("the title: one line, cut to 80 characters")}),
        prefix=ROOT,
    ),
    Route(
        method="DELETE",
        path=_ONE,
        name="delete_thread",
        about="Delete a session, after ending what is running in it; it can be restored for some days",
        answer="gone_thread",
        access=ACT,
        headers=_HEADER,
        prefix=ROOT,
    ),
)
