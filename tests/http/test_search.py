"""/api/v1/search/...: what is found, in which order, in which lines, and what is refused."""

import asyncio
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api import fuzzy, search
from server.api.params import Params
from server.errors import BadRequest
from server.lifecycle import open_database
from server.limits import ServerLimits
from tests.http.conftest import make_config
from tests.reference import fuzzy as reference
from tsengine import errors

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ON = ("--enable-feature", "search-api")
METRICS = ("http_requests_total", "http_request_duration_seconds", "up", "node_http_up", "Über<1>")


def no_check():
    return None


async def lines(running, call, method="GET", **kwargs):
    """The JSON objects of a successful answer."""
    status, headers, body = await running.call(method, f"/api/v1/search/{call}", **kwargs)
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson; charset=utf-8"), body
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


async def found(running, call, key="name"):
    """Texts of one batch that was not cut."""
    (batch, trailer) = await lines(running, call)
    assert trailer == {"status": "success", "has_more": False}
    return [result[key] for result in batch["results"]]


@pytest.fixture
async def filled(start, tmp_path, now_ms):
    """The real engine with five metrics of now, and one of two hours ago."""
    flags = ("--data-dir", str(tmp_path / "data"), *ON)
    database = open_database(make_config(*flags))
    for k, metric in enumerate(METRICS):
        labels = {"__name__": metric, "job": f"job-{k % 2}", "instance": f"host-{k}:9090"}
        database.append(labels, [now_ms - 1000], [1.0])
    yield await start(*flags, database=database)
    database.close()


async def test_without_the_feature(running):
    for call in ("metric_names", "label_names", "label_values?label=job"):
        for method in ("GET", "POST"):
            status, answer = await running.json(method, f"/api/v1/search/{call}")
            assert status == 500
            assert answer == {
                "status": "error", "errorType": "unavailable", "error": "search API disabled",
            }  # fmt: skip
    assert (await running.json("GET", "/api/v1/features"))[1]["data"]["api"]["search"] is False


async def test_the_feature_is_shown(start):
    running = await start(*ON)
    shown = (await running.json("GET", "/api/v1/features"))[1]["data"]["api"]
    assert shown["search"] is True
    assert shown["search_fuzz_alg_subsequence"] is True
    assert shown["search_fuzz_alg_jarowinkler"] is True
    assert (await running.call("PUT", "/api/v1/search/label_names"))[0] == 405


async def test_all_names_and_values(filled):
    assert await found(filled, "metric_names") == sorted(METRICS)
    assert await found(filled, "label_names") == ["__name__", "instance", "job"]
    assert await found(filled, "label_values?label=job", "value") == ["job-0", "job-1"]
    assert await found(filled, "label_values?label=nothing", "value") == []
    assert await found(filled, "metric_names?sort_by=alpha&sort_dir=dsc") == sorted(METRICS)[::-1]


async def test_bytes_of_an_answer(filled):
    _, _, body = await filled.call("GET", "/api/v1/search/metric_names?search[]=%C3%9C")
    first, second, end = body.decode().split("\n")
    assert first == '{"results":[{"name":"Über\\u003c1\\u003e"}]}'
    assert second == '{"status":"success","has_more":false}'
    assert end == ""
    _, _, body = await filled.call("GET", "/api/v1/search/label_names?search[]=xyz")
    assert body == b'{"results":[]}\n{"status":"success","has_more":false}\n'
    _, _, body = await filled.call(
        "GET", "/api/v1/search/metric_names?search[]=up&include_score=true"
    )
    assert body.startswith(b'{"results":[{"name":"node_http_up","score":0.')
    assert b'{"name":"up","score":1}]}\n' in body


async def test_terms(filled):
    assert await found(filled, "metric_names?search[]=hrt") == [
        "http_request_duration_seconds", "http_requests_total",
    ]  # fmt: skip
    assert await found(filled, "metric_names?search[]=up&search[]=total") == [
        "http_requests_total", "node_http_up", "up",
    ]  # fmt: skip
    assert await found(filled, "metric_names?search[]=") == sorted(METRICS)
    assert await found(filled, "metric_names?search[]=UP") == []
    assert await found(filled, "metric_names?search[]=UP&case_sensitive=false") == [
        "node_http_up", "up",
    ]  # fmt: skip
    assert await found(filled, "metric_names?search[]=%C3%BCB&case_sensitive=F") == ["Über<1>"]


