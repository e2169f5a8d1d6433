"""Tables of a run, as Markdown; those of docs/performance.md stand between two marks."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.side_by_side import queries
from bench.side_by_side.systems import ROOT

_DOC = ROOT / "docs" / "performance.md"
_BEGIN = "<!-- side by side: made by python -m bench.side_by_side --table -->"
_END = "<!-- end of side by side -->"
_FAST_MS = 3.0

Result = dict[str, Any]


def tables(result: Result) -> str:
    """All tables of a run."""
    systems = result["systems"]
    versions = ", ".join(f"{name} {facts['version']}" for name, facts in systems.items())
    head = (
        f"{result['date']}, {result['machine']}; {result['hosts']} hosts, {result['minutes']} "
        f"minutes; {versions}.\n"
    )
    pieces = [head, _load_table(result), _query_table(result)]
    for name, found in result["differences"].items():
        if found:
            listed = "\n".join(f"- {query}: {text}" for query, text in found.items())
            pieces.append(f"Answers that differ between tsengine and {name}:\n\n{listed}\n")
        else:
            pieces.append(f"All answers of tsengine and {name} are equal (relative 1e-9).\n")
    return "\n".join(pieces)


def write_doc(result: Result) -> None:
    """Replace the tables in docs/performance.md."""
    text = _DOC.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _DOC.write_text(f"{before}{_BEGIN}\n\n{tables(result)}\n{_END}{after}")


def _rows_of_load(facts: dict[str, Any]) -> dict[str, str]:
    rows: dict[str, str] = {}
    for load, title in (("load", "2 h"), ("day", "24 h"), ("million", "1 M series x 3")):
        found = facts.get(load)
        if found is None:
            continue
        known = [leg for name, leg in found["legs"].items() if name != "first"]
        first = found["legs"]["first"]
        if load == "load":
            best = max(known, key=lambda leg: leg["samples_per_s"])
            rows["known series, best of connections, M samples/s"] = _number(
                best["samples_per_s"] / 1e6
            )
            rows["its p50, p95, p99, ms"] = ", ".join(
                _number(best[key]) for key in ("p50_ms", "p95_ms", "p99_ms")
            )
        if load == "million":
            rows["new series/s, first pass of 1 M"] = f"{first['samples_per_s']:,.0f}"
        rows[f"{title}: whole load, M samples/s"] = _number(found["samples_per_s"] / 1e6)
        rows[f"{title}: CPU s per million samples"] = _number(found["cpu_s_per_million"])
        rows[f"{title}: peak RSS, MiB"] = _number(found["peak_rss_mib"])
        rows[f"{title}: bytes/sample on disk"] = _number(found["disk_bytes_per_sample"])
        if load == "million":
            rows[f"{title}: bytes/series on disk"] = _number(found["disk_bytes_per_series"])
        rows[f"{title}: restart, s"] = _number(found["restart_s"])
    for n_samples, killed in facts.get("kill", {}).items():
        title = f"SIGKILL after {int(n_samples) / 1e6:.0f} M samples"
        rows[f"{title}: lost"] = f"{killed['lost']:,}"
        rows[f"{title}: ready, all counted, s"] = (
            f"{_number(killed['ready_s'])}, {_number(killed['counted_s'])}"
        )
    if "users" in facts:
        found = facts["users"]
        rows[f"{found['users']} users during ingest: p50, p95, ms"] = (
            f"{_number(found['p50_ms'])}, {_number(found['p95_ms'])}"
        )
        rows["ingest meanwhile, share"] = _number(found["ingest_share"])
    return rows


def _load_table(result: Result) -> str:
    columns = {name: _rows_of_load(facts) for name, facts in result["systems"].items()}
    titles = list(dict.fromkeys(title for rows in columns.values() for title in rows))
    lines = ["| | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for title in titles:
        cells = " | ".join(rows.get(title, "-") for rows in columns.values())
        lines.append(f"| {title} | {cells} |")
    return "\n".join(lines) + "\n"


def _query_table(result: Result) -> str:
    times = {
        name: {q: ms for load in facts.values() if isinstance(load, dict)
               for q, ms in load.get("queries", {}).items()}
        for name, facts in result["systems"].items()
    }  # fmt: skip
    lines = [
        "| query, median ms | " + " | ".join(times) + " | ratio to the faster peer |",
        "| --- " * (len(times) + 2) + "|",
    ]
    ratios = []
    for query in queries.QUERIES:
        cells = [found.get(query.name) for found in times.values()]
        if all(cell is None for cell in cells):
            continue
        ours = times.get("tsengine", {}).get(query.name)
        peers = [ms[query.name] for n, ms in times.items() if n != "tsengine" and query.name in ms]
        ratio = ""
        if ours is not None and peers:
            ratios.append(ours / min(peers))
            slower = " (slower)" if ratios[-1] > 1 and ours > _FAST_MS else ""
            ratio = f"{ratios[-1]:.2f}{slower}"
        shown = " | ".join("-" if ms is None else _number(ms) for ms in cells)
        lines.append(f"| {query.name} | {shown} | {ratio} |")
    if ratios:
        mean = float(np.exp(np.mean(np.log(ratios))))
        lines.append(f"| geometric mean of ratios | {'| ' * len(times)}| **{mean:.2f}** |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
