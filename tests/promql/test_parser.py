import random
import time
from pathlib import Path

import promql_parser as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.promql.fuzz import FRAGMENTS, check_one, mutated
from tests.promql.oracle import MISREADS, our_shape, their_shape
from tests.promql.script import Eval, read_script
from tests.promql.trees import nodes, shape
from tsengine.errors import ParseError
from tsengine.model.matchers import Matcher, MatchOp
from tsengine.promql import ast
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import DEPTH_MAX, TEXT_SIZE_MAX, parse, parse_selector
from tsengine.promql.printer import to_text

SCRIPTS = Path(__file__).parents[3] / "shared" / "promqltest"
needs_scripts = pytest.mark.skipif(
    not SCRIPTS.is_dir(), reason="Prometheus's test scripts are not beside the repository"
)


def script_expressions():
    return [
        command.expr
        for path in sorted(SCRIPTS.glob("*.test"))
        for command in read_script(path)
        if isinstance(command, Eval)
    ]


def on(text):
    return parse(text, features=ALL_ON)


def grouped(text):
    """The tree with parentheses around every operation."""
    return _grouped(on(text))


def _grouped(node):
    if isinstance(node, ast.Binary):
        return f"({_grouped(node.lhs)} {node.op} {_grouped(node.rhs)})"
    if isinstance(node, ast.Unary):
        return f"({node.op}{_grouped(node.expr)})"
    if isinstance(node, ast.Paren):
        return _grouped(node.expr)
    return to_text(node)


# --- acceptance and oracle -----------------------------------------------------------------------


@needs_scripts
def test_every_expression_of_the_scripts_parses_and_survives_printing():
    exprs = script_expressions()
    assert len(exprs) == 2214
    for expr in exprs:
        tree = on(expr)
        assert shape(on(to_text(tree))) == shape(tree), expr


def test_typical_query_parses_in_a_millisecond():
    """Five times that, the least of many: machines that tests run on are busy."""
    query = (
        'sum by (job, le) (rate(http_request_duration_seconds_bucket{job="api",code=~"5.."}[5m]))'
        " / on (job) group_left () sum by (job) (up offset 1h) > 0.5"
    )
    times = []
    for number in range(50):
        # A text that was parsed before is remembered.
        text = f"{query} + {number}"
        started = time.perf_counter()
        parse(text)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.005, min(times)


@needs_scripts
def test_trees_agree_with_the_oracle():
    """promql-parser refuses some of Prometheus 3.14's language; it must agree on the rest."""
    n_compared = 0
    for expr in script_expressions():
        if any(word in expr for word in MISREADS):
            continue
        try:
            theirs = oracle.parse(expr)
        except ValueError:
            continue
        assert our_shape(on(expr)) == their_shape(theirs), expr
        n_compared += 1
    assert n_compared > 1800


# --- the tree ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a or b and c", "(a or (b and c))"),
        ("a and b unless c", "((a and b) unless c)"),
        ("a and b == c", "(a and (b == c))"),
        ("a < b + c", "(a < (b + c))"),
        ("a + b * c - d", "((a + (b * c)) - d)"),
        ("a * b atan2 c % d", "(((a * b) atan2 c) % d)"),
        ("a ^ b ^ c", "(a ^ (b ^ c))"),
        ("-a ^ b", "(-(a ^ b))"),
        ("-a * b", "((-a) * b)"),
        ("a ^ -b * c", "((a ^ (-b)) * c)"),
        ("a ^ -b ^ c", "(a ^ (-(b ^ c)))"),
        ("-1 ^ 2", "(-(1 ^ 2))"),
        ("- -1", "1"),
        ("-5m", "-5m"),
        ("-a offset 5m", "(-a offset 5m)"),
        ("a + b offset 5m", "(a + b offset 5m)"),
        ("a offset -2^2", "(a offset -2s ^ 2)"),
        ("a @ 5 ^ 2", "(a @ 5.000 ^ 2)"),
        ("a offset step() * 2", "(a offset step() * 2)"),
        ("a offset (step() * 2)", "a offset (step() * 2)"),
        # Prometheus's grammar: what begins with a parenthesis is an offset to its end.
        ("a offset (1m) * 2", "a offset (1m) * 2"),
        ("a offset -(1m) * 2", "(a offset -(1m) * 2)"),
        ("a </ b", "(a </ b)"),
        ("a >/ 3", "(a >/ 3)"),
    ],
)
def test_precedence(text, expected):
    assert grouped(text) == expected


