"""`--secret`: the tool gets the variable, and its value is nowhere in what csa keeps and shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from csa.model.redaction import NAMES_VARIABLE
from tests.cli.test_lost_conversations import of_type
from tests.support import Place, wait_for

VALUE = "correct horse battery"  # neither its name nor its shape says that it is one


def files_with(root: Path, value: str = VALUE) -> list[str]:
    return [str(path) for path in root.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]


def leak(place: Place, *steps: list[object], first: Sequence[list[object]] = ()) -> None:
    """Have the agent print the variable in every way, as does another; `first` is for a prompt of that name."""
    say = ["say", f"it is {VALUE}"]
    place.script(
        {"match": "first", "do": [*first]},
        {"match": "outer", "do": [["write-env", str(place.tmp / "env")], *steps, ["stderr", f"e {VALUE}"], say]},
        {"match": "inner", "do": [["run", "echo inner $DEPLOY"], ["stderr", f"e {VALUE}"], say]},
    )


def test_a_secret_is_hidden_everywhere(place: Place) -> None:
    """From a file or a variable; in answers, logs, errors, arguments, and in what a nested csa writes and prints."""
    (place.project / "key").write_text(f"{VALUE}\n")
    leak(
        place, ["run", "echo outer $DEPLOY; csa run --tool codex inner 2>&1; csa run --tool codex --session $DEPLOY x"]
    )
    done = place.run("run", "--tool", "codex", "--secret", "DEPLOY=file:key", f"outer {VALUE}")
    assert (done.code, VALUE in done.out + done.err, "[REDACTED]" in done.out) == (0, False, True)
    seen = json.loads((place.tmp / "env").read_text())
    assert (seen["DEPLOY"], seen[NAMES_VARIABLE]) == (VALUE, "DEPLOY")
    assert files_with(place.state_root) == []
    assert len(place.ids()) == 2
    started = of_type(place, done.session_id, "run_started")[0]
    assert started["secrets"] == [{"name": "DEPLOY", "source": f"file:{place.project}/key"}]
    again = place.run("retry", done.session_id)
    assert (again.code, f"--secret DEPLOY=file:{place.project}/key" in again.err) == (2, True)


@pytest.mark.thorough
def test_a_detached_turn_reads_it_again(place: Place) -> None:
    """The supervisor has it from its source: in no file, and on no command line."""
    leak(place, *place.hold(), ["run", "echo outer $DEPLOY"])
    words = ("--secret", "DEPLOY=env:SOURCE", "--on-finish", 'echo "finished $SOURCE"', "outer")
    done = place.run("run", "--tool", "codex", "--detach", *words, env={"SOURCE": VALUE})
    place.wait_ready()
    session_id = done.out.strip()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(VALUE.encode() in line for line in lines)
    place.release()
    assert place.run("wait", session_id).code == 0
    log = place.session(session_id) / "output/turn-0001/supervisor.log"
    wait_for(lambda: "finished [REDACTED]" in log.read_text(), "the command has run")
    assert json.loads((place.tmp / "env").read_text())["DEPLOY"] == VALUE
    assert files_with(place.state_root) == []


@pytest.mark.thorough
@pytest.mark.parametrize("is_there", [True, False])
def test_a_queued_prompt_reads_it_when_its_turn_comes(place: Place, is_there: bool) -> None:  # noqa: FBT001  # a case
    """It is hidden from then on; without its source the turn does not begin, and the reason names it."""
    leak(place, ["run", "echo outer $DEPLOY"], first=[*place.hold(), ["say", "ok"]])
    source = {"SOURCE": VALUE}
    session_id = place.run("run", "--tool", "codex", "--detach", "first", env=source if is_there else None).out.strip()
    place.wait_ready()
    words = ("run", "--queue", "--session", session_id, "--secret", "DEPLOY=env:SOURCE", "outer")
    assert place.run(*words, env=source).code == 0
    place.release()
    place.run("wait", session_id)
    if is_there:
        wait_for(lambda: place.state(session_id)["turns"] == 2, "the second turn")
        assert place.run("wait", session_id).code == 0
        assert json.loads((place.tmp / "env").read_text())["DEPLOY"] == VALUE
    else:
        wait_for(lambda: "The secret DEPLOY" in place.run("session", "queue", session_id).err, "it is held")
        assert place.run("session", "queue", session_id, "--resume", env=source).code == 0
        wait_for(lambda: place.state(session_id)["turns"] == 2, "the second turn")
        assert place.run("wait", session_id).code == 0
    assert files_with(place.state_root) == []


@pytest.mark.thorough
def test_an_agents_queued_prompt_has_none(place: Place) -> None:
    """Another process would begin it, whose variables the agent may not have."""
    _, inside = place.agent()
    other = place.codex("another").session_id
    words = ("run", "--queue", "--session", other, "--secret", "DEPLOY=env:SOURCE", "x")
    assert place.run(*words, env={**inside, "SOURCE": VALUE}).code == 5


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("DEPLOY", "env:DEPLOY is not set"),
        ("DEPLOY=file:none", "cannot be read"),
        ("DEPLOY=file:/dev/null", "cannot be read"),
        ("DEPLOY=file:empty", "is empty"),
        ("DEPLOY=env:ONE", "too short"),
        ("DEPLOY=env:WORD", "too common"),
        ("DEPLOY=env:TOOL", "csa has to record"),
        (f"DEPLOY={VALUE}", "needs a source"),
        ("DEPLOY=env:", "needs a source"),
        ("CSA_SESSION_ID=env:DEPLOY", "cannot be a secret"),
        ("LD_PRELOAD=env:DEPLOY", "cannot be a secret"),
        ("path=env:DEPLOY", "cannot be a secret"),
        ("a-b=env:DEPLOY", "--secret takes"),
    ],
)
def test_what_cannot_be_a_secret(place: Place, word: str, text: str) -> None:
    """Names that others need, and values that are none or could not be hidden; nothing begins."""
    (place.project / "empty").write_text("\n")
    done = place.run(
        "run", "--tool", "codex", "--secret", word, "x", env={"ONE": "abc", "WORD": "True", "TOOL": "codex"}
    )
    assert (done.code, text in done.err, VALUE in done.err) == (2, True, False), done.err
    assert place.ids() == []


@pytest.mark.thorough
def test_variables_that_a_tool_does_not_get(place: Place) -> None:
    """`env_drop` takes patterns; csa's own, what `env` sets and a secret stay; a project's file cannot have it."""
    config = Path(place.env["XDG_CONFIG_HOME"]) / "csa/config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[tools.codex]\nenv_drop = ["AWS_*", "C*", "P*", "SET"]\nenv = { SET = "1" }\n')
    environ: dict[str, str | None] = {"AWS_A": "a", "CLOUD": "c", "SET": "0", "AWS_KEEP": VALUE}
    place.play(["write-env", str(place.tmp / "env")], ["run", "csa run --tool claude-code inner"])
    done = place.run("run", "--tool", "codex", "--secret", "AWS_KEEP", "outer", env=environ)
    assert done.code == 0, done.err
    seen = json.loads((place.tmp / "env").read_text())
    assert [seen.get(name) for name in ("AWS_A", "CLOUD", "SET", "AWS_KEEP")] == [None, None, "1", VALUE]
    assert seen["PATH"] == place.env["PATH"]
    assert "CSA_SESSION_ID" in seen
    plan = place.run("run", "--tool", "codex", "--dry-run", "--json", "x", env=environ).json
    assert {"AWS_A", "AWS_KEEP", "CLOUD"} <= {*plan["env_drop"]}
    assert "env_drop" in place.run("config", "show").out
    assert "does not get" in place.run("doctor", env=environ).out
    (place.project / ".csa").mkdir()
    (place.project / ".csa/config.toml").write_text('[tools.codex]\nenv_drop = ["HTTPS_PROXY"]\n')
    assert place.run("run", "--tool", "codex", "x").code == 6


@pytest.mark.thorough
def test_a_queued_prompt_is_shown_without_its_secret(place: Place) -> None:
    """To whoever lists the queue, whose csa does not know the value; the tool gets the prompt as it was typed."""
    place.env["SOURCE"] = VALUE
    place.script(
        {"match": "first", "do": [*place.hold(), ["say", "held"]]},
        {"match": f"use {VALUE}", "do": [["say", "done"]]},
    )
    session_id = place.run("run", "--tool", "codex", "--detach", "first").out.strip()
    place.wait_ready()
    done = place.run("run", "--queue", "-s", session_id, "--secret", "DEPLOY=env:SOURCE", f"use {VALUE}")
    assert done.code == 0, done.err
    for words in ([], ["--json"], ["--show", "1"]):
        shown = place.run("queue", session_id, *words, env={"SOURCE": None}).out
        assert ("use [REDACTED]" in shown, VALUE in shown) == (True, False)
    place.release()
    assert place.run("wait", session_id).code == 0
    wait_for(lambda: len(of_type(place, session_id, "run_finished")) == 2, "the queued turn has ended")
    assert place.run("result", session_id).out == "done\n"
    assert files_with(place.state_root) == []
