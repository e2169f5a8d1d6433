"""Series that take no samples for the moment, because they are being dropped.

Above all when the commit that drops them failed: the disk may hold the manifest that names them or
the one that does not. Samples with their refs could be lost by a crash, their labels under new refs
contradict the log. So they wait until some later commit tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tsengine.errors import Overloaded


@dataclass(frozen=True, slots=True, eq=False)
class RefusedRefs:
    """``is_refused: bool[N]`` by ref, as long as ``is_settled`` says False."""

    is_refused: npt.NDArray[np.bool_]
    is_settled: Callable[[], bool]

    def check(self, refs: npt.NDArray[np.uint32]) -> None:
        """Raise Overloaded if one of the refs is refused."""
        if self.is_refused[refs[refs < len(self.is_refused)]].any() and not self.is_settled():
            raise Overloaded("series that had no data any more are being removed; try again later")