def test_parts_of_a_selector():
    tree = parse('foo{a="b", c!~"d.*",} offset 5m @ 1.5')
    assert tree == ast.VectorSelector(
        "foo",
        (
            Matcher("__name__", MatchOp.EQUAL, "foo"),
            Matcher("a", MatchOp.EQUAL, "b"),
            Matcher("c", MatchOp.NOT_REGEX, "d.*"),
        ),
        ast.TimeShift(offset_ms=300_000, at_ms=1500),
        span=ast.Span(0, 37),
    )


@pytest.mark.parametrize(
    ("text", "name", "in_braces"),
    [
        ("foo", "foo", False),
        ("foo:bar{}", "foo:bar", False),
        ('{"a b"}', "a b", True),
        ('{__name__="foo"}', "foo", True),
        ('{"a", "b"}', None, False),
        ('{__name__=~"foo"}', None, False),
        ("sum", "sum", False),
        ("by", "by", False),
        ("and", "and", False),
        ("start{}", "start", False),
        ("fill", "fill", False),
        ("anchored", "anchored", False),
        ("offset offset 5m", "offset", False),
    ],
)
def test_names_of_selectors(text, name, in_braces):
    tree = parse(text)
    assert (tree.name, tree.name_in_braces) == (name, in_braces)


def test_selectors_that_mean_the_same_are_equal():
    left, right = parse('{b="1",a=~"x"}'), parse('{a=~"x",b="1"}')
    assert left == right


@pytest.mark.parametrize(
    ("text", "shift"),
    [
        ("foo @ start()", ast.TimeShift(at_edge=ast.Edge.START)),
        ("foo @ END() offset -1m", ast.TimeShift(offset_ms=-60_000, at_edge=ast.Edge.END)),
        ("foo @ -1.0006", ast.TimeShift(at_ms=-1001)),
        ("foo @ +5m", ast.TimeShift(at_ms=300_000)),
        ("foo offset 1.5", ast.TimeShift(offset_ms=1500)),
        ("foo offset 0s", ast.TimeShift()),
    ],
)
def test_time_shifts(text, shift):
    assert parse(text).shift == shift


def test_shift_of_a_range_selector_belongs_to_its_selector():
    tree = parse("foo[5m] @ 10 offset 1m")
    assert isinstance(tree, ast.MatrixSelector)
    assert tree.selector.shift == ast.TimeShift(offset_ms=60_000, at_ms=10_000)
    assert (tree.range_ms, tree.range_expr) == (300_000, None)


def test_subqueries():
    tree = parse("foo[10m:1m] offset 5m")
    assert isinstance(tree, ast.Subquery)
    assert (tree.range_ms, tree.step_ms, tree.shift.offset_ms) == (600_000, 60_000, 300_000)
    assert parse("foo[10m:]").step_ms is None


def test_aggregations():
    before = parse("topk without (a, sum, 'x y') (3, foo)")
    after = parse("topk(3, foo) without (a, sum, 'x y',)")
    assert shape(before) == shape(after)
    assert (before.op, before.grouping, before.without) == ("topk", ("a", "sum", "x y"), True)
    assert isinstance(before.param, ast.NumberLiteral)


def test_vector_matching():
    tree = on("a == bool ignoring (x) group_left (y, z) fill_left (2) fill_right (-1) b")
    assert tree.returns_bool
    assert tree.matching == ast.VectorMatching(
        ast.Cardinality.MANY_TO_ONE, ("x",), False, ("y", "z"), 2.0, -1.0
    )
    assert on("a + b").matching == ast.VectorMatching()
    assert on("a or b").matching == ast.VectorMatching(ast.Cardinality.MANY_TO_MANY)
    assert on("a + 1").matching is None
    assert on("a + fill(1) b").matching == ast.VectorMatching(fill_left=1.0, fill_right=1.0)


@pytest.mark.parametrize(
    ("text", "value", "is_duration"),
    [
        ("1_000", 1000.0, False),
        ("0x_1F", 31.0, False),
        ("0x8000000000000000", 2.0**63, False),
        ("017", 15.0, False),
        ("08", 8.0, False),
        ("-0", -0.0, False),
        ("1e-400", 0.0, False),
        ("Inf", float("inf"), False),
        ("5m", 300.0, True),
        ("1y", 31_536_000.0, True),
        ("-1m30s", -90.0, True),
        ("0" * 5000 + "9", 9.0, False),
    ],
)
def test_numbers(text, value, is_duration):
    tree = parse(text)
    assert shape(tree) == shape(ast.NumberLiteral(value, is_duration, span=ast.Span(0, 0)))


