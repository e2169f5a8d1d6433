"""Random PromQL about native histograms; everything else is left to the float grammar."""

from __future__ import annotations

import random

from tests.differential.grammar import Grammar, Node, random_times

METRICS = (
    "request_seconds", "request_seconds", "request_seconds", "balance", "balance", "sizes",
    "sizes", "shifty", "shifty", "mixed", "mixed", "lone", "twofold",
)  # fmt: skip
FLOAT_METRICS = ("level", "temperature", "up", "build_info", "latency_seconds_bucket", "missing")
MATCHERS = (
    'job="api"', 'job="db"', 'job!="db"', 'instance="a:9100"', 'instance=~"(a|c):9100"',
    'path="/"', 'path!~"/.+"', 'kind="schema"', 'kind="threshold"', 'kind=~"bounds|schema"',
    'kind="hints"', 'kind!="sum"', 'kind="empty"', 'kind="still"', 'n="1"', 'n=~"1|2"', 'n!="4"',
    'le=""', 'nothing=""',
)  # fmt: skip
READERS = ("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev",
           "histogram_stdvar")  # fmt: skip
ROLLUPS = (
    "rate", "rate", "rate", "increase", "increase", "delta", "delta", "irate", "idelta", "resets",
    "changes", "avg_over_time", "avg_over_time", "sum_over_time", "sum_over_time", "last_over_time",
    "count_over_time", "present_over_time", "absent_over_time", "min_over_time", "max_over_time",
    "stddev_over_time", "deriv", "ts_of_last_over_time", "ts_of_max_over_time", "mad_over_time",
)  # fmt: skip
AGGREGATES = ("sum", "sum", "sum", "avg", "avg", "count", "group", "min", "max", "stddev")
SHARES = ("0.5", "0.9", "0", "1", "0.99", "0.1", "0.25", "time() % 7 / 8", "1.1", "-0.5", "NaN")
BOUNDS = ("0", "0.1", "1", "-Inf", "Inf", "2", "0.07", "NaN", "-1", "-2.5", "8", "0.001", "1e-9")
FACTORS = ("2", "0.5", "-1", "0", "1", "-0.25", "3.7", "1e3", "NaN", "Inf", "time() % 7")


class NativeGrammar(Grammar):
    """The same language with other words and other weights."""

    def selector_text(self):
        """A metric of histograms mostly."""
        if self._rng.random() < 0.1:
            return super().selector_text()
        metric = self._pick(METRICS if self._rng.random() < 0.92 else FLOAT_METRICS)
        n = self._rng.choice((0, 0, 0, 1, 1, 2))
        inside = ", ".join(self._pick(MATCHERS) for _ in range(n))
        return (metric, Node("o", ("{" + inside + "}",)) if inside else "")

    def makers(self):
        """Weights of the kinds of vectors."""
        return _MAKERS

    def _rollup(self, depth):
        name = self._pick(ROLLUPS)
        return Node("v", (f"{name}(", self.matrix(depth), ")"), name)

    def _aggregate(self, depth):
        name = self._pick(AGGREGATES)
        before, after = self._grouping()
        return Node("v", (name, before, "(", self.vector(depth), ")", after), name)

    def _reader(self, depth):
        name = self._pick(READERS)
        return Node("v", (f"{name}(", self.vector(depth), ")"), name)

    def _quantile(self, depth):
        parts = ("histogram_quantile(", self._number(SHARES), ", ", self.vector(depth), ")")
        return Node("v", parts, "histogram_quantile")

    def _fraction(self, depth):
        low, high = self._number(BOUNDS), self._number(BOUNDS)
        parts = ("histogram_fraction(", low, ", ", high, ", ", self.vector(depth), ")")
        return Node("v", parts, "histogram_fraction")

    def _scaled(self, depth):
        op = self._pick(("*", "*", "/", "/", "+", "-", "%", "==", "!=", ">", "^"))
        sides = [self.vector(depth), self._number(FACTORS)]
        if op not in "/-" and self._rng.random() < 0.4:
            sides.reverse()
        bool_ = " bool" * (op in ("==", "!=", ">") and self._rng.random() < 0.4)
        return Node("v", ("(", sides[0], f" {op}{bool_} ", sides[1], ")"), op)

    def _pair(self, depth):
        """Two vectors of the same labels: of one selector, or sums by the same ones."""
        op = self._pick(("+", "+", "-", "-", "*", "/", "==", "!=", "== bool", "!= bool", "<"))
        sides = [self._side(depth), self._side(depth)]
        labels = self._pick(("job", "job, instance", "path", "kind", "n", ""))
        if self._rng.random() < 0.5:
            sides = [Node("v", (f"sum by ({labels}) (", side, ")"), "sum") for side in sides]
            clause = ""
        else:
            clause = f"on ({labels}) " if self._rng.random() < 0.3 else ""
        name = op.removesuffix(" bool")
        return Node("v", ("(", sides[0], f" {op} {clause}", sides[1], ")"), name)

    def _side(self, depth):
        if depth > 0 and self._rng.random() < 0.6:
            return self.vector(depth)
        metric = self._pick(METRICS)
        shift = self._pick(("", "", " offset 1m", " offset 5m"))
        return Node("v", (metric, Node("o", (shift,)) if shift else ""))

    def _number(self, texts):
        if self._rng.random() < 0.05:
            return self.scalar(1)
        return Node("s", (self._pick(texts),))


_MAKERS = tuple(zip(*(
    (NativeGrammar._rollup, 26), (NativeGrammar._aggregate, 14), (NativeGrammar._reader, 10),
    (NativeGrammar._quantile, 9), (NativeGrammar._fraction, 6), (NativeGrammar._scaled, 9),
    (NativeGrammar._pair, 10), (Grammar._elementwise, 1), (Grammar._clamped, 1),
    (Grammar._rollup_with_number, 2), (Grammar._aggregate_with_number, 3),
    (Grammar._count_values, 1), (Grammar._with_scalar, 1), (Grammar._matched, 2),
    (Grammar._any_match, 1), (Grammar._set, 5), (Grammar._unary, 3), (Grammar._label_replace, 1),
    (Grammar._label_join, 1), (Grammar._presence, 1), (Grammar._timestamp, 2), (Grammar._sort, 1),
), strict=True))  # fmt: skip


def make_query(seed, number, share_of_natives=0.4):
    """Query `number` of a run: always the same (tree, times).

    The queries about floats don't change with the share.
    """
    is_native = random.Random(f"native {seed} {number}").random() < share_of_natives
    rng = random.Random(f"query {seed} {number}")
    times = random_times(rng)
    grammar = (NativeGrammar if is_native else Grammar)(rng)
    return grammar.query(times.step_ms == 0), times
