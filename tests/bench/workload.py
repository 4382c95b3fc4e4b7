"""Batches of ids as a recommender meets them: rows by number for those who take numbers, 64-bit fids for the table.

Letters: n ids of a batch, N rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ZIPF_EXPONENT = 1.05

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


def fids_of(rows: Int64Array) -> Int64Array:
    """Return the fid of each row number: the finaliser of SplitMix64 (Steele et al. 2014), a bijection that is not the table's hash."""
    x = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x1234567)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


@dataclass(frozen=True)
class Ids:
    """One batch: row numbers, int64 (n,), and their fids, int64 (n,)."""

    numbers: Int64Array
    fids: Int64Array

    @staticmethod
    def of(numbers: Int64Array) -> Ids:
        """Return the batch of these row numbers."""
        return Ids(numbers, fids_of(numbers))


class RowPicker:
    """Draws row numbers in [0, N), "uniform" or "zipf"; popular rows of the latter lie scattered among the others."""

    def __init__(self, num_rows: int, generator: np.random.Generator) -> None:
        self._num_rows = num_rows
        self._generator = generator
        self._cumulative = np.cumsum(np.arange(1, num_rows + 1, dtype=np.float64) ** -ZIPF_EXPONENT)
        self._by_rank = generator.permutation(num_rows)

    def draw(self, stream: str, n: int) -> Int64Array:
        """Return row numbers, int64 (n,)."""
        if stream == "uniform":
            return self._generator.integers(0, self._num_rows, n)
        assert stream == "zipf"
        ranks = np.searchsorted(self._cumulative, self._generator.random(n) * self._cumulative[-1], side="right")
        return self._by_rank[np.minimum(ranks, self._num_rows - 1)]


@dataclass(frozen=True)
class Scale:
    """Size of a bench: rows of a table, ids of a batch, rounds that count and rounds before them, threads; and its clock."""

    rows: int
    batch: int
    rounds: int
    warmup: int
    threads: int = 1
    clock: Callable[[], float] = time.perf_counter
