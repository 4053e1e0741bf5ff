"""What docs/generate.py writes of docs/json.md: the vocabulary, the shared objects, each command, the events."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from csa.model.schemas.events import DATA
from csa.model.schemas.kit import Schema
from csa.model.schemas.shared import VOCABULARY
from csa.model.schemas.table import OUTPUTS, PIECES

EXAMPLES = Path(__file__).parent / "examples.json"
WIDTH = 110
FEW = 6  # so many keys are not worth a reference
_KINDS = {"array": "list", "integer": "number", "boolean": "true or false"}
_HEAD = ("| key | kind | meaning |", "|---|---|---|")


def render_page() -> str:
    """Return what follows the part that is written by hand."""
    examples = json.loads(EXAMPLES.read_text())
    parts = ["", "## Vocabulary", "", *_HEAD]
    parts += [_row(name, schema) for name, schema in VOCABULARY.items()]
    parts += ["", "## Shared objects", ""]
    for name, schema in PIECES.items():
        parts += [f"### {name}", "", str(schema.get("description", "")), "", *_table(schema), ""]
    parts += ["## Commands", ""]
    shown: dict[str, Schema] = {}  # by command, what it prints of a session, ...
    for name, (about, schema) in OUTPUTS.items():
        if name != "event":
            parts += [*_command(name, about, schema, examples, shown), ""]
    parts += ["## Events", "", *_events(examples)]
    return "\n".join(parts).rstrip() + "\n"


def _command(
    name: str, about: str, schema: Schema, examples: Mapping[str, Any], shown: dict[str, Schema]
) -> Iterator[str]:
    """Yield a command's section. What an earlier command prints as well is not repeated."""
    item = schema["items"] if schema.get("type") == "array" else schema
    is_list = item is not schema
    yield f"### {'Errors' if name == 'error' else f'csa {name}'}"
    yield ""
    yield f"A list: {about}." if is_list else _sentence(about)
    yield ""
    before = max(
        (each for each in shown if _has_keys_of(item, shown[each])),
        key=lambda each: len(shown[each]["properties"]),
        default=None,
    )
    known = shown[before]["properties"] if before else {}
    shown[name] = item
    if before:
        anchor = f"[csa {before}](#csa-{before.replace(' ', '-')})"
        if known.keys() == item["properties"].keys():
            yield f"The same keys as {anchor}."
            return
        yield f"{'Each has' if is_list else 'It has'} the keys of {anchor}, and:"
        yield ""
    words, value = examples[name]
    value = _without_old(value, schema)
    if before:
        value = [_without(each, known) for each in value] if is_list else _without(value, known)
    yield "```"
    yield f"$ csa {' '.join(_quoted(word) for word in words)}"
    yield _pretty(value)
    yield "```"
    yield ""
    if "$ref" in item:
        yield f"{'Each is' if is_list else 'It is'} {_link(item)}."
    elif "properties" in item:
        yield from _table({**item, "properties": _without(item["properties"], known)})
    else:
        yield f"An object: {item['description']}; each with"
        yield ""
        yield from _table(item["additionalProperties"])


def _has_keys_of(schema: Schema, other: Schema) -> bool:
    keys = other.get("properties", {}).keys()
    return len(keys) > FEW and keys <= schema.get("properties", {}).keys()


def _without(keys: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in known}


def _events(examples: Mapping[str, Any]) -> Iterator[str]:
    yield "A line of `csa run --stream-json`, of `csa logs --json` and of a session's transcript.jsonl:"
    yield ""
    yield "```"
    yield json.dumps(examples["event"][1][-1], ensure_ascii=False)
    yield "```"
    yield ""
    yield from _table(OUTPUTS["event"][1])
    yield ""
    yield "The `data` of each type; keys in *italics* may be missing, as these are records on disk:"
    yield ""
    yield "| type | when | data |"
    yield "|---|---|---|"
    for name, (about, schema) in DATA.items():
        if "$ref" in schema:
            yield f"| `{name}` | {about} | {_link(schema)} |"
            continue
        keys = [_named(key, sub, must=key in schema["required"]) for key, sub in schema["properties"].items()]
        yield f"| `{name}` | {about} | {'; '.join(keys)} |"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _named(key: str, schema: Schema, *, must: bool) -> str:
    about = schema.get("description", "")
    return f"{f'`{key}`' if must else f'*{key}*'}{f' ({about})' if about else ''}"


