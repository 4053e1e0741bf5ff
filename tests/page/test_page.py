"""The page of csa serve in a real Chromium, as a person uses it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.pages import axe, is_within, open_page, send, until
from tests.serving import Server, serving
from tests.support import Place

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = pytest.mark.thorough
ACP = '[tools.goose]\ntransport = "acp"\ncommand = ["fake-acp"]\n'
INERT = """Done. <img src="https://evil.example/x.png" onerror="document.title='hacked'">
<script>document.title = 'hacked'</script> [one](javascript:document.title='hacked') [two](data:text/html,hacked)
![three](https://evil.example/y.png) <a href="https://evil.example" onclick="document.title='hacked'">four</a>

| a |
|--:|
| 1 |

[five](https://evil.example/five)"""


@pytest.mark.timeout(120)
def test_a_session_from_its_beginning_to_its_end(place: Place, clean: BrowserContext) -> None:
    """New, watched, queued, stopped, renamed, deleted, and that undone."""
    place.script(
        {
            "match": "long work",
            "do": [["say", "On it."], ["call", "make all", "ok\n", 0], *place.hold(), ["say", "late"]],
        },
        {
            "match": "with a helper",
            "do": [
                ["run", "csa run --tool codex --name helper 'help me'"],
                ["run", "echo line > made.txt"],
                ["say", "Both done."],
            ],
        },
        {"match": "", "do": [["say", "**Hello** there"]]},
    )
    place.shell(["git", "init", "-q", "."])
    with serving(place) as server:
        page = open_page(clean, server)
        assert "token" not in page.url
        page.keyboard.press("n")
        page.get_by_label("What is the agent to do?").fill("do it with a helper")
        page.get_by_role("combobox", name="Tool").select_option("codex")
        page.get_by_label("Name").fill("web")
        page.get_by_role("button", name="Start").click()
        page.locator(".markdown", has_text="Both done.").wait_for()
        assert page.get_by_role("heading", level=1).inner_text() == "web"
        page.keyboard.press("Escape")
        page.locator(".row a", has_text="web").first.click()
        page.get_by_role("button", name="Diff").click()
        page.get_by_role("region", name="Diff").get_by_text("+line").wait_for()
        assert axe(page) == []
        page.keyboard.press("Escape")
        page.locator("a.child", has_text="helper").click()
        page.locator(".markdown strong", has_text="Hello").wait_for()
        page.locator(".row a", has_text="web").click()

        send(page, "long work")
        page.get_by_text("make all", exact=True).wait_for()
        page.get_by_role("button", name="Queue").wait_for()
        send(page, "second")
        page.get_by_text("1 queued", exact=False).first.wait_for()
        place.wait_ready()
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("region", name="How the turn ended").get_by_text("cancelled").first.wait_for()
        page.get_by_role("button", name="Send").wait_for()

        page.get_by_role("button", name="More").click()
        page.get_by_role("button", name="Rename").click()
        assert axe(page) == []
        page.get_by_role("textbox", name="Name").fill("renamed")
        page.keyboard.press("Enter")
        page.locator("h1", has_text="renamed").wait_for()
        page.get_by_role("button", name="More").click()
        page.get_by_role("button", name="Pin", exact=True).click()
        page.locator(".pin").wait_for()
        page.get_by_role("button", name="More").click()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Undo").wait_for()
        page.locator(".row a", has_text="renamed").wait_for(state="detached")
        page.get_by_role("button", name="Undo").click()
        page.locator("h1", has_text="renamed").wait_for()
        page.locator(".markdown", has_text="Both done.").wait_for()
    assert place.run("ls", "--json").json[0]["name"] == "renamed"


@pytest.mark.timeout(120)
def test_a_permission_is_answered(place: Place, clean: BrowserContext) -> None:
    """What an agent asks for is seen from everywhere, and allowed once."""
    (place.tmp / "config.toml").write_text(ACP)
    place.env["CSA_CONFIG"] = str(place.tmp / "config.toml")
    place.play(["ask", "execute", "rm -r build"], ["say", "tried"])
    with serving(place) as server:
        page = open_page(clean, server)
        session_id = server.start(tool="goose", ask=True)
        page.locator(".row a", has_text="asks").click()
        card = page.get_by_role("region", name="Permission")
        card.get_by_text("rm -r build").wait_for()
        assert page.title().startswith("(1)")
        assert axe(page) == []
        card.get_by_role("button", name="Allow once").click()
        card.get_by_text("Permission allowed").wait_for()
        page.locator(".markdown", has_text="tried").wait_for()
        assert page.get_by_role("button", name="Allow once").count() == 0
    assert [e["data"]["status"] for e in place.events(session_id) if e["type"] == "permission"] == [
        "pending",
        "allowed",
    ]


@pytest.mark.timeout(120)
def test_nothing_is_lost(place: Place, clean: BrowserContext) -> None:
    """Offline, a restart of the server, another device that was faster, a reload, a session deleted elsewhere."""
    place.play(["say", "an answer"])
    with serving(place) as server:
        port = server.port
        session_id = server.start(session_id="kept")
        place.run("wait", "kept")
        page = open_page(clean, server, "/s/kept")
        page.get_by_text("an answer").wait_for()
        assert page.url.endswith(f"#/s/{session_id}")  # by name, then by what does not change
        clean.set_offline(offline=True)
        page.locator(".link.lost").wait_for()
        send(page, "typed offline")
        page.get_by_role("alert").get_by_text("No answer").wait_for()
        assert page.get_by_role("textbox", name="Prompt").input_value() == "typed offline"
        clean.set_offline(offline=False)
        page.locator(".link.live").wait_for()
    page.locator(".link.lost").wait_for()
    place.run("run", "--session", "kept", "said meanwhile")
    with serving(place, port=port) as server:
        page.evaluate("dispatchEvent(new Event('online'))")
        page.locator(".link.live").wait_for()
        page.get_by_text("said meanwhile").wait_for()

        other = open_page(clean, server, f"/s/{session_id}")
        other.get_by_text("said meanwhile").wait_for()
        page.route("**/conversation?*", lambda route: route.abort())  # so that it does not see what comes
        other.get_by_role("textbox", name="Prompt").fill("from the phone")
        other.keyboard.press("Enter")
        other.get_by_text("Turn 3").wait_for()
        place.run("wait", "kept")
        page.get_by_role("button", name="Send").wait_for()
        page.evaluate("document.getElementById('prompt').form.requestSubmit()")
        page.get_by_text("Another prompt was sent").wait_for()
        assert page.get_by_role("textbox", name="Prompt").input_value() == "typed offline"
        page.unroute("**/conversation?*")
        page.reload()
        page.get_by_text("from the phone").wait_for()
        assert page.get_by_role("textbox", name="Prompt").input_value() == "typed offline"
        page.get_by_role("textbox", name="Prompt").press("Enter")
        page.get_by_text("Turn 4").wait_for()
        assert page.get_by_role("textbox", name="Prompt").input_value() == ""

        place.run("wait", "kept")
        assert place.run("delete", "kept").code == 0
        page.get_by_text("This session was deleted.").wait_for()
        page.get_by_role("button", name="Restore").click()
        page.get_by_role("textbox", name="Prompt").wait_for()
    turns = [e["data"]["prompt"] for e in place.events(session_id) if e["type"] == "run_started"]
    assert turns == ["hello", "said meanwhile", "from the phone", "typed offline"]


@pytest.mark.timeout(120)
def test_what_agents_write_does_nothing(place: Place, clean: BrowserContext) -> None:
    """HTML, scripts, images and links with code in an answer are text; names with HTML and long words, too."""
    place.script(
        {
            "match": "second part",
            "do": [["say", "x" * 100_000], ["call", "y" * 5000, "z" * 5000, 1], ["fail", "quota"]],
        },
        {"match": "", "do": [["think", INERT], ["call", INERT, INERT, 0], ["say", INERT]]},
    )
    with serving(place) as server:
        _look_at_what_is_written(place, clean, server)


def _look_at_what_is_written(place: Place, clean: BrowserContext, server: Server) -> None:
    asked: list[str] = []
    clean.on("request", lambda request: asked.append(request.url))
    session_id = server.start(INERT, description="<img src=x onerror=\"document.title='hacked'\"> \u202eRTL")
    place.run("wait", session_id)
    page = open_page(clean, server, f"/s/{session_id}")
    page.locator(".markdown").wait_for()
    page.locator("details").first.evaluate("each => each.open = true")
    assert page.locator(".talk img, .talk script, .talk iframe").count() == 0
    assert [each.get_attribute("href") for each in page.locator(".markdown a").all()] == [
        "https://evil.example/y.png",
        "https://evil.example/five",
    ]
    assert set(page.locator(".markdown a").first.get_attribute("rel").split()) == {"noopener", "noreferrer"}  # type: ignore[union-attr]
    page.get_by_text("one", exact=False).first.click()
    assert page.title() != "hacked"
    assert [url for url in asked if not url.startswith(server.url)] == []
    server.post(f"/sessions/{session_id}/turns", {"prompt": "second part"}, status=202)
    page.get_by_text("Next:").wait_for()
    assert "--tool ANOTHER" in page.locator(".hint").inner_text()
    page.get_by_role("button", name=re.compile("Show all of it")).first.click()
    until(page, lambda: "x" * 100_000 in page.locator(".talk").inner_text(), "all is there")
    assert is_within(page)


@pytest.mark.timeout(120)
def test_on_a_phone_in_light_and_dark_and_with_keys(place: Place, chromium: Browser) -> None:
    """390 pixels, both schemes, the keyboard; nothing keeps people with a screen reader out."""
    table = "| " + " | ".join(["a long heading"] * 12) + " |\n" + "|-" * 12 + "|\n"
    place.play(["think", "hm"], ["call", "ls -l", "total 0\n", 0], ["say", f"# Done\n\n`{'p/' * 200}`\n\n{table}"])
    with serving(place) as server:
        _look_at_both(place, chromium, server)


def _look_at_both(place: Place, chromium: Browser, server: Server) -> None:
    for name in ("one", "two"):
        server.start("a prompt", name=name)
    place.run("wait", "one", "two")
    for scheme, width in (("dark", 390), ("light", 1280)):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        page = open_page(context, server)
        page.locator(".row a").nth(1).wait_for()
        assert (axe(page), is_within(page)) == ([], True)
        page.keyboard.press("/")
        page.keyboard.type("two")
        page.locator(".row a", has_text="one").wait_for(state="detached")
        page.keyboard.press("Enter")
        page.locator("h1", has_text="two").wait_for()
        page.locator(".markdown h3").wait_for()
        assert (axe(page), is_within(page)) == ([], True)
        assert page.get_by_role("navigation").is_visible() == (width > 760)
        page.keyboard.press("i")
        page.keyboard.type("half a th")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        page.get_by_role("heading", name="Keyboard").wait_for()
        assert axe(page) == []
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        page.keyboard.press("n")
        page.get_by_role("heading", name="New session").wait_for()
        page.get_by_label("Project").wait_for()
        assert (axe(page), is_within(page)) == ([], True)
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.locator(".row a").first.wait_for()
        context.close()


@pytest.mark.timeout(120)
def test_tokens(place: Place, clean: BrowserContext, server: Server) -> None:
    """Without one it asks; one for reading shows all and offers nothing; one that is revoked is asked for again."""
    session_id = server.start(name="seen")
    place.run("wait", "seen")
    page = clean.new_page()
    page.goto(f"{server.url}/#/s/seen")
    page.get_by_text("This page needs a token").wait_for()
    assert axe(page) == []
    token = place.run("serve", "token", "phone", "--read").out.strip()
    page.get_by_label("Token or address").fill(f"{server.url}/#token={token}")
    page.keyboard.press("Enter")
    page.get_by_text("Only reading is allowed here.").wait_for()
    for name in ("Send", "New", "Stop"):
        assert page.get_by_role("button", name=name, exact=True).count() == 0
    page.get_by_role("button", name="More").click()
    assert page.locator(".menu button").all_inner_texts() == ["Copy resume command", "Show diff"]
    place.run("serve", "token", "phone", "--revoke")
    page.goto(f"{server.url}/#/s/{session_id[:12]}")
    page.reload()
    page.get_by_text("This page needs a token").wait_for()
    page.get_by_text("revoked").wait_for()
    page.evaluate("token => location.hash = `token=${token}`", server.token)
    page.get_by_role("navigation").wait_for()
