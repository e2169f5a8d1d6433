"""PromQL text to tokens, one at a time.

The lexer runs on the UTF-8 bytes of the query seen as Latin-1 characters, so that every position
is a byte offset and the regular expressions below do the scanning. It has three states: normal,
inside braces (keywords are plain identifiers there) and inside brackets (durations only). An
error is a token like any other: it counts only once the parser gets there.

Positions are byte offsets from 0. Thread rules: one lexer per parse.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

EOF: Final = "EOF"
ERROR: Final = "ERROR"
IDENTIFIER: Final = "IDENTIFIER"
METRIC_IDENTIFIER: Final = "METRIC_IDENTIFIER"  # an identifier with a colon
NUMBER: Final = "NUMBER"
DURATION: Final = "DURATION"
STRING: Final = "STRING"

AGGREGATORS: Final = frozenset(
    ("avg", "bottomk", "count", "count_values", "group", "limit_ratio", "limitk", "max", "min",
     "quantile", "stddev", "stdvar", "sum", "topk")
)  # fmt: skip
WORD_OPERATORS: Final = frozenset(("and", "or", "unless", "atan2"))
FILLS: Final = frozenset(("fill", "fill_left", "fill_right"))
MODIFIERS: Final = FILLS | frozenset(
    ("anchored", "bool", "by", "group_left", "group_right", "ignoring", "offset", "on",
     "smoothed", "without")
)  # fmt: skip
DURATION_WORDS: Final = frozenset(("max_of", "min_of", "range", "step"))
PREPROCESSORS: Final = frozenset(("start", "end")) | DURATION_WORDS

KEYWORDS: Final = AGGREGATORS | WORD_OPERATORS | MODIFIERS | PREPROCESSORS
# What error texts call an operator; "=" is none because it stands only in braces.
_OPERATORS: Final = WORD_OPERATORS | frozenset(
    ["==", "!=", "<=", "<", ">=", ">", "</", ">/", "+", "-", "*", "/", "%", "^", "@", "=~", "!~"]
)
_NAMES: Final = {
    EOF: "end of input",
    IDENTIFIER: "identifier",
    METRIC_IDENTIFIER: "metric identifier",
    NUMBER: "number",
    DURATION: "duration",
    STRING: "string",
}


class Token(NamedTuple):
    """One token; `kind` is a constant above, a keyword in lower case, or the symbol itself.

    `start` and `end` are byte offsets. `value` is the text; of a STRING what it means, of an
    ERROR the message.
    """

    kind: str
    start: int
    end: int
    value: str


_SKIP = r"(?:[ \t\r\n]++|\#[^\r\n]*+)*+"
_STRING = r"""(?P<str>"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+'|`[^`]*+`)"""
# A decimal or hexadecimal number that nothing follows which could belong to it. All quantifiers
# are possessive: the match never backtracks into a shorter number.
_NUMBER = r"""(?P<num>(?:
      0[xX]_?[0-9a-fA-F]++(?:_[0-9a-fA-F]++)*+
    | (?:[0-9]++(?:_[0-9]++)*+(?:\.(?:[0-9]++(?:_[0-9]++)*+)?+)?+|\.[0-9]++(?:_[0-9]++)*+)
      (?:[eE][+-]?[0-9]++(?:_[0-9]++)*+)?+
    )(?![0-9a-zA-Z_.]))
  | (?P<dur>(?:[0-9]++(?:[._][0-9]*+)*+|\.[0-9]++)
      [smhdwy]s?+(?:[0-9]++[smhdw]s?+)*+(?![0-9a-zA-Z_]))"""

_NORMAL = re.compile(
    rf"""{_SKIP}(?:
    (?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*+)
  | (?P<op>==|!=|<=|</|<|>=|>/|>|=(?!~)|[-+*/%^@,(){{}}\[\]])
  | {_NUMBER}
  | {_STRING}
  | (?P<eof>\Z))""",
    re.VERBOSE | re.DOTALL,
)
_BRACES = re.compile(
    rf"""{_SKIP}(?:
    (?P<word>[a-zA-Z_][a-zA-Z0-9_]*+)
  | (?P<op>=~|!=|!~|=|,|}})
  | {_STRING})""",
    re.VERBOSE | re.DOTALL,
)
_BRACKETS = re.compile(
    rf"""{_SKIP}(?:
    {_NUMBER}
  | (?P<op>[-+*/%^(),:\]])
  | (?P<word>[a-zA-Z_]++))""",
    re.VERBOSE | re.DOTALL,
)
_SKIPPED = re.compile(_SKIP)
_FOLLOWED_BY_PAREN = re.compile(r"[ \t\r\n]*+\(")
_ESCAPE = re.compile(
    r"""\\(?:(?P<octal>[0-7]{3})|x(?P<hex>[0-9a-fA-F]{2})|u(?P<u4>[0-9a-fA-F]{4})
    |U(?P<u8>[0-9a-fA-F]{8})|(?P<char>.))""",
    re.VERBOSE | re.DOTALL,
)
_SIMPLE_ESCAPES: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
}  # fmt: skip
_NUMBER_START = re.compile(r"\.?[0-9]")
# As much of a broken number as error texts show: up to the character that breaks it.
_BROKEN_NUMBER = re.compile(
    r"""(?:0[xX][0-9a-fA-F_]*+|[0-9_]*+(?:\.[0-9_]*+)?+(?:[eE][+-]?+[0-9_]*+)?+)
    (?:[._eE]|[smhdwy]s?+(?:[0-9]++[smhdw]s?+)*+(?:[0-9]++|[a-zA-Z_])?+)?+""",
    re.VERBOSE,
)


