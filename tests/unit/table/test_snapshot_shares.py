"""Several tables restore shares of one snapshot; a table of other learning rates and budget restores it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.table import Adagrad, EmbeddingTable, MemoryBudget, Sgd, Slice

DIM, TTL_S = 4, 1_000


def make_table(**settings: Any) -> EmbeddingTable:
    return EmbeddingTable(**{"dim": DIM, "optimizer": Adagrad(lr=0.1), "admit_after": 2, "ttl_s": TTL_S, "seed": 4, **settings})


def save(table: EmbeddingTable, path: Path, *, increment: bool = False, track: bool = False) -> None:
    saving = table.start_saving(path, increment=increment)
    saving.finish()
    saving.commit(track=track)


def content(*tables: EmbeddingTable) -> list[tuple[Any, ...]]:
    """All that the tables hold of rows and candidates, sorted."""
    found: list[tuple[Any, ...]] = []
    for table in tables:
        entries = table.entries()
        columns = [entries.fids, entries.rows != 0xFFFFFFFF, entries.counts, entries.seen_s]
        values = np.concatenate([table.gather(entries.rows), table.state(entries.rows)], axis=1)
        found += zip(*(column.tolist() for column in columns), map(tuple, values.tolist()), strict=True)
    return sorted(found)


@pytest.mark.parametrize("num_fids", [50, 60_000], ids=["one shard", "all shards"])
@pytest.mark.parametrize("n", range(1, 6))
def test_shares_are_disjoint_and_together_the_whole(n: int, num_fids: int, tmp_path: Path) -> None:
    table = make_table()
    fids = np.random.default_rng(3).integers(-(2**63), 2**63 - 1, num_fids)
    table.find_or_insert(np.concatenate([fids, fids[::2]]), 0)
    table.ack("a", table.drain("a").ticket)
    save(table, tmp_path / "base", track=True)
    table.find_or_insert(fids[num_fids // 2 :], TTL_S + 5)
    assert len(table.evict(TTL_S + 5)) > num_fids // 5
    save(table, tmp_path / "increment", increment=True)
    shares = [EmbeddingTable.restore(tmp_path / "base", tmp_path / "increment", share=(k, n)) for k in range(n)]
    assert content(*shares) == content(table)
    sizes = [len(share) + share.stats().candidates for share in shares]
    assert max(sizes) < 1.3 * min(sizes) or num_fids < 1_000
    whole, deltas = table.drain("a"), [share.drain("a") for share in shares]
    for name in ("fids", "evicted"):
        assert sorted(np.concatenate([getattr(delta, name) for delta in deltas])) == sorted(getattr(whole, name)), name


@pytest.mark.parametrize("share", [(0, 0), (1, 1), (5, 5), (0, 257)])
def test_a_share_that_cannot_be_is_refused(share: tuple[int, int], tmp_path: Path) -> None:
    save(make_table(), tmp_path / "t")
    with pytest.raises(ValueError, match=r"share must be \(k, n\) with k < n <= 256"):
        EmbeddingTable.restore(tmp_path / "t", share=share)


def test_what_shares_have_learnt_apart_is_shared_out_again(tmp_path: Path) -> None:
    """Two tables from one snapshot go on, and each of them is restored by three."""
    table = make_table(admit_after=1)
    rows = table.find_or_insert(np.arange(300), 0)
    save(table, tmp_path / "t")
    table.update(rows, np.ones((300, DIM), np.float32))
    halves = [EmbeddingTable.restore(tmp_path / "t", share=(k, 2)) for k in range(2)]
    for k, half in enumerate(halves):
        half.update(half.find(half.export_rows()[0]), np.ones((len(half), DIM), np.float32))
        save(half, tmp_path / f"{k}")
    thirds = [EmbeddingTable.restore(tmp_path / f"{k}", share=(part, 3)) for k in range(2) for part in range(3)]
    assert content(*thirds) == content(table)


def test_budget_rates_and_encodings_may_differ_in_the_table_that_goes_on(tmp_path: Path) -> None:
    table = make_table(optimizer=None, slices=[Slice("w", DIM, Sgd(lr=1.0))], budget=MemoryBudget(1 << 20))
    table.find_or_insert([1, 1], 0)
    save(table, tmp_path / "t")
    other = make_table(optimizer=None, slices=[Slice("w", DIM, Sgd(lr=0.5), encoding="int4")], budget=MemoryBudget(1 << 21, "lfu"))
    other.restore_from(tmp_path / "t")
    assert content(other) == content(table) != []
    assert other.drain_encoded("a").rows.shape == (1, 6)
