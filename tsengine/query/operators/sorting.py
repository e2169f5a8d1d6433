"""`sort`, `sort_desc`, `sort_by_label`: an order of rows, for instant queries only."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tsengine.model.labels import NO_ID
from tsengine.promql import ast
from tsengine.query.context import QueryContext
from tsengine.query.operators.histogram_cells import floats_only
from tsengine.query.stepmatrix import EvalValue, StepMatrix, StringValue, take_rows

_PIECES = re.compile(rb"[0-9]+|[^0-9]")
_DIGIT = ord("0")


def _is_ineffective(ctx: QueryContext, node: ast.Call) -> bool:
    """Whether several steps make any order of rows pointless; warns if so."""
    if ctx.n_steps == 1:
        return False
    ctx.add_warning(
        "sort is ineffective for range queries since results are always ordered by labels",
        node.span,
    )
    return True


def _operand(value: EvalValue) -> StepMatrix:
    assert isinstance(value, StepMatrix), "the type check lets only a vector through"
    return value


def sort_by_value(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Floats by value, NaN last in either direction; equal values keep their order."""
    operand = floats_only(ctx, _operand(args[0]))
    if _is_ineffective(ctx, node):
        return operand
    rows = np.flatnonzero(operand.present()[:, 0])
    keys = operand.values[rows, 0]
    if node.name == "sort_desc":
        keys = -keys
    return take_rows(ctx.space, operand, rows[np.lexsort((keys, np.isnan(keys)))])


def natural_key(text: str) -> tuple[tuple[int, int, bytes], ...]:
    """Key of natural order: runs of digits compare as numbers, all else byte by byte."""
    key = []
    for piece in _PIECES.findall(text.encode("utf-8", "surrogateescape")):
        if piece.isdigit():
            digits = piece.lstrip(b"0")
            key.append((_DIGIT, len(digits), digits))
        else:
            key.append((piece[0], 0, b""))
    return tuple(key)


def sort_by_label(ctx: QueryContext, node: ast.Call, args: Sequence[EvalValue]) -> EvalValue:
    """Rows by the natural order of some labels, then by all labels."""
    operand = _operand(args[0])
    if _is_ineffective(ctx, node):
        return operand
    space = ctx.space
    order = space.sort_order(operand.labels)
    names = [arg.text for arg in args[1:] if isinstance(arg, StringValue)]
    # Least significant label first, each pass stable.
    for name in reversed(names):
        distinct, code = np.unique(space.column(operand.labels, name), return_inverse=True)
        texts = ["" if pair == NO_ID else space.value_of(pair) for pair in distinct.tolist()]
        keys = [natural_key(text) for text in texts]
        # Texts of one key ("1" and "01") share a rank; the next label decides.
        places = {key: place for place, key in enumerate(sorted(set(keys)))}
        rank = np.array([places[key] for key in keys], np.int64)
        order = order[np.argsort(rank[code][order], kind="stable")]
    if node.name == "sort_by_label_desc":
        order = order[::-1]
    return take_rows(ctx.space, operand, order)