def _table(schema: Schema) -> Iterator[str]:
    """Yield the keys: those of the vocabulary by name, the others with their meanings."""
    shared, own, old = [], [], []
    for path, key, sub, is_top in _keys(schema):
        if sub.get("deprecated"):
            old.append((path, sub))
        elif is_top and sub == VOCABULARY.get(key):
            shared.append(path)
        else:
            own.append(_row(path, sub))
    if shared:
        yield f"From the [vocabulary](#vocabulary): {', '.join(f'`{name}`' for name in shared)}."
    if own:
        yield from ([""] if shared else [])
        yield from _HEAD
        yield from own
    if old:
        yield ""
        known = [f"`{path}` ({sub['description'].removeprefix('Deprecated: ').rstrip('.')})" for path, sub in old]
        yield f"Deprecated: {', '.join(known)}."


def _keys(schema: Schema, above: str = "") -> Iterator[tuple[str, str, Schema, bool]]:
    for key, sub in schema.get("properties", {}).items():
        yield above + key, key, sub, not above
        inner = sub.get("items", sub) if "array" in _types(sub) else sub
        if not isinstance(inner, dict) or sub.get("deprecated"):
            continue
        mark = "[]" if "array" in _types(sub) else ""
        if isinstance(inner.get("additionalProperties"), dict):
            inner, mark = inner["additionalProperties"], f"{mark}.NAME"
        yield from _keys(inner, f"{above}{key}{mark}.")


def _types(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _row(path: str, schema: Schema) -> str:
    return f"| `{path}` | {_kind(schema)} | {_meaning(schema)} |"


def _kind(schema: Schema) -> str:
    if "anyOf" in schema:
        return f"{_kind(schema['anyOf'][0])} or null"
    if "$ref" in schema:
        return _link(schema)
    if schema.get("format") == "date-time":
        return "time or null" if "null" in _types(schema) else "time"
    kinds = [_KINDS.get(kind, kind) for kind in _types(schema)] or ["any value"]
    if kinds[0] == "list" and "$ref" in schema["items"]:
        kinds[0] = f"list of {_link(schema['items'])}"
    return " or ".join(kinds)


def _meaning(schema: Schema) -> str:
    about, values = str(schema.get("description", "")), [value for value in schema.get("enum", []) if value]
    if not values or f"`{values[0]}`" in about:
        return about
    listed = ", ".join(f"`{value}`" for value in values)
    return f"{about}: {listed}"


def _link(schema: Schema) -> str:
    name = str(schema["$ref"]).rpartition("/")[2]
    return f"[{name}](#{name})"


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _without_old(value: Any, schema: Schema) -> Any:
    """Leave out the keys that are deprecated."""
    schema = next((each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"), schema)
    if "$ref" in schema:
        schema = PIECES[str(schema["$ref"]).rpartition("/")[2]]
    if isinstance(value, list):
        return [_without_old(each, schema.get("items", {})) for each in value]
    if not isinstance(value, dict):
        return value
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    rest = rest if isinstance(rest, dict) else {}
    ordered = [key for key in known if key in value] + [key for key in value if key not in known]
    shown = [key for key in ordered if not known.get(key, {}).get("deprecated")]
    return {key: _without_old(value[key], known.get(key, rest)) for key in shown}


def _pretty(value: Any, indent: str = "") -> str:
    """Render JSON, each part on one line where there is room."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + len(indent) <= WIDTH or not isinstance(value, dict | list) or not value:
        return flat
    inner = f"{indent}  "
    if isinstance(value, list):
        lines = [f"{inner}{_pretty(each, inner)}" for each in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    lines = [f"{inner}{json.dumps(key)}: {_pretty(each, inner)}" for key, each in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
