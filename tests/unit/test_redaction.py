"""Secrets become [REDACTED]; what only looks like one stays."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from csa.model.redaction import MARK, NAMES_VARIABLE, Redactor, StreamRedactor, is_secret_name, redact_long

SHAPES = {
    "openai": "sk-proj-abcDEF0123456789_-xyz",
    "anthropic": "sk-ant-api03-abcdefghijklmnop",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github-oauth": "gho_abcdefghijklmnopqrstuvwxyz0123456789",
    "github-fine": "github_pat_11ABCDEFG0123456789_abcdef",
    "slack": "xoxb-123456789012-abcdefABCDEF",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "aws-temporary": "ASIAIOSFODNN7EXAMPLE",
    "google": "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
}
FRAMES = [
    "{}",
    "the key is {} and more",
    "\n{}\n",
    '"{}"',
    "'{}'",
    "({}),",
    "a\tb:{};",
    "line\\n{}",
    "tab\\t{}\\n",
    "twice\\\\n{}",
    "KEY={}",
    "https://h/?q={}&x=1",
    "<{}>",
]
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow0000\nIBAAK1111\n-----END RSA PRIVATE KEY-----"
PGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBF0000\n=aB1c\n-----END PGP PRIVATE KEY BLOCK-----"
PLAIN = Redactor()


@pytest.mark.parametrize("secret", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("frame", FRAMES)
def test_every_shape_in_every_place(secret: str, frame: str) -> None:
    """A well-known shape is redacted wherever it stands, in an answer too, and what is around it stays."""
    text = frame.format(secret)
    for redacted in (PLAIN.redact(text), PLAIN.redact_answer(text)):
        assert secret not in redacted
        assert MARK in redacted
        assert redacted.startswith(frame.partition("{}")[0])
    assert PLAIN.may_hold_secret(text)


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize(
    "secret", [*SHAPES.values(), PEM, PGP, "Bearer abcdef.ghijkl-123"], ids=[*SHAPES, "pem", "pgp", "bearer"]
)
def test_nested_json_strings(secret: str, levels: int) -> None:
    """A secret inside JSON inside a string inside JSON is found, and the outer text stays JSON."""
    text = f"first\n{secret}\nlast"
    for _ in range(levels):
        text = json.dumps({"text": text})
    redacted: Any = PLAIN.redact(text)
    assert MARK in redacted
    for piece in filter(None, secret.removeprefix("Bearer ").splitlines()):
        assert piece not in redacted
    for _ in range(levels):
        redacted = json.loads(redacted)["text"]
    assert redacted.startswith("first\n")
    assert redacted.endswith("last")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abcdefgh12345", f"Authorization: Bearer {MARK}"),
        ("authorization: bearer abcdefgh12345", f"authorization: bearer {MARK}"),
        ("postgres://user:hunter2@db:5432/x", f"postgres://{MARK}@db:5432/x"),
        ("redis://:hunter2@cache", f"redis://{MARK}@cache"),
        ("9p://me:hunter2@host", f"9p://{MARK}@host"),
        ("git clone https://me:pass@host/r.git", f"git clone https://{MARK}@host/r.git"),
        ("api_key=abcd1234", f"api_key={MARK}"),
        ("API-KEY: abcd1234", f"API-KEY: {MARK}"),
        ("export DB_PASSWORD='hunter22'", f"export DB_PASSWORD='{MARK}'"),
        ('{"client_secret": "abcd1234"}', f'{{"client_secret": "{MARK}"}}'),
        ('{\\"access_token\\": \\"abcd1234\\"}', f'{{\\"access_token\\": \\"{MARK}\\"}}'),
        ("password := opensesame", f"password := {MARK}"),
        ("?token=abcd1234&next=1", f"?token={MARK}&next=1"),
        ('DB_PASSWORD="correct horse battery staple" x', f'DB_PASSWORD="{MARK}" x'),
        ('{"password": "pa,ss;word&more"}', f'{{"password": "{MARK}"}}'),
        ("secret: 'a b (c' d", f"secret: '{MARK}' d"),
        ('token="say \\"hi\\" \\\\" x', f'token="{MARK}" x'),
        ("token='it\\'s so' x", f"token='{MARK}' x"),
        ('{\\"password\\": \\"pa,s \\\\\\"so\\\\\\" w\\"}', f'{{\\"password\\": \\"{MARK}\\"}}'),
        ('password="correct\nhorse battery"', f'password="{MARK}\nhorse battery"'),
        ('\\"password=\'abcd efg\\"', f'\\"password=\'{MARK} efg\\"'),
        ("https://0123456789abcdef0123456789abcdef01234567@github.com/o/r", f"https://{MARK}@github.com/o/r"),
        ("https://abcdef_ABCDEF-0123456789:@api.example", f"https://{MARK}@api.example"),
    ],
)
def test_values_with_a_context(text: str, expected: str) -> None:
    """Behind Bearer, in a URL, and behind a secret-looking key only the value goes."""
    assert PLAIN.redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "some_module.long_function.attribute",
        "token = settings.api_token",
        "api_key = os.environ.get('OPENAI_API_KEY')",
        "password = $PASSWORD",
        "secret = None",
        "token: true",
        "input_tokens=123456",
        "max_tokens: 4096",
        "the key point is that tokens are counted",
        "def tokenize(text): ...",
        "monkey=banana",
        "task-1234567890123456789",
        "https://host:8080/path@v1",
        "user@host.example",
        "sk-short",
        "Bearer of news",
        "git@github.com:me/repo.git",
        "thread_abc123 01JH4QWERT1234567890ABCDEF",
        "password = get_password(user)",
        "token: str",
        'key = "name"',
        'token = ""',
        'password="$PASSWORD"',
        'password="settings.db.password"',
        "password='{password}' token: '{{ vault.token }}'",
        'secret: "<your secret here>"',
        'print("password: ", word, "end")',
        "'token=\"' + word + '\" end'",
        'labels = ["token=", "secret:"]',
        'title="Password:">Your word</label class="wide">',
        "ssh://git@github.com/o/r https://user@host",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Dotted names, references, counts and prose survive."""
    assert PLAIN.redact(text) == text
    assert PLAIN.redact_answer(text) == text


