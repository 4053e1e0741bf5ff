"""The words of a command, read without argparse where they can mean one thing: most answers take less than its import.

A `PlainParser` is told of the same arguments by the same `configure`. It takes whole options, with their value as the
next word, and arguments that stand together. For anything else (help, `--option=value`, a mistake) the answer is None,
and argparse is asked; where there is an answer, it is argparse's (a property test compares them).
"""

from __future__ import annotations

from csa.structs import Struct

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

_ACTIONS = {None, "store_true", "append"}


class UsageFault(Exception):  # noqa: N818  # becomes a UsageError with a hint
    """The words of a command are off."""

    def __init__(self, message: str, prog: str) -> None:
        super().__init__(message)
        self.message = message
        self.prog = prog


class Arguments:
    """What was said, as attributes: an argparse.Namespace."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


class _Argument(Struct, kw_only=True):
    """One argument, as `add_argument` was told of it."""

    names: tuple[str, ...]
    dest: str
    action: str | None = None
    nargs: str | None = None
    const: object = None
    default: object = None
    type: Callable[[str], object] = str
    choices: Collection[object] | None = None
    required: bool = False
    metavar: str | None = None
    help: str | None = None
    rivals: _Rivals | None = None  # of which at most one may be given


class PlainParser:
    """As much of an ArgumentParser as `configure` functions use."""

    def __init__(self) -> None:
        self._options: dict[str, _Argument] = {}
        self._positionals: list[_Argument] = []
        self._required: list[_Rivals] = []

    def add_argument_group(self, _title: str) -> PlainParser:
        return self

    def add_mutually_exclusive_group(self, *, required: bool = False) -> _Rivals:
        rivals = _Rivals(self)
        self._required += [rivals] if required else []
        return rivals

    def add_argument(self, *names: str, rivals: _Rivals | None = None, **settings: Any) -> None:
        first = next((name for name in names if name.startswith("--")), names[0])
        known = {"dest": first.lstrip("-").replace("-", "_") if names[0].startswith("-") else first, **settings}
        argument = _Argument(names=names, rivals=rivals, **known)
        if names[0].startswith("-"):
            self._options.update(dict.fromkeys(names, argument))
        else:
            self._positionals.append(argument)

    def parse(self, words: list[str]) -> Arguments | None:
        """Return what the words say; None where argparse has to be asked."""
        try:
            return Arguments(self._parse(words))
        except _NotPlainError:
            return None

    def _parse(self, words: list[str]) -> dict[str, Any]:
        arguments = [*self._options.values(), *self._positionals]
        values = {each.dest: False if each.action == "store_true" else each.default for each in arguments}
        given: list[_Argument] = []
        lone: list[str] = []
        at = end_of_lone = 0
        while at < len(words):
            if words[at].startswith("-"):
                at = self._take_option(words, at, values, given)
                continue
            if lone and at != end_of_lone:  # argparse may have given what comes first to more than one
                raise _NotPlainError
            lone.append(words[at])
            at = end_of_lone = at + 1
        self._take_positionals(lone, values)
        self._check(given)
        return values

    def _take_option(self, words: list[str], at: int, values: dict[str, Any], given: list[_Argument]) -> int:
        """Take the option at a place; return where the next word is."""
        option = self._options.get(words[at])
        if option is None or option.action not in _ACTIONS or option.nargs is not None:
            raise _NotPlainError
        given.append(option)
        if option.action == "store_true":
            values[option.dest] = True
            return at + 1
        if at + 1 == len(words) or words[at + 1].startswith("-"):
            raise _NotPlainError
        value = _read(option, words[at + 1])
        values[option.dest] = [*(values[option.dest] or ()), value] if option.action == "append" else value
        return at + 2

    def _take_positionals(self, words: list[str], values: dict[str, Any]) -> None:
        for argument in self._positionals:
            if argument.nargs not in {None, "?"} or (argument.nargs is None and not words):
                raise _NotPlainError
            if words:
                values[argument.dest] = _read(argument, words[0])
                words = words[1:]
        if words:
            raise _NotPlainError

    def _check(self, given: list[_Argument]) -> None:
        """Refuse what lacks something required, or names two rivals."""
        chosen: dict[_Rivals, tuple[str, ...]] = {}
        for argument in given:
            if argument.rivals and chosen.setdefault(argument.rivals, argument.names) != argument.names:
                raise _NotPlainError
        names = {argument.names for argument in given}
        missing = [each for each in self._options.values() if each.required and each.names not in names]
        if missing or any(rivals not in chosen for rivals in self._required):
            raise _NotPlainError


class _Rivals:
    """Arguments of which at most one may be given."""

    def __init__(self, parser: PlainParser) -> None:
        self._parser = parser

    def add_argument(self, *names: str, **settings: Any) -> None:
        self._parser.add_argument(*names, rivals=self, **settings)


class _NotPlainError(Exception):
    """The words have to be read by argparse."""


def _read(argument: _Argument, word: str) -> object:
    try:
        value = argument.type(word)
    except Exception as error:  # whatever is wrong with it, argparse finds the words
        raise _NotPlainError from error
    if argument.choices is not None and value not in argument.choices:
        raise _NotPlainError
    return value
