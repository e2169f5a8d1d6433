"""What a database answers, in the one form that scripts are checked against."""

from dataclasses import dataclass, field

from tests.promql.histogram_notation import HINTS, Noted
from tsengine.model.histogram_values import NativeHistogram


@dataclass(frozen=True)
class Answer:
    """Result of a query.

    ``series`` holds (labels, times in ms, cells) in the order of the answer; a cell is a float or
    a histogram. A scalar is one series without labels.
    """

    type: str
    series: list = field(default_factory=list)
    string: str | None = None
    warnings: list = field(default_factory=list)
    infos: list = field(default_factory=list)

    def __str__(self):
        if self.type == "string":
            return f"the string {self.string!r}"
        rows = [(labels, [str(cell) for cell in cells]) for labels, _, cells in self.series]
        return f"a {self.type} of {rows}"


def answer_of(result) -> Answer:
    """The answer that a `tsengine.Result` holds."""
    notes = {"warnings": list(result.warnings), "infos": list(result.infos)}
    if result.type == "string":
        return Answer("string", string=result.string, **notes)
    if result.type == "scalar":
        times = list(result.timestamps)
        return Answer("scalar", [({}, times, [float(result.to_numpy()[0, 0])])], **notes)
    rows = zip(result.series(), result.histograms(), strict=True)
    return Answer(result.type, [_merged(*floats, *found[1:]) for floats, found in rows], **notes)


def _merged(labels, float_times, values, histogram_times, histograms):
    """One series of floats and histograms in order of time."""
    pairs = list(zip(float_times.tolist(), values, strict=True))
    pairs += zip(histogram_times.tolist(), map(_noted, histograms), strict=True)
    pairs.sort(key=lambda pair: pair[0])
    return labels, [t for t, _ in pairs], [cell for _, cell in pairs]


def _noted(histogram: NativeHistogram):
    return Noted(
        schema=histogram.schema,
        hint=HINTS[histogram.hint],
        count=histogram.count,
        sum=histogram.sum,
        zero_threshold=histogram.zero_threshold,
        zero_count=histogram.zero_count,
        positive=dict(histogram.positive),
        negative=dict(histogram.negative),
        bounds=histogram.custom_bounds,
    )
