"""Differences between Prometheus 3.5 and tsengine, which speaks 3.14, that are no defects.

A rule has a reason and a test on the smallest part of the query that differs while all its operands
are the same. What no rule covers is a finding.
"""

from __future__ import annotations

import math
import re

from tests.differential.cases import (
    Case,
    Rule,
    numbers_of,
    pairs_of_values,
    root_cause,
    rows_of,
    values_of,
)
from tests.differential.compare import answers_differ, notes_differ, same_value
from tests.differential.grammar import Node
from tests.differential.native_explained import (
    INCOMPATIBLE_BOUNDS,
    MADE_GAUGES,
    MAKES_GAUGES,
    NATIVE_NOTE_CHANGES,
    NATIVE_RULES,
    NOT_RECONCILED_OPERANDS,
    RECONCILED_OPERANDS,
    is_skipped,
    without_order,
)

NEW_WORDS = (
    "unknown function with name", "experimental duration expression is not enabled",
    'unexpected "("', "unexpected <op:/>",
)  # fmt: skip
NEW_PARTS = re.compile(
    r"first_over_time|\[5m \* 2\]|\(1m \+ 1m\)|step\(\)|max_of\(|(?<!@ )start\(\)|>/"
    r"|histogram_quantiles"
)
SAID_OF_HISTOGRAMS = re.compile(
    r"incompatible (sample types|bucket layout) encountered for binary|ignored histogram"
    r"|has NaN observations|mix in an aggregation|bucket label \"le\" is missing"
)
SLIGHT_CHANGES = tuple(repr(1 + sign * 2.0**power) for power in (-51, -49) for sign in (1, -1))
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
SAME_LABELS = "vector cannot contain metrics with the same labelset"
NOT_UNIQUE = "multiple matches for labels"
# (side, pattern, what becomes of it); None drops the whole text.
NOTE_CHANGES = (
    ("actual", r"sort is ineffective for range queries", None),
    (
        "expected",
        r'(bucket label "le" is missing .*?) for metric name ".*?"( \(\d+:\d+\))$',
        r"\1\2",
    ),
    (
        "actual",
        r'(bucket label "le" is missing .*?) for metric name ".*?"( \(\d+:\d+\))$',
        r"\1\2",
    ),
    (
        "expected",
        r'(to be fixed for monotonicity .*?) for metric name ".*?"( \(\d+:\d+\))$',
        r"\1\2",
    ),
    (
        "actual",
        r'(to be fixed for monotonicity .*?)(?: for metric name ".*?")?, from buckets .*?Z'
        r"( \(\d+:\d+\))$",
        r"\1\2",
    ),
    *NATIVE_NOTE_CHANGES,
)
SUMS = ("sum", "avg", "stddev", "stdvar")
FROZEN = "parameter of a constant vector"
TIMES_ASKED = 30
PICKS = ("topk", "bottomk")
ORDERED = ("min", "max", "quantile", "quantile_over_time", "mad_over_time")


def explanation(case):
    """Name of the rule that covers a difference; None when there is none."""
    problem = answers_differ(case.expected, case.actual)
    if problem is None:
        return _explained_notes(case)
    cause = root_cause(case)
    for rule in RULES:
        if rule.holds(cause):
            return rule.name
    # Which series limitk takes from other vectors does not matter, so the whole is asked.
    return FROZEN if _is_frozen_parameter(case) else _explanation_of_points(cause)


def _explanation_of_points(cause):
    """Names of the rules that cover each differing point by itself."""
    names = set()
    rules = (LOWEST_BOUND, *NATIVE_RULES)
    for point in cause.differing_points():
        name = next((rule.name for rule in rules if rule.holds(point)), None)
        if name is None:
            return None
        names.add(name)
    return " / ".join(sorted(names)) or None


# --- warnings and infos ------------------------------------------------------------------------


