"""Test scripts through a server process: remote write in, the query API out."""

import pytest

from tests.promql import runner
from tests.promql.http_database import ServedDatabases
from tests.promql.script import read_script
from tests.promql.test_own_scripts import SCRIPTS as OWN_SCRIPTS
from tests.promql.test_promqltest import NAMES, SCRIPTS, needs_scripts

# The first start on a machine compiles kernels.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def served():
    databases = ServedDatabases()
    yield databases
    databases.close()


def problems_of(path, served):
    outcomes = runner.run_script(
        read_script(path), served.open, at_variants=False, range_variants=False
    )
    assert outcomes
    return [
        f"{path.name}:{outcome.line}: {outcome.expr}\n    {outcome.problem}"
        for outcome in outcomes
        if outcome.problem is not None
    ]


@needs_scripts
@pytest.mark.parametrize("name", NAMES)
def test_script_of_prometheus(name, served):
    problems = problems_of(SCRIPTS / f"{name}.test", served)
    assert not problems, f"{len(problems)} cases:\n" + "\n".join(problems)


@pytest.mark.parametrize("path", OWN_SCRIPTS, ids=lambda path: path.stem)
def test_own_script(path, served):
    problems = problems_of(path, served)
    assert not problems, f"{len(problems)} cases:\n" + "\n".join(problems)
