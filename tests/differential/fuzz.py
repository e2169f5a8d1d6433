"""Random queries to a Prometheus and to tsengine over the same data.

``python -m tests.differential.fuzz --queries 20000 --seed 1``; query N of a seed is always the
same and can be asked alone with ``--only N``.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.differential import peers
from tests.differential.cases import Case
from tests.differential.compare import answers_differ, error_texts_differ, notes_differ
from tests.differential.data import make_series
from tests.differential.explained import explanation
from tests.differential.grammar import Node, Times, smaller
from tests.differential.native_data import make_native_series
from tests.differential.native_explained import OVERWRITTEN
from tests.differential.native_grammar import make_query
from tests.real.peers import MissingPeerError

SHRINK_TRIES = 250
DIFFERENCES_MAX = 200
SHARE_OF_NATIVES = 0.4


@dataclass
class Difference:
    """An answer that is not Prometheus's, made as small as it gets."""

    number: int
    kind: str
    expr: str
    times: Times
    text: str
    original: str

    def __str__(self):
        when = (self.times.start_ms, self.times.end_ms, self.times.step_ms)
        return f"#{self.number} {self.kind}: {self.expr}\n    at {when}\n    {self.text[:600]}"


@dataclass
class Summary:
    """What a run found."""

    n_queries: int = 0
    n_succeeded: int = 0
    n_with_rows: int = 0
    explained: Counter = field(default_factory=Counter)
    error_texts: dict[str, str] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)


class Fuzzer:
    """A loaded pair of engines."""

    def __init__(self, prometheus, tsengine, *, seed, share_of_natives=SHARE_OF_NATIVES):
        self.prometheus = prometheus
        self.tsengine = tsengine
        self.seed = seed
        self.share_of_natives = share_of_natives

    def run(self, numbers, *, say=lambda text: None):
        """Ask the queries of these numbers."""
        summary = Summary()
        for number in numbers:
            node, times = make_query(self.seed, number, self.share_of_natives)
            case = self.ask(node, times)
            summary.n_queries += 1
            if case.expected["status"] == "success":
                summary.n_succeeded += 1
                summary.n_with_rows += bool(case.expected["data"]["result"])
            found = difference(case)
            if found is None:
                if text := error_texts_differ(case.expected, case.actual):
                    summary.error_texts[str(node)] = text
            elif reason := self._explanation(case):
                summary.explained[reason] += 1
            else:
                node, found = self._shrink(node, times, found)
                what = Difference(number, found[0], str(node), times, found[1], str(case.node))
                summary.differences.append(what)
                say(str(what))
                if len(summary.differences) >= DIFFERENCES_MAX:
                    break
            if summary.n_queries % 1000 == 0:
                say(f"{summary.n_queries} queries, {len(summary.differences)} differences")
        return summary

    def ask(self, node, times):
        """Both answers to one query."""
        expr = str(node)
        answers = [ask(peer, expr, times) for peer in (self.prometheus, self.tsengine)]
        return Case(node, times, *answers, self.ask)

    def _explanation(self, case):
        """Name of the rule that covers a difference; None when there is none.

        Prometheus 3.5 did not copy histograms that come out of a subquery, so that later queries
        write over each other's (issue 16879). It does not after it has cleared its pools; what
        tsengine says must not change.
        """
        if reason := explanation(case):
            return reason
        self.prometheus.clear_pools()
        again = self.ask(case.node, case.times)
        if answers_differ(case.actual, again.actual, tolerance=0):
            return None
        if difference(again) is None:
            return OVERWRITTEN
        reason = explanation(again)
        return reason and f"{OVERWRITTEN} before / {reason}"

    def _shrink(self, node, times, found):
        """A smaller query that differs in the same way, and how."""
        tries = 0
        is_smaller = True
        while is_smaller and tries < SHRINK_TRIES:
            is_smaller = False
            for other in smaller(node):
                tries += 1
                if tries > SHRINK_TRIES:
                    break
                if other.size >= node.size:
                    continue
                case = self.ask(other, times)
                still = difference(case)
                if still is not None and still[0] == found[0] and not self._explanation(case):
                    node, found, is_smaller = other, still, True
                    break
        return node, found


