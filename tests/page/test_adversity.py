"""The page when things go wrong: answers that are lost, a server that hangs, tokens that end, hours of changes."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.pages import open_page, send, until
from tests.serving import Server, serving
from tests.support import Place, kill_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import BrowserContext, Page, Route

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(120)]


def lose(route: Route) -> None:
    """Let a request through, and lose its answer."""
    route.fetch()
    route.abort()


def held(found: list[Route]) -> Callable[[Route], None]:
    """Return what keeps requests back, in a list."""

    def take(route: Route) -> None:
        found.append(route)

    return take


def refusing(status: int, message: str) -> Callable[[Route], None]:
    """Return what answers requests with an error."""
    error = {"kind": "refused", "message": message, "hint": "Wait."}
    return lambda route: route.fulfill(status=status, json={"error": error})


def typed(page: Page) -> str:
    return page.get_by_role("textbox", name="Prompt").input_value()


def prompts(place: Place, session_id: str) -> list[str]:
    return [e["data"]["prompt"] for e in place.events(session_id) if e["type"] == "run_started"]


def test_nothing_is_done_twice(place: Place, clean: BrowserContext) -> None:
    """A session, a turn or a queued prompt whose answer was lost is sent again, and is there once."""
    place.script({"match": "hold", "do": [*place.hold(), ["say", "held"]]}, {"match": "", "do": [["say", "done"]]})
    with serving(place) as server:
        page = open_page(clean, server, "/new")
        page.get_by_label("Project").locator("option").first.wait_for(state="attached")
        page.get_by_label("What is the agent to do?").fill("begin")
        page.get_by_role("combobox", name="Tool").select_option("codex")
        page.route("**/api/v1/sessions", lose)
        page.get_by_role("button", name="Start").click()
        page.get_by_role("alert").get_by_text("No answer").wait_for()
        page.unroute("**/api/v1/sessions")
        page.get_by_role("button", name="Start").click()
        page.get_by_role("textbox", name="Prompt").wait_for()
        (session_id,) = place.published()
        place.run("wait", session_id)
        page.get_by_role("button", name="Send").wait_for()

        page.route("**/turns", lose)
        send(page, "hold it")
        page.get_by_role("alert").get_by_text("No answer").wait_for()
        page.unroute("**/turns")
        page.get_by_role("button", name="Queue").wait_for()  # as it runs by now
        page.get_by_role("button", name="Queue").click()
        until(page, lambda: typed(page) == "", "it is seen that it has arrived")

        page.route("**/queue", lose)
        send(page, "next")
        page.get_by_role("alert").get_by_text("No answer").wait_for()
        page.unroute("**/queue")
        page.get_by_role("button", name="Queue").click()
        page.get_by_role("alert").get_by_text("most likely this one").wait_for()
        assert typed(page) == "next"
        page.locator("#keys", has_text="after 1 queued").wait_for()
        place.release()
        page.get_by_text("Turn 3").wait_for()
        place.run("wait", session_id)
    assert prompts(place, session_id) == ["begin", "hold it", "next"]


def test_who_leaves_while_a_prompt_is_sent(place: Place, clean: BrowserContext, server: Server) -> None:
    """It is sent once, and is gone from where it was written when it has arrived; input methods keep their Enter."""
    one, two = (server.start(name=name) for name in ("one", "two"))
    place.run("wait", one, two)
    page = open_page(clean, server, f"/s/{one}")
    box = page.get_by_role("textbox", name="Prompt")
    box.fill("にほん")
    for more in ({"isComposing": True}, {"keyCode": 229}):
        box.dispatch_event("keydown", {"key": "Enter", **more})
    box.dispatch_event("keydown", {"key": "Escape"})
    kept: list[Route] = []
    page.route("**/turns", held(kept))
    page.get_by_role("button", name="Send").click()
    until(page, lambda: kept, "it is on its way")
    page.locator(".row a", has_text="two").click()
    page.locator("h1", has_text="two").wait_for()
    page.go_back()
    page.locator("h1", has_text="one").wait_for()
    page.get_by_role("button", name="Sending").wait_for()
    kept[0].continue_()
    page.get_by_text("Turn 2").wait_for()
    until(page, lambda: typed(page) == "", "it is gone")
    place.run("wait", one)
    assert prompts(place, one) == ["hello", "にほん"]
    assert len(kept) == 1


def test_a_new_token_takes_up_the_conversation(place: Place, clean: BrowserContext, server: Server) -> None:
    """After a token that was revoked, or is none, what is open goes on."""
    session_id = server.start(name="kept")
    place.run("wait", "kept")
    token = place.run("serve", "token", "phone").out.strip()
    page = clean.new_page()
    page.goto(f"{server.url}/#token={token}")
    page.goto(f"{server.url}/#/s/{session_id}")
    page.get_by_text("Turn 1").wait_for()
    place.run("serve", "token", "phone", "--revoke")
    page.get_by_role("textbox", name="Prompt").fill("typed meanwhile")
    page.keyboard.press("Enter")
    page.get_by_text("This page needs a token").wait_for()
    for given in ("“token”", server.token):  # what no header can have, too
        page.get_by_label("Token or address").fill(given)
        page.keyboard.press("Enter")
        page.get_by_text("This page needs a token").wait_for(state="hidden" if given == server.token else "visible")
    until(page, lambda: typed(page) == "typed meanwhile", "it is kept")
    place.run("run", "--session", "kept", "said elsewhere")
    page.get_by_text("said elsewhere", exact=True).wait_for()


def test_what_is_not_known_is_not_said(place: Place, clean: BrowserContext) -> None:
    """A clock stands still without a connection; no answer is neither "not found" nor a token that may only read."""
    place.play(["call", f"cat {place.project}/a/b.py", "", 0], *place.hold())
    with serving(place) as server:
        session_id = server.start(name="busy")
        page = open_page(clean, server, f"/s/{session_id}")
        live = page.locator(".now")
        live.get_by_text("cat a/b.py").wait_for()  # as seen from the project
        page.locator(".row", has_text="$ cat a/b.py").wait_for()
        clean.set_offline(offline=True)
        page.locator(".link.lost").wait_for()
        shown = live.inner_text()
        page.wait_for_timeout(1500)
        assert live.inner_text() == shown
        assert page.locator(".row .dot.busy").evaluate("each => getComputedStyle(each).animationName") == "none"
        clean.set_offline(offline=False)
        page.locator(".link.live").wait_for()
        until(page, lambda: live.inner_text() != shown, "the clock goes on")

        page.route("**/api/v1/version", lambda route: route.abort())
        page.route("**/conversation", lambda route: route.fulfill(status=503, json={}))
        page.reload()
        page.locator(".link.live").wait_for()
        page.locator(".none", has_text="Service Unavailable").or_(page.locator(".talk .none").first).first.wait_for()
        assert page.get_by_text("Only reading").count() == page.get_by_text("Not found").count() == 0
        page.unroute("**/conversation")
        live.get_by_text("cat a/b.py").wait_for()  # tried again
        assert page.get_by_text("Only reading").count() == 0
        page.unroute("**/api/v1/version")
        page.get_by_role("textbox", name="Prompt").wait_for()
        place.release()
        place.run("wait", session_id)
        port = server.port
    other = place.tmp / "other"
    other.mkdir()
    with serving(place, "--project", str(other), port=port):
        page.evaluate("dispatchEvent(new Event('online'))")
        page.get_by_text("is not served").wait_for()
        assert page.get_by_text("was deleted").count() == 0


def test_a_change_is_seen_after_the_next_session_was_opened(
    place: Place, clean: BrowserContext, server: Server
) -> None:
    """What comes to one session while another one's answer is late is not forgotten."""
    one, two = (server.start(name=name) for name in ("one", "two"))
    place.run("wait", one, two)
    page = open_page(clean, server, f"/s/{one}")
    page.get_by_text("Turn 1").wait_for()
    late: list[Route] = []
    page.route(f"**/{one}/conversation?since=*", held(late))
    place.run("run", "--session", one, "more")
    until(page, lambda: late, "its messages are asked for")
    page.locator(".row a", has_text="two").click()
    page.locator("h1", has_text="two").wait_for()
    page.get_by_text("Turn 1").wait_for()
    place.run("run", "--session", two, "and more")
    page.locator(".row", has_text="two").wait_for()
    page.wait_for_timeout(600)  # the stream has told by now
    for each in late:
        each.continue_()
    page.get_by_text("Turn 2").wait_for()


