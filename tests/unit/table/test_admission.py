"""Admission: the sketch admits at the k-th sighting in a window, never later; the two random rules at their rates.

Letters: k is `admit_after`, N the sightings in a window, L the sketch's cache lines, c the sightings of a fid in a batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith_py.table import NO_ROW, Admission, EmbeddingTable, Sgd

LEAST_BYTES, LEAST_LINES = 1 << 14, 256
START_S = 1_700_000_000


def make_table(kind: Any, k: int, *, sketch_bytes: int = LEAST_BYTES, window_s: int = 400, **others: Any) -> EmbeddingTable:
    admission = Admission(kind, sketch_bytes=sketch_bytes, window_s=window_s)
    return EmbeddingTable(**{"dim": 4, "optimizer": Sgd(), "admit_after": k, "admission": admission, "seed": 6, **others})


@settings(max_examples=30)
@given(
    k=st.integers(2, 6),
    window_s=st.sampled_from([1, 3, 4, 40, 401]),
    num_fids=st.sampled_from([50, 2_000, 8_000]),
    eighths=st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 12, -1]), min_size=8, max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_sketch_never_counts_too_few_of_what_its_window_holds(k, window_s, num_fids, eighths, seed):
    """However many fids share a line of it, and though times step back."""
    generator = np.random.default_rng(seed)
    table = make_table("sketch", k, window_s=window_s)
    times = START_S + np.cumsum(eighths) * window_s // 8
    batches = [generator.integers(0, num_fids, 1_000) for _ in eighths]
    for now, now_s in enumerate(times):
        table.find_or_insert(batches[now], int(now_s))
        latest = times[: now + 1].max()
        within = [batches[past] for past in range(now + 1) if times[past] > latest - window_s * 3 / 4]
        fids, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *within]), return_counts=True)
        assert (table.find(fids[counts >= k]) != NO_ROW).all()


def test_the_sketch_counts_a_fid_that_shares_cells_with_what_has_expired():
    """Counts of older panes in a cell must not count for a newer pane."""
    table = make_table("sketch", 3, window_s=400)
    table.find_or_insert(np.arange(4_000) + 10**6, START_S)
    table.find_or_insert(np.arange(4_000) + 10**6, START_S)
    fids = np.arange(200)
    for now_s in (START_S + 200, START_S + 399, START_S + 401):
        table.find_or_insert(fids, now_s)
    assert (table.find(fids) != NO_ROW).all()


@pytest.mark.parametrize("k", [2, 100, 5_000])
@pytest.mark.parametrize("together", [True, False])
def test_the_sketch_admits_at_the_kth_sighting_where_fids_do_not_collide(k, together):
    table = make_table("sketch", k, sketch_bytes=1 << 22)
    fids = np.arange(20)
    if together:
        table.find_or_insert(np.repeat(fids, k - 1), 0)
    else:
        for turn in range(k - 1):
            table.find_or_insert(fids, turn * 400 * 3 // 4 // k)
    assert (table.find(fids) == NO_ROW).all()
    rows = table.find_or_insert(fids, 300)
    assert (rows != NO_ROW).all()
    assert table.entries().counts.tolist() == [k] * 20
    assert table.stats().filtered == 20 * (k - 1)


def test_the_sketch_forgets_what_is_older_than_its_window():
    table = make_table("sketch", 3, window_s=400)
    table.find_or_insert([1, 1, 2, 2], START_S)
    assert (table.find_or_insert([1], START_S + 299) != NO_ROW).all(), "within three quarters of the window"
    assert (table.find_or_insert([2, 2], START_S + 401) == NO_ROW).all(), "beyond it"
    assert (table.find_or_insert([2], START_S + 401) != NO_ROW).all()


def share_admitted_at_once(k: int, stream: np.ndarray, now_s: int = START_S) -> float:
    """Of 4,000 fids that were never seen before, after the stream: how many the sketch takes for seen k times."""
    table = make_table("sketch", k)
    table.find_or_insert(stream, START_S)
    fresh = np.arange(4_000) + 10**9
    return float(np.mean([(table.find_or_insert(fids, now_s) != NO_ROW).mean() for fids in np.split(fresh, 400)]))


@pytest.mark.parametrize("spread", ["each once", "zipf"])
def test_the_sketchs_error_is_within_its_bound(spread):
    generator = np.random.default_rng(2)
    stream = np.arange(4_000) if spread == "each once" else generator.zipf(1.3, 4_000)
    most = (len(stream) + 4_000) / LEAST_LINES * 3 / 7  # 3 N / 7 L, with the fresh ones themselves
    shares = {t: share_admitted_at_once(t + 1, stream) for t in range(1, 60)}
    assert all(share <= min(1.0, most / t) for t, share in shares.items())
    assert 0.2 < sum(shares.values()) <= most, "the mean of the excess is the sum of the shares in excess of 0, 1, ..."
    assert share_admitted_at_once(8, stream, START_S + 500) < 0.8 * shares[7], "what has expired does no harm"


def test_the_sketch_takes_no_more_memory_whatever_comes():
    table = make_table("sketch", 1_000, sketch_bytes=1 << 20)
    sizes = []
    for turn in range(30):
        table.find_or_insert(np.arange(10_000) + turn * 10_000, turn)
        sizes.append(table.stats().bytes)
    assert sizes[-1] == sizes[0] < (1 << 20) + 10_000 * 80 + (4 << 20)
    assert (len(table), table.stats().candidates, table.stats().filtered) == (0, 0, 300_000)
    counted = make_table("count", 1_000)
    for turn in range(30):
        counted.find_or_insert(np.arange(10_000) + turn * 10_000, turn)
    assert counted.stats().candidates == 300_000 and counted.stats().bytes > sizes[-1]


def test_a_bigger_sketch_takes_what_it_says():
    sizes = [make_table("sketch", 2, sketch_bytes=size).stats().bytes for size in (LEAST_BYTES, 1 << 20, 1 << 22)]
    assert np.diff(sizes).tolist() == [(1 << 20) - LEAST_BYTES, 3 << 20]


def chance(kind: str, k: int, c: int) -> float:
    return min(1.0, c / k) if kind == "proportional" else 1 - 0.05 ** (c / k)


@pytest.mark.parametrize("kind", ["proportional", "geometric"])
@pytest.mark.parametrize(("k", "c"), [(1, 1), (2, 1), (10, 1), (10, 7), (10, 10), (10, 12), (4_000, 40)])
def test_chance_admits_at_its_rate_in_a_batch_and_over_batches(kind, k, c):
    num, num_batches = 6_000, 4
    table = make_table(kind, k)
    for batch in range(1, num_batches + 1):
        rows = table.find_or_insert(np.repeat(np.arange(num), c), batch).reshape(num, c)
        assert (rows == rows[:, :1]).all(), "all occurrences in a batch have the row"
        expected = 1 - (1 - chance(kind, k, c)) ** batch
        assert abs(len(table) - num * expected) <= 5 * np.sqrt(num * expected * (1 - expected))
    assert table.stats().candidates == 0


@pytest.mark.parametrize("kind", ["proportional", "geometric"])
def test_chance_is_the_same_on_a_replay_and_another_for_another_seed(kind):
    def admitted(seed: int) -> list[int]:
        table = make_table(kind, 10, seed=seed)
        for batch in range(5):
            table.find_or_insert(np.arange(1_000), batch)
        fids: list[int] = table.export_rows()[0].tolist()
        return fids

    first = admitted(1)
    assert first == admitted(1) != admitted(2)
    both = len(set(first) & set(admitted(2)))
    share = len(first) / 1_000
    assert abs(both - 1_000 * share**2) < 5 * np.sqrt(1_000 * share**2)


@pytest.mark.parametrize("kind", ["proportional", "geometric"])
def test_luck_in_admission_says_nothing_about_start_values(kind):
    for num_batches in (1, 3, 6):
        table = make_table(kind, 10, dim=8, init_scale=1.0)
        for batch in range(num_batches - 1):
            table.find_or_insert([-1 - batch], 0)
        table.find_or_insert(np.arange(20_000), 0)
        weights = table.export_rows()[1].astype(np.float64)
        assert len(weights) > 500
        assert np.abs(weights.mean(axis=0)).max() < 5 * np.sqrt(1 / 3 / len(weights))
        assert np.abs((weights**2).mean(axis=0) - 1 / 3).max() < 5 * np.sqrt(4 / 45 / len(weights))


@pytest.mark.parametrize("kind", ["count", "sketch", "proportional", "geometric"])
@pytest.mark.parametrize("increment", [False, True])
def test_admission_goes_on_from_a_snapshot_as_if_nothing_had_happened(kind, increment, tmp_path: Path):
    generator = np.random.default_rng(9)
    one = make_table(kind, 6, ttl_s=1_000)
    batches = [np.minimum(generator.zipf(1.3, 500), 3_000).astype(np.int64) for _ in range(30)]
    for step, fids in enumerate(batches):
        if step == 8 and increment:
            saving = one.start_saving(tmp_path / "base")
            saving.finish()
            saving.commit(track=True)
        if step == 15:
            saving = one.start_saving(tmp_path / "last", increment=increment)
            saving.finish()
            saving.commit()
            two = EmbeddingTable.restore(*([tmp_path / "base"] if increment else []), tmp_path / "last")
            assert 0 < len(one) < len(np.unique(np.concatenate(batches[:15])))
        for table in (one,) if step < 15 else (one, two):
            table.find_or_insert(fids, 30 * step)
    for left, right in zip(two.export_rows(), one.export_rows(), strict=True):
        np.testing.assert_array_equal(left, right)
    for name in ("rows", "candidates", "admitted", "filtered"):
        assert getattr(two.stats(), name) == getattr(one.stats(), name), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "luck"}, "admission must be count, sketch, proportional or geometric, got 'luck'"),
        ({"kind": "sketch", "sketch_bytes": 63}, r"sketch_bytes must be in 64..2\^40, got 63"),
        ({"kind": "sketch", "window_s": 0}, "window_s must be >= 1, got 0"),
    ],
)
def test_a_wrong_setting_of_admission_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Admission(**settings)
