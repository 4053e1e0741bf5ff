"""Images and files of a prompt: reading them at the call, copies in the session, and reading these again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from csa.errors import UsageError
from csa.model.attachment import (
    MAX_BYTES,
    MAX_COUNT,
    MAX_TOTAL_BYTES,
    Attachment,
    copy_names,
    media_type_of,
)
from csa.model.redaction import Redactor
from csa.ownership import make_directory
from csa.runner.request import RunRequest
from csa.store.atomic import open_regular, replace_private
from csa.structs import replace


def with_contents(request: RunRequest, directory: str) -> RunRequest:
    """Return the request with the content of what it only names, as it is now; UsageError for what cannot be sent.

    Relative paths begin at `directory`.
    """
    images = tuple(_read("--image", each, directory) for each in request.images)
    files = tuple(_read("--file", each, directory) for each in request.files)
    _check(images, files)
    return replace(request, images=images, files=files)


def attachments_of(request: RunRequest) -> tuple[Attachment, ...]:
    """Return what comes with the prompt, of a request with contents."""
    return tuple(each for each in (*request.images, *request.files) if isinstance(each, Attachment))


def keep_copies(attachments: Sequence[Attachment], directory: Path, redactor: Redactor) -> list[Path]:
    """Write copies for the record, in which secrets of a text are redacted; return their paths."""
    return _write(attachments, directory, [_redacted(each, redactor) for each in attachments])


def write_copies(attachments: Sequence[Attachment], directory: Path) -> None:
    """Write copies for the tool."""
    _write(attachments, directory, [each.content for each in attachments])


def located(attachments: Sequence[Attachment], directory: str) -> tuple[Attachment, ...]:
    """Return them with the paths of their copies."""
    names = copy_names(attachments)
    return tuple(
        replace(each, path=os.path.join(directory, name)) for each, name in zip(attachments, names, strict=True)
    )


def read_copies(recorded: Iterable[Mapping[str, Any]], directory: Path) -> tuple[Attachment, ...]:
    """Return what came with an earlier prompt, as its record says; UsageError unless the copies are just that."""
    known = [Attachment(name=str(each["name"]), media_type=str(each["media_type"]), content=b"") for each in recorded]
    return tuple(
        _verified(each, str(record["sha256"]), directory / name)
        for each, record, name in zip(known, recorded, copy_names(known), strict=True)
    )


def _verified(known: Attachment, sha256: str, path: Path) -> Attachment:
    try:
        with open(open_regular(path), "rb") as file:
            found = replace(known, content=file.read(MAX_BYTES + 1))
    except OSError as error:
        raise UsageError(f"The copy of {known.name} cannot be read ({error.strerror}).", hint=_GIVE) from error
    if found.sha256 != sha256:
        raise UsageError(
            f"The copy of {known.name} is not what was sent: it was changed, or a secret in it was redacted.",
            hint=_GIVE,
        )
    return found


_GIVE = "give them again with --image and --file"


def _read(option: str, given: str | Attachment, directory: str) -> Attachment:
    if isinstance(given, Attachment):
        return given
    try:
        with open(open_regular(os.path.join(directory, given)), "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option}: {given} cannot be read ({reason}).") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{option}: {given} is larger than {MAX_BYTES >> 20} MiB.")
    kind = media_type_of(content)
    name = os.path.basename(given).encode("utf-8", "replace").decode()
    found = Attachment(name=name, media_type=kind or "", content=content)
    if option == "--image" and not found.is_image:
        raise UsageError(f"--image: {given} is not a PNG, JPEG, GIF or WebP image.")
    if option == "--file" and (kind is None or found.is_image):
        hint = f"--image {given}" if found.is_image else None
        raise UsageError(f"--file: {given} is neither text in UTF-8 nor a PDF.", hint=hint)
    return found


def _check(images: Sequence[Attachment], files: Sequence[Attachment]) -> None:
    every = (*images, *files)
    if len(every) > MAX_COUNT:
        raise UsageError(f"A prompt comes with at most {MAX_COUNT} images and files.")
    if sum(len(each.content) for each in every) > MAX_TOTAL_BYTES:
        raise UsageError(f"The images and files are larger than {MAX_TOTAL_BYTES >> 20} MiB together.")


def _redacted(attachment: Attachment, redactor: Redactor) -> bytes:
    text = attachment.text
    return attachment.content if text is None else redactor.redact(text).encode()


def _write(attachments: Sequence[Attachment], directory: Path, contents: Sequence[bytes]) -> list[Path]:
    """Write files in a new directory; an earlier agent of the session may have put anything in its place."""
    make_directory(directory)
    if directory.is_symlink():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory))
    paths = [directory / name for name in copy_names(attachments)]
    for path, content in zip(paths, contents, strict=True):
        replace_private(path, content)
    return paths
