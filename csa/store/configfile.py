"""Reading the configuration from its files and the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csa.errors import ConfigError, StateError
from csa.model.config import Config, Layer, combine_layers, from_environment
from csa.paths import user_config_file
from csa.store.atomic import read_regular

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    from typing import Any


def load_config(project: Path, environ: Mapping[str, str]) -> Config:
    """Combine the user's file, the project's `.csa/config.toml` and `CSA_CONF_*`; ConfigError names what is wrong."""
    return combine_layers(config_layers(project, environ))


def config_layers(project: Path, environ: Mapping[str, str]) -> list[Layer]:
    """Return the layers that exist, weakest first."""
    user = user_config_file(environ)
    is_named = "CSA_CONFIG" in environ  # by the user, who may mean a shell's <(...)
    files = [_read_layer(user, may_be_pipe=is_named), _read_layer(project / ".csa" / "config.toml", is_project=True)]
    if is_named and files[0] is None:
        raise ConfigError(f"CSA_CONFIG names {user}, which does not exist.")
    return [*(layer for layer in files if layer), *from_environment(environ)]


def _read_layer(path: Path, *, is_project: bool = False, may_be_pipe: bool = False) -> Layer | None:
    values = read_document(path, may_be_pipe=may_be_pipe)
    return None if values is None else Layer(str(path), values, is_project)


def read_document(path: Path, *, may_be_pipe: bool = False) -> dict[str, Any] | None:
    """Return what a TOML file has; None if there is none, ConfigError if it cannot be read."""
    try:
        content = path.read_bytes() if may_be_pipe else read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        denied = StateError.unreadable(path, error)
        raise ConfigError(denied.message, hint=denied.hint) from error
    import tomllib  # noqa: PLC0415  # without a config file nothing is parsed

    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML ({error}).") from error
