import pytest

from tsengine.promql import lexer as lx


def tokens(text):
    lexer = lx.Lexer(text)
    found = []
    while True:
        token = lexer.next()
        found.append(token)
        if token.kind in (lx.EOF, lx.ERROR):
            return found


def kinds(text):
    return [token.kind for token in tokens(text)]


def values(text):
    return [token.value for token in tokens(text)[:-1]]


def test_words_and_keywords():
    assert kinds("foo SUM by inf Bool foo:bar atan2 step") == [
        "IDENTIFIER", "sum", "by", "NUMBER", "bool", "METRIC_IDENTIFIER", "atan2", "step", "EOF",
    ]  # fmt: skip
    assert values("foo SUM") == ["foo", "SUM"]


def test_fill_is_a_keyword_only_before_a_parenthesis():
    assert kinds("fill + fill_left") == ["IDENTIFIER", "+", "IDENTIFIER", "EOF"]
    assert kinds("fill \n ( fill_right(")[:3] == ["fill", "(", "fill_right"]


def test_words_in_braces_are_plain():
    assert kinds("{sum=~'a',on!~'b'} on") == [
        "{", "IDENTIFIER", "=~", "STRING", ",", "IDENTIFIER", "!~", "STRING", "}", "on", "EOF",
    ]  # fmt: skip


def test_two_character_operators_are_one_token():
    assert kinds("</ >/ < / >= <= == != ^ %") == [
        "</", ">/", "<", "/", ">=", "<=", "==", "!=", "^", "%", "EOF",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["1", "1.5", ".5", "5.", "1e5", "1E-5", "1.5e+10", "0x1F", "0X_1f", "1_000", "017", "Inf",
     "nan", "1_0.2_5e1_0"],
)  # fmt: skip
def test_numbers(text):
    assert tokens(f" {text} ") == [
        (lx.NUMBER, 1, len(text) + 1, text),
        (lx.EOF, len(text) + 2, len(text) + 2, ""),
    ]


@pytest.mark.parametrize("text", ["5m", "1h30m", "1y2w3d4h5m6s7ms", "0s", "9ms"])
def test_durations(text):
    assert tokens(text)[0] == (lx.DURATION, 0, len(text), text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("1..2", "1.."), ("0de", "0de"), ("5mm", "5mm"), ("5x", "5"), ("1__0", "1__0"), ("1e", "1e")],
)
def test_broken_numbers(text, shown):
    assert tokens(text)[0].value == f'bad number or duration syntax: "{shown}"'


def test_brackets():
    assert kinds("[ 5m + STEP() : max_of(1,2) ]") == [
        "[", "DURATION", "+", "step", "(", ")", ":", "max_of", "(", "NUMBER", ",", "NUMBER", ")",
        "]", "EOF",
    ]  # fmt: skip


def test_comments_and_space():
    text = "foo # all the rest\n\t{ # here too }\r\na='b'}"
    assert kinds(text) == ["IDENTIFIER", "{", "IDENTIFIER", "=", "STRING", "}", "EOF"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\a\b\f\n\r\t\v\\\""', '\a\b\f\n\r\t\v\\"'),
        (r"'\''", "'"),
        (r'"\x41\101\u0041\U00000041"', "AAAA"),
        (r'"\xc3\xa4"', "ä"),
        (r'"\xff"', "\udcff"),
        (r'"\U0001F600"', "😀"),
        (r"`\n\`", "\\n\\"),
        ("`a\nb`", "a\nb"),
        ("'ä \"'", 'ä "'),
        ("''", ""),
    ],
)
def test_strings(text, value):
    assert tokens(text)[0][0::3] == (lx.STRING, value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"\\d"', "unknown escape sequence U+0064 'd'"),
        ('"\\\'"', "unknown escape sequence U+0027 '''"),
        ('"\\400"', "escape sequence is an invalid Unicode code point"),
        ('"\\ud800"', "escape sequence is an invalid Unicode code point"),
        ('"\\xZZ"', "illegal character U+005A 'Z' in escape sequence"),
        ('"a\nb"', "unterminated quoted string"),
        ("'abc", "unterminated quoted string"),
        ("`abc", "unterminated raw string"),
        ('"\udcff"', "invalid UTF-8 rune"),
    ],
)
def test_broken_strings(text, message):
    assert tokens(text)[0][0::3] == (lx.ERROR, message)


@pytest.mark.parametrize(
    ("text", "start", "message"),
    [
        ("a ? b", 2, "unexpected character: '?'"),
        ("a ä b", 2, "unexpected character: 'ä'"),
        ("a =~ b", 2, "unexpected character after '=': '~'"),
        ("a ! b", 2, "unexpected character after '!': ' '"),
        ("a}", 1, "unexpected character: '}'"),
        ("a]", 1, "unexpected right bracket ']'"),
        ("a)", 2, "unexpected right parenthesis ')'"),
        ("(a", 2, "unclosed left parenthesis"),
        ("{a*", 2, "unexpected character inside braces: '*'"),
        ("{a!>", 2, "unexpected character after '!' inside braces: '>'"),
        ("{{", 1, "unexpected left brace '{'"),
        ("{a", 2, "unexpected end of input inside braces"),
        ("a[5m", 4, "unclosed left bracket"),
        ("a[", 2, "unexpected end of input in duration expression"),
        ("a[foo]", 2, "unexpected character in duration expression: 'f'"),
        ("a['5m']", 2, "unexpected character in duration expression: '\\''"),
        ("a[5m foo]", 5, "unexpected character: 'f', expected ':'"),
    ],
)
def test_errors_and_their_places(text, start, message):
    token = tokens(text)[-1]
    assert token == (lx.ERROR, start, token.end, message)


def test_an_error_repeats():
    lexer = lx.Lexer("?")
    assert lexer.next() == lexer.next()


def test_positions_count_bytes():
    found = tokens('{"ä"} + foo')
    assert [(t.kind, t.start, t.end) for t in found] == [
        ("{", 0, 1), ("STRING", 1, 5), ("}", 5, 6), ("+", 7, 8), ("IDENTIFIER", 9, 12),
        ("EOF", 12, 12),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "expected"), [(0, (1, 1)), (4, (1, 5)), (5, (2, 1)), (7, (2, 3))]
)
def test_line_and_column(offset, expected):
    assert lx.line_column('"ä"\nfoo', offset) == expected


def test_line_and_column_of_ascii():
    text = "foo\n  bar"
    assert [lx.line_column(text, offset) for offset in (0, 3, 4, 6)] == [
        (1, 1), (1, 4), (2, 1), (2, 3),
    ]  # fmt: skip


def test_description_of_tokens():
    lexer = lx.Lexer("sum BY and foo a:b 5m 'averylongstring' , start 12")
    described = []
    while (token := lexer.next()).kind != lx.EOF:
        described.append(lexer.describe(token))
    assert described == [
        "<aggr:sum>", "<BY>", "<op:and>", 'identifier "foo"', 'metric identifier "a:b"',
        'duration "5m"', "string \"'averylong\"...", '","', '"start"', 'number "12"',
    ]  # fmt: skip
    assert lexer.describe(token) == "end of input"


@pytest.mark.parametrize("text", ["", 'a"b\\c\n\t\x00\x7f', "ä😀\u200b\U000e0001", "\udcff"])
def test_quote_is_read_back(text):
    assert tokens(lx.quote(text))[0][0::3] == (lx.STRING, text)
