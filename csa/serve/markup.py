"""Markdown of agents as HTML that a page can show: no HTML of theirs, no images, links to the web and to mail only.

The only importer of markdown-it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

_SCHEMES = {"http", "https", "mailto"}
_DEEPEST, _ABOVE = 6, 2  # the page itself has two levels of headings
_MOST_CELLS = 20_000  # half a second
_DIRECTED = {"paragraph_open", "heading_open", "list_item_open", "th_open", "td_open", "blockquote_open"}


class _Renderer(RendererHTML):
    """What is wide can be scrolled with the keyboard."""

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return super().fence(tokens, idx, options, env).replace("<pre>", '<pre tabindex="0">', 1)

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return super().code_block(tokens, idx, options, env).replace("<pre>", '<pre tabindex="0">', 1)

    def table_open(self, *_: object) -> str:
        return '<div class="table" tabindex="0"><table>\n'

    def table_close(self, *_: object) -> str:
        return "</table></div>\n"


def _may_be_followed(url: str) -> bool:
    """Say whether markdown-it makes a link at all; what leads to no place on the web loses its address later."""
    try:
        return urlsplit(url).scheme.lower() in {*_SCHEMES, ""}
    except ValueError:
        return False


def _parser() -> MarkdownIt:
    found = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer)
    found.enable(["table", "strikethrough"]).disable(["image", "html_block", "html_inline"])
    found.validateLink = _may_be_followed  # type: ignore[method-assign]
    return found


_MARKDOWN, _WITHOUT_TABLES = _parser(), _parser().disable("table")


@lru_cache(maxsize=512)
def to_html(text: str) -> str:
    """Return the HTML of a text; what may be a table of very many cells stays as it is written."""
    lines = text.split("\n")
    is_vast = len(lines) * max(line.count("|") for line in lines) > _MOST_CELLS  # short rows are filled up
    tokens = (_WITHOUT_TABLES if is_vast else _MARKDOWN).parse(text)
    for token in tokens:
        _adapt(token)
    return str(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def _adapt(token: Token) -> None:
    if token.type in {"heading_open", "heading_close"}:
        token.tag = f"h{min(_DEEPEST, int(token.tag[1:]) + _ABOVE)}"
    if token.type in _DIRECTED:
        token.attrSet("dir", "auto")
    if style := token.attrs.pop("style", None):  # of a column; the page's policy allows no styles in HTML
        token.attrSet("class", str(style).rpartition(":")[2].strip())
    is_followed: list[bool] = []
    for child in token.children or ():
        if child.type == "link_open":
            is_followed.append(urlsplit(str(child.attrGet("href"))).scheme.lower() in _SCHEMES)
            _dress(child, may_lead=is_followed[-1])
        elif child.type == "link_close" and not is_followed.pop():
            child.tag = "span"


def _dress(link: Token, *, may_lead: bool) -> None:
    """Make a link one that tells the other side nothing; a path of the project stays text."""
    if may_lead:
        link.attrs |= {"rel": "noopener noreferrer", "target": "_blank"}
        link.attrs.pop("title", None)  # it would hide where the link leads
    else:
        link.tag, link.attrs = "span", {"class": "path"}
