"""A workplace for the real CLIs, and the tools to go through."""

import os
from collections.abc import Iterator

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.real.workplace import TOOLS, RealTool, Workplace, open_workplace

CHOSEN = os.environ.get("CSA_REAL_TOOLS")
_OF_ONE_TOOL = {
    "test_claude": "claude-code",
    "test_codex": "codex",
    "test_gemini": "gemini-cli",
    "test_opencode": "opencode",
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a tool that CSA_REAL_TOOLS does not name."""
    if CHOSEN is None:
        return
    chosen = set(CHOSEN.split(","))
    wanted = [item for item in items if "real" not in item.keywords or _needed(item) <= chosen]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


def _needed(item: pytest.Item) -> set[str]:
    """Name the tools and agents among the parameters of a test, and the one its module is about."""
    needed = {_OF_ONE_TOOL[item.path.stem]} if item.path.stem in _OF_ONE_TOOL else set()
    found: dict[str, object] = item.callspec.params if hasattr(item, "callspec") else {}
    for name, value in found.items():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, RealTool):
                needed.add(each.name)
            elif name in {"tool", "agent"}:
                needed.add(str(getattr(each, "tool", each)))
    return needed


class _OneByOne(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives out test after test in their order, but those of a module that shares its runs to one process."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if module.endswith("/test_failures.py") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """With pytest 9.2 the groups of xdist 3.8 (`--dist loadgroup`) group nothing."""
    config.option.loadscopereorder = False
    return _OneByOne(config, log)


@pytest.fixture(params=TOOLS, ids=lambda tool: tool.name)
def tool(request: pytest.FixtureRequest) -> RealTool:
    """Return each tool in turn."""
    found: RealTool = request.param
    return found


@pytest.fixture
def place() -> Iterator[Workplace]:
    """Make a place where csa runs the real CLIs against a provider on this machine."""
    with open_workplace() as found:
        yield found
