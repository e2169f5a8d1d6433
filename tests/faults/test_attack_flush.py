"""A disk that fails at any call of a flush with histograms, starts and exemplars, then heals."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from tests.faults.filesystem import FaultyFileSystem
from tests.reference import remote_write as wire
from tests.reference.histogramscan import Message, encode
from tests.reference.rich_samples import model_of
from tsengine.errors import TsengineError
from tsengine.options import Options
from tsengine.storage.database import StorageDatabase
from tsengine.storage.select import read_columns

T0 = 1_700_000_000_000
KINDS = ("write", "write_file", "datasync", "sync_dir", "rename", "mkdir", "create", "open_append")


def body(first: int) -> bytes:
    times = [T0 + 1000 * k for k in range(first, first + 10)]
    histograms = [
        encode(
            Message(count=k, schema=1, t_ms=t, positive_spans=[(0, 1)], positive=[k], start_ms=T0)
        )
        for k, t in enumerate(times, 1)
    ]
    exemplars = [wire.Exemplar([(b"id", b"%d" % t)], t, wire.bits_of(1.0)) for t in times]
    floats = wire.Series(
        [(b"__name__", b"f")], [(t, wire.bits_of(2.0)) for t in times], exemplars=exemplars,
        starts=[T0 - 1] * 10,
    )  # fmt: skip
    native = wire.Series([(b"__name__", b"h")], histograms=histograms)
    return wire.encode_v2([floats, native])


def content(db: StorageDatabase):
    view = db.view()
    refs = np.arange(2, dtype=np.uint32)
    columns = read_columns(view._parts, view._heads, refs, -(2**63), 2**63 - 1, with_start=True)
    exemplars = db.exemplars.view().find(refs, -(2**62), 2**62)
    return model_of(columns), exemplars.t_ms.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["enospc", "once", "power cut"])
def test_a_flush_may_fail_anywhere(tmp_path, kind, how):
    options = Options(future_limit=None, retention=None)
    expected = None
    for nth in range(1, 40):
        path = tmp_path / f"{kind}-{nth}"
        fs = FaultyFileSystem()
        db = StorageDatabase(str(path), options, fs=fs)
        db.append_remote_write(body(0), version=2)
        db.flush()
        db.append_remote_write(body(10), version=2)
        expected = content(db)
        assert sum(map(len, expected[0].values())) == 40
        assert len(expected[1]) == 20
        calls = fs.calls[kind]
        is_short = how == "enospc"
        fs.fail(
            kind, nth=nth, error=errno.ENOSPC if is_short else errno.EIO, torn=5,
            times=3 if is_short else 1, crash=how == "power cut",
        )  # fmt: skip
        try:
            db.flush()
            has_failed = False
        except (TsengineError, OSError):
            has_failed = True
        n_calls = fs.calls[kind] - calls
        if how != "power cut":
            assert content(db) == expected
            for _ in range(4):
                try:
                    db.flush()
                    break
                except TsengineError:
                    continue
            assert content(db) == expected
        try:
            db.close()
        except (TsengineError, OSError):
            assert how == "power cut"
        with_again = StorageDatabase(str(path), options)
        assert content(with_again) == expected
        assert with_again.recovery.damage == []
        with_again.close()
        if n_calls < nth and not has_failed:
            break
