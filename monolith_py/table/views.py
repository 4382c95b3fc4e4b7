"""Results of an embedding table's calls: deltas, entries of the id map, counts.

Letters: n fids or rows, D the table's dim, m evicted fids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TableDelta:
    """Changes of a table since a consumer's last acknowledged drain."""

    ticket: int  # for `EmbeddingTable.ack`
    fids: Int64Array  # (n,) of changed rows, each once
    weights: FloatArray  # (n, D) current weights
    evicted: Int64Array  # (m,) fids that lost their rows


@dataclass(frozen=True)
class EncodedDelta:
    """Changes of a table since a consumer's last acknowledged drain, with packed rows."""

    ticket: int  # for `EmbeddingTable.ack`
    fids: Int64Array  # (n,) of changed rows, each once
    rows: npt.NDArray[np.uint8]  # (n, R) current weights: the slices in order, each packed by `monolith_py.sync` in its encoding
    evicted: Int64Array  # (m,) fids that lost their rows
    digest: int = 0  # of all rows of the table once the changes are applied, 64 bits: `monolith_py.sync.digest`


class SliceForm(NamedTuple):
    """Form of one slice in a row: rows move with their state between tables of equal forms."""

    name: str
    dim: int
    optimizer: str  # kind of the rule


@dataclass(frozen=True)
class TableRows:
    """Rows of n fids with all that a table keeps of them. S floats are the state of a row, slice after slice."""

    fids: Int64Array  # (n,)
    weights: FloatArray  # (n, D)
    state: FloatArray  # (n, S)
    counts: npt.NDArray[np.uint16]  # (n,) sightings, saturating at 65,535
    seen_s: Int64Array  # (n,) last sighting, event time in seconds, rounded down to a thousandth of the TTL
    forms: tuple[SliceForm, ...]  # of the slices

    def __len__(self) -> int:
        return len(self.fids)


@dataclass(frozen=True)
class Entries:
    """All n entries of an id map, in no order."""

    fids: Int64Array  # (n,)
    rows: UInt32Array  # (n,) NO_ROW for a candidate
    counts: npt.NDArray[np.uint16]  # (n,) sightings, saturating at 65,535
    seen_s: Int64Array  # (n,) last sighting, event time in seconds, rounded down to a thousandth of the TTL


@dataclass(frozen=True)
class TableStats:
    """Counts of one table."""

    rows: int
    candidates: int  # counted fids that are not admitted yet
    admitted: int  # rows created since the table was made
    filtered: int  # look-ups of fids not yet admitted, since the table was made
    evicted: int  # rows evicted by TTL or budget, or removed, since the table was made
    freed: int  # rows set to zero by their optimizer since the table was made; consumers free them, the table keeps their state
    bytes: int  # memory of id map, rows and optimizer state
    id_map_capacity: int  # entries
