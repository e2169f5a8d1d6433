"""/api/v1/query, /query_range, /query_exemplars."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from tsengine import errors

from .. import feature_switches
from ..active_queries import ANSWER_BYTES_PER_SAMPLE, Asked
from ..allocator import TRIM_AT_BYTES, give_back_free_memory
from ..errors import BadParameter, BadRequest, NotAcceptable, classify
from ..times import now_ms, parse_duration_ms
from . import encode
from .params import Params, read_params
from .pieces import Body, make_body, new_slab

if TYPE_CHECKING:
    import tsengine
    from tsengine import QueryWatch

    from ..state import Server
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
CSV = "text/csv"
HELD_SIZE_MIN = 32 * 1024
"""Smaller answers are the connection's at once, however slowly it takes them."""


@dataclass(frozen=True, slots=True)
class _Common:
    """Parameters that both query calls have."""

    timeout_s: float
    lookback_s: float | None
    limit: int
    stats: str
    media_type: str
    encoding: str | None

    @classmethod
    def parse(cls, params: Params, timeout_max_s: float, headers: Mapping[str, str]) -> _Common:
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
        return cls(
            timeout_s,
            lookback_s,
            params.limit(),
            params.get("stats"),
            choose_media(headers.get("Accept", "")),
            encode.choose_encoding(headers.get("Accept-Encoding", "")),
        )


async def query(server: Server, request: web.Request) -> web.Response:
    """Evaluate at one time."""
    params = await read_params(request, server.limits)
    expr = params.get("query")
    time_ms = params.time_ms("time", now_ms())
    common = _Common.parse(params, server.limits.query_timeout_s, request.headers)
    database = server.database
    asked = _asked(request, "instant", expr, (time_ms, time_ms, 0))

    def call(timeout_s: float, cancel: threading.Event, watch: QueryWatch) -> tsengine.Result:
        return database.query(
            expr, time_ms, timeout=timeout_s, lookback=common.lookback_s, cancel=cancel,
            watch=watch, count_samples=_counts_samples(server, common),
        )  # fmt: skip

    return await _answer(server, asked, common, call)


async def query_range(server: Server, request: web.Request) -> web.Response:
    """Evaluate at steps from start to end, both included."""
    params = await read_params(request, server.limits)
    expr = params.get("query")
    start_ms = params.time_ms("start")
    end_ms = params.time_ms("end")
    step_ms = params.duration_ms("step")
    check_range(start_ms, end_ms, step_ms, server.limits.query_steps_max)
    common = _Common.parse(params, server.limits.query_timeout_s, request.headers)
    database = server.database
    asked = _asked(request, "range", expr, (start_ms, end_ms, step_ms))

    def call(timeout_s: float, cancel: threading.Event, watch: QueryWatch) -> tsengine.Result:
        return database.query_range(
            expr, start_ms, end_ms, step_ms / 1000,
            timeout=timeout_s, lookback=common.lookback_s, cancel=cancel,
            watch=watch, count_samples=_counts_samples(server, common),
        )  # fmt: skip

    return await _answer(server, asked, common, call)


def _asked(
    request: web.Request, kind: str, expr: str, start_end_step_ms: tuple[int, int, int]
) -> Asked:
    return Asked(
        kind, expr, *start_end_step_ms,
        client=request.remote or "", method=request.method, path=request.path,
    )  # fmt: skip


def _counts_samples(server: Server, common: _Common) -> bool:
    """Counting by step takes time, so only where somebody will see the counts."""
    return bool(common.stats) or server.query_log.has_file


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
    asked: Asked,
    common: _Common,
    call: Callable[[float, threading.Event, QueryWatch], tsengine.Result],
) -> web.Response:
    """Evaluate and encode in a query thread, with Prometheus's wording of refusals."""
    kind = asked.kind
    started = time.perf_counter()
    stats: dict[str, Any] | None = None
    failure: str | None = None
    with server.active_queries.entered(asked) as active:
        watch = active.watch

        def evaluate_and_encode(timeout_s: float, cancel: threading.Event) -> Body:
            nonlocal stats
            active.is_running = True
            turn = time.perf_counter()
            waited_s = common.timeout_s - timeout_s
            try:
                result = call(max(timeout_s, 0.001), cancel, watch)
                stats = _stats_of(result, waited_s, server, common)
                watch.hold(result.n_samples * ANSWER_BYTES_PER_SAMPLE)
                body = make_body(_encode(server, common, result, stats), common.encoding)
                is_large = result.n_samples * ANSWER_BYTES_PER_SAMPLE > TRIM_AT_BYTES
                del result
                if is_large:
                    give_back_free_memory()
                watch.keep(body.size if body.size > HELD_SIZE_MIN else 0)
            except BaseException:
                watch.close()
                raise
            server.telemetry.query_seconds.labels(kind).observe(time.perf_counter() - turn)
            return body

        try:
            body = await server.executor.query(evaluate_and_encode, common.timeout_s)
        except asyncio.CancelledError:
            failure = "query was canceled in query execution"
            # The thread may still run; it closes the watch of a query that fails, this the other.
            watch.abandon()
            raise
        except Exception as error:
            failure = str(error)
            # The query can't be evaluated whatever the data: Prometheus says 400 then.
            if isinstance(error, (errors.ParseError, errors.InvalidQueryType)):
                server.telemetry.query_failures.labels(kind, "bad_data").inc()
                raise BadParameter("query", str(error)) from None
            server.telemetry.query_failures.labels(kind, classify(error).error_type).inc()
            raise
        finally:
            server.query_log.note(asked, time.perf_counter() - started, stats, failure)
    headers = {"Vary": "Accept"}
    if body.encoding is not None:
        headers["Content-Encoding"] = body.encoding
    content = body.content(server.limits.answer_write_timeout_s)
    if body.size <= HELD_SIZE_MIN:
        return web.Response(body=content, content_type=common.media_type, headers=headers)
    return HeldResponse(watch, body=content, content_type=common.media_type, headers=headers)


