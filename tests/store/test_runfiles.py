"""The files a tool is given for one turn, and those of its configuration that its adapter sees."""

import os
import stat
from pathlib import Path

import pytest

from csa.paths import SessionPaths
from csa.runner.namedfiles import read_named_files
from csa.runner.turns.runfiles import is_roots_alone, remove_run_files, run_directory, write_run_files

SECRET = "key=1"


def paths_of(directory: Path) -> SessionPaths:
    return SessionPaths(directory)


def test_files_are_private_and_go(tmp_path: Path) -> None:
    """They may hold secrets: 0600 in 0700, anew for every turn, and nothing is left."""
    paths = paths_of(tmp_path)
    write_run_files(paths, {"old": "x"})
    write_run_files(paths, {"a.json": SECRET, "home/.tool/b.json": "ü"})
    directory = run_directory(paths)
    modes = {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
    assert modes == {"a.json": 0o600, "home": 0o700, "home/.tool": 0o700, "home/.tool/b.json": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    remove_run_files(paths)
    remove_run_files(paths)
    assert list(tmp_path.iterdir()) == []


def test_links_stand_for_other_places(tmp_path: Path) -> None:
    """All of a directory but what is given, one that is made, one that is missing; their targets outlive them."""
    original = tmp_path / "original"
    (original / "kept").mkdir(parents=True)
    for name in ("settings", "login", "kept/deep"):
        (original / name).write_text("theirs")
    paths = paths_of(tmp_path / "session")
    paths.root.mkdir()
    links = {"home/*": str(original), "home/tmp": f"{original}/tmp/", "home/new": f"{original}/new", "x/*": "/nowhere"}
    write_run_files(paths, {"home/settings": "ours"}, links)
    home = run_directory(paths) / "home"
    assert {path.name: path.is_symlink() for path in home.iterdir()} == {
        "settings": False,
        "login": True,
        "kept": True,
        "tmp": True,
        "new": True,
    }
    (home / "tmp" / "a").write_text("stays")
    (home / "new").write_text("stays")
    remove_run_files(paths)
    assert (original / "settings").read_text() == "theirs"
    assert (original / "kept" / "deep").read_text() == "theirs"
    assert ((original / "tmp" / "a").read_text(), (original / "new").read_text()) == ("stays", "stays")


def test_a_link_in_their_place(tmp_path: Path) -> None:
    """It gives way itself, and what it leads to stays."""
    paths = paths_of(tmp_path / "session")
    paths.root.mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a").touch()
    run_directory(paths).symlink_to(tmp_path / "theirs")
    write_run_files(paths, {"b": "ours"})
    assert not run_directory(paths).is_symlink()
    run_directory(paths).rename(tmp_path / "old")
    run_directory(paths).symlink_to("/nowhere")
    remove_run_files(paths)
    assert list(paths.root.iterdir()) == []
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["a"]


def test_no_files_make_no_directory(tmp_path: Path) -> None:
    """Most tools need none."""
    write_run_files(paths_of(tmp_path), {})
    assert list(tmp_path.iterdir()) == []


def test_named_files(tmp_path: Path) -> None:
    """`~`, a variable and the turn's directory are filled in; what is missing, huge or no file is left out."""
    home, project = tmp_path / "home", tmp_path / "project"
    for place in (home, project):
        place.mkdir()
        (place / "f").write_text(place.name)
    (home / "huge").write_bytes(b"x" * (2 << 20))
    environ = {"HOME": str(home), "SOME_HOME": str(project), "EMPTY": ""}
    names = ("~/f", "./f", "$SOME_HOME/f", "$EMPTY/f", "$NONE", "~/missing", "~/huge", "./", str(project / "f"))
    found = read_named_files(names, environ, str(project))
    assert found == {"~/f": "home", "./f": "project", "$SOME_HOME/f": "project", str(project / "f"): "project"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have such a directory")
def test_what_is_roots_alone(tmp_path: Path) -> None:
    """A directory that others may change, anywhere above, is not; /tmp is one."""
    assert is_roots_alone(Path("/etc/no-such-directory"))
    assert not is_roots_alone(Path("/tmp/x"))
