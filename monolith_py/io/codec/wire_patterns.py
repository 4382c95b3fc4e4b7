"""Fids of one-candidate impressions, found by a pattern of the encoded bytes.

The impressions of one replica differ in their fids only, and encoded fids have a fixed width, so the fids stand at the same places. A
pattern made of one impression finds those of 36 features in 7 us in every other; the columns' own accessors take 60 us. A match also
proves that the columns are valid: their names are those of an impression that was checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from monolith_py.pb import example_pb2 as pb

# Replicas of two schemas serve during a roll-out; more at once are not worth remembering.
MAX_PATTERNS = 8


class FlatColumns(NamedTuple):
    """Sparse columns of one row with one fid each: little-endian int64 fids in the order of `names`."""

    names: tuple[str, ...]
    fids: bytes


class _WirePattern(NamedTuple):
    names: tuple[str, ...]
    shared: re.Pattern[bytes]
    candidates: re.Pattern[bytes]


class WirePatterns:
    """The dim of each dense feature of the job (`widths`), and the patterns seen, the last one first. For one thread."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self.widths = widths
        self._patterns: list[_WirePattern] = []

    def flatten(self, message: pb.Impression) -> FlatColumns | None:
        """Return the columns of an impression of one candidate that matches a pattern, else None."""
        if not self._patterns or len(message.item_ids) != 1:
            return None
        shared, candidates = message.shared.SerializeToString(), message.candidates.SerializeToString()
        for index, pattern in enumerate(self._patterns):
            of_shared, of_candidates = pattern.shared.fullmatch(shared), pattern.candidates.fullmatch(candidates)
            if of_shared is not None and of_candidates is not None:
                if index:
                    self._patterns.insert(0, self._patterns.pop(index))
                return FlatColumns(pattern.names, b"".join(of_shared.groups() + of_candidates.groups()))
        return None

    def columns_of(self, message: pb.Impression) -> FlatColumns | None:
        """Return the columns of a valid impression, None if they are not flat."""
        columns = self.flatten(message)
        if columns is None and self.learn(message):
            return self.flatten(message)
        return columns

    def learn(self, message: pb.Impression) -> bool:
        """Remember the pattern of a valid impression and return True, if it is flat: one candidate, sparse columns of one fid each."""
        if len(message.item_ids) != 1:
            return False
        parts = (message.shared, message.candidates)
        if any(part.dense for part in parts) or any(column.lengths or len(column.fids) != 1 for part in parts for column in part.sparse):
            return False
        names = tuple(column.name for part in parts for column in part.sparse)
        self._patterns = [_WirePattern(names, _pattern(message.shared), _pattern(message.candidates)), *self._patterns][:MAX_PATTERNS]
        return True


def _pattern(part: pb.FeatureColumns) -> re.Pattern[bytes]:
    """Return the pattern of the encoded columns of these names; the fids of a column are its last bytes."""
    zeros = (pb.FeatureColumns(sparse=[pb.SparseColumn(name=column.name, fids=[0])]).SerializeToString() for column in part.sparse)
    return re.compile(b"".join(re.escape(column[:-8]) + b"(.{8})" for column in zeros), re.DOTALL)
