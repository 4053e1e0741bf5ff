"""Plans as files: reading one, and making one of lines."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from csa.errors import ConfigError, NotFoundError, UsageError
from csa.model.plan import Plan, check_names, parse_plan, stem_of
from csa.store.tomlfile import render_toml
from csa.structs import Struct


class ReadPlan(Struct, kw_only=True):
    """A plan, its text, and what its sessions are named by.

    Attributes:
        plan: the plan.
        text: as TOML.
        file: the absolute path of its file, or of the list that it was made from; empty for a pipe.
        base: the directory that paths in it start from.
        stem: what its sessions are named by.
        instead: keys in place of those at the top.
    """

    plan: Plan
    text: str
    file: str
    base: str
    stem: str
    instead: Mapping[str, Any]


def read_plan(
    file: str, *, directory: str, name: str | None = None, instead: Mapping[str, Any] | None = None
) -> ReadPlan:
    """Read a plan from its file, which a path from `directory` names.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is no plan, and why.
    """
    path = os.path.join(directory, file)
    try:
        text = Path(path).read_bytes().decode()
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no plan {file}.", hint="docs/plans.md shows how to write one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    return plan_of_text(text, place=file, file=os.path.realpath(path), stem=name, instead=instead)


def plan_of_text(
    text: str,
    *,
    place: str,
    file: str,
    base: str | None = None,
    stem: str | None = None,
    instead: Mapping[str, Any] | None = None,
    warnings: Iterable[str] = (),
) -> ReadPlan:
    """Return the plan of a text; ConfigError if it is none.

    Args:
        text: TOML.
        place: what errors name it.
        file: its absolute path.
        base: where paths in it start from; the directory of the file when None.
        stem: what its sessions are named by; from the file when None.
        instead: keys in place of those at the top.
        warnings: what was odd before.
    """
    base = os.path.dirname(file) if base is None else base
    instead = instead or {}
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: is not TOML ({error}).") from error

    def read(name: str) -> str:
        try:
            return Path(base, name).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{place}: {name} cannot be read ({getattr(error, 'strerror', None) or error}).",
                hint=f"paths start from {base}",
            ) from error

    plan = parse_plan(values, place=place, read=read, instead=instead, warnings=warnings)
    known = stem_of(file or place) if stem is None else stem_of(stem)
    if stem is not None and known != stem:
        raise UsageError(f"'{stem}' cannot name a plan.", hint="use letters, digits, dashes and underscores")
    check_names(plan, known)
    return ReadPlan(plan=plan, text=text, file=file, base=base, stem=known, instead=instead)


def text_of_tasks(prompts: Mapping[str, str], **keys: Any) -> str:
    """Return the text of a plan with a task for each prompt, which has some keys as well."""
    try:
        return render_toml({"task": {name: {"prompt": prompt, **keys} for name, prompt in prompts.items()}}).decode()
    except UnicodeEncodeError as error:
        raise UsageError("The lines and the prompt must be valid UTF-8.") from error
