"""A table keeps its memory budget, evicts in the order of its policy, and drains report the evicted fids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py.table import NO_ROW, Adagrad, EmbeddingTable, MemoryBudget

DIM, BATCH, START_S = 16, 1_000, 1_700_000_000
SLOT_BYTES = 16 / 0.65  # an entry of the id map at its mean load, as the core reckons
ROW_BYTES = (2 * DIM) * 4 + 8 + SLOT_BYTES  # weights, accumulator and fid
TICK_S = 10  # what was seen within it is not told apart


def make_table(num_rows: int, eviction: Any = "lru", half_life_s: int = 1_000, **settings: Any) -> EmbeddingTable:
    """A table whose budget is for so many rows."""
    budget = MemoryBudget(int(num_rows * ROW_BYTES), eviction, half_life_s)
    return EmbeddingTable(**{"dim": DIM, "optimizer": Adagrad(), "budget": budget, **settings})


def live(table: EmbeddingTable, fids: np.ndarray) -> np.ndarray:
    """Return the mask of the fids that have a row."""
    return np.asarray(table.find(fids) != NO_ROW)


@pytest.mark.parametrize("eviction", ["lru", "lfu", "score"])
def test_memory_stays_within_the_budget_and_a_batch(eviction: str) -> None:
    generator = np.random.default_rng(1)
    table = make_table(20_000, eviction)
    sizes = []
    for turn in range(120):
        fids = np.concatenate([np.arange(turn * 700, turn * 700 + 700), generator.integers(0, turn * 700 + 1, 300)])
        table.find_or_insert(fids, START_S + turn * TICK_S)
        assert len(table) <= 20_000 + BATCH
        sizes.append(table.stats().bytes)
    assert len(table) >= 19_000, "nor does more go than must"
    assert table.stats().evicted > 50_000
    assert sizes[-1] <= 1.01 * sizes[60], "what is evicted is used again"
    # Regions are committed ahead in huge pages, and shards of the id map have room to grow.
    assert sizes[-1] < 1.15 * (20_000 + BATCH) * ROW_BYTES + 4 * (2 << 20)


def test_lru_lets_the_rows_go_that_were_not_seen_for_longest() -> None:
    """The last call still finds 2,960 old rows: its line lies at twice the 1,000 that must go, give or take 200."""
    table = make_table(10_000)
    old, seen_again, recent = np.arange(5_000), np.arange(5_000, 7_000), np.arange(7_000, 10_000)
    table.find_or_insert(np.concatenate([np.repeat(old, 3), seen_again]), START_S)
    table.find_or_insert(recent, START_S + 100)
    table.find_or_insert(seen_again, START_S + 200)
    for turn in range(3):
        table.find_or_insert(np.arange(20_000, 21_000) + 1_000 * turn, START_S + 300 + turn * TICK_S)
    table.find_or_insert(np.zeros(0, np.int64), START_S + 400)
    assert len(table) <= 10_000 and live(table, seen_again).all() and live(table, recent).all()
    assert 1_900 <= live(table, old).sum() <= 2_000


def test_lfu_lets_the_rare_rows_go_first() -> None:
    table = make_table(10_000, "lfu")
    often, rare = np.arange(3_000), np.arange(3_000, 10_000)
    table.find_or_insert(np.repeat(often, 5), START_S)
    table.find_or_insert(np.repeat(rare, 2), START_S + 100)
    table.find_or_insert(np.repeat(np.arange(20_000, 23_000), 3), START_S + 200)
    table.find_or_insert(np.zeros(0, np.int64), START_S + 300)
    assert len(table) <= 10_000 and live(table, often).all() and live(table, np.arange(20_000, 23_000)).all()
    assert 3_900 <= live(table, rare).sum() <= 4_000


@pytest.mark.parametrize("eviction", ["lru", "lfu", "score"])
def test_what_goes_is_among_the_twice_as_many_that_come_first(eviction: str) -> None:
    """The line is drawn by a sample of 1,024, at twice the share that must go: a tenth more is five of its deviations."""
    table = make_table(10_000, eviction)
    for group in range(20):  # later ones are seen later and more often
        fids = np.arange(500) + 500 * group
        for turn in range(group + 1):
            table.find_or_insert(fids, START_S + 300 * group + turn)
    table.find_or_insert(np.repeat(np.arange(1_500) + 50_000, 100), START_S + 10_000)
    table.find_or_insert(np.zeros(0, np.int64), START_S + 10_100)
    gone = np.flatnonzero(~live(table, np.arange(10_000)))
    assert 1_500 <= len(gone) <= 1_600
    assert gone.max() < 2 * 1_540 * 1.1 + 500


@pytest.mark.parametrize(("half_life_s", "goes"), [(100, "often"), (10_000, "rare")])
def test_a_score_halves_with_each_half_life(half_life_s: int, goes: str) -> None:
    """Seen 15 times, 600 s ago, against 3 times, just now: four times as often is two half-lives."""
    table = make_table(10_000, "score", half_life_s)
    often, rare = np.arange(5_000), np.arange(5_000, 10_000)
    table.find_or_insert(np.repeat(often, 15), START_S)
    table.find_or_insert(np.repeat(rare, 3), START_S + 600)
    table.find_or_insert(np.repeat(np.arange(20_000, 22_000), 60), START_S + 620)
    table.find_or_insert(np.zeros(0, np.int64), START_S + 640)
    left = {"often": live(table, often).sum(), "rare": live(table, rare).sum()}
    stays = {"often": "rare", "rare": "often"}[goes]
    assert left[stays] == 5_000 and 2_900 <= left[goes] <= 3_000


def test_every_consumer_gets_a_tombstone_for_each_row_that_went() -> None:
    table = make_table(5_000)
    table.find_or_insert(np.arange(5_000), START_S)
    replicas: dict[str, set[int]] = {"a": set(), "b": set()}
    for turn in range(1, 30):
        table.find_or_insert(np.arange(turn * 400, turn * 400 + BATCH), START_S + turn * TICK_S)
        for name, known in replicas.items():
            if name == "b" and turn % 4:
                continue
            delta = table.drain_encoded(name)
            assert not known.isdisjoint(delta.evicted.tolist()) or not len(delta.evicted) or name == "b"
            known.difference_update(delta.evicted.tolist())
            known.update(delta.fids.tolist())
            table.ack(name, delta.ticket)
    fids = set(table.export_rows()[0].tolist())
    delta = table.drain("b")
    replicas["b"] = (replicas["b"] - set(delta.evicted.tolist())) | set(delta.fids.tolist())
    assert replicas == {"a": fids, "b": fids} and table.stats().evicted > 5_000


@pytest.mark.parametrize("eviction", ["lru", "lfu", "score"])
def test_rows_seen_in_the_current_tick_go_last(eviction: str) -> None:
    table = make_table(1_000, eviction, half_life_s=10**9)
    now_s = START_S // TICK_S * TICK_S
    table.find_or_insert(np.repeat(np.arange(900), 5), now_s - 1)
    for turn in range(9):
        table.find_or_insert(np.arange(100) + 10_000 + 100 * turn, now_s + turn)
    assert live(table, np.arange(10_000, 10_900)).all() and live(table, np.arange(900)).sum() in range(90, 200)


@pytest.mark.parametrize("settings", [{}, {"ttl_s": 30 * 86_400}], ids=["without a time", "ticks of 43 minutes"])
@pytest.mark.parametrize("eviction", ["lru", "lfu", "score"])
def test_a_budget_holds_within_one_tick(eviction: str, settings: dict[str, Any]) -> None:
    """A time that is never set, and the ticks of a long time to live: 200,000 ids in one tick took 32 MB of 1 MB."""
    table = make_table(2_000, eviction, **settings)
    often = np.repeat(np.arange(500), 9)
    for turn in range(20):
        fids = np.concatenate([np.arange(BATCH) + BATCH * (turn + 1), often])
        rows = table.find_or_insert(fids, START_S if settings else 0)
        assert (rows == table.find(fids)).all() and len(table) <= 2_000 + 2 * BATCH
    table.find_or_insert([], START_S if settings else 0)
    assert 1_900 <= len(table) <= 2_000
    if eviction != "lru":
        assert live(table, np.arange(500)).all(), "of one tick the rarest go"


@pytest.mark.parametrize("eviction", ["lru", "lfu", "score"])
def test_older_rows_go_though_most_rows_must_stay_and_are_seen_less(eviction: str) -> None:
    table = make_table(6_000, eviction, half_life_s=10**9)
    often, rare = np.arange(600), np.arange(600, 6_500)
    table.find_or_insert(np.repeat(often, 9), START_S)
    table.find_or_insert(rare, START_S + 100)
    table.find_or_insert([], START_S + 100)
    assert len(table) <= 6_000 and live(table, rare).all()


def test_rows_of_the_batch_in_hand_stay_where_it_comes_late() -> None:
    """A batch of an older time finds rows that newer ones have stamped, and its own, while it takes the budget's room."""
    table = make_table(3_000)
    table.find_or_insert(np.arange(3_000), START_S)
    for turn in range(6):
        now_s = START_S + (100 if turn % 2 else -100) * turn
        fids = np.arange(BATCH) + 10_000 * (turn + 1)
        rows = table.find_or_insert(fids, now_s)
        assert (table.find(fids) == rows).all()
    assert len(table) <= 3_000 + BATCH


