"""The profiler: weights of stacks, frames of kernels, the picture; a process that is sampled."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.profile import __main__ as profile
from bench.profile import flames, kernels, sampling, stacks, tables, target, workloads
from tsengine.kernels import windows
from tsengine.kernels.jit import Kernel

ROOT = Path(__file__).parents[1]
RAW = """\
thread (11): write_0;Thread.run (threading.py:982);store (tsengine/storage/head.py:10);\
Kernel.__call__ (tsengine/kernels/jit.py:266);packing.pack (kernel:1) 3
thread (11): write_0;store (tsengine/storage/head.py:12) 1
thread (11): write_0;wait (threading.py:3) 3
thread (12): write_1;store (tsengine/storage/head.py:12) 5
"""


def test_counted_seconds_are_shared_by_samples():
    found = stacks.parse(
        RAW,
        {11: 2.0, 12: 1.0, 13: 0.25},
        {(11, "packing.pack"): 1.2, (12, "hashing.hash"): 0.4},
    )
    assert found.n_samples == 12
    assert found.seconds == pytest.approx(3.25)
    seconds = {stack: round(s, 6) for stack, s in found.stacks.items()}
    assert seconds == {
        ("write", "store (tsengine/storage/head.py:10)", "packing.pack (kernel)"): 1.2,
        ("write", "store (tsengine/storage/head.py:12)"): round(0.8 / 4 + 0.6, 6),
        ("write", "wait (threading.py:3)"): 0.6,
        ("write", "hashing.hash (kernel)"): 0.4,
        ("(threads without a sample)",): 0.25,
    }
    assert stacks.kernel_seconds(found) == pytest.approx(1.6)
    own, with_calls = stacks.by_function(found)
    assert own["store (tsengine/storage/head.py)"] == pytest.approx(0.8)
    assert with_calls["store (tsengine/storage/head.py)"] == pytest.approx(2.0)
    assert stacks.by_thread(found) == pytest.approx(
        {"write": 3.0, "(threads without a sample)": 0.25}
    )
    assert "write;wait (threading.py:3) 600000\n" in found.folded()


def test_kernels_that_were_not_counted_share_the_rest():
    found = stacks.parse(RAW, {11: 7.0, 12: 1.0})
    assert stacks.kernel_seconds(found) == pytest.approx(3.0)


def test_a_picture_has_boxes_as_wide_as_their_time():
    text = flames.draw({("a", "b<"): 3.0, ("a", "c (kernel)"): 1.0}, "x & y")
    root = ET.fromstring(text)
    boxes = {
        group.get("data-n"): float(group.get("data-w"))
        for group in root.iter("{http://www.w3.org/2000/svg}g")
    }
    assert boxes == {"all": 1200.0, "a": 1200.0, "b<": 900.0, "c (kernel)": 300.0}
    assert "c (kernel): 25.0 %, 1.000 s" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_kernels_have_frames_of_their_names_and_are_counted():
    def look():
        frame = sys._getframe(1)
        return frame.f_code.co_name, frame.f_code.co_filename

    call = target.named("rollups.some", lambda: (look(), sum(range(100_000)))[0])
    # The lambda is called by the frame of that name.
    inner = target.named("rollups.other", look)
    assert inner() == ("rollups.other", target.KERNEL_FILE)
    assert call()[0] == "<lambda>"
    assert sum(target._spent["rollups.some"].values()) > 0


def test_kernels_that_load_are_named(monkeypatch):
    monkeypatch.setattr(Kernel, "compile", Kernel.compile)
    monkeypatch.setattr(windows.find_windows, "_call", None)
    target.name_kernels()
    t_ms, offsets = np.arange(4) * 1000, np.array([0, 4])
    first, last = np.empty((1, 1), np.int64), np.empty((1, 1), np.int64)
    rows = np.array([0])
    for _ in range(2):
        windows.find_windows(t_ms, offsets, rows, np.array([3000]), 1500, first, last)
    assert (first[0, 0], last[0, 0]) == (2, 4)
    assert windows.find_windows._call.__code__.co_name == "windows.find_windows"
    windows.find_windows._call = None


def test_functions_are_told_by_their_own_words():
    frame = "thread_cpu_s (bench/profile/sampling.py:5)"
    assert tables.explain(frame) == "CPU seconds of each thread so far"
    assert tables.explain("windows.find_windows (kernel)") != ""
    assert tables.explain("nothing (nowhere.py:1)") == ""


def test_tables_and_names():
    found = stacks.parse(RAW, {11: 2.0, 12: 1.0}, {(11, "packing.pack"): 1.2})
    cpu = sampling.Sampled(2.0, {11: 2.0, 12: 1.0}, 0.5, found)
    one = workloads.Found("ingest known", "x", "million samples", 4_000_000, cpu, None)
    text = tables.text(one)
    assert "0.750 CPU s per million samples, 2.00 M a second; 40% of the CPU time in" in text
    assert "packing.pack [kernel]" in text
    assert "| write | 3.00 | 100.0 % |" in tables.markdown(one, "x.svg")
    assert profile.file_name("sum by of rate, 1 h") == "sum-by-of-rate-1-h"
    assert workloads.find_query("quantile_over_time").name == "quantile_over_time, 1 h"
    with pytest.raises(SystemExit, match="2 queries are called 'topk'"):
        workloads.find_query("topk")


def test_a_kernel_is_described():
    text = kernels.describe("find_windows", asm=True)
    assert text.startswith("windows.find_windows: ")
    assert "made in " in text
    assert " instructions: " in text
    assert ".globl" in text
    with pytest.raises(SystemExit, match="0 kernels are called 'x'"):
        kernels.find_kernel("x")


def test_a_process_is_sampled():
    text = (
        "from bench.profile import target\n"
        "target.allow_tracing()\n"
        "def busy():\n"
        "    while True: sum(range(1000))\n"
        "print('ready', flush=True)\n"
        "busy()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        process.stdout.readline()
        with sampling.sampled(process.pid, rate=100) as found:
            time.sleep(1.0)
    except sampling.SamplerError as error:
        pytest.skip(f"not allowed here: {error}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert found.total_cpu_s > 0.1
    own, _ = stacks.by_function(found.profile)
    assert max(own, key=own.get).startswith("busy ")
    assert found.profile.seconds == pytest.approx(found.total_cpu_s, rel=1e-6)


def test_no_sampler_is_said(monkeypatch):
    monkeypatch.setattr(sampling, "Path", lambda path: SimpleNamespace(
        with_name=lambda name: SimpleNamespace(exists=lambda: False)
    ))  # fmt: skip
    monkeypatch.setenv("PATH", "")
    with pytest.raises(sampling.SamplerError, match="pip install"):
        sampling.find_sampler()
