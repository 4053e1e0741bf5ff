"""`start_placed`: a turn on another host that ends with the process that has started it."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.cli.worktrees import make_repository, sh
from tests.support import Place

_BEGIN = """
import json, sys
from csa.errors import CsaError
from csa.runner.attached import start_placed
from csa.runner.client import Csa
from csa.runner.request import RunRequest
said = []
try:
    request = RunRequest(**json.loads(sys.argv[1]))
    turn = start_placed(Csa.from_environment().context, request, host="n1", tell=said.append)
except CsaError as error:
    sys.exit(f"{error.code}: {error.message}")
print(json.dumps([turn.session_id, turn.host, turn.tool, turn.turn]), flush=True)
if sys.argv[2] == "leave":
    sys.stdin.read()
    sys.exit()
if sys.argv[2] == "end":
    turn.end()
print(json.dumps([turn.wait(60), getattr(turn.failure(), "message", None)]))
"""


def begin(place: Place, then: str, **request: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _BEGIN, json.dumps(request), then]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=place.project, env=place.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_placed_turn_is_seen_to_its_end(place: Place, remote: Place) -> None:
    """It says when it has begun, is here at its end with its exit code, and what the host refuses is said."""
    make_repository(place)
    place.play(["run", "echo done > new"], ["say", "done"])
    out, err = begin(place, "wait", prompt="fix it", tool="codex").communicate(timeout=60)
    assert out, err
    (session_id, *begun), end = map(json.loads, out.splitlines())
    assert (begun, end, err) == (["n1", "codex", 1], [0, None], "")
    assert place.run("is-alive", f"n1:{session_id}").code == 1
    assert place.run("hosts", "--placed", "--json").json == []
    assert sh(place, f"git show refs/csa/{session_id}/1:new") == "done"
    _, err = begin(place, "wait", prompt="x", tool="nothing").communicate(timeout=60)
    assert "nothing" in err
