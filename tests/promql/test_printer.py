import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.promql.trees import shape
from tsengine.promql import ast
from tsengine.promql.functions import ALL_ON
from tsengine.promql.literals import duration_ms, duration_text
from tsengine.promql.parser import parse
from tsengine.promql.printer import number_text, to_text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("sum by(a,b)(foo)", "sum by (a, b) (foo)"),
        ("sum by () (foo)", "sum(foo)"),
        ("SUM(foo) without()", "sum without () (foo)"),
        ("topk(3,foo) by ('a b')", 'topk by ("a b") (3, foo)'),
        ("a+on()b", "a + on () b"),
        ("a AND b", "a and b"),
        ("a>bool ignoring(x)group_left b", "a > bool ignoring (x) group_left () b"),
        ("a * ignoring() b", "a * b"),
        ("a + on(x) group_right(y,z) fill(2) b", "a + on (x) group_right (y, z) fill (2) b"),
        ("a + fill_right(1)fill_left(-.5) b", "a + fill_left (-0.5) fill_right (1) b"),
        ("-a^-b", "-a ^ -b"),
        ("(((1)))", "(((1)))"),
        ("+a", "+a"),
        ("1e-7+1e21", "0.0000001 + 1000000000000000000000"),
        ("0x10", "16"),
        ("inf - -Inf * nan", "+Inf - -Inf * NaN"),
        ("Inf ^ 2", "Inf ^ 2"),
        ("90m", "1h30m"),
        ("-1d12h", "-1d12h"),
        ("'it\\'s'", '"it\'s"'),
        ("foo{}", "foo"),
        ("foo{b='1',a!~\"2\",}", 'foo{a!~"2",b="1"}'),
        ("{'foo'}", '{__name__="foo"}'),
        ("{\"a b\",'c.d'=~`e\"`}", '{"c.d"=~"e\\"",__name__="a b"}'),
        ("foo[5m]offset 1h @ 1.5", "foo[5m] @ 1.500 offset 1h"),
        ("foo offset -1w @ end()", "foo @ end() offset -1w"),
        ("foo[300]", "foo[5m]"),
        ("foo[1.5] anchored", "foo[1s500ms] anchored"),
        ("foo smoothed @ -3 offset 2", "foo @ -3.000 smoothed offset 2s"),
        ("foo[step()+5m*2]", "foo[step() + 5m * 2]"),
        ("foo offset -(5m)", "foo offset -(5m)"),
        ("foo[max_of(1,range())%60:-(-step())]", "foo[max_of(1, range()) % 60:-(-step())]"),
        ("rate(foo[1h])[1d:] offset 5m", "rate(foo[1h])[1d:] offset 5m"),
        ("foo[1d:5m]@start()", "foo[1d:5m] @ start()"),
        ("label_join(a,'b', 'c' )", 'label_join(a, "b", "c")'),
        ("time ( )", "time()"),
    ],
)  # fmt: skip
def test_layout(text, printed):
    tree = parse(text, features=ALL_ON)
    assert to_text(tree) == printed
    assert shape(parse(printed, features=ALL_ON)) == shape(tree)


@given(st.floats())
def test_numbers_are_read_back(value):
    text = number_text(value)
    read = parse(text).value
    assert read == value or (math.isnan(read) and math.isnan(value))
    assert "e" not in text.lower()


@given(st.integers(1, 2**63 // 1_000_000 - 1))
def test_durations_are_read_back(ms):
    assert duration_ms(duration_text(ms)) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (90_000, "1m30s"),
        (604_800_000, "1w"),
        (604_800_000 + 1, "7d1ms"),
        (365 * 86_400_000, "1y"),
        (371 * 86_400_000, "53w"),
        (366 * 86_400_000, "366d"),
    ],
)
def test_layout_of_durations(ms, text):
    assert duration_text(ms) == text


@given(st.text())
def test_strings_are_read_back(text):
    tree = ast.StringLiteral(text, span=ast.Span(0, 0))
    assert parse(to_text(tree)).value == text


@given(st.binary())
def test_bytes_are_read_back(data):
    text = data.decode("utf-8", "surrogateescape")
    tree = ast.StringLiteral(text, span=ast.Span(0, 0))
    assert parse(to_text(tree)).value == text
