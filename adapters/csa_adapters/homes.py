"""Where tools keep their state, according to an environment; and how csa shows these paths to people."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from csa.errors import UsageError

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CREDENTIALS = re.compile(r"^([a-z][a-z0-9+.-]*://)[^/?#]*@", re.IGNORECASE)
_ARGUMENT_LIMIT = 128 * 1024 - 1  # MAX_ARG_STRLEN with its NUL: longer, and exec fails with E2BIG


def is_uuid(text: str) -> bool:
    """Say whether `text` is a UUID in its usual form."""
    return _UUID.fullmatch(text) is not None


def home_directory(environ: Mapping[str, str], variable: str, default: str) -> str:
    """Return the absolute directory `variable` names, else `default` below HOME."""
    home = environ.get("HOME") or "/"
    named = environ.get(variable)
    return posixpath.normpath(posixpath.join(environ.get("PWD") or "/", named or posixpath.join(home, default)))


def shortened(path: str, environ: Mapping[str, str]) -> str:
    """Write a path in HOME with `~`, as it is shown and recorded."""
    home = posixpath.normpath(environ.get("HOME") or "/")
    if home != "/" and (path == home or path.startswith(home + "/")):
        return "~" + path[len(home) :]
    return path


def literal(path: str) -> str:
    """Write a path for a glob pattern, as `glob.escape`, whose import costs more than all of an adapter."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


def endpoint_name(url: str) -> str:
    """Name an endpoint without the credentials, query or trailing slash of its URL."""
    return re.split(r"[?#]", _CREDENTIALS.sub(r"\1", url.strip()))[0].rstrip("/")


def argument(text: str, what: str) -> str:
    """Return `text` if it can be one argument of a command; UsageError if the kernel would refuse it."""
    if "\0" in text:
        raise UsageError(f"The {what} contains a NUL character.")
    if len(text.encode("utf-8", "surrogateescape")) > _ARGUMENT_LIMIT:
        raise UsageError(f"The {what} is too long for a command-line argument (128 KiB).", hint="shorten it")
    return text
