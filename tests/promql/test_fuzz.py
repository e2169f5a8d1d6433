"""A short run of the parser's fuzzer; `python -m tests.promql.fuzz` is the long one."""

from tests.promql.fuzz import run


def test_random_texts_parse_or_are_refused_with_a_position():
    counts, findings, _ = run(4000, seed=5)
    assert findings == []
    assert counts["grammar", "valid"] > 1000
    assert counts["fragments", "refused"] > 1000
    assert counts["mutated", "valid"] > 50
