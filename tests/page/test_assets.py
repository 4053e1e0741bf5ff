"""How the page's files are sent, and how it is opened."""

from __future__ import annotations

import http.client
import re
import stat
from pathlib import Path

import pytest

from tests.serving import Answer, Server, serving
from tests.support import PATIENCE_S, Place, wait_for

PAGE = Path(__file__).parents[2] / "csa" / "serve" / "page"


@pytest.mark.thorough
def test_files_of_two_versions_never_mix(server: Server) -> None:
    """The start page is asked for every time; all it leads to has an address of its version, and stays the same."""
    start = ask(server, "GET", "/")
    assert (start.status, start.headers["cache-control"]) == (200, "no-cache")
    assert ask(server, "GET", "/", {"If-None-Match": start.headers["etag"]}).status == 304
    assert ask(server, "HEAD", "/").content == b""
    named = set(re.findall(r"/page/\w+/[\w.]+", start.content.decode()))
    assert {path.rpartition("/")[2] for path in named} == {path.name for path in PAGE.iterdir()} - {"index.html"}
    for path in named:
        found = ask(server, "GET", path)
        assert (found.status, found.headers["x-content-type-options"]) == (200, "nosniff")
        assert "immutable" in found.headers["cache-control"]
        assert "script-src 'self'" in found.headers["content-security-policy"]
    place = next(iter(named)).rpartition("/")[0]
    for path in (
        "/page/0123456789abcdef/app.js",
        f"{place}/index.html",
        f"{place}/../app.py",
        f"{place}/%2e%2e/app.py",
    ):
        assert ask(server, "GET", path).status == 404
    assert ask(server, "POST", "/").status == 405


def ask(server: Server, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
    """Ask, without a token, for what is not of the API."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.mark.thorough
def test_open_shows_the_token_to_nobody(place: Place) -> None:
    """The browser gets a file of ours that leads to the page, as a command line is seen by all users."""
    seen, browser = place.tmp / "seen", place.tmp / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {seen}.new; mv {seen}.new {seen}\n')
    browser.chmod(0o755)
    place.env["BROWSER"] = str(browser)
    with serving(place, "--open") as server:
        wait_for(seen.exists, "the browser is started")
        address = seen.read_text()
        assert server.token not in address
        file = Path(address.removeprefix("file://"))
        assert f"{server.url}/#token={server.token}" in file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()
