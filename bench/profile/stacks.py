"""Folded stacks: lines ``thread;outermost;...;innermost count``, and what they add up to.

Weights are CPU seconds, counted where they can be: those of each thread and of each kernel in it. A
sample alone says too little, as "was running" may also mean "waited for a core"; so samples only
share what is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from bench.profile.target import KERNEL_FILE

_THREAD = re.compile(r"thread \((\d+)\)(?:: (.*))?")
_FRAME = re.compile(r"(.*) \(([^()]*?)(?::(\d+))?\)$")
_NUMBERED = re.compile(r"[-_]?\d+$")
_BOOTSTRAP = ("_bootstrap", "_bootstrap_inner")


@dataclass(frozen=True, slots=True)
class Profile:
    """CPU seconds by stack: a thread's name (those of one pool are one), then frames."""

    stacks: dict[tuple[str, ...], float]
    n_samples: int

    @property
    def seconds(self) -> float:
        """Of all."""
        return sum(self.stacks.values())

    def folded(self) -> str:
        """Lines with microseconds, as flame graph tools read them."""
        lines = (f"{';'.join(stack)} {round(s * 1e6)}" for stack, s in sorted(self.stacks.items()))
        return "\n".join(lines) + "\n"


def frame_name(text: str) -> tuple[str, str, int]:
    """Name, file and line of a frame as the sampler writes it."""
    match = _FRAME.match(text)
    if match is None:
        return text, "", 0
    return match[1], match[2], int(match[3] or 0)


def is_kernel(frame: str) -> bool:
    """Whether a frame is a kernel's."""
    return frame_name(frame)[1] == KERNEL_FILE


def parse(
    raw: str, cpu_s: dict[int, float], kernel_s: dict[tuple[int, str], float] | None = None
) -> Profile:
    """What a sampler wrote, weighed by CPU seconds.

    Parameters
    ----------
    raw
        Folded stacks that begin with ``thread (TID): NAME``.
    cpu_s
        CPU seconds by thread while it was sampled.
    kernel_s
        Of those, seconds by thread and kernel, which were counted; the samples outside of kernels
        share the rest.

    """
    rows = [_row(line) for line in raw.splitlines()]
    counted = kernel_s or {}
    left = dict(cpu_s)
    for (thread, _), seconds in counted.items():
        left[thread] = max(0.0, left.get(thread, 0.0) - seconds)

    def share_of(thread: int, stack: tuple[str, ...]) -> tuple[int, str]:
        """What a stack has a share in: a kernel's time, or what is left of a thread's."""
        key = thread, _kernel_of(stack)
        return key if key in counted else (thread, "")

    seconds_of = {(thread, ""): seconds for thread, seconds in left.items()} | counted
    totals: Counter[tuple[int, str]] = Counter()
    for thread, stack, n in rows:
        totals[share_of(thread, stack)] += n
    found: Counter[tuple[str, ...]] = Counter()
    for thread, stack, n in rows:
        key = share_of(thread, stack)
        found[stack] += seconds_of.get(key, 0.0) * n / totals[key]  # type: ignore[assignment]
    names = {thread: stack[0] for thread, stack, _ in rows}
    for (thread, kernel), seconds in seconds_of.items():
        if not totals[thread, kernel]:
            name = names.get(thread, "(threads without a sample)")
            frames = (f"{kernel} ({KERNEL_FILE})",) if kernel else ()
            found[(name, *frames)] += seconds  # type: ignore[assignment]
    stacks = {stack: float(s) for stack, s in found.items() if s > 0}
    return Profile(stacks, sum(totals.values()))


def _row(line: str) -> tuple[int, tuple[str, ...], int]:
    """Thread, stack and count of a line."""
    text, _, count = line.rpartition(" ")
    first, *frames = text.split(";")
    match = _THREAD.match(first)
    number, name = (int(match[1]), match[2] or "") if match else (0, first)
    return number, _stack(name or f"thread {number}", frames), int(count)


def _kernel_of(stack: tuple[str, ...]) -> str:
    """The kernel that a stack is in, "" if none."""
    return frame_name(stack[-1])[0] if is_kernel(stack[-1]) else ""


def _stack(thread: str, frames: list[str]) -> tuple[str, ...]:
    """Frames without what is the same in all threads; files without their lines stay apart."""
    kept = []
    for frame in frames:
        name, file, _ = frame_name(frame)
        is_call = file.endswith("kernels/jit.py") and name.endswith("__call__")
        is_start = file.endswith("threading.py") and name.split(".")[-1] in (*_BOOTSTRAP, "run")
        if not (is_call or is_start):
            kept.append(frame if file != KERNEL_FILE else f"{name} ({KERNEL_FILE})")
    return (_NUMBERED.sub("", thread), *kept)


def by_thread(profile: Profile) -> dict[str, float]:
    """CPU seconds by thread, most first."""
    found: Counter[str] = Counter()
    for stack, s in profile.stacks.items():
        found[stack[0]] += s  # type: ignore[assignment]
    return dict(found.most_common())


def by_function(profile: Profile) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds of each function alone, and with all that it calls."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, s in profile.stacks.items():
        names = [_function(frame) for frame in stack[1:]]
        if names:
            own[names[-1]] += s  # type: ignore[assignment]
        for name in set(names):
            total[name] += s  # type: ignore[assignment]
    return dict(own.most_common()), dict(total.most_common())


def by_line(profile: Profile) -> dict[str, float]:
    """CPU seconds of each innermost line; a kernel is one."""
    found: Counter[str] = Counter()
    for stack, s in profile.stacks.items():
        if len(stack) > 1:
            found[stack[-1]] += s  # type: ignore[assignment]
    return dict(found.most_common())


def kernel_seconds(profile: Profile) -> float:
    """CPU seconds in kernels, which run without the interpreter's lock."""
    return sum(s for stack, s in profile.stacks.items() if is_kernel(stack[-1]))


def merged(profile: Profile) -> dict[tuple[str, ...], float]:
    """Stacks of functions, lines told no longer apart: what a flame graph shows."""
    found: Counter[tuple[str, ...]] = Counter()
    for stack, s in profile.stacks.items():
        found[(stack[0], *map(_function, stack[1:]))] += s  # type: ignore[assignment]
    return dict(found)


def _function(frame: str) -> str:
    name, file, _ = frame_name(frame)
    return f"{name} ({file})" if file else name