def _explained_notes(case):
    """3.14 warns of sorts, tells more about monotonicity, no longer names metrics there, and points
    into parentheses where 3.5 sometimes pointed at them. Texts that become equal are one in 3.14.
    """
    changed = {"expected": _notes(case.expected), "actual": _notes(case.actual)}
    is_refused = any(INCOMPATIBLE_BOUNDS in text for text in changed["expected"])
    for side, pattern, replacement in _note_changes(case, changed["actual"]):
        texts = changed[side]
        if replacement is None:
            changed[side] = {text for text in texts if not re.search(pattern, text)}
        else:
            changed[side] = {re.sub(pattern, replacement, text) for text in texts}
    query = str(case.node)
    left, right = (_places(without_order(changed[side]), query) for side in ("expected", "actual"))
    if is_refused:
        # There are histograms in 3.14 that 3.5 had not, so more can be said of them.
        surplus = {text for text in right.keys() - left.keys() if SAID_OF_HISTOGRAMS.search(text)}
        right = {text: places for text, places in right.items() if text not in surplus}
    if left.keys() == right.keys() and all(right[text] <= left[text] for text in right):
        return "newer annotations"
    if _is_frozen_parameter(case):
        return FROZEN
    if _is_between_steps(case, difference_of=_any_difference):
        return "point of a subquery that nobody sees"
    if is_skipped(case, difference_of=_any_difference):
        return "buckets that are skipped"
    return None


def _note_changes(case, actual):
    changes = NOTE_CHANGES
    if case.ops & MAKES_GAUGES:
        changes += MADE_GAUGES
    if any(RECONCILED_OPERANDS.search(text) for text in actual):
        changes += NOT_RECONCILED_OPERANDS
    return changes


def _any_difference(case):
    return case.differs() or notes_differ(case.expected, case.actual)


def _notes(answer):
    return {*(answer.get("warnings") or ()), *(answer.get("infos") or ())}


def _places(texts, query):
    """Columns (in bytes) that each message points to, past parentheses."""
    data = query.encode()
    found = {}
    for text in texts:
        message, place = re.fullmatch(r"(.*?)(?: \(1:(\d+)\))?", text, re.DOTALL).groups()
        at = int(place or 1) - 1
        while data[at : at + 1] == b"(":
            at += 1
        # The last digits of a number may differ.
        message = re.sub(r"got (\S+)$", lambda found: f"got {float(found[1]):.12g}", message)
        found.setdefault(message, set()).add(at)
    return found


# --- values --------------------------------------------------------------------------------------


def _is_newer_language(case):
    return (
        case.expected.get("errorType") == "bad_data"
        and any(words in case.expected["error"] for words in NEW_WORDS)
        and NEW_PARTS.search(str(case.node)) is not None
    )


def _is_refused_filter(case):
    return (
        case.op in COMPARISONS
        and f"{case.op} bool" not in str(case.node)
        and NOT_UNIQUE in case.actual.get("error", "")
        and case.expected["status"] == "success"
    )


def _is_rounding(case):
    """The operands differ in their last digits, and such a change changes Prometheus's answer."""
    if not any(part.differs(tolerance=0) for part in case.parts):
        return False
    plain = [case.ask(node, case.times).expected for node in _scaled_operands(case.node, "1")]
    return any(
        answers_differ(before, case.ask(node, case.times).expected)
        for factor in SLIGHT_CHANGES
        for before, node in zip(plain, _scaled_operands(case.node, factor), strict=True)
    )


def _scaled_operands(node, factor):
    """The query with one of its operands, each in turn, multiplied by a number."""
    found = []
    for idx, part in enumerate(node.parts):
        if not isinstance(part, Node):
            continue
        if part.kind in "vs":
            others = [Node(part.kind, ("(", part, f" * {factor})"), "*")]
        else:
            others = _scaled_operands(part, factor)
        for other in others:
            parts = (*node.parts[:idx], other, *node.parts[idx + 1 :])
            found.append(Node(node.kind, parts, node.op))
    return found


def _is_log_of_subnormal(case):
    return case.op in ("ln", "log2", "log10") and any(
        0 < abs(number) < 2.3e-308 for number in numbers_of(case)
    )


def _is_forgotten_offset(case):
    return case.op == "timestamp" and all(word in str(case.node) for word in (" @ ", " offset "))


def _is_between_steps(case, difference_of=Case.differs):
    """Every step asked alone is answered alike."""
    times = case.times
    if times.step_ms == 0 or "start()" in str(case.node) or "end()" in str(case.node):
        return False
    n_steps = (times.end_ms - times.start_ms) // times.step_ms + 1
    steps = (times.at(times.start_ms + idx * times.step_ms) for idx in range(n_steps))
    return not any(difference_of(case.ask(case.node, at)) for at in steps)


