"""/api/v1/search/metric_names, /label_names, /label_values: texts that match search terms.

Answers are lines of JSON: batches of results and, in the end, a trailer or an error. What is found
is chosen in a thread before the first line is sent, so that most errors still have a status; lines
are made while earlier ones are sent. Held are the wanted results, not all that match.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import payload, web
from aiohttp.abc import AbstractStreamWriter

from tsengine import errors

from .. import feature_switches
from ..errors import BadRequest, Unavailable, classify, is_foreseen, message_of
from ..logs import LOGGER
from ..times import MS_MAX, now_ms, parse_time_ms
from . import encode, fuzzy
from .params import Params, read_params
from .pieces import PIECE_SIZE, PiecesPayload

if TYPE_CHECKING:
    from ..limits import ServerLimits
    from ..state import Server

Check = Callable[[], None]
Match = tuple[float, str]
"""Score and text."""

TextsOf = Callable[[Check], Iterable[list[str]]]
RecordOf = Callable[[float, str], dict[str, Any]]

CONTENT_TYPE = "application/x-ndjson; charset=utf-8"
_RANGE_MS = 3_600_000
_COUNT = 100
_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_SPARE = 4096
"""Matches held beyond the wanted ones until the worst of them are dropped."""


@dataclass(frozen=True, slots=True)
class Search:
    """What all three calls may be asked for."""

    selectors: tuple[str, ...]
    start_ms: int
    end_ms: int
    terms: tuple[str, ...]
    threshold: float
    algorithm: str
    case_sensitive: bool
    include_score: bool
    by_score: bool
    descending: bool
    limit: int
    batch_size: int


async def metric_names(server: Server, request: web.Request) -> web.Response:
    """Names of metrics; with ``include_metadata`` their type, help and unit."""
    params, search = await _read(server, request, "metric_names")
    with_metadata = _boolean(params, "include_metadata", default=False)
    database = server.database

    def texts(check: Check) -> Iterable[list[str]]:
        return database.label_value_batches(
            "__name__", search.selectors, search.start_ms, search.end_ms, check=check
        )

    def record(score: float, text: str) -> dict[str, Any]:
        found = _record("name", search, score, text)
        if with_metadata:
            for entry in database.metadata(text).get(text, ())[:1]:
                found.update((key, entry[key]) for key in ("type", "help", "unit") if entry[key])
        return found

    return await _answer(server, params, search, texts, record)


async def label_names(server: Server, request: web.Request) -> web.Response:
    """Names of labels."""
    params, search = await _read(server, request, "label_names")
    database = server.database

    def texts(check: Check) -> Iterable[list[str]]:
        yield database.label_names(
            search.selectors, search.start_ms, search.end_ms, check=check
        )[0]  # fmt: skip

    def record(score: float, text: str) -> dict[str, Any]:
        return _record("name", search, score, text)

    return await _answer(server, params, search, texts, record)


async def label_values(server: Server, request: web.Request) -> web.Response:
    """Values of one label, which ``label`` names."""
    params, search = await _read(server, request, "label_values")
    label = params.get("label")
    if not label:
        raise BadRequest('missing required parameter "label"')
    database = server.database

    def texts(check: Check) -> Iterable[list[str]]:
        return database.label_value_batches(
            label, search.selectors, search.start_ms, search.end_ms, check=check
        )

    def record(score: float, text: str) -> dict[str, Any]:
        return _record("value", search, score, text)

    return await _answer(server, params, search, texts, record)


def _record(key: str, search: Search, score: float, text: str) -> dict[str, Any]:
    if not search.include_score:
        return {key: text}
    return {key: text, "score": int(score) if score.is_integer() else score}


async def _read(server: Server, request: web.Request, call: str) -> tuple[Params, Search]:
    if feature_switches.SEARCH_API not in server.config.features:
        raise Unavailable("search API disabled")
    params = await read_params(request, server.limits)
    return params, parse_search(params, call, server.limits)


def parse_search(params: Params, call: str, limits: ServerLimits) -> Search:
    """The common parameters of a call; raises BadRequest for the first that is wrong."""
    now = now_ms()
    start_ms = _time_ms(params, "start", now - _RANGE_MS)
    end_ms = _time_ms(params, "end", now)
    if end_ms < start_ms:
        raise BadRequest("end timestamp must not be before start timestamp")
    terms = params.all("search[]")
    if len(terms) > limits.search_terms_max:
        raise BadRequest(
            f"too many search[] terms: got {len(terms)}, maximum is {limits.search_terms_max}"
        )
    threshold = _integer(params, "fuzz_threshold", 0, "0-100")
    if not 0 <= threshold <= 100:
        _refuse(params, "fuzz_threshold", "0-100")
    algorithm = params.get("fuzz_alg") or fuzzy.ALGORITHMS[0]
    if algorithm not in fuzzy.ALGORITHMS:
        known = " ".join(fuzzy.ALGORITHMS)
        raise BadRequest(f'unsupported fuzz_alg "{algorithm}": must be one of [{known}]')
    case_sensitive = _boolean(params, "case_sensitive", default=True)
    include_score = _boolean(params, "include_score", default=False)
    sort_by, descending = _order(params, call, has_terms=bool(terms))
    limit = _limit(params, limits.search_results_max)
    batch_size = _integer(params, "batch_size", _COUNT, "a positive integer")
    if batch_size <= 0:
        _refuse(params, "batch_size", "a positive integer")
    return Search(
        selectors=tuple(params.all("match[]")),
        start_ms=start_ms,
        end_ms=end_ms,
        terms=tuple(terms),
        threshold=threshold / 100.0,
        algorithm=algorithm,
        case_sensitive=case_sensitive,
        include_score=include_score,
        by_score=sort_by == "score",
        descending=descending,
        limit=limit,
        batch_size=batch_size,
    )


def _time_ms(params: Params, name: str, default: int) -> int:
    text = params.get(name)
    value = parse_time_ms(text) if text else default
    if value is None:
        raise BadRequest(
            f"invalid time value for '{name}': cannot parse \"{text}\" to a valid timestamp"
        )
    return value


def _order(params: Params, call: str, *, has_terms: bool) -> tuple[str, bool]:
    """``sort_by``, and whether ``sort_dir`` asks for the last texts first."""
    by, direction = params.get("sort_by"), params.get("sort_dir")
    if direction and not by:
        raise BadRequest("sort_dir is only valid when sort_by is set")
    if direction and by == "score":
        raise BadRequest("sort_dir is not supported for sort_by=score")
    if direction not in ("", "asc", "dsc"):
        raise BadRequest(f'invalid sort_dir "{direction}": must be "asc" or "dsc"')
    if by == "score" and not has_terms:
        raise BadRequest("sort_by=score requires search[] to be set")
    if by not in ("", "alpha", "score"):
        raise BadRequest(f'invalid sort_by "{by}" for {call}: must be "alpha" or "score"')
    return by, direction == "dsc"


def _limit(params: Params, limit_max: int) -> int:
    default = min(_COUNT, limit_max) if limit_max else _COUNT
    limit = _integer(params, "limit", default, "a positive integer")
    if limit <= 0:
        _refuse(params, "limit", "a positive integer")
    if limit_max and limit > limit_max:
        raise BadRequest(
            f"limit {limit} exceeds the configured maximum "
            f"({limit_max}, see --web.search.max-limit)"
        )
    return limit


def _integer(params: Params, name: str, default: int, wanted: str) -> int:
    text = params.get(name)
    if not text:
        return default
    if not _INTEGER.fullmatch(text) or abs(int(text)) > MS_MAX:
        _refuse(params, name, wanted)
    return int(text)


def _boolean(params: Params, name: str, *, default: bool) -> bool:
    text = params.get(name)
    if not text:
        return default
    if text not in _TRUE and text not in _FALSE:
        _refuse(params, name, "boolean")
    return text in _TRUE


def _refuse(params: Params, name: str, wanted: str) -> NoReturn:
    raise BadRequest(f'invalid {name} "{params.get(name)}": must be {wanted}')


def find_matches(search: Search, batches: Iterable[list[str]], check: Check) -> list[Match]:
    """What to answer, in order, and one match more if there is one.

    Parameters
    ----------
    batches
        Each text once, in any order.
    check
        Called for each batch and now and then within; raises to give up.

    """
    score = fuzzy.make_score(
        search.terms, search.algorithm, search.threshold,
        case_sensitive=search.case_sensitive, check=check,
    )  # fmt: skip
    wanted = search.limit + 1
    kept: list[Match] = []
    bound: str | None = None
    for batch in batches:
        check()
        texts = batch
        if bound is not None and not search.by_score:
            # Those that would come after all that are kept need no score.
            worst = bound
            texts = [text for text in batch if (text > worst) == search.descending]
        if score is None:
            kept += [(1.0, text) for text in texts]
        else:
            kept += [(found, text) for text in texts if (found := score(text)) > 0.0]
        if len(kept) > wanted + _SPARE:
            kept = _first(search, kept, wanted)
            bound = kept[-1][1]
    return _first(search, kept, wanted)


def _first(search: Search, matches: list[Match], count: int) -> list[Match]:
    if search.by_score:
        matches.sort(key=lambda match: (-match[0], match[1]))
    else:
        matches.sort(key=itemgetter(1), reverse=search.descending)
    return matches[:count]


class Lines:
    """The lines of one answer, a few at a time. Used by one thread after the other."""

    def __init__(self, search: Search, matches: list[Match], record: RecordOf) -> None:
        self._matches = matches[: search.limit]
        self._has_more = len(matches) > search.limit
        self._batch_size = search.batch_size
        self._record = record
        self._at = 0
        self.is_done = False

    def take(self) -> bytes:
        """Whole lines, about PIECE_SIZE bytes of them or all that are left."""
        lines: list[bytes] = []
        size = 0
        while not self.is_done and size < PIECE_SIZE:
            lines.append(self._line())
            size += len(lines[-1])
        return b"".join(lines)

    def _line(self) -> bytes:
        if self._at and self._at >= len(self._matches):
            self.is_done = True
            return _json_line({"status": "success", "has_more": self._has_more})
        batch = self._matches[self._at : self._at + self._batch_size]
        # Even no result at all makes one batch.
        self._at += max(len(batch), 1)
        return _json_line({"results": [self._record(*match) for match in batch]})


def _json_line(value: dict[str, Any]) -> bytes:
    return encode.plain(value) + b"\n"


async def _answer(
    server: Server, params: Params, search: Search, texts: TextsOf, record: RecordOf
) -> web.Response:
    timeout_s = server.limits.query_timeout_s
    if params.get("timeout"):
        timeout_s = min(timeout_s, params.duration_ms("timeout") / 1000)
    deadline = time.monotonic() + timeout_s

    def begin(check: Check) -> tuple[bytes, Lines]:
        lines = Lines(search, find_matches(search, texts(check), check), record)
        return lines.take(), lines

    try:
        first, lines = await server.executor.search(begin, timeout_s)
    except (errors.QueryLimitExceeded, errors.QueryTimeout, errors.QueryCanceled):
        raise
    except errors.QueryError as error:  # A selector's syntax, regex or lack of a matcher.
        raise BadRequest(str(error)) from None
    body = LinesPayload(server, first, lines, deadline)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


class LinesPayload(payload.Payload):
    """A body whose lines are made while earlier ones are sent.

    Parameters
    ----------
    server
        Whose threads make them.
    first
        The first lines.
    lines
        Makes the others.
    deadline
        Of ``time.monotonic()``; lines that are made later become a line with an error.

    """

    def __init__(self, server: Server, first: bytes, lines: Lines, deadline: float) -> None:
        super().__init__(first)
        self._server = server
        self._lines = lines
        self._deadline = deadline

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The first lines as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send everything; raises ConnectionResetError when the client is too slow."""
        piece = self._value
        while True:
            # A large piece is cut there, and a slow client too.
            part = PiecesPayload([piece], self._server.limits.answer_write_timeout_s)
            await part.write(writer)
            if self._lines.is_done:
                return
            piece = await self._next_piece()

    async def _next_piece(self) -> bytes:
        """The next lines, or a last one that says what went wrong."""

        def take(check: Check) -> bytes:
            return self._lines.take()

        try:
            return await self._server.executor.search(take, self._deadline - time.monotonic())
        except Exception as error:  # A request border: the status is sent already.
            if not is_foreseen(error):
                LOGGER.exception("a search failed midway")
            self._lines.is_done = True
            kind = classify(error).error_type
            text = message_of(error).encode("utf-8", "replace").decode()
            return _json_line({"status": "error", "errorType": kind, "error": text})
