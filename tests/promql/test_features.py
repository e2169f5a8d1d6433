"""What `/features` says of the language."""

from tsengine.promql.features import promql_features
from tsengine.promql.functions import ALL_OFF, ALL_ON


def test_operators_that_need_no_switch():
    operators = promql_features(ALL_OFF)["promql_operators"]
    assert all(operators[op] for op in ("</", ">/", "+", "==", "atan2", "sum"))
    assert not operators["limitk"]


def test_switches():
    features = promql_features(ALL_ON)
    assert features["promql_operators"]["limit_ratio"]
    assert features["promql_functions"]["histogram_quantiles"]
    assert features["promql"]["fill"]
    assert not promql_features(ALL_OFF)["promql"]["fill"]
