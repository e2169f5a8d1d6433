"""kill -9 of a process that appends: everything it said was acknowledged is there."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.log import DATABASE_ID, payloads, read

WRITER = """
import sys, threading
from tsengine.storage.filesystem import LocalFileSystem
from tsengine.storage.ingest_log import LogEntry
from tsengine.storage import wal_segments
from tsengine.storage.wal import Wal
from tsengine.storage.wal_reader import replay

directory, database_id, round_number = sys.argv[1:]
wal_segments.SEGMENT_SIZE_BYTES_MAX = 4_000
fs = LocalFileSystem()
found = replay(fs, directory, first_segment=1, database_id=database_id)
for _ in found:
    pass
log = Wal(
    fs, directory, database_id=database_id, next_segment=found.report.last_segment + 1,
    next_seq=found.report.seq_max + 1, fsync="always", queue_size_bytes_max=1 << 20,
    on_durable=lambda entries: None, previous=found.report.previous,
)
said = threading.Lock()

def append(number):
    i = 0
    while True:
        payload = f"{round_number}/{number}/{i}:".encode() + bytes(i * 37 % 3000)
        entry = LogEntry(((1, payload),), len(payload))
        log.append(entry).wait()
        with said:
            print(entry.seq, f"{round_number}/{number}/{i}", flush=True)
        i += 1

for number in range(4):
    threading.Thread(target=append, args=(number,), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.timeout(120)
def test_acknowledged_entries_survive_kill_9(tmp_path):
    (tmp_path / "wal").mkdir()
    rng = random.Random(20)
    acknowledged: dict[int, str] = {}
    for round_number in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path), DATABASE_ID, str(round_number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            lines = [child.stdout.readline() for _ in range(rng.randrange(1, 60))]
            time.sleep(rng.random() * 0.05)
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.read().splitlines(keepends=True)
            assert child.wait(10) == -signal.SIGKILL
        for line in lines:
            if line.endswith(b"\n"):  # the last one may be cut
                seq, name = line.decode().split()
                assert int(seq) not in acknowledged, "a sequence was used twice"
                acknowledged[int(seq)] = name
        records, report = read(tmp_path)
        assert report.damage == []
        names = {r.seq: re.match(rb"[0-9/]+", r.payload)[0].decode() for r in records}
        assert len(names) == len(records)
        assert {seq: names.get(seq) for seq in acknowledged} == acknowledged
        assert [r.seq for r in records] == sorted(names)
        # Whole records of entries that nobody was told about stay; they are not forgotten later.
        acknowledged = names
    assert len(acknowledged) > 60
    assert len(os.listdir(tmp_path / "wal")) > 6
    assert all(set(data.partition(b":")[2]) <= {0} for data in payloads(records))
