"""Structs: record classes declared as with `dataclasses`, whose import and classes cost ten times as much.

    class Point(Struct):
        x: int
        y: int = 0
        names: list[str] = field(default_factory=list)

They have slots, `==`, a `repr` and, unless `frozen=False`, a hash; `__init__` is generated unless they define it.
Only the type checker prevents setting fields of frozen ones. Fields whose names begin with `_` are neither shown
nor compared. Annotations are not evaluated; a module that declares structs has `from __future__ import
annotations`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost more than all structs of most commands
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from dataclasses import field, replace
    from inspect import Signature
    from typing import Any, ClassVar, dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[type], type]:  # as in typing
        return lambda cls: cls

    def field(*, default_factory: Callable[[], object]) -> _Factory:
        """Give a field a default that is created for each struct."""
        return _Factory(default_factory)

    def replace(struct: Any, /, **changes: object) -> Any:
        """Return a copy with some fields replaced."""
        return type(struct)(**{**asdict(struct), **changes})


__all__ = ["Struct", "asdict", "field", "fields", "replace"]

_MISSING = object()


class _Factory:
    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class _StructType(type):
    """Makes slots from a class's annotations; `__init__` is generated on its first call, as most never are."""

    def __new__(
        mcls, name: str, bases: tuple[type, ...], members: dict[str, Any], *, frozen: bool = True, kw_only: bool = False
    ) -> _StructType:
        own = members.get("__annotations__", {})
        fields = {name: (members.pop(name, _MISSING), kw_only) for name in own}
        members["__slots__"] = tuple(fields)
        members.setdefault("__init__", _init_at_first)
        if not frozen:
            members["__hash__"] = None
        inherited = getattr(bases[0], "__fields__", {}) if bases else {}
        members["__fields__"] = {**inherited, **fields}
        return super().__new__(mcls, name, bases, members)

    @property
    def __signature__(cls) -> Signature | None:
        """The signature for `help` and editors."""
        return _signature_of(cls)


def _signature_of(cls: Any) -> Signature | None:
    """Return the signature of a generated `__init__`; None if the class defines its own."""
    if cls.__init__.__module__ != __name__:
        return None
    from inspect import Parameter, Signature  # noqa: PLC0415  # only people need it

    annotations = {name: kind for base in cls.__mro__ for name, kind in getattr(base, "__annotations__", {}).items()}
    parameters = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY if kw_only else Parameter.POSITIONAL_OR_KEYWORD,
            default=Parameter.empty if default is _MISSING else default,
            annotation=annotations[name],
        )
        for name, (given, kw_only) in cls.__fields__.items()
        for default in [given.make() if isinstance(given, _Factory) else given]
        if name[0] != "_"
    ]
    return Signature(sorted(parameters, key=lambda parameter: parameter.kind))


def _init_at_first(self: Any, *args: Any, **values: Any) -> None:
    cls = type(self)
    cls.__init__ = _make_init(cls.__fields__)
    cls.__init__(self, *args, **values)


def _make_init(fields: Mapping[str, tuple[Any, bool]]) -> Callable[..., None]:
    """Compile the source of a class's `__init__`."""
    scope: dict[str, Any] = {"_MISSING": _MISSING, "__name__": __name__}
    positional, keyword, lines = ["self"], ["*"], []
    for name, (default, kw_only) in fields.items():
        parameter, value = name, name
        if isinstance(default, _Factory):
            scope[f"_make_{name}"] = default.make
            parameter, value = f"{name}=_MISSING", f"_make_{name}() if {name} is _MISSING else {name}"
        elif default is not _MISSING:
            scope[f"_default_{name}"] = default
            parameter = f"{name}=_default_{name}"
        (keyword if kw_only else positional).append(parameter)
        lines.append(f" self.{name} = {value}\n")
    parameters = ", ".join(positional + (keyword if len(keyword) > 1 else []))
    exec(f"def __init__({parameters}):\n{''.join(lines) or ' pass'}", scope)  # noqa: S102  # the names are our own
    made: Callable[..., None] = scope["__init__"]
    return made


class Struct(metaclass=_StructType):
    """The base of all structs."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]  # so that `replace` accepts them
        __fields__: ClassVar[dict[str, tuple[Any, bool]]]  # the default, and whether it is keyword-only

    def __eq__(self, other: object) -> bool:
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in _compared(self))
        return f"{type(self).__qualname__}({', '.join(shown)})"


def fields(struct: Struct | type[Struct]) -> tuple[str, ...]:
    """Return the names of a struct's fields, in the order of their declaration."""
    return tuple(struct.__fields__)


def asdict(struct: Struct) -> dict[str, Any]:
    """Return the fields by name; structs within stay structs."""
    return {name: getattr(struct, name) for name in struct.__fields__}


def _compared(struct: Any) -> list[str]:
    return [name for name in struct.__fields__ if name[0] != "_"]


def _values(struct: Any) -> tuple[Any, ...]:
    return tuple([getattr(struct, name) for name in _compared(struct)])
