"""`csa template`, and runs with a template: yours, a project's, an agent's."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from csa.model.template import KEYS
from csa.paths import user_config_directory
from tests.cli.test_lost_conversations import of_type
from tests.support import Place


def yours(place: Place) -> Path:
    return user_config_directory(place.env) / "templates"


def write(place: Place, name: str, text: str, *, project: bool = False) -> None:
    """Write a template by hand."""
    directory = place.project / ".csa" / "templates" if project else yours(place)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.toml").write_text(text)


def test_a_specialist_is_saved_from_a_session(place: Place) -> None:
    """Its tool, model, effort, permission, window and system text come along; a run with it has them, and says so."""
    words = ("--model", "opus", "--effort", "high", "--permission", "read-only", "--context-window", "3")
    place.run("run", "--tool", "claude-code", "--name", "first", *words, "--system", "Be {{strict}}.\nReally.", "hello")
    saved = place.run(
        *("template", "save", "reviewer", "-s", "first", "--prompt", "Review {{file}}.", "--opening", "You know me."),
        *("--description", "review of {{file}}", "--json"),
    ).json
    assert (saved["whose"], saved["variables"], saved["model"]) == ("user", ["file"], "opus")
    assert tomllib.loads((yours(place) / "reviewer.toml").read_text())["system"] == "Be {{{{strict}}}}.\nReally."
    done = place.run("run", "--as", "reviewer", "--var", "file=a.py", "and be quick")
    started = of_type(place, done.session_id, "run_started")[0]
    assert started["prompt"] == "You know me.\n\nReview a.py.\n\nand be quick"
    assert [started[key] for key in ("tool", "model", "effort", "permission", "template", "system")] == [
        *("claude-code", "opus", "high", "read-only", "reviewer", "Be {{strict}}.\nReally."),
    ]
    assert started["origins"]["template"] == str(yours(place) / "reviewer.toml")
    assert place.state(done.session_id)["description"] == "review of a.py"


@pytest.mark.thorough
def test_a_session_goes_on_with_a_template(place: Place) -> None:
    """It is named where the last turn is; a description and an opening are for a first turn."""
    write(
        place, "reviewer", 'tool = "codex"\ndescription = "of {{file}}"\nopening = "Hi."\nprompt = "Review {{file}}."'
    )
    done = place.run("run", "--as", "reviewer", "--var", "file=a.py")
    assert of_type(place, done.session_id, "run_started")[0]["prompt"] == "Hi.\n\nReview a.py."
    assert "template    reviewer" in place.run("status", done.session_id).out
    assert place.run("status", done.session_id, "--json").json["last_turn"]["template"] == "reviewer"
    more = place.run("run", "--session", done.session_id, "--template", "reviewer", "--var", "file=b.py")
    assert more.code == 0  # its prompt is whole
    assert of_type(place, done.session_id, "run_started")[1]["prompt"] == "Review b.py."
    assert place.state(done.session_id)["description"] == "of a.py"


@pytest.mark.thorough
def test_options_come_before_the_template(place: Place) -> None:
    """A model is for the template's tool: it goes when an option names another."""
    write(place, "t", 'tool = "claude-code"\nmodel = "opus"\npermission = "read-only"\nsystem = "a"')
    plan = place.run("run", "--template", "t", "--permission", "edit", "--dry-run", "--json", "x").json
    assert [plan[key] for key in ("tool", "model", "permission", "template")] == ["claude-code", "opus", "edit", "t"]
    words = ("--tool", "codex", "--schema", '{"type": "object"}', "--force")
    assert place.run("template", "save", "s", *words).code == 0
    place.play(["say", '{"a": 1}'])
    assert place.run("run", "--as", "s", "--json", "x").json["output"] == {"a": 1}
    plan = place.run("run", "--template", "t", "--tool", "codex", "--dry-run", "--json", "x").json
    assert [plan[key] for key in ("tool", "model", "permission")] == ["codex", None, "read-only"]
    assert plan["origins"]["permission"] == "template t"


