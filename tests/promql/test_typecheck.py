import pytest

from tsengine.errors import ParseError
from tsengine.promql.ast import ValueType
from tsengine.promql.functions import (
    ALL_OFF,
    ALL_ON,
    EXPERIMENTAL_FUNCTIONS,
    FUNCTIONS,
    UNLIMITED,
    Signature,
)
from tsengine.promql.parser import parse
from tsengine.promql.typecheck import check

ARGUMENTS = {
    ValueType.VECTOR: "foo",
    ValueType.MATRIX: "foo[5m]",
    ValueType.SCALAR: "1",
    ValueType.STRING: "'a'",
}
WRONG = {
    ValueType.VECTOR: "1",
    ValueType.MATRIX: "foo",
    ValueType.SCALAR: "'a'",
    ValueType.STRING: "foo[5m]",
}


def error_of(text):
    with pytest.raises(ParseError) as caught:
        parse(text, features=ALL_ON)
    return str(caught.value)


def call_text(name, types):
    arguments = [ARGUMENTS[value_type] for value_type in types]
    if name == "info" and len(arguments) == 2:
        arguments[1] = "{a='b'}"
    return f"{name}({', '.join(arguments)})"


def test_table_of_functions():
    assert len(FUNCTIONS) == 90
    n_experimental = sum(s.feature == EXPERIMENTAL_FUNCTIONS for s in FUNCTIONS.values())
    assert n_experimental == 17
    assert {s.feature for s in FUNCTIONS.values()} == {None, EXPERIMENTAL_FUNCTIONS}
    assert FUNCTIONS["rate"] == Signature((ValueType.MATRIX,))
    assert FUNCTIONS["histogram_quantiles"].n_args_min == 3
    assert FUNCTIONS["histogram_quantiles"].n_args_max == 12
    assert FUNCTIONS["label_join"].n_args_max is None


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_arguments_of_functions(name):
    signature = FUNCTIONS[name]
    least = signature.args[: signature.n_args_min]
    text = call_text(name, least)
    assert check(parse(text, features=ALL_ON), text) is signature.returns
    most = signature.args
    if signature.variadic == UNLIMITED:
        most += (signature.args[-1],) * 5
    elif signature.variadic:
        most += (signature.args[-1],) * (signature.variadic - 1)
    parse(call_text(name, most), features=ALL_ON)
    if signature.n_args_max is not None:
        n_most = signature.n_args_max
        wanted = n_most if n_most == signature.n_args_min else f"at most {n_most}"
        found = error_of(call_text(name, (*most, ValueType.SCALAR)))
        assert found == (
            f'1:1: parse error: expected {wanted} argument(s) in call to "{name}", got {n_most + 1}'
        )
    if least:
        n_least = signature.n_args_min
        wanted = n_least if n_least == signature.n_args_max else f"at least {n_least}"
        found = error_of(call_text(name, least[:-1]))
        assert found == (
            f'1:1: parse error: expected {wanted} argument(s) in call to "{name}",'
            f" got {n_least - 1}"
        )


