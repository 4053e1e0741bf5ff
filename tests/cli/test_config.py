"""`config show` and what it prints for."""

from __future__ import annotations

import tomllib

from tests.support import Place


def test_what_is_shown_is_a_config_file(place: Place) -> None:
    """It names where each setting comes from, has defaults as comments, and is read back to the same values."""
    (place.project / ".csa").mkdir(exist_ok=True)
    (place.project / ".csa" / "config.toml").write_text("max_depth = 3\naudit_reads = true\n")
    first = place.tmp / "first.toml"
    first.write_text('fallback = ["codex"]\n[tools.goose]\ncommand = ["goose", "a\\"b"]\ntransport = "acp"\n')
    env = {"CSA_CONFIG": str(first), "CSA_CONF_TIMEOUT_S": "9"}
    done = place.run("config", "show", env=env)
    lines = {" ".join(line.split()) for line in done.out.splitlines()}
    assert lines > {
        '# tool = "auto" # default',
        "# undo_days = 7 # default",
        f"max_depth = 3 # {place.project}/.csa/config.toml",
        f"audit_reads = true # {place.project}/.csa/config.toml",
        "timeout_s = 9.0 # CSA_CONF_TIMEOUT_S",
        f'fallback = ["codex"] # {first}',
        "[tools.goose]",
        f'command = ["goose", "a\\"b"] # {first}',
    }
    values = {key: facts["value"] for key, facts in place.run("config", "show", "--json", env=env).json.items()}
    (place.project / ".csa" / "config.toml").unlink()
    second = place.tmp / "second.toml"
    second.write_text(done.out)
    again = place.run("config", "show", "--json", env={"CSA_CONFIG": str(second)}).json
    assert {key: facts["value"] for key, facts in again.items()} == values
    assert place.run("config", "validate", env={"CSA_CONFIG": str(second)}).code == 0


def test_what_a_project_asks_for_in_vain_is_named(place: Place) -> None:
    """A value of a project's file that would loosen a limit is a comment beside the one that applies."""
    (place.project / ".csa").mkdir(exist_ok=True)
    file = place.project / ".csa" / "config.toml"
    file.write_text('permission = "full"\nmax_depth = 3\nundo_days = 0\n[tools.codex]\nmax_running = 9\n')
    own = place.tmp / "own.toml"
    own.write_text("[tools.codex]\nmax_running = 2\n")
    env = {"CSA_CONFIG": str(own)}
    done = place.run("config", "show", env=env)
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    why = f"# {file}; ignored: a project's file may only tighten this"
    at = lines.index('# permission = "edit" # default')
    assert lines[at + 1] == f'# permission = "full" {why}'
    assert lines[lines.index(f"max_running = 2 # {own}") + 1] == f"# max_running = 9 {why}"
    assert f"# undo_days = 0 {why}" in lines
    assert tomllib.loads(done.out) == {"max_depth": 3, "tools": {"codex": {"max_running": 2}}}
    shown = place.run("config", "show", "--json", env=env).json
    asked = {"value": "full", "origin": str(file)}
    assert shown["permission"] == {"value": "edit", "origin": "default", "ignored": asked}
    assert shown["max_depth"] == {"value": 3, "origin": str(file), "ignored": None}
