"""What the README prints has to be there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_metric_of_the_curl_line_is_one_of_ours():
    (name,) = re.findall(r"api/v1/query\?query=(tsengine_\w+)", README)
    assert f'"{name}"' in (ROOT / "server" / "telemetry.py").read_text()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_verbs_are_those_of_the_command_line():
    verbs = set(re.findall(r"^tsengine (\w+)", README, re.MULTILINE))
    text = "".join(path.read_text() for path in (ROOT / "server").glob("c*.py"))
    for verb in verbs:
        assert f'"{verb}"' in text, verb
