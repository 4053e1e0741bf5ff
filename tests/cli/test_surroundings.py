"""Odd surroundings: bytes that are no text, streams that are closed or full, directories that are odd or gone."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support import CSA, Place, snapshot

LATIN_1 = os.fsdecode(b"caf\xe9-cr\xe8me")


@pytest.mark.parametrize(
    "words",
    [
        [LATIN_1],
        ["--description", LATIN_1, "x"],
        ["--system", LATIN_1, "x"],
        ["--model", LATIN_1, "x"],
        ["--effort", LATIN_1, "x"],
        ["--session", LATIN_1, "x"],
    ],
    ids=["prompt", "description", "system", "model", "effort", "session"],
)
def test_words_that_are_not_utf8(place: Place, words: list[str]) -> None:
    """Words that cannot be recorded are refused in a sentence; nothing is created and no tool started."""
    place.play(["touch", str(place.ready)])
    done = place.run("run", "--tool", "codex", *words)
    assert done.code in {2, 3}, done.err
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert place.ids() == []
    assert not place.ready.exists()


def test_environment_that_is_not_utf8(place: Place) -> None:
    """Variables with odd bytes, secret or not, are handed on to the tool and disturb nothing."""
    env: dict[str, str | None] = {"USER": LATIN_1, "ODD_TOKEN": LATIN_1, "ODD": LATIN_1}
    place.play(["expect-env", "ODD", LATIN_1], ["expect-env", "ODD_TOKEN", LATIN_1], ["say", "done"])
    done = place.run("run", "--tool", "codex", "hello", env=env)
    assert (done.code, done.out) == (0, "done\n"), done.err
    assert place.run("session", "list", env=env).code == 0


def test_directory_that_is_not_utf8(place: Place) -> None:
    """A project whose path is no text either works or is refused in a sentence, without remains."""
    odd = place.tmp / LATIN_1
    (odd / ".csa").mkdir(parents=True)
    done = place.run("run", "--tool", "codex", "hello", cwd=odd)
    assert "Traceback" not in done.err
    assert done.code == 0 or done.err.startswith("error: ")
    assert len(place.ids(odd)) == (1 if done.code == 0 else 0)


@pytest.mark.thorough
def test_directory_with_an_odd_name(place: Place) -> None:
    """Blanks, quotes, dollars and line breaks in the project's path are no obstacle, for nested runs neither."""
    odd = place.tmp / "a b \"c' $x\ny\t漢"
    (odd / ".csa").mkdir(parents=True)
    place.script({"match": "outer", "do": [["run", "csa run -q --tool claude-code inner"], ["say", "up"]]})
    for tool in ("codex", "claude-code"):
        done = place.run("run", "--tool", tool, "outer", cwd=odd)
        assert (done.code, done.out) == (0, "up\n"), done.err
    depths = [item["depth"] for item in place.run("session", "list", "--json", cwd=odd).json]
    assert sorted(depths) == [0, 0, 1, 1]


@pytest.mark.thorough
def test_state_root_behind_a_symlink(place: Place) -> None:
    """A state root that is reached through a symlink works, for nested runs too."""
    real = place.tmp / "real"
    real.mkdir()
    (place.tmp / "link").symlink_to(real)
    place.script({"match": "outer", "do": [["run", "csa run -q --tool codex inner"], ["say", "up"]]})
    place.env["CSA_STATE_DIR"] = str(place.tmp / "link")
    assert place.codex("outer").out == "up\n"
    assert sorted(item["depth"] for item in place.run("session", "list", "--json").json) == [0, 1]


@pytest.mark.thorough
def test_deleted_directory(place: Place) -> None:
    """A start directory that is gone is said in a sentence, by every command."""
    gone = place.tmp / "gone"
    for words in ("run --tool codex hello", "session list", "config show"):
        gone.mkdir()
        done = place.shell(["bash", "-c", f"cd {gone} && rmdir {gone} && exec {CSA} {words}"])
        assert done.code in {2, 3}, (words, done.err)
        assert done.err.startswith("error: ")
        assert "Traceback" not in done.err


