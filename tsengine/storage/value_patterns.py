"""Regular expressions on label values, the simple ones without a regular-expression engine.

An expression is RE2's, anchored at both ends; ``.`` matches a newline too. Literals, alternations
of literals, and a literal with ``.*`` or ``.+`` beside it are recognised by reading the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import re2

from tsengine.errors import QueryError
from tsengine.kernels.postings import CONTAINS, PREFIX, SUFFIX

_META = frozenset(r"\.+*?()|[]{}^$")
_LITERALS_MAX = 10_000
KEPT_SIZE_MAX = 64 * 1024
"""Characters of an expression whose pattern, or whose hits, are kept."""


@dataclass(frozen=True, slots=True)
class Literals:
    """One of a set of texts."""

    texts: frozenset[str]

    def matches(self, value: str) -> bool:
        """Whether the value is accepted."""
        return value in self.texts


@dataclass(frozen=True, slots=True)
class Anything:
    """Every value; with ``not_empty`` all but the empty one."""

    not_empty: bool

    def matches(self, value: str) -> bool:
        """Whether the value is accepted."""
        return bool(value) or not self.not_empty


@dataclass(frozen=True, slots=True)
class Affix:
    """Starts with, ends with or contains a text that is not empty (mode of `match_texts`).

    With ``longer`` there must be something besides the text.
    """

    text: str
    mode: int
    longer: bool

    def matches(self, value: str) -> bool:
        """Whether the value is accepted."""
        found = {
            PREFIX: value.startswith(self.text),
            SUFFIX: value.endswith(self.text),
            CONTAINS: self.text in value,
        }[self.mode]
        return found and not (self.longer and value == self.text)


@dataclass(frozen=True, slots=True)
class RePattern:
    """Anything else, by RE2."""

    expression: str
    accepts_bytes: Callable[[bytes], bool] = field(compare=False)

    def matches(self, value: str) -> bool:
        """Whether the value is accepted."""
        return self.accepts_bytes(value.encode("utf-8", "surrogatepass"))


Pattern = Literals | Anything | Affix | RePattern


def parse(expression: str) -> Pattern:
    """The cheapest pattern for an expression; raises QueryError if it is not valid."""
    return (_kept if len(expression) <= KEPT_SIZE_MAX else _made)(expression)


def _made(expression: str) -> Pattern:
    return _simple(expression) or _compiled(expression)


_kept = lru_cache(maxsize=128)(_made)


def _simple(expression: str) -> Pattern | None:
    if expression in (".*", "(.*)", "(?:.*)"):
        return Anything(not_empty=False)
    if expression in (".+", "(.+)", "(?:.+)"):
        return Anything(not_empty=True)
    literals = _literals(expression)
    if literals is not None:
        return Literals(literals)
    inner, mode, longer = expression, -1, False
    starts_open = inner.startswith(".*")
    if starts_open:
        inner, mode = inner[2:], SUFFIX
    if inner.endswith(".*"):
        inner, mode = inner[:-2], CONTAINS if starts_open else PREFIX
    elif inner.endswith(".+") and not starts_open:
        inner, mode, longer = inner[:-2], PREFIX, True
    elif inner.startswith(".+") and not starts_open:
        inner, mode, longer = inner[2:], SUFFIX, True
    text = _literal(inner)
    return Affix(text, mode, longer) if mode >= 0 and text else None


def _literals(expression: str) -> frozenset[str] | None:
    """Texts of an alternation of literals, with or without one group around it."""
    if expression.startswith("(") and expression.endswith(")"):
        expression = expression[3:-1] if expression.startswith("(?:") else expression[1:-1]
    texts = [_literal(part) for part in expression.split("|")]
    if len(texts) > _LITERALS_MAX or None in texts:
        return None
    return frozenset(text for text in texts if text is not None)


def _literal(expression: str) -> str | None:
    """The only text an expression matches, None if it has operators."""
    text = []
    pos = 0
    while pos < len(expression):
        char = expression[pos]
        if char == "\\" and expression[pos + 1 : pos + 2] in _META - {""}:
            pos += 1
            char = expression[pos : pos + 1]
            if not char:
                return None
        elif char in _META or "\ud800" <= char <= "\udfff":
            return None
        text.append(char)
        pos += 1
    return "".join(text)


def _compiled(expression: str) -> RePattern:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True  # RE2 needs memory for threads times groups.
    try:
        # Alone first: `a)|(b` must not become valid by what is put around it.
        re2.compile(expression, options)
        program = re2.compile(f"^(?s:{expression})$", options)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0] if error.args else error
        if isinstance(reason, bytes):
            reason = reason.decode(errors="replace")
        raise QueryError(f"invalid regular expression {expression!r}: {reason}") from None
    fullmatch = program.fullmatch
    return RePattern(expression, lambda value: fullmatch(value) is not None)
