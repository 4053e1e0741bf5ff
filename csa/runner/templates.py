"""Templates as files: `templates/NAME.toml` in the user's config directory, and in `.csa/` of the project.

A template of the user's counts before one of the project with the same name, which may come from somebody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from csa.errors import ConfigError, NotFoundError, RefusedError, StateError, UsageError
from csa.model.permission import Permission
from csa.model.template import KEYS, Template, check_template_name, escaped, make_template
from csa.paths import user_config_directory
from csa.runner.context import Context
from csa.runner.request import FromTemplate, RunRequest
from csa.runner.session import Session
from csa.store.atomic import make_private_directory, write_atomically
from csa.store.configfile import read_document
from csa.store.tomlfile import render_texts
from csa.store.transcript import last_started
from csa.structs import Struct, replace

_SUFFIX = ".toml"
_OF_REQUEST = tuple(key for key in KEYS if key != "prompt")  # the fields of a request with these names


class Listed(Struct):
    """A template's file: what it says, or why that cannot be used. A hidden one has the name of one of the user's."""

    name: str
    place: str
    is_project: bool
    template: Template | None
    fault: ConfigError | None
    is_hidden: bool = False


def directory_of(context: Context, *, is_project: bool) -> Path:
    """Return where templates are kept: the user's, or the project's."""
    return context.settings_path("templates") if is_project else user_config_directory(context.environ) / "templates"


def find_template(context: Context, name: str, *, is_project: bool | None = None) -> Template:
    """Return the template with a name, the user's or else the project's; `is_project` wants only one of these.

    Raises:
        UsageError: that cannot be a name.
        NotFoundError: there is none.
        ConfigError: its file is wrong.
    """
    check_template_name(name)
    for place in (False, True) if is_project is None else (is_project,):
        path = directory_of(context, is_project=place) / f"{name}{_SUFFIX}"
        if (values := read_document(path)) is not None:
            return make_template(name, str(path), values, is_project=place)
    from csa.nearest import did_you_mean  # noqa: PLC0415  # only a typo pays for it

    known = [each.name for each in list_templates(context)]
    hint = did_you_mean(name, known) or ("csa template list" if known else f"csa template save {name} --help")
    raise NotFoundError(f"There is no template '{name}'.", hint=hint)


def list_templates(context: Context) -> list[Listed]:
    """Return all there are, by name; of two with the same name the user's first. Damaged ones are among them."""
    found: dict[tuple[str, bool], Listed] = {}
    for is_project in (False, True):
        for path in _files(directory_of(context, is_project=is_project)):
            name = path.name.removesuffix(_SUFFIX)
            found[name, is_project] = _look(name, path, is_project, is_hidden=(name, False) in found)
    return [found[key] for key in sorted(found)]


def _files(directory: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            stem = name.removesuffix(_SUFFIX)
            with suppress(UsageError):  # not a template's name: an editor's copy, a README
                if stem != name and check_template_name(stem):
                    yield directory / name


def _look(name: str, path: Path, is_project: bool, *, is_hidden: bool) -> Listed:  # noqa: FBT001  # as it is in Listed
    template, fault = None, None
    try:
        template = make_template(name, str(path), read_document(path) or {}, is_project=is_project)
    except ConfigError as error:
        fault = error
    return Listed(name, str(path), is_project, template, fault, is_hidden and is_project)


def save_template(
    context: Context, name: str, values: Mapping[str, Any], *, is_project: bool, replaces: bool
) -> Template:
    """Write a template; `replaces` allows that there is one.

    Raises:
        UsageError: that cannot be a name, or there is one.
        ConfigError: a value is wrong.
        RefusedError: an agent may not change what the user's later runs are set to.
    """
    path = directory_of(context, is_project=is_project) / f"{check_template_name(name)}{_SUFFIX}"
    _refuse_agents(context, path, is_project=is_project)
    template = make_template(name, str(path), values, is_project=is_project)
    if os.path.lexists(path) and not replaces:
        raise UsageError(f"There is a template '{name}': {path}.", hint="--force replaces it")
    try:
        content = render_texts(template.values)
    except UnicodeEncodeError as error:
        raise UsageError("The texts of a template must be valid UTF-8.") from error
    try:
        make_private_directory(path.parent)
        write_atomically(path, content)
    except OSError as error:
        raise StateError.denied(path, "cannot be written", error) from error
    return template


def delete_template(context: Context, name: str, *, is_project: bool) -> Path:
    """Delete a template's file, whatever it says; raises as `save_template`, and NotFoundError."""
    path = directory_of(context, is_project=is_project) / f"{check_template_name(name)}{_SUFFIX}"
    _refuse_agents(context, path, is_project=is_project)
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError) as error:
        whose = "of the project" if is_project else "of yours"
        raise NotFoundError(
            f"There is no template '{name}' {whose}.", hint="csa template list; --project is for the project's"
        ) from error
    except OSError as error:
        raise StateError.denied(path, "cannot be deleted", error) from error
    return path


def _refuse_agents(context: Context, path: Path, *, is_project: bool) -> None:
    """Refuse an agent what is the user's, also by a link of the project's, and one that may only read all of it."""
    if context.caller is None:
        return
    who = f"session {context.caller.session_id}"
    users = os.path.realpath(directory_of(context, is_project=False))
    if not is_project or os.path.realpath(path.parent) == users:
        hint = None if is_project else "--project makes it one of the project's"
        raise RefusedError(f"{path} is the user's, and {who} cannot change it.", hint=hint)
    if context.caller.permission is Permission.READ_ONLY:
        raise RefusedError(f"{path} is the project's, and {who} may only read it.")


def values_of(session: Session) -> dict[str, Any]:
    """Return what a session is set to, as the values of a template."""
    state = session.load()
    tool = state.tools.get(state.last_tool or "")
    started = last_started(session.content.transcript)
    system = started.data.get("system") if started else None
    return {
        "tool": state.last_tool,
        "model": tool.model if tool else None,
        "effort": tool.effort if tool else None,
        "permission": state.permission,
        "worktree": True if state.worktree else None,
        "system": escaped(str(system)) if system else None,
        "context_window": state.window.turns,
        "context_tokens": state.window.tokens,
    }


def apply_template(template: Template, request: RunRequest, variables: Mapping[str, str]) -> RunRequest:
    """Return a request with what it leaves open as the template says, and the template's prompt around its own.

    A model and an effort are for the template's tool, and left out if the request names another.
    """
    values = template.filled(request.prompt, variables)
    is_other_tool = request.tool not in (None, values.get("tool"))
    given = {
        key: value
        for key, value in values.items()
        if key in _OF_REQUEST and getattr(request, key) is None and not (is_other_tool and key in {"model", "effort"})
    }
    used = FromTemplate(template.name, template.place, template.is_project, tuple(given))
    return replace(request, prompt=values["prompt"], template=used, **given)