def test_hours_of_changes(place: Place, clean: BrowserContext, server: Server) -> None:
    """Thousands of messages and calls come while it is open: what is drawn and kept stays bounded, and can be read."""
    session_id = server.start(name="long")
    place.run("wait", "long")
    page = open_page(clean, server, f"/s/{session_id}")
    page.get_by_text("Turn 1").wait_for()
    transcript = place.session(session_id) / "transcript.jsonl"
    seq = len(place.events(session_id))
    lines: list[str] = []

    def note(type_: str, turn: int, **data: object) -> None:
        line = {
            "seq": seq + 1 + len(lines),
            "ts": "2026-03-01T12:00:00.000Z",
            "turn": turn,
            "type": type_,
            "data": data,
        }
        lines.append(json.dumps(line) + "\n")

    def write() -> None:
        nonlocal seq
        with transcript.open("a") as file:
            file.write("".join(lines))
        seq += len(lines)
        lines.clear()

    for turn in range(2, 14):
        note("run_started", turn, tool="codex", prompt=f"prompt {turn}")
        for n in range(60):
            note("agent_message", turn, text=f"message {turn}.{n}")
        note("run_finished", turn, tool="codex", status="succeeded", duration_s=1.0)
        write()
        page.get_by_text(f"message {turn}.59", exact=True).wait_for()
    assert page.locator(".message").count() <= 700
    assert page.get_by_text("message 2.0", exact=True).count() == 0

    def look_up() -> int:
        page.locator(".scroll").evaluate("each => each.scrollTop = 0")
        return page.get_by_text("message 2.0", exact=True).count()

    until(page, look_up, "what was let go of is there again")

    note("run_started", 14, tool="codex", prompt="calls")
    for n in range(1000):
        note("tool_call", 14, id=f"c{n}", title=f"call {n}", kind="execute", status="completed")
    write()
    page.get_by_role("button", name="New messages").click()
    page.get_by_text("call 999", exact=True).wait_for()
    sizes: list[int] = []
    page.on("response", lambda answer: sizes.append(len(answer.body())) if "?since=" in answer.url else None)
    note("tool_call", 14, id="last", title="call last", kind="execute", status="completed")
    write()
    page.get_by_text("call last", exact=True).wait_for()
    assert sizes
    assert max(sizes) < 30_000  # the last calls, not all since the last word


