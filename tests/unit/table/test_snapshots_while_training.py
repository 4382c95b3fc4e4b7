"""Snapshots written while the table changes hold one moment, and a base with its increments equals the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.errors import CheckpointError
from monolith_py.table import Adam, EmbeddingTable, GroupAdagrad, Slice, TableSaving

DIM, TTL_S = 8, 2_000
SLICES = (Slice("bias", 4, GroupAdagrad(lr=0.3, l2=0.8)), Slice("vec", 4, GroupAdagrad(lr=0.3, l2=0.8), "normal"))
Content = dict[str, np.ndarray]


def make_table(**settings: Any) -> EmbeddingTable:
    return EmbeddingTable(**{"dim": DIM, "optimizer": Adam(lr=0.1), "admit_after": 2, "ttl_s": TTL_S, "seed": 4, **settings})


def content(table: EmbeddingTable) -> Content:
    """All that a snapshot holds of rows and candidates, by fid."""
    entries = table.entries()
    order = np.argsort(entries.fids)
    rows = entries.rows[order]
    return {
        "fids": entries.fids[order],
        "is_row": rows != 0xFFFFFFFF,
        "counts": entries.counts[order],
        "seen_s": entries.seen_s[order],
        "weights": table.gather(rows),
        "state": table.state(rows),
    }


def assert_same(got: Content, expected: Content) -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values, name)


class Trainer:
    """Batches one after the other: fids come and go, some are only counted, rows learn, old ones are evicted."""

    def __init__(self, table: EmbeddingTable, batch: int = 400, start_s: int = 10_000) -> None:
        self.table, self.batch, self.now_s = table, batch, start_s
        self.generator = np.random.default_rng(7)

    def step(self, num_steps: int = 1, pause_s: int = 100) -> None:
        for _ in range(num_steps):
            self.now_s += pause_s
            fids = self.generator.integers(self.now_s // 4, self.now_s // 4 + 3 * self.batch, self.batch)
            rows = self.table.find_or_insert(fids, self.now_s)
            self.table.update(rows, self.generator.normal(size=(self.batch, DIM)).astype(np.float32))
            self.table.evict(self.now_s)


def save(table: EmbeddingTable, path: Path, *, increment: bool = False, track: bool = False) -> None:
    saving = table.start_saving(path, increment=increment)
    saving.finish()
    saving.commit(track=track)


@pytest.mark.parametrize("batch", [400, 30_000], ids=["one shard", "all shards"])
@pytest.mark.parametrize("slices", [(), SLICES], ids=["adam", "rows that become zero"])
def test_a_snapshot_is_of_the_moment_it_was_finished(batch: int, slices: tuple[Slice, ...], tmp_path: Path) -> None:
    table = make_table(slices=slices, optimizer=None if slices else Adam(lr=0.1))
    trainer = Trainer(table, batch)
    trainer.step(6)
    saving = table.start_saving(tmp_path / "t")
    num_copies = 0
    while saving.copy(max_rows=batch // 4) and num_copies < 40:
        num_copies += 1
        trainer.step(pause_s=5 if batch > 1_000 else 100)
    saving.finish()
    expected, stats = content(table), table.stats()
    trainer.step(2)
    saving.commit()
    trainer.step(2)
    assert num_copies > (2 if batch > 1_000 else 0)
    assert expected["is_row"].any() and not expected["is_row"].all()
    restored = EmbeddingTable.restore(tmp_path / "t")
    assert_same(content(restored), expected)
    for name in ("rows", "candidates", "admitted", "filtered", "evicted", "freed"):
        assert getattr(restored.stats(), name) == getattr(stats, name), name
    with pytest.raises(AssertionError):
        assert_same(content(table), expected)


def test_a_table_that_outgrows_its_first_shard_before_the_first_copy_is_saved_whole(tmp_path: Path) -> None:
    table = make_table(admit_after=1)
    table.find_or_insert(np.arange(1_000), 0)
    saving = table.start_saving(tmp_path / "t")
    table.find_or_insert(np.arange(50_000, 100_000), 1)
    while saving.copy():
        pass
    saving.finish()
    saving.commit()
    assert_same(content(EmbeddingTable.restore(tmp_path / "t")), content(table))


def test_a_table_that_outgrows_its_first_shard_between_copies_is_saved_whole(tmp_path: Path) -> None:
    table = make_table(admit_after=1)
    table.find_or_insert(np.arange(1_000), 0)
    saving = table.start_saving(tmp_path / "t")
    assert saving.copy(max_rows=10)
    table.find_or_insert(np.arange(50_000, 100_000), 1)
    saving.finish()
    saving.commit()
    assert_same(content(EmbeddingTable.restore(tmp_path / "t")), content(table))


@pytest.mark.parametrize("batch", [400, 20_000], ids=["one shard", "all shards"])
@pytest.mark.parametrize("slices", [(), SLICES], ids=["adam", "rows that become zero"])
def test_a_base_and_three_increments_are_the_table(batch: int, slices: tuple[Slice, ...], tmp_path: Path) -> None:
    """Rows, state, counts, ages, candidates and evictions, with batches between the copies and before the commit."""
    table = make_table(slices=slices, optimizer=None if slices else Adam(lr=0.1), ttl_s=300)
    trainer = Trainer(table, batch)
    for number in range(4):
        trainer.step(4 if number == 0 else 2)
        saving = table.start_saving(tmp_path / f"{number}", increment=number > 0)
        for _ in range(3):
            saving.copy(max_rows=batch // 8)
            trainer.step(pause_s=10)
        saving.finish()
        expected = content(table)
        trainer.step(pause_s=10)
        saving.commit(track=True)
        restored = EmbeddingTable.restore(*(tmp_path / f"{done}" for done in range(number + 1)))
        assert_same(content(restored), expected)
    assert expected["is_row"].any() and not expected["is_row"].all()
    assert table.stats().evicted > 0
    assert (table.stats().freed > 0) == bool(slices)


def test_ages_in_a_base_outlive_a_shift_of_the_clock_before_its_increment(tmp_path: Path) -> None:
    table = make_table(admit_after=1, ttl_s=1_000)  # ticks of a second, of which 65,536 are told apart
    table.find_or_insert([1], 0)
    for now_s in range(4_000, 57_001, 1_000):
        table.find_or_insert([2], now_s)
    save(table, tmp_path / "base", track=True)
    table.find_or_insert([3], 58_000)
    save(table, tmp_path / "increment", increment=True)
    restored = EmbeddingTable.restore(tmp_path / "base", tmp_path / "increment")
    assert_same(content(restored), content(table))
    assert restored.evict(58_002).tolist() == table.evict(58_002).tolist() == [1, 2]


def test_an_increment_holds_what_changed_and_is_small(tmp_path: Path) -> None:
    table = make_table(admit_after=1)
    table.find_or_insert(np.arange(20_000), 0)
    save(table, tmp_path / "base", track=True)
    table.find_or_insert(np.arange(100), 1)
    save(table, tmp_path / "increment", increment=True)
    assert (tmp_path / "increment").stat().st_size * 50 < (tmp_path / "base").stat().st_size


def test_drains_that_nobody_acknowledged_come_back_from_an_increment(tmp_path: Path) -> None:
    table = make_table(admit_after=1)
    table.find_or_insert([1, 2, 3], 0)
    table.ack("a", table.drain("a").ticket)
    save(table, tmp_path / "base", track=True)
    table.find_or_insert([3, 4], TTL_S + 10)
    table.evict(TTL_S + 10)
    save(table, tmp_path / "increment", increment=True)
    delta = EmbeddingTable.restore(tmp_path / "base", tmp_path / "increment").drain("a")
    assert (delta.fids.tolist(), delta.evicted.tolist()) == ([4], [1, 2])


def test_an_increment_on_another_base_is_refused_by_name(tmp_path: Path) -> None:
    table = make_table()
    paths = [tmp_path / name for name in ("base", "first", "second", "another")]
    save(table, paths[0], track=True)
    save(table, paths[1], increment=True, track=True)
    save(table, paths[2], increment=True, track=True)
    save(table, paths[3])
    for wrong in ([paths[0], paths[2]], [paths[3], paths[1]], [paths[0], paths[1], paths[1]], [paths[1]]):
        with pytest.raises(CheckpointError, match=rf"{wrong[-1]}: continues snapshot \d+, but the table holds \d+"):
            EmbeddingTable.restore(*wrong)
    with pytest.raises(CheckpointError, match=f"{paths[3]}: is a base, but the table is not new"):
        EmbeddingTable.restore(paths[0], paths[3])
    assert len(EmbeddingTable.restore(*paths[:3])) == 0


def test_without_tracking_there_is_no_increment(tmp_path: Path) -> None:
    table = make_table()
    with pytest.raises(ValueError, match="an increment needs a snapshot before it"):
        table.start_saving(tmp_path / "t", increment=True)
    save(table, tmp_path / "t")
    restored = EmbeddingTable.restore(tmp_path / "t")
    for one in (table, restored):
        with pytest.raises(ValueError, match="an increment needs changes to be tracked"):
            one.start_saving(tmp_path / "u", increment=True)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_snapshot_that_is_given_up_leaves_no_file_and_lets_no_increment_follow(tmp_path: Path) -> None:
    table = make_table(admit_after=1)
    save(table, tmp_path / "base", track=True)
    table.find_or_insert([1], 0)
    saving: TableSaving | None = table.start_saving(tmp_path / "lost", increment=True)
    assert saving is not None
    saving.finish()
    saving = None
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    with pytest.raises(ValueError, match="needs changes to be tracked"):
        table.start_saving(tmp_path / "t", increment=True)
    save(table, tmp_path / "next")
    assert len(EmbeddingTable.restore(tmp_path / "next")) == 1


def test_a_table_writes_one_snapshot_at_a_time_step_by_step(tmp_path: Path) -> None:
    table = make_table(admit_after=1)
    table.find_or_insert([1], 0)
    saving = table.start_saving(tmp_path / "a")
    with pytest.raises(ValueError, match="in progress"):
        table.start_saving(tmp_path / "b")
    with pytest.raises(ValueError, match="must be finished"):
        saving.commit()
    saving.finish()
    for step in (saving.copy, saving.finish):
        with pytest.raises(ValueError, match="is finished already"):
            step()
    saving.commit()
    with pytest.raises(ValueError, match="is written already"):
        saving.commit()
    table.save(tmp_path / "b")
    assert len(EmbeddingTable.restore(tmp_path / "a")) == len(EmbeddingTable.restore(tmp_path / "b")) == 1