@pytest.mark.parametrize("glued", ["github", "github-fine", "slack", "jwt", "openai"])
def test_a_token_glued_behind_another(glued: str) -> None:
    """A token whose edge shows only when the one before it has gone goes too, in an answer as well."""
    text, expected = f"keys: {SHAPES['aws']}{SHAPES[glued]} end", f"keys: {MARK}{MARK} end"
    assert PLAIN.redact(text) == PLAIN.redact_answer(text) == expected


@pytest.mark.parametrize("before", ["\u0130", "\u0130" * 9, "\u0130stanbul: \u0130zmir, ", "\u1e9e\u03a3"])
def test_letters_whose_lower_case_is_longer(before: str) -> None:
    """A dotted capital I is two characters in lower case: what is behind it is redacted where it stands."""
    for text, expected in (
        ("password = hunter2hunter2 and more", f"password = {MARK} and more"),
        ('API_KEY="a b c d e" rest', f'API_KEY="{MARK}" rest'),
        ("Token: abcd1234\nnext", f"Token: {MARK}\nnext"),
    ):
        assert PLAIN.redact(f"{before} {text}") == f"{before} {expected}"
        assert PLAIN.redact(f"{text} {before} {text}") == f"{expected} {before} {expected}"


def test_an_open_key_block_is_redacted_to_its_end() -> None:
    """A private key that is cut off is a secret all the same; a public one is none."""
    assert PLAIN.redact("x\n" + PEM[:-33]) == f"x\n{MARK}"
    public = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"
    assert PLAIN.redact(public) == public


