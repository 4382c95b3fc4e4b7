"""Rows of a table that break a rule: an error, or counted and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monolith_py.errors import WireError

_SHOWN_CHARS = 60


class BadRows:
    """Rules on the rows of one file; without `skip` the first row that breaks one is an error.

    >>> bad = BadRows(Path("users.parquet"), skip=True)
    >>> bad.broken("age", 10, np.array([True, False]), "must be finite", str).tolist()
    [True, False]
    >>> dict(bad.counts)
    {"users.parquet: column 'age' must be finite": 1}
    """

    def __init__(self, path: Path, *, skip: bool) -> None:
        self.path, self._skip = path, skip
        self.counts: Counter[str] = Counter()  # rows by file, column and rule

    def broken(
        self, column: str, first_row: int, good: npt.NDArray[np.bool_], rule: str, value: Callable[[int], object]
    ) -> npt.NDArray[np.bool_]:
        """Return `good`, bool (B,) of the rows from `first_row` on; count the others. `value(i)` is the one of row `first_row` + i.

        Raises:
            WireError: a row is not good, and not `skip`; rows count from 0.
        """
        if not good.all():
            if not self._skip:
                row = int(np.flatnonzero(~good)[0])
                shown = repr(value(row))
                shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
                raise WireError(f"{self.path}: column {column!r} {rule}, got {shown} at row {first_row + row}")
            self.counts[f"{self.path}: column {column!r} {rule}"] += int((~good).sum())
        return good
