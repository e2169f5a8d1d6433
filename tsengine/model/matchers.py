"""Label matchers as values; `tsengine.storage.matching` evaluates them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

METRIC_NAME = "__name__"


class MatchOp(Enum):
    """The four ways to match a label's value."""

    EQUAL = "="
    NOT_EQUAL = "!="
    REGEX = "=~"
    NOT_REGEX = "!~"

    # There is one object of each; that of `Enum` is Python code, and matchers are looked up often.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label. An absent label has the empty value.

    A regular expression is RE2's, fully anchored, ``.`` matches a newline.
    """

    name: str
    op: MatchOp
    value: str
