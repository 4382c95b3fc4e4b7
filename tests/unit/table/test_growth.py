"""A table grows from one shard to many and within each shard: no fid is lost, and no row moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.table import NO_ROW, EmbeddingTable, Sgd

NUM_FIDS, BATCH = 300_000, 7_000
ONE_SHARD = 1 << 14  # entries beyond which the first shard is split into 256
KINDS = ["side by side", "random", "only high bits differ"]


def some_fids(kind: str, num: int = NUM_FIDS) -> np.ndarray:
    if kind == "side by side":
        return np.arange(num) - num // 2
    if kind == "random":
        return np.random.default_rng(1).integers(-(2**63), 2**63 - 1, num)
    return np.arange(num) << 44


def batches(fids: np.ndarray, size: int = BATCH) -> Iterator[np.ndarray]:
    return (fids[first : first + size] for first in range(0, len(fids), size))


@pytest.mark.parametrize("kind", KINDS)
def test_every_fid_keeps_its_row_and_its_weights_while_the_table_grows(kind: str) -> None:
    table = EmbeddingTable(4, Sgd(lr=1.0), initializer="zeros")
    fids = some_fids(kind)
    rows = np.zeros(0, np.uint32)
    for batch in batches(fids):
        born = table.find_or_insert(batch, 0)
        table.update(born, np.repeat(-np.arange(len(rows), len(rows) + len(batch), dtype=np.float32)[:, None], 4, axis=1))
        rows = np.append(rows, born)
        assert (table.find(fids[: len(rows)]) == rows).all()
    assert len(np.unique(rows)) == len(table) == NUM_FIDS
    np.testing.assert_array_equal(table.gather(table.find(fids))[:, 0], np.arange(NUM_FIDS))
    assert (table.find(np.setdiff1d(fids + 1, fids)) == NO_ROW).all()
    assert table.export_rows()[0].tolist() == np.sort(fids).tolist()
    assert table.stats().id_map_capacity < 3 * NUM_FIDS


@pytest.mark.parametrize("at_once", [ONE_SHARD - 1, ONE_SHARD, ONE_SHARD + 1, NUM_FIDS])
def test_the_split_loses_nothing_wherever_it_comes(at_once: int) -> None:
    table = EmbeddingTable(4, Sgd())
    fids = some_fids("random", at_once + 2)
    rows = table.find_or_insert(fids[:at_once], 0)
    for fid in fids[at_once:]:
        rows = np.append(rows, table.find_or_insert([fid], 0))
    assert (table.find(fids) == rows).all() and len(np.unique(rows)) == len(fids) == len(table)


@pytest.mark.parametrize("first", [1_473, 2_000])
def test_a_batch_in_which_a_shard_grows_twice_gives_each_fid_a_row_of_its_own(first: int) -> None:
    """The arena may place the second growth where the shard was before the batch."""
    for second in (1_767, 2_000, 2_209, 2_400, 2_946):
        table = EmbeddingTable(1, Sgd())
        for fids in np.split(np.arange(first + second), [first]):
            table.find_or_insert(fids, 0)
        assert len(np.unique(table.find(np.arange(first + second)))) == first + second, second


def test_sightings_and_ages_go_through_growth() -> None:
    table = EmbeddingTable(4, Sgd(), admit_after=3, ttl_s=1_000)
    early = some_fids("random", 5_000)
    table.find_or_insert(early, 0)
    table.find_or_insert(early, 10)
    for turn, batch in enumerate(batches(some_fids("side by side", 100_000))):
        table.find_or_insert(batch, 20 + turn)
    assert (table.find(early) == NO_ROW).all()
    assert (table.find_or_insert(early[:2_500], 500) != NO_ROW).all()
    table.evict(1_012)
    assert (table.find(early[:2_500]) != NO_ROW).all()
    entries = table.entries()
    kept = np.isin(entries.fids, early)
    assert kept.sum() == 2_500 and set(entries.counts[kept]) == {3} and set(entries.seen_s[kept]) == {500}


def test_fids_that_go_and_come_again_are_found_and_their_room_is_used_again() -> None:
    table = EmbeddingTable(4, Sgd(), ttl_s=100)
    fids = some_fids("random", 60_000)
    table.find_or_insert(fids, 0)
    sizes = []
    for turn in range(1, 12):
        now_s = 200 * turn
        stay, go = fids[turn % 3 :: 3], np.setdiff1d(fids, fids[turn % 3 :: 3])
        table.find_or_insert(stay, now_s)
        assert table.evict(now_s).tolist() == go.tolist()
        assert (table.find(stay) != NO_ROW).all() and (table.find(go) == NO_ROW).all() and len(table) == len(stay)
        rows = table.find_or_insert(fids, now_s)
        assert len(np.unique(rows)) == len(table) == len(fids)
        sizes.append((table.stats().bytes, table.stats().id_map_capacity))
    assert sizes[-1] == sizes[1]


def test_a_replicas_id_map_erases_and_assigns_through_growth() -> None:
    ids = _core.IdMap()
    known: dict[int, int] = {}
    generator = np.random.default_rng(4)
    for turn in range(40):
        fids = np.unique(generator.integers(0, 60_000, 6_000)) << 40
        rows = generator.integers(0, 2**31, len(fids)).astype(np.uint32)
        old = np.empty(len(fids), np.uint32)
        if turn % 3 == 2:
            ids.erase(fids, old)
            assert old.tolist() == [known.pop(fid, NO_ROW) for fid in fids.tolist()]
        else:
            ids.assign(fids, rows, old)
            assert old.tolist() == [known.get(fid, NO_ROW) for fid in fids.tolist()]
            known |= dict(zip(fids.tolist(), rows.tolist(), strict=True))
        assert len(ids) == len(known)
    fids, rows = ids.items()
    assert dict(zip(fids.tolist(), rows.tolist(), strict=True)) == known
    found = np.empty(60_000, np.uint32)
    ids.find(np.arange(60_000) << 40, found)
    assert found.tolist() == [known.get(fid << 40, NO_ROW) for fid in range(60_000)]