async def test_jaro_winkler(filled):
    call = "metric_names?fuzz_alg=jarowinkler&search[]="
    assert await found(filled, call + "http_up") == ["node_http_up"]
    assert await found(filled, call + "htp_requests_total") == []
    assert await found(filled, call + "htp_requests_total&fuzz_threshold=88") == [
        "http_requests_total"
    ]
    assert await found(filled, call + "htp_requests_total&fuzz_threshold=100") == []


async def test_selectors_and_times(filled, now_ms):
    assert await found(filled, 'metric_names?match[]={job="job-1"}&match[]=up') == [
        "http_request_duration_seconds", "node_http_up", "up",
    ]  # fmt: skip
    assert await found(filled, 'label_values?label=instance&match[]=up', "value") == [
        "host-2:9090"
    ]  # fmt: skip
    old = now_ms / 1000 - 7200
    assert await found(filled, f"metric_names?start={old}&end={old + 1}") == []
    assert await found(filled, f"metric_names?start={old}&search[]=up&sort_by=score") == [
        "up", "node_http_up",
    ]  # fmt: skip


async def test_samples_of_two_hours_ago_are_not_in_the_default_range(start, tmp_path, now_ms):
    flags = ("--data-dir", str(tmp_path / "data"), *ON)
    database = open_database(make_config(*flags))
    database.append({"__name__": "old"}, [now_ms - 7_200_000], [1.0])
    database.flush()
    database.append({"__name__": "new"}, [now_ms], [1.0])
    running = await start(*flags, database=database)
    assert await found(running, "metric_names") == ["new"]
    assert await found(running, "metric_names?start=0") == ["new", "old"]
    database.close()


async def test_batches_of_the_engine(real, now_ms):
    rows = [f"{k:04}" for k in range(2500)]
    for row in rows:
        real.database.append({"__name__": "x", "row": row, "odd": str(int(row) % 2)}, [now_ms], [1])
    for selectors, expected in (((), rows), (('{odd="1"}',), rows[1::2])):
        batches = list(real.database.label_value_batches("row", selectors))
        assert sorted(text for batch in batches for text in batch) == expected
        assert max(map(len, batches)) <= 1024 < sum(map(len, batches))
    assert list(real.database.label_value_batches("none")) == []
    assert list(real.database.label_value_batches("row", start=0, end=1)) == []
    n_checks = []
    list(real.database.label_value_batches("row", check=lambda: n_checks.append(1)))
    assert len(n_checks) == 3


async def test_batches_and_trailer(filled):
    names = sorted(METRICS)
    answer = await lines(filled, "metric_names?batch_size=2")
    assert [[r["name"] for r in line["results"]] for line in answer[:-1]] == [
        names[:2], names[2:4], names[4:],
    ]  # fmt: skip
    assert answer[-1] == {"status": "success", "has_more": False}
    answer = await lines(filled, "metric_names?batch_size=2&limit=3")
    assert [[r["name"] for r in line["results"]] for line in answer[:-1]] == [
        names[:2], names[2:3],
    ]  # fmt: skip
    assert answer[-1] == {"status": "success", "has_more": True}
    answer = await lines(filled, "metric_names?limit=5")
    assert len(answer) == 2
    assert answer[-1]["has_more"] is False


async def test_a_form(filled):
    body = "search[]=hrt&sort_by=score&limit=1&include_score=1"
    answer = await lines(filled, "metric_names?limit=7", "POST", data=body, headers=FORM)
    name = "http_request_duration_seconds"  # A gap counts less in a longer text.
    expected = reference.subsequence_score("hrt", name)
    assert answer[0]["results"] == [
        {"name": name, "score": pytest.approx(float(expected), abs=1e-12)}
    ]
    assert answer[1]["has_more"] is True


async def test_metadata(start):
    running = await start(*ON)
    for name in ("up", "upper"):
        running.database.rows[(("__name__", name),)] = {1000: 1.0}
    _, _, body = await running.call("GET", "/api/v1/search/metric_names?include_metadata=true")
    assert body == (
        b'{"results":[{"name":"up","type":"gauge","help":"a\\u003cb"},{"name":"upper"}]}\n'
        b'{"status":"success","has_more":false}\n'
    )


