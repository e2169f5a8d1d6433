"""The tables of a run, as Markdown; those of docs/performance.md stand between two marks."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import Any

from bench.side_by_side import queries, targets
from bench.side_by_side.systems import ROOT
from bench.side_by_side.targets import TARGETS, Target

_DOC = ROOT / "docs" / "performance.md"
_NOTES = Path(__file__).with_name("notes.toml")
_BEGIN = "<!-- side by side: made by python -m bench.side_by_side --table -->"
_END = "<!-- end of side by side -->"
_TITLES = {"tsengine": "ours", "victoria": "VM", "prometheus": "Prometheus"}
_MEAN_WANTED = 0.25
_OTHER_MACHINE = (
    "Speeds are wanted on a machine on which VictoriaMetrics 1.150 took 1.25 M samples/s of known "
    "series and 0.97 M of all of `load`, with 1.4 to 2.5 s of CPU per million. What misses its "
    "target but is as far from VM's of this run as wanted there is said to be met beside VM."
)

Result = dict[str, Any]


def tables(result: Result) -> str:
    """All tables of a run."""
    notes = tomllib.loads(_NOTES.read_text())
    versions = ", ".join(f"{name} {facts['version']}" for name, facts in result["systems"].items())
    head = (
        f"{result['date']}, {result['machine']}; {result['hosts']} hosts, {result['minutes']} "
        f"minutes; {versions}. {_quietness(result)}\n\n{_legend(result)}\n"
    )
    pieces = [head, target_table(result, notes), query_table(result)]
    for peer, found in sorted(result["compared"].items()):
        pieces.append(_comparison(peer, found, notes))
    return "\n".join(pieces)


def write_doc(result: Result) -> None:
    """Replace the tables in docs/performance.md."""
    text = _DOC.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _DOC.write_text(f"{before}{_BEGIN}\n\n{tables(result)}\n{_END}{after}")


def _quietness(result: Result) -> str:
    looks = [look for phases in result["quiet"].values() for look in phases.values()]
    if not looks:
        return "How busy the machine was is not known."
    n_busy = sum(not look["is_quiet"] for look in looks)
    busiest = max(look["busy_share"] for look in looks)
    if not n_busy:
        return f"The machine was quiet before each of the {len(looks)} phases."
    return (
        f"**Before {n_busy} of {len(looks)} phases the machine was not quiet**: others used up to "
        f"{busiest:.0%} of its cores."
    )


def _legend(result: Result) -> str:
    """What the names of the phases mean at this size."""
    facts = result["systems"].get("tsengine", {})
    sizes = [
        f"`{name}`: {facts[name]['samples']:,} samples of {facts[name]['series']:,} series"
        for name in ("load", "day", "million", "five", "churn", "small", "large")
        if name in facts
    ]
    if "kill" in facts:
        sizes.append(f"`kill`: SIGKILL after {' and '.join(f'{int(n):,}' for n in facts['kill'])}")
    if "users" in facts:
        sizes.append(f"`users`: {facts['users']['users']} of dashboards during ingest")
    if "churn_embedded" in result:
        churn = result["churn_embedded"]
        sizes.append(
            f"`churn, embedded`: {churn['samples']:,} samples of {churn['catalog_series']:,} "
            f"series, {churn['active_series']:,} at a time (`python -m bench.churn`)"
        )
    if not sizes:
        return ""
    return f"{'; '.join(sizes)}. The ratio is to the better peer. {_OTHER_MACHINE}"


def _names(result: Result) -> list[str]:
    """Systems of the table's columns: ours, then the peers."""
    return [name for name in _TITLES if name in result["systems"]]


