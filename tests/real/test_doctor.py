"""What doctor says of the real CLIs, and inside their agents' shells."""

import json

import pytest

from fixtures.mock_provider import text, tool_call
from tests.real.workplace import CODEX, CSA, Json, RealTool, Workplace

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


@pytest.mark.parametrize(("permission", "code"), [("edit", 0), ("read-only", 6)])
def test_inside_the_sandbox_of_codex(place: Workplace, permission: str, code: int) -> None:
    """An agent's doctor names the sandbox, and says when it keeps csa from writing its records."""
    place.provider.on("DOCTOR", tool_call(f"{CSA} doctor --json; echo code $?"), text("done"))
    result = place.run(CODEX, "DOCTOR please", "--permission", permission)
    shown = place.shown(result["session_id"])
    assert f"code {code}" in shown
    report, _ = json.JSONDecoder().raw_decode(shown[shown.index('{"ok"') :])
    checks = by_name(report)
    assert checks["sandbox"]["status"] == "warn"
    assert "inside codex's sandbox" in checks["sandbox"]["detail"]
    assert checks["caller"]["detail"].startswith(f"inside session {result['session_id']}")
    assert checks["leftovers"]["status"] == "ok"
    assert checks["state root"]["blocks_runs"] == (code != 0)
