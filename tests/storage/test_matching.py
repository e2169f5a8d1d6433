"""Matchers against a loop over all series, with RE2 for every regular expression."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.test_catalog import make_catalog
from tsengine.errors import QueryError
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.storage import index, matching
from tsengine.storage.value_patterns import Affix, Anything, Literals, RePattern, parse

expressions = st.sampled_from(
    [
        "", "a", "b", "a|b", "(a|b)", "(?:a|bc)", "a|", "()", ".*", ".+", "(.*)", "(.+)", "a.*",
        "a.+", ".*c", ".+c", ".*b.*", "a.*c", "[ab]+", "a{2}", "a\\.c", "a\\|b", "x|ü", "ü.*",
        "(?i)A", "a?", "^a$", "a|b.*", "|", ".*.*", ".+.+", "a.", "\\d+", "(a|b", "a.*|b",
        "a\n.*", "(a)(b)", "(a|b)|(c)", "\\Qa|b\\E", ".*\\.c",
    ]
)  # fmt: skip
texts = st.sampled_from(
    ["", "a", "b", "c", "ab", "bc", "abc", "a.c", "a|b", "aa", "ü", "üa", "A", "a\nc", "7", "\n"]
)
names = st.sampled_from(["a", "job", "zone", "nowhere"])
matchers = st.one_of(
    st.builds(Matcher, names, st.sampled_from([MatchOp.EQUAL, MatchOp.NOT_EQUAL]), texts),
    st.builds(Matcher, names, st.sampled_from([MatchOp.REGEX, MatchOp.NOT_REGEX]), expressions),
)
label_sets = st.fixed_dictionaries(
    {"__name__": st.sampled_from(["up", "down"])},
    optional={"a": texts, "job": texts, "zone": texts},
)


def fulfils(labels: dict[str, str], matcher: Matcher) -> bool:
    value = labels.get(matcher.name, "")
    if matcher.op is MatchOp.EQUAL:
        return value == matcher.value
    if matcher.op is MatchOp.NOT_EQUAL:
        return value != matcher.value
    options = re2.Options()
    options.log_errors = False
    re2.compile(matcher.value, options)
    found = re2.compile(f"^(?s:{matcher.value})$", options).fullmatch(value) is not None
    return found == (matcher.op is MatchOp.REGEX)


def naive(series: list[dict[str, str]], wanted: list[Matcher]) -> list[int] | None:
    try:
        rows = [[fulfils(labels, matcher) for matcher in wanted] for labels in [{}, *series]]
    except re2.error:
        return None
    return [ref for ref, row in enumerate(rows[1:]) if all(row)]


def distinct(series: list[dict[str, str]]) -> list[dict[str, str]]:
    seen = {}
    for labels in series:
        seen.setdefault(tuple(sorted((n, v) for n, v in labels.items() if v)), labels)
    return list(seen.values())


@given(
    st.lists(label_sets, max_size=40),
    st.lists(st.lists(matchers, max_size=4), min_size=1, max_size=6),
    st.integers(0, 40),
)
@settings(deadline=None, max_examples=400)
def test_find_matches_a_loop(series, queries, cut):
    series = distinct(series)
    catalog = make_catalog()
    # The first query round fills the cache of expressions with a part of the values.
    for part in (series[:cut], series):
        catalog.series_refs(part)
        catalog.publish()
        view = catalog.view()
        for wanted in queries:
            expected = naive(part, wanted)
            if expected is None:
                with pytest.raises(QueryError, match="invalid regular expression"):
                    view.find(wanted)
                continue
            found = view.find(wanted)
            assert found.dtype == np.uint32
            assert found.tolist() == expected


def test_old_views_find_only_their_own_series():
    catalog = make_catalog()
    catalog.series_refs([{"__name__": "m", "a": "x1"}])
    catalog.publish()
    old = catalog.view()
    catalog.series_refs([{"__name__": "m", "a": "x2"}, {"__name__": "m", "a": "y"}])
    catalog.publish()
    wanted = [Matcher("a", MatchOp.REGEX, "x[0-9]")]
    assert catalog.view().find(wanted).tolist() == [0, 1]
    assert old.find(wanted).tolist() == [0]
    assert old.find([Matcher("a", MatchOp.NOT_REGEX, "x[0-9]")]).tolist() == []


@pytest.mark.parametrize(
    "expression", ["a)|(b", "(", "[z-a]", "a{2000}", "\\", "(?=a)", "*a", "\ud800["]
)
def test_an_invalid_expression_is_an_error_even_where_nothing_matches(expression):
    view = make_catalog().view()
    for op in (MatchOp.REGEX, MatchOp.NOT_REGEX):
        with pytest.raises(QueryError, match="invalid regular expression"):
            view.find([Matcher("nowhere", MatchOp.EQUAL, "x"), Matcher("a", op, expression)])


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("foo", Literals), ("foo|bar", Literals), ("(foo|bar)", Literals), ("a\\.b|c", Literals),
        ("foo.*", Affix), (".*foo", Affix), (".*foo.*", Affix), ("foo.+", Affix), (".+foo", Affix),
        (".*", Anything), (".+", Anything), ("", Literals), ("f[ab]", RePattern),
        ("foo.*bar", RePattern), ("(?i)foo", RePattern), ("\\d", RePattern), ("a\\", None),
    ],
)  # fmt: skip
def test_simple_expressions_need_no_engine(expression, kind):
    if kind is None:
        with pytest.raises(QueryError):
            parse(expression)
    else:
        assert isinstance(parse(expression), kind)


@given(expressions, texts)
@settings(deadline=None, max_examples=600)
def test_patterns_match_as_re2_does(expression, value):
    wanted = Matcher("a", MatchOp.REGEX, expression)
    try:
        expected = fulfils({"a": value}, wanted)
    except re2.error:
        return
    assert parse(expression).matches(value) == expected


def test_many_series_in_many_segments(monkeypatch):
    monkeypatch.setattr(index, "_ENTRIES_MIN", 64)
    monkeypatch.setattr(index, "_ENTRIES_MAX", 64 * 64)
    catalog = make_catalog()
    series = [
        {"__name__": f"m{i % 5}", "i": str(i), "k": str(i % 17), **({"z": "z"} if i % 9 else {})}
        for i in range(9000)
    ]
    first = 0
    for size in (1, 5, 30, 100, 17, 2000, 50, 50, 50, 50, 3, 4000, 1, 1, 1200, 700):
        catalog.series_refs(series[first : first + size])
        catalog.publish()
        first += size
        view = catalog.view()
        for wanted in (
            [Matcher("k", MatchOp.EQUAL, "3")],
            [Matcher("k", MatchOp.REGEX, "3|4"), Matcher("z", MatchOp.EQUAL, "")],
            [Matcher("z", MatchOp.EQUAL, "z"), Matcher("__name__", MatchOp.EQUAL, "m1")],
            [Matcher("k", MatchOp.NOT_EQUAL, "3"), Matcher("i", MatchOp.REGEX, ".*[05]")],
            [Matcher("i", MatchOp.REGEX, "1.*"), Matcher("k", MatchOp.NOT_REGEX, "1.*")],
        ):
            assert view.find(wanted).tolist() == naive(series[:first], wanted)
        assert view.label_values("k", None) == sorted({one["k"] for one in series[:first]})
        counts = view.series_of_pairs.counts(view.n_pairs)
        assert counts.sum() == sum(map(len, series[:first]))


def test_the_cache_of_expressions_is_bounded(monkeypatch):
    monkeypatch.setattr(matching, "_CACHE_ENTRIES_MAX", 4)
    catalog = make_catalog()
    catalog.series_refs([{"__name__": "m", "a": str(i)} for i in range(30)])
    catalog.publish()
    view = catalog.view()
    for _ in range(2):
        for digit in range(10):
            found = view.find([Matcher("a", MatchOp.REGEX, f"[{digit}][0-9]")])
            assert found.tolist() == list(
                range(10 * digit, 10 * digit + 10) if digit in (1, 2) else []
            )
    assert 1 <= len(view.regex_cache) <= 4
    monkeypatch.setattr(matching, "_CACHE_PAIRS_MAX", 5)
    view.find([Matcher("a", MatchOp.REGEX, "[1][0-9]?")])
    view.find([Matcher("a", MatchOp.REGEX, "[2][0-9]?")])
    assert len(view.regex_cache) == 1


def test_row_tests_and_postings_agree(monkeypatch):
    catalog = make_catalog()
    series = [{"__name__": "m", "i": str(i), "k": str(i % 3), "z": str(i % 2)} for i in range(600)]
    catalog.series_refs(series)
    catalog.publish()
    queries = [
        [Matcher("k", MatchOp.EQUAL, "1"), Matcher("z", op, value)]
        for op, value in ((MatchOp.EQUAL, "0"), (MatchOp.NOT_EQUAL, "0"), (MatchOp.EQUAL, ""))
    ]
    for cost in (0, 10**9):
        monkeypatch.setattr(matching, "_ROW_TEST_COST", cost)
        for wanted in queries:
            assert catalog.view().find(wanted).tolist() == naive(series, wanted)


def test_many_groups_need_little_memory():
    """RE2 would keep a position per thread and group: 100,000 groups took all there is."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "from tsengine.promql.parser import parse_selector;"
        "from tsengine.storage.value_patterns import parse;"
        "text = '(' * 100_000 + 'a' + ')' * 100_000;"
        "parse_selector('m{a=~\"' + text + '\"}');"
        "print(parse(text).matches('a'), parse(text).matches('b'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("True False\n", 0), done.stderr