def test_candidates_count_and_go_too() -> None:
    table = make_table(1_000, admit_after=3)
    most = int(1_000 * ROW_BYTES / SLOT_BYTES)
    for turn in range(60):
        table.find_or_insert(np.arange(BATCH) + BATCH * turn, START_S + turn * TICK_S)
        assert table.stats().candidates <= most + BATCH
    assert table.stats().candidates > most * 0.9 and len(table) == 0
    assert table.stats().evicted == 0, "what has no row is none that was evicted"
    forgotten, known = np.arange(BATCH), np.arange(BATCH) + BATCH * 59
    for fids, is_admitted in ((forgotten, False), (known, True)):
        rows = table.find_or_insert(np.repeat(fids, 2), START_S + 10_000)
        assert (rows != NO_ROW).all() == is_admitted, "its first sighting went with it"
    assert len(table) == BATCH


def test_a_row_that_comes_back_starts_anew() -> None:
    table, fresh = make_table(1_000), make_table(1_000)
    rows = table.find_or_insert(np.arange(BATCH), START_S)
    table.update(rows, np.ones((BATCH, DIM), np.float32))
    for turn in range(1, 4):
        table.find_or_insert(np.arange(BATCH) + BATCH * turn, START_S + turn * 100)
    gone = np.arange(BATCH)[~live(table, np.arange(BATCH))]
    assert len(gone) > 800
    np.testing.assert_array_equal(
        table.gather(table.find_or_insert(gone, START_S + 1_000)), fresh.gather(fresh.find_or_insert(gone, START_S))
    )