@pytest.mark.parametrize("name", sorted(name for name in FUNCTIONS if name != "info"))
def test_types_of_arguments(name):
    types = FUNCTIONS[name].args
    for idx, wanted in enumerate(types):
        arguments = [ARGUMENTS[value_type] for value_type in types]
        arguments[idx] = WRONG[wanted]
        found = error_of(f"{name}({', '.join(arguments)})")
        got = {"1": "scalar", "foo": "instant vector", "'a'": "string"}.get(
            WRONG[wanted], "range vector"
        )
        assert found.endswith(
            f'expected type {wanted.value} in call to function "{name}", got {got}'
        )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1 and 1", '1:1: parse error: set operator "and" not allowed in binary scalar expression'),
        ("foo or 1", '1:1: parse error: set operator "or" not allowed in binary scalar expression'),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
        ("foo + bool bar", "1:5: parse error: bool modifier can only be used on comparison"
         " operators"),
        ("foo == on(bar) 10", "1:1: parse error: vector matching only allowed between instant"
         " vectors"),
        ("foo + fill(1) 10", "1:1: parse error: filling in missing series only allowed between"
         " instant vectors"),
        ("foo and fill(1) bar", "1:1: parse error: filling in missing series not allowed for set"
         " operators"),
        ("foo and on(bar) group_left(baz) bar", '1:1: parse error: no grouping allowed for "and"'
         " operation"),
        ("foo + on(a) group_left(b, a) bar", '1:5: parse error: label "a" must not occur in ON and'
         " GROUP clause at once"),
        ("(foo)\n + on(a) group_left(a) bar", '2:2: parse error: label "a" must not occur in ON and'
         " GROUP clause at once"),
        ("foo[5m] + 1", "1:1: parse error: binary expression must contain only scalar and instant"
         " vector types"),
        ("1 + 'a'", "1:5: parse error: binary expression must contain only scalar and instant"
         " vector types"),
        ("-'a'", "1:1: parse error: unary expression only allowed on expressions of type scalar or"
         ' instant vector, got "string"'),
        ("-foo[5m]", "1:1: parse error: unary expression only allowed on expressions of type scalar"
         ' or instant vector, got "range vector"'),
        ("foo[5m][10m:]", "1:1: parse error: subquery is only allowed on instant vector, got matrix"
         " instead"),
        ("1[10m:]", "1:1: parse error: subquery is only allowed on instant vector, got scalar"
         " instead"),
        ("'a'[10m:]", "1:1: parse error: subquery is only allowed on instant vector, got string"
         " instead"),
        ("sum(1)", "1:5: parse error: expected type instant vector in aggregation expression, got"
         " scalar"),
        ("topk(foo, foo)", "1:6: parse error: expected type scalar in aggregation parameter, got"
         " instant vector"),
        ("count_values(1, foo)", "1:14: parse error: expected type string in aggregation parameter,"
         " got scalar"),
        ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("{a=''}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
        ("{a!='b'}", "1:1: parse error: vector selector must contain at least one non-empty"
         " matcher"),
        ("{a=~'.*'}", "1:1: parse error: vector selector must contain at least one non-empty"
         " matcher"),
        ("{a!~'.+'}", "1:1: parse error: vector selector must contain at least one non-empty"
         " matcher"),
        ("foo{__name__='bar'}", '1:1: parse error: metric name must not be set twice: "foo" or'
         ' "bar"'),
        ("foo{__name__='foo'}", '1:1: parse error: metric name must not be set twice: "foo" or'
         ' "foo"'),
        ("foo{'bar'}", '1:1: parse error: metric name must not be set twice: "foo" or "bar"'),
        ("info(foo, bar)", "1:11: parse error: expected label selectors only, got vector selector"
         " instead"),
        ("info(foo, {a='b'} == 1)", "1:11: parse error: expected label selectors only"),
        ("info(foo, 1)", '1:11: parse error: expected type instant vector in call to function'
         ' "info", got scalar'),
    ],
)  # fmt: skip
def test_errors(text, error):
    assert error_of(text) == error


@pytest.mark.parametrize(
    ("text", "value_type"),
    [
        ("1 + 1", ValueType.SCALAR),
        ("1 == bool 1", ValueType.SCALAR),
        ("1 + foo", ValueType.VECTOR),
        ("(foo)", ValueType.VECTOR),
        ("-(1)", ValueType.SCALAR),
        ("-foo", ValueType.VECTOR),
        ("foo[5m]", ValueType.MATRIX),
        ("foo[5m:]", ValueType.MATRIX),
        ("'a'", ValueType.STRING),
        ("('a')", ValueType.STRING),
        ("time()", ValueType.SCALAR),
        ("sum(foo)", ValueType.VECTOR),
        ("foo + on() 1", ValueType.VECTOR),
        ("foo and on(a) bar", ValueType.VECTOR),
        ("{a!=''}", ValueType.VECTOR),
        ("{'a', 'b'}", ValueType.VECTOR),
        ("{a=~'.*', b=~'.+'}", ValueType.VECTOR),
        ("info(foo, {a=~'.*'})", ValueType.VECTOR),
    ],
)
def test_types(text, value_type):
    assert check(parse(text, features=ALL_ON), text) is value_type


def test_a_syntax_error_later_wins_over_a_type_error():
    assert error_of("(1 == 1) foo") == '1:10: parse error: unexpected identifier "foo"'


def test_no_feature_is_needed_for_the_rest():
    for name, signature in FUNCTIONS.items():
        if signature.feature is None:
            parse(call_text(name, signature.args[: signature.n_args_min]), features=ALL_OFF)