class Lexer:
    """Makes tokens from one query text.

    Parameters
    ----------
    text
        The query. Lone surrogates stand for bytes that are not UTF-8.

    """

    __slots__ = ("_brackets_value", "_depth", "_pos", "_state", "source")

    def __init__(self, text: str) -> None:
        if not text.isascii():
            text = text.encode("utf-8", "surrogateescape").decode("latin-1")
        self.source = text
        self._pos = 0
        self._state = _NORMAL
        self._depth = 0  # open parentheses
        self._brackets_value = False  # a number was seen since the last "["

    def next(self) -> Token:
        """Next token; after EOF or ERROR the same again."""
        match = self._state.match(self.source, self._pos)
        if match is None:
            return self._error_here()
        group = match.lastgroup
        assert group is not None, "every alternative is a named group"
        start, end = match.span(group)
        if group == "word":
            token = self._word(match[group], start, end)
        elif group == "op":
            token = self._symbol(match[group], start, end)
        elif group == "str":
            token = self._string(match[group], start, end)
        elif group == "eof":
            if self._depth:
                return Token(ERROR, start, end, "unclosed left parenthesis")
            return Token(EOF, start, end, "")
        else:
            self._brackets_value = True
            token = Token(NUMBER if group == "num" else DURATION, start, end, match[group])
        if token.kind != ERROR:
            self._pos = end
        return token

    def text(self, token: Token) -> str:
        """The token as it was written."""
        raw = self.source[token.start : token.end]
        return raw if raw.isascii() else decode_utf8(raw)

    def describe(self, token: Token) -> str:
        """The token as error texts name it."""
        if token.kind == EOF:
            return _NAMES[EOF]
        text = self.text(token)
        if token.kind in MODIFIERS:
            return f"<{text}>"
        if token.kind in _OPERATORS:
            return f"<op:{text}>"
        if token.kind in AGGREGATORS:
            return f"<aggr:{text}>"
        is_name = token.kind in (IDENTIFIER, METRIC_IDENTIFIER)
        shown = quote(text) if is_name or len(text) <= 10 else f"{quote(text[:10])}..."
        return f"{_NAMES[token.kind]} {shown}" if token.kind in _NAMES else shown

    def _word(self, text: str, start: int, end: int) -> Token:
        if self._state is _BRACES:
            return Token(IDENTIFIER, start, end, text)
        lower = text.lower()
        if self._state is _BRACKETS:
            if lower in DURATION_WORDS:
                return Token(lower, start, end, text)
            if self._brackets_value:
                return Token(
                    ERROR, start, end, f"unexpected character: {quote_char(text[0])}, expected ':'"
                )
            shown = quote_char(text[0])
            message = f"unexpected character in duration expression: {shown}"
            return Token(ERROR, start, end, message)
        if lower in KEYWORDS:
            if lower in FILLS and not _FOLLOWED_BY_PAREN.match(self.source, end):
                return Token(IDENTIFIER, start, end, text)
            return Token(lower, start, end, text)
        if lower in ("inf", "nan"):
            return Token(NUMBER, start, end, text)
        return Token(METRIC_IDENTIFIER if ":" in text else IDENTIFIER, start, end, text)

    def _symbol(self, text: str, start: int, end: int) -> Token:
        if text == "(":
            self._depth += 1
        elif text == ")":
            if self._depth == 0:
                return Token(ERROR, end, end, "unexpected right parenthesis ')'")
            self._depth -= 1
        elif text == "{":
            self._state = _BRACES
        elif text == "[":
            self._state = _BRACKETS
            self._brackets_value = False
        elif text == "}" or text == "]":
            if self._state is _NORMAL:
                where = "unexpected right bracket" if text == "]" else "unexpected character:"
                return Token(ERROR, start, end, f"{where} '{text}'")
            self._state = _NORMAL
        return Token(text, start, end, text)

    def _string(self, raw: str, start: int, end: int) -> Token:
        body = raw[1:-1]
        if not body.isascii():
            try:
                raw.encode("latin-1").decode("utf-8")
            except UnicodeDecodeError:
                return Token(ERROR, start, end, "invalid UTF-8 rune")
        if raw[0] == "`":
            # Go drops carriage returns from raw strings.
            value = decode_utf8(body.replace("\r", ""))
        elif "\\" in body:
            try:
                value = unescape(body, quote_mark=raw[0])
            except ValueError as error:
                return Token(ERROR, start, end, str(error))
        else:
            value = body if body.isascii() else decode_utf8(body)
        return Token(STRING, start, end, value)

    def _error_here(self) -> Token:
        """Say why nothing matches at the present position."""
        source = self.source
        skipped = _SKIPPED.match(source, self._pos)
        assert skipped is not None, "the pattern also matches nothing"
        pos = skipped.end()
        if pos == len(source):
            return Token(ERROR, pos, pos, self._end_message())
        char = source[pos]
        in_braces = self._state is _BRACES
        if char in "\"'" and self._state is not _BRACKETS:
            message = "unterminated quoted string"
        elif char == "`" and self._state is not _BRACKETS:
            message = "unterminated raw string"
        elif not in_braces and _NUMBER_START.match(source, pos):
            broken = _BROKEN_NUMBER.match(source, pos)
            assert broken is not None, "the pattern also matches nothing"
            message = f"bad number or duration syntax: {quote(broken[0])}"
        elif self._state is _BRACKETS:
            message = f"unexpected character in duration expression: {self._char(pos)}"
            if self._brackets_value and char == "[":
                message = "unexpected left bracket '['"
        elif char == "!" or (char == "=" and not in_braces):
            where = " inside braces" if in_braces else ""
            message = f"unexpected character after '{char}'{where}: {self._char(pos + 1)}"
        elif in_braces:
            what = "left brace" if char == "{" else "character inside braces:"
            message = f"unexpected {what} {self._char(pos)}"
        else:
            message = f"unexpected character: {self._char(pos)}"
        return Token(ERROR, pos, pos, message)

    def _end_message(self) -> str:
        if self._state is _BRACES:
            return "unexpected end of input inside braces"
        if not self._brackets_value:
            return "unexpected end of input in duration expression"
        return "unclosed left parenthesis" if self._depth else "unclosed left bracket"

    def _char(self, pos: int) -> str:
        """The character at a byte position, quoted as Go's %q does."""
        if pos >= len(self.source):
            return "'\\ufffd'"
        decoded = self.source[pos : pos + 4].encode("latin-1").decode("utf-8", "replace")
        return quote_char(decoded[0])


