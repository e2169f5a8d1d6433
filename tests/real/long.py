"""The long version: ``python -m tests.real.long --minutes 10``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.real.peers import MissingPeerError
from tests.real.session import run_session


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--interval", type=int, default=5, help="seconds between scrapes")
    arguments = parser.parse_args()
    collect_s = arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="tsengine-real-") as directory:
        try:
            outcome = run_session(
                Path(directory), collect_s=collect_s, interval_s=arguments.interval,
                window_s=min(60, int(collect_s / 4)), step_s=15,
                say=lambda text: print(text, flush=True),
            )  # fmt: skip
        except MissingPeerError as error:
            print(error)
            return 1
    for version, n_samples in outcome.n_samples.items():
        print(f"remote write {version}: {n_samples} samples sent, "
              f"{len(outcome.metadata[version])} metrics with metadata")  # fmt: skip
    print(f"{outcome.n_answers} answers with {outcome.n_points} values compared")
    for problem in outcome.problems:
        print("DIFFERENT:", problem)
    print("all the same" if not outcome.problems else f"{len(outcome.problems)} problems")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
