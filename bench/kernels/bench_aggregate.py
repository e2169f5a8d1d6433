"""Aggregation kernels and the operators above them.

Run: python -m bench.kernels.bench_aggregate [SERIES] [STEPS]
10,000 series with 10 labels each over 1,440 steps (14.4 M cells) by default; one cell in fifty of
the second operand is absent. Best of three.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import numpy as np

from tests.query.operators.support import SPAN, make_context
from tests.reference.memory_source import MemoryDictionary
from tsengine.kernels import aggregate as kernels
from tsengine.kernels.quantiles import group_quantiles
from tsengine.model.labels import LabelRows
from tsengine.promql import ast
from tsengine.query.labelspace import LabelSpace
from tsengine.query.operators.aggregate import aggregate
from tsengine.query.operators.binary import binary
from tsengine.query.operators.functions import call_function
from tsengine.query.partials import ALL_VALID, make_partial
from tsengine.query.stepmatrix import ScalarSteps, StepMatrix, StringValue

N_GROUPS = 100
LEAF = ast.NumberLiteral(span=SPAN, value=0.0)


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


def best_ms(work):
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times) * 1e3


def bench_kernels(values, valid):
    n_series, n_steps = values.shape
    groups = np.random.default_rng(2).integers(0, N_GROUPS, n_series)
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=N_GROUPS)
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    shape = (N_GROUPS, n_steps)
    for op in ("sum", "avg", "max", "count", "stddev"):
        for kind, mask in (("all present", None), ("masked", valid)):
            add = partial(make_partial(op, *shape).add, values, mask, groups)
            yield f"{op}, {kind}", add
    counters, out, out_valid = np.empty((2, 8), np.int64), np.empty(shape), np.empty(shape, bool)
    scratch, chosen = np.empty(8 * int(sizes.max())), np.zeros(values.shape, bool)
    yield "group_quantiles 0.9", lambda: group_quantiles(
        values, ALL_VALID, True, order, offsets, np.full(n_steps, 0.9), scratch, *counters,
        out, out_valid,
    )  # fmt: skip
    yield "select_extreme 5", lambda: kernels.select_extreme(
        values, ALL_VALID, True, order, offsets, np.full(n_steps, 5), True,
        np.empty(40), np.empty(40, np.int64), np.empty(8, np.int64), chosen,
    )  # fmt: skip


def bench_operators(ctx, a, b):
    n_steps = ctx.n_steps

    def scalar(value):
        return ScalarSteps(np.full(n_steps, value))

    def operator(op, cardinality=ast.Cardinality.ONE_TO_ONE, labels=(), is_on=False):
        rules = ast.VectorMatching(cardinality, labels, is_on)
        return ast.Binary(span=SPAN, op=op, lhs=LEAF, rhs=LEAF, matching=rules)

    def folded(op, *grouping, param=None, operand=b, without=False):
        node = ast.Aggregate(
            span=SPAN, op=op, expr=LEAF, param=LEAF, grouping=grouping, without=without
        )
        return lambda: aggregate(ctx, node, operand, param)

    def call(name, *args):
        node = ast.Call(span=SPAN, name=name, args=(LEAF,) * len(args))
        return lambda: call_function(ctx, node, args)

    sums = folded("sum", "instance", operand=a)()
    few = StepMatrix(a.labels, np.round(a.values), None)
    many_to_many = ast.Cardinality.MANY_TO_MANY
    yield "a + b", lambda: binary(ctx, operator("+"), a, b)
    yield "a > b", lambda: binary(ctx, operator(">"), a, b)
    yield (
        "a / on(instance) group_left sum",
        lambda: binary(
            ctx, operator("/", ast.Cardinality.MANY_TO_ONE, ("instance",), True), a, sums
        ),
    )
    for op in ("and", "or", "unless"):
        yield f"a {op} b", lambda op=op: binary(ctx, operator(op, many_to_many), a, b)
    yield "a * 2", lambda: binary(ctx, operator("*"), a, scalar(2.0))
    yield "sum by (job)", folded("sum", "job")
    yield "sum without (instance)", folded("sum", "instance", without=True)
    yield "quantile by (job)", folded("quantile", "job", param=scalar(0.9))
    yield "topk(5)", folded("topk", param=scalar(5.0))
    yield "limit_ratio(0.1)", folded("limit_ratio", param=scalar(0.1))
    yield "count_values of few", folded("count_values", param="v", operand=few)
    for name in ("abs", "ln", "sin", "round", "year"):
        yield name, call(name, a)
    yield "clamp", call("clamp", a, scalar(-1.0), scalar(1.0))
    yield "histogram_quantile", call("histogram_quantile", scalar(0.9), few)
    texts = (StringValue(t) for t in ("x", "$1", "instance", "i(.*)"))
    yield "label_replace", call("label_replace", a, *texts)


def main():
    sizes = [int(arg) for arg in sys.argv[1:]] + [10_000, 1440][len(sys.argv) - 1 :]
    n_series, n_steps = sizes
    rng = np.random.default_rng(1)
    dictionary = PinnedDictionary()
    labels = [label_rows(dictionary, name, n_series) for name in ("a", "b")]
    dictionary.pin()
    ctx = make_context(n_steps)
    ctx.space = LabelSpace(dictionary)
    a = StepMatrix(labels[0], rng.normal(size=(n_series, n_steps)), None)
    valid = rng.random((n_series, n_steps)) < 0.98
    b = StepMatrix(labels[1], rng.normal(size=(n_series, n_steps)), valid)
    for cases in (bench_kernels(a.values, valid), bench_operators(ctx, a, b)):
        for name, work in cases:
            ms = best_ms(work)
            print(f"{name:34s} {ms:9.1f} ms {n_series * n_steps / ms / 1e3:8.0f} M cells/s")


if __name__ == "__main__":
    main()
