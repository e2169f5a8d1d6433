"""One kernel looked at: how long it takes to make and to load, what its machine code is made of."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter

from tsengine.kernels.jit import Kernel, import_all_kernels
from tsengine.kernels.making import compiled

_INSTRUCTION = re.compile(r"^\t([a-z]\w*)\t?(.*)$")
_LABEL = re.compile(r"^(\w+):")
_SYMBOL = re.compile(r"\$?\b((?:_ZN|NRT_|numba_|Py|mem|llvm)\w*)")
_WRAPPER = "_ZN7cpython"
_WIDE = {"zmm": "512-bit", "ymm": "256-bit", "xmm": "128-bit or scalar floats"}


def find_kernel(name: str) -> Kernel:
    """The kernel ``module.function``, or the only one of that function's name."""
    made = import_all_kernels()
    found = [kernel for kernel in made if name in (kernel.name, kernel.name.split(".")[1])]
    if len(found) != 1:
        known = "\n  ".join(kernel.name for kernel in made)
        raise SystemExit(f"{len(found)} kernels are called {name!r}; there are\n  {known}")
    return found[0]


def describe(name: str, *, asm: bool = False, llvm: bool = False) -> str:
    """Times and counts of a kernel, and its code if that is wanted."""
    kernel = find_kernel(name)
    started_s = time.perf_counter()
    # Not the cached code: what is loaded has no text.
    dispatcher = compiled(kernel.py_func, kernel.signature)
    made_s = time.perf_counter() - started_s
    (code,) = dispatcher.inspect_asm().values()
    (ir,) = dispatcher.inspect_llvm().values()
    lines = [
        f"{kernel.name}: {' '.join((kernel.py_func.__doc__ or '').split())[:90]}",
        f"made in {made_s:.2f} s; loaded from the cache by a new process in "
        f"{_load_ms(kernel.name):.1f} ms",
        *_counts(code),
    ]
    if llvm:
        lines.append(ir)
    if asm:
        lines.append(code)
    return "\n".join(lines)


def _counts(code: str) -> list[str]:
    """Instructions by kind, and what else is called; without the wrapper that Python calls."""
    kinds: Counter[str] = Counter()
    wide: Counter[str] = Counter()
    symbols: Counter[str] = Counter()
    is_wrapper = False
    for line in code.splitlines():
        if match := _LABEL.match(line):
            is_wrapper = match[1].startswith(_WRAPPER)
        match = _INSTRUCTION.match(line)
        if match is None or is_wrapper:
            continue
        kinds[match[1]] += 1
        symbols.update(_SYMBOL.findall(match[2]))
        width = next((text for name, text in _WIDE.items() if name in match[2]), None)
        if width is not None:
            wide[width] += 1
    common = ", ".join(f"{name} {count}" for name, count in kinds.most_common(8))
    vectors = ", ".join(f"{text} {count}" for text, count in wide.most_common()) or "none"
    called = ", ".join(f"{name} ({count})" for name, count in symbols.most_common(8)) or "none"
    return [
        f"{sum(kinds.values()):,} instructions: {common}",
        f"vectors: {vectors}",
        f"symbols: {called}",
    ]


def _load_ms(name: str) -> float:
    """Milliseconds of the first call's work in a process that has loaded another kernel."""
    text = (
        "import time\n"
        "from bench.profile.kernels import find_kernel\n"
        "from tsengine.kernels import windows\n"
        f"kernel = find_kernel({name!r})\n"
        "windows.find_windows.compile()\n"
        "started = time.perf_counter()\n"
        "kernel.compile()\n"
        "print(1e3 * (time.perf_counter() - started))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