class HeldResponse(web.Response):
    """An answer whose text is on its query's account until it is sent, however slowly."""

    def __init__(self, watch: QueryWatch, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not every answer is sent: clients go away.
        self._close_watch = weakref.finalize(self, watch.close)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send what is left."""
        try:
            await super().write_eof(data)
        finally:
            self.release()

    def release(self) -> None:
        """It is sent, or never will be."""
        # Something keeps sent answers until the next garbage collection.
        self.body = None
        self._close_watch()


@lru_cache(maxsize=64)
def choose_media(accept: str) -> str:
    """JSON, or Arrow or CSV where the client prefers them to it."""
    qualities = encode.accepted(accept)
    best = max((ARROW, CSV), key=lambda name: qualities.get(name, 0.0))
    # Wildcards don't count: who names one of ours as well means it.
    return best if qualities.get(best, 0.0) > qualities.get(JSON, 0.0) else JSON


def _encode(
    server: Server, common: _Common, result: tsengine.Result, stats: dict[str, Any]
) -> Iterable[encode.Piece]:
    """The answer in pieces, which are made when they are asked for."""
    if common.media_type == ARROW:
        if result.type == "string":
            raise NotAcceptable("a string has no Arrow form; accept application/json or text/csv")
        return (result.truncate(common.limit).to_arrow_stream(),)
    if common.media_type == CSV:
        return (result.truncate(common.limit).to_csv(),)
    warnings = list(result.warnings)
    infos = list(result.infos)
    cut = result.truncate(common.limit)
    if cut is not result:
        warnings.append("results truncated due to limit")
    data = cut.json_pieces(new_slab if common.encoding is None else None)
    if common.stats:
        if common.stats not in ("true", "all"):
            warnings.append(
                f'value "{common.stats}" for parameter "stats" is deprecated and will be rejected '
                'in the next major release, use "true" or "all"'
            )
        extension = {"plan": result.plan, **_reading_of(result)}
        data = encode.with_stats(data, {**stats, "tsengine": extension})
    return encode.success_pieces(data, warnings, infos, notes_max=server.limits.warnings_max)


def _stats_of(
    result: tsengine.Result, waited_s: float, server: Server, common: _Common
) -> dict[str, Any]:
    """What the query cost, under Prometheus's names."""
    stats = result.stats
    total_s = stats["plan_s"] + stats["evaluate_s"] + stats["finish_s"]
    samples = {
        "totalQueryableSamples": stats["n_samples_read"],
        "samplesRead": stats["n_samples_read"],
        "peakSamples": stats["n_samples_peak"],
    }
    counts = {
        "totalQueryableSamples": stats.get("samples_total_per_step"),
        "samplesRead": stats.get("samples_read_per_step"),
    }
    per_step = common.stats == "all" and feature_switches.PER_STEP_STATS in server.config.features
    for name, by_step in counts.items():
        if by_step is not None:
            samples[name] = int(by_step.sum())
            if per_step:
                pairs = zip(stats["steps_ms"].tolist(), by_step.tolist(), strict=True)
                samples[name + "PerStep"] = [[t_ms / 1000, n] for t_ms, n in pairs]
    return {
        "timings": {
            "evalTotalTime": total_s,
            "resultSortTime": stats["finish_s"],
            "queryPreparationTime": stats["plan_s"],
            "innerEvalTime": stats["evaluate_s"],
            "execQueueTime": waited_s,
            "execTotalTime": waited_s + total_s,
        },
        "samples": samples,
    }


def _reading_of(result: tsengine.Result) -> dict[str, Any]:
    """What was read, and the memory that took."""
    stats = result.stats
    return {
        "tiers": list(stats.get("tiers", ())),
        "memoryEstimatedBytes": stats.get("memory_estimated_bytes", 0),
        "memoryPeakBytes": stats.get("memory_peak_bytes", 0),
    }


async def query_exemplars(server: Server, request: web.Request) -> web.Response:
    """Exemplars of every series that the query selects; 204 for a query that selects nothing."""
    params = await read_params(request, server.limits)
    start, end = params.range_ms()
    expr = params.get("query")
    database = server.database

    def answer() -> bytes | None:
        if not database.has_selectors(expr):
            return None
        return orjson.dumps(database.query_exemplars(expr, start, end))

    try:
        body = await server.executor.metadata(answer)
    except errors.ParseError as error:
        raise BadParameter("query", str(error)) from None
    if body is None:
        return web.Response(status=204)
    return web.Response(body=encode.success(body), content_type="application/json")