@pytest.mark.parametrize("closed", ["<&-", "2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(place: Place, closed: str) -> None:
    """A run whose standard streams are closed ends in order; only a missing stdout may make its exit code another."""
    done = place.shell(["bash", "-c", f"exec {CSA} run --tool codex hello {closed}"])
    assert "Traceback" not in done.err
    if " >&-" not in f" {closed}":
        assert (done.code, done.out) == (0, "FAKE ECHO: hello [turns=1]\n")
    (session_id,) = place.ids()
    assert place.last_event(session_id)["status"] == "succeeded"


@pytest.mark.thorough
def test_stdout_that_is_full(place: Place) -> None:
    """An answer that cannot be written is a failure of csa's own, said in a sentence; the record is complete."""
    for words in ("run --tool codex hello", "run --tool codex --json hello", "run --tool codex --stream-json hello"):
        done = place.shell(["bash", "-c", f"exec {CSA} {words} > /dev/full"])
        assert done.code == 1, (words, done.err)
        assert "error: " in done.err
        assert "Traceback" not in done.err
    assert {item["status"] for item in place.run("session", "list", "--json").json} == {"succeeded"}
    for words in ("session list", "--version", "--help"):
        done = place.shell(["bash", "-c", f"exec {CSA} {words} > /dev/full"])
        assert done.code == 1, (words, done.err)
        assert "Traceback" not in done.err
    assert "error: the output cannot be written: No space left on device." in done.err


def test_what_the_system_refuses_otherwise(place: Place) -> None:
    """A failure to read is not blamed on the output, and with --json it is the error object."""
    done = place.run("session", "import", str(place.tmp))
    assert (done.code, done.out, done.err) == (1, "", f"error: {place.tmp}: Is a directory.\n")
    done = place.run("session", "import", str(place.tmp), "--json")
    assert (done.code, done.err) == (1, "")
    assert done.json["error"]["message"] == f"{place.tmp}: Is a directory."
    full = place.shell(["bash", "-c", f"exec {CSA} session list --json > /dev/full"])
    assert (full.code, full.err) == (1, "error: the output cannot be written: No space left on device.\n")


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["HUP", "INT"])
def test_ignored_signals_stay_ignored(place: Place, name: str) -> None:
    """Under nohup a hangup ends nothing, and neither does Ctrl-C for what a script runs in its background."""
    place.play(*place.hold(), ["sleep", 0.3], ["say", "done"])
    command = f"trap '' {name}; exec {CSA} run --tool codex hello > {place.tmp}/answer"
    with place.popen(["bash", "-c", command]) as process:
        place.wait_ready()
        process.send_signal(signal.Signals[f"SIG{name}"])
        place.release()
    assert process.returncode == 0
    assert (place.tmp / "answer").read_text() == "done\n"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["session", "compress", "a"], "session.lock"),
        (["session", "checkpoint", "a"], "The checkpoint cannot be written to "),
        (["session", "rename", "a", "b"], "store.lock"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_store_that_cannot_be_written(place: Place, words: list[str], what: str, *, has_checkpoint: bool) -> None:
    """Acting commands say so in a sentence, and nothing has changed."""
    place.codex("one", "--name", "a")
    if has_checkpoint:
        assert place.run("session", "checkpoint", "a").code == 0
    place.shell(["chmod", "-R", "a-w", str(place.state_root)])
    before = snapshot(place.state_root)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    try:
        done = place.shell([*powerless, CSA, *words])
        assert snapshot(place.state_root) == before
    finally:
        place.shell(["chmod", "-R", "u+w", str(place.state_root)])
    assert (done.code in {1, 6}, done.out) == (True, "")
    error = done.err.splitlines()[0]
    assert error.startswith("error: ")
    assert what in error
    assert "Permission denied" in error
    assert "Traceback" not in done.err
