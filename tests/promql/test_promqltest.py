"""Prometheus's own test scripts, run through the embedded API.

Cases that need native histograms, which the engine does not have yet, are listed by file and line
in `native_histogram_cases.txt`. The list is strict in both directions: a case that is not listed
has to pass, and one that is listed has to fail.
"""

from pathlib import Path

import pytest

from tests.promql import runner
from tests.promql.script import Eval, Histogram, Load, read_script

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1].parent / "shared" / "promqltest"
NAMES = (
    "aggregators", "at_modifier", "collision", "duration_expression", "extended_vectors",
    "fill-modifier", "functions", "histograms", "info", "limit", "literals",
    "name_label_dropping", "operators", "range_queries", "selectors", "staleness", "subquery",
    "trig_functions", "type_and_unit",
)  # fmt: skip
N_CASES = 1666
N_LISTED_MAX = N_CASES - 1348

needs_scripts = pytest.mark.skipif(
    not SCRIPTS.is_dir(), reason="Prometheus's test scripts are not beside the repository"
)


def listed():
    """Lines per file name of the cases that need native histograms."""
    found = {}
    for line in (HERE / "native_histogram_cases.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, number = line.split(":")
            found.setdefault(name, set()).add(int(number))
    return found


@needs_scripts
@pytest.mark.parametrize("name", NAMES)
def test_script(name):
    commands = read_script(SCRIPTS / f"{name}.test")
    expected_failures = listed().get(f"{name}.test", set())
    problems = []
    for outcome in runner.run_script(commands):
        is_listed = outcome.line in expected_failures
        where = f"{name}.test:{outcome.line}: {outcome.expr}"
        if outcome.problem is not None and not is_listed:
            problems.append(f"{where}\n    {outcome.problem}")
        elif outcome.problem is None and is_listed:
            problems.append(f"{where}\n    passes but is listed as needing native histograms")
    assert not problems, f"{len(problems)} cases:\n" + "\n".join(problems)


@needs_scripts
def test_list_of_expected_failures_is_small_and_names_only_cases():
    lines = {}
    for name in NAMES:
        commands = read_script(SCRIPTS / f"{name}.test")
        lines[f"{name}.test"] = {c.line for c in commands if isinstance(c, Eval)}
    assert sum(map(len, lines.values())) == N_CASES
    for name, numbers in listed().items():
        assert numbers <= lines[name], name
    assert sum(map(len, listed().values())) <= N_LISTED_MAX


@needs_scripts
def test_listed_cases_touch_native_histograms():
    """Only cases that stand in a file part with histogram data or results may be listed."""
    for name, numbers in listed().items():
        histograms_loaded = False
        for command in read_script(SCRIPTS / name):
            series = [] if not isinstance(command, Load | Eval) else command.series
            literal = any(isinstance(item, Histogram) for s in series for item in s.items)
            if isinstance(command, Load):
                histograms_loaded = histograms_loaded or command.nhcb or literal
            elif isinstance(command, Eval):
                if command.line in numbers:
                    assert histograms_loaded or literal, f"{name}:{command.line}"
            else:
                histograms_loaded = False
