"""Makes tests/golden/backup-v1: `python -m tests.golden.make_backup DEST`. Random parts differ."""

import sys
import tempfile

import tsengine

T0 = 1_700_000_000_000
CONTENT = {
    ("x", "1"): ([T0, T0 + 15_000, T0 + 30_000], [1.0, -0.0, 2.5]),
    ("y", "2"): ([T0 + 60_000], [7.0]),
}
"""The first is in a part of both backups, the second in the log of the second one."""
TIMES = (T0 + 100_000, T0 + 200_000)


def main(dest: str) -> None:
    with tempfile.TemporaryDirectory() as folder, tsengine.open(f"{folder}/db") as db:
        for number, (((name, k), (times, values)), at) in enumerate(
            zip(CONTENT.items(), TIMES, strict=True)
        ):
            db.append({"__name__": name, "k": k}, times, values)
            if number == 0:
                db.flush()
            tsengine.make_backup(db.path, dest, clock=lambda at=at: at)


if __name__ == "__main__":
    main(sys.argv[1])
