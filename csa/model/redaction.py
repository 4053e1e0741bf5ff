"""Secrets become `[REDACTED]` before bytes reach disk or screen.

Two sources: exact values of environment variables whose names look secret, and well-known shapes of keys and tokens.
Both also match inside nested JSON strings (escaped newlines, escaped quotes). Every pattern is guarded by a literal
that must be present, so that text without secrets costs a few substring searches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

MARK = "[REDACTED]"
NAMES_VARIABLE = "CSA_SECRET_NAMES"  # names variables that are secrets, whatever they are called
_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}
_PLAIN = re.compile(r"[ !#-\[\]-~]+")  # printable ASCII without quote and backslash: JSON leaves it as it is
_WINDOW = 16 << 10  # longer than any secret that has no line break
_SPAN = 128 << 10  # longer than any secret: an environment value, a block of a key
_HELD = 1 << 20
_SEAMS = 64
ANSWER_MIN_LENGTH = 8  # in an answer, shorter environment values are more likely ordinary words than secrets
_MIN_LENGTH = 4
_MAX_PASSES = 4
_SECRET_NAME = re.compile(r"(?:_|^)(?:KEY|TOKEN|SECRET)$|PASSWORD|PASSWD|_CREDENTIALS?$", re.IGNORECASE)
_TRIVIAL = frozenset({"true", "false", "none", "null", "test", "yes", "auto", "default", "disabled", "enabled"})


def _token(start: str, rest: str) -> re.Pattern[str]:
    """Match a token that does not begin inside a word, except right after an escaped newline or tab of JSON.

    The text before it is checked once its start has been found, which `re` searches at memory speed.
    """
    return re.compile(rf"({start})(?:(?<![A-Za-z0-9_]{start})|(?<=\\[nrt]{start})){rest}")


_SHAPES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("openai", _token("sk-", r"[A-Za-z0-9_-]{16,}"), MARK),
    ("github", _token("gh[pousr]_", r"[A-Za-z0-9]{16,}"), MARK),
    ("github_pat", _token("github_pat_", r"[A-Za-z0-9_]{16,}"), MARK),
    ("slack", _token("xox[a-z]-", r"[A-Za-z0-9-]{8,}"), MARK),
    ("aws", _token("A[KS]IA", r"[0-9A-Z]{16}(?![0-9A-Z])"), MARK),
    ("google", _token("AIza", r"[A-Za-z0-9_-]{20,}"), MARK),
    ("jwt", _token("eyJ", r"[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"), MARK),
    ("bearer", _token("[Bb][Ee][Aa][Rr][Ee][Rr]", r"(\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1\2{MARK}"),
    (
        "pem",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
            r"(?:(?!-----END)[^\"]){0,65536}(?:-----END [A-Z0-9 ]*-----)?"
        ),
        MARK,
    ),
    (
        "url",
        re.compile(  # `user:password@`, or only a token
            r"://(?<=[A-Za-z0-9+.-]{2}://)(?:[^\s/:@\"'\\]{0,256}:[^\s/@\"'\\]{1,512}|[A-Za-z0-9_-]{20,512}:?)@"
        ),
        f"://{MARK}@",
    ),
)
# What follows a key's name up to its value: `_V2="`, `: `, ` => '`. A quote before the name has more
# likely ended a string than begun one. Applied to lower case, each pattern begins with a literal, which `re` searches
# at memory speed.
_UNQUOTED = r"[^\s\"'\\,;&<>(){}\[\]]{4,}"
_BEFORE_VALUE = (
    r"(?:[_-]?[a-z0-9]{0,12})(?:\\*[\"'])?\s{0,4}(?:=>|:=|=|:)\s{0,4}"
    rf"(?:(?P<quote>\\*[\"'])(?![\s,;:)\]}}+.>|&\"'])|(?:\\*[\"'])?(?={_UNQUOTED}))"
)
_ASSIGNED = tuple(
    (word, re.compile(pattern + _BEFORE_VALUE))
    for word, pattern in (
        ("key", r"key(?:(?<=[_-]key)|(?<=apikey)|(?<=accesskey)|(?<=privatekey))"),
        ("secret", r"secret"),
        ("token", r"token(?!s)"),
        ("passw", r"passw(?:or[dt]|d)"),
        ("passphrase", r"passphrase"),
    )
)
# What must be present, in lower case, before a pattern above is tried; groups have their names. One search looks for
# several, from a letter they share, or for one from its rarest letter: a search is fast between its stops.
# A letter that occurs in long runs, such as x, is not searched alone.
_GUARDS = tuple(
    map(
        re.compile,
        (
            r"k(?:(?P<openai>(?<=sk)-)|(?P<aws>(?<=ak)ia)|(?P<key>ey)|(?P<token>(?<=tok)en(?!s)))",
            r"(?P<aws>asia)",
            r"g(?:(?P<github>h[pousr]_)|(?P<github_pat>ithub_pat_))",
            r"(?P<slack>xox)",
            r"(?P<google>z(?<=aiz)a)",
            r"(?P<jwt>j(?<=eyj))",
            r"be(?:(?P<bearer>arer)|(?P<pem>(?<=-----be)gin))",
            r"(?P<url>//(?<=://))",
            r"(?P<secret>secret)",
            r"pass(?:(?P<passw>w)|(?P<passphrase>phrase))",
        ),
    )
)
_SECRET_KEY = re.compile(
    r"(?:api_?key|access_?key|private_?key|[_-]key|secret|token|passwor[dt]|passwd|passphrase)$", re.IGNORECASE
)
_REFERENCE = re.compile(  # `$TOKEN`, `settings.api_key`, `{password}`, `<your key>`
    r"[$%*]|[A-Za-z_]\w*(?:(?:\.|::|->)[A-Za-z_]\w*)+$|\{+[\w\s.:|!-]*\}+$|<[\w\s.-]*>$"
)
_LONE = re.compile(rf"(?P<value>{_UNQUOTED})(?P<call>\(?)")
_QUOTE = re.compile(r"(?<!\\)(\\*)([\"'])|\n")
_LONGEST_QUOTED = 1 << 10


def is_secret_name(name: str) -> bool:
    """Say whether an environment variable with that name is assumed to contain a secret."""
    return bool(_SECRET_NAME.search(name))


def can_be_hidden(value: str) -> bool:
    """Say whether redacting a value everywhere would hide it, and not ordinary words."""
    return len(value.strip()) >= _MIN_LENGTH and value.strip().lower() not in _TRIVIAL


def _declared(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an environment declares to be secrets."""
    return {name: environ[name] for name in environ.get(NAMES_VARIABLE, "").split(",") if name in environ}


