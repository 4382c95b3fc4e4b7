"""Faults that users of other systems reported: each test names one, and cites its public thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monolith_py.errors import CheckpointError
from monolith_py.table import NO_ROW, Adagrad, EmbeddingTable, MemoryBudget, Sgd

LIMITS = np.array([-(2**63), -(2**31) - 1, -2, -1, 0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1])


def save(table: EmbeddingTable, path: Path, *, increment: bool = False) -> None:
    saving = table.start_saving(path, increment=increment)
    saving.finish()
    saving.commit(track=True)


@pytest.mark.parametrize("by", ["ttl", "budget"])
def test_keys_of_64_bits_are_not_cut_in_an_eviction(by: str) -> None:
    """pytorch/FBGEMM 5876: an eviction loop kept 64-bit keys in an int."""
    table = EmbeddingTable(4, Sgd(), ttl_s=10) if by == "ttl" else EmbeddingTable(4, Sgd(), budget=MemoryBudget(1, "lru"))
    table.drain("replicas")
    table.find_or_insert(LIMITS, 0)
    table.find_or_insert([7], 100)
    evicted = table.evict(100).tolist() if by == "ttl" else table.drain("replicas").evicted.tolist()
    assert evicted == LIMITS.tolist() and table.find([7]).tolist() != [NO_ROW]


def test_ids_0_and_minus_1_are_ids_in_every_list_of_evicted_ones() -> None:
    """NVIDIA-Merlin/HierarchicalKV: reserved keys and zeros in buffers of evicted keys were taken for empty."""
    table = EmbeddingTable(4, Sgd(), ttl_s=10)
    table.find_or_insert([0, -1, 5], 0)
    table.ack("a", table.drain("a").ticket)
    table.find_or_insert([5], 100)
    assert table.evict(100).tolist() == [-1, 0]
    assert table.drain("a").evicted.tolist() == [-1, 0]


@pytest.mark.parametrize("order", [(0, 2), (1, 0), (0, 2, 1), (0, 1, 1), (1,)], ids=str)
def test_increments_in_another_order_missing_or_doubled_are_refused(order: tuple[int, ...], tmp_path: Path) -> None:
    """NVIDIA/recsys-examples 454: base and increments applied in a wrong order gave wrong rows without an error."""
    table = EmbeddingTable(4, Sgd())
    for number in range(3):
        table.find_or_insert([number], number)
        save(table, tmp_path / f"{number}", increment=number > 0)
    with pytest.raises(CheckpointError):
        EmbeddingTable.restore(*(tmp_path / f"{number}" for number in order))


def test_an_increment_of_an_interrupted_run_is_refused_by_the_next_one(tmp_path: Path) -> None:
    """NVIDIA/recsys-examples 477: increments of a run that was interrupted were replayed."""
    table = EmbeddingTable(4, Sgd())
    table.find_or_insert([1], 0)
    save(table, tmp_path / "base")
    interrupted = EmbeddingTable.restore(tmp_path / "base")
    interrupted.save(tmp_path / "other base")
    table.find_or_insert([2], 1)
    save(table, tmp_path / "increment", increment=True)
    with pytest.raises(CheckpointError, match="continues snapshot"):
        EmbeddingTable.restore(tmp_path / "other base", tmp_path / "increment")


def test_an_increment_restores_exactly_the_rows_and_state_of_its_moment(tmp_path: Path) -> None:
    """DeepRec-AI/DeepRec 999 and 1023: an incremental restore gave wrong rows."""
    generator, table = np.random.default_rng(1), EmbeddingTable(4, Adagrad(), ttl_s=50)
    for number in range(5):
        rows = table.find_or_insert(generator.integers(-50, 200, 300), 20 * number)
        table.update(rows, generator.normal(size=(300, 4)).astype(np.float32))
        table.evict(20 * number)
        save(table, tmp_path / f"{number}", increment=number > 0)
        restored = EmbeddingTable.restore(*(tmp_path / f"{done}" for done in range(number + 1)))
        for one, other in zip(restored.export_rows(), table.export_rows(), strict=True):
            np.testing.assert_array_equal(one, other)
        fids = table.export_rows()[0]
        np.testing.assert_array_equal(restored.state(restored.find(fids)), table.state(table.find(fids)))


def test_pending_changes_do_not_vanish_with_the_process(tmp_path: Path) -> None:
    """alibaba/TorchEasyRec: an uploader's pending deltas were lost when its process ended."""
    table = EmbeddingTable(4, Sgd(), ttl_s=10)
    table.find_or_insert([1, 2], 0)
    table.ack("replicas", table.drain("replicas").ticket)
    table.find_or_insert([2, 3], 100)
    table.drain("replicas")  # never acknowledged
    table.evict(100)
    table.save(tmp_path / "t")
    delta = EmbeddingTable.restore(tmp_path / "t").drain("replicas")
    assert (delta.fids.tolist(), delta.evicted.tolist()) == ([3], [1])
