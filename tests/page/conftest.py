"""The browser of the page's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser import complaints_of

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


@pytest.fixture
def clean(context: BrowserContext) -> Iterator[BrowserContext]:
    """The browser; nothing it complains about is left unsaid."""
    found = complaints_of(context)
    yield context
    assert [words for words in found if "Failed to load resource" not in words] == []