def test_a_server_that_is_stopped(place: Place, clean: BrowserContext) -> None:
    """A prompt that is sent to a server which does not answer is sent once, when it goes on."""
    with serving(place) as server:
        session_id = server.start(name="kept")
        place.run("wait", "kept")
        page = open_page(clean, server, f"/s/{session_id}")
        page.get_by_text("Turn 1").wait_for()
        server.running.signal(signal.SIGSTOP)
        try:
            send(page, "into the void")
            page.get_by_role("button", name="Sending").wait_for()
            page.keyboard.press("Enter")
        finally:
            server.running.signal(signal.SIGCONT)
        page.get_by_text("Turn 2").wait_for()
        place.run("wait", "kept")
    assert prompts(place, session_id) == ["hello", "into the void"]


def test_an_answer_that_was_long_on_its_way(place: Place, clean: BrowserContext) -> None:
    """It does not set the clock back."""
    place.play(*place.hold())

    def answer_late(route: Route) -> None:
        found = route.fetch()
        time.sleep(1.2)
        route.fulfill(response=found, headers={**found.headers, "date": "Mon, 02 Mar 2026 12:00:00 GMT"})

    with serving(place) as server:
        session_id = server.start()
        place.wait_ready()
        page = open_page(clean, server, f"/s/{session_id}")
        clock = page.locator(".now .when")
        until(page, lambda: clock.inner_text() not in {"", "0s"}, "it has run for a while")
        page.route("**/api/v1/tools", answer_late)
        page.keyboard.press("n")
        page.get_by_role("combobox", name="Tool").locator("option", has_text="codex").wait_for(state="attached")
        page.go_back()
        clock.wait_for()
        assert clock.inner_text() not in {"", "0s"}
        place.release()
        place.run("wait", session_id)


