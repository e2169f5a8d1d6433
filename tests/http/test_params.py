import pytest

from server.api.params import parse_form, unescape_label_name
from server.errors import BadParameter, BadRequest
from server.times import duration_text, parse_duration_ms, parse_time_ms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4", 4000),
        ("1700000000", 1_700_000_000_000),
        ("1700000000.5", 1_700_000_000_500),
        ("1700000000.1234", 1_700_000_000_123),
        ("1.0006", 1001),
        ("-1.5", -1500),
        ("1.7e9", 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T23:13:20.25+01:00", 1_700_000_000_250),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123),
        ("1969-12-31T23:59:59.75Z", -250),
        ("-292273086-05-16T16:47:06Z", -(2**63)),
        ("292277025-08-18T07:12:54.999999999Z", 2**63 - 1),
        ("", None),
        ("x", None),
        ("1_000", None),
        (" 1", None),
        ("NaN", None),
        ("inf", None),
        ("1e300", None),
        ("9" * 10_000, None),
        ("2023-13-14T22:13:20Z", None),
        ("2023-11-14", None),
    ],
)
def test_time(text, expected):
    assert parse_time_ms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15", 15_000),
        ("0.5", 500),
        ("-1", -1000),
        ("15s", 15_000),
        ("1h30m", 5_400_000),
        ("1y2w3d4h5m6s7ms", 31_536_000_000 + 1_209_600_000 + 259_200_000 + 14_706_007),
        ("0", 0),
        ("", None),
        ("m", None),
        ("1m1h", None),
        ("-5m", None),
        ("300y", None),
        ("1e300", None),
    ],
)
def test_duration(text, expected):
    assert parse_duration_ms(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("job", "job"),
        ("U__http_2e_status", "http.status"),
        ("U__a__b", "a_b"),
        ("U___1F600_", "\U0001f600"),
        ("U__a_zz_", "U__a_zz_"),
        ("U__a_", "U__a_"),
        ("U__a_d800_", "U__a_d800_"),
        ("U__a_110000_", "U__a_110000_"),
    ],
)
def test_label_name(name, expected):
    assert unescape_label_name(name) == expected


def test_body_comes_before_url():
    params = parse_form(b"query=a&match[]=x", b"query=b&match[]=y&match%5B%5D=z&empty=", 10)
    assert params.get("query") == "a"
    assert params.all("match[]") == ["x", "y", "z"]
    assert params.get("empty") == params.get("absent") == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [(b"a=%zz", "percent escape"), (b"a=%ff", "not valid UTF-8"), (b"a=1&" * 11, "more than 10")],
)
def test_malformed_forms(source, message):
    with pytest.raises(BadRequest, match=message):
        parse_form(b"", source, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", 'invalid parameter "limit": cannot parse "x" to an integer'),
        ("-1", 'invalid parameter "limit": limit must be non-negative'),
        ("1" * 5000, 'invalid parameter "limit": cannot parse'),
    ],
)
def test_limit(text, message):
    with pytest.raises(BadParameter) as caught:
        parse_form(b"", b"limit=" + text.encode(), 10).limit()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["15d", "1h30m", "4w", "2y", "250ms", "8d1ms", "0s"])
def test_duration_text(text):
    assert duration_text(parse_duration_ms(text) / 1000) == text
