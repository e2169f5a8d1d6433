"""Whether an answer is the expected one; what differs is told by a MismatchError."""

import re
import sys
from dataclasses import replace

import numpy as np
import re2

from tests.promql.histogram_messages import Shown, shown_difference
from tests.promql.histogram_notation import (
    Noted,
    difference,
    expanded,
    names_hint,
)
from tests.promql.script import STALE, Histogram

STALE_BITS = 0x7FF0000000000002
_POSITION = re.compile(r" \(\d+:\d+\)$")


class MismatchError(Exception):
    """An answer is not the expected one."""


def check_type(answer, wanted):
    if answer.type != wanted:
        raise MismatchError(f"expected a {wanted}, got {answer}")


def check_times(answer, wanted):
    for labels, times, _ in answer.series:
        if times != wanted:
            raise MismatchError(f"expected the times {wanted} for {labels}, got {times}")


def check_value(wanted, got, what):
    if not equal_floats(wanted, got):
        raise MismatchError(f"expected {wanted!r} for {what}, got {float(got)!r}")


def check_text(expectation, text, what):
    if not _text_fits(expectation, text):
        raise MismatchError(
            f"expected {expectation.mode} {expectation.text!r}, got the {what} {text!r}"
        )


def _text_fits(expectation, text):
    if expectation.mode == "msg":
        return text == expectation.text
    if expectation.mode == "regex":
        return re2.search(expectation.text, text) is not None
    return True


def check_annotations(case, answer, *, exact_positions):
    for kind, found in (("warn", answer.warnings), ("info", answer.infos)):
        if case.expects(f"no_{kind}") and found:
            raise MismatchError(f"expected no {kind}, got {found}")
        wanted = case.expects(kind)
        if not wanted:
            continue
        if not exact_positions:
            found = [_POSITION.sub("", text) for text in found]
            wanted = [replace(e, text=_POSITION.sub("", e.text)) for e in wanted]
            # A pattern that names a position fits the original text only.
            wanted = [replace(e, mode="") if r"\(" in e.text else e for e in wanted]
        for expectation in wanted:
            if not any(_text_fits(expectation, text) for text in found):
                raise MismatchError(f"expected {kind} {expectation.text!r}, got {found}")
        for text in found:
            if not any(_text_fits(expectation, text) for expectation in wanted):
                raise MismatchError(f"unexpected {kind} {text!r}")


def check_vector(case, answer, *, at_ms, ordered):
    """Compare what an answer says about one time with the lines of a case."""
    present = [(_frozen(ls), c[t.index(at_ms)]) for ls, t, c in answer.series if at_ms in t]
    labels = [key for key, _ in present]
    got = dict(present)
    if len(got) != len(labels):
        raise MismatchError(f"a label set occurs twice in {answer}")
    wanted = {}
    for series in case.series:
        if len(series.items) != 1:
            raise MismatchError(f"an instant result needs one value: {series.text!r}")
        wanted[_frozen(clean(series.labels))] = _wanted(series)[0]
    if set(got) != set(wanted):
        missing = [dict(key) for key in wanted if key not in got]
        surplus = [dict(key) for key in got if key not in wanted]
        raise MismatchError(f"missing series {missing}, surplus series {surplus}")
    for key, item in wanted.items():
        _check_item(item, got[key], dict(key))
    if ordered and labels != list(wanted):
        raise MismatchError(f"wrong order: {[dict(key) for key in labels]}")


def check_series(case, answer, start_ms, step_ms):
    """Compare series with times of their own with the lines of a case."""
    found = answer.series
    got = {_frozen(labels): (times, values) for labels, times, values in found if times}
    if len(got) != sum(1 for _, times, _ in found if times):
        raise MismatchError("a label set occurs twice")
    wanted = {}
    for series in case.series:
        items = [
            (start_ms + i * step_ms, item)
            for i, item in enumerate(_wanted(series))
            if item is not None
        ]
        if items:
            wanted[_frozen(clean(series.labels))] = items
    if set(got) != set(wanted):
        missing = [dict(key) for key in wanted if key not in got]
        surplus = [dict(key) for key in got if key not in wanted]
        raise MismatchError(f"missing series {missing}, surplus series {surplus}")
    for key, items in wanted.items():
        times, values = got[key]
        if times != [t for t, _ in items]:
            raise MismatchError(
                f"{dict(key)}: expected the times {[t for t, _ in items]}, got {times}"
                f" with {[str(v) for v in values]}"
            )
        for (t, item), value in zip(items, values, strict=True):
            _check_item(item, value, f"{dict(key)} at {t} ms")


def _wanted(series):
    """Items of an expected series; a histogram with whether its hint matters."""
    return [
        (item, names_hint(literal)) if isinstance(literal, Histogram) else item
        for item, literal in zip(expanded(series.items), series.items, strict=True)
    ]


def _check_item(item, value, what):
    if not isinstance(item, tuple):
        if isinstance(value, Noted | Shown):
            raise MismatchError(f"expected {item!r} for {what}, got {value}")
        check_value(item, value, what)
        return
    wanted, with_hint = item
    if isinstance(value, Shown):
        wrong = shown_difference(wanted, value, equal_floats)
    elif isinstance(value, Noted):
        wrong = difference(wanted, value, equal_floats, with_hint=with_hint)
    else:
        raise MismatchError(
            f"expected a native histogram {wanted} for {what}, got {float(value)!r}"
        )
    if wrong is not None:
        raise MismatchError(f"wrong {wrong}: expected {wanted} for {what}, got {value}")


def check_sorted(answer):
    labels = [labels for labels, _, _ in answer.series]
    keys = [
        [(n.encode(), v.encode()) for n, v in sorted(ls.items(), key=lambda kv: kv[0].encode())]
        for ls in labels
    ]
    if keys != sorted(keys):
        raise MismatchError(f"series are not sorted by labels: {labels}")


def equal_floats(wanted, got) -> bool:
    """Whether two floats are the same but for rounding."""
    if wanted is STALE:
        return int(np.float64(got).view(np.uint64)) == STALE_BITS
    got = float(got)
    if np.isnan(wanted) or np.isnan(got):
        return bool(np.isnan(wanted) and np.isnan(got))
    if wanted == got:
        return True
    tiny = sys.float_info.min
    size = abs(wanted) + abs(got)
    difference = abs(wanted - got)
    if wanted == 0 or got == 0 or size < tiny:
        return difference < 1e-6 * tiny
    return difference / min(size, sys.float_info.max) < 1e-6


def clean(labels):
    return {name: value for name, value in labels.items() if value}


def _frozen(labels):
    return frozenset(labels.items())