async def test_the_default_range_is_the_last_hour(start, now_ms):
    running = await start(*ON)
    await lines(running, "metric_names?match[]=up")
    (name, label, selectors, start_ms, end_ms, _), *_ = running.database.calls
    assert (name, label, selectors) == ("label_values", "__name__", ["up"])
    assert end_ms - start_ms == 3_600_000
    assert abs(end_ms - now_ms) < 60_000


REFUSED = [
    ("start=x", "invalid time value for 'start': cannot parse \"x\" to a valid timestamp"),
    ("end=x", "invalid time value for 'end': cannot parse \"x\" to a valid timestamp"),
    ("start=2&end=1", "end timestamp must not be before start timestamp"),
    ("match[]={}", "match[] must contain at least one non-empty matcher"),
    ("&".join(["search[]=x"] * 33), "too many search[] terms: got 33, maximum is 32"),
    ("fuzz_threshold=101", 'invalid fuzz_threshold "101": must be 0-100'),
    ("fuzz_threshold=-1", 'invalid fuzz_threshold "-1": must be 0-100'),
    ("fuzz_threshold=0.5", 'invalid fuzz_threshold "0.5": must be 0-100'),
    ("fuzz_alg=x", 'unsupported fuzz_alg "x": must be one of [subsequence jarowinkler]'),
    ("case_sensitive=yes", 'invalid case_sensitive "yes": must be boolean'),
    ("include_score=2", 'invalid include_score "2": must be boolean'),
    ("sort_dir=asc", "sort_dir is only valid when sort_by is set"),
    ("sort_dir=asc&sort_by=score&search[]=x", "sort_dir is not supported for sort_by=score"),
    ("sort_dir=desc&sort_by=alpha", 'invalid sort_dir "desc": must be "asc" or "dsc"'),
    ("sort_by=score", "sort_by=score requires search[] to be set"),
    ("limit=0", 'invalid limit "0": must be a positive integer'),
    ("limit=9223372036854775808",
     'invalid limit "9223372036854775808": must be a positive integer'),
    ("limit=10001",
     "limit 10001 exceeds the configured maximum (10000, see --web.search.max-limit)"),
    ("batch_size=-3", 'invalid batch_size "-3": must be a positive integer'),
    ("batch_size=x", 'invalid batch_size "x": must be a positive integer'),
]  # fmt: skip


@pytest.mark.parametrize(("query", "text"), REFUSED)
async def test_refusals(start, query, text):
    running = await start(*ON)
    for call in ("metric_names?", "label_names?", "label_values?label=job&"):
        status, answer = await running.json("GET", f"/api/v1/search/{call}{query}")
        assert status == 400
        assert answer == {"status": "error", "errorType": "bad_data", "error": text}


async def test_refusals_of_single_calls(start):
    running = await start(*ON)
    for query, text in (
        ("label_values?limit=3", 'missing required parameter "label"'),
        ("metric_names?include_metadata=x", 'invalid include_metadata "x": must be boolean'),
        ("metric_names?sort_by=x",
         'invalid sort_by "x" for metric_names: must be "alpha" or "score"'),
        ("label_values?label=a&sort_by=x",
         'invalid sort_by "x" for label_values: must be "alpha" or "score"'),
    ):  # fmt: skip
        status, answer = await running.json("GET", f"/api/v1/search/{query}")
        assert (status, answer["error"]) == (400, text)
    assert (await running.call("GET", "/api/v1/search/label_names?include_metadata=x"))[0] == 200


async def test_errors_of_selectors(filled):
    status, answer = await filled.json("GET", "/api/v1/search/label_names?match[]=up{")
    assert (status, answer["errorType"]) == (400, "bad_data")
    assert answer["error"].startswith("1:4: parse error: ")
    status, answer = await filled.json("GET", '/api/v1/search/label_names?match[]={a=~"("}')
    assert (status, answer["errorType"]) == (400, "bad_data")


async def test_the_limit_of_limits(start):
    small = await start(*ON, "--web.search.max-limit", "2")
    for k in range(4):
        small.database.rows[(("__name__", f"m{k}"),)] = {1000: 1.0}
    answer = await lines(small, "metric_names")
    assert [r["name"] for r in answer[0]["results"]] == ["m0", "m1"]
    assert answer[1]["has_more"] is True
    assert (await small.call("GET", "/api/v1/search/metric_names?limit=3"))[0] == 400
    free = await start(*ON, "--web.search.max-limit=0")
    assert (await free.call("GET", "/api/v1/search/metric_names?limit=1000000"))[0] == 200


