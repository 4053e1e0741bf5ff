"""How the program of a tool is found."""

import os
import shutil
from pathlib import Path

import pytest

from csa.model.config import Layer, combine_layers
from csa.runner.toolbox import find_command, load_adapter


@pytest.mark.parametrize(
    "search", ["", ":", "one", "one:two", "two:one", "gone:two", "two:two", "/usr/bin", "file:two"]
)
@pytest.mark.parametrize("name", ["codex", "./codex", "one/codex", "plain", "folder", "sh", "no\0name"])
def test_a_program_is_found_as_by_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str, name: str
) -> None:
    """The first executable on the PATH, or the one that a path names."""
    monkeypatch.chdir(tmp_path)
    for place in ("one", "two"):
        (tmp_path / place / "folder").mkdir(parents=True)
        (tmp_path / place / "plain").touch()
    for path in ("one/folder/codex", "two/codex", "codex"):
        (tmp_path / path).touch(0o755)
    (tmp_path / "one" / "codex").touch(0o644)
    (tmp_path / "file").touch()
    expected = shutil.which(name, path=search)
    config = combine_layers([Layer("user.toml", {"tools": {"codex": {"command": [name, "--x"]}}})])
    found = find_command(load_adapter("codex"), config, {"PATH": search})
    assert found == (None if expected is None else (os.path.abspath(expected), "--x"))
