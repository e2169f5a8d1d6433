"""Instant vectors as lists of elements, and PromQL's operators on them, one step at a time.

A slow reference for `tsengine.query.operators`: written from the language's rules, with dicts.
"""

import math
import operator
from dataclasses import dataclass

from tests.reference import aggregate as cells
from tests.reference import quantiles

NAME_LABELS = ("__name__", "__type__", "__unit__")
SAME_LABELSET = "vector cannot contain metrics with the same labelset"


class FailedError(Exception):
    """The evaluation fails, with Prometheus's text."""


@dataclass(frozen=True)
class Element:
    labels: tuple  # of (name, value), sorted
    value: float
    drop: bool = False  # the name is to be dropped at the end

    def get(self, name):
        return dict(self.labels).get(name, "")


def keep(labels, names):
    return tuple((n, v) for n, v in labels if n in names)


def drop(labels, names):
    return tuple((n, v) for n, v in labels if n not in names)


def without_name(element, value, delayed):
    if delayed:
        return Element(element.labels, value, True)
    return Element(drop(element.labels, NAME_LABELS), value)


def unique(elements):
    labels = [e.labels for e in elements]
    if len(set(labels)) < len(labels):
        raise FailedError(SAME_LABELSET)
    return elements


# --- operators --------------------------------------------------------------------------------


def _divide(a, b):
    if b != 0 or math.isnan(b):
        return a / b
    if a == 0 or math.isnan(a):
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1, b)


def _modulo(a, b):
    if math.isnan(a) or math.isnan(b) or math.isinf(a) or b == 0:
        return math.nan
    return math.fmod(a, b)


def _power(a, b):
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf
    except ValueError:
        if a == 0:
            return math.copysign(math.inf, a) if b % 2 == 1 else math.inf
        return math.nan


ARITHMETIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divide, "%": _modulo,
    "^": _power, "atan2": math.atan2,
}  # fmt: skip
COMPARISON = {
    "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
    ">=": operator.ge, "<=": operator.le,
}  # fmt: skip


def signature(element, matching):
    if matching.is_on:
        return keep(element.labels, matching.labels)
    return drop(element.labels, (*matching.labels, "__name__"))


def set_operator(op, lhs, rhs, matching):
    left = {signature(e, matching) for e in lhs}
    right = {signature(e, matching) for e in rhs}
    if op == "and":
        return [e for e in lhs if signature(e, matching) in right]
    if op == "unless":
        return [e for e in lhs if signature(e, matching) not in right]
    return unique(lhs + [e for e in rhs if signature(e, matching) not in left])


def binary(op, lhs, rhs, matching, returns_bool, delayed):
    """Arithmetic or comparison of two vectors at one step."""
    fills = (matching.fill_left, matching.fill_right)
    if (not lhs and not rhs) or (not (lhs and rhs) and fills == (None, None)):
        return []
    swapped = matching.cardinality.value == "one-to-many"
    many, one = (rhs, lhs) if swapped else (lhs, rhs)
    partners = {}
    for element in one:
        key = signature(element, matching)
        if key in partners:
            side = "left" if swapped else "right"
            raise FailedError(f"found duplicate series on the {side} hand-side")
        partners[key] = element
    pairs = []
    for element in many:
        key = signature(element, matching)
        if key in partners:
            pairs.append((key, element, partners[key]))
        elif matching.fill_right is not None:
            pairs.append((key, element, Element(key, matching.fill_right)))
    if matching.fill_left is not None:
        matched = {signature(element, matching) for element in many}
        pairs += [
            (key, Element(key, matching.fill_left), other)
            for key, other in partners.items()
            if key not in matched
        ]
    seen = set()
    result = []
    for key, element, other in pairs:
        a, b = (other, element) if swapped else (element, other)
        labels = result_labels(op, element, other, matching, returns_bool and not delayed)
        is_filtered = op in COMPARISON and not (returns_bool or COMPARISON[op](a.value, b.value))
        if matching.cardinality.value == "one-to-one":
            mark, text = key, "many-to-one matching must be explicit"
        elif is_filtered:
            continue
        else:
            mark, text = (key, labels), "grouping labels must ensure unique matches"
        if mark in seen:
            raise FailedError(text)
        seen.add(mark)
        if is_filtered:
            continue
        if op in ARITHMETIC:
            result.append(Element(labels, ARITHMETIC[op](a.value, b.value)))
        elif returns_bool:
            holds = COMPARISON[op](a.value, b.value)
            result.append(Element(labels, float(holds), delayed))
        else:
            result.append(Element(labels, a.value, element.drop))
    return unique(result)


def result_labels(op, many, one, matching, drops_name):
    labels = many.labels
    if op in ARITHMETIC or drops_name:
        labels = drop(labels, NAME_LABELS)
    if matching.cardinality.value == "one-to-one":
        names = matching.labels
        labels = keep(labels, names) if matching.is_on else drop(labels, names)
    for name in matching.include:
        rest = dict(drop(labels, (name,)))
        if one.get(name):
            rest[name] = one.get(name)
        labels = tuple(sorted(rest.items()))
    return labels


def with_scalar(op, vector, number, swapped, returns_bool, delayed):
    result = []
    for element in vector:
        a, b = (number, element.value) if swapped else (element.value, number)
        if op in ARITHMETIC:
            result.append(without_name(element, ARITHMETIC[op](a, b), delayed))
        elif returns_bool:
            result.append(without_name(element, float(COMPARISON[op](a, b)), delayed))
        elif COMPARISON[op](a, b):
            result.append(element)
    return unique(result)


# --- aggregations -----------------------------------------------------------------------------


def group_key(element, grouping, without):
    if without:
        return drop(element.labels, (*grouping, "__name__"))
    return keep(element.labels, grouping)


def aggregate(op, vector, grouping, without, param=None):
    """Aggregations that give one element per group; the mark of a group is any of its marks."""
    groups = {}
    for element in vector:
        groups.setdefault(group_key(element, grouping, without), []).append(element)
    return [
        Element(key, _folded(op, [e.value for e in members], param), any(e.drop for e in members))
        for key, members in groups.items()
    ]


def _folded(op, values, param):
    match op:
        case "sum":
            return cells.add_sum(values)
        case "avg":
            return cells.mean(values)
        case "min" | "max":
            return cells.add_extreme(values, op == "max")
        case "count":
            return float(len(values))
        case "group":
            return 1.0
        case "stdvar":
            return cells.add_moments(values)
        case "stddev":
            return math.sqrt(cells.add_moments(values))
        case "quantile":
            return quantiles.group_quantiles(values, param)
    raise AssertionError(op)


def count_values(vector, grouping, without, label, text_of):
    counts = {}
    for element in vector:
        labels = dict(element.labels)
        labels[label] = text_of(element.value)
        changed = Element(tuple(sorted(labels.items())), 0.0)
        names = grouping if without else (*grouping, label)
        key = group_key(changed, names, without)
        counts[key] = counts.get(key, 0) + 1
    return [Element(key, float(n)) for key, n in counts.items()]


def finish(vector):
    """Drop the names that are marked."""
    return unique(
        [Element(drop(e.labels, NAME_LABELS) if e.drop else e.labels, e.value) for e in vector]
    )
