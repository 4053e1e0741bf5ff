"""csa serve and pages of others, in a real Chromium: they change nothing, and read nothing."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.browser import REBOUND
from tests.serving import API, Server
from tests.support import Place, snapshot, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Request

SECRET = "a-word-that-is-in-the-store"
PAGE = "<!doctype html><title>attack</title><body></body>"
# Each returns what it could read; what it cannot even send is an error.
ATTACKS = """
async ([target, token, body]) => {
  const url = target + "/api/v1/sessions", json = "application/json", found = {};
  const post = (type, more) => ({method: "POST", body, headers: type ? {"Content-Type": type} : {}, ...more});
  const bearer = {Authorization: "Bearer " + token};
  const read = async (where, how) => await (await fetch(where, how)).text();
  const inside = (frame) => { try { return frame.contentDocument.body.innerText } catch { return "" } };
  const element = (name, keys) => new Promise((resolve, reject) => {
    const one = document.createElement(name);
    one.onload = () => resolve(inside(one));
    one.onerror = () => reject(new Error("error"));
    Object.assign(one, keys);
    document.body.append(one);
  });
  const form = (encoding, fields, where) => new Promise((resolve) => {
    const name = "frame" + Math.random(), frame = Object.assign(document.createElement("iframe"), {name});
    const one = document.createElement("form");
    Object.assign(one, {action: where, method: "POST", enctype: encoding, target: name});
    for (const [key, value] of Object.entries(fields))
      one.append(Object.assign(document.createElement("input"), {name: key, value}));
    document.body.append(frame, one);
    frame.onload = () => resolve(inside(frame));
    one.submit();
  });
  const stream = (make, ready) => new Promise((resolve, reject) => {
    const one = make();
    one.onmessage = (event) => resolve(String(event.data));
    one.onopen = () => resolve("open");
    one.onerror = () => { one.close(); reject(new Error("error")) };
  });
  const upgraded = target.replace("http", "ws") + "/api/v1/events", half = body.indexOf(":") + 2;
  const attacks = {
    blind: () => read(url, post("text/plain", {mode: "no-cors"})),
    blind_with_token: () => read(url, post("text/plain", {mode: "no-cors", headers: bearer})),
    plain: () => read(url, post("text/plain")),
    untyped: () => read(url, post(null)),
    json: () => read(url, post(json)),
    json_with_token: () => read(url, post(json, {headers: {...bearer, "Content-Type": json}})),
    delete_with_token: () => read(url + "/victim?force=true", {method: "DELETE", headers: bearer}),
    keepalive: () => read(url, post("text/plain", {keepalive: true, mode: "no-cors"})),
    get: () => read(url),
    get_with_token: () => read(url, {headers: bearer}),
    get_blind: () => read(url, {mode: "no-cors"}),
    token_in_query: () => read(url + "?token=" + token, {mode: "no-cors"}),
    token_as_cookie: () => { document.cookie = "token=" + token; return read(url, {credentials: "include"}) },
    token_as_user: () => read(url.replace("://", "://token:" + token + "@")),
    beacon: () => String(navigator.sendBeacon(url, new Blob([body], {type: "text/plain"}))) && "",
    beacon_json: () => String(navigator.sendBeacon(url, new Blob([body], {type: json}))) && "",
    form: () => form("application/x-www-form-urlencoded", {prompt: "owned"}, url),
    form_parts: () => form("multipart/form-data", {prompt: "owned"}, url),
    form_plain: () => form("text/plain", {[body.slice(0, half)]: body.slice(half)}, url),
    form_cancel: () => form("text/plain", {}, url + "/victim/cancel"),
    frame: () => element("iframe", {src: url}),
    frame_of_page: () => element("iframe", {src: target + "/"}),
    script: () => element("script", {src: url}),
    script_of_api: () => element("script", {src: target + "/api/v1/openapi.json"}),
    image: () => element("img", {src: url}),
    style: () => element("link", {rel: "stylesheet", href: url}),
    events: () => stream(() => new EventSource(target + "/api/v1/events")),
    events_of_one: () => stream(() => new EventSource(url + "/victim/events", {withCredentials: true})),
    socket: () => stream(() => new WebSocket(upgraded)),
    socket_with_token: () => stream(() => new WebSocket(upgraded, ["bearer", token])),
    worker: () => new Promise((resolve, reject) => {
      const one = new Worker(URL.createObjectURL(new Blob([`importScripts("${url}"); postMessage("ran")`])));
      one.onmessage = () => resolve("ran");
      one.onerror = () => reject(new Error("error"));
    }),
  };
  for (const [name, attack] of Object.entries(attacks)) {
    try { found[name] = await attack() } catch (error) { found[name] = "error: " + error.name }
  }
  return found;
}
"""
FRAME = """
url => new Promise(resolve => {
  const one = document.createElement("iframe");
  one.onload = resolve;
  one.src = url;
  document.body.append(one);
})
"""


@contextmanager
def foreign_site() -> Iterator[str]:
    """Serve an attacker's page at another port; yield its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = PAGE.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