def ask(peer, expr, times):
    """One query to one engine; an exception becomes an answer that fits nothing."""
    try:
        if times.step_ms == 0:
            return peer.query(expr, times.start_ms)
        return peer.query_range(expr, times.start_ms, times.end_ms, times.step_ms)
    except Exception as error:  # a crash of the engine under test is a finding, not the end
        return {
            "status": "error",
            "errorType": "crash",
            "error": f"{type(error).__name__}: {error}",
        }


def difference(case):
    """(class, text) or None."""
    root_op = case.node.op if case.times.step_ms == 0 else ""
    return answers_differ(case.expected, case.actual, root_op=root_op) or notes_differ(
        case.expected, case.actual
    )


@contextlib.contextmanager
def fuzzing(
    directory, *, seed, data_seed=None, mode="embedded", delayed_names=False,
    share_of_natives=SHARE_OF_NATIVES,
):  # fmt: skip
    """A `Fuzzer` over fresh engines; raises MissingPeerError without Prometheus.

    Parameters
    ----------
    mode
        ``embedded`` with the samples in the head, ``flushed`` with all in parts, ``server``.

    """
    data_seed = seed if data_seed is None else data_seed
    series = make_series(data_seed) + make_native_series(data_seed)
    with contextlib.ExitStack() as stack:
        prometheus = peers.start_prometheus(directory, delayed_names=delayed_names)
        stack.callback(prometheus.close)
        start = peers.start_server if mode == "server" else peers.start_embedded
        tsengine = start(directory, delayed_names=delayed_names)
        stack.callback(tsengine.close)
        for peer in (prometheus, tsengine):
            peer.load(series)
        if mode == "flushed":
            tsengine.flush()
        yield Fuzzer(prometheus, tsengine, seed=seed, share_of_natives=share_of_natives)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first query")
    parser.add_argument("--only", type=int, action="append", help="just this query")
    parser.add_argument("--expr", help="just this text, at the times of query --first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-seed", type=int, help="instead of --seed for the data")
    parser.add_argument("--natives", type=float, default=SHARE_OF_NATIVES,
                        help="share of the queries that are about native histograms")  # fmt: skip
    parser.add_argument("--mode", choices=("embedded", "flushed", "server"), default="embedded")
    parser.add_argument("--delayed-names", action="store_true", help="delayed name removal")
    parser.add_argument("--error-texts", action="store_true", help="list errors worded differently")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tsengine-fuzz-") as directory:
        try:
            with fuzzing(
                Path(directory), seed=arguments.seed, data_seed=arguments.data_seed,
                mode=arguments.mode, delayed_names=arguments.delayed_names,
                share_of_natives=arguments.natives,
            ) as fuzzer:  # fmt: skip
                if arguments.expr:
                    return _show(fuzzer, arguments)
                numbers = arguments.only or range(
                    arguments.first, arguments.first + arguments.queries
                )
                summary = fuzzer.run(numbers, say=lambda text: print(text, flush=True))
        except MissingPeerError as error:
            print(error)
            return 1
    _report(summary, arguments, time.monotonic() - started)
    return 1 if summary.differences else 0


def _show(fuzzer, arguments):
    _, times = make_query(arguments.seed, arguments.first, arguments.natives)
    case = fuzzer.ask(Node("v", (arguments.expr,)), times)
    print(times, case.expected, case.actual, difference(case), sep="\n")
    return 0


def _report(summary, arguments, seconds):
    print(f"{summary.n_queries} queries of seed {arguments.seed} in {seconds:.0f} s: "
          f"{summary.n_succeeded} succeeded, {summary.n_with_rows} with a result")  # fmt: skip
    for reason, n in summary.explained.most_common():
        print(f"{n:6d} explained: {reason}")
    print(f"{len(summary.error_texts):6d} failed on both sides with other words")
    if arguments.error_texts:
        for expr, text in summary.error_texts.items():
            print(f"    {expr}\n        {text}")
    kinds = Counter(found.kind for found in summary.differences)
    print(f"{len(summary.differences):6d} unexplained differences {dict(kinds)}")


if __name__ == "__main__":
    sys.exit(main())