@pytest.mark.thorough
def test_a_projects_template_cannot_raise_the_permission(place: Place) -> None:
    """It comes with a repository: it can lower what the user and the session allow, and hides no template of theirs."""
    write(place, "go", 'tool = "codex"\npermission = "full"\nprompt = "Go"', project=True)
    plan = place.run("run", "--template", "go", "--dry-run", "--json")
    assert plan.json["permission"] == "edit"
    assert "is ignored" in plan.json["origins"]["permission"]
    assert plan.err.startswith("csa: template go is the project's: ")
    done = place.run("run", "--as", "go", "--permission", "read-only", "--detach")
    session_id = done.out.strip()
    assert place.run("wait", session_id).code == 0
    assert of_type(place, session_id, "run_started")[0]["template"] == "go"
    plan = place.run("run", "--session", session_id, "--as", "go", "--dry-run", "--json").json
    assert plan["permission"] == "read-only"
    write(place, "go", 'prompt = "Mine"')
    assert place.run("template", "show", "go", "--json").json["prompt"] == "Mine"
    assert [each["hidden"] for each in place.run("template", "list", "--json").json] == [False, True]
    assert place.run("template", "delete", "go", "--json").json["template"] == "go"
    refused = place.run("template", "delete", "go")
    assert (refused.code, "--project" in refused.err) == (3, True)
    assert place.run("template", "delete", "go", "--project").code == 0


@pytest.mark.thorough
def test_an_agent_uses_specialists_within_its_ceiling(place: Place) -> None:
    """It cannot get more with a template than without, and cannot change the user's."""
    write(place, "fixer", 'tool = "codex"\npermission = "edit"')
    _, inside = place.agent("--permission", "read-only")
    refused = place.run("run", "--as", "fixer", "x", env=inside)
    assert (refused.code, "read-only" in refused.err) == (5, True)
    assert place.run("run", "--as", "fixer", "--permission", "read-only", "x", env=inside).code == 0
    for words in (("save", "fixer", "--force", "--permission", "full"), ("delete", "fixer")):
        assert place.run("template", *words, env=inside).code == 5
    save = ("template", "save", "mine", "--permission", "full", "--project")
    refused = place.run(*save, env=inside)
    assert (refused.code, "may only read it" in refused.err) == (5, True)
    _, inside = place.agent("--permission", "edit")
    assert place.run(*save, env=inside).code == 0
    templates = place.project / ".csa" / "templates"
    shutil.rmtree(templates)
    templates.symlink_to(yours(place))
    assert place.run(*save, env=inside).code == 5


@pytest.mark.thorough
def test_mistakes_with_templates(place: Place) -> None:
    """Each names what is wrong, and nothing is run."""
    write(place, "style", 'system = "Short."')
    write(place, "bad", "tool = [1]")
    write(place, "worse", "tool = ", project=True)
    for words, code, text in (
        (("--template", "styel", "x"), 3, "did you mean 'style'?"),
        (("--as", "style", "x"), 2, "names no tool"),
        (("--as", "style", "--template", "style", "x"), 2, "not allowed with"),
        (("--template", "bad", "x"), 6, "'tool' must be a string"),
        (("--template", "worse", "x"), 6, "is not TOML"),
        (("--template", "../x", "x"), 2, "Invalid template name"),
        (("--template", "", "x"), 2, "Invalid template name ''"),  # a variable of the shell that is not set
        (("--as", "", "x"), 2, "Invalid template name ''"),
        (("--var", "a=b", "x"), 2, "--var is for"),
        (("--template", "style", "--var", "a", "x"), 2, "NAME=VALUE"),
    ):
        done = place.run("run", *words)
        assert (done.code, text in done.err) == (code, True), (words, done)
    assert place.ids() == []
    assert place.run("template", "save", "style", "--tool", "codex").code == 2
    assert place.run("template", "save", "style", "--tool", "codex", "--force").code == 0
    assert place.run("template", "save", "x").code == 2
    assert place.run("template", "save", "x", "--model", "m").code == 2
    shown = place.run("template", "list")
    assert (shown.code, "is not TOML" in shown.out, "bad" in shown.out) == (0, True, True)
    assert place.run("__complete", "templates", "st").out == "style\n"


@pytest.mark.thorough
def test_the_prompt_of_a_template_may_need_none(place: Place) -> None:
    """A whole prompt reads no stdin; another one takes the prompt from a pipe, as always."""
    write(place, "whole", 'tool = "codex"\nprompt = "Say hi."')
    write(place, "part", 'tool = "codex"\nprompt = "Say {{prompt}}"')
    whole = place.run("run", "--as", "whole", stdin=b"not this")
    assert of_type(place, whole.session_id, "run_started")[0]["prompt"] == "Say hi."
    part = place.run("run", "--as", "part", stdin=b"this")
    assert of_type(place, part.session_id, "run_started")[0]["prompt"] == "Say this"


def test_the_page_on_templates_has_every_key() -> None:
    """docs/templates.md lists what a template may say."""
    page = (Path(__file__).parents[2] / "docs" / "templates.md").read_text()
    assert [key for key in KEYS if f"| `{key}` |" not in page] == []
