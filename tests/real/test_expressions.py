"""format_query and parse_query answer as a real Prometheus does, for queries of our scripts."""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.promql.script import Eval, read_script
from tests.real.peers import MissingPeerError, find_prometheus
from tests.real.processes import Child, stopped_afterwards
from tsengine.promql.functions import ALL_ON
from tsengine.promql.parser import parse
from tsengine.promql.pretty import pretty
from tsengine.promql.syntax_json import syntax_tree

SCRIPTS = Path(__file__).resolve().parents[1] / "promql" / "testdata"
LONG = 'a_rather_long_metric_name{and="another one that is not short either",with="a label value"}'
LONG_QUERIES = (
    "sum by(a)(rate({}[5m]))",
    "{} + on(x) group_left(y) {} or -{}",
    "topk(3, {} > bool 1)",
    "-(sum without(a, b)({}) unless foo @ 3 offset 1h)",
    "max_over_time(rate({}[5m])[1h:5m] offset 1m) * 2",
    "max_over_time((foo / {})[1h:5m] @ end())",
    "label_replace({}, 'dst', '$1', 'src', '(.*)')",
    "quantile by(a, `b c`)(0.9, histogram_quantile(0.5, sum by(le)(rate({}[5m] offset -1m))))",
    "clamp_max(max_over_time(foo[1h:5m]) + {}, 1) ^ 2 ^ {}",
    "(({})) == (1 + 2 * 3 - -4 % 5 / +6 ^ 7 atan2 8) and ignoring(x) {}",
    "absent({}) or vector(time()) or count_values('v', {})",
)
N_MIN = 150


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    try:
        binary = find_prometheus()
    except MissingPeerError as error:
        if error.is_failure:
            raise
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("prometheus")
    (directory / "prometheus.yml").write_text("")
    children = []
    with stopped_afterwards(children):
        child = Child(
            [
                binary, f"--config.file={directory / 'prometheus.yml'}",
                "--web.listen-address=127.0.0.1:0", f"--storage.tsdb.path={directory / 'data'}",
                "--enable-feature=promql-experimental-functions,promql-duration-expr",
            ],
            directory / "log",
        )  # fmt: skip
        children.append(child)
        address = child.wait_for(r'msg="?Listening on"? .*address=(127\.0\.0\.1:\d+)', 60)[1]
        child.wait_for(r"Server is ready to receive web requests", 60)
        yield f"http://{address}"


def ask(url, call, query):
    """The data of an answer, None for a query that this Prometheus does not understand."""
    body = urllib.parse.urlencode({"query": query}).encode()
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{call}", body, timeout=30) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise
        return None


def queries():
    found = [query.replace("{}", LONG) for query in LONG_QUERIES]
    for path in sorted(SCRIPTS.glob("*.test")):
        found += [block.expr for block in read_script(path) if isinstance(block, Eval)]
    return list(dict.fromkeys(found))


def common(expected, ours):
    """Our tree with the keys that the older Prometheus has, and matchers in one order."""
    if isinstance(expected, dict) and isinstance(ours, dict):
        assert expected.keys() <= ours.keys()
        return {key: common(value, ours[key]) for key, value in expected.items()}
    if isinstance(expected, list) and isinstance(ours, list) and len(expected) == len(ours):
        return [common(a, b) for a, b in zip(expected, ours, strict=True)]
    return ours


def in_order(tree):
    if isinstance(tree, dict):
        tree = {key: in_order(value) for key, value in tree.items()}
        if isinstance(tree.get("matchers"), list):
            tree["matchers"].sort(key=lambda m: (m["name"], m["type"], m["value"]))
        return tree
    return [in_order(item) for item in tree] if isinstance(tree, list) else tree


def test_both_answer_alike(prometheus):
    n_compared = 0
    problems = []
    for query in queries():
        printed = ask(prometheus, "format_query", query)
        if printed is None:
            continue
        n_compared += 1
        tree = parse(query, features=ALL_ON)
        if pretty(tree) != printed:
            problems.append(f"{query}\n  theirs {printed!r}\n  ours   {pretty(tree)!r}")
        expected = in_order(ask(prometheus, "parse_query", query))
        ours = in_order(syntax_tree(tree))
        if common(expected, ours) != expected:
            problems.append(f"{query}\n  theirs {expected}\n  ours   {common(expected, ours)}")
    assert not problems, f"{len(problems)} of {n_compared}:\n" + "\n".join(problems[:20])
    assert n_compared >= N_MIN
