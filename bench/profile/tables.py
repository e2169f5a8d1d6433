"""A profile as text: threads, functions, lines, with what the sources say these are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from bench.profile import stacks
from bench.profile.workloads import Found

ROOT = Path(__file__).parents[2]
_N_FUNCTIONS = 16
_N_LINES = 8
_SHARE_MIN = 0.01
_QUIET_LOAD = 2.5
"""Above it others were at work too: server, sender and sampler make about two."""

_STARTERS = ("server/cli.py", "server/lifecycle.py")

Row = tuple[str, ...]


def sections(found: Found) -> list[tuple[str, Row, list[Row]]]:
    """Title, heads and rows of each table."""
    profile = found.cpu.profile
    total = profile.seconds or 1.0
    own, with_calls = stacks.by_function(profile)
    threads = [
        (name, f"{s:.2f}", _share(s, total))
        for name, s in stacks.by_thread(profile).items()
        if s >= _SHARE_MIN * total
    ]
    alone = [
        (_short(name), _share(s, total), explain(name))
        for name, s in list(own.items())[:_N_FUNCTIONS]
        if s >= _SHARE_MIN * total
    ]
    # Without a description it is a step between two that have one.
    below = [
        (_short(name), _share(s, total), explain(name))
        for name, s in with_calls.items()
        if s >= 2 * _SHARE_MIN * total and _is_ours(name) and explain(name)
    ]
    lines = [
        (_short(name), _share(s, total), _source(name))
        for name, s in list(stacks.by_line(profile).items())
        if s >= _SHARE_MIN * total and not stacks.is_kernel(name)
    ]
    return [
        ("Threads", ("thread", "CPU s", "share"), threads),
        ("Functions, without what they call", ("function", "share", "what it does"), alone),
        ("Functions, with what they call", ("function", "share", "what it does"),
         below[:_N_FUNCTIONS]),
        ("Lines of Python", ("line", "share", "source"), lines[:_N_LINES]),
    ]  # fmt: skip


def headline(found: Found) -> str:
    """What was done and what it cost, in one line."""
    cpu = found.cpu
    is_query = found.unit == "query"
    n = found.n_units if is_query else found.n_units / 1e6
    cost = f"{1e3 * cpu.total_cpu_s / n:.1f} CPU ms" if is_query else (
        f"{cpu.total_cpu_s / n:.3f} CPU s"
    )  # fmt: skip
    speed = f"{n / cpu.seconds:.1f} a second" if is_query else f"{n / cpu.seconds:.2f} M a second"
    kernels = stacks.kernel_seconds(cpu.profile) / (cpu.profile.seconds or 1.0)
    text = (
        f"{cost} per {found.unit}, {speed}; {kernels:.0%} of the CPU time in kernels; "
        f"{cpu.profile.n_samples:,} samples of stacks"
    )
    if found.gil is not None:
        held = found.gil.profile.seconds / found.gil.seconds
        text += f"; the interpreter's lock was held for {held:.0%} of the time"
    busy = "" if cpu.load_average <= _QUIET_LOAD else " (**not a quiet machine**)"
    return f"{text}; load average {cpu.load_average:.1f}{busy}"


def text(found: Found) -> str:
    """All for a terminal."""
    pieces = [f"{found.name}: {found.what}\n{headline(found)}\n"]
    for title, heads, rows in sections(found):
        widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads) - 1)]
        lines = [title]
        for row in (heads, *rows):
            lines.append("  " + "  ".join((*map(str.ljust, row, widths), row[-1])).rstrip())
        pieces.append("\n".join(lines) + "\n")
    if found.gil is not None:
        pieces.append(_lock_text(found))
    return "\n".join(pieces)


def markdown(found: Found, picture: str) -> str:
    """All for a document; ``picture`` is the path of the flame graph."""
    pieces = [f"`{found.what}`\n\n{headline(found)}. [Flame graph]({picture})\n"]
    for title, heads, rows in sections(found)[:3]:
        lines = [f"| {' | '.join((title + ': ' + heads[0], *heads[1:]))} |"]
        lines.append("| --- " * len(heads) + "|")
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
        pieces.append("\n".join(lines) + "\n")
    return "\n".join(pieces)


def _lock_text(found: Found) -> str:
    assert found.gil is not None, "asked for"
    own, _ = stacks.by_function(found.gil.profile)
    lines = ["Who holds the interpreter's lock, share of the time"]
    for name, s in list(own.items())[:_N_FUNCTIONS]:
        lines.append(f"  {s / found.gil.seconds:6.1%}  {_short(name)}")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _share(seconds: float, total: float) -> str:
    return f"{100 * seconds / total:.1f} %"


def _is_ours(name: str) -> bool:
    if any(f"({file})" in name for file in _STARTERS):
        return False
    return stacks.is_kernel(name) or "(tsengine/" in name or "(server/" in name


def _short(name: str) -> str:
    """A frame without the folder of its package."""
    return name.replace("(kernel)", "[kernel]").replace("(tsengine/", "(")


@cache
def _kernels() -> dict[str, str]:
    from tsengine.kernels.jit import import_all_kernels

    return {kernel.name: kernel.py_func.__doc__ or "" for kernel in import_all_kernels()}


def explain(frame: str) -> str:
    """The first sentence of a function's own description; empty if it has none."""
    name, file, _ = stacks.frame_name(frame)
    if stacks.is_kernel(frame):
        return _first_sentence(_kernels().get(name, ""))
    return _first_sentence(_described(ROOT / file).get(name.split(".")[-1], "")) if file else ""


@cache
def _described(path: Path) -> dict[str, str]:
    if not path.is_file() or path.suffix != ".py":
        return {}
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))
    return {node.name: ast.get_docstring(node) or "" for node in nodes}


def _first_sentence(text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\w)\. |;", first)[0].rstrip(".")


def _source(frame: str) -> str:
    """The text of a line."""
    _, file, number = stacks.frame_name(frame)
    path = ROOT / file
    if not number or not path.is_file():
        return ""
    lines = path.read_text().splitlines()
    return lines[number - 1].strip() if number <= len(lines) else ""
