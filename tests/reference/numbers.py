"""Slow twin of kernels/numbers.py: Prometheus's JSON of query results in plain Python."""

from __future__ import annotations

import json
import math
from decimal import Decimal


def format_value(value: float) -> str:
    """Go's strconv.FormatFloat(v, 'f' or 'e', -1, 64) as Prometheus's API chooses between them."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(text)
    prefix = "-" if sign else ""
    if 1e-6 <= abs(value) < 1e21:
        return prefix + format(Decimal((0, tuple(map(int, text)), exponent)), "f")
    power = exponent + len(text) - 1
    mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
    return f"{prefix}{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"


def format_timestamp(t_ms: int) -> str:
    """Seconds with three decimals, or none when whole."""
    sign = "-" if t_ms < 0 else ""
    seconds, millis = divmod(abs(t_ms), 1000)
    return f"{sign}{seconds}" + (f".{millis:03d}" if millis else "")


def write_stamps(stamps_ms: list[int]) -> list[str]:
    """The text of each timestamp."""
    return [format_timestamp(t_ms) for t_ms in stamps_ms]


def write_series(
    rows: list[tuple[dict[str, str], list[tuple[int, float]]]], *, matrix: bool
) -> str:
    """The elements of "result", joined by commas."""
    texts = []
    for labels, samples in rows:
        points = [f'[{format_timestamp(t)},"{format_value(v)}"]' for t, v in samples]
        body = f'"values":[{",".join(points)}]' if matrix else f'"value":{points[0]}'
        metric = json.dumps(labels, ensure_ascii=False, separators=(",", ":"))
        texts.append(f'{{"metric":{metric},{body}}}')
    return ",".join(texts)
