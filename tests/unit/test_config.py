"""The configuration: layers, types, and what a project may not do."""

from pathlib import Path
from typing import Any

import pytest

from csa.errors import ConfigError
from csa.model.config import Layer, combine_layers, from_environment
from csa.model.configkeys import KEYS
from csa.model.permission import Permission
from csa.store.configfile import config_layers, load_config


def user(**values: Any) -> Layer:
    return Layer("user.toml", values)


def own(**values: Any) -> Layer:
    return Layer("project.toml", values, is_project=True)


def test_the_defaults() -> None:
    """Without any layer every key has its default."""
    config = combine_layers([])
    assert (config.tool, config.permission, config.max_depth, config.timeout_s) == ("auto", Permission.EDIT, 5, None)
    assert config.tools_order[0] == "codex"
    assert {origin for _, origin in config.values.values()} == {"default"}


def test_later_layers_win_and_are_named() -> None:
    """Each value knows the layer it came from."""
    config = combine_layers([user(tool="codex", max_depth=4), own(tool="claude-code"), Layer("CSA_CONF_X", {})])
    assert config.values["tool"] == ("claude-code", "project.toml")
    assert config.values["max_depth"] == (4, "user.toml")


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ({"max_depth": 3}, {"max_depth": 2}, 2),
        ({"max_depth": 3}, {"max_depth": 9}, 3),
        ({}, {"max_depth": 6}, 5),
        ({"permission": "edit"}, {"permission": "read-only"}, "read-only"),
        ({"permission": "edit"}, {"permission": "full"}, "edit"),
        ({"permission": "full"}, {"permission": "full"}, "full"),
        ({}, {"max_children": 4}, 4),
        ({"max_children": 4}, {"max_children": 9}, 4),
        ({"max_running": 4}, {"max_running": 0}, 4),
        ({"max_tree_running": 4}, {"max_tree_running": 2}, 2),
        ({"max_tree_sessions": 0}, {"max_tree_sessions": 0}, 0),
        ({"max_depth": 0}, {"max_depth": 1}, 0),
        ({}, {"timeout_s": 60}, 60),
        ({"timeout_s": 60}, {"timeout_s": 30}, 30),
        ({"timeout_s": 60}, {"timeout_s": 90}, 60),
        ({"timeout_s": 60}, {"timeout_s": 0}, 60),
        ({"max_sessions": 3}, {"max_sessions": 0}, 3),
        ({"max_sessions": 3}, {"max_sessions": 2}, 2),
        ({}, {"undo_days": 0}, 7),
        ({}, {"undo_days": 9}, 9),
        ({"audit_reads": True}, {"audit_reads": False}, True),
        ({}, {"audit_reads": True}, True),
    ],
)
def test_a_project_tightens_and_never_loosens(before: dict[str, Any], asked: dict[str, Any], after: object) -> None:
    """A limit in a project's file counts only where it is stricter than the user's."""
    (key,) = asked
    assert combine_layers([user(**before), own(**asked)]).values[key][0] == after


def test_a_project_tightens_the_limit_of_a_tool() -> None:
    """`tools.<name>.max_running` is a limit like the others, also of a tool whose name has a dot."""
    before = user(tools={"codex": {"max_running": 2}, "my.tool": {"max_running": 1}})
    for asked, limit in ((0, 2), (1, 1), (5, 2)):
        assert combine_layers([before, own(tools={"codex": {"max_running": asked}})]).limits.tools == {
            "codex": limit,
            "my.tool": 1,
        }
    assert combine_layers([own(tools={"codex": {"max_running": 3}})]).limits.tools == {"codex": 3}


def test_the_user_may_loosen() -> None:
    """The user's own file and environment set any limit."""
    assert combine_layers([user(max_depth=9, permission="full")]).max_depth == 9
    layers = [own(max_depth=1), *from_environment({"CSA_CONF_MAX_DEPTH": "7"})]
    assert combine_layers(layers).max_depth == 7


@pytest.mark.parametrize("key", [{"command": ["/tmp/evil"]}, {"env": {"A": "b"}}])
def test_a_project_names_no_commands(key: dict[str, Any]) -> None:
    """A cloned project cannot make csa run something else."""
    with pytest.raises(ConfigError, match="may not set") as caught:
        combine_layers([own(tools={"codex": key})])
    assert caught.value.hint


