"""A Chromium for tests, driven by Playwright: the one that is installed, or that `make chromium` has fetched.

There is one for each worker of pytest. It reaches this machine alone, and has no names but `localhost` and
`evil.example`, which stands for a name that an attacker makes point to us.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import OUTLASTING, PATIENCE_S, children_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

REBOUND = "evil.example"
FETCHED = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csa-chromium"
_CHOSEN = os.environ.get("CSA_CHROMIUM")
_WORDS = (
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--disable-features=LocalNetworkAccessChecks",  # which asks the user; not every browser does
    "--disable-background-networking",
)


class _Started(NamedTuple):
    browser: Browser
    loop: asyncio.AbstractEventLoop


@pytest.fixture(scope="session")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Started]:
    program, libraries = _find()
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # takes half a second

    home = str(tmp_path_factory.mktemp("chromium"))
    environ = {"HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home, "LANG": "C.UTF-8", "TZ": "UTC"}
    before = set(children_of(os.getpid()))
    with sync_playwright() as playwright:
        loop = asyncio.get_running_loop()
        browser = playwright.chromium.launch(
            executable_path=program, args=list(_WORDS), env={**environ, "PATH": os.environ["PATH"], **libraries}
        )
        OUTLASTING.update(set(children_of(os.getpid())) - before)
        asyncio._set_running_loop(None)  # noqa: SLF001  # else nothing else in this worker could have a loop
        yield _Started(browser, loop)
        asyncio._set_running_loop(loop)  # noqa: SLF001  # as above
        browser.close()
    OUTLASTING.clear()


@pytest.fixture
def chromium(_started: _Started) -> Iterator[Browser]:
    """Return the browser; what a test has opened in it is closed at its end."""
    asyncio._set_running_loop(_started.loop)  # noqa: SLF001  # while it is used
    try:
        yield _started.browser
        for context in _started.browser.contexts:
            context.close()
    finally:
        asyncio._set_running_loop(None)  # noqa: SLF001  # as above


@pytest.fixture
def context(chromium: Browser) -> BrowserContext:
    """Return a browser without a history, as wide as a desk's."""
    found = chromium.new_context(viewport={"width": 1280, "height": 800})
    found.set_default_timeout(1000 * PATIENCE_S)
    return found


def complaints_of(context: BrowserContext) -> list[str]:
    """Return a list to which errors in a context's pages are added: of scripts, of requests, of the policy (CSP)."""
    found: list[str] = []
    context.on("console", lambda said: found.append(said.text) if said.type in {"error", "warning"} else None)
    context.on("weberror", lambda thrown: found.append(str(thrown.error)))
    return found


def _find() -> tuple[str, dict[str, str]]:
    """Return the program, and what its environment must have; skip the test where there is none."""
    if found := _CHOSEN or shutil.which("chromium"):
        return found, {}
    fetched = FETCHED / "usr/lib/chromium/chromium-headless-shell"
    if not fetched.exists():
        reason = FETCHED / "reason"
        why = reason.read_text().strip() if reason.exists() else "make chromium fetches one"
        pytest.skip(f"there is no Chromium: {why}")
    libraries = [str(place) for where in ("lib", "usr/lib") for place in (FETCHED / where).glob("*-linux-*")]
    more = [str(place) for place in FETCHED.glob("usr/lib/*-linux-*/pulseaudio")]
    fonts = {} if Path("/etc/fonts/fonts.conf").exists() else {"FONTCONFIG_PATH": str(FETCHED / "etc/fonts")}
    return str(fetched), {
        "LD_LIBRARY_PATH": ":".join([*libraries, *more]),
        "XDG_DATA_HOME": str(FETCHED / "usr/share"),  # where fonts are looked for, too
        **fonts,
    }
