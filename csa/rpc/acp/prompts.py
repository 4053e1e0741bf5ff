"""What a client sends as a prompt: blocks of text, images and resources; and as what they go to a tool. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from csa.model.attachment import MAX_BYTES, Attachment, media_type_of
from csa.rpc.jsonrpc import INVALID_PARAMS, Json, RpcError
from csa.structs import Struct


class Prompt(Struct):
    """A prompt's text, and what comes with it."""

    text: str
    images: tuple[Attachment, ...] = ()
    files: tuple[Attachment, ...] = ()


def read_prompt(blocks: Any) -> Prompt:
    """Return what the blocks of a `session/prompt` say; RpcError for what csa does not take.

    Texts and names of resources stay in their order, as one text: editors put mentions of files into sentences.
    """
    texts: list[str] = []
    quoted: list[str] = []  # the contents of resources, which come after the text
    attached: list[Attachment] = []
    for block in blocks if isinstance(blocks, list) else ():
        kind = block.get("type") if isinstance(block, dict) else None
        read = _READ.get(str(kind))
        if read is None:
            raise RpcError(INVALID_PARAMS, f"csa takes no content of the type {kind!r}", {"types": sorted(_READ)})
        text, found = read(block, len(attached) + 1)
        texts.append(text)
        if isinstance(found, str):
            quoted.append(found)
        elif found:
            attached.append(found)
    text = "".join(texts).strip()
    if not text and attached:
        text = "See what is attached."
    text = "\n\n".join([text, *quoted])
    if not text:
        raise RpcError(INVALID_PARAMS, "The prompt is empty")
    images = tuple(each for each in attached if each.is_image)
    return Prompt(text, images, tuple(each for each in attached if not each.is_image))


_Read = tuple[str, Attachment | str | None]


def _text(block: Json, _: int) -> _Read:
    return _string(block, "text"), None


def _image(block: Json, number: int) -> _Read:
    named = str(block.get("uri") or "") or f"image-{number}"
    found = _attachment(name_of(named), _decoded(block, "data"))
    if not found.is_image:
        raise RpcError(INVALID_PARAMS, f"{found.name} is not an image that csa knows: PNG, JPEG, GIF or WebP")
    return "", found


def _link(block: Json, _: int) -> _Read:
    """Name a resource that the agent can read itself; a file by its path."""
    uri = _string(block, "uri")
    return f"[{block.get('title') or block.get('name') or name_of(uri)}]({path_of(uri)})", None


def _resource(block: Json, _: int) -> _Read:
    resource = block.get("resource")
    if not isinstance(resource, dict):
        raise RpcError(INVALID_PARAMS, "A resource has no content")
    uri = _string(resource, "uri")
    mention = f"[{name_of(uri)}]({path_of(uri)})"
    if "blob" in resource:
        return mention, _attachment(name_of(uri), _decoded(resource, "blob"))
    return mention, f'<resource uri="{uri}">\n{_string(resource, "text")}\n</resource>'


_READ = {"text": _text, "image": _image, "resource_link": _link, "resource": _resource}


def name_of(uri: str) -> str:
    """Return the last part of a URI's path, with its fragment, which may name lines."""
    parts = _parts_of(uri)
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc or "resource"
    return f"{name}#{parts.fragment}" if parts.fragment else name


def path_of(uri: str) -> str:
    """Return the path that a URI of a file has, with its fragment; any other URI as it is."""
    parts = _parts_of(uri)
    if parts.scheme != "file":
        return uri
    return unquote(parts.path) + (f"#{parts.fragment}" if parts.fragment else "")


def _parts_of(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError:  # as http://[x: it names nothing that csa could read, and is passed on as it is
        return SplitResult("", "", uri, "", "")


def _attachment(name: str, content: bytes) -> Attachment:
    if len(content) > MAX_BYTES:
        raise RpcError(INVALID_PARAMS, f"{name} has more than {MAX_BYTES >> 20} MiB")
    kind = media_type_of(content)
    if kind is None:
        raise RpcError(INVALID_PARAMS, f"{name} is neither an image nor text nor a PDF")
    return Attachment(name=name, media_type=kind, content=content)


def _decoded(block: Json, key: str) -> bytes:
    from base64 import b64decode  # noqa: PLC0415  # few prompts have any

    try:
        return b64decode(_string(block, key), validate=True)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, f"{key} is not base64: {error}") from error


def _string(block: Json, key: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, f"{block.get('type', 'resource')}: {key} is not a string")
    return value
