"""Runs every command that prints JSON, over the fake tools, and keeps what it printed in docs/examples.json.

`make examples` runs it. docs/json.md is generated from what it keeps.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
TARGET = REPOSITORY / "docs" / "examples.json"
HOME = "/home/ada"
MAX_KEYS = 50  # `config show` has more


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="csa-examples-") as directory:
        place = Path(directory)
        for name in ("ada/shop", "ada/.config", "tmp"):
            (place / name).mkdir(parents=True)
        variables = {name: value for name, value in os.environ.items() if name in {"LANG", "USER"}}
        os.environ.clear()
        tools = f"{REPOSITORY}/adapters/csa_fakes/bin:{Path(sys.executable).parent}:/usr/bin:/bin"
        own = {"HOME": f"{place}/ada", "PATH": tools, "TZ": "UTC", "TMPDIR": str(place), "USER": "ada"}
        os.environ.update({**variables, **own, "LANG": "C.UTF-8"})
        sys.path.insert(0, str(REPOSITORY))
        from tests.support import Place, close_place  # noqa: PLC0415  # it reads the environment
        from tests.tour import Shown, tour  # noqa: PLC0415  # as above

        shop = Place(place / "tmp", place / "ada" / "shop", place / "ada" / ".local" / "state" / "csa")
        try:
            found = tour(shop)
        finally:
            close_place(shop)
        words, events = found["event"]
        found["event"] = Shown(words, [event for event in events if event["type"] == "tool_call"])
        short = {name: [list(words), _first_of(value)] for name, (words, value) in found.items()}
        new = json.loads(_anonymous(json.dumps(short), place))
        old = json.loads(TARGET.read_text()) if TARGET.exists() else {}
        kept = {name: _kept_or_new(old.get(name), example) for name, example in new.items()}
        TARGET.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def _kept_or_new(old: Any, new: Any) -> Any:
    """Return the new example only where the words that are typed, or the keys, have changed."""
    is_old = old and _plain(old[0]) == _plain(new[0]) and _keys_of(old[1]) == _keys_of(new[1])
    return old if is_old else new


def _plain(words: list[str]) -> list[str]:
    return [word for word in words if not re.fullmatch(r"[0-9a-f]{12}|[0-9A-Z]{26}", word)]


def _keys_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_keys_of(each) for each in value]
    return {key: _keys_of(each) for key, each in value.items()} if isinstance(value, dict) else None


def _first_of(value: Any) -> Any:
    """Keep the first object of each array, and of what has very many keys."""
    if isinstance(value, list):
        return [_first_of(each) for each in (value[:1] if value and isinstance(value[0], dict) else value)]
    if not isinstance(value, dict):
        return value
    return {key: _first_of(each) for key, each in list(value.items())[:MAX_KEYS]}


def _anonymous(text: str, place: Path) -> str:
    """Put a person's directories in the place of this machine's."""
    text = text.replace(f"{place}/ada", HOME).replace(f"{place}/tmp", "/tmp")  # noqa: S108  # a name in a text
    for found, shown in ((str(REPOSITORY / "adapters/csa_fakes/bin"), "/usr/bin"), (str(REPOSITORY), "/opt/csa")):
        text = text.replace(found, shown)
    text = re.sub(r'("(?:boot|machine)_id": )"[^"]*"', r'\1"3f2a9c0d5e6b47d8"', text)
    return re.sub(rf"\b{re.escape(os.uname().nodename)}\b", "workstation", text)


if __name__ == "__main__":
    main()
