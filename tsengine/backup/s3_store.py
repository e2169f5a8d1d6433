"""Objects of an S3-compatible store, through `obstore`.

Credentials and region come from where AWS's own tools look (environment, instance, web identity);
obstore finds them. Requests that fail by the network or the server's fault are sent again by
it, with pauses that grow; what still fails becomes StoreUnavailable.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tsengine.backup.store import StoredObject, StoreOptions
from tsengine.errors import StorageError, StoreUnavailable

_PIECE_BYTES = 4 << 20
_MULTIPART_BYTES = 8 << 20
_CONNECT_TIMEOUT_S = 5.0
_DELETE_AT_ONCE = 1000
_FIRST_PAUSE_S = 0.2


class _AnswerLost(StoreUnavailable):
    """No answer came: the request may have had its effect."""


class S3Objects:
    """See `ObjectStore`."""

    n_parallel = 8

    def __init__(self, bucket: str, prefix: str, options: StoreOptions) -> None:
        try:
            import obstore
            import obstore.exceptions
            from obstore.store import S3Store
        except ImportError:
            raise StorageError(
                "object storage needs the package obstore; run: pip install 'tsengine[s3]'"
            ) from None
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._obstore: Any = obstore
        self._options = options
        endpoint = options.endpoint_url
        with self._errors("opening it"):
            self._store: Any = S3Store(
                bucket,
                prefix=prefix or None,
                client_options={
                    "timeout": timedelta(seconds=options.timeout_s),
                    "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
                    # The endpoint's scheme decides, also where it comes from the environment.
                    "allow_http": True,
                },
                retry_config={
                    "max_retries": options.retries_max,
                    "retry_timeout": timedelta(seconds=options.retry_timeout_s),
                },
                **({} if endpoint is None else {"endpoint": endpoint}),
            )

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.create`."""
        deadline_s = time.monotonic() + self._options.retry_timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self._errors(f"writing {key}"):
                    self._obstore.put(self._store, key, data, mode="create")
            except FileExistsError:
                # Perhaps by this very call: an answer was lost and it was sent again.
                return self.read(key) == data
            except _AnswerLost:
                # obstore does not send a conditional request again, since it can't tell whose
                # the object is then. We can.
                if time.monotonic() + pause_s > deadline_s:
                    raise
            else:
                return True
            time.sleep(pause_s)
            pause_s *= 2

    def replace(self, key: str, data: bytes) -> None:
        """See `ObjectStore.replace`."""
        with self._errors(f"writing {key}"):
            self._obstore.put(self._store, key, data)

    def upload(self, key: str, path: str) -> None:
        """See `ObjectStore.upload`."""
        with self._errors(f"writing {key}"):
            # Large files go in pieces; they are there when the last one is.
            self._obstore.put(self._store, key, Path(path), chunk_size=_MULTIPART_BYTES)

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        with self._errors(f"reading {key}", is_read=True):
            return bytes(self._obstore.get(self._store, key).bytes())

    def read_range(self, key: str, offset: int, size: int) -> bytes:
        """See `ObjectStore.read_range`."""
        if size == 0:
            return b""
        with self._errors(f"reading {key}", is_read=True):
            return bytes(self._obstore.get_range(self._store, key, start=offset, length=size))

    def stream(self, key: str) -> Iterator[bytes]:
        """See `ObjectStore.stream`."""
        with self._errors(f"reading {key}", is_read=True):
            for piece in self._obstore.get(self._store, key).stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    def list(self, prefix: str) -> list[StoredObject]:
        """See `ObjectStore.list`."""
        found = []
        with self._errors(f"listing {prefix}"):
            for page in self._obstore.list(self._store, prefix):
                for item in page:
                    modified_ms = round(item["last_modified"].timestamp() * 1000)
                    found.append(StoredObject(item["path"], item["size"], modified_ms))
        return sorted(found, key=lambda item: item.key)

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""
        with self._errors("removing objects"):
            for start in range(0, len(keys), _DELETE_AT_ONCE):
                self._obstore.delete(self._store, list(keys[start : start + _DELETE_AT_ONCE]))

    def remove_unfinished(self, before_ms: int) -> None:
        """See `ObjectStore.remove_unfinished`: here a rule of the bucket must do that."""

    @contextlib.contextmanager
    def _errors(self, doing: str, *, is_read: bool = False) -> Iterator[None]:
        kinds = self._obstore.exceptions
        try:
            yield
        except FileNotFoundError as error:
            if is_read:
                raise
            # Nothing but the bucket can be missing.
            raise StoreUnavailable(f"{self.url}: {doing}: {_first(error)}") from error
        except kinds.AlreadyExistsError as error:
            raise FileExistsError(str(error)) from error
        except kinds.BaseError as error:
            text = _first(error)
            denied = isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError)
            if denied or "403 Forbidden" in text or "401 Unauthorized" in text:
                raise StoreUnavailable(f"{self.url}: {doing}: access denied: {text}") from error
            if "HTTP error" in text:
                raise _AnswerLost(f"{self.url}: {doing}: {text}") from error
            raise StoreUnavailable(f"{self.url}: {doing}: {text}") from error


def _first(error: BaseException) -> str:
    """The message without what obstore adds for its own developers."""
    return str(error).partition("\n\nDebug source")[0].strip()
