"""Markdown of agents as HTML: what it may become, and what stays text."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csa.serve.markup import to_html
from tests.effort import examples

_TAGS = {
    *("p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "s", "a", "span"),
    *("hr", "br", "div", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"dir", "class", "tabindex", "start", "href", "rel", "target"}


class _Checker(HTMLParser):
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _TAGS
        given = dict(attrs)
        assert given.keys() <= _ATTRIBUTES
        if tag == "a":
            assert re.match(r"(https?|mailto):", given["href"] or "", re.IGNORECASE)
            assert given["rel"] == "noopener noreferrer"


def check(text: str) -> str:
    """Return the HTML of a text, which is harmless."""
    html = to_html(text)
    _Checker().feed(html)
    return html


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("# Title", '<h3 dir="auto">Title</h3>'),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("<script>alert(1)</script>", "&lt;script&gt;"),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("[x](JaVaScRiPt&colon;alert(1))", "[x](JaVaScRiPt"),
        ("[x](data:text/html;base64,PHN2Zz4=)", "[x](data:"),
        ("[x](vbscript:x)", "[x](vbscript:x)"),
        ("![pixel](https://example.org/x.png)", '!<a href="https://example.org/x.png"'),
        ("[docs](https://example.org 'elsewhere')", '<a href="https://example.org" rel="noopener noreferrer"'),
        ("[a file](src/a.py)", '<span class="path">a file</span>'),
        ("[x](//example.org/x)", '<span class="path">x</span>'),
        ("|a|\n|-:|\n|1|", '<td dir="auto" class="right">1</td>'),
        ("```py\nx\n```", '<pre tabindex="0"><code class="language-py">x\n'),
        ('```py" onclick="x\nx\n```', "&quot;"),
    ],
)
def test_what_becomes_of_markdown(text: str, part: str) -> None:
    """No HTML of an agent's, no image, no link but to the web and to mail."""
    assert part in check(text)


_PIECES = (
    "[a](",
    "javascript:x",
    "data:x",
    ")",
    "<img src=x onerror=x>",
    "`",
    "```",
    "|-|",
    "\n",
    "![",
    "](",
    "<http://x",
    ">",
    "&#106;",
    '"',
)


@given(st.lists(st.one_of(st.sampled_from(_PIECES), st.text(max_size=4)), max_size=12).map("".join))
@examples(30)
def test_nothing_else_comes_out(text: str) -> None:
    """Whatever an agent writes."""
    check(text)


def test_tables_without_end_stay_text() -> None:
    """Short rows of a wide table are filled up, so that a short text could become a million cells."""
    columns = "|" + "-|" * 300
    assert "<table" in to_html(f"{columns.replace('-', 'a')}\n{columns}\n|b|\n")
    assert "<table" not in to_html(f"{columns.replace('-', 'a')}\n{columns}\n" + "|b|\n" * 300)
