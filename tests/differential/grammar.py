"""Random PromQL: a tree of typed parts that can be printed, and made smaller while it still fails.

Kinds: ``v`` instant vector, ``s`` scalar, ``m`` range vector, ``t`` string, ``o`` an option that
may be left out. Texts are valid by type, but not by matching: some queries have to fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.differential.clocks import BASE_MS, END_MS
from tests.differential.data import WEIRD_VALUES
from tsengine.promql.lexer import quote

SMALLEST = {"v": ("level", "temperature", "vector(1)"), "s": ("1", "0"), "m": ("level[5m]",),
            "t": ('"x"',), "o": ("",)}  # fmt: skip

METRICS = (
    "requests_total", "requests_total", "temperature", "temperature", "level", "up", "special",
    "build_info", "latency_seconds_bucket", "latency_seconds_count", "latency_seconds_sum",
    "weird", "single", "huge", "constant", "bad_bucket", "started_seconds", "missing",
)  # fmt: skip
MATCHERS = (
    'job="api"', 'job="db"', 'job!="db"', 'job=~"a.*"', 'job!~"a.+"', 'instance="a:9100"',
    'instance=~"(a|c):9100"', 'instance=~".*:9100"', 'code="500"', 'code=~"[24].."', 'code!=""',
    'path="/"', 'path!~"/.+"', 'device=""', 'device!="sda"', 'n="1"', 'n=~"1|2"', 'v=~".*a.*"',
    'v=""', 'v=~"(?i)NAN|.0"', 'le="+Inf"', 'le!="1"', 'le=~"0\\\\..*"', 'kind="text"',
    'kind=~"equal|sinking|alone"', 'kind="slightly"', 'size="3e15"', 'nothing=""', 'nothing="x"',
)  # fmt: skip
LABELS = ("job", "instance", "path", "code", "device", "n", "v", "le", "kind", "size", "version",
          "nothing", "__name__", '"a.b"')  # fmt: skip
RANGES = ("5m", "1m", "30s", "2m30s", "10m", "17s", "1ms", "1s500ms", "37m", "1h", "90", "61.5")
SUBQUERY_RANGES = ("5m", "1m", "10m", "3m7s", "100s", "30s")
SUBQUERY_STEPS = ("", "1m", "30s", "15s", "7s", "10s500ms", "2m", "20")
OFFSETS = ("0s", "1m", "5m", "-1m", "17s", "1ms", "-30s", "2h", "1m30s", "-7.5")

ELEMENTWISE = (
    "abs", "ceil", "floor", "exp", "sqrt", "ln", "log2", "log10", "sgn", "acos", "acosh", "asin",
    "asinh", "atan", "atanh", "cos", "cosh", "sin", "sinh", "tan", "tanh", "deg", "rad",
)  # fmt: skip
DATES = ("minute", "hour", "day_of_week", "day_of_month", "day_of_year", "days_in_month", "month",
         "year")  # fmt: skip
ROLLUPS = (
    "rate", "rate", "increase", "delta", "irate", "idelta", "deriv", "resets", "changes",
    "avg_over_time", "sum_over_time", "min_over_time", "max_over_time", "count_over_time",
    "present_over_time", "last_over_time", "stddev_over_time", "stdvar_over_time",
    "mad_over_time", "absent_over_time", "ts_of_max_over_time", "ts_of_min_over_time",
    "ts_of_last_over_time",
)  # fmt: skip
# Prometheus 3.5 does not know these; they are asked now and then so that `explained` is used.
NEWER = (
    "first_over_time(level[5m])", "ts_of_first_over_time(level[5m])", "level[5m * 2]",
    "level offset (1m + 1m)", "step()", "max_of(1, 2)", "start()", "level >/ 1",
    'histogram_quantiles(latency_seconds_bucket, "q", 0.5, 0.9)',
)  # fmt: skip
AGGREGATES = ("sum", "sum", "avg", "min", "max", "count", "group", "stddev", "stdvar")
ARITHMETIC = ("+", "-", "*", "/", "%", "^", "atan2")
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
SETS = ("and", "or", "unless")
NUMBERS = (
    "0", "1", "2", "-1", "0.5", "10", "1.5", "100", "NaN", "Inf", "-Inf", "1e3", "0x1F", "5m",
    "1e-9", "-0.0", "3.7", "017", "1_000", ".5", "9223372036854775808",
)  # fmt: skip
STRINGS = (*map(quote, WEIRD_VALUES), '"$1"', '"x-$0"', '"${1}y"', '"api"')


@dataclass(frozen=True)
class Node:
    """A part of a query: text and smaller parts."""

    kind: str
    parts: tuple
    op: str = ""
    """Function, aggregator or operator, for what depends on it."""

    def __str__(self):
        return "".join(map(str, self.parts))

    @property
    def children(self):
        return [part for part in self.parts if isinstance(part, Node)]

    def walk(self):
        """This node and all below."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def size(self):
        return sum(1 for _ in self.walk()) + len(str(self)) / 1000


