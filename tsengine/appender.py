"""How samples come in: users' arrays made into columns. `Database` inherits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tsengine.model.histogram_checks import check_histograms
from tsengine.model.histogram_values import NativeHistogram, from_list
from tsengine.model.histograms import Histograms, handles
from tsengine.model.metadata import MetadataEntry
from tsengine.model.times import times_to_ms
from tsengine.storage.append_outcome import AppendOutcome
from tsengine.storage.catalog import Reject
from tsengine.storage.database import StorageDatabase


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a remote-write body.

    Parameters
    ----------
    samples, histograms, exemplars
        Stored. Staleness markers of histograms count as histograms.
    rejected
        What was refused, by series and reason; all else is stored.
    shed
        How many of the refused series are new ones over a limit of series or memory; they may be
        taken later.
    shed_reason
        Why they are refused, and who brought the last new series.

    """

    samples: int
    histograms: int
    exemplars: int
    rejected: list[Reject]
    shed: int = 0
    shed_reason: str = ""


class Appender:
    """Appends; any thread. Each returns when its samples are durable and visible."""

    _storage: StorageDatabase

    def append(
        self,
        labels: Mapping[str, str],
        timestamps: Any,
        values: Any,
        start_timestamps: Any = None,
    ) -> None:
        """Store samples of one series; returns after the fsync.

        Parameters
        ----------
        labels
            With ``__name__``; an empty value is the same as no label.
        timestamps
            N times: integers are ms, floats s, datetime64 and datetimes themselves.
        values
            N numbers; NaN payloads are kept to the bit (of those with the upper 16 bits 0x7FFC all
            but one).
        start_timestamps
            When the counters began to count: N times, 0 where unknown.

        Raises
        ------
        InvalidLabels, TooOldSample, TooFarInFuture
            Nothing or, for the last two, only the samples in range are stored.

        """
        t_ms = times_to_ms(timestamps)
        bits = _to_bits(values)
        _check_lengths(timestamps=t_ms, values=bits)
        start_ms = _to_starts(start_timestamps, len(t_ms))
        with self._storage.refs_in_use([labels]) as ref:
            refs = np.full(len(t_ms), ref[0], np.uint32)
            outcome = self._storage.append_columns(refs, t_ms, bits, start_ms=start_ms)
        outcome.raise_rejects()

    def append_histograms(
        self,
        labels: Mapping[str, str],
        timestamps: Any,
        histograms: Histograms | Sequence[NativeHistogram],
        start_timestamps: Any = None,
    ) -> None:
        """Store native histograms of one series; returns after the fsync.

        Parameters
        ----------
        labels, timestamps, start_timestamps
            As in `append`.
        histograms
            N of them, one by one or as a table. One whose sum is Prometheus's staleness marker is
            stored as that marker.

        Raises
        ------
        ValueError
            A histogram is invalid; nothing is stored.
        InvalidLabels, TooOldSample, TooFarInFuture
            As in `append`.

        """
        table = histograms if isinstance(histograms, Histograms) else from_list(histograms)
        t_ms = times_to_ms(timestamps)
        bits = handles(np.arange(len(table)))
        _check_lengths(timestamps=t_ms, histograms=bits)
        start_ms = _to_starts(start_timestamps, len(t_ms))
        check_histograms(table)
        with self._storage.refs_in_use([labels]) as ref:
            refs = np.full(len(t_ms), ref[0], np.uint32)
            outcome = self._storage.append_columns(
                refs, t_ms, bits, histograms=table, start_ms=start_ms
            )
        outcome.raise_rejects()

    def series_refs(self, label_sets: Sequence[Mapping[str, str]]) -> npt.NDArray[np.uint32]:
        """Numbers of series for `append_columns`: u32[S], valid while the database is open.

        Raises
        ------
        InvalidLabels, AppendLimitExceeded

        """
        return self._storage.series_refs(label_sets)

    def append_columns(
        self,
        refs: Any,
        timestamps_ms: Any,
        values: Any,
        histograms: Histograms | None = None,
        start_timestamps_ms: Any = None,
    ) -> None:
        """Store N samples of any series in any order; returns after the fsync.

        Parameters
        ----------
        refs
            u32[N] of `series_refs`.
        timestamps_ms
            i64[N].
        values
            f64[N]; of two samples with one series and time the later row stays.
        histograms
            The table of the handles among the values, if there are any.
        start_timestamps_ms
            i64[N], 0 where unknown.

        Raises
        ------
        ValueError
            Arrays of different lengths, a ref that this database did not give out, or a table that
            is not in normal form.
        TooOldSample, TooFarInFuture
            Samples out of range; the others are stored.

        """
        refs = _to_refs(refs)
        t_ms = times_to_ms(timestamps_ms)
        bits = _to_bits(values)
        _check_lengths(refs=refs, timestamps_ms=t_ms, values=bits)
        start_ms = _to_starts(start_timestamps_ms, len(t_ms))
        self._storage.append_columns(
            refs, t_ms, bits, histograms=histograms, start_ms=start_ms
        ).raise_rejects()

    def append_remote_write(
        self, body: bytes | memoryview, version: int = 1, sender: str = ""
    ) -> WriteResult:
        """Store a decompressed Prometheus remote-write request; returns after the fsync.

        Parameters
        ----------
        version
            1 for ``prometheus.WriteRequest``, 2 for ``io.prometheus.write.v2.Request``.
        sender
            Who sends; requests of one sender usually repeat the same series in the same order,
            which makes them cheaper.

        Raises
        ------
        MalformedRequest
            The body is not such a message; nothing is stored.
        Overloaded, Full
            Not stored; try again later.

        """
        _check_version(version)
        outcome = self._storage.append_remote_write(body, version=version, sender=sender)
        return self._write_result(outcome)

    def submit_remote_write(
        self,
        body: bytes | memoryview,
        on_done: Callable[[WriteResult, BaseException | None], None],
        *,
        version: int = 1,
        sender: str = "",
        waited: float = 0.0,
    ) -> None:
        """As `append_remote_write`, but it does not wait for the fsync.

        Parameters
        ----------
        body
            Not kept: its memory may be used again when this returns.
        on_done
            Called once, if nothing is raised: when all is durable and visible, or with the error
            because of which nothing is. In a thread that has more to do, one of the database's or
            that of a caller of `writes_together`, so it must be short and must not raise; or in
            this thread before this returns.
        waited
            Seconds that the body has waited already: it waits so much less while the database takes
            no more.

        """
        _check_version(version)

        def tell(outcome: AppendOutcome, error: BaseException | None) -> None:
            try:
                result = self._write_result(outcome)
            except Exception as failure:  # Who waits must be told.
                result, error = WriteResult(0, 0, 0, []), failure
            on_done(result, error)

        self._storage.submit_remote_write(
            body,
            version=version,
            sender=sender,
            waited_s=waited,
            on_done=tell,
        )

    def writes_together(self) -> AbstractContextManager[None]:
        """Let what is submitted inside share an fsync: none of it begins before the end.

        For writes that are there already. Submitting, or ``on_done``, tells what is wrong, this
        does not. Inside, this thread only submits: it may hold what any other call of it waits for.
        At the end it may do the log's work, the fsync included.
        """
        return self._storage.writes_together()

    def _write_result(self, outcome: AppendOutcome) -> WriteResult:
        return WriteResult(
            outcome.n_samples,
            outcome.n_histograms,
            outcome.n_exemplars,
            list(outcome.rejected),
            shed=outcome.n_shed,
            shed_reason=self._storage.shed_reason() if outcome.n_shed else "",
        )

    def append_metadata(self, metric: str, type: str, help: str = "", unit: str = "") -> None:
        """Store the type, help text and unit of a metric; returns after the fsync."""
        self._storage.append_metadata([MetadataEntry(metric, type, help, unit)])


def _check_version(version: int) -> None:
    if version not in (1, 2):
        raise ValueError(f"version must be 1 or 2, got {version!r}")


def _to_bits(values: Any) -> npt.NDArray[np.uint64]:
    array = np.ascontiguousarray(values, dtype=np.float64)
    if array.ndim == 0:
        array = array.reshape(1)
    return array.view(np.uint64)


def _to_starts(start_timestamps: Any, n: int) -> npt.NDArray[np.int64] | None:
    """Start timestamps in ms, None if none is known."""
    if start_timestamps is None:
        return None
    start_ms = times_to_ms(start_timestamps)
    if len(start_ms) != n:
        raise ValueError(f"there are {len(start_ms)} start timestamps for {n} samples")
    return start_ms if start_ms.any() else None


def _to_refs(refs: Any) -> npt.NDArray[np.uint32]:
    array = np.asarray(refs)
    if array.dtype == np.uint32:
        return np.ascontiguousarray(array)
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= 1 << 32):
        raise ValueError("refs must be numbers given out by series_refs")
    return array.astype(np.uint32)


def _check_lengths(**arrays: npt.NDArray[Any]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays must have one length, got {lengths}")
