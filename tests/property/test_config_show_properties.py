"""What `csa config show` prints is a config file that says the same."""

import tomllib
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from csa.cli.config import render_settings
from csa.model.config import Layer, combine_layers
from csa.model.configkeys import KEYS, TOOL_KEYS, Key
from csa.model.permission import Permission

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "text": _TEXTS,
    "words": st.lists(_TEXTS, max_size=3),
    "count": st.integers(min_value=0),
    "seconds": st.integers(min_value=0) | st.floats(min_value=0, allow_infinity=False, allow_nan=False),
    "permission": st.sampled_from([level.value for level in Permission]),
    "table": st.dictionaries(_TEXTS, _TEXTS, max_size=3),
    "transport": st.sampled_from(["native", "acp"]),
    "switch": st.sampled_from(["on", "off"]),
    "duration": st.sampled_from(["", "7d", "30m"]),
    "on_quota": st.sampled_from(["fail", "wait", "wait=26h"]),
    "flag": st.booleans(),
}


def _some_of(keys: dict[str, Key]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: _KINDS[key.kind] for name, key in keys.items()})


_TOOLS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), _some_of(dict(TOOL_KEYS)), max_size=3
)


@given(_some_of(dict(KEYS)), _TOOLS, _TEXTS)
@example({}, {}, "")
@example({"tool": 'a"b\\c\n\t\x7f\u2028é'}, {}, "/a\nb/config.toml")
@example({"timeout_s": 1e-7, "idle_timeout_s": 1e300}, {"codex": {"model": ""}, "my.tool": {"env": {}}}, "x")
def test_what_is_printed_is_read_back(values: dict[str, Any], tools: dict[str, Any], origin: str) -> None:
    """TOML, whatever the values and the name of their source, which gives the same settings."""
    config = combine_layers([Layer(origin, {**values, "tools": tools})])
    text = "\n".join(render_settings(config.values))
    again = combine_layers([Layer(origin, tomllib.loads(text))])
    assert again.values == config.values