def test_spans_are_the_texts_of_the_nodes():
    text = 'sum by (a) (rate(foo{x="ä"}[5m] offset 1m)) / -(b @ start()) + min_of(1, 2)'
    source = text.encode()
    texts = {
        type(node).__name__: source[node.span.start : node.span.end].decode()
        for node in reversed(nodes(on(text)))
    }
    assert texts["Aggregate"] == 'sum by (a) (rate(foo{x="ä"}[5m] offset 1m))'
    assert texts["MatrixSelector"] == 'foo{x="ä"}[5m] offset 1m'
    assert texts["Unary"] == "-(b @ start())"
    assert texts["Paren"] == "(b @ start())"
    assert texts["Binary"] == text


def test_parse_selector():
    assert parse_selector('up{job=~"a|b"}') == (
        Matcher("__name__", MatchOp.EQUAL, "up"),
        Matcher("job", MatchOp.REGEX, "a|b"),
    )
    assert parse_selector('{a="b"}') == (Matcher("a", MatchOp.EQUAL, "b"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: parse error: unexpected end of input"),
        ("foo[5m]", '1:4: parse error: unexpected "["'),
        ("foo + bar", "1:5: parse error: unexpected <op:+>"),
        ("sum(foo)", '1:4: parse error: unexpected "("'),
        (
            '{a=~".*"}',
            "1:1: parse error: vector selector must contain at least one non-empty matcher",
        ),
    ],
)
def test_parse_selector_refuses(text, message):
    with pytest.raises(ParseError) as caught:
        parse_selector(text)
    assert str(caught.value) == message


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "1:1: parse error: no expression found in input"),
        ("# nothing", "1:1: parse error: no expression found in input"),
        ("1 +", "1:4: parse error: unexpected end of input"),
        ("*1", "1:1: parse error: unexpected <op:*>"),
        ("foo bar", '1:5: parse error: unexpected identifier "bar"'),
        ("foo\n  5m", '2:3: parse error: unexpected duration "5m"'),
        ("(1", "1:3: parse error: unclosed left parenthesis"),
        ("()", '1:2: parse error: unexpected ")"'),
        ("sum(a b)", '1:7: parse error: unexpected identifier "b" in aggregation'),
        ("sum()", "1:1: parse error: no arguments for aggregate expression provided"),
        (
            "topk(a)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided,"
            " expected 2, got 1",
        ),
        ("sum by a (b)", '1:8: parse error: unexpected identifier "a" in grouping opts,'
         ' expected "("'),
        ("sum by (,) (b)", '1:9: parse error: unexpected "," in grouping opts, expected label'),
        ("sum by (a b) (c)", '1:11: parse error: unexpected identifier "b" in grouping opts,'
         ' expected "," or ")"'),
        ("sum by ('') (c)", '1:9: parse error: invalid label name for grouping: ""'),
        ("abs(a,)", "1:6: parse error: trailing commas not allowed in function call args"),
        ("foo(a)", '1:1: parse error: unknown function with name "foo"'),
        ("Abs(a)", '1:1: parse error: unknown function with name "Abs"'),
        ("foo{a}", '1:6: parse error: unexpected "}" in label matching,'
         " expected label matching operator"),
        ("foo{a=b}", '1:7: parse error: unexpected identifier "b" in label matching,'
         " expected string"),
        ("foo{a='b' c}", '1:11: parse error: unexpected identifier "c" in label matching,'
         ' expected "," or "}"'),
        ("foo{,}", '1:5: parse error: unexpected "," in label matching,'
         ' expected identifier or "}"'),
        ("foo[]", '1:5: parse error: unexpected "]" in subquery or range selector,'
         " expected number, duration, step(), or range()"),
        ("foo[5m:1m:2m]", '1:10: parse error: unexpected ":" in subquery selector, expected "]"'),
        ("foo[0s]", "1:5: parse error: duration must be greater than 0"),
        ("foo[5m / 0]", "1:8: parse error: division by zero"),
        ("foo[1y1w1y]", '1:5: parse error: bad number or duration syntax: "1y1w1"'),
        ("foo[1.5h]", '1:5: parse error: not a valid duration string: "1.5h"'),
        ("foo[300y]", "1:5: parse error: duration out of range"),
        ("foo[9.5e10]", "1:5: parse error: duration out of range"),
        ("foo offset", "1:11: parse error: unexpected end of input in offset,"
         " expected number, duration, step(), or range()"),
        ("foo offset 1m offset 2m", "1:1: parse error: offset may not be set multiple times"),
        ("1 offset 1m", "1:1: parse error: offset modifier must be preceded by an instant vector"
         " selector or range vector selector or a subquery"),
        ("foo offset 1m[5m]", "1:14: parse error: no offset modifiers allowed before range"),
        ("foo @ 1[5m]", "1:8: parse error: no @ modifiers allowed before range"),
        ("(foo)[5m]", "1:6: parse error: ranges only allowed for vector selectors"),
        ("foo @ bar", '1:7: parse error: unexpected identifier "bar" in @, expected timestamp'),
        ("foo @ 1 @ 2", "1:1: parse error: @ <timestamp> may not be set multiple times"),
        ("foo @ Inf", "1:1: parse error: timestamp out of bounds for @ modifier: +Inf"),
        ("foo + on(a) ignoring(b) c", "1:13: parse error: unexpected <ignoring>"),
        ("foo + group_left c", "1:7: parse error: unexpected <group_left>"),
        ("on", "1:1: parse error: unexpected <on>"),
        ("1e999", '1:1: parse error: error parsing number: strconv.ParseFloat: parsing "1e999":'
         " value out of range"),
    ],
)  # fmt: skip
def test_errors(text, error):
    with pytest.raises(ParseError) as caught:
        on(text)
    assert str(caught.value) == error


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", r"\\C", "x{1001}", r"\\1", "(?=a)"])
def test_broken_regular_expressions_are_named(pattern):
    with pytest.raises(ParseError) as caught:
        parse(f'foo{{a=~"{pattern}"}}')
    assert (caught.value.line, caught.value.column) == (1, 5)
    assert caught.value.message.startswith("error parsing regexp: ")
    assert pattern.replace("\\\\", "\\") in caught.value.message