def _is_merged(case):
    return (
        SAME_LABELS in case.expected.get("error", "")
        and case.actual["status"] == "success"
        and _is_between_steps(case)
    )


def _is_unused_point(case):
    return (
        case.expected.get("errorType") == "execution"
        and case.actual["status"] == "success"
        and any(node.op == "subquery" for node in case.node.walk())
        and _is_between_steps(case)
    )


def _is_frozen_parameter(case):
    """Prometheus agrees if the vector only looks as if it could change."""
    thawed = _thawed(case.node)
    return str(thawed) != str(case.node) and not answers_differ(
        case.ask(thawed, case.times).expected, case.actual
    )


def _thawed(node):
    """The tree with vectors under changing parameters made dependent on the time by name."""
    has_parameter = _has_frozen_parameter(node)
    parts = []
    for part in node.parts:
        if isinstance(part, Node):
            part = _thawed(part)
            if has_parameter and part.kind == "v":
                part = Node("v", ("(", part, " and on () vector(time()))"), "and")
        parts.append(part)
    return Node(node.kind, tuple(parts), node.op)


def _has_frozen_parameter(node):
    selectors = [
        below
        for below in node.walk()
        if below.kind in "vm" and all(child.kind not in "vm" for child in below.children)
    ]
    return (
        node.op in (*PICKS, "quantile", "limit_ratio", "limitk")
        and "time()" in "".join(str(child) for child in node.children if child.kind == "s")
        and all(" @ " in str(below) or "vector(" in str(below) for below in selectors)
    )


def _is_doubly_matched(case):
    if not case.op.startswith("absent"):
        return False
    names = re.findall(r"(\w+)(?:!=|=~|!~|=)", str(case.node))
    return len(names) > len(set(names))


def _is_fraction(case):
    return case.op == "histogram_fraction" and all(
        a == b or (math.isnan(float(a)) and not math.isnan(float(b)))
        for a, b in pairs_of_values(case)
    )


def _is_refused_count(case):
    refusals = ("Parameter value is NaN", "underflows int64", "overflows int64")
    return (
        re.search("topk|bottomk|limitk", str(case.node)) is not None
        and case.expected["status"] == "success"
        and any(text in case.actual.get("error", "") for text in refusals)
    )


def _is_nan_in_mad(case):
    return case.op == "mad_over_time" and all(
        a == b or math.isnan(float(b)) for a, b in pairs_of_values(case)
    )


def _has_empty_sort_label(case):
    if not case.op.startswith("sort_by_label"):
        return False
    names = re.findall(r', "(\w+)"', str(case.node).rsplit(")", 2)[-2])
    rows = [row["metric"] for part in case.parts for row in rows_of(part.expected)]
    return any(not row.get(name) for row in rows for name in names)


def _is_tie(case):
    """topk among equals: which of them is nobody's business.

    Prometheus may choose others when it is asked again, so that the smallest differing part is one
    above; then it has to be seen to do so.
    """
    if case.op in PICKS:
        return _has_ties(case)
    below = [node for node in case.node.walk() if node.op in PICKS]
    return any(_has_ties(case.ask(node, case.times)) for node in below) and _varies(case)


def _varies(case):
    """Prometheus gives other answers when it is asked again."""
    return any(
        answers_differ(case.expected, case.ask(case.node, case.times).expected)
        for _ in range(TIMES_ASKED)
    )


def _has_ties(case):
    for part in case.parts:
        by_time = {}
        for (_, t), value in values_of(part.expected).items():
            if isinstance(value, str):
                number = float(value)
                key = (t, "NaN" if math.isnan(number) else number)
                by_time[key] = by_time.get(key, 0) + 1
        if any(n > 1 for n in by_time.values()):
            return True
    return False


def _is_name_back(case):
    """After a subquery or a comparison the names are all that differs."""
    after_subquery = case.op == "last_over_time" and "subquery" in case.ops
    return (after_subquery or case.op in COMPARISONS) and _differ_by_names(case)


def _differ_by_names(case):
    expected, actual = values_of(case.expected), values_of(case.actual)
    unnamed = {
        (tuple(pair for pair in labels if pair[0] != "__name__"), t): value
        for (labels, t), value in expected.items()
    }
    return (
        len(unnamed) == len(expected)
        and unnamed.keys() == actual.keys()
        and all(same_value(value, actual[key]) for key, value in unnamed.items())
    )


