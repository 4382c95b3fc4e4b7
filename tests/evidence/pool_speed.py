"""What the width of a row costs in time: the most that a pool could save by holding fewer atoms, were its rows repacked for nothing.

Letters: n fids of a batch, D a row's dim.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py import _core
from monolith_py.table import Adagrad, EmbeddingBags, Feature

DIMS = (32, 16, 8, 4)
_BATCH, _ROUNDS, _CHUNK = 65_536, 21, 1 << 20


@dataclass(frozen=True)
class Speed:
    """ns a fid of one dim, medians: look-up and pooling alone, and with the optimizer's step."""

    lookup_ns: float
    step_ns: float


def speeds(num_rows: int) -> dict[int, Speed]:
    """Return the speed of each dim in a table of so many rows, fids drawn uniformly; rounds of all dims interleaved, on one thread."""
    torch.set_num_threads(1)
    _core.set_num_threads(1)
    bags = {dim: EmbeddingBags([Feature("f", dim)], Adagrad()) for dim in DIMS}
    for one in bags.values():
        for first in range(0, num_rows, _CHUNK):
            one.tables["f"].find_or_insert(np.arange(first, min(first + _CHUNK, num_rows)), 0)
    generator = np.random.default_rng(0)
    times: dict[int, list[tuple[float, float]]] = {dim: [] for dim in DIMS}
    for _ in range(_ROUNDS):
        fids = torch.from_numpy(generator.integers(0, num_rows, (2, _BATCH)))
        for dim, one in bags.items():
            times[dim].append((_lookup_s(one, fids[0]), _step_s(one, fids[1])))
    return {dim: Speed(*(1e9 / _BATCH * np.median(rounds, axis=0)).tolist()) for dim, rounds in times.items()}


def _lookup_s(bags: EmbeddingBags, fids: torch.Tensor) -> float:
    kjt = _kjt(fids)
    with torch.no_grad():
        began_s = time.thread_time()
        bags(kjt)
        return time.thread_time() - began_s


def _step_s(bags: EmbeddingBags, fids: torch.Tensor) -> float:
    kjt, gradient = _kjt(fids), torch.full((len(fids), bags.features[0].dim), 1e-3)
    began_s = time.thread_time()
    bags(kjt).values().backward(gradient)
    return time.thread_time() - began_s


def _kjt(fids: torch.Tensor) -> KeyedJaggedTensor:
    lengths, offsets = torch.ones(len(fids), dtype=torch.int32), torch.arange(len(fids) + 1)
    return KeyedJaggedTensor(["f"], fids, None, lengths, offsets, len(fids))
