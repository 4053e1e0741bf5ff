"""The lines of curl in docs/http-api.md, run as they stand, in their order."""

import re
import shutil
from pathlib import Path

import pytest

from tests.serving import serving
from tests.support import Place

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_http_api_run(place: Place) -> None:
    """Each succeeds; only the project's place is another one."""
    hello = [["run", 'echo hello > "$CSA_OUTPUT_DIR/notes.md"'], ["say", "hello"]]
    place.script({"match": "/compact", "do": [["compact"]]}, {"match": "", "do": hello})
    first, *blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    with serving(place) as server:
        for number, block in enumerate(blocks):
            script = f"set -eu\nURL={server.url} TOKEN={server.token}\n{first}\n{block}"
            done = place.shell(["bash", "-c", script.replace("/path/of/project", str(place.project))])
            assert done.code == 0, (number, block, done)
            assert '"status": "failed"' not in done.out, (number, block, done)
            for name in re.findall(r'"session_id": "(01\w+)", "turn"|"started": {"session_id": "(01\w+)"', done.out):
                place.run("wait", *filter(None, name))
        for session_id in place.published():
            place.run("wait", session_id)
