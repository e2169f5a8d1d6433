"""/api/v1/query, /query_range, /query_exemplars."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tsengine import errors

from ..errors import BadParameter, BadRequest, NotAcceptable, classify
from ..times import now_ms, parse_duration_ms
from . import encode
from .params import Params, read_params

if TYPE_CHECKING:
    import tsengine

    from ..state import Server
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"


@dataclass(frozen=True, slots=True)
class _Common:
    """Parameters that both query calls have."""

    timeout_s: float
    lookback_s: float | None
    limit: int
    stats: str
    media_type: str

    @classmethod
    def parse(cls, params: Params, timeout_max_s: float, accept: str) -> _Common:
        timeout_s = timeout_max_s
        if params.get("timeout"):
            timeout_s = min(timeout_s, params.duration_ms("timeout") / 1000)
        lookback_s = None
        if text := params.get("lookback_delta"):
            lookback_ms = parse_duration_ms(text)
            if lookback_ms is None:
                raise BadRequest(
                    f'error parsing lookback delta duration: cannot parse "{text}" '
                    "to a valid duration"
                )
            lookback_s = lookback_ms / 1000 if lookback_ms > 0 else None
        return cls(timeout_s, lookback_s, params.limit(), params.get("stats"), choose_media(accept))


async def query(server: Server, request: web.Request) -> web.Response:
    """Evaluate at one time."""
    params = await read_params(request, server.limits)
    expr = params.get("query")
    time_ms = params.time_ms("time", now_ms())
    common = _Common.parse(params, server.limits.query_timeout_s, request.headers.get("Accept", ""))
    database = server.database

    def call(timeout_s: float, cancel: threading.Event) -> tsengine.Result:
        return database.query(
            expr, time_ms, timeout=timeout_s, lookback=common.lookback_s, cancel=cancel
        )

    return await _answer(server, "instant", common, call)


async def query_range(server: Server, request: web.Request) -> web.Response:
    """Evaluate at steps from start to end, both included."""
    params = await read_params(request, server.limits)
    expr = params.get("query")
    start_ms = params.time_ms("start")
    end_ms = params.time_ms("end")
    step_ms = params.duration_ms("step")
    check_range(start_ms, end_ms, step_ms, server.limits.query_steps_max)
    common = _Common.parse(params, server.limits.query_timeout_s, request.headers.get("Accept", ""))
    database = server.database

    def call(timeout_s: float, cancel: threading.Event) -> tsengine.Result:
        return database.query_range(
            expr, start_ms, end_ms, step_ms / 1000,
            timeout=timeout_s, lookback=common.lookback_s, cancel=cancel,
        )  # fmt: skip

    return await _answer(server, "range", common, call)


def check_range(start_ms: int, end_ms: int, step_ms: int, steps_max: int) -> None:
    """Refuse ranges that run backwards or have too many steps."""
    if end_ms < start_ms:
        raise BadParameter("end", "end timestamp must not be before start time")
    if step_ms <= 0:
        raise BadParameter(
            "step",
            "zero or negative query resolution step widths are not accepted. "
            "Try a positive integer",
        )
    if (end_ms - start_ms) // step_ms > steps_max:
        raise BadRequest(
            f"exceeded maximum resolution of {steps_max:,} points per timeseries. "
            "Try decreasing the query resolution (?step=XX)"
        )


async def _answer(
    server: Server,
    kind: str,
    common: _Common,
    call: Callable[[float, threading.Event], tsengine.Result],
) -> web.Response:
    """Evaluate and encode in a query thread, with Prometheus's wording of refusals."""

    def evaluate_and_encode(timeout_s: float, cancel: threading.Event) -> bytes:
        started = time.perf_counter()
        waited_s = common.timeout_s - timeout_s
        result = call(max(timeout_s, 0.001), cancel)
        body = _encode(server, common, result, waited_s)
        server.telemetry.query_seconds.labels(kind).observe(time.perf_counter() - started)
        return body

    try:
        body = await server.executor.query(evaluate_and_encode, common.timeout_s)
    except Exception as error:
        # The query can't be evaluated whatever the data: Prometheus says 400 then.
        if isinstance(error, (errors.ParseError, errors.InvalidQueryType)):
            server.telemetry.query_failures.labels(kind, "bad_data").inc()
            raise BadParameter("query", str(error)) from None
        server.telemetry.query_failures.labels(kind, classify(error).error_type).inc()
        raise
    return web.Response(body=body, content_type=common.media_type, headers={"Vary": "Accept"})


def choose_media(accept: str) -> str:
    """JSON, or Arrow or CSV where the client prefers them to it."""
    qualities = encode.accepted(accept)
    best = max((ARROW, CSV), key=lambda name: qualities.get(name, 0.0))
    # Wildcards don't count: who names one of ours as well means it.
    return best if qualities.get(best, 0.0) > qualities.get(JSON, 0.0) else JSON


def _encode(server: Server, common: _Common, result: tsengine.Result, waited_s: float) -> bytes:
    if common.media_type == ARROW:
        if result.type == "string":
            raise NotAcceptable("a string has no Arrow form; accept application/json or text/csv")
        return result.truncate(common.limit).to_arrow_stream()
    if common.media_type == CSV:
        return result.truncate(common.limit).to_csv()
    warnings = list(result.warnings)
    infos = list(result.infos)
    cut = result.truncate(common.limit)
    if cut is not result:
        warnings.append("results truncated due to limit")
    data = cut.to_json()
    if common.stats:
        data = encode.with_stats(data, _stats_of(result, waited_s))
    return encode.success(data, warnings, infos, notes_max=server.limits.warnings_max)


def _stats_of(result: tsengine.Result, waited_s: float) -> dict[str, Any]:
    """What the query cost, under Prometheus's names."""
    stats = result.stats
    total_s = stats["plan_s"] + stats["evaluate_s"] + stats["finish_s"]
    return {
        "timings": {
            "evalTotalTime": total_s,
            "resultSortTime": stats["finish_s"],
            "queryPreparationTime": stats["plan_s"],
            "innerEvalTime": stats["evaluate_s"],
            "execQueueTime": waited_s,
            "execTotalTime": waited_s + total_s,
        },
        "samples": {
            "totalQueryableSamples": stats["n_samples_read"],
            "samplesRead": stats["n_samples_read"],
            "peakSamples": stats["n_samples_peak"],
        },
    }


async def query_exemplars(server: Server, request: web.Request) -> web.Response:
    """Exemplars are not kept: an empty list, or 204 for a query that selects nothing."""
    params = await read_params(request, server.limits)
    params.range_ms()
    expr = params.get("query")
    try:
        has_selectors = await server.executor.metadata(server.database.has_selectors, expr)
    except errors.ParseError as error:
        raise BadParameter("query", str(error)) from None
    if not has_selectors:
        return web.Response(status=204)
    return web.Response(body=encode.success(b"[]"), content_type="application/json")