@pytest.mark.parametrize(
    "code",
    [
        'api_key = "abcd1234"',
        "password: hunter22",
        'TOKEN="changeme-please"',
        '{"client_secret": "abcd1234"}',
    ],
)
def test_an_answer_keeps_its_code(code: str) -> None:
    """On stdout assignments survive, since they are code."""
    assert PLAIN.redact_answer(code) == code


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "GH_TOKEN", "TOKEN", "MY_SECRET", "DB_PASSWORD", "PASSWORD_FILE_X"])
def test_names_of_secrets(name: str) -> None:
    """The names that hold secrets, in any case."""
    assert is_secret_name(name)
    assert is_secret_name(name.lower())


@pytest.mark.parametrize("name", ["PATH", "HOME", "KEYBOARD", "MONKEY", "TOKENS", "MAX_TOKENS", "EDITOR"])
def test_names_of_no_secrets(name: str) -> None:
    """Ordinary names are not taken for secrets."""
    assert not is_secret_name(name)


def test_environment_values() -> None:
    """A long value goes anywhere, a short one only as a whole word, a trivial one never."""
    redactor = Redactor(
        {"A_KEY": "correct horse", "B_TOKEN": "abc12", "C_SECRET": "true", "D_KEY": "xyz", "E": "plain"}
    )
    assert redactor.redact("xxcorrect horsexx") == f"xx{MARK}xx"
    assert redactor.redact("abc12 abc123 (abc12)") == f"{MARK} abc123 ({MARK})"
    assert redactor.redact("true xyz plain") == "true xyz plain"
    assert redactor.redact_answer("correct horse, abc12") == f"{MARK}, abc12"


@pytest.mark.parametrize(
    "value",
    ['quo"te\\back', "line one\nline two", "tab\tbed and é", "ümlaut-secret", "emoji \U0001f600 too", "no text \udcff"],
)
def test_environment_values_inside_json(value: str) -> None:
    """A value is found as it is spelled inside one and two levels of JSON strings."""
    redactor = Redactor({"MY_SECRET": value})
    text = value
    for _ in range(3):
        assert redactor.may_hold_secret(text)
        assert redactor.redact(f"<{text}>") == f"<{MARK}>"
        assert redactor.redact_answer(f"<{text}>") == f"<{MARK}>"
        text = json.dumps(text)[1:-1]


def test_a_value_that_holds_another_goes_whole() -> None:
    """The longer of two secrets is replaced first."""
    assert Redactor({"A_KEY": "abcdefgh", "B_KEY": "abcdefgh-ijkl"}).redact("abcdefgh-ijkl") == MARK
    assert Redactor({"A_KEY": "zebra-cross", "B_KEY": "a zebra-crossing"}).redact("a zebra-crossing") == MARK


def test_a_value_of_eight_characters_is_redacted_in_an_answer() -> None:
    """One of seven is more likely a word."""
    redactor = Redactor({"A_KEY": "abcd1234", "B_KEY": "abc1234"})
    assert redactor.redact_answer("xabcd1234x abc1234") == f"x{MARK}x abc1234"
    assert redactor.redact("xabcd1234x abc1234") == f"x{MARK}x {MARK}"


def test_data_is_redacted_by_key_and_by_content() -> None:
    """Texts under secret-looking keys go whole; numbers, and counts of tokens, survive."""
    data = {
        "password": "any thing at all",
        "nested": [{"api_key": "abcd"}, f"see {SHAPES['github']}"],
        "tokens": "12345",
        "input_tokens": 12345,
        "token": 987654,
        "access_token": None,
        "secrets": {"list": ["a"]},
        "ok": True,
    }
    assert PLAIN.redact_data(data) == {
        **data,
        "password": MARK,
        "nested": [{"api_key": MARK}, f"see {MARK}"],
    }


def test_all_texts_of_a_list_under_such_a_key_go() -> None:
    """However deep they are in it."""
    data = {"password": ["any thing", ["at all"], {"hint": "none of it"}], "names": ["any thing"]}
    assert PLAIN.redact_data(data) == {**data, "password": [MARK, [MARK], {"hint": "none of it"}]}


def test_a_secret_as_a_key_of_data_goes() -> None:
    """Names of an object are redacted like its values."""
    assert PLAIN.redact_data({SHAPES["github"]: 1}) == {MARK: 1}


