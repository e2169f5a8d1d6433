"""How long the server takes to answer after its start: the first time ever, and from then on.

    python -m bench.start_time [--runs 7]

The first start is made from a copy of the package without any cache, so every kernel is compiled
(progress is shown); later ones load the machine code. Prints medians of the time from the start of
the process to the line with its URL; beside it stands what `python -c 'import numba'` takes, as a
plain reference of this machine. Must-show: first under 60 s, warm under 2 s.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


def start(environment, folder, *, show):
    """Seconds from the start of a server process to its ready line; then it is stopped."""
    begin = time.perf_counter()
    command = [
        sys.executable, "-m", "tsengine_server", "serve", "--data-dir", str(folder),
        "--listen", "127.0.0.1:0", "--self-scrape", "off",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder,
        stderr=None if show else subprocess.DEVNULL,
    )  # fmt: skip
    line = process.stdout.readline()
    seconds = time.perf_counter() - begin
    assert "http://" in line, line
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "code"
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tsengine", copy / "tsengine", ignore=ignore)
        shutil.copytree(ROOT / "server", copy / "tsengine_server", ignore=ignore)
        environment = dict(os.environ, PYTHONPATH=str(copy))
        data = Path(temporary) / "data"
        data.mkdir()
        first = start(environment, data, show=True)
        warm = [start(environment, data, show=False) for _ in range(args.runs)]
        plain = []
        for _ in range(args.runs):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import numba"], check=True)
            plain.append(time.perf_counter() - begin)
    print(f"first start ever   {first:6.2f} s  {first / median(plain):6.1f} x import numba")
    print(f"warm start         {median(warm):6.2f} s  {median(warm) / median(plain):6.1f} x")
    print(f"import numba       {median(plain):6.2f} s")


if __name__ == "__main__":
    main()
