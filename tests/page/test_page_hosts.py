"""The page of csa serve with sessions of another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from csa.store.mirrors import Mirror
from tests.cli.hosts import make_old, sync
from tests.pages import axe, is_within, open_page, send
from tests.serving import serving
from tests.support import Place

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.thorough


@pytest.mark.timeout(120)
def test_sessions_of_another_host(place: Place, remote: Place, mirror: Mirror, clean: BrowserContext) -> None:
    """They are begun there, named with it, continued, filtered by it, and `away` when nothing is heard of it."""
    config = place.tmp / "own.toml"
    config.write_text('[engines.n1]\ncode = "none"\n')
    place.env["CSA_CONFIG"] = str(config)
    place.codex("mine", "--name", "mine")
    remote.codex("fix the parser", "--name", "auth")
    sync(place)
    with serving(place) as server:
        page = open_page(clean, server)
        page.locator(".row a", has_text="auth").get_by_text("on n1", exact=False).wait_for()
        page.keyboard.press("n")
        page.get_by_label("What is the agent to do?").fill("go far")
        page.get_by_role("combobox", name="Runs on").select_option("n1")
        page.get_by_role("combobox", name="Tool").select_option("codex")
        page.get_by_label("Name").fill("far")
        page.get_by_role("button", name="Start").click()
        page.locator(".facts", has_text="on n1").wait_for()
        page.get_by_role("img", name="succeeded").wait_for()
        send(page, "and on")
        page.get_by_role("img", name="succeeded").nth(1).wait_for()
        page.get_by_role("button", name="More").click()
        assert page.get_by_role("button", name="Fork …").count() == 0
        page.keyboard.press("Escape")
        page.get_by_role("combobox", name="Project or host").select_option("n1")
        page.locator(".row a", has_text="mine").wait_for(state="detached")
        assert page.locator(".row").count() == 2
        assert axe(page) == []
        remote.play(*remote.hold(), ["say", "done"])
        place.env["FAKE_TOOL_SCRIPT"] = remote.env["FAKE_TOOL_SCRIPT"]
        there = remote.start("run", "--tool", "codex", "--name", "long", "long")
        remote.wait_ready()
        while place.run("sync", "n1").code:
            page.wait_for_timeout(200)
        page.locator(".row a", has_text="long").click()
        page.get_by_text("What you type is kept, and can be sent when it has finished.").wait_for()
        assert page.get_by_role("button", name="Send").is_disabled()
        make_old(mirror)
        page.locator(".notice", has_text="it was running then, and may be running still").wait_for()
        page.set_viewport_size({"width": 390, "height": 844})
        assert is_within(page)
        assert axe(page) == []
        remote.release()
        there.wait()