_SECRETS = ["correct horse battery", "s3cr3t", 'a"b\\c', "x\ny\tz", "ümläut", "12345678"]
_PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *_SECRETS,
            *SHAPES.values(),
            *("token", "password=", "Bearer ", "key: value1", "sk-", "://a:b@", "="),
            *('password="a b c"', "secret: '", '"', "'", '\\"', "\\", "\n", "x y", f"://{'a' * 20}@"),
        ]
    ),
)
_TEXT = st.lists(_PIECES, max_size=4).map("".join)
_DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(_DATA, st.booleans())
def test_no_hint_means_no_secret(data: Any, ascii_only: bool) -> None:  # noqa: FBT001
    """Where the cheap test says that a line holds no secret, redacting changes nothing."""
    redactor = Redactor({f"V{at}_SECRET": value for at, value in enumerate(_SECRETS)})
    if not redactor.may_hold_secret(json.dumps(data, ensure_ascii=ascii_only)):
        assert redactor.redact_data(data) == data


@given(_TEXT)
@example("SECRET:':000\"'")
def test_redacting_twice_changes_nothing(text: str) -> None:
    """What has been redacted is not redacted further."""
    redactor = Redactor({f"V{at}_SECRET": value for at, value in enumerate(_SECRETS)})
    once = redactor.redact(text)
    assert redactor.redact(once) == once


def test_a_stream_lets_whole_lines_go() -> None:
    """Lines are let go as they end, the rest at the close."""
    stream = StreamRedactor(PLAIN)
    assert stream.feed("one\ntw") == "one\n"
    assert stream.feed("o ghp_abcdefgh") == ""
    assert stream.feed("ijklmnopqrst\nthr") == f"two {MARK}\n"
    assert stream.close() == "thr"
    assert stream.close() == ""


def test_a_stream_holds_back_a_secret_of_several_lines() -> None:
    """Until it can be seen whether the next lines make it one; what only begins like it is let go."""
    stream = StreamRedactor(Redactor({"MY_SECRET": "first line\nsecond line"}))
    assert stream.feed("say first line\n") == "say "
    assert stream.feed("second li") == ""
    assert stream.feed("ne\nend\n") == f"{MARK}\nend\n"
    assert stream.feed("say first line\n") == "say "
    assert stream.feed("another line\n") == "first line\nanother line\n"
    assert stream.close() == ""


def test_a_stream_cuts_no_secret_in_an_endless_line() -> None:
    """It is held until its end comes, as long as that is bearable; what can be cut is let go."""
    stream = StreamRedactor(PLAIN, max_held=64)
    assert stream.feed("sk-" + "a" * 100) == ""
    assert stream.feed("a" * 50 + "\n") == f"{MARK}\n"
    said = stream.feed("word " * 40)
    assert said
    assert said + stream.close() == "word " * 40
    stream.feed("sk-" + "a" * 1000)
    assert len(stream.close()) < 1000  # not without end


def test_a_long_text_is_redacted_in_pieces() -> None:
    """They are as what the whole would give, and none is much longer than asked for, be there lines or not."""
    for filling in ("word ", "line\n", "x"):
        text = f"{filling * 300} {SHAPES['github']} {filling * 300}"
        pieces = list(
            redact_long([text[at : at + 100] for at in range(0, len(text), 100)], PLAIN.redact, size=400, span=200)
        )
        assert "".join(pieces) == PLAIN.redact(text)
        assert max(map(len, pieces)) <= 400 + 200 + 100


def test_declared_secrets_are_hidden_in_answers_too() -> None:
    """Whatever the variable is called, and however short the value: then where it is not a part of a word."""
    for redactor in (Redactor({}, ["hunter2"]), Redactor({NAMES_VARIABLE: "A,B", "B": "hunter2", "C": "swordfish"})):
        assert redactor.redact_answer('it is "hunter2", not hunter22 or swordfish') == (
            'it is "[REDACTED]", not hunter22 or swordfish'
        )
