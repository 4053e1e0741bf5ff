"""How long the page of csa serve takes to open a conversation of 10,000 messages, beside one of four.

Needs Chromium. Prints milliseconds from the click to the last message, each the best of five, and their ratio.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FAKES = Path(__file__).parents[1] / "adapters" / "csa_fakes" / "bin"
TURNS, ROUNDS = 2500, 5
TS = "2026-03-01T12:00:00.000Z"


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed")
    with tempfile.TemporaryDirectory(prefix="csa-bench-") as base:
        home = Path(base).resolve()
        project = home / "project"
        project.mkdir()
        (home / "script.json").write_text(json.dumps({"rules": [{"match": "", "do": [["say", "short"]]}]}))
        path = os.pathsep.join([str(FAKES), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        env = {"HOME": str(home), "PATH": path, "FAKE_TOOL_SCRIPT": str(home / "script.json"), "LANG": "C.UTF-8"}
        for name in ("short", "long"):
            subprocess.run(
                ["csa", "run", "--quiet", "--tool", "codex", "--name", name, "go"], cwd=project, env=env, check=True
            )
        found = subprocess.run(["csa", "info", "long", "--json"], cwd=project, env=env, check=True, capture_output=True)
        lengthen(Path(json.loads(found.stdout)["directory"]) / "transcript.jsonl")
        server = subprocess.Popen(
            ["csa", "serve", "--port", "0"], cwd=project, env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout
            measure(chromium, server.stdout.readline().strip())
        finally:
            server.terminate()
            server.communicate()


def lengthen(transcript: Path) -> None:
    """Add turns of four messages each."""
    seq = len(transcript.read_text().splitlines())
    with transcript.open("a") as file:
        for turn in range(2, TURNS + 2):
            for kind, data in (
                ("run_started", {"tool": "codex", "prompt": f"prompt {turn}"}),
                ("agent_message", {"text": f"**answer** {turn} with `code`\n\n- one\n- two"}),
                ("tool_call", {"id": f"c{turn}", "title": "ls -l", "kind": "execute", "status": "completed"}),
                ("agent_message", {"text": f"end {turn}"}),
                ("run_finished", {"status": "succeeded", "tool": "codex", "duration_s": 1.0}),
            ):
                seq += 1
                line = {"v": 1, "seq": seq, "ts": TS, "type": kind, "turn": turn, "data": data}
                file.write(json.dumps(line) + "\n")


def measure(chromium: str, url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        page = browser.new_page()
        page.goto(url)
        page.locator(".row a", has_text="long").wait_for()
        page.wait_for_timeout(2000)  # the first look at all sessions
        short = min(opened_ms(page, "short", "short") for _ in range(ROUNDS))
        long = min(opened_ms(page, "long", f"end {TURNS + 1}") for _ in range(ROUNDS))
        print(f"short {short:.0f} ms, {4 * TURNS} messages {long:.0f} ms, {long / short:.2f}x")
        browser.close()


def opened_ms(page: Page, name: str, last: str) -> float:
    """Open a conversation, from a click to its last message, and close it."""
    link = page.locator(".row a", has_text=name)
    began = time.monotonic()
    link.click()
    page.locator(".messages").get_by_text(last, exact=True).last.wait_for()
    took = 1000 * (time.monotonic() - began)
    page.keyboard.press("Escape")
    page.locator(".welcome").wait_for()
    return took


if __name__ == "__main__":
    main()
