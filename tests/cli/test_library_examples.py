"""Every Python example of README.md and docs/library.md runs as it stands."""

from __future__ import annotations

import sys

import pytest

from docs.library_examples import examples
from tests.cli.worktrees import make_repository, sh
from tests.support import Place

EXAMPLES = dict(examples())


def test_there_are_examples() -> None:
    """They are found at all, in both documents."""
    assert len(EXAMPLES) >= 8
    assert {name.rpartition("_")[0] for name in EXAMPLES} == {"readme", "library"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(place: Place, name: str) -> None:
    """It ends without an error, and has something to show."""
    if "worktree=" in EXAMPLES[name]:
        make_repository(place)
        (place.project / "a").write_text("FIXME: not yet\n")
        (place.project / "sub/b").write_text("b\nFIXME\n")
        sh(place, "git commit -qam todo")
        place.play(["run", "sed -i /FIXME/d a sub/b"], ["say", "Done."])
    done = place.shell([sys.executable, "-c", EXAMPLES[name]])
    assert (done.code, done.err) == (0, "")
    assert done.out