class Redactor:
    """Redacts text and JSON values. Knows the secret values of one environment, and others that are declared.

    A declared one is redacted in answers, too, however short.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, declared: Iterable[str] = ()) -> None:
        environ = environ or {}
        named = {value.strip() for value in (*_declared(environ).values(), *declared)}
        values = named | {value.strip() for name, value in environ.items() if is_secret_name(name)}
        secrets = sorted(filter(can_be_hidden, values), key=len, reverse=True)
        long = [v for v in secrets if len(v) >= ANSWER_MIN_LENGTH]
        self.multiline = [v for v in long if "\n" in v]
        self._plain = [v for v in long if _PLAIN.fullmatch(v)]
        self._escapable = [(_hint(v), _nested_pattern(v)) for v in long if not _PLAIN.fullmatch(v)]
        short = [v for v in secrets if len(v) < ANSWER_MIN_LENGTH]
        self._short = [(_hint(v), _word_pattern(v)) for v in short if v not in named]
        self._escapable += [(_hint(v), _word_pattern(v)) for v in short if v in named]
        self._literals = [*self._plain, *(hint for hint, _ in (*self._escapable, *self._short))]

    def redact(self, text: str) -> str:
        """Redact text for the disk or for progress: everything that may be a secret."""
        lowered = _lower(text)
        hints = _hints_in(lowered)
        redacted = self._redact_known(text, hints)
        for hint, pattern in self._short:
            if hint in redacted:
                redacted = pattern.sub(MARK, redacted)
        if redacted != text:
            lowered = _lower(redacted)
        for word, pattern in _ASSIGNED:
            if word in hints and (spans := _assigned(redacted, lowered, pattern)):
                redacted, lowered = _without(redacted, spans), _without(lowered, spans)
        return redacted

    def redact_answer(self, text: str) -> str:
        """Redact the answer on stdout: long environment values and well-known shapes, so that code in it survives."""
        return self._redact_known(text, _hints_in(text.lower()))

    def redact_data(self, value: Any, key: str = "") -> Any:
        """Return a JSON value with every string redacted, and strings under secret-looking keys replaced."""
        if isinstance(value, str):
            if len(value) >= _MIN_LENGTH and key and _SECRET_KEY.search(key) and value.lower() not in _TRIVIAL:
                return MARK
            return self.redact(value)
        if isinstance(value, Mapping):
            return {self.redact(str(name)): self.redact_data(item, str(name)) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.redact_data(item, key) for item in value]
        return self._redact_number(value)

    def redact_output(self, value: Any) -> Any:
        """Return the JSON value of an answer, its strings redacted like an answer."""
        if isinstance(value, str):
            return self.redact_answer(value)
        if isinstance(value, dict):
            return {self.redact_answer(name): self.redact_output(item) for name, item in value.items()}
        return [self.redact_output(item) for item in value] if isinstance(value, list) else self._redact_number(value)

    def _redact_number(self, value: Any) -> Any:
        return MARK if isinstance(value, int | float) and str(value) in self._plain else value

    def may_hold_secret(self, text: str) -> bool:
        """Say cheaply whether `redact_data` could change what serialises to `text`; False is certain."""
        lowered = text.lower()
        return any(guard.search(lowered) for guard in _GUARDS) or any(literal in text for literal in self._literals)

    def _redact_known(self, text: str, hints: Collection[str | None]) -> str:
        for _ in range(_MAX_PASSES):  # a key right after another one shows its edge only once that is replaced
            before, text = text, self._redact_once(text, hints)
            if before == text:
                break
        return text

    def _redact_once(self, text: str, hints: Collection[str | None]) -> str:
        for value in self._plain:
            if value in text:
                text = text.replace(value, MARK)
        for hint, pattern in self._escapable:
            if hint in text:
                text = pattern.sub(MARK, text)
        for name, pattern, replacement in _SHAPES:
            if name in hints:
                text = pattern.sub(replacement, text)
        return text


class StreamRedactor:
    """Redacts a text stream cut anywhere: holds back an end that may be the beginning of a secret."""

    def __init__(self, redactor: Redactor, *, max_held: int = 1 << 20) -> None:
        self._redactor = redactor
        self._max_held = max_held
        self._held = ""

    def feed(self, text: str) -> str:
        """Take text; return what can be released: complete lines, unless a key block is open at their end."""
        self._held += text
        cut = self._held.rfind("\n") + 1
        if not cut and len(self._held) > self._max_held:
            cut = self._cut_within_line()
        cut = self._before_open_secret(cut)
        if not cut:
            return ""
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._redactor.redact(ready)

    def close(self) -> str:
        """Return the rest."""
        ready, self._held = self._held, ""
        return self._redactor.redact(ready)

    def _cut_within_line(self) -> int:
        """Find a place in an endless line, well before its end, where a cut does not change the redaction."""
        end = len(self._held) - self._max_held // 4
        for cut in range(end, end // 2, -max(1, end // 64)):
            before, after = self._held[max(0, cut - _WINDOW) : cut], self._held[cut : cut + _WINDOW]
            redact = self._redactor.redact
            if redact(before) + redact(after) == redact(before + after):
                return cut
        return 0 if len(self._held) < 4 * self._max_held else end

    def _before_open_secret(self, cut: int) -> int:
        """Move a cut before a key block, or a multi-line secret, that is open there."""
        begin = self._held.rfind("-----BEGIN ", 0, cut)
        if begin >= 0 and "-----END" not in self._held[begin:cut] and cut - begin < 1 << 16:
            cut = begin
        for value in self._redactor.multiline:
            first = value.partition("\n")[0] + "\n"
            at = self._held.find(first, max(0, cut - len(value)), cut)
            while at >= 0 and not value.startswith(self._held[at:cut]):
                at = self._held.find(first, at + 1, cut)
            cut = at if at >= 0 else cut
        return cut


def redact_long(
    chunks: Iterable[str], redact: Callable[[str], str], *, size: int = _HELD, span: int = _SPAN
) -> Iterator[str]:
    """Yield a text of any length, cut anywhere, as `redact` would return it, with little more than `size` in memory.

    It is cut only where redacting the `span` characters on either side gives the same result with and without the cut.
    """
    held = ""
    for chunk in chunks:
        held += chunk
        if len(held) > size + span and (cut := _seam(held, len(held) - span, span, redact)):
            yield redact(held[:cut])
            held = held[cut:]
    yield redact(held)


def _seam(text: str, end: int, span: int, redact: Callable[[str], str]) -> int:
    """Return where a text can be cut, at `end` or before, after a line if possible; 0 if no place is found."""
    begin = max(0, end - span)
    likely = (text.rfind("\n", begin, end) + 1, text.rfind("-----BEGIN ", begin, end))
    for cut in chain(likely, range(end, begin, -max(1, span // _SEAMS))):
        before, after = text[max(0, cut - span) : max(0, cut)], text[max(0, cut) : cut + span]
        if before and redact(before) + redact(after) == redact(before + after):
            return cut
    return 0


def _word_pattern(value: str) -> re.Pattern[str]:
    """Match a short value where it is not a part of a word."""
    return re.compile(rf"(?<!\w){_nested_pattern(value).pattern}(?!\w)")


def _nested_pattern(value: str) -> re.Pattern[str]:
    """Match a value as it is, and as it looks inside any number of JSON strings."""
    return re.compile("".join(map(_nested_character, value)))


def _nested_character(character: str) -> str:
    if character in _ESCAPES:
        return f"(?:{re.escape(character)}|\\\\+{_ESCAPES[character]})"
    if character == "\\":
        return r"\\+"
    if character == '"':
        return r'\\*"'
    if character.isascii() and character.isprintable():
        return re.escape(character)
    units = character.encode("utf-16-be", "surrogatepass")
    code = "".join(rf"\\+u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
    return f"(?:{re.escape(character)}|(?i:{code}))"


def _hint(value: str) -> str:
    """Return the longest part that is spelled the same in every nesting."""
    return max(re.findall(r"[A-Za-z0-9_./+=-]+", value), key=len, default="")


def _hints_in(lowered: str) -> set[str | None]:
    """Return the names of the patterns with a hint in a lower-case text."""
    return {found.lastgroup for guard in _GUARDS if guard.search(lowered) for found in guard.finditer(lowered)}


def _assigned(text: str, lowered: str, pattern: re.Pattern[str]) -> list[tuple[int, int]]:
    """Return the spans of values that are assigned to such a key, and are not references or calls."""
    spans = []
    at = 0
    while match := pattern.search(lowered, at):
        at = start = match.end()
        quote = match["quote"]
        stop = (quote and _end_of_quoted(text, start, quote)) or _end_of_unquoted(text, start)
        value = text[start:stop]
        is_known = value.startswith(MARK) or value.lower() in _TRIVIAL
        if len(value) >= _MIN_LENGTH and not is_known and not _REFERENCE.match(value):
            spans.append((start, stop))
            at = stop
    return spans


def _end_of_quoted(text: str, start: int, quote: str) -> int | None:
    """Return where the string ends that begins after a quote; None if it does not end in its line.

    Inside JSON strings a quote has backslashes, and the string ends at the next with as many: one inside has more, and
    one with fewer ends the surrounding string.
    """
    slashes = len(quote) - 1
    for found in _QUOTE.finditer(text, start, start + _LONGEST_QUOTED):
        if found[0] == "\n":
            break
        if found[2] != quote[-1]:
            continue
        if len(found[1]) % (2 * slashes + 2) == slashes:
            return found.end() - slashes - 1
        if len(found[1]) < slashes:
            break
    return None


def _end_of_unquoted(text: str, start: int) -> int:
    """Return where a value without quotes ends; its start if there is none, or it is a call."""
    found = _LONE.match(text, start)
    return start if found is None or found["call"] else found.end("value")


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Replace the text in the spans."""
    ends = [0, *(stop for _, stop in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return MARK.join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _lower(text: str) -> str:
    """Return a text in lower case, with every letter at its old position."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter whose lower case is longer
        lowered = "".join(low if len(low := c.lower()) == 1 else c for c in text)
    return lowered
