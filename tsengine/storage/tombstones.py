"""Tombstones: what deletes hide, as a value, as a record of the log and as a file.

A tombstone hides samples of its series in a closed range of time, in sources that are older than
itself (`mask.py` applies it). It is born as a record of the log, gets a file of its own when the
log is trimmed, and dies when nothing older is left (`deleting.py`). Docs/format/tombstones.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import CorruptionError, UnsupportedFormat
from tsengine.storage import filenames, wal_records
from tsengine.storage.filesystem import FileSystem
from tsengine.storage.manifest import TombstoneEntry
from tsengine.storage.sealed_file import read_sealed, write_sealed

U32Array = npt.NDArray[np.uint32]

MAGIC = b"TSETOMBS"
VERSION = 1
# flags, number of refs, mint, maxt
_HEADER = struct.Struct("<IIqq")
_SEQ = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, eq=False)
class Tombstone:
    """What one delete hides.

    Parameters
    ----------
    seq
        Of its record. Sources whose samples all have smaller sequences are hidden by it.
    mint, maxt
        Closed range, ms.
    refs
        u32[S], ascending.
    entry
        What the manifest says about its file; None while only the log has it.

    """

    seq: int
    mint: int
    maxt: int
    refs: U32Array
    entry: TombstoneEntry | None = None

    @property
    def file_number(self) -> int | None:
        """The number of its file, which all files written later exceed."""
        return None if self.entry is None else filenames.parse_tombstone_name(self.entry.name)

    def touches(self, mint: int, maxt: int) -> bool:
        """Whether it hides anything of a closed range."""
        return self.mint <= maxt and self.maxt >= mint


def encode_tombstone(mint: int, maxt: int, refs: U32Array) -> bytes:
    """Payload of a TOMBSTONE record."""
    assert mint <= maxt, "closed time range"
    head = _HEADER.pack(0, len(refs), mint, maxt)
    return head + wal_records.encode_column(refs.astype(np.int64))


def decode_tombstone(payload: bytes, seq: int) -> Tombstone:
    """The tombstone of a record; raises CorruptionError or UnsupportedFormat."""
    if len(payload) < _HEADER.size:
        raise CorruptionError(f"tombstone record of {len(payload)} bytes")
    flags, n, mint, maxt = _HEADER.unpack_from(payload)
    if flags:
        raise UnsupportedFormat(f"tombstone record with unknown flags {flags:#x}")
    column, end = wal_records.decode_column(payload, _HEADER.size, n)
    if end != len(payload):
        raise CorruptionError(f"tombstone record of {len(payload)} bytes, not {end}")
    if mint > maxt or (n and not 0 <= column[0] <= column[-1] < 1 << 32):
        raise CorruptionError("tombstone record with a range or a series that can't be")
    if not (column[1:] > column[:-1]).all():
        raise CorruptionError("tombstone record whose series do not ascend")
    return Tombstone(seq, mint, maxt, column.astype(np.uint32))


def write_tombstone(
    fs: FileSystem, directory: str, name: str, tombstone: Tombstone
) -> TombstoneEntry:
    """Write and fsync the file ``name``, and sync its folder, which is made if need be.

    ``directory`` is the database's. Raises OSError.
    """
    fs.mkdir(filenames.tombstones_dir(directory))
    record = encode_tombstone(tombstone.mint, tombstone.maxt, tombstone.refs)
    path = filenames.tombstone_path(directory, name)
    payload = _SEQ.pack(tombstone.seq) + record
    size = write_sealed(fs, path, payload, magic=MAGIC, version=VERSION)
    fs.sync_dir(filenames.tombstones_dir(directory))
    return TombstoneEntry(
        name, tombstone.seq, tombstone.mint, tombstone.maxt, len(tombstone.refs), size
    )


def read_tombstone(fs: FileSystem, directory: str, entry: TombstoneEntry) -> Tombstone:
    """The tombstone of a file; raises CorruptionError, UnsupportedFormat or OSError."""
    path = filenames.tombstone_path(directory, entry.name)
    payload = read_sealed(fs, path, magic=MAGIC, version=VERSION, what="a tombstone")
    if len(payload) < _SEQ.size:
        raise CorruptionError(f"a tombstone of {len(payload)} bytes", path=path)
    try:
        found = decode_tombstone(payload[_SEQ.size :], *_SEQ.unpack_from(payload))
    except CorruptionError as error:
        raise CorruptionError(error.reason, path=path) from error
    told = (entry.seq, entry.mint, entry.maxt, entry.n_series)
    if (found.seq, found.mint, found.maxt, len(found.refs)) != told:
        raise CorruptionError("not the tombstone that the manifest names", path=path)
    return Tombstone(found.seq, found.mint, found.maxt, found.refs, entry)
