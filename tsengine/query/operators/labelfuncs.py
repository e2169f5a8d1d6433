"""Functions of labels: `label_replace`, `label_join`, and the labels of `absent`.

They work on whole series and on distinct label values, never on samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import re2

from tsengine.errors import QueryError, QueryLimitExceeded
from tsengine.model.labels import NO_ID
from tsengine.model.matchers import METRIC_NAME, MatchOp
from tsengine.promql import ast
from tsengine.promql.literals import check_regex
from tsengine.query.context import QueryContext
from tsengine.query.operators import gotext
from tsengine.query.stepmatrix import EvalValue, StepMatrix, StringValue, merge_same_labels

_I64 = npt.NDArray[np.int64]
_BOOL = npt.NDArray[np.bool_]

# A reference in a replacement: $$, $name, ${name}. A name is a run of letters, digits and
# underscores, as long as possible; any other $ stands for itself.
_REFERENCE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")
_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False
_GROUPS_MAX = 100
"""Capturing groups of a regular expression: RE2 needs memory for threads times groups."""
_VALUE_SIZE_MAX = 1 << 20
"""Characters of one label value that a query makes."""


def _operands(args: Sequence[EvalValue]) -> tuple[StepMatrix, list[str]]:
    """The vector and the strings after it."""
    vector, *texts = args
    assert isinstance(vector, StepMatrix), "the type check lets only a vector through"
    assert all(isinstance(t, StringValue) for t in texts), (
        "the type check lets only strings through"
    )
    return vector, [t.text for t in texts if isinstance(t, StringValue)]


def _joined(separator: str, texts: Sequence[str], function: str) -> str:
    """The texts as one label value; refused before it is made if it is too long.

    Nested calls can double a value each time, so a short query could fill the memory.
    """
    size = sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1)
    if size > _VALUE_SIZE_MAX:
        raise QueryLimitExceeded(
            f"{function}() makes a label value of {size} characters, the limit is {_VALUE_SIZE_MAX}"
        )
    return separator.join(texts)


# --- label_replace ----------------------------------------------------------------------------


class _Replacement:
    """A regular expression and the text its matches turn into, by the rules of Go's Expand."""

    def __init__(self, pattern: str, template: str) -> None:
        if check_regex(pattern) is not None:
            raise QueryError(f"invalid regular expression in label_replace(): {pattern}")
        self._regex = re2.compile(f"^(?s:{pattern})$", _RE2_OPTIONS)
        if self._regex.groups > _GROUPS_MAX:
            raise QueryError(
                f"the regular expression in label_replace() has {self._regex.groups} groups, the "
                f"limit is {_GROUPS_MAX}; write (?:...) for those that the replacement does not use"
            )
        names = self._regex.groupindex
        self._pieces: list[str | int] = []  # text, or the number of a group
        end = 0
        for found in _REFERENCE.finditer(template):
            self._pieces.append(template[end : found.start()])
            end = found.end()
            if found[1]:
                self._pieces.append("$")
                continue
            name = found[2] or found[3]
            group = int(name) if name.isascii() and name.isdigit() else names.get(name, NO_ID)
            if 0 <= group <= self._regex.groups:
                self._pieces.append(group)
        self._pieces.append(template[end:])

    def apply(self, text: str) -> str | None:
        """The replacement for a value, None if it does not match."""
        match = self._regex.search(text)
        if match is None:
            return None
        pieces = [piece if isinstance(piece, str) else match[piece] or "" for piece in self._pieces]
        return _joined("", pieces, "label_replace")


def label_replace(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Set a label to a text made of another label's value, where that matches."""
    operand, (target, template, source, pattern) = _operands(args)
    replacement = _Replacement(pattern, template)
    if not gotext.is_label_name(target):
        raise QueryError(f"invalid destination label name in label_replace(): {target}")
    space = ctx.space
    distinct, code = np.unique(space.column(operand.labels, source), return_inverse=True)
    matched: list[bool] = []

    def texts() -> Iterator[str]:
        # One by one: the label space refuses more text than a query may hold.
        for pair in distinct.tolist():
            text = replacement.apply("" if pair == NO_ID else space.value_of(pair))
            matched.append(text is not None)
            yield text or ""

    pairs = space.intern_values(target, texts())[code]
    matches = np.array(matched, np.bool_)[code]
    column = np.where(matches, pairs, space.column(operand.labels, target))
    return _with_column(ctx, operand, target, column, matches)


def _with_column(
    ctx: QueryContext, operand: StepMatrix, target: str, column: _I64, written: _BOOL
) -> StepMatrix:
    """Replace a label; writing the metric name takes back that it is to be dropped."""
    marks = operand.drop_name
    if marks is not None and target == METRIC_NAME:
        marks = marks & ~written
    labels = ctx.space.set_column(operand.labels, target, column)
    return merge_same_labels(ctx.space, replace(operand, labels=labels, drop_name=marks))


# --- label_join -------------------------------------------------------------------------------


def label_join(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Set a label to the joined values of others."""
    operand, (target, separator, *sources) = _operands(args)
    for name in sources:
        if not gotext.is_label_name(name):
            raise QueryError(f"invalid source label name in label_join(): {name}")
    if not gotext.is_label_name(target):
        raise QueryError(f"invalid destination label name in label_join(): {target}")
    space = ctx.space
    n_rows = operand.n_series
    columns = np.empty((n_rows, len(sources)), np.int64)
    for idx, name in enumerate(sources):
        columns[:, idx] = space.column(operand.labels, name)
    if columns.size:
        distinct, code = np.unique(columns, axis=0, return_inverse=True)
    else:
        distinct, code = columns[:1], np.zeros(n_rows, np.int64)
    texts = (
        _joined(
            separator, ["" if pair == NO_ID else space.value_of(pair) for pair in row], "label_join"
        )
        for row in distinct.tolist()
    )
    column = space.intern_values(target, texts)[code.reshape(-1)]
    return _with_column(ctx, operand, target, column, np.ones(n_rows, np.bool_))


# --- absent -----------------------------------------------------------------------------------


def labels_of_absent(argument: ast.Expr) -> dict[str, str]:
    """Labels of `absent` and `absent_over_time`: those a selector asks for with ``=``, once.

    Any other expression has none.
    """
    while isinstance(argument, ast.Paren):
        argument = argument.expr
    if isinstance(argument, ast.MatrixSelector):
        argument = argument.selector
    if not isinstance(argument, ast.VectorSelector):
        return {}
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in argument.matchers:
        if matcher.name == METRIC_NAME:
            continue
        if matcher.op is MatchOp.EQUAL and matcher.name not in seen:
            seen.add(matcher.name)
            labels[matcher.name] = matcher.value
        else:
            labels.pop(matcher.name, None)
    return labels
