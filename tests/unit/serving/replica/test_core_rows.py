"""The core's rows under readers and a writer at the same time, and what their binding refuses."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from monolith_py._core import ReplicaRows

WIDTHS = (5, 16)
LASTING, PASSING = 250, 250  # fids that always have a row, and those that come and go


def rows_of(fids: np.ndarray, step: int, dim: int) -> np.ndarray:
    """Return float32 rows as bytes: the fid in the first column, the step in all others."""
    rows = np.full((len(fids), dim), step, np.float32)
    rows[:, 0] = fids
    return rows.view(np.uint8)


def faults_of(fids: np.ndarray, rows: np.ndarray) -> int:
    """Return the number of torn, foreign and lost rows."""
    there = rows[:, 0] != 0
    torn = (rows[:, 1:] != rows[:, 1:2]).any(axis=1) | (~there & (rows[:, 1] != 0))
    foreign = there & (rows[:, 0] != fids)
    lost = ~there & (fids <= LASTING)
    return int((torn | foreign | lost).sum())


def test_readers_beside_a_writer_see_no_torn_foreign_or_lost_row(work_factor):
    rows = ReplicaRows([("a", WIDTHS[0], "fp32", False, 1), ("b", WIDTHS[1], "fp32", False, 1)])
    fids = np.arange(1, 1 + LASTING + PASSING)
    for feature, dim in enumerate(WIDTHS):
        rows.assign(feature, fids[:LASTING], rows_of(fids[:LASTING], 0, dim))
    done, num_faults, num_reads = threading.Event(), [], []

    def read() -> None:
        lengths, both = np.ones(2 * len(fids), np.int32), np.concatenate([fids, fids])
        pooled = np.empty((len(fids), sum(WIDTHS)), np.float32)
        while not done.is_set():
            rows.pool_by_feature(lengths, both, pooled)
            num_faults.append(faults_of(fids, pooled[:, : WIDTHS[0]]) + faults_of(fids, pooled[:, WIDTHS[0] :]))
        num_reads.append(len(num_faults))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    generator = np.random.default_rng(0)
    for step in range(1, 300 * work_factor):
        feature = step % 2
        dim = WIDTHS[feature]
        lasting, passing = (np.sort(generator.choice(part, 100, replace=False)) for part in (fids[:LASTING], fids[LASTING:]))
        rows.assign(feature, lasting, rows_of(lasting, step, dim))
        if generator.random() < 0.5:
            rows.evict(feature, passing)
        else:
            rows.insert_all(feature, passing, rows_of(passing, step, dim), 2)
        others = np.arange(10_000 + 60 * step, 10_060 + 60 * step)  # growth
        rows.assign(feature, others, rows_of(others, step, dim))
    done.set()
    for reader in readers:
        reader.join()
    assert min(num_reads) > 0
    assert sum(num_faults) == 0


def test_read_gives_the_bytes_of_rows_and_zeros_without_one():
    rows = ReplicaRows([("a", 3, "int4", False, 1)])
    packed = np.arange(12, dtype=np.uint8).reshape(2, 6)
    assert rows.assign(0, np.array([5, -7]), packed)
    assert rows.read(0, np.array([-7, 6, 5])).tolist() == [packed[1].tolist(), [0] * 6, packed[0].tolist()]


def test_wrong_shapes_are_refused():
    rows = ReplicaRows([("a", 4, "fp32", False, 1)])
    with pytest.raises(ValueError, match="feature must be < 1, got 1"):
        rows.evict(1, np.array([1]))
    with pytest.raises(ValueError, match=r"rows must be \(1, 16\), got \(1, 15\)"):
        rows.assign(0, np.array([1]), np.zeros((1, 15), np.uint8))
    with pytest.raises(ValueError, match=r"pooled must be \(2, 4\), got \(2, 3\)"):
        rows.pool_by_feature(np.ones(2, np.int32), np.array([1, 2]), np.empty((2, 3), np.float32))
    with pytest.raises(ValueError, match="fids must have size 3, got 2"):
        rows.pool_by_feature(np.array([1, 2], np.int32), np.array([1, 2]), np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match="lengths must be >= 0, got a negative one"):
        rows.pool_by_feature(np.array([3, -1], np.int32), np.array([1, 2]), np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"dim must be in \[1, 1048576\], got 0"):
        ReplicaRows([("a", 0, "fp32", False, 1)])
    with pytest.raises(ValueError, match="encoding must be one of fp32, fp16, int8, int4, got 'fp8'"):
        ReplicaRows([("a", 4, "fp8", False, 1)])


@pytest.mark.parametrize("dim", [1, 15, 16, 33, 128])
@pytest.mark.parametrize("is_mean", [False, True])
def test_int4_rows_are_pooled_as_they_unpack(dim, is_mean):
    rows = ReplicaRows([("a", dim, "int4", is_mean, 1)])
    generator = np.random.default_rng(dim)
    fids, levels = np.arange(20), generator.integers(0, 16, (20, dim + dim % 2), np.uint8)
    levels[:, dim:] = 0
    head = generator.normal(0, 0.1, (20, 2)).astype(np.float16)
    packed = np.hstack([head.view(np.uint8), levels[:, 0::2] | levels[:, 1::2] << 4])
    assert rows.assign(0, fids, packed)
    weights = levels[:, :dim] * head[:, :1].astype(np.float32) + head[:, 1:].astype(np.float32)
    lengths = np.array([1, 0, 7, 12], np.int32)
    pooled = np.empty((4, dim), np.float32)
    rows.pool_by_feature(lengths, fids, pooled)
    expected = [weights[:1].sum(0), np.zeros(dim), weights[1:8].sum(0), weights[8:].sum(0)]
    if is_mean:
        expected = [one / max(1, length) for one, length in zip(expected, lengths, strict=True)]
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-5)


def test_rows_inserted_in_the_background_are_those_inserted_at_once() -> None:
    fids, rows = np.arange(5000), rows_of(np.arange(5000), 1, 4)
    tables = [ReplicaRows([("a", 4, "fp32", False, 1)], 1 << 20) for _ in range(2)]
    assert tables[0].insert_all(0, fids, rows, 2)
    assert tables[1].insert_all(0, fids, rows, 2, in_background=True)
    assert tables[0].digest == tables[1].digest and tables[1].num_rows == 5000


def scheduling_classes() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.add(int((task / "stat").read_text().rpartition(")")[2].split()[38]))
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return found


def test_threads_in_the_background_are_of_the_idle_class_and_their_starter_is_not() -> None:
    fids, seen, done = np.arange(200_000), set(), threading.Event()

    def insert() -> None:
        for _ in range(100):
            if not done.is_set():
                rows = ReplicaRows([("a", 4, "fp32", False, 1)])
                rows.insert_all(0, fids, rows_of(fids, 1, 4), 1, in_background=True)

    thread = threading.Thread(target=insert)
    thread.start()
    while thread.is_alive() and not done.is_set():
        seen |= scheduling_classes() - {os.SCHED_OTHER}
        if seen:
            done.set()
    thread.join()
    assert seen == {os.SCHED_IDLE}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
