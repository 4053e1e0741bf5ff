"""What doctor says of the real CLIs, and inside their agents' shells."""

import json

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CODEX, CSA, TOOLS, Json, RealTool, Workplace

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


def by_name(report: Json) -> dict[str, Json]:
    """Return the checks by name."""
    return {check["name"]: check for check in report["checks"]}


def test_versions_of_the_real_tools(place: Workplace, tool: RealTool) -> None:
    """Each tool answers with the version that its adapter names as tested."""
    done = place.csa("doctor", "--json")
    assert done.code == 0
    check = by_name(done.json)[tool.name]
    assert "(tested)" in check["detail"], check
    assert check["status"] in {"ok", "warn"}  # a key of the tests' own provider is no login that csa knows


def test_one_broken_tool_beside_the_others(place: Workplace, tool: RealTool) -> None:
    """The tool that crashes is named with what it said; the others answer, and a run can work with one of them."""
    own = place.base / "bin" / tool.executable
    own.parent.mkdir()
    own.write_text(f'#!/usr/bin/env node\nrequire("./{tool.name}-is-gone.js")\n')
    own.chmod(0o755)
    done = place.csa("doctor", "--json", env={"PATH": f"{own.parent}:{place.env['PATH']}"})
    checks = by_name(done.json)
    assert checks[tool.name]["status"] == "fail"
    assert f"{own} exits 1: Error: Cannot find module" in checks[tool.name]["detail"]
    others = [other.name for other in TOOLS if other is not tool]
    assert all("(tested)" in checks[name]["detail"] for name in others), checks
    assert done.code == (0 if others else 7)
    assert (checks["run"]["status"] == "fail") == (not others)


@pytest.mark.parametrize("tool", [CODEX], ids=["codex"])
@pytest.mark.parametrize(("permission", "code"), [("edit", 0), ("read-only", 6)])
def test_inside_its_sandbox(place: Workplace, tool: RealTool, permission: str, code: int) -> None:
    """An agent's doctor names the sandbox, and says when it keeps csa from writing its records."""
    place.provider.on("DOCTOR", tool_call(f"{CSA} doctor --json; echo code $?"), text("done"))
    result = place.run(tool, "DOCTOR please", "--permission", permission)
    shown = place.shown(result["session_id"])
    assert f"code {code}" in shown
    report, _ = json.JSONDecoder().raw_decode(shown[shown.index('{"ok"') :])
    checks = by_name(report)
    assert checks["sandbox"]["status"] == "warn"
    assert "inside codex's sandbox" in checks["sandbox"]["detail"]
    assert checks["caller"]["detail"].startswith(f"inside session {result['session_id']}")
    assert checks["leftovers"]["status"] == "ok"
    assert checks["state root"]["blocks_runs"] == (code != 0)
