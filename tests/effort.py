"""How much is tried: `make test` tries each idea once, `make check` all there is (pytest --thorough)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import Phase, settings

_FEWER = 8  # a run of `make test` takes one example of so many
_USUAL = 60
_is_thorough = False


def choose(*, thorough: bool) -> None:
    """Settle it for this run, before the tests are imported."""
    global _is_thorough  # noqa: PLW0603  # pytest has no other way to tell a module that tests import
    _is_thorough = thorough
    settings.register_profile(
        "csa",
        deadline=None,
        derandomize=not thorough,
        max_examples=number(_USUAL),
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    settings.load_profile("csa")


def examples(thorough: int) -> Callable[[Any], Any]:
    """Have hypothesis try so many examples when the suite is thorough."""
    return settings(max_examples=number(thorough))


def number(thorough: int, least: int = 5) -> int:
    """Return how often something is tried, of the number for the thorough suite."""
    return thorough if _is_thorough else max(least, thorough // _FEWER)
