"""Where things are, from nothing but the environment."""

from pathlib import Path

import pytest

from csa.paths import SessionPaths, home, state_root, store_dir, user_config_file


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, "/h/.local/state/csa"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/csa"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x", "CSA_STATE_DIR": "/c"}, "/c"),
        ({"HOME": "/h", "XDG_STATE_HOME": "", "CSA_STATE_DIR": ""}, "/h/.local/state/csa"),
    ],
)
def test_the_state_root(environ: dict[str, str], expected: str) -> None:
    """CSA_STATE_DIR goes before XDG_STATE_HOME, that before the home directory; empty counts as unset."""
    assert state_root(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, "/h/.config/csa/config.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/csa/config.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x", "CSA_CONFIG": "/c.toml"}, "/c.toml"),
    ],
)
def test_the_user_config(environ: dict[str, str], expected: str) -> None:
    """CSA_CONFIG names the file itself; else it is below the XDG directory or ~/.config."""
    assert user_config_file(environ) == Path(expected)


def test_a_relative_state_directory_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative CSA_STATE_DIR counts from where csa was called, and tools get it absolute."""
    monkeypatch.chdir(tmp_path)
    assert state_root({"CSA_STATE_DIR": "state"}) == str(tmp_path / "state")


def test_home_without_the_variable_is_the_accounts() -> None:
    """A missing HOME falls back on the account's home directory."""
    assert home({}).is_absolute()


def test_a_store_is_the_projects_path_below_the_root() -> None:
    """Every directory has a store of its own, the root directory too."""
    assert store_dir("/r", "/home/user/project") == "/r/home/user/project"
    assert store_dir("/r", "/") == "/r"


def test_the_files_of_a_session() -> None:
    """The names on disk are those of the format."""
    paths = SessionPaths(Path("/s"))
    named = [paths.state, paths.transcript, paths.result, paths.heartbeat, paths.cancel, paths.session_lock]
    assert [str(path.relative_to("/s")) for path in named] == [
        "state.toml",
        "transcript.jsonl",
        "result.toml",
        "heartbeat",
        "cancel",
        "locks/session.lock",
    ]
    assert paths.tool_lock("codex") == Path("/s/locks/codex.lock")
    assert paths.turn_output(3) == Path("/s/output/turn-0003")


@pytest.mark.parametrize(
    ("environ", "root", "config"),
    [
        ({"HOME": "/h", "CSA_STATE_DIR": "~/s", "CSA_CONFIG": "~/c.toml"}, "/h/s", "/h/c.toml"),
        ({"HOME": "/h", "CSA_STATE_DIR": "~"}, "/h", "/h/.config/csa/config.toml"),
        (
            {"HOME": "/h", "XDG_STATE_HOME": "s", "XDG_CONFIG_HOME": "./c"},
            "/h/.local/state/csa",
            "/h/.config/csa/config.toml",
        ),
        (
            {"HOME": "/h", "XDG_STATE_HOME": "~/s", "XDG_CONFIG_HOME": "~/c"},
            "/h/.local/state/csa",
            "/h/.config/csa/config.toml",
        ),
        ({"HOME": "/h", "CSA_STATE_DIR": "~root/s"}, "/root/s", "/h/.config/csa/config.toml"),
    ],
)
def test_paths_that_no_shell_has_expanded(environ: dict[str, str], root: str, config: str) -> None:
    """A `~` in csa's variables is the home directory; a relative XDG directory is ignored, as specified."""
    assert state_root(environ) == root
    assert str(user_config_file(environ)) == config


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, without HOME, has the root directory, and not the current one."""
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    assert str(home({})) == "/"
