"""The comparison itself notices differences."""

import pytest

from tests.real.compare import difference


def matrix(*rows):
    return {
        "resultType": "matrix",
        "result": [{"metric": metric, "values": values} for metric, values in rows],
    }


BASE = matrix(({"a": "1"}, [[1, "1"], [2, "NaN"]]), ({"a": "2"}, [[1, "+Inf"]]))


def test_equal():
    other = matrix(({"a": "2"}, [[1, "+Inf"]]), ({"a": "1"}, [[1, "1.0000000005"], [2, "NaN"]]))
    assert difference(BASE, other) is None


@pytest.mark.parametrize(
    "other",
    [
        matrix(({"a": "1"}, [[1, "1"], [2, "NaN"]])),
        matrix(({"a": "1"}, [[1, "1"], [2, "NaN"]]), ({"a": "3"}, [[1, "+Inf"]])),
        matrix(({"a": "1"}, [[1, "1"]]), ({"a": "2"}, [[1, "+Inf"]])),
        matrix(({"a": "1"}, [[1, "1"], [2, "2"]]), ({"a": "2"}, [[1, "+Inf"]])),
        matrix(({"a": "1"}, [[1, "1.00000001"], [2, "NaN"]]), ({"a": "2"}, [[1, "+Inf"]])),
        matrix(({"a": "1"}, [[1, "1"], [2, "NaN"]]), ({"a": "2"}, [[1, "-Inf"]])),
        {"resultType": "vector", "result": []},
    ],
)
def test_different(other):
    assert difference(BASE, other)