def smaller(node):
    """Trees with one part replaced by something simpler of its kind, biggest steps first."""
    below = [other for child in node.children for other in child.walk()]
    same_kind = sorted((n for n in below if n.kind == node.kind), key=lambda n: -n.size)
    for text in SMALLEST[node.kind]:
        if str(node) != text and (node.children or len(text) < len(str(node))):
            yield Node(node.kind, (text,))
    yield from same_kind
    for idx, part in enumerate(node.parts):
        if isinstance(part, Node):
            for other in smaller(part):
                parts = (*node.parts[:idx], other, *node.parts[idx + 1 :])
                yield Node(node.kind, parts, node.op)


@dataclass(frozen=True)
class Times:
    """When a query is asked; `step_ms` 0 makes it an instant query at `start_ms`."""

    start_ms: int
    end_ms: int
    step_ms: int

    def at(self, time_ms):
        """An instant query at this time."""
        return Times(time_ms, time_ms, 0)


def random_times(rng):
    """An instant or a range, mostly where the data is."""
    start = rng.randrange(BASE_MS - 60_000, END_MS + 400_000)
    if rng.random() < 0.5:
        start -= start % rng.choice((1000, 15_000, 60_000))
    if rng.random() < 0.4:
        return Times(start, start, 0)
    step = rng.choice((15_000, 15_000, 30_000, 60_000, 7_000, 1_500, 61_500, 300_000, 1))
    n_steps = rng.choice((0, 1, 5, 20, 60))
    return Times(start, start + n_steps * step + rng.choice((0, 0, step // 2)), step)


class Grammar:
    """Makes queries from one random generator."""

    def __init__(self, rng):
        self._rng = rng

    def query(self, is_instant):
        """A whole query; only an instant one may be of any type."""
        roll = self._rng.random()
        if is_instant and roll < 0.03:
            return self.matrix(2)
        if is_instant and roll < 0.035:
            return self.string()
        if roll < 0.08:
            return self.scalar(2)
        if roll < 0.085:
            return Node("v", (self._pick(NEWER),))
        return self.vector(self._rng.choice((1, 1, 2, 2, 3, 4)))

    def vector(self, depth):
        """An instant vector at most `depth` operations deep."""
        if depth <= 0 or self._rng.random() < 0.04:
            return self._wild_vector() if self._rng.random() < 0.03 else self.selector()
        make = self._rng.choices(*self.makers())[0]
        return make(self, depth - 1)

    def makers(self):
        """The methods that make vectors, and their weights."""
        return _VECTOR_MAKERS

    def scalar(self, depth):
        """A scalar at most `depth` operations deep."""
        roll = self._rng.random()
        if depth <= 0 or roll < 0.5:
            return Node("s", (self._pick(NUMBERS),))
        if roll < 0.6:
            return Node("s", (self._pick(("time()", "pi()", "time() % 7", "time() % 60 / 60")),))
        if roll < 0.8:
            op = self._pick(ARITHMETIC)
            parts = ("(", self.scalar(depth - 1), f" {op} ", self.scalar(depth - 1), ")")
            return Node("s", parts, op)
        if roll < 0.87:
            op = self._pick(COMPARISONS)
            parts = ("(", self.scalar(depth - 1), f" {op} bool ", self.scalar(depth - 1), ")")
            return Node("s", parts, op)
        if roll < 0.9:
            return Node("s", ("-", self.scalar(depth - 1)), "-")
        return Node("s", ("scalar(", self.vector(depth - 1), ")"), "scalar")

    def matrix(self, depth):
        if depth <= 0 or self._rng.random() < 0.75:
            name = self.selector_text()
            return Node("m", (*name, f"[{self._pick(RANGES)}]", *self._shift()))
        inner = self.vector(depth - 1)
        window = f"[{self._pick(SUBQUERY_RANGES)}:{self._pick(SUBQUERY_STEPS)}]"
        return Node("m", ("(", inner, ")", window, *self._shift()), "subquery")

    def string(self):
        return Node("t", (self._pick(STRINGS),))

    def selector(self):
        return Node("v", (*self.selector_text(), *self._shift()))

    def selector_text(self):
        """Parts of a selector: a name, and matchers or nothing."""
        roll = self._rng.random()
        if roll < 0.02:
            name = self._pick(('{"my.metric ä"}', '{__name__=~"level|up|temperature"}',
                               '{__name__=~"latency_.*"}', '{"my.metric ä", "a.b"="1"}',
                               '{job="api"}', '{__name__!~"requests.*",job="db"}'))  # fmt: skip
            return (name,)
        n = self._rng.choice((0, 0, 1, 1, 2))
        inside = ", ".join(self._pick(MATCHERS) for _ in range(n))
        matchers = Node("o", ("{" + inside + "}",)) if inside else ""
        return (self._pick(METRICS), matchers)

    def _shift(self):
        """offset and @, mostly neither."""
        parts = []
        if self._rng.random() < 0.1:
            parts.append(Node("o", (f" offset {self._pick(OFFSETS)}",)))
        if self._rng.random() < 0.07:
            anywhere = f"{self._rng.randrange(BASE_MS, END_MS) / 1000:.3f}"
            early = f"{(BASE_MS + 1_000_000) / 1000}"
            at = self._pick(("start()", "end()", early, anywhere, "0"))
            parts.append(Node("o", (f" @ {at}",)))
        self._rng.shuffle(parts)
        return parts

    def _wild_vector(self):
        """Things with the wrong type or count of arguments, and other texts that must fail."""
        return Node("v", (self._pick((
            "rate(level)", "sum(level[5m])", "abs(1)", "level and 1", "1 == 1", "clamp(level, 1)",
            "label_replace(level, 'a b', 'x', 'job', '.*')", "{}", "level{job=~'('}", "nope(level)",
            "label_replace(level, 'x', '$1', 'job', '(')", "level offset 5m offset 5m", "level[5m]",
            "label_join(level, '', '-', 'job')", "topk(NaN, level)", "topk(1e30, level)",
            "double_exponential_smoothing(level[5m], 1.5, 0.5)", "sum by (job) level", "level[0s]",
            "level + on(job) group_left(job) up", "histogram_quantile(level, 0.5)", "level @ foo",
            "count_values('', level)", "quantile('x', level)", "sort_by_label(level, job)",
            "level[5m:0s]", "rate((level))", "rate(level[5m:1m][5m])", "level @ 1e30", "((level)",
            "absent(level, level)", "time(1)", "level bool > 1", "level + bool 1", "level[-5m]",
        )),))  # fmt: skip

    # --- one method per family; all take the depth that is left ---------------------------------

    def _elementwise(self, depth):
        name = self._pick(ELEMENTWISE)
        return Node("v", (f"{name}(", self.vector(depth), ")"), name)

    def _clamped(self, depth):
        name = self._pick(("clamp", "clamp_min", "clamp_max", "round", "round"))
        parts = [f"{name}(", self.vector(depth)]
        n_args = {"clamp": 2, "round": self._rng.randrange(2)}.get(name, 1)
        for _ in range(n_args):
            parts += [", ", self.scalar(min(depth, 1))]
        return Node("v", (*parts, ")"), name)

    def _date(self, depth):
        name = self._pick(DATES)
        if self._rng.random() < 0.2:
            return Node("v", (f"{name}()",), name)
        return Node("v", (f"{name}(", self.vector(depth), ")"), name)

    def _rollup(self, depth):
        name = self._pick(ROLLUPS)
        return Node("v", (f"{name}(", self.matrix(depth), ")"), name)

    def _rollup_with_number(self, depth):
        name = self._pick(("quantile_over_time", "predict_linear", "double_exponential_smoothing"))
        matrix = self.matrix(depth)
        if name == "quantile_over_time":
            return Node("v", (f"{name}(", self._share(depth), ", ", matrix, ")"), name)
        if name == "predict_linear":
            return Node("v", (f"{name}(", matrix, ", ", self.scalar(depth), ")"), name)
        factors = [self._pick(("0.1", "0.5", "0.9", "0.01", "time() % 7 / 8")) for _ in "ab"]
        return Node("v", (f"{name}(", matrix, f", {factors[0]}, {factors[1]})"), name)

    def _aggregate(self, depth):
        name = self._pick(AGGREGATES)
        before, after = self._grouping()
        return Node("v", (name, before, "(", self.vector(depth), ")", after), name)

    def _aggregate_with_number(self, depth):
        name = self._pick(("topk", "bottomk", "quantile", "quantile", "limit_ratio", "limitk"))
        before, after = self._grouping()
        if name == "quantile":
            param = self._share(depth)
        elif name == "limit_ratio":
            param = Node("s", (self._pick(("0.5", "-0.5", "0.1", "-0.9", "1", "0", "-1", "2")),))
        else:
            numbers = ("1", "2", "3", "10", "0", "-1", "2.9", "time() % 4")
            param = Node("s", (self._pick(numbers),))
        inner = Node("v", (name, before, "(", param, ", ", self.vector(depth), ")", after), name)
        # Which series limitk takes is nobody's business; how many is.
        return Node("v", ("count(", inner, ")"), "count") if name == "limitk" else inner

    def _count_values(self, depth):
        before, after = self._grouping()
        label = self._pick(('"value"', '"job"', '"n"', '"le"', '"é"', '"__name__"'))
        parts = ("count_values", before, f"({label}, ", self.vector(depth), ")", after)
        return Node("v", parts, "count_values")

    def _grouping(self):
        """Two parts, one of them empty."""
        if self._rng.random() < 0.25:
            return "", ""
        labels = self._label_list(3)
        clause = Node("o", (f" {self._pick(('by', 'by', 'without'))} ({labels}) ",))
        return (clause, "") if self._rng.random() < 0.7 else ("", clause)

    def _label_list(self, n_max):
        return ", ".join(self._pick(LABELS) for _ in range(self._rng.randint(0, n_max)))

    def _with_scalar(self, depth):
        op, text = self._operator()
        sides = [self.vector(depth), self.scalar(min(depth, 2))]
        self._rng.shuffle(sides)
        return Node("v", ("(", sides[0], f" {text} ", sides[1], ")"), op)

    def _operator(self):
        """An arithmetic or comparing operator, and its text with `bool` if it has that."""
        if self._rng.random() < 0.55:
            op = self._pick(ARITHMETIC)
            return op, op
        op = self._pick(COMPARISONS)
        return op, op + " bool" * (self._rng.random() < 0.4)

    def _matched(self, depth):
        """Two vectors that are likely to match: the same labels on both sides."""
        op, text = self._operator()
        labels = self._pick(("job, instance", "job", "instance", "job, instance", "", "n"))
        style = self._rng.random()
        if style < 0.25:
            same = self.selector()
            return Node("v", ("(", same, f" {text} ", same, ")"), op)
        inner = f"sum by ({labels}) (" if style < 0.8 else f"max without ({labels}) ("
        left = Node("v", (inner, self.vector(depth - 1), ")"), "sum")
        right = Node("v", (inner, self.vector(depth - 1), ")"), "sum")
        if style > 0.5:
            metric = Node("v", (self._pick(("requests_total", "temperature", "build_info")),))
            extra = self._pick(("", "version", "nothing", "n"))
            if self._rng.random() < 0.5:
                clause = f" {text} on ({labels}) group_left({extra}) "
                return Node("v", ("(", metric, clause, right, ")"), op)
            return Node(
                "v", ("(", left, f" {text} on ({labels}) group_right({extra}) ", metric, ")"), op
            )
        return Node("v", ("(", left, f" {text} ", right, ")"), op)

    def _any_match(self, depth):
        op, text = self._operator()
        matching = f" {self._pick(('on', 'ignoring'))} ({self._label_list(3)}) "
        if self._rng.random() < 0.4:
            matching += f"{self._pick(('group_left', 'group_right'))} ({self._label_list(1)}) "
        clause = Node("o", (matching,))
        return Node(
            "v", ("(", self.vector(depth), f" {text} ", clause, self.vector(depth), ")"), op
        )

    def _set(self, depth):
        op = self._pick(SETS)
        clause = ""
        if self._rng.random() < 0.6:
            clause = Node("o", (f"{self._pick(('on', 'ignoring'))} ({self._label_list(3)}) ",))
        return Node("v", ("(", self.vector(depth), f" {op} ", clause, self.vector(depth), ")"), op)

    def _unary(self, depth):
        sign = self._pick("--+")
        return Node("v", (sign, self.vector(depth)), f"unary {sign}")

    def _label_replace(self, depth):
        destination = self._pick(('"x"', '"job"', '"instance"', '"é"', '"__name__"', '"n"'))
        source = self._pick(('"job"', '"instance"', '"v"', '"nothing"', '"__name__"', '"n"'))
        pattern = self._pick(('"(.*)"', '"(a)(.*)"', '".+"', '""', '"(?P<name>[^:]*):.*"', '"(.)"'))
        replacement = self._pick(
            ('"$1"', '"$name"', '"$2-$1"', '""', '"$$1"', '"${1}x"', '"$1x"', '"c"')
        )
        arguments = f", {destination}, {replacement}, {source}, {pattern})"
        return Node("v", ("label_replace(", self.vector(depth), arguments), "label_replace")

    def _label_join(self, depth):
        sources = "".join(
            f", {name}" for name in self._some(('"job"', '"n"', '"instance"', '"v"', '"é"'))
        )
        destination = self._pick(('"x"', '"job"', '"__name__"', '"n"'))
        parts = (
            "label_join(",
            self.vector(depth),
            f", {destination}, {self._pick(STRINGS)}{sources})",
        )
        return Node("v", parts, "label_join")

    def _presence(self, depth):
        return Node("v", ("absent(", self.vector(depth), ")"), "absent")

    def _timestamp(self, depth):
        return Node(
            "v",
            ("timestamp(", self.vector(depth if self._rng.random() < 0.4 else 0), ")"),
            "timestamp",
        )

    def _sort(self, depth):
        name = self._pick(("sort", "sort_desc", "sort_by_label", "sort_by_label_desc"))
        labels = ""
        if name.startswith("sort_by"):
            labels = "".join(f", {label}" for label in self._some(('"v"', '"n"', '"job"', '"le"')))
        return Node("v", (f"{name}(", self.vector(depth), f"{labels})"), name)

    def _vector_of_scalar(self, depth):
        return Node("v", ("vector(", self.scalar(depth + 1), ")"), "vector")

    def _histogram(self, depth):
        inner = self._buckets(depth)
        if self._rng.random() < 0.3:
            bounds = [
                self._pick(("0", "0.1", "1", "-Inf", "Inf", "2", "0.07", "NaN", "-1")) for _ in "ab"
            ]
            parts = (f"histogram_fraction({bounds[0]}, {bounds[1]}, ", inner, ")")
            return Node("v", parts, "histogram_fraction")
        return Node(
            "v", ("histogram_quantile(", self._share(depth), ", ", inner, ")"), "histogram_quantile"
        )

    def _native_only(self, depth):
        name = self._pick(("histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev",
                           "histogram_stdvar"))  # fmt: skip
        return Node("v", (f"{name}(", self.vector(depth), ")"), name)

    def _buckets(self, depth):
        metric = self._pick(("latency_seconds_bucket", "latency_seconds_bucket", "bad_bucket"))
        shift = self._shift()
        roll = self._rng.random()
        if roll < 0.2:
            return Node("v", (metric, *shift))
        if roll < 0.3:
            return self.vector(depth)
        name = self._pick(("rate", "increase", "sum_over_time", "last_over_time"))
        rate = Node("v", (f"{name}({metric}[{self._pick(RANGES)}]", *shift, ")"), name)
        if roll < 0.6:
            return rate
        labels = self._pick(("le", "le, job", "le, kind", "le, instance", "job"))
        return Node("v", (f"sum by ({labels}) (", rate, ")"), "sum")

    def _share(self, depth):
        """A number that mostly lies in 0..1."""
        if self._rng.random() < 0.1:
            return self.scalar(min(depth, 1))
        return Node(
            "s",
            (
                self._pick(
                    (
                        "0.5",
                        "0.9",
                        "0",
                        "1",
                        "0.99",
                        "0.1",
                        "time() % 7 / 8",
                        "1.1",
                        "-0.5",
                        "NaN",
                        "time() % 5 - 2",
                    )
                ),
            ),
        )

    def _pick(self, options):
        return self._rng.choice(options)

    def _some(self, options):
        return self._rng.sample(options, self._rng.randint(0, 3))


_VECTOR_MAKERS = tuple(zip(*(
    (Grammar._elementwise, 8), (Grammar._clamped, 5), (Grammar._date, 3), (Grammar._rollup, 22),
    (Grammar._rollup_with_number, 6), (Grammar._aggregate, 14),
    (Grammar._aggregate_with_number, 7), (Grammar._count_values, 2), (Grammar._with_scalar, 8),
    (Grammar._matched, 7), (Grammar._any_match, 4), (Grammar._set, 7), (Grammar._unary, 2),
    (Grammar._label_replace, 3), (Grammar._label_join, 2), (Grammar._presence, 2),
    (Grammar._timestamp, 2), (Grammar._sort, 2), (Grammar._vector_of_scalar, 2),
    (Grammar._histogram, 6), (Grammar._native_only, 1),
), strict=True))  # fmt: skip
