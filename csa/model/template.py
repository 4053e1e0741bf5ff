"""Templates: settings and texts of a run under a name, with variables in the texts. Pure: files are read elsewhere.

`{{name}}` in a text is a variable, and `{{{{name}}}}` stands for the characters `{{name}}`; nothing else in braces has
a meaning. A value is put in as it is: what looks like a variable in it is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from csa.errors import ConfigError, UsageError
from csa.model.configkeys import AUTO, Key, checked, unknown_key
from csa.model.structured import NotJsonError, parse_json
from csa.structs import Struct

KEYS: Mapping[str, Key] = {
    "description": Key("text", "", "what it is for; new sessions get it as their description"),
    "tool": Key("text", "", "the tool; a template with one is a specialist, which `csa run --as` takes"),
    "model": Key("text", "", "the model to ask that tool for"),
    "effort": Key("text", "", "the reasoning effort to ask it for"),
    "permission": Key("permission", "", "what the agent may do: read-only, edit or full"),
    "worktree": Key("flag_or_text", False, "a git worktree for each new session; a text names its branch, csa/TEXT"),
    "system": Key("text", "", "text to add to the tool's system prompt"),
    "opening": Key("text", "", "text that comes before the first prompt of a session"),
    "prompt": Key("text", "", "the prompt, with `{{prompt}}` where what is typed goes, else before it"),
    "schema": Key("text", "", "a JSON Schema, as JSON, that answers must conform to"),
    "context_window": Key("count", 0, "how many earlier turns a turn sends at most; 0 is all"),
    "context_tokens": Key("count", 0, "how many tokens of earlier turns a turn sends at most; 0 is no limit"),
}
PROMPT = "prompt"  # the variable
_TEXTS = ("description", "worktree", "system", "opening", "prompt")  # may have variables
_WITH_PROMPT = ("description", "prompt")  # and that one
_PLACE = re.compile(r"(\{{2,})([ \t]*([A-Za-z_][A-Za-z0-9_-]*)[ \t]*)(\}{2,})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEPTH = 2  # braces of a variable; one more means nothing, and more than that are a text's own, written with two more


def check_template_name(name: str) -> str:
    """Return what can name a template, and so a file; else UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"Invalid template name '{name}'.",
            hint="names begin with a letter or digit and have up to 64 letters, digits, dots, dashes, underscores",
        )
    return name


class Template(Struct):
    """One template, checked. `place` is its file; `is_project` says that it came with the project."""

    name: str
    place: str
    is_project: bool
    values: Mapping[str, Any]  # by the keys of KEYS; none is empty

    @property
    def variables(self) -> list[str]:
        """The variables that must be given, in the order in which they appear."""
        return [name for name in dict.fromkeys(self._names()) if name != PROMPT]

    @property
    def has_whole_prompt(self) -> bool:
        """Whether nothing need be added to its prompt."""
        return PROMPT in self.values and PROMPT not in _names_in(self.values[PROMPT])

    @property
    def is_specialist(self) -> bool:
        """Whether it names a tool."""
        return "tool" in self.values

    def filled(self, prompt: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return its values with variables put in, and the whole prompt.

        Raises:
            UsageError: a variable is missing, or is none of its own.
        """
        self._check_variables(variables)
        values = {**variables, PROMPT: prompt}
        found = {
            key: _fill(value, values) if key in _TEXTS and isinstance(value, str) else value
            for key, value in self.values.items()
        }
        if (named := found.pop("worktree", False)) is not False:
            found["worktree"] = "" if named is True else named
        if "schema" in found:
            found["schema"] = parse_json(found["schema"])
        if PROMPT not in _names_in(self.values.get(PROMPT)):
            found[PROMPT] = "\n\n".join(text for text in (found.get(PROMPT), prompt) if text)
        return found

    def _check_variables(self, given: Collection[str]) -> None:
        from csa.nearest import did_you_mean  # noqa: PLC0415  # as in csa/model/config.py

        known = self.variables
        listed = f"its variables are {', '.join(known)}" if known else "it has no variables"
        for name in given:
            if name == PROMPT:
                raise UsageError("{{prompt}} is the prompt; it cannot be given with --var.")
            if name not in known:
                raise UsageError(
                    f"Template {self.name} has no variable '{name}': {listed}.", hint=did_you_mean(name, known)
                )
        if missing := [name for name in known if name not in given]:
            example = " ".join(f"--var {name}=..." for name in missing)
            raise UsageError(
                f"Template {self.name} needs {', '.join(missing)}: {listed}.",
                hint=f"csa run --template {self.name} {example}",
            )

    def _names(self) -> list[str]:
        return [name for key in _TEXTS for name in _names_in(self.values.get(key))]


def make_template(name: str, place: str, values: Mapping[str, Any], *, is_project: bool) -> Template:
    """Check what a file, or an order to save one, says; ConfigError names the key that is wrong."""
    for key, value in values.items():
        if key not in KEYS:
            raise unknown_key(place, key, [*KEYS])
        checked(place, key, KEYS[key], value)
    found = {key: values[key] for key in KEYS if values.get(key) not in (None, "")}
    for key in ("model", "effort"):
        if key in found and found.get("tool", AUTO) == AUTO:
            raise ConfigError(f"{place}: '{key}' is for a tool, and the template names none.", hint='add tool = "..."')
    for key in _TEXTS:
        if key not in _WITH_PROMPT and PROMPT in _names_in(found.get(key)):
            raise ConfigError(f"{place}: {{{{prompt}}}} has no place in '{key}'.", hint="put it into 'prompt'")
    if "schema" in found:
        _check_schema(place, found["schema"])
    return Template(name, place, is_project, found)


def _check_schema(place: str, text: str) -> None:
    try:
        is_object = isinstance(parse_json(text), dict)
    except NotJsonError as error:
        raise ConfigError(f"{place}: 'schema' is not JSON: {error}.") from error
    if not is_object:
        raise ConfigError(f"{place}: 'schema' is not a JSON object.")


def escaped(text: str) -> str:
    """Return a text as a template has it that is to put in exactly this."""
    return _each_place(text, lambda found: f"{{{{{found[0]}}}}}")


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _each_place(text, lambda found: values[found[3]] if len(found[1]) == _DEPTH else found[0][2:-2])


def _names_in(text: object) -> list[str]:
    """Return the variables in a text; what is none has none."""
    if not isinstance(text, str):
        return []
    return [found[3] for found in _PLACE.finditer(text) if len(found[1]) == len(found[4]) == _DEPTH]


def _each_place(text: str, change: Callable[[re.Match[str]], str]) -> str:
    """Replace what is a variable, and what stands for its characters."""

    def changed(found: re.Match[str]) -> str:
        is_place = len(found[1]) == len(found[4]) != _DEPTH + 1
        return change(found) if is_place else found[0]

    return _PLACE.sub(changed, text)
