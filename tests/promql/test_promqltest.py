"""Prometheus's own test scripts, run through the embedded API."""

from pathlib import Path

import pytest

from tests.promql import databases, runner
from tests.promql.script import Eval, read_script

SCRIPTS = Path(__file__).parents[3] / "shared" / "promqltest"
NAMES = (
    "aggregators", "at_modifier", "collision", "duration_expression", "extended_vectors",
    "fill-modifier", "functions", "histograms", "info", "limit", "literals",
    "name_label_dropping", "native_histograms", "operators", "range_queries", "selectors",
    "staleness", "start_timestamps", "subquery", "trig_functions", "type_and_unit",
)  # fmt: skip
N_CASES = 2214

needs_scripts = pytest.mark.skipif(
    not SCRIPTS.is_dir(), reason="Prometheus's test scripts are not beside the repository"
)


def check(name, **options):
    problems = [
        f"{name}.test:{outcome.line}: {outcome.expr}\n    {outcome.problem}"
        for outcome in runner.run_script(read_script(SCRIPTS / f"{name}.test"), **options)
        if outcome.problem is not None
    ]
    assert not problems, f"{len(problems)} cases:\n" + "\n".join(problems)


@needs_scripts
@pytest.mark.parametrize("name", NAMES)
def test_script(name):
    check(name)


@needs_scripts
@pytest.mark.parametrize("name", NAMES)
def test_script_from_parts(name):
    check(
        name,
        open_database=databases.flushed_database,
        at_variants=False,
        range_variants=False,
    )


@needs_scripts
def test_these_are_all_scripts_and_cases():
    assert {path.stem for path in SCRIPTS.glob("*.test")} == set(NAMES)
    scripts = [read_script(SCRIPTS / f"{name}.test") for name in NAMES]
    assert sum(isinstance(command, Eval) for script in scripts for command in script) == N_CASES
