"""Where CPU time goes: the real server under load, its stacks sampled from outside.

    python -m bench.profile ingest known|new [--hosts 500] [--minutes 60] [--connections 1]
    python -m bench.profile query NAME       one of bench.side_by_side's, or what only one has
    python -m bench.profile kernel NAME [--asm] [--llvm]
    python -m bench.profile all [--doc]      all of docs/profiling.md; --doc writes it

    also: [--seconds 6] [--rate 250] [--no-gil] [--native] [--out DIR] [--work DIR]

Writes for each, into DIR (default: build/profiles): NAME.folded (stacks with CPU microseconds),
NAME.txt (tables), NAME.svg (a flame graph). A stack's weight is CPU time: that of each thread and
of each kernel is counted, py-spy says where a thread was in the rest of its time. As it takes
threads for running that wait for a core, measure with one connection on a quiet machine. Kernels
are frames of their names. Needs py-spy (`pip install 'tsengine[bench]'`).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from bench.profile import flames, kernels, stacks, tables
from bench.profile.sampling import SamplerError
from bench.profile.workloads import (
    INGESTS,
    Found,
    Sizes,
    find_query,
    profile_ingest,
    profile_queries,
)

ROOT = Path(__file__).parents[2]
_DOC = ROOT / "docs" / "profiling.md"
_PICTURES = ROOT / "docs" / "profiles"
_BEGIN = "<!-- profiles: made by python -m bench.profile all --doc -->"
_END = "<!-- end of profiles -->"
_QUERIES = ("sum by of rate, 1 h", "histogram_quantile by service, 24 h", "count by name, 100 k")


def main(argv: list[str] | None = None) -> int:
    """Run it; 1 if nothing can be sampled here."""
    args = _parse(argv)
    if args.command == "kernel":
        print(kernels.describe(args.name, asm=args.asm, llvm=args.llvm))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        try:
            found = _profile(args, work)
        except SamplerError as error:
            print(error, file=sys.stderr)
            return 1
    if args.command == "all" and args.doc:
        _write_doc(found)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--hosts", type=int, default=500)
    common.add_argument("--minutes", type=int, default=60)
    common.add_argument("--seconds", type=float, default=6.0)
    common.add_argument("--connections", type=int, default=1)
    common.add_argument("--rate", type=int, default=250)
    common.add_argument("--no-gil", action="store_true")
    common.add_argument("--native", action="store_true")
    common.add_argument("--out", type=Path, default=ROOT / "build" / "profiles")
    common.add_argument("--work", type=Path, default=None)
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="command", required=True)
    verbs.add_parser("ingest", parents=[common]).add_argument("name", choices=sorted(INGESTS))
    verbs.add_parser("query", parents=[common]).add_argument("name")
    verbs.add_parser("all", parents=[common]).add_argument("--doc", action="store_true")
    kernel = verbs.add_parser("kernel")
    kernel.add_argument("name")
    kernel.add_argument("--asm", action="store_true")
    kernel.add_argument("--llvm", action="store_true")
    return parser.parse_args(argv)


def _profile(args: argparse.Namespace, work: Path) -> list[Found]:
    sizes = Sizes(
        args.hosts, args.minutes, args.seconds, args.connections, args.rate, not args.no_gil,
        args.native,
    )  # fmt: skip
    ingests = {"ingest": [getattr(args, "name", "")], "all": list(INGESTS)}.get(args.command, [])
    wanted = {"query": [getattr(args, "name", "")], "all": list(_QUERIES)}.get(args.command, [])
    queries = [find_query(name) for name in wanted]
    done = []
    for name in ingests:
        done.append(_write(profile_ingest(name, sizes, work), args.out))
    for found in profile_queries(queries, sizes, work):
        done.append(_write(found, args.out))
    return done


def file_name(name: str) -> str:
    """A name without what files don't like."""
    return re.sub(r"\W+", "-", name).strip("-")


def _write(found: Found, folder: Path) -> Found:
    stem = folder / file_name(found.name)
    report = tables.text(found)
    stem.with_suffix(".folded").write_text(found.cpu.profile.folded())
    stem.with_suffix(".txt").write_text(report)
    stem.with_suffix(".svg").write_text(_draw(found))
    print(f"{report}\n{stem}.folded .txt .svg\n", flush=True)
    return found


def _draw(found: Found) -> str:
    return flames.draw(stacks.merged(found.cpu.profile), f"{found.name}: {found.what}")


def _write_doc(found: list[Found]) -> None:
    _PICTURES.mkdir(exist_ok=True)
    pieces = []
    for one in found:
        picture = _PICTURES / f"{file_name(one.name)}.svg"
        picture.write_text(_draw(one))
        pieces.append(f"### {one.name}\n\n{tables.markdown(one, f'profiles/{picture.name}')}")
    before, _, rest = _DOC.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    made = "\n".join(pieces)
    _DOC.write_text(f"{before}{_BEGIN}\n\n{made}\n{_END}{after}")


if __name__ == "__main__":
    sys.exit(main())
