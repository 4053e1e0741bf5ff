"""`csa retry`, and prompts that are written in an editor."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal
from tests.support import Place


@pytest.fixture
def seen(place: Place) -> Path:
    """Return where the fake writes what it read from stdin."""
    path = place.tmp / "stdin"
    place.play(["write-stdin", str(path)], ["say", "read"])
    return path


def test_the_last_prompt_again(place: Place, seen: Path) -> None:
    """`retry` sends the last prompt to the same session; without a session to the one used last; options are run's."""
    prompt = "Fix it:\n  -- 'all' of\tit\n"
    first = place.codex(prompt, "--name", "api", "--model", "m1").session_id
    place.codex("something else")
    done = place.run("retry", "api")
    assert (done.code, done.out) == (0, "read\n")
    assert "csa: the prompt of turn 1: Fix it: -- 'all' of it\n" in done.err
    assert seen.read_text() == prompt
    assert (place.state(first)["turns"], place.state(first)["tools"]["codex"]["model"]) == (2, "m1")
    done = place.run("retry", "--json", "--model", "m2", "-q")
    assert (done.json["session_id"], done.json["turn"]) == (first, 3)
    assert [line for line in done.err.splitlines() if "the prompt" in line] == []
    assert place.run("retry", "api", "--prompt", "another").code == 0
    assert seen.read_text() == "another"
    plan = place.run("retry", "-s", "api", "--dry-run", "--json").json
    assert (plan["session_id"], plan["model"]) == (first, "m2")
    assert place.run("retry", "api", "--prompt-file", "-", stdin=b"from stdin").code == 0
    assert seen.read_text() == "from stdin"
    assert place.run("retry", "nobody").code == 3


@pytest.mark.thorough
def test_a_prompt_that_looks_like_stdin(place: Place, seen: Path) -> None:
    """A `-` that was sent is sent again as it was; stdin that is not read is named with a way to read it here."""
    place.codex("x", "--name", "api")
    assert place.run("run", "--session", "api", stdin=b"-").code == 0
    done = place.run("retry", "api", stdin=b"no prompt")
    assert (done.code, seen.read_text()) == (0, "-")
    assert "warning: stdin was not read; csa retry --prompt-file - sends it instead\n" in done.err


@pytest.mark.thorough
def test_what_cannot_be_sent_again(place: Place) -> None:
    """A prompt without its secret, a running session, a deleted one, and the caller's own are refused."""
    place.codex("use ghp_0123456789abcdefghij01 to log in", "--name", "api")
    done = place.run("retry", "api")
    assert (done.code, "contained a secret" in done.err) == (2, True)
    assert done.err.endswith('\nhint: csa retry api --prompt "..."\n')
    assert place.run("retry", "api", "--prompt", "log in").code == 0
    assert place.run("retry", "api").code == 0
    own, env = place.agent()
    assert place.run("retry", own, env=env).code == 5
    assert place.run("retry", "@self", env=env).code == 5
    place.play(*place.hold())
    running = place.start("run", "--tool", "codex", "--name", "busy", "holds")
    place.wait_ready()
    assert place.run("retry", "busy").code == 4
    place.release()
    assert running.wait().code == 0
    transcript = place.session(running.session_id) / "transcript.jsonl"
    transcript.write_bytes(b"damaged\n")
    assert place.run("retry", "busy", "--dry-run").code == 0  # prompt.md has it
    assert place.run("rm", "busy").code == 0
    assert place.run("retry", "busy").code == 3


@pytest.mark.thorough
def test_a_prompt_is_written_in_an_editor(place: Place, seen: Path) -> None:
    """Without a prompt, on a terminal, `csa run` has it written; what is below the scissors is dropped."""
    editor = {"VISUAL": r"sed -i '1s/^/# Title\nmake tea/'", "EDITOR": "false"}
    with Terminal(place, "run", "--tool", "codex", env=dict(editor)) as terminal:
        assert terminal.end() == 0
    assert seen.read_text() == "# Title\nmake tea"
    assert list(Path(place.env["TMPDIR"]).glob("csa-prompt-*")) == []
    with Terminal(place, "retry", "-e", env={"EDITOR": r"sed -i 's/tea/coffee/'"}) as terminal:
        assert terminal.end() == 0
    assert seen.read_text() == "# Title\nmake coffee"


@pytest.mark.thorough
def test_a_prompt_that_does_not_get_written_or_sent(place: Place) -> None:
    """An empty prompt aborts; a text is kept, and named, when the editor or the run fails; a pipe opens no editor."""
    kept = place.tmp / "kept"
    kept.mkdir()
    writes = "sed -i 1s/^/tea/"
    for command, words, hint in (("true", (), False), ("false", (), False), (writes, ("--tool", "x"), True)):
        env: dict[str, str | None] = {"EDITOR": command, "TMPDIR": str(kept)}
        with Terminal(place, "run", *words, env=env, size=(200, 24)) as terminal:
            assert terminal.end() == 2
        assert ("kept: csa run --tool x --prompt-file /" in terminal.text) == hint, terminal.text
        assert ("Aborted: " in terminal.text) != hint
        assert [path.read_text().partition("\n")[0] for path in kept.iterdir()] == ["tea"] * hint
    assert place.ids() == []
    replaces = {'rm "$1"': "No such file or directory", 'rm "$1"; mkdir "$1"': "Is a directory"}
    for command, why in replaces.items():
        with Terminal(place, "run", env={"EDITOR": f"sh -c '{command}' -"}, size=(200, 24)) as terminal:
            assert terminal.end() == 2
        assert f"error: Aborted: the file with the prompt cannot be read ({why}).\r\n" in terminal.text
    done = place.run("run", "--tool", "codex", env={"EDITOR": writes})
    assert (done.code, "The prompt is empty" in done.err) == (2, True)
    both = place.run("run", "--prompt-file", "-", "--stdin", stdin=b"x")
    assert both.code == 2


@pytest.mark.thorough
def test_the_way_back_to_a_written_prompt(place: Place, seen: Path) -> None:
    """It is the command as it was typed, with the file; retry's names the session. A dry run keeps the prompt too."""
    session_id = place.codex("tea", "--name", "api").session_id
    env: dict[str, str | None] = {"EDITOR": "sed -i '1s/.*/more/;2,$d'"}
    ways = {
        ("retry", "-e", "--dry-run"): f"retry --session {session_id}",
        ("retry", "-qe", "api", "--dry-run"): "retry -q api",
        ("run", "-c", "--system", "be kind", "--dry-run", "--"): "run -c --system 'be kind'",
    }
    for words, way in ways.items():
        with Terminal(place, *words, env=dict(env), size=(300, 24)) as terminal:
            assert terminal.end() == 0
        (kept,) = re.findall(r"csa: your prompt is kept: csa (.*)\r", terminal.text)
        assert kept.startswith(f"{way} --prompt-file /")
        assert place.run(*shlex.split(kept)).code == 0
        assert seen.read_text().strip().endswith("more")
