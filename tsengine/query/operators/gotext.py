"""Numbers and strings as Go writes them: parts of messages and label values are made of them."""

from __future__ import annotations

import math
import re

import numpy as np

from tsengine.promql.lexer import quote

_PLAIN_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_FLOAT = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z|[+-]?inf(inity)?\Z|nan\Z", re.IGNORECASE | re.ASCII
)
_HEX_FLOAT = re.compile(r"[+-]?0x([0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)p[+-]?\d+\Z", re.IGNORECASE)


def label_set(labels: dict[str, str]) -> str:
    """A label set in braces; names that need it are quoted."""
    parts = (
        f"{name if _PLAIN_NAME.match(name) else quote(name)}={quote(value)}"
        for name, value in labels.items()
    )
    return "{" + ", ".join(parts) + "}"


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return None


def general(value: float) -> str:
    """``%g``: shortest digits, exponent form below 1e-4 and from 1e6 on."""
    special = _special(value)
    if special is not None:
        return special
    mantissa, exponent_text = np.format_float_scientific(value, trim="-").split("e")
    exponent = int(exponent_text)
    if -4 <= exponent < 6:
        return np.format_float_positional(value, trim="-")
    return f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def positional(value: float) -> str:
    """Shortest decimal without exponent: 1e21 is spelled out."""
    return _special(value) or np.format_float_positional(value, trim="-")


def open_metrics(value: float) -> str:
    """As `general`, with ``.0`` if it would look like an integer."""
    text = general(value)
    return text if any(c in text for c in ".eNI") else text + ".0"


def parse_float(text: str) -> float | None:
    """What Go's ParseFloat reads; None if it is no number, too large for one, or NaN."""
    if _FLOAT.match(text):
        value = float(text)
        is_named = "inf" in text.lower()
    elif _HEX_FLOAT.match(text):
        value, is_named = float.fromhex(text), False
    else:
        return None
    if math.isnan(value) or (math.isinf(value) and not is_named):
        return None
    return value


def is_label_name(name: str) -> bool:
    """Whether a label may have this name: any valid UTF-8 that is not empty."""
    try:
        return bool(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False