@pytest.fixture
def victim(place: Place, server: Server) -> Server:
    """A server with a session whose words are worth reading."""
    place.play(["say", SECRET])
    place.codex(SECRET, "--name", "victim")
    return server


def attack(page: Page, server: Server, target: str) -> tuple[dict[str, str], Counter[str]]:
    """Try everything; return what could be read, and how the requests to the API have ended."""
    ends: Counter[str] = Counter()

    def note(asked: Request, end: str) -> None:
        if f":{server.port}{API}/" in asked.url:
            ends[end] += 1

    page.on("response", lambda answer: note(answer.request, str(answer.status)))
    page.on("requestfailed", lambda asked: note(asked, asked.failure or ""))
    body = f'{{"prompt": "owned", "tool": "codex", "directory": "{server.place.project}"}}'
    found: dict[str, str] = page.evaluate(ATTACKS, [target, server.token, body])
    return found, ends


def was_had(found: dict[str, str]) -> set[str]:
    """Return the attacks that have read anything of sessions, or opened a stream."""
    return {name for name, text in found.items() if SECRET in text or "session_id" in text or text == "open"}


def wait_for_nothing(server: Server) -> None:
    wait_for(lambda: server.get("/projects")[0]["running"] == 0, "nothing runs")


@pytest.mark.thorough
def test_a_page_of_another_origin_gets_nothing(place: Place, victim: Server, context: BrowserContext) -> None:
    """What browsers send without asking, from another port of this machine; and what one with the token tries."""
    before = snapshot(place.state_root)
    with foreign_site() as site:
        page = context.new_page()
        page.goto(site)
        found, ends = attack(page, victim, victim.url)
        page.goto("about:blank")
    assert not was_had(found), found
    assert {end for end in ends if end.isdecimal()} <= {"401", "403"}, ends
    assert ends["net::ERR_BLOCKED_BY_RESPONSE.NotSameOrigin"] >= 8, ends  # so they came, and were answered
    wait_for_nothing(victim)
    assert snapshot(place.state_root) == before


@pytest.mark.thorough
def test_a_name_that_is_made_to_point_here_gets_nothing(place: Place, victim: Server, context: BrowserContext) -> None:
    """DNS rebinding: to the browser we are of the attacker's own origin, so it lets everything pass."""
    before = snapshot(place.state_root)
    origin = f"http://{REBOUND}:{victim.port}"
    context.route(f"{origin}/start", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page = context.new_page()
    page.goto(f"{origin}/start")
    found, ends = attack(page, victim, origin)
    assert not was_had(found), found
    assert {end for end in ends if end.isdecimal()} == {"421"}, ends
    assert ends["421"] >= 16, ends
    wait_for_nothing(victim)
    assert snapshot(place.state_root) == before


@pytest.mark.thorough
def test_of_our_own_origin_only_the_token_counts(victim: Server, context: BrowserContext) -> None:
    """The same requests succeed there, but only those that carry it as a page of ours does."""
    page = context.new_page()
    page.goto(f"{victim.url}{API}/health")
    found, _ = attack(page, victim, victim.url)
    assert was_had(found) == {"json_with_token", "delete_with_token", "get_with_token"}, found
    wait_for_nothing(victim)


@pytest.mark.thorough
@pytest.mark.parametrize("path", ["/", f"{API}/health", "/no-such-page"])
def test_nothing_of_ours_is_shown_in_a_frame(victim: Server, context: BrowserContext, path: str) -> None:
    """Neither in a page of others, nor in one of ours, so that nobody is made to click on what he cannot see."""
    with foreign_site() as site:
        for origin in (site, f"{victim.url}{API}/health"):
            page = context.new_page()
            page.goto(origin)
            with page.expect_console_message(lambda said: "frame" in said.text.lower()):
                page.evaluate(FRAME, victim.url + path)
            assert page.frames[1].url.startswith("chrome-error:"), page.frames[1].url
            page.close()
