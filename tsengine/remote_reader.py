"""How samples go out to Prometheus's remote read. `Database` inherits it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tsengine.errors import MalformedRequest, QueryLimitExceeded
from tsengine.promql.literals import check_regex
from tsengine.query.engine import Engine
from tsengine.query.labelspace import LabelSpace
from tsengine.storage.database import StorageDatabase
from tsengine.storage.view import DatabaseView

if TYPE_CHECKING:
    from tsengine.interop.remote_read import ReadQuery


class RemoteReader:
    """Remote reads; any thread."""

    _storage: StorageDatabase
    _engine: Engine

    def remote_read(self, body: bytes, max_samples: int) -> bytes:
        """Answer a decompressed Prometheus remote-read request with a message of raw samples.

        See `remote_read_stream` for the other kind of answer.

        Raises
        ------
        MalformedRequest
            The body is not such a message, or does not accept SAMPLES.
        QueryLimitExceeded
            More than `max_samples` would be read.

        """
        from tsengine.interop import remote_read

        request = remote_read.parse_request(body)
        if request.accepted and remote_read.SAMPLES not in request.accepted:
            raise MalformedRequest("none of the accepted response types is served; accept SAMPLES")
        view = self._storage.view()
        found = [(_find_read(view, query), query.mint, query.maxt) for query in request.queries]
        n_samples = sum(view.count_samples(*item) for item in found)
        if n_samples > max_samples:
            raise QueryLimitExceeded(
                f"{n_samples} samples would be read, over the limit of {max_samples}"
            )
        with self._engine.holding(n_samples):
            return b"".join(remote_read.query_result(view, *item) for item in found)

    def remote_read_stream(self, body: bytes) -> Iterator[bytes] | None:
        """Answer a decompressed remote-read request with a stream of chunks, in pieces.

        None if the client prefers SAMPLES. What is read is what the database held at the call; only
        a slice of it is in memory at a time.

        Raises
        ------
        MalformedRequest
            The body is not such a message, or no response type that it accepts is served.

        """
        from tsengine.interop import read_stream, remote_read

        request = remote_read.parse_request(body)
        if request.response_type() == remote_read.SAMPLES:
            return None
        view = self._storage.view()
        space = LabelSpace(view.dictionary)
        found = [_find_read(view, query) for query in request.queries]

        def stream() -> Iterator[bytes]:
            for k, (query, refs) in enumerate(zip(request.queries, found, strict=True)):
                refs = refs[space.sort_order(view.labels(refs))]
                yield from read_stream.stream_query(view, refs, query.mint, query.maxt, k)

        return stream()


def _find_read(view: DatabaseView, query: ReadQuery) -> npt.NDArray[np.uint32]:
    """Series that a remote read asks for; raises MalformedRequest."""
    for matcher in query.matchers:
        problem = check_regex(matcher.value) if matcher.op.value in ("=~", "!~") else None
        if problem is not None:
            raise MalformedRequest(problem)
    return view.find(query.matchers, query.mint, query.maxt)