@pytest.mark.parametrize("pattern", [r"\Qa.b\E", r"\Q\C\E", r"\\C", r"\012", "{{x}}", "[a&&b]"])
def test_regular_expressions_of_re2(pattern):
    assert parse(f"foo{{a=~`{pattern}`}}").matchers[1].value == pattern


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("min_of(1, 2)", '1:1: parse error: function "min_of" is not enabled'),
        ("limitk(1, a)", "1:1: parse error: limitk() is experimental and must be enabled with"
         " --enable-feature=promql-experimental-functions"),
        ("1 + a anchored", "1:5: parse error: anchored modifier is experimental and not enabled"),
        ("rate(a[5m] smoothed)", "1:6: parse error: smoothed modifier is experimental and not"
         " enabled"),
        ("a + fill(1) b", "1:1: parse error: binop fill modifiers are experimental and not"
         " enabled"),
    ],
)  # fmt: skip
def test_features_are_off_unless_named(text, error):
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert str(caught.value) == error
    on(text)


# --- size and depth ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "(" * 100_000 + "1" + ")" * 100_000,
        "-" * 100_000 + "a",
        "+" * 100_000 + "1",
        "a" + " + a" * 100_000,
        "a" + " ^ a" * 100_000,
        "a" + " or on() a" * 50_000,
        "a" + "[5m:]" * 100_000,
        "abs(" * 100_000,
        "sum(" * 100_000,
        "a[" + "(" * 100_000,
        "a[" + "-" * 100_000,
        "a[1" + " + 1" * 100_000 + "]",
        "a offset " + "(" * 100_000,
        "a[" + "max_of(" * 100_000,
    ],
    ids=lambda text: text[:12],
)
def test_depth_is_bounded(text):
    started = time.perf_counter()
    with pytest.raises(ParseError, match=f"nested too deeply, the limit is {DEPTH_MAX} levels"):
        on(text)
    assert time.perf_counter() - started < 1


def test_depth_up_to_the_limit():
    n = DEPTH_MAX - 1
    on("(" * n + "1" + ")" * n)
    on("abs(" * n + "a" + ")" * n)
    on("-" * n + "a")
    on("a" + " + a" * n)
    on("a[" + "(" * (n - 1) + "1" + ")" * (n - 1) + "]")