def test_the_settings_of_a_tool() -> None:
    """A tool's table gives command, model, effort and variables, key by key from the strongest layer."""
    layers = [
        user(tools={"codex": {"command": ["/opt/codex", "-x"], "model": "m", "env": {"A": "1"}}}),
        own(tools={"codex": {"model": "n"}}),
    ]
    tool = combine_layers(layers).for_tool("codex")
    assert (tool.command, tool.model, tool.effort, tool.env) == (("/opt/codex", "-x"), "n", None, {"A": "1"})
    assert combine_layers(layers).for_tool("claude-code").command == ()


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"max_deptn": 3}, "'max_depth'"),
        ({"timeout": 3}, "'timeout_s'"),
        ({"tools": {"codex": {"modle": "m"}}}, "'tools.codex.model'"),
        ({"zzz": 1}, "the keys are"),
    ],
)
def test_an_unknown_key_is_an_error_with_a_suggestion(values: dict[str, Any], hint: str) -> None:
    """A typing mistake is not passed over."""
    with pytest.raises(ConfigError, match=r"user\.toml: unknown key") as caught:
        combine_layers([user(**values)])
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    "values",
    [
        {"tool": 5},
        {"tools_order": "codex"},
        {"tools_order": ["codex", 1]},
        {"permission": "root"},
        {"permission": 1},
        {"permission": ["full"]},
        {"permission": {"a": 1}},
        {"max_depth": "3"},
        {"max_depth": 1.5},
        {"max_depth": True},
        {"max_depth": -1},
        {"timeout_s": -1},
        {"timeout_s": "60"},
        {"timeout_s": float("nan")},
        {"handoff": True},
        {"handoff": "maybe"},
        {"fallback": "codex"},
        {"retries": -1},
        {"tools": 3},
        {"tools": {"codex": 3}},
        {"tools": {"codex": {"command": "codex"}}},
        {"tools": {"codex": {"env": {"A": 1}}}},
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(values: dict[str, Any]) -> None:
    """A wrong type is an error that names source and key."""
    (key,) = values
    with pytest.raises(ConfigError, match=rf"user\.toml.*{key}"):
        combine_layers([user(**values)])


def test_the_environment_sets_any_key() -> None:
    """CSA_CONF_<KEY> is parsed by the key's type; other variables are none."""
    environ = {
        "CSA_CONF_TOOL": "codex",
        "CSA_CONF_TOOLS_ORDER": "claude-code, codex,",
        "CSA_CONF_TIMEOUT_S": "1.5",
        "CSA_CONF_PERMISSION": "full",
        "CSA_CONFIG": "x",
        "PATH": "/bin",
    }
    config = combine_layers(from_environment(environ))
    assert (config.tool, config.tools_order, config.timeout_s) == ("codex", ("claude-code", "codex"), 1.5)
    assert config.values["permission"] == ("full", "CSA_CONF_PERMISSION")


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("CSA_CONF_MAX_DEPTH", "many", "CSA_CONF_MAX_DEPTH"),
        ("CSA_CONF_MAX_DEPTH", "-1", "max_depth"),
        ("CSA_CONF_MAX_DEPTH", "", "CSA_CONF_MAX_DEPTH"),
        ("CSA_CONF_TIMEOUT_S", "soon", "CSA_CONF_TIMEOUT_S"),
        ("CSA_CONF_PERMISSION", "root", "permission"),
        ("CSA_CONF_MAX_DEPHT", "3", "CSA_CONF_MAX_DEPHT"),
    ],
)
def test_a_bad_variable_is_an_error(name: str, text: str, part: str) -> None:
    """Garbage in a variable is refused, not read as a default."""
    with pytest.raises(ConfigError, match=part):
        combine_layers(from_environment({name: text}))


def test_the_transport_of_a_tool() -> None:
    """Native unless the user says otherwise; what is no transport is an error, and a project has no say."""
    tools = {"goose": {"transport": "acp", "command": ["goose", "acp"]}, "codex": {"transport": "native"}, "x": {}}
    config = combine_layers([Layer("user", {"tools": tools})])
    assert config.acp_tools == ("goose",)
    assert [config.for_tool(name).transport for name in ("goose", "codex", "x")] == ["acp", "native", None]
    for wrong in ("http", 3, ["acp"]):
        with pytest.raises(ConfigError, match="native or acp"):
            combine_layers([Layer("user", {"tools": {"goose": {"transport": wrong}}})])
    with pytest.raises(ConfigError, match="a project file may not set"):
        combine_layers([Layer("project", {"tools": {"goose": {"transport": "acp"}}}, is_project=True)])


def test_an_unknown_variable_suggests_the_one_meant() -> None:
    """A misspelt variable is an error too."""
    with pytest.raises(ConfigError) as caught:
        from_environment({"CSA_CONF_MAX_DEPHT": "3"})
    assert caught.value.hint == "did you mean 'CSA_CONF_MAX_DEPTH'?"


def test_the_files_are_read_in_order(tmp_path: Path) -> None:
    """The user's file, the project's, then the environment."""
    (tmp_path / "u.toml").write_text('tool = "codex"\nmax_depth = 4\n')
    (tmp_path / ".csa").mkdir()
    (tmp_path / ".csa" / "config.toml").write_text("max_depth = 3\n")
    environ = {"CSA_CONFIG": str(tmp_path / "u.toml"), "CSA_CONF_TIMEOUT_S": "9"}
    config = load_config(tmp_path, environ)
    assert (config.tool, config.max_depth, config.timeout_s) == ("codex", 3, 9.0)
    assert [layer.is_project for layer in config_layers(tmp_path, environ)] == [False, True, False]


def test_no_files_are_no_fault(tmp_path: Path) -> None:
    """Without any file the defaults hold."""
    assert load_config(tmp_path, {"HOME": str(tmp_path)}).max_depth == KEYS["max_depth"].default


@pytest.mark.parametrize("content", [b"tool = ", b"\xff\xfe", b"a = 1\na = 2\n", b"x = " + b"[" * 5000])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is no TOML is an error that names it."""
    file = tmp_path / "u.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"u\.toml"):
        load_config(tmp_path, {"CSA_CONFIG": str(file)})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """CSA_CONFIG that leads nowhere is an error, not the defaults."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path, {"CSA_CONFIG": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, {"CSA_CONFIG": str(tmp_path)})
