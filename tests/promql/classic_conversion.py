"""Classic histograms of a load block as native ones with custom buckets (`load_with_nhcb`)."""

import math

from tests.promql.histogram_notation import Noted
from tsengine.model.histograms import CUSTOM_SCHEMA

_SUFFIXES = ("_bucket", "_sum", "_count")


class ConversionError(Exception):
    """The samples of a classic histogram contradict each other."""


def converted(series, step_ms):
    """(labels, times in ms, histograms as `Noted`) of each classic histogram of a block.

    Parameters
    ----------
    series
        (labels, items) of the block's series, items expanded.
    """
    found = {}
    for labels, items in series:
        name = labels.get("__name__", "")
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
        le = _bound(labels.get("le", "")) if suffix == "_bucket" else None
        if suffix is None or (suffix == "_bucket" and le is None):
            continue
        base = {key: value for key, value in labels.items() if key != "le"}
        base["__name__"] = name.removesuffix(suffix)
        samples = found.setdefault(frozenset(base.items()), {})
        for idx, item in enumerate(items):
            if isinstance(item, float):
                sample = samples.setdefault(idx * step_ms, {"buckets": {}})
                if le is None:
                    sample[suffix] = item
                else:
                    sample["buckets"].setdefault(le, item)
    return [
        (dict(base), sorted(samples), [_native(samples[t]) for t in sorted(samples)])
        for base, samples in found.items()
        if samples
    ]


def _bound(text):
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if math.isnan(bound) else bound


def _native(sample):
    bounds = sorted(sample["buckets"])
    cumulative = [sample["buckets"][bound] for bound in bounds]
    count = sample.get("_count", cumulative[-1] if cumulative else 0.0)
    if not bounds or bounds[-1] != math.inf:
        bounds.append(math.inf)
        cumulative.append(count)
    if cumulative[-1] != count:
        raise ConversionError(f"the count {count} is not that of the bucket +Inf")
    counts = [high - low for low, high in zip([0.0, *cumulative], cumulative, strict=False)]
    if min(counts) < 0:
        raise ConversionError(f"buckets decrease: {cumulative}")
    return Noted(
        schema=CUSTOM_SCHEMA,
        count=count,
        sum=sample.get("_sum", 0.0),
        positive={idx: n for idx, n in enumerate(counts) if n != 0},
        bounds=tuple(bounds[:-1]),
    )
