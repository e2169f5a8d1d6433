"""Exceptions to HTTP answers: the only place that knows which error has which status.

API paths answer Prometheus's JSON (`{"status":"error","errorType":...,"error":...}`), everything
else plain text.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from aiohttp import web

from tsengine import errors

from .api.encode import escape_html
from .limits import ByteBudget


class RequestError(Exception):
    """A request that can't be answered, with the status and Prometheus's error type."""

    status = 400
    error_type = "bad_data"

    def __init__(self, message: str) -> None:
        super().__init__(message)


class BadRequest(RequestError):
    """Missing or malformed parameters."""


class BadParameter(BadRequest):
    """One parameter is malformed; the text names it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f'invalid parameter "{name}": {message}')


class TooManyQueries(RequestError):
    """More queries wait than the server is willing to remember."""

    status = 503
    error_type = "unavailable"


class Unavailable(RequestError):
    """The endpoint is switched off (Prometheus answers these with 500)."""

    status = 500
    error_type = "unavailable"


class NotReady(RequestError):
    """The database is not open yet, or closed already."""

    status = 503
    error_type = "unavailable"


class NotAcceptable(RequestError):
    """The answer has no form that the client accepts."""

    status = 406
    error_type = "not_acceptable"


class BodyTooLarge(RequestError):
    """A request body is over its limit."""

    status = 413


class BodyTimeout(RequestError):
    """The client took too long to send its body."""

    status = 408


class UnsupportedMedia(RequestError):
    """Content-Type or Content-Encoding of a write is none that is understood."""

    status = 415


class TooManySeries(RequestError):
    """New series are refused for now; the samples of all others are stored."""

    status = 429
    error_type = "execution"


class TooBusy(RequestError):
    """The server holds as many requests as it may; the same request may succeed later."""

    status = 503
    error_type = "unavailable"

    @classmethod
    def of(cls, budget: ByteBudget) -> TooBusy:
        """The requests in flight leave no room."""
        return cls(
            f"requests in flight already hold {budget.used} of {budget.size_max} bytes; try again"
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """What an exception becomes on the wire."""

    status: int
    error_type: str
    retry: bool = False
    """Whether a Retry-After header invites the same request again."""


# The first class that fits wins, so subclasses stand before their bases.
_TABLE: tuple[tuple[type[BaseException], Failure], ...] = (
    (errors.ParseError, Failure(400, "bad_data")),
    (errors.InvalidQueryType, Failure(400, "bad_data")),
    (errors.QueryLimitExceeded, Failure(422, "execution")),
    (errors.QueryTimeout, Failure(503, "timeout")),
    (errors.QueryCanceled, Failure(499, "canceled")),
    (errors.QueryError, Failure(422, "execution")),
    (errors.Overloaded, Failure(503, "unavailable", retry=True)),
    (errors.AppendLimitExceeded, Failure(429, "execution", retry=True)),
    (errors.AppendError, Failure(400, "bad_data")),
    (errors.OptionsError, Failure(400, "bad_data")),
    (errors.Full, Failure(503, "unavailable", retry=True)),
    (errors.StoreUnavailable, Failure(503, "unavailable", retry=True)),
    (errors.Closed, Failure(503, "unavailable", retry=True)),
    (errors.ReadOnly, Failure(500, "unavailable")),
    (errors.StorageError, Failure(500, "internal")),
)


def classify(error: BaseException) -> Failure:
    """Status and type of an exception; 500 internal for one that nobody foresaw."""
    if isinstance(error, RequestError):
        return Failure(error.status, error.error_type, retry=error.status in (429, 503))
    for kind, failure in _TABLE:
        if isinstance(error, kind):
            return failure
    return Failure(500, "internal")


def is_foreseen(error: BaseException) -> bool:
    """Whether the client caused the error, or at least whether its cause is in the text."""
    return isinstance(error, (RequestError, errors.TsengineError))


def message_of(error: BaseException) -> str:
    """Text for the client. An unforeseen error shows its kind, not its inside."""
    if is_foreseen(error):
        return str(error)
    return f"internal error ({type(error).__name__}); the server's log has the details"


def json_response(error: BaseException, retry_after_s: int) -> web.Response:
    """Prometheus's error answer."""
    failure = classify(error)
    body = orjson.dumps(
        {"status": "error", "errorType": failure.error_type, "error": _printable(error)}
    )
    response = web.Response(
        status=failure.status, body=escape_html(body), content_type="application/json"
    )
    if failure.retry:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def text_response(error: BaseException, retry_after_s: int) -> web.Response:
    """Plain text answer, for writes and for paths outside the API."""
    failure = classify(error)
    response = web.Response(status=failure.status, text=_printable(error) + "\n")
    if failure.retry:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def not_ready_response(error: NotReady, retry_after_s: int) -> web.Response:
    """Answer of every path before the start is complete and after the end began."""
    text = f"Service Unavailable: {error}\n"
    return web.Response(status=503, text=text, headers={"Retry-After": str(retry_after_s)})


def _printable(error: BaseException) -> str:
    """The message with lone surrogates replaced: they can't be sent as UTF-8."""
    return message_of(error).encode("utf-8", "replace").decode()