def test_depth_beyond_the_recursion_limit_is_an_error_too():
    with pytest.raises(ParseError, match="nested too deeply"):
        parse("(" * 50_000 + "1" + ")" * 50_000, max_depth=100_000)


def test_modifiers_do_not_hide_depth():
    """The depth of what stands before an offset or a bracket counts on behind it."""
    text = "a"
    for _ in range(5):
        text = f"max_over_time(({text}{' + a' * 60})[5m:(1 + 1)] offset (5 + 5))"
    with pytest.raises(ParseError, match="nested too deeply"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["a" * (TEXT_SIZE_MAX + 1), "'" + "ä" * (TEXT_SIZE_MAX // 2) + "'"]
)
def test_size_is_bounded(text):
    with pytest.raises(ParseError, match="longer than 1048576 bytes"):
        parse(text)


def test_messages_are_short():
    with pytest.raises(ParseError) as caught:
        parse("a{b=~'" + "(" * 100_000 + "'}")
    assert len(str(caught.value)) < 1100


def test_text_that_is_not_unicode():
    with pytest.raises(ParseError, match="1:5: parse error: invalid UTF-8 rune"):
        parse("foo{\ud800}")


@pytest.mark.parametrize(
    "text",
    [
        "a" * TEXT_SIZE_MAX,
        "'" + "\\n" * 500_000 + "'",
        "sum by (" + "a," * 500_000 + ") (a)",
        "label_join(a, 'b', 'c'" + ", 'd'" * 200_000 + ")",
        "a" + " " * 1_000_000,
        "1" * 300,
        "0x" + "1" * 250,
        "." + "1" * 1_000_000,
        "0" * 1_000_000,
        "#" * 1_000_000 + "\na",
        "a{" + "b='c'," * 150_000 + "}",
    ],
    ids=lambda text: text[:12],
)
def test_long_queries_take_linear_time(text):
    started = time.perf_counter()
    on(text)
    assert time.perf_counter() - started < 5


# --- fuzz ----------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(" ".join))
def test_fragments_in_any_order(text):
    check_one(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text(text):
    check_one(text)


@needs_scripts
def test_mutated_expressions():
    rng = random.Random(7)
    exprs = script_expressions()
    assert sum(check_one(mutated(rng, rng.choice(exprs))) for _ in range(6000)) > 100


def vectors(depth=3):
    """Texts of valid instant vectors."""
    leaf = st.sampled_from(
        ["foo", 'foo{a="b"}', '{"x y", b!~"c|d"}', "foo offset -5m", "foo @ end() offset 1h",
         "(foo offset (step() + 1m))", "vector(1)", "-foo", "foo smoothed"]
    )  # fmt: skip
    if depth == 0:
        return leaf
    inner = vectors(depth - 1)
    number = st.sampled_from(["1", "-0.5", "Inf", "NaN", "5m", "pi()", "2 ^ 0.5", "1e300"])
    matching = st.sampled_from(
        ["", "on (a)", "ignoring ('b c')", "on (a) group_left (d)", "ignoring () group_right ()",
         "fill (1)", "on () fill_left (-Inf) fill_right (NaN)"]
    )  # fmt: skip
    operators = st.sampled_from(
        ["+", "-", "*", "/", "%", "^", "atan2", "==", "</", ">/", "<", ">="]
    )
    return st.one_of(
        leaf,
        st.tuples(inner, operators, matching, inner).map(" ".join),
        st.tuples(number, st.sampled_from(["+", "*", "^", ">", "== bool"]), inner).map(
            lambda parts: "(({}) {} ({}))".format(*parts)
        ),
        st.tuples(inner, st.sampled_from(["and", "or on (a)", "unless ignoring (x)"]), inner).map(
            " ".join
        ),
        inner.map("({})".format),
        inner.map("- {}".format),
        inner.map("sum without (a, 'b-c') ({})".format),
        inner.map("quantile(0.9, {}) by (x)".format),
        inner.map('count_values("l", {})'.format),
        inner.map("rate(({})[10m:1m] @ 5)".format),
        inner.map("max_over_time(({})[step() * 2:max_of(1, 2s)] offset -3)".format),
        inner.map("label_replace({}, 'a', '$1', \"b\\n\", `(.*)`)".format),
        inner.map("clamp({}, 1, scalar(foo))".format),
    )


@settings(max_examples=400, deadline=None)
@given(vectors())
def test_valid_expressions_survive_printing(text):
    assert check_one(text)
