"""The documents name every endpoint, flag, variable and metric."""

import re
from pathlib import Path

import pytest

from server.app import ROUTES
from server.config import KNOWN_FEATURES, SETTINGS
from server.executor import Executor
from server.limits import ByteBudget, ServerLimits
from server.telemetry import DATABASE_METRICS, LABELLED_METRICS, Telemetry

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(("path", "methods"), [(path, methods) for path, methods, _ in ROUTES])
def test_every_endpoint_is_documented(path, methods):
    lines = [
        line for line in (DOCS / "http-api.md").read_text().splitlines() if f"`{path}`" in line
    ]
    assert lines, path
    assert any(f"| {' '.join(methods)} |" in line for line in lines), lines


def test_every_setting_is_documented():
    text = (DOCS / "configuration.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `--")]
    assert len(rows) == len(SETTINGS)
    for setting in SETTINGS:
        (row,) = [row for row in rows if re.match(rf"\| `{re.escape(setting.flags[0])}[ `]", row)]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == " ".join(f"`{flag}`" for flag in setting.flags[1:])
        assert cells[2] == f"`{setting.variable}`"
        shown = {None: "none", "": "none", "false": "off"}.get(
            setting.default, f"`{setting.default}`"
        )
        assert cells[3] == shown
    assert all(f"`{name}`" in text for name in KNOWN_FEATURES)


async def test_every_metric_is_documented():
    telemetry = Telemetry("1")
    executor = Executor(ServerLimits())
    stats = dict.fromkeys((key for key, *_ in DATABASE_METRICS), 0)
    stats |= dict.fromkeys((f"{key}:compaction" for key, *_ in LABELLED_METRICS), 0)
    telemetry.watch(executor, ByteBudget(1), lambda: stats)
    text = (DOCS / "operations.md").read_text()
    documented = set(re.findall(r"`(tsengine_[a-z_]+)`", text))
    exposed = set()
    for family in telemetry.registry.collect():
        if family.name.startswith("tsengine_"):
            exposed.add(family.name + ("_total" if family.type == "counter" else ""))
    executor.close()
    assert exposed == documented
