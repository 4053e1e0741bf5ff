"""Adapters and transports are found as importlib.metadata finds them."""

import importlib.metadata
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csa.runner import entrypoints

GROUP = "csa.adapters"
OWN = "[console_scripts]\ncsa = csa.cli.main:main\n\n[csa.adapters]\ncodex = ours:Codex\nopencode=ours : Open\n"
Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return what makes a package `place/name` with these entry points, on an otherwise empty path."""
    monkeypatch.setattr(sys, "path", [])
    entrypoints.entry_points.cache_clear()

    def make(where: str, text: str) -> None:
        info = tmp_path / f"{where}.dist-info"
        info.mkdir(parents=True)
        name = info.stem.partition("-")[0]
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        if text:
            (info / "entry_points.txt").write_text(text)
        if str(info.parent) not in sys.path:
            sys.path.append(str(info.parent))

    yield make
    entrypoints.entry_points.cache_clear()


def check(*, quickly: bool) -> dict[str, str]:
    """Compare with importlib.metadata, and say how it was found."""
    found = {name: point.value for name, point in entrypoints.entry_points(GROUP).items()}
    assert found == {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}
    kinds = {type(point) for point in entrypoints.entry_points(GROUP).values()}
    assert kinds <= {entrypoints.EntryPoint if quickly else importlib.metadata.EntryPoint}
    return found


def test_one_package_alone(install: Install) -> None:
    """Where only one package has any, its list is read; comments and other groups do not count."""
    install("a/csa-1", OWN.replace(" : ", ":") + "# codex = other:Codex\n\n[csa.transports]\nacp = ours:Acp\n")
    install("a/other-1", "[console_scripts]\nother = other:main\n")
    install("b/none-1", "")
    assert check(quickly=True) == {"codex": "ours:Codex", "opencode": "ours:Open"}
    assert {name: point.value for name, point in entrypoints.entry_points("csa.transports").items()} == {
        "acp": "ours:Acp"
    }


def test_no_package(install: Install) -> None:
    """Nothing is found where nobody has any."""
    install("a/other-1", "")
    assert check(quickly=True) == {}


@pytest.mark.parametrize("third", ["a/parrot-1", "b/parrot-1"])
def test_others_and_overrides(install: Install, third: str) -> None:
    """With a third party's, also one of a bundled name, importlib.metadata decides."""
    install("a/csa-1", OWN)
    install(third, "[csa.adapters]\nparrot = parrot:Parrot\ncodex = parrot:Codex\n")
    assert check(quickly=False)["parrot"] == "parrot:Parrot"


@pytest.mark.parametrize("first", [OWN.replace("ours", "older"), "", "[csa.transports]\nacp = older:Acp\n"])
def test_a_package_that_hides_another(install: Install, first: str) -> None:
    """Of two packages of one name the first on the path counts, whatever it has."""
    install("a/Csa-0", first)
    install("b/csa-1", OWN)
    check(quickly=False)


def test_forms_that_are_not_plain(install: Install) -> None:
    """What is not simply `module:attribute` is left to importlib.metadata."""
    install("a/csa-1", OWN)
    assert check(quickly=False)["opencode"] == "ours : Open"


def test_archives(install: Install, tmp_path: Path) -> None:
    """A package in an archive is found."""
    install("a/csa-1", OWN.replace(" : ", ":"))
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as archive:
        archive.writestr("parrot-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: parrot\nVersion: 1\n")
        archive.writestr("parrot-1.dist-info/entry_points.txt", "[csa.adapters]\nparrot = parrot:Parrot\n")
    sys.path.append(str(tmp_path / "packages.zip"))
    assert set(check(quickly=False)) == {"codex", "opencode", "parrot"}


def test_loading() -> None:
    """An entry point is loaded with its module."""
    assert entrypoints.EntryPoint("pathlib:Path.home").load() == Path.home