def test_what_a_refusal_said_holds_until_the_session_changes(
    place: Place, clean: BrowserContext, server: Server
) -> None:
    """A session that was busy offers the queue; when it is known to have changed, it takes prompts again."""
    session_id = server.start()
    place.run("wait", session_id)
    page = open_page(clean, server, f"/s/{session_id}")
    page.get_by_text("Turn 1").wait_for()
    page.route("**/turns", refusing(409, "It is busy."))
    send(page, "typed")
    page.get_by_role("alert").get_by_text("It is busy.").wait_for()
    page.get_by_role("button", name="Queue").wait_for()
    assert typed(page) == "typed"
    place.run("describe", session_id, "changed")
    page.get_by_role("button", name="Send").wait_for()
    page.unroute("**/turns")
    for status in (403, 429, 507):
        page.route("**/turns", refusing(status, f"Refused {status}."))
        page.get_by_role("button", name="Send").click()
        page.get_by_role("alert").get_by_text(f"Not sent: Refused {status}. Wait.").wait_for()
        assert typed(page) == "typed"
        page.unroute("**/turns")
    page.route("**/turns", refusing(502, "Bad gateway"))
    page.get_by_role("button", name="Send").click()
    page.get_by_role("alert").get_by_text("No answer").wait_for()  # it may have arrived
    page.unroute("**/turns")
    place.run("close", session_id)
    page.locator("#keys", has_text="--reopen").wait_for()
    assert typed(page) == "typed"


def test_a_turn_whose_process_is_gone(place: Place, clean: BrowserContext) -> None:
    """It is said to be lost, and what to do, not to be running."""
    place.play(["say", "on it"], *place.hold())
    with serving(place) as server:
        session_id = server.start()
        place.wait_ready()
        page = open_page(clean, server, f"/s/{session_id}")
        page.locator(".now").wait_for()
        server_pid = server.running.pid
        kill_all({pid: words for pid, words in place.processes().items() if pid != server_pid})
        page.get_by_role("region", name="How the turn ended").get_by_text("lost").wait_for()
        page.locator(".now").wait_for(state="detached")
        page.get_by_role("button", name="Send").wait_for()


def test_a_long_diff(place: Place, clean: BrowserContext) -> None:
    """What is not shown is counted, and named; the page stays quick while it is open."""
    place.shell(["git", "init", "-q", "."])
    make = "seq 1 6000 > a.txt; echo 1 > b.txt; printf 'x\\0y' > c.bin; echo 1 > 'a name.txt'"
    place.play(["run", make], ["say", "made"])
    with serving(place) as server:
        session_id = server.start()
        place.run("wait", session_id)
        page = open_page(clean, server, f"/s/{session_id}")
        page.get_by_text("made").wait_for()
        page.keyboard.press("d")
        page.get_by_role("region", name="Diff").wait_for()
        heads = [
            each.inner_text().replace("\N{MINUS SIGN}", "-").split("\n") for each in page.locator(".lines h3").all()
        ]
        assert heads == [["a name.txt", "+1 -0"], ["a.txt", "+6000 -0"], ["b.txt", "+1 -0"], ["c.bin", "+0 -0"]]
        page.get_by_text("more lines: csa diff shows all").wait_for()
        assert page.locator(".lines pre span").count() == 3000