def unescape(body: str, *, quote_mark: str) -> str:
    r"""Resolve Go's escapes in the inside of a quoted string (Latin-1 view of its bytes).

    Bytes that do not make UTF-8 come back as surrogate escapes. Raises ValueError for an escape
    that Go doesn't know.
    """
    parts: list[str] = []
    pos = 0
    for match in _ESCAPE.finditer(body):
        # The pattern matches at every backslash that is not itself escaped, none is skipped.
        parts.append(body[pos : match.start()])
        pos = match.end()
        parts.append(_escaped(match, quote_mark))
    parts.append(body[pos:])
    return decode_utf8("".join(parts))


def _escaped(match: re.Match[str], quote_mark: str) -> str:
    """Latin-1 view of the bytes that one escape stands for."""
    kind = match.lastgroup
    assert kind is not None, "every alternative is a named group"
    digits = match[kind]
    if kind == "char":
        if digits == quote_mark:
            return digits
        if digits in _SIMPLE_ESCAPES:
            return _SIMPLE_ESCAPES[digits]
        if digits in "01234567xuU":
            raise ValueError(_illegal_digit(match.string, match.start() + 1))
        shown = decode_utf8(match.string[match.end() - 1 : match.end() + 3])[0]
        raise ValueError(f"unknown escape sequence U+{ord(shown):04X} '{shown}'")
    code = int(digits, 8 if kind == "octal" else 16)
    if kind in ("octal", "hex"):
        if code > 0xFF:
            raise ValueError("escape sequence is an invalid Unicode code point")
        return chr(code)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise ValueError("escape sequence is an invalid Unicode code point")
    return chr(code).encode("utf-8").decode("latin-1")