async def test_large_answers_come_in_pieces(start):
    running = await start(*ON, "--web.cors.origin", ".*")
    names = [f"metric_{k:06}_{'x' * 100}" for k in range(9000)]
    running.database.rows.update({(("__name__", name),): {1000: 1.0} for name in names})
    path = "/api/v1/search/metric_names?limit=9000&batch_size=7"
    status, headers, body = await running.call("GET", path, headers={"Origin": "http://a.example"})
    assert (status, headers["Transfer-Encoding"]) == (200, "chunked")
    assert headers["Access-Control-Allow-Origin"] == "*"
    answer = [json.loads(line) for line in body.splitlines()]
    assert [r["name"] for line in answer[:-1] for r in line["results"]] == names
    assert len(answer) == 1 + -(-9000 // 7)
    status, headers, body = await running.call("HEAD", path)
    assert (status, body) == (200, b"")
    assert headers["Content-Type"] == "application/x-ndjson; charset=utf-8"
    # One line longer than what is sent at a time.
    answer = await lines(running, "metric_names?limit=9000&batch_size=9000")
    assert [r["name"] for r in answer[0]["results"]] == names


async def test_timeouts(start):
    running = await start(*ON)

    def slow(name, selectors, start, end, check):
        while True:
            check()
            time.sleep(0.005)
            yield ["a"]

    running.database.label_value_batches = slow
    path = "/api/v1/search/metric_names?search[]=b&timeout=50ms"
    status, answer = await running.json("GET", path)
    assert (status, answer["errorType"]) == (503, "timeout")


async def test_an_error_midway_is_the_last_line(start, monkeypatch):
    running = await start(*ON)
    monkeypatch.setattr(search, "PIECE_SIZE", 1)
    for k in range(4):
        running.database.rows[(("__name__", f"m{k}"),)] = {1000: 1.0}

    def metadata(metric):
        if metric == "m2":
            raise errors.CorruptionError("checksum", path="part-1", offset=7)
        return {}

    running.database.metadata = metadata
    first, second, last = await lines(running, "metric_names?include_metadata=1&batch_size=1")
    assert [first["results"], second["results"]] == [[{"name": "m0"}], [{"name": "m1"}]]
    assert (last["status"], last["errorType"]) == ("error", "internal")
    assert "checksum" in last["error"]


async def test_a_client_that_left_ends_its_search(start):
    running = await start(*ON)
    begun, ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(name, selectors, start, end, check):
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                check()
                time.sleep(0.005)
                yield ["a"]
        finally:
            loop.call_soon_threadsafe(ended.set)

    running.database.label_value_batches = slow
    call = asyncio.create_task(running.call("GET", "/api/v1/search/metric_names?search[]=b"))
    async with asyncio.timeout(60):
        await begun.wait()
        call.cancel()
        await ended.wait()


# Scores.

TEXTS = st.text("abcü", max_size=12)
TERMS = st.text("abcü", min_size=1, max_size=6)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(TERMS, TEXTS)
def test_scores_match_the_reference(term, text):
    got = fuzzy.substring_score(term, text)
    assert got == pytest.approx(float(reference.substring_score(term, text)), abs=1e-12)
    got = fuzzy.subsequence_score(term, text, no_check)
    assert got == pytest.approx(float(reference.subsequence_score(term, text)), abs=1e-12)
    got = fuzzy.jaro_winkler_score(term, text)
    assert got == pytest.approx(float(reference.jaro_winkler_score(term, text)), abs=1e-12)


@pytest.mark.parametrize(
    ("term", "text", "score"),
    [
        ("my", "my awesome text", 107 / 120 * 0.999),
        ("met", "my awesome text", 43 / 90 * 0.999),
        ("bac", "babac", 43 / 45 * 0.999),
        ("abaa", "abbaa", 39 / 80 * 0.999),
        ("éü", "éàü", 5 / 12 * 0.999),
        ("éà", "éà", 1.0),
        ("é", "ab", 0.0),
        ("ab", "ba", 0.0),
    ],
)
def test_subsequence_scores(term, text, score):
    assert fuzzy.subsequence_score(term, text, no_check) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize(
    ("term", "text", "score"),
    [
        ("martha", "marhta", 0.9611),
        ("dwayne", "duane", 0.84),
        ("dixon", "dicksonx", 0.8133),
        ("café", "cafe", 0.8833),
        ("abc", "xyz", 0.0),
        ("abc", "", 0.0),
    ],
)
def test_jaro_winkler_scores(term, text, score):
    assert fuzzy.jaro_winkler_score(term, text) == pytest.approx(score, abs=5e-5)
    assert fuzzy.jaro_winkler_score(text, term) == pytest.approx(score, abs=5e-5)


def score_of(*terms, algorithm="subsequence", threshold=0.0, case_sensitive=True):
    return fuzzy.make_score(
        terms, algorithm, threshold, case_sensitive=case_sensitive, check=no_check
    )


def test_thresholds_of_subsequences():
    exact = reference.subsequence_score("ac", "abc")
    assert score_of("ac", threshold=float(exact) - 1e-9)("abc") == pytest.approx(float(exact))
    assert score_of("ac", threshold=float(exact) + 1e-9)("abc") == 0.0
    assert score_of("ab", threshold=1.0)("abc") == 1.0
    assert score_of("bc", threshold=1.0)("abc") == 0.0


def test_several_terms_take_the_best():
    assert score_of("zz", "ac", "b")("abc") == score_of("b")("abc") > score_of("ac")("abc") > 0
    assert score_of("") is None
    assert score_of() is None


def test_what_contains_a_term_passes_any_threshold_of_jaro_winkler():
    score = score_of("cd", algorithm="jarowinkler", threshold=1.0)
    assert score("abcd") == pytest.approx(0.1)
    assert score("abdc") == 0.0
    assert score("cdab") == 1.0


def test_lower_case_keeps_the_length():
    assert fuzzy.lower("ΑΣ İX") == "ασ ix"
    assert score_of("ΑΣ", case_sensitive=False)("ασ2") == 1.0


def test_a_long_comparison_can_be_given_up():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise errors.QueryTimeout("up")

    with pytest.raises(errors.QueryTimeout):
        fuzzy.subsequence_score("a" * 500, "a" * 2000, check)
    assert len(calls) == 3


# Choosing.


def parse(**fields):
    limits = ServerLimits()
    return search.parse_search(Params({k: [v] for k, v in fields.items()}), "x", limits)


def test_defaults():
    wanted = parse()
    assert (wanted.limit, wanted.batch_size, wanted.threshold) == (100, 100, 0.0)
    assert (wanted.algorithm, wanted.case_sensitive) == ("subsequence", True)
    assert not wanted.include_score
    assert parse(fuzz_threshold="+7").threshold == 0.07
    with pytest.raises(BadRequest):
        parse(limit="1_0")


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.lists(st.text("abc", max_size=5), unique=True, max_size=60),
    st.integers(1, 12),
    st.sampled_from([{}, {"sort_by": "alpha", "sort_dir": "dsc"}, {"sort_by": "score"}]),
    st.sampled_from(["", "a", "ab", "cb"]),
)
def test_choosing_matches_sorting_everything(texts, limit, order, term):
    wanted = parse(limit=str(limit), **order, **{"search[]": term})
    spare, search._SPARE = search._SPARE, 3
    try:
        batches = [texts[k : k + 7] for k in range(0, len(texts), 7)]
        got = search.find_matches(wanted, batches, no_check)
    finally:
        search._SPARE = spare
    score = score_of(term) or (lambda text: 1.0)
    every = sorted((score(text), text) for text in texts if score(text) > 0)
    if wanted.by_score:
        every.sort(key=lambda match: -match[0])
    else:
        every.sort(key=lambda match: match[1], reverse=wanted.descending)
    assert got == every[: limit + 1]


def test_only_the_wanted_are_held():
    wanted = parse(limit="10", sort_by="alpha")
    largest = 0

    def batches():
        nonlocal largest
        for k in range(200, 0, -1):
            yield [f"{k:04}-{j:04}" for j in range(1000)]
            largest = max(largest, len(held))

    held = []
    original = search._first
    try:
        search._first = lambda s, m, n: held.__init__(original(s, m, n)) or list(held)
        got = search.find_matches(wanted, batches(), no_check)
    finally:
        search._first = original
    assert [text for _, text in got] == [f"0001-{j:04}" for j in range(11)]
    assert largest <= 11
