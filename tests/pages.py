"""What tests of the page do in it, as a person does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.serving import Server
from tests.support import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page


def open_page(context: BrowserContext, server: Server, place: str = "") -> Page:
    """Open the page with the token, as `csa serve url` prints it, and go to a place in it."""
    page = context.new_page()
    page.goto(f"{server.url}/#token={server.token}")
    page.locator(".link.live").wait_for()
    if place:
        page.goto(f"{server.url}/#{place}")
    return page


def until(page: Page, condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition while the browser goes on."""

    def look() -> Any:
        page.wait_for_timeout(20)
        return condition()

    wait_for(look, what)


def send(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Prompt").fill(text)
    page.keyboard.press("Enter")


def axe(page: Page) -> list[str]:
    """Return what of an opened page keeps people out."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  # takes a while

    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def is_within(page: Page) -> bool:
    """Say whether nothing makes the page wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
