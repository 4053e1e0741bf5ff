"""Structs behave as the dataclasses they are declared like."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from csa.structs import Struct, asdict, field, fields, replace


class Point(Struct):
    x: int
    y: int = 2
    names: list[str] = field(default_factory=list)
    _seen: int = 0


class Named(Point, kw_only=True):
    name: str = ""


class Mutable(Struct, frozen=False):
    x: int = 0


class Square(Struct, frozen=False):
    side: int

    def __init__(self, area: int) -> None:
        self.side = round(area**0.5)


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    x: int
    y: int = 2
    names: list[str] = dataclasses.field(default_factory=list)
    _seen: int = dataclasses.field(default=0, repr=False, compare=False)


@pytest.mark.parametrize("values", [{"x": 1}, {"x": 1, "y": 3}, {"x": 1, "names": ["a"]}, {"x": 1, "_seen": 4}])
def test_the_same_values_as_a_dataclass(values: dict[str, Any]) -> None:
    """Fields, defaults and what is shown are those of the same dataclass."""
    made, model = Point(**values), Model(**values)
    assert asdict(made) == dataclasses.asdict(model)
    assert repr(made) == repr(model).replace("Model", "Point")
    assert fields(Point) == tuple(each.name for each in dataclasses.fields(Model))
    assert asdict(replace(made, y=9)) == dataclasses.asdict(dataclasses.replace(model, y=9))


def test_defaults_are_made_anew() -> None:
    """Two structs share no list."""
    assert Point(1).names is not Point(1).names


def test_equality() -> None:
    """Equal are structs of one class with equal fields, those apart that are nobody's business."""
    assert Point(1, _seen=1) == Point(1, _seen=2)
    assert Point(1) != Point(2)
    assert Point(1) != Named(1)
    assert Point(1) != 1


def test_hashes() -> None:
    """A frozen struct has a hash, as far as its fields have; one that changes has none."""
    assert hash(Named(1, names=())) == hash(Named(1, names=()))  # type: ignore[arg-type]  # a list has no hash
    with pytest.raises(TypeError, match="unhashable"):
        hash(Mutable())


def test_fields_are_inherited() -> None:
    """A struct begins with the fields of the one it is based on; its own may be keywords."""
    assert fields(Named) == (*fields(Point), "name")
    assert Named(1, 2, [], 0, name="a").name == "a"
    with pytest.raises(TypeError):
        Named(1, 2, [], 0, "a")  # type: ignore[call-arg]  # that is the point


@pytest.mark.parametrize("values", [{}, {"x": 1, "z": 2}])
def test_wrong_fields_are_refused(values: dict[str, Any]) -> None:
    """One that is missing, or unknown, is a TypeError, the first time and later."""
    for _ in range(2):
        with pytest.raises(TypeError, match="argument"):
            Point(**values)


def test_there_are_no_other_attributes() -> None:
    """A typing error does not make a new field."""
    mutable = Mutable()
    mutable.x = 3
    assert mutable == Mutable(3)
    with pytest.raises(AttributeError):
        mutable.z = 1  # type: ignore[attr-defined]  # that is the point


def test_an_init_of_its_own() -> None:
    """A struct that says how it is made is made so."""
    assert Square(9).side == 3
