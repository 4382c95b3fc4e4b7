"""Live atoms of a sparse layer, and the swap from one set of them to another.

Letters: k live atoms of the layer, r atoms removed, a atoms added. An atom is a block of outputs and one input column; atoms are numbered
block by block and by column within a block. The key of an atom is block * num_columns + column, so keys ascend with the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monolith_py.data.columns import Int64Array
from monolith_py.errors import WireError

Int32Array = npt.NDArray[np.int32]
UInt32Array = npt.NDArray[np.uint32]

_MAX_COLUMNS = 1 << 31


@dataclass(frozen=True)
class LiveAtoms:
    """Live atoms of one layer: atoms of block b have the columns `columns[bounds[b] : bounds[b + 1]]`, ascending.

    >>> LiveAtoms.of(np.array([0, 2, 3], np.int32), np.array([1, 4, 0], np.int32)).keys(5)
    array([1, 4, 5])
    """

    bounds: Int32Array  # (blocks + 1,)
    columns: Int32Array  # (k,)

    @staticmethod
    def of(bounds: Int32Array, columns: Int32Array) -> LiveAtoms:
        """Return the atoms of `bounds` and `columns`.

        Raises:
            ValueError: they describe no set of atoms, or not in order.
        """
        if bounds.ndim != 1 or columns.ndim != 1 or len(bounds) == 0:
            raise ValueError(f"bounds and columns must be (blocks + 1,) and (k,), got {bounds.shape} and {columns.shape}")
        if bounds[0] != 0 or bounds[-1] != len(columns) or (np.diff(bounds) < 0).any():
            raise ValueError(f"bounds must ascend from 0 to {len(columns)} columns, got {bounds[0]} to {bounds[-1]}")
        if len(columns) and columns.min() < 0:
            raise ValueError(f"columns must be >= 0, got {columns.min()}")
        atoms = LiveAtoms(bounds, columns)
        if (np.diff(atoms.keys(atoms.num_columns)) <= 0).any():
            raise ValueError("columns must ascend within a block, got one that does not")
        return atoms

    @property
    def num_atoms(self) -> int:
        """Return k."""
        return len(self.columns)

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks, including those without a live atom."""
        return len(self.bounds) - 1

    @property
    def num_columns(self) -> int:
        """Return the smallest stride of keys: the largest column plus one."""
        return 1 + int(self.columns.max(initial=0))

    def keys(self, num_columns: int) -> Int64Array:
        """Return the keys of the atoms, int64 (k,)."""
        blocks = np.repeat(np.arange(self.num_blocks, dtype=np.int64), np.diff(self.bounds))
        return blocks * num_columns + self.columns

    def after(self, swap: Swap) -> LiveAtoms:
        """Return the live atoms after `swap`.

        Raises:
            WireError: the swap does not fit these atoms.
        """
        if not self.num_columns <= swap.num_columns <= _MAX_COLUMNS:
            raise WireError(f"swap.num_columns must be in [{self.num_columns}, {_MAX_COLUMNS}], got {swap.num_columns}")
        removed, added = _positions(swap.removed), _positions(swap.added)
        if len(removed) and removed[-1] >= self.num_atoms:
            raise WireError(f"swap.removed must name atoms in [0, {self.num_atoms}), got {removed[-1]}")
        num_keys = self.num_blocks * swap.num_columns
        if len(added) and added[-1] >= num_keys:
            raise WireError(f"swap.added must name keys in [0, {num_keys}), got {added[-1]}")
        keys = np.sort(np.concatenate([np.delete(self.keys(swap.num_columns), removed), added]))
        twice = keys[1:][np.diff(keys) == 0]
        if len(twice):
            raise WireError(f"swap.added must name atoms that do not live, got key {twice[0]}")
        blocks, columns = np.divmod(keys, swap.num_columns)
        bounds = np.searchsorted(blocks, np.arange(self.num_blocks + 1))
        return LiveAtoms(bounds.astype(np.int32), columns.astype(np.int32))


@dataclass(frozen=True)
class Swap:
    """Atoms of one layer that are removed and added. Each list is ascending and holds gaps.

    A gap is the number of skipped values since the member before, so no list can repeat a member or break the order.
    """

    topology_version: int  # number of swaps of the layer, this one included
    removed: UInt32Array  # (r,) gaps of the indices among the atoms before the swap
    num_columns: int  # stride of the keys
    added: UInt32Array  # (a,) gaps of the keys

    @staticmethod
    def between(old: LiveAtoms, new: LiveAtoms, topology_version: int) -> Swap:
        """Return the swap from `old` to `new`, which have the same number of blocks."""
        assert old.num_blocks == new.num_blocks, (old.num_blocks, new.num_blocks)
        num_columns = max(old.num_columns, new.num_columns)
        old_keys, new_keys = old.keys(num_columns), new.keys(num_columns)
        removed = np.flatnonzero(~np.isin(old_keys, new_keys, assume_unique=True))
        return Swap(topology_version, _gaps(removed), num_columns, _gaps(np.setdiff1d(new_keys, old_keys, assume_unique=True)))


def _gaps(positions: Int64Array) -> UInt32Array:
    """Return the gaps of ascending positions."""
    gaps = np.diff(positions, prepend=-1) - 1
    assert gaps.max(initial=0) < 1 << 32, gaps.max()
    return gaps.astype(np.uint32)


def _positions(gaps: UInt32Array) -> Int64Array:
    positions: Int64Array = np.cumsum(gaps.astype(np.int64) + 1) - 1
    return positions
