"""Operators over step matrices, above the kernels: aggregation, binary, matching, functions.

2,000 series with ten labels over 720 steps (1.44 M cells); of the second operand one cell in fifty
is absent.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.query.operators.support import SPAN, make_context
from tests.reference.memory_source import MemoryDictionary
from tsengine.model.labels import LabelRows
from tsengine.promql import ast
from tsengine.query.labelspace import LabelSpace
from tsengine.query.operators.aggregate import aggregate
from tsengine.query.operators.binary import binary
from tsengine.query.operators.functions import call_function
from tsengine.query.stepmatrix import ScalarSteps, StepMatrix, StringValue

N_SERIES = 2000
N_STEPS = 720
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)
MANY_TO_ONE = ast.Cardinality.MANY_TO_ONE
MANY_TO_MANY = ast.Cardinality.MANY_TO_MANY


class PinnedDictionary(MemoryDictionary):
    """The dictionary with arrays made once, as a database has them."""

    def pin(self) -> None:
        self.arrays = (super().pair_names, super().pair_values)

    @property
    def pair_names(self):
        return self.arrays[0]

    @property
    def pair_values(self):
        return self.arrays[1]


def label_rows(dictionary, name, n_series):
    pairs = []
    for i in range(n_series):
        labels = {
            "__name__": name, "cluster": "c", "env": "prod", "instance": f"i{i // 8}",
            "job": f"j{i % 20}", "le": ("0.1", "0.5", "1", "2", "5", "10", "30", "+Inf")[i % 8],
            "ns": f"n{i // 8 % 50}", "pod": f"p{i // 4}", "region": "r", "zone": f"z{i % 3}",
        }  # fmt: skip
        pairs += [dictionary.pair(*pair) for pair in labels.items()]
    return LabelRows(np.arange(n_series + 1) * 10, np.array(pairs, np.uint32))


class Scene:
    """Two operands in one label space, and calls of operators on them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        dictionary = PinnedDictionary()
        labels = [label_rows(dictionary, name, N_SERIES) for name in ("a", "b")]
        dictionary.pin()
        self.ctx = make_context(N_STEPS)
        self.ctx.space = LabelSpace(dictionary)
        shape = (N_SERIES, N_STEPS)
        self.a = StepMatrix(labels[0], rng.normal(size=shape), None)
        self.b = StepMatrix(labels[1], rng.normal(size=shape), rng.random(shape) < 0.98)
        self.few = StepMatrix(labels[0], np.round(self.a.values), None)
        self.sums = self.aggregate("sum", "instance")

    def aggregate(self, op, *grouping, param=None, operand=None, without=False):
        node = ast.Aggregate(
            span=SPAN, op=op, expr=LEAF, param=LEAF, grouping=grouping, without=without
        )
        return aggregate(self.ctx, node, self.b if operand is None else operand, param)

    def binary(self, op, rhs, cardinality=ast.Cardinality.ONE_TO_ONE, labels=(), is_on=False):
        rules = ast.VectorMatching(cardinality, labels, is_on)
        node = ast.Binary(span=SPAN, op=op, lhs=LEAF, rhs=LEAF, matching=rules)
        return binary(self.ctx, node, self.a, rhs)

    def call(self, name, *args):
        node = ast.Call(span=SPAN, name=name, args=(LEAF,) * len(args))
        return call_function(self.ctx, node, args)


def scalar(value):
    return ScalarSteps(np.full(N_STEPS, value))


CASES = {
    "a + b": lambda s: s.binary("+", s.b),
    "a > b": lambda s: s.binary(">", s.b),
    "a / on(instance) group_left sums": lambda s: s.binary(
        "/", s.sums, MANY_TO_ONE, ("instance",), True
    ),
    "a and b": lambda s: s.binary("and", s.b, MANY_TO_MANY),
    "a or b": lambda s: s.binary("or", s.b, MANY_TO_MANY),
    "a unless b": lambda s: s.binary("unless", s.b, MANY_TO_MANY),
    "a * 2": lambda s: s.binary("*", scalar(2.0)),
    "sum by (job)": lambda s: s.aggregate("sum", "job"),
    "sum without (instance)": lambda s: s.aggregate("sum", "instance", without=True),
    "quantile by (job)": lambda s: s.aggregate("quantile", "job", param=scalar(0.9)),
    "topk(5)": lambda s: s.aggregate("topk", param=scalar(5.0)),
    "limit_ratio(0.1)": lambda s: s.aggregate("limit_ratio", param=scalar(0.1)),
    "count_values of few": lambda s: s.aggregate("count_values", param="v", operand=s.few),
    "abs": lambda s: s.call("abs", s.a),
    "ln": lambda s: s.call("ln", s.a),
    "round": lambda s: s.call("round", s.a),
    "year": lambda s: s.call("year", s.a),
    "clamp": lambda s: s.call("clamp", s.a, scalar(-1.0), scalar(1.0)),
    "histogram_quantile": lambda s: s.call("histogram_quantile", scalar(0.9), s.few),
    "label_replace": lambda s: s.call(
        "label_replace", s.a, *map(StringValue, ("x", "$1", "instance", "i(.*)"))
    ),
}


@pytest.fixture(scope="module")
def scene():
    return Scene()


@pytest.mark.parametrize("case", CASES)
def bench_operators(measure, scene, case):
    n_cells = N_SERIES * N_STEPS
    measure(lambda: CASES[case](scene), n_cells, unit="cells", n_bytes=8 * n_cells)
