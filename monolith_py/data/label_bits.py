"""Labels of a candidate in 64 bits, as the joiner keeps them: the reference of monolith_py/core/joiner/labels.hpp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from monolith_py.config import JobConfig
from monolith_py.data.columns import FloatArray, Int64Array

# Bits of a number: a float32 without sign and the last 13 bits of its fraction, from 2^-32 on.
NUMBER_BITS = 16
_DROPPED, _LEAST = 13, (127 - 32) << 10
_GREATEST = 1e30


@dataclass(frozen=True)
class LabelBits:
    """Places of the labels in 64 bits: one bit for a binary task or a class, 16 for a number.

    Numbers only grow, like bits, so the order of actions makes no difference.

    >>> bits = LabelBits((1, NUMBER_BITS))
    >>> labels = bits.merged(bits.of_value(bits.mask(1), 3.0), bits.of_value(bits.mask(1), 2.5))
    >>> bits.values(np.array([labels, 1], np.uint64), 1).tolist()
    [3.0, 0.0]
    """

    widths: tuple[int, ...]  # of each label, in order

    @staticmethod
    def of(job: JobConfig) -> LabelBits:
        """Return the places of the labels of `job`."""
        return LabelBits(tuple(NUMBER_BITS if task.kind == "regression" else 1 for task in job.tasks for _ in task.outputs))

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        """Return the first bit of each label."""
        return tuple(sum(self.widths[:place]) for place in range(len(self.widths)))

    @cached_property
    def all(self) -> int:
        """Return the labels that no action can raise."""
        return (1 << sum(self.widths)) - 1

    def mask(self, place: int) -> int:
        """Return the bits of label `place`."""
        return (1 << self.widths[place]) - 1 << self.shifts[place]

    def of_value(self, kind: int, value: float) -> int:
        """Return the bits that an action of a value above 0 makes of the labels `kind`: its numbers become that value."""
        bits = kind
        for mask, shift in self._numbers:
            if kind & mask:
                bits = bits & ~mask | _code(value) << shift
        return bits

    def merged(self, one: int, other: int) -> int:
        """Return labels with what either has."""
        bits = one | other
        for mask, _ in self._numbers:
            bits = bits & ~mask | max(one & mask, other & mask)
        return bits

    def fresh(self, bits: int, labels: int) -> int:
        """Return what `bits` make positive that `labels` do not have."""
        found = bits & ~labels
        for mask, _ in self._numbers:
            found = found & ~mask | (0 if labels & mask else bits & mask)
        return found

    def values(self, labels: np.ndarray[tuple[int], np.dtype[np.uint64]], place: int) -> FloatArray:
        """Return label `place` of each labels uint64 (n,): float32 (n,), 0 or 1, or a number."""
        fields = self._fields(labels, place)
        if self.widths[place] == 1:
            return fields.astype(np.float32)
        numbers = (fields + _LEAST << _DROPPED).astype(np.uint32).view(np.float32)
        return np.where(fields > 0, numbers, np.float32(0))

    def positives(self, labels: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Int64Array:
        """Return whether each label is above 0: int64 (n, labels)."""
        return np.stack([(self._fields(labels, place) > 0).astype(np.int64) for place in range(len(self.widths))], axis=1)

    def of_values(self, values: Sequence[float], place: int) -> list[int]:
        """Return the bits of label `place` for its values."""
        mask = self.mask(place)
        return [self.of_value(mask, value) if value > 0 else 0 for value in values]

    def _fields(self, labels: np.ndarray[tuple[int], np.dtype[np.uint64]], place: int) -> Int64Array:
        fields: Int64Array = ((labels & np.uint64(self.mask(place))) >> np.uint64(self.shifts[place])).astype(np.int64)
        return fields

    @cached_property
    def _numbers(self) -> tuple[tuple[int, int], ...]:
        """Return mask and first bit of each number."""
        return tuple((self.mask(place), self.shifts[place]) for place, width in enumerate(self.widths) if width > 1)


def _code(value: float) -> int:
    bits = int(np.float32(min(value, _GREATEST)).view(np.uint32))
    return min(max((bits + (1 << _DROPPED - 1) >> _DROPPED) - _LEAST, 1), (1 << NUMBER_BITS) - 1)
