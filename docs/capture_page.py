"""Takes the pictures of the page of `csa serve` for docs/serve.md: `make captures` runs it.

The sessions are those of a small team of fake agents. Needs Chromium; without it nothing is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
TARGET = HERE / "captures"
FAKES = HERE.parent / "adapters/csa_fakes"
PATIENCE_S = 60.0
Scheme = Literal["light", "dark"]
SIZES: tuple[tuple[str, int, int, Scheme], ...] = (
    ("light", 1280, 800, "light"),
    ("dark", 1280, 800, "dark"),
    ("phone", 390, 844, "light"),
)
ANSWER = """Rate limiting is in, and every test passes.

| part | where | what |
|---|---|---|
| bucket | `api/limits.py` | 20 requests at once, then 5 per second |
| handler | `api/server.py` | answers **429** with `Retry-After` |

```python
def handle(request):
    bucket = BUCKETS.setdefault(request.key, Bucket(20, 5))
    return 200 if bucket.take() else 429
```

Open: a test with two clients at once. The idea is explained in [RFC 6585](https://www.rfc-editor.org/rfc/rfc6585)."""
RULES = [
    {
        "match": "Add rate limiting to the API",
        "do": [
            ["think", "Design and implementation can start together: the interface is small."],
            ["call", "ls api", "server.py\n", 0],
            ["say", "I let one agent design the limiter while another implements the bucket."],
            [
                "run-parallel",
                [
                    "csa run --tool claude-code --name design 'Design the rate limiter'",
                    "csa run --tool codex --name bucket 'Implement the token bucket'",
                ],
            ],
            ["edit", "api/server.py"],
            ["call", "python3 -m unittest -q", "Ran 12 tests in 0.041s\n\nOK\n", 0],
            ["usage", 48200, 2110, 30100],
            ["say", ANSWER],
        ],
    },
    {
        "match": "Write the benchmark",
        "do": [
            ["think", "Ten rounds, so that the figures mean something."],
            ["call", "make bench ROUND=1", "1000 requests, 0 refused, p99 4.1 ms\n", 0],
            [
                "run-parallel",
                [
                    "csa run --tool opencode --name load 'Generate the load'",
                    "csa run --tool gemini-cli --name report 'Draw the report'",
                ],
            ],
        ],
    },
    {"match": "Generate the load", "do": [["call", "wrk -t4 -c64 http://localhost:8000", "", 0], ["sleep", 120]]},
    {"match": "Draw the report", "do": [["call", "gnuplot p99.gp", "", 0], ["sleep", 120]]},
    {"match": "Port the SDK", "do": [["call", "go test ./...", "FAIL limits_test.go:31\n", 1], ["fail", "quota"]]},
    {
        "match": "Explain the bucket",
        "do": [["usage", 5100, 240], ["say", "A token bucket lets short bursts pass, and bounds the rate."]],
    },
]


def main() -> int:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no Chromium: the pictures of the page stay as they are")
        return 0
    TARGET.mkdir(exist_ok=True)
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with (
        tempfile.TemporaryDirectory(prefix="csa-captures-") as base,
        serving(Path(base).resolve() / "demo") as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
        for name, width, height, scheme in SIZES:
            picture = take(browser, url, width, height, scheme)
            path = TARGET / f"page-{name}.png"
            path.write_bytes(picture)
            print(f"wrote {path.relative_to(HERE)} ({len(picture) // 1000} kB)")
        browser.close()
    return 0


def take(browser: Browser, url: str, width: int, height: int, scheme: Scheme) -> bytes:
    """Return a picture of the page with a conversation open."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page: Page = context.new_page()
    page.goto(url)
    page.locator(".row a", has_text="limits").first.click()
    page.get_by_text("Open: a test with two clients").wait_for()
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(300)  # fonts and scrolling
    picture = page.screenshot()
    context.close()
    return picture


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Set up the sessions, and serve them; yields the address."""
    project = home / "shop"
    (home / "tmp").mkdir(parents=True)
    (project / "api").mkdir(parents=True)
    script = home / "script.json"
    script.write_text(json.dumps({"rules": RULES}))
    search = [FAKES / "bin", Path(sys.executable).parent, "/usr/bin", "/bin"]
    env = {
        "HOME": str(home),
        "PATH": os.pathsep.join(map(str, search)),
        "FAKE_TOOL_SCRIPT": str(script),
        "TMPDIR": str(home / "tmp"),
        "LANG": "C.UTF-8",
    }

    def run(*words: str, cwd: Path = project, allowed: int = 0) -> None:
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, check=False, text=True)
        if done.returncode not in {0, allowed}:
            raise RuntimeError(f"{' '.join(words)} exited with {done.returncode}: {done.stderr}")

    run("git", "init", "-q", "-b", "main", ".")
    run("csa", "run", "--tool", "claude-code", "--name", "explain", "Explain the bucket")
    run("csa", "run", "--tool", "codex", "--name", "sdk", "Port the SDK to Go", allowed=8)
    run("csa", "run", "--tool", "codex", "--name", "limits", "Add rate limiting to the API")
    run("csa", "run", "--detach", "--tool", "codex", "--name", "bench", "Write the benchmark")
    time.sleep(2)
    server = subprocess.Popen(["csa", "serve", "--port", "0"], cwd=project, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.communicate(timeout=PATIENCE_S)
        run("csa", "kill", "--all", "--yes")


if __name__ == "__main__":
    sys.exit(main())
