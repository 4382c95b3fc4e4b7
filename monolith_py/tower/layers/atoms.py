"""Grid, scores and topology of a layer's atoms; a topology is a mask or a pair of CSR arrays.

Letters: O outputs and I inputs of a layer, h outputs of an atom. The grid of the atoms is (blocks, I) with blocks = ceil(O / h), or (O,)
if an atom is a whole neuron. A mask is bool, of the grid's shape, True for a live atom.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monolith_py.config.sparsity import Atom, SparsityConfig

Mask = NDArray[np.bool_]
Scores = NDArray[np.floating[Any]]
Indices = NDArray[np.int32]

MAX_INPUTS = 65_536  # the core numbers inputs with 16 bits


def height_of(atom: Atom) -> int:
    """Return the number of outputs of an atom.

    Raises:
        ValueError: the atom is a neuron.
    """
    if atom == "neuron":
        raise ValueError("atom must be '16x1' or '1x1' to have a height, got 'neuron'")
    return int(atom.split("x")[0])


def grid_of(shape: tuple[int, int], atom: Atom) -> tuple[int, ...]:
    """Return the grid of the atoms of a weight (O, I). The last block is smaller if h does not divide O."""
    outputs, inputs = shape
    return (outputs,) if atom == "neuron" else (-(-outputs // height_of(atom)), inputs)


def csr_of(mask: Mask) -> tuple[Indices, Indices]:
    """Return (bounds int32 (blocks + 1,), columns int32 (atoms,)): block b holds columns[bounds[b]:bounds[b + 1]], ascending.

    A mask (O,) of neurons is one block.
    """
    rows = np.atleast_2d(mask)
    bounds = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(np.count_nonzero(rows, axis=1), out=bounds[1:])
    return bounds, np.nonzero(rows)[1].astype(np.int32)


def mask_of(bounds: Indices, columns: Indices, grid: tuple[int, ...]) -> Mask:
    """Return the mask of the CSR arrays of `csr_of`.

    Raises:
        ValueError: the arrays are not a topology of this grid.
    """
    blocks, width = grid if len(grid) == 2 else (1, *grid)
    if len(bounds) != blocks + 1 or bounds[0] != 0 or bounds[-1] != len(columns) or np.any(np.diff(bounds) < 0):
        raise ValueError(f"bounds must ascend from 0 to {len(columns)} atoms in {blocks + 1} values, got {bounds!r}")
    block = np.repeat(np.arange(blocks, dtype=np.int64), np.diff(bounds))
    places = block * width + columns
    if len(columns) and (columns.min() < 0 or columns.max() >= width or np.any(np.diff(places) <= 0)):
        raise ValueError(f"columns must ascend within each block and lie in [0, {width}), got {columns!r}")
    mask = np.zeros(blocks * width, np.bool_)
    mask[places] = True
    return mask.reshape(grid)


def why_dense(inputs: int, outputs: int, config: SparsityConfig) -> str | None:
    """Return why a layer of a tower must stay dense, None if it can be sparse."""
    if config.preset == "dense":
        return "model.sparsity.preset is 'dense'"
    if inputs > MAX_INPUTS:
        return f"model.sparsity takes up to {MAX_INPUTS} inputs, got {inputs}"
    if config.atom == "16x1" and outputs < 16:
        return f"atoms of 16 outputs need a layer of 16 or more, got {outputs}"
    if config.run and inputs % config.run[1]:
        return f"model.sparsity.scope {config.scope!r} needs inputs that are a multiple of {config.run[1]}, got {inputs}"
    if config.density * (outputs if config.atom == "neuron" else inputs) < 1:
        return f"density {config.density} leaves less than one atom for each block of a layer of {inputs} inputs and {outputs} outputs"
    return None
