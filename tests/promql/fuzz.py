"""Random texts for the parser: ``python -m tests.promql.fuzz --inputs 1000000 --seed 1``.

A third of the texts are valid by a grammar, a third are such texts with random changes, a third
are fragments in any order. Nothing but ParseError may come out, always with a position in the text
and never slowly; what parses survives printing; and wherever promql-parser accepts a text too, the
trees agree, unless it is a known misreading of one of the two.
"""

import argparse
import random
import sys
import time
from collections import Counter

import promql_parser as oracle

from tests.differential.grammar import Grammar
from tests.promql.oracle import MISREADS, our_shape, their_shape
from tests.promql.trees import nodes, shape
from tsengine.errors import ParseError
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.promql.printer import to_text

SLOW_S = 1.0

OURS_IS_STRICTER = (
    "filling in missing series",
    "unary expression only allowed on expressions of type scalar or instant vector",
    "expected type scalar in aggregation parameter",
    "error parsing regexp",
    "value out of range",
    "duration must be greater than 0",
)
"""Errors of Prometheus that promql-parser does not know: it checks fewer types, its regular
expressions are not RE2's, its numbers overflow to infinity."""

FRAGMENTS = [
    "foo", "bar:baz", "sum", "by", "without", "on", "ignoring", "group_left", "group_right",
    "bool", "offset", "@", "start()", "end()", "step()", "range()", "max_of(", "min_of(", "rate(",
    "abs(", "time()", "info(", "label_replace(", "topk(", "count_values(", "quantile(",
    "histogram_quantile(", "(", ")", "[", "]", "{", "}", "[5m]", "[5m:1m]", "[10m:]", ":", ",",
    "=", "!=", "=~", "!~", "==", "<=", ">", "</", ">/", "+", "-", "*", "/", "%", "^", "atan2",
    "and", "or", "unless", "1", "0x1F", "5m", "1.5", ".5", "Inf", "NaN", "'s'", '"\\n"', "`r`",
    "fill(1)", "fill_left(", "anchored", "smoothed", "# c\n", "\n", " ", '{a="b"}', '{"ä"}',
    "(a, b)", "ä", "\\", "$", "!",
]  # fmt: skip


def check_one(text):
    """Only ParseError may come out, with a position in the text; a tree survives printing."""
    error = None
    try:
        tree = parse(text, features=ALL_ON)
    except ParseError as caught:
        error = caught
    if error is not None:
        lines = text.encode("utf-8", "surrogateescape").split(b"\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        return False
    printed = to_text(tree)
    assert shape(parse(printed, features=ALL_ON)) == shape(tree), printed
    size = len(text.encode())
    assert all(0 <= node.span.start < node.span.end <= size for node in nodes(tree))
    return True


def mutated(rng, expr):
    """A text with one to three random changes: something cut, replaced or put in."""
    for _ in range(rng.randint(1, 3)):
        start, end = sorted(rng.choices(range(len(expr) + 1), k=2))
        end = min(end, start + 6)
        kind = rng.randrange(3)
        middle = "" if kind == 0 else rng.choice(FRAGMENTS)
        expr = expr[:start] + middle + expr[end if kind < 2 else start :]
    return expr


def random_text(rng, grammar):
    """One text and which kind it is of."""
    kind = rng.choice(("grammar", "mutated", "fragments"))
    if kind == "fragments":
        count = rng.randint(1, 12)
        return kind, " ".join(rng.choices(FRAGMENTS, k=count))
    text = str(grammar.query(is_instant=True))
    return kind, mutated(rng, text) if kind == "mutated" else text


def disagreement(text):
    """How promql-parser's tree differs from ours; None if it agrees or does not accept the text."""
    if any(word in text for word in MISREADS):
        return None
    try:
        theirs = their_shape(oracle.parse(text))
    except BaseException as error:
        # Its panics are no Exceptions; its times must fit Python's.
        if isinstance(error, (ValueError, OverflowError)) or (
            type(error).__name__ == "PanicException"
        ):
            return None
        raise
    try:
        ours = our_shape(parse(text, features=ALL_ON))
    except ParseError as error:
        if any(known in error.message for known in OURS_IS_STRICTER):
            return None
        return f"only promql-parser accepts it: {error}"
    return None if ours == theirs else f"ours {ours}, theirs {theirs}"


def run(n_inputs, seed):
    """Returns counts and findings: texts that crashed, were slow or made the two parsers differ."""
    rng = random.Random(seed)
    grammar = Grammar(rng)
    counts = Counter()
    findings = []
    slowest_s = 0.0
    for _ in range(n_inputs):
        kind, text = random_text(rng, grammar)
        started = time.perf_counter()
        try:
            is_valid = check_one(text)
        except Exception as error:  # whatever it is, it is a finding
            findings.append(f"{type(error).__name__}: {error}: {text!r}")
            continue
        duration_s = time.perf_counter() - started
        slowest_s = max(slowest_s, duration_s)
        if duration_s > SLOW_S:
            findings.append(f"{duration_s:.2f} s: {text!r}")
        counts[kind, "valid" if is_valid else "refused"] += 1
        difference = disagreement(text)
        if difference is not None:
            findings.append(f"{difference}: {text!r}")
    return counts, findings, slowest_s


def main():
    """Run and summarise; 1 if there are findings."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--inputs", type=int, default=1_000_000)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    started = time.perf_counter()
    counts, findings, slowest_s = run(chosen.inputs, chosen.seed)
    for finding in findings[:50]:
        print(finding)
    for (kind, result), count in sorted(counts.items()):
        print(f"{kind:10} {result:8} {count:9,}")
    print(
        f"{chosen.inputs:,} texts in {time.perf_counter() - started:.0f} s, slowest "
        f"{1000 * slowest_s:.1f} ms, {len(findings)} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