def _is_order_of_sum(case):
    """The sum depends on the order of the series only where big numbers cancel."""
    if case.op not in SUMS:
        return case.ops & set(SUMS) != set() and _varies(case)
    sizes = [abs(number) for number in numbers_of(case) if math.isfinite(number)]
    power = 2 if case.op == "stdvar" else 1
    try:
        scale = 1e-12 * max(sizes, default=0.0) ** power
    except OverflowError:
        return True
    return all(a == b or abs(float(a) - float(b)) <= scale for a, b in pairs_of_values(case))


def _is_zero_sign(case):
    """Equal values of a rank: 0 and -0 are sorted in no defined order."""
    return case.op in ORDERED and all(
        float(a) == float(b) or (math.isnan(float(a)) and math.isnan(float(b)))
        for a, b in pairs_of_values(case)
    )


LOWEST_BOUND = Rule(
    "histogram_fraction below the lowest bound",
    "3.5 let the lowest bucket begin at -Inf even if its bound is positive, so that cutting it "
    "gave NaN; 3.14 lets it begin at 0",
    _is_fraction,
)
RULES = (
    Rule(
        "newer language",
        "first_over_time, ts_of_first_over_time, histogram_quantiles, step(), range(), start(), "
        "end(), min_of(), max_of(), trim operators came after 3.5; duration expressions were "
        "behind a flag there",
        _is_newer_language,
    ),
    Rule(
        "matching before filtering",
        "3.5 looked for several matches only among the pairs that a comparison keeps; 3.14 looks "
        "at all pairs",
        _is_refused_filter,
    ),
    Rule(
        "logarithm of subnormal numbers",
        "Go's assembler for amd64 gets logarithms of numbers below 2.2e-308 wrong",
        _is_log_of_subnormal,
    ),
    Rule(
        "offset in timestamp() with @",
        "Prometheus (3.5 and 3.14) forgets the offset in timestamp(metric @ t offset d); tsengine "
        "looks at the same sample as the selector alone",
        _is_forgotten_offset,
    ),
    Rule(
        "series merged",
        "3.5 failed if series got the same labels even if they never had a value at the same "
        "step; 3.14 makes one of them",
        _is_merged,
    ),
    Rule(
        "point of a subquery that nobody sees",
        "Prometheus evaluates the inside of a subquery also between the windows of the steps and "
        "beyond the last step up to the end of the query, and fails where only that fails",
        _is_unused_point,
    ),
    Rule(
        FROZEN,
        "Prometheus (3.5 and 3.14) computes an aggregation over a vector that is the same at all "
        "steps once, even if its parameter changes; tsengine looks at both",
        _is_frozen_parameter,
    ),
    Rule(
        "absent of a label with several matchers",
        "whether the label stays depends on the order of the matchers, which Prometheus changes "
        "while it looks up the series",
        _is_doubly_matched,
    ),
    LOWEST_BOUND,
    Rule(
        "refused number of series",
        "topk, bottomk and limitk of NaN or of a number beyond int64 became an error after 3.5",
        _is_refused_count,
    ),
    Rule("mad_over_time of NaN", "3.14 answers NaN if any sample is NaN", _is_nan_in_mad),
    Rule(
        "sorting empty labels",
        "Prometheus's natural order calls an empty text neither smaller nor larger than any other, "
        "so where it lands is chance; tsengine puts it first",
        _has_empty_sort_label,
    ),
    Rule("ties of topk", "which of several equal samples is taken is not defined", _is_tie),
    Rule(
        "order of summation",
        "sums of numbers that cancel keep fewer digits, and which ones depends on the order of "
        "the series, which is not defined",
        _is_order_of_sum,
    ),
    Rule(
        "sign of zero among equals",
        "0 and -0 are equal, so which comes first among sorted values or series is not defined",
        _is_zero_sign,
    ),
    Rule(
        "name that comes back",
        "with delayed name removal 3.5 forgot in a subquery that a name was to be dropped, and "
        "last_over_time, which keeps names, gave it back; so do comparisons of vectors in 3.5 and "
        "3.14; in tsengine no name comes back",
        _is_name_back,
    ),
    *NATIVE_RULES,
    Rule(
        "rounding made larger",
        "elementary functions and sums may differ in the last digit between Go and C; steps, "
        "comparisons, label values and differences of near-equal numbers show it",
        _is_rounding,
    ),
)
