"""Label sets as columns: rows of pair ids over a dictionary of (name, value) pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

NO_ID = -1
_FEW = 64
"""So many texts are made sooner than their symbols are sorted."""


@dataclass(frozen=True, slots=True)
class LabelTexts:
    """The arrays behind a dictionary, for kernels; not to be written.

    Symbol s is ``text[text_offsets[s]:text_offsets[s + 1]]``, UTF-8; ``pair_names, pair_values:
    u32[P]`` are the symbols of pairs. Different symbols have different texts.
    """

    text: npt.NDArray[np.uint8]
    text_offsets: npt.NDArray[np.int64]
    pair_names: npt.NDArray[np.uint32]
    pair_values: npt.NDArray[np.uint32]


class LabelDictionary(Protocol):
    """Texts of symbols and pairs. Ids are dense from 0, never reused, never change meaning."""

    @property
    def arrays(self) -> LabelTexts:
        """What it knows, as arrays."""

    @property
    def n_symbols(self) -> int:
        """Number of symbols."""

    @property
    def pair_names(self) -> npt.NDArray[np.uint32]:
        """Symbol id of each pair's label name: u32[P], read-only."""

    @property
    def pair_values(self) -> npt.NDArray[np.uint32]:
        """Symbol id of each pair's value: u32[P], read-only."""

    def text(self, symbol: int) -> str:
        """Text of a symbol."""

    def texts(self, symbols: npt.NDArray[np.integer]) -> list[str]:
        """Texts of many symbols, in order."""

    def find_symbol(self, text: str) -> int:
        """Id of a symbol, NO_ID if there is none."""

    def find_pair(self, name: int, value: int) -> int:
        """Id of the pair of two symbol ids, NO_ID if there is none."""


@dataclass(frozen=True, slots=True)
class LabelRows:
    """Label sets of S series in CSR form.

    ``pairs[offsets[s]:offsets[s + 1]]`` are the pair ids of row s, in bytewise order of the label
    *names*; so equal label sets have equal runs of ids. Empty values do not occur.
    Shapes: ``offsets: i64[S + 1]``, ``pairs: u32[...]``.
    """

    offsets: npt.NDArray[np.int64]
    pairs: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def texts_of_pairs(
    dictionary: LabelDictionary, pairs: npt.NDArray[np.uint32]
) -> tuple[list[str], list[str]]:
    """Names and values of many pairs; a fraction of the time of asking one by one."""
    if len(pairs) <= _FEW:
        symbols = np.concatenate((dictionary.pair_names[pairs], dictionary.pair_values[pairs]))
        both = dictionary.texts(symbols)
        return both[: len(pairs)], both[len(pairs) :]
    names, codes = np.unique(dictionary.pair_names[pairs], return_inverse=True)
    texts = dictionary.texts(names)
    return [texts[code] for code in codes.tolist()], dictionary.texts(dictionary.pair_values[pairs])


def label_dicts(dictionary: LabelDictionary, rows: LabelRows) -> list[dict[str, str]]:
    """Label sets as dicts in the order of the rows: for answers, not for hot paths."""
    distinct, inverse = np.unique(rows.pairs, return_inverse=True)
    names, values = dictionary.pair_names, dictionary.pair_values
    texts = [
        (dictionary.text(int(names[pair])), dictionary.text(int(values[pair])))
        for pair in distinct.tolist()
    ]
    codes = inverse.tolist()
    bounds = rows.offsets.tolist()
    return [
        dict([texts[code] for code in codes[start:end]])
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def format_series(labels: dict[str, str]) -> str:
    """A label set as people write it: ``name{a="b"}``."""
    rest = ", ".join(
        f'{name}="{_escape(value)}"' for name, value in labels.items() if name != "__name__"
    )
    name = labels.get("__name__", "")
    return f"{name}{{{rest}}}" if rest or not name else name


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
