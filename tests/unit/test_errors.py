"""Errors are built from data, and keep it."""

from pathlib import Path

import pytest

from csa import errors
from csa.errors import AmbiguousError, CsaError, StateError


@pytest.mark.parametrize(
    ("kind", "code", "exit_code"),
    [
        (errors.UsageError, "usage", 2),
        (errors.NotFoundError, "not_found", 3),
        (errors.BusyError, "busy", 4),
        (errors.RefusedError, "refused", 5),
        (errors.ArchiveError, "damaged", 6),
        (errors.ConfigError, "config", 6),
        (errors.ToolUnavailableError, "tool", 7),
    ],
)
def test_each_cause_has_its_code(kind: type[CsaError], code: str, exit_code: int) -> None:
    """A cause is known by its code and its exit code, and carries sentence and hint."""
    error = kind("It is so.", hint="csa doctor")
    assert isinstance(error, CsaError)
    assert (error.code, error.exit_code) == (code, exit_code)
    assert (error.message, str(error), error.hint) == ("It is so.", "It is so.", "csa doctor")
    assert kind("It is so.").hint is None


def test_an_ambiguous_selector_shows_all_matches() -> None:
    """The message says how many sessions match and lists each."""
    error = AmbiguousError("01J", ["01JA one", "01JB two"], 22)
    assert str(error).splitlines() == [
        "Session prefix is ambiguous: '01J' matches 22 sessions.",
        "  01JA one",
        "  01JB two",
    ]
    assert (error.exit_code, error.selector, error.matches) == (3, "01J", ["01JA one", "01JB two"])
    assert error.hint


def test_a_damaged_record_is_named_with_its_line() -> None:
    """A state error carries file, line and problem."""
    error = StateError(Path("/s/state.toml"), "is not TOML", line=7, hint="look at it")
    assert str(error) == "/s/state.toml, line 7: is not TOML."
    assert (error.path, error.line, error.problem, error.exit_code) == (Path("/s/state.toml"), 7, "is not TOML", 6)
    assert str(StateError(Path("/s/state.toml"), "is missing")) == "/s/state.toml: is missing."