def test_a_budget_and_a_ttl_go_together() -> None:
    table = make_table(2_000, ttl_s=1_000)
    table.find_or_insert(np.arange(1_000), START_S)
    table.find_or_insert(np.arange(1_000, 2_000), START_S + 600)
    assert table.evict(START_S + 1_002).tolist() == list(range(1_000))
    table.find_or_insert(np.arange(2_000, 3_300), START_S + 1_002)
    table.find_or_insert([], START_S + 1_005)
    assert 1_950 <= len(table) <= 2_000 and live(table, np.arange(2_000, 3_300)).all()


def test_a_restored_table_keeps_its_budget(tmp_path: Path) -> None:
    make_table(2_000).save(tmp_path / "t")
    table = EmbeddingTable.restore(tmp_path / "t")
    for turn in range(10):
        table.find_or_insert(np.arange(BATCH) + BATCH * turn, START_S + turn * 100)
    assert len(table) <= 2_000 + BATCH


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bytes": 0}, "bytes and half_life_s of a budget must be >= 1, got 0 and 86400"),
        ({"bytes": 1, "half_life_s": 0}, "got 1 and 0"),
        ({"bytes": 1, "eviction": "fifo"}, "eviction must be lru, lfu or score, got 'fifo'"),
    ],
)
def test_a_wrong_budget_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryBudget(**settings)
