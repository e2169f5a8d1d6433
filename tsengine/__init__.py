"""tsengine: a time-series metrics engine, inside a Python process or as a server.

>>> import tsengine
>>> db = tsengine.open("metrics.tsdb")

Importing this package is cheap: numba, numpy and pyarrow are loaded when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tsengine import errors
from tsengine.options import LabelLimits, Options

if TYPE_CHECKING:
    from tsengine.engine import Database, QueryWatch, Result, WriteResult, open
    from tsengine.inspection import CheckReport, Problem, check, inspect
    from tsengine.kernels.compiler import missing_kernel_count, warmup
    from tsengine.model.histogram_values import NativeHistogram
    from tsengine.model.histograms import Histograms

__version__ = "0.1.0"

__all__ = [
    "CheckReport",
    "Database",
    "Histograms",
    "LabelLimits",
    "NativeHistogram",
    "Options",
    "Problem",
    "QueryWatch",
    "Result",
    "WriteResult",
    "__version__",
    "check",
    "errors",
    "inspect",
    "missing_kernel_count",
    "open",
    "warmup",
]

_LAZY = {
    "Database": "tsengine.engine",
    "QueryWatch": "tsengine.engine",
    "Result": "tsengine.engine",
    "WriteResult": "tsengine.engine",
    "open": "tsengine.engine",
    "CheckReport": "tsengine.inspection",
    "Problem": "tsengine.inspection",
    "check": "tsengine.inspection",
    "inspect": "tsengine.inspection",
    "missing_kernel_count": "tsengine.kernels.compiler",
    "warmup": "tsengine.kernels.compiler",
    "NativeHistogram": "tsengine.model.histogram_values",
    "Histograms": "tsengine.model.histograms",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'tsengine' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
