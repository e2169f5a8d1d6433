"""tsengine: a time-series metrics engine, inside a Python process or as a server.

>>> import tsengine
>>> db = tsengine.open("metrics.tsdb")

Importing this package is cheap: numba, numpy and pyarrow are loaded when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tsengine import errors
from tsengine.options import LabelLimits, Options, RetentionRule, Tier

if TYPE_CHECKING:
    from tsengine.backup.making import BackupReport, make_backup
    from tsengine.backup.places import BackupCheck, check_backups, list_backups
    from tsengine.backup.pruning import PruneReport, prune_backups
    from tsengine.backup.record import BackupRecord
    from tsengine.backup.restoring import restore_backup
    from tsengine.backup.store import StoreOptions
    from tsengine.bringing_back import Return, bring_back
    from tsengine.engine import Database, QueryWatch, Result, WriteResult, open
    from tsengine.inspection import CheckReport, Problem, check, inspect, snapshot
    from tsengine.kernels.compiler import missing_kernel_count, warmup
    from tsengine.kernels.loading import load_kernels
    from tsengine.model.histogram_values import NativeHistogram
    from tsengine.model.histograms import Histograms
    from tsengine.promql.parser import parse_selector
    from tsengine.rehearsal import RehearsalDatabase
    from tsengine.storage.retention_report import PlannedRemoval, RetentionPlan

__version__ = "0.1.0"

__all__ = [
    "BackupCheck",
    "BackupRecord",
    "BackupReport",
    "CheckReport",
    "Database",
    "Histograms",
    "LabelLimits",
    "NativeHistogram",
    "Options",
    "PlannedRemoval",
    "Problem",
    "PruneReport",
    "QueryWatch",
    "RehearsalDatabase",
    "Result",
    "RetentionPlan",
    "RetentionRule",
    "Return",
    "StoreOptions",
    "Tier",
    "WriteResult",
    "__version__",
    "bring_back",
    "check",
    "check_backups",
    "errors",
    "inspect",
    "list_backups",
    "load_kernels",
    "make_backup",
    "missing_kernel_count",
    "open",
    "parse_selector",
    "prune_backups",
    "restore_backup",
    "snapshot",
    "warmup",
]

_LAZY = {
    "BackupReport": "tsengine.backup.making",
    "make_backup": "tsengine.backup.making",
    "BackupCheck": "tsengine.backup.places",
    "check_backups": "tsengine.backup.places",
    "list_backups": "tsengine.backup.places",
    "PruneReport": "tsengine.backup.pruning",
    "prune_backups": "tsengine.backup.pruning",
    "BackupRecord": "tsengine.backup.record",
    "restore_backup": "tsengine.backup.restoring",
    "StoreOptions": "tsengine.backup.store",
    "Return": "tsengine.bringing_back",
    "bring_back": "tsengine.bringing_back",
    "Database": "tsengine.engine",
    "QueryWatch": "tsengine.engine",
    "Result": "tsengine.engine",
    "WriteResult": "tsengine.engine",
    "open": "tsengine.engine",
    "CheckReport": "tsengine.inspection",
    "Problem": "tsengine.inspection",
    "check": "tsengine.inspection",
    "inspect": "tsengine.inspection",
    "snapshot": "tsengine.inspection",
    "load_kernels": "tsengine.kernels.loading",
    "missing_kernel_count": "tsengine.kernels.compiler",
    "warmup": "tsengine.kernels.compiler",
    "NativeHistogram": "tsengine.model.histogram_values",
    "Histograms": "tsengine.model.histograms",
    "parse_selector": "tsengine.promql.parser",
    "RehearsalDatabase": "tsengine.rehearsal",
    "PlannedRemoval": "tsengine.storage.retention_report",
    "RetentionPlan": "tsengine.storage.retention_report",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'tsengine' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