def target_table(result: Result, notes: dict[str, Any]) -> str:
    """What is aimed at, what each system has, how far apart they are."""
    names = _names(result)
    titles = [_TITLES[name] for name in names]
    lines = [
        "| what | target | " + " | ".join(titles) + " | ratio | | why |",
        "| --- " * (len(names) + 5) + "|",
    ]
    for target in TARGETS:
        values = [_value(target, _facts(result, name)) for name in names]
        if all(value is None for value in values):
            continue
        cells = [_number(value) for value in values]
        by_name = dict(zip(names, values, strict=True))
        ours = by_name.get("tsengine")
        peers = [
            value for name, value in zip(names, values, strict=True)
            if name != "tsengine" and value is not None
        ]  # fmt: skip
        lines.append(
            _row(target.name, _wanted(target), cells, _ratio(target, ours, peers),
                 _verdict(target, ours, by_name.get("victoria")), notes)
        )  # fmt: skip
    ratios = targets.query_ratios(result["systems"])
    if ratios:
        mean = targets.geometric_mean(ratios)
        slower = targets.slower_queries(result["systems"])
        blank = [""] * len(names)
        name = f"{len(ratios)} queries: geometric mean of the ratios to the faster peer"
        verdict = "met" if mean <= _MEAN_WANTED else "**missed**"
        lines.append(_row(name, f"<= {_MEAN_WANTED}", blank, f"{mean:.2f}", verdict, notes))
        name = f"queries slower than a peer, those under {targets.FAST_MS:g} ms aside"
        verdict = "**missed**" if slower else "met"
        cells = [str(len(slower)), *blank[1:]]
        lines.append(_row(name, "0", cells, "", verdict, notes))
    return "\n".join(lines) + "\n"


def _row(
    name: str, wanted: str, cells: list[str], ratio: str, verdict: str, notes: dict[str, Any]
) -> str:
    why = notes.get("why", {}).get(name, "") if "missed" in verdict else ""
    return f"| {name} | {wanted} | {' | '.join(cells)} | {ratio} | {verdict} | {why} |"


def _facts(result: Result, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = result["systems"][name]
    if name == "tsengine" and "churn_embedded" in result:
        return facts | {"churn_embedded": result["churn_embedded"]}
    return facts


def _value(target: Target, facts: dict[str, Any]) -> float | None:
    with contextlib.suppress(KeyError, ValueError):
        return target.read(facts) * target.scale
    return None


def _wanted(target: Target) -> str:
    if target.wanted is None:
        return ""
    return f"{'>=' if target.better == 'more' else '<='} {_number(target.wanted)}"


def _ratio(target: Target, ours: float | None, peers: list[float]) -> str:
    """Ours in units of the best peer's."""
    if ours is None or not peers:
        return ""
    best = max(peers) if target.better == "more" else min(peers)
    return f"{ours / best:.2f}" if best else ""


def _verdict(target: Target, ours: float | None, victoria: float | None) -> str:
    """Absolute; and beside VictoriaMetrics, where the wanted figure is of a certain machine."""
    if target.wanted is None or ours is None:
        return ""
    if target.is_met(ours):
        return "met"
    if victoria and target.victoria and target.is_met_beside(ours, victoria):
        wanted = target.wanted / target.victoria
        return f"**missed**; met beside VM: {ours / victoria:.2f} of its, {wanted:.2f} wanted"
    return "**missed**"


def query_table(result: Result) -> str:
    """Milliseconds of all queries."""
    names = _names(result)
    times = {name: targets.query_times(result["systems"][name]) for name in names}
    ratios = targets.query_ratios(result["systems"])
    slower = set(targets.slower_queries(result["systems"]))
    lines = [
        "| query, median ms | " + " | ".join(_TITLES[name] for name in names) + " | ratio |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for query in queries.QUERIES:
        cells = [times[name].get(query.name) for name in names]
        if all(cell is None for cell in cells):
            continue
        ratio = f"{ratios[query.name]:.2f}" if query.name in ratios else ""
        if query.name in slower:
            ratio = f"**{ratio}**"
        shown = " | ".join(_number(cell) for cell in cells)
        lines.append(f"| {query.name} | {shown} | {ratio} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _comparison(peer: str, found: dict[str, str], notes: dict[str, Any]) -> str:
    """Which answers are equal, and what is behind the others."""
    title = _TITLES.get(peer, peer)
    equal = [name for name, text in found.items() if not text]
    lines = [
        f"Answers compared with {title}'s: {len(found)}, of which {len(equal)} are equal "
        f"(labels and times exactly, values to a relative 1e-9): {', '.join(equal) or 'none'}."
    ]
    known = notes.get("differences", {}).get(peer, {})
    by_name = {query.name: query for query in queries.QUERIES}
    different = [name for name, text in found.items() if text]
    if different:
        lines.append("\n| differs | how | why |\n| --- | --- | --- |")
    for name in different:
        query = by_name.get(name)
        why = known.get(name) or (known.get("rate", "") if query and query.uses_rate else "")
        lines.append(f"| {name} | {found[name]} | {why or '**not explained**'} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
