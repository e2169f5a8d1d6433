"""Every exception the library raises.

TsengineError
├── OptionsError                 an option's value is out of its range
├── QueryError                   the query was refused or failed
│   ├── ParseError               syntax or type error in PromQL, with a position
│   ├── InvalidQueryType         its type can't be evaluated this way, whatever the data
│   ├── QueryLimitExceeded       samples, steps, memory or output over a limit
│   ├── QueryTimeout
│   └── QueryCanceled
├── AppendError                  data was refused (nothing of it is stored)
│   ├── InvalidLabels
│   ├── TooOldSample
│   ├── TooFarInFuture
│   ├── MalformedRequest         bytes that are not the message they claim to be
│   ├── AppendLimitExceeded      too many new series, too large a request
│   └── Overloaded               the write queue is full; try again later
└── StorageError
    ├── CorruptionError          a checksum or an invariant does not hold (path, offset)
    ├── UnsupportedFormat        written by a newer version
    ├── Closed                   the database was closed, or its process forked
    ├── Locked                   another process writes this directory
    ├── ReadOnly                 a write on a database opened with read_only=True
    ├── Full                     disk full or failing; nothing was acknowledged
    └── StoreUnavailable         an object store is away, refuses or fails
        └── ObjectMissing        it answers, but has no such object, or no such bucket
"""

from __future__ import annotations


class TsengineError(Exception):
    """Root of all errors raised on purpose by tsengine."""


class OptionsError(TsengineError, ValueError):
    """An option's value is out of its range."""


class QueryError(TsengineError):
    """A query was refused or failed while it ran."""


class ParseError(QueryError, ValueError):
    """A PromQL text is not valid.

    Parameters
    ----------
    message
        Prometheus's wording, without position.
    line, column
        1-based; the column counts bytes of UTF-8. ``str(error)`` is
        ``"{line}:{column}: parse error: {message}"``.

    """

    def __init__(self, message: str, *, line: int = 1, column: int = 1) -> None:
        super().__init__(f"{line}:{column}: parse error: {message}")
        self.message = message
        self.line = line
        self.column = column


class InvalidQueryType(QueryError, ValueError):
    """A query of this type can't be evaluated this way, whatever the data."""


class QueryLimitExceeded(QueryError):
    """The query needs more samples, steps, memory or output than allowed."""


class QueryTimeout(QueryError):
    """The query ran longer than its deadline."""


class QueryCanceled(QueryError):
    """The caller gave the query up."""


class AppendError(TsengineError):
    """Data was refused; nothing of the refused item is stored."""


class InvalidLabels(AppendError, ValueError):
    """A label set breaks a rule; the text names the series and the rule."""


class TooOldSample(AppendError, ValueError):
    """A sample is older than the retention."""


class TooFarInFuture(AppendError, ValueError):
    """A sample is more than 10 minutes ahead of the clock."""


class MalformedRequest(AppendError, ValueError):
    """Bytes are not the message they claim to be; the text says where they break."""


class AppendLimitExceeded(AppendError):
    """A request is too large or would make too many new series."""


class Overloaded(AppendError):
    """The write queue is full; the same request may succeed later."""


class StorageError(TsengineError):
    """The data directory can't serve the call."""


class CorruptionError(StorageError):
    """Stored bytes break a checksum or an invariant.

    Parameters
    ----------
    reason
        What does not hold.
    path
        The file's name, or None for bytes that come from no file.
    offset
        Byte position inside the file, or None when the whole file is meant.

    """

    def __init__(self, reason: str, *, path: str | None = None, offset: int | None = None) -> None:
        where = "" if path is None else f"{path}: "
        at = "" if offset is None else f" at byte {offset}"
        super().__init__(f"{where}{reason}{at}")
        self.reason = reason
        self.path = path
        self.offset = offset


class UnsupportedFormat(StorageError):
    """The directory was written by a newer version of tsengine."""


class Closed(StorageError):
    """The database is closed, or this process was forked from the one that opened it."""


class Locked(StorageError):
    """Another process has the directory open for writing."""


class ReadOnly(StorageError):
    """A write on a database opened with ``read_only=True``."""


class Full(StorageError):
    """The disk is full or failing; nothing of the write was acknowledged."""


class StoreUnavailable(StorageError):
    """An object store can't be reached, refuses the caller or fails; the text says which.

    Parameters
    ----------
    path
        URL of the object that was wanted, or None.

    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ObjectMissing(StoreUnavailable):
    """An object that is needed, or its bucket, is not in the store."""
