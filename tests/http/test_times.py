"""Times as text."""

import pytest

from server.times import parse_time_ms, rfc3339_ms


@pytest.mark.parametrize(
    ("t_ms", "text"),
    [
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_714_557_600_250, "2024-05-01T10:00:00.250Z"),
    ],
)
def test_years_have_four_digits(t_ms, text):
    assert rfc3339_ms(t_ms) == text
    assert parse_time_ms(text) == t_ms


def test_where_there_is_no_date_seconds_stand():
    assert rfc3339_ms(10**15) == "1000000000000.000"
