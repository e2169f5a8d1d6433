"""The stream of tokens a parser reads, its errors, and the limits on depth."""

from __future__ import annotations

from typing import Final, NoReturn

from tsengine.errors import ParseError
from tsengine.promql import lexer as lx
from tsengine.promql.ast import ValueType
from tsengine.promql.literals import duration_seconds, number_value

PRECEDENCE: Final = {
    "or": 1,
    "and": 2, "unless": 2,
    "==": 3, "!=": 3, "<=": 3, "<": 3, ">=": 3, ">": 3, "</": 3, ">/": 3,
    "+": 4, "-": 4,
    "*": 5, "/": 5, "%": 5, "atan2": 5,
    "^": 6,
}  # fmt: skip
POWER: Final = 6
MESSAGE_SIZE_MAX: Final = 1000


class TokenStream:
    """State of one parse.

    `token` is the next one. Beside the expression it returns, a method that parses one leaves
    its type in `type` and the depth of its tree in `height`.
    """

    __slots__ = (
        "depth", "end", "features", "height", "lexer", "max_depth", "open_aggregates", "text",
        "token", "type",
    )  # fmt: skip

    def __init__(self, text: str, features: frozenset[str], max_depth: int) -> None:
        self.text = text
        self.features = features
        self.max_depth = max_depth
        self.lexer = lx.Lexer(text)
        self.depth = 0  # of the recursion
        self.height = 0
        self.type = ValueType.SCALAR
        self.open_aggregates = 0
        self.end = 0  # of the token before
        self.token = self.lexer.next()

    def advance(self) -> lx.Token:
        """Step over the next token and return it."""
        token = self.token
        self.end = token.end
        self.token = self.lexer.next()
        return token

    def fail(self, message: str, offset: int) -> NoReturn:
        """Raise a ParseError at a byte offset; a message that quotes too much is cut."""
        if len(message) > MESSAGE_SIZE_MAX:
            message = message[:MESSAGE_SIZE_MAX] + "..."
        line, column = lx.line_column(self.text, offset)
        raise ParseError(message, line=line, column=column)

    def unexpected(self, context: str = "", expected: str = "") -> NoReturn:
        """Raise the error for a next token that fits nowhere."""
        token = self.token
        if token.kind == lx.ERROR:
            self.fail(token.value, token.start)
        if not context and self.open_aggregates:
            context = "aggregation"
        message = f"unexpected {self.lexer.describe(token)}"
        message += f" in {context}" if context else ""
        message += f", expected {expected}" if expected else ""
        self.fail(message, token.start)

    def too_deep(self) -> ParseError:
        """Error for nesting beyond the limit, at the next token."""
        line, column = lx.line_column(self.text, self.token.start)
        message = f"expression is nested too deeply, the limit is {self.max_depth} levels"
        return ParseError(message, line=line, column=column)

    def expect(self, kind: str, context: str = "", expected: str = "") -> lx.Token:
        """Step over a token that has to be of this kind."""
        if self.token.kind != kind:
            self.unexpected(context, expected)
        return self.advance()

    def grow(self, height: int) -> None:
        """Note the height of a node just built."""
        if height > self.max_depth:
            raise self.too_deep()
        self.height = height

    def descend(self) -> None:
        """Enter one more level of nesting."""
        self.depth += 1
        if self.depth > self.max_depth:
            raise self.too_deep()

    def number(self) -> tuple[float, bool]:
        """Value of the number or duration that is next, and whether it is a duration."""
        token = self.token
        is_duration = token.kind == lx.DURATION
        try:
            value = duration_seconds(token.value) if is_duration else number_value(token.value)
        except ValueError as error:
            self.fail(str(error), token.start)
        self.advance()
        return value, is_duration
