"""Rows of any width: tables of dims 1, 2, 3, 5, 7, 17 and 33 learn, pack, save and pool as those of multiples of 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from monolith_py import _core
from monolith_py.sync import RowEncoding, unpack_rows
from monolith_py.table import Adagrad, Adam, EmbeddingBags, EmbeddingTable, Feature, Optimizer, Slice

DIMS = [1, 2, 3, 5, 7, 17, 33]


@pytest.mark.parametrize("level", _core.simd_levels())
@pytest.mark.parametrize("dim", DIMS)
def test_rows_of_any_dim_learn_as_the_formula_says(dim: int, level: str, tmp_path: Path) -> None:
    _core.set_simd_level(level)
    table = EmbeddingTable(dim, Adagrad(lr=0.5, eps=1e-8, initial_accumulator=0.25), seed=3)
    generator = np.random.default_rng(dim)
    fids = generator.permutation(3_000)
    rows = table.find_or_insert(fids, 0)
    expected = table.gather(rows).astype(np.float64)
    squares = np.full_like(expected, 0.25)
    for _ in range(3):
        gradients = generator.normal(size=(3_000, dim)).astype(np.float32)
        table.update(rows, gradients)
        squares += gradients.astype(np.float64) ** 2
        expected -= 0.5 * gradients / (np.sqrt(squares) + 1e-8)
    np.testing.assert_allclose(table.lookup(fids), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(table.state(rows), squares, rtol=1e-5)
    table.save(tmp_path / "table")
    restored = EmbeddingTable.restore(tmp_path / "table")
    assert (restored.lookup(fids) == table.lookup(fids)).all()


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("dim", DIMS)
def test_rows_of_any_dim_are_packed_and_digested(dim: int, encoding: RowEncoding) -> None:
    packing = RowEncoding(encoding)
    table = EmbeddingTable(dim, slices=[Slice("weights", dim, Adam(), encoding=encoding)], seed=5)
    fids = np.arange(500)
    rows = table.find_or_insert(fids, 0)
    table.update(rows, np.ones((500, dim), np.float32))
    delta = table.drain_encoded("replicas")
    unpacked = unpack_rows(delta.rows, dim, packing)
    np.testing.assert_allclose(unpacked, table.lookup(delta.fids), atol={"fp32": 0, "fp16": 1e-4, "int8": 1e-3, "int4": 2e-2}[encoding])
    assert delta.digest == _core.digest_rows(delta.fids, delta.rows, encoding)


@pytest.mark.parametrize("rule", [Adagrad(lr=0.1), Adam(lr=0.1)], ids=lambda rule: rule.kind)
def test_bags_of_dims_side_by_side_pool_and_learn(rule: Optimizer) -> None:
    bags = EmbeddingBags([Feature(f"f{dim}", dim=dim, pooling="mean" if dim % 2 else "sum") for dim in DIMS], rule)
    names = [feature.name for feature in bags.features]
    kjt = KeyedJaggedTensor.from_lengths_sync(names, torch.tensor([7, 8, 7] * len(names)), torch.tensor([2, 1, 0] * len(names)))
    pooled = bags(kjt, now_s=0)
    assert pooled.values().shape == (3, sum(DIMS))
    for feature in bags.features:
        weights = bags.tables[feature.name].lookup([7, 8])
        expected = weights.sum(0) / (2 if feature.pooling == "mean" else 1)
        np.testing.assert_allclose(pooled[feature.name][0].detach().numpy(), expected, rtol=1e-6)
        assert not pooled[feature.name][2].any()
    before = {name: bags.tables[name].lookup([7]) for name in names}
    pooled.values().sum().backward()
    assert all((bags.tables[name].lookup([7]) < before[name]).all() for name in names)