def _illegal_digit(body: str, pos: int) -> str:
    """Message for an escape with too few digits; `pos` is the place after the backslash."""
    digits = "01234567"
    if body[pos] in "xuU":
        digits = "0123456789abcdefABCDEF"
        pos += 1
    while pos < len(body) and body[pos] in digits:
        pos += 1
    if pos == len(body):
        return "escape sequence not terminated"
    shown = decode_utf8(body[pos : pos + 4])[0]
    return f"illegal character U+{ord(shown):04X} '{shown}' in escape sequence"


def decode_utf8(latin1: str) -> str:
    """Text of bytes given as Latin-1 characters; stray bytes become surrogate escapes."""
    return latin1.encode("latin-1").decode("utf-8", "surrogateescape")


_QUOTED: Final = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\",
}  # fmt: skip


def quote(text: str) -> str:
    """Write a string the way Go's strconv.Quote does; the lexer reads it back."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join('\\"' if c == '"' else _quoted(c) for c in text) + '"'


def quote_char(char: str) -> str:
    """Write a character the way Go's %q does."""
    return "'" + ("\\'" if char == "'" else _quoted(char)) + "'"


def _quoted(char: str) -> str:
    if char in _QUOTED:
        return _QUOTED[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def line_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of a byte offset; the column counts bytes of UTF-8."""
    before = text[:offset] if text.isascii() else text.encode("utf-8", "surrogateescape")[:offset]
    newline = "\n" if isinstance(before, str) else b"\n"
    return before.count(newline) + 1, offset - before.rfind(newline)  # type: ignore[arg-type]
