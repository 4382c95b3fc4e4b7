"""Readers beside one writer get a complete row, zeros or no row, never a torn one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from monolith_py.table import NO_ROW, EmbeddingTable, Sgd

DIM, NUM_FIDS, NUM_STEPS, TTL_S = 512, 400, 300, 10


@pytest.fixture
def table() -> EmbeddingTable:
    """Rows start at zeros; each update adds 1 to all numbers of a row, so a whole row is one whole number DIM times."""
    return EmbeddingTable(DIM, Sgd(lr=1.0), init_scale=0.0, ttl_s=TTL_S)


def write(table: EmbeddingTable, num_steps: int) -> None:
    """Insert, update and evict without pause: fids come, are seen for a while and expire."""
    generator = np.random.default_rng(1)
    for step in range(num_steps):
        fids = generator.integers(step, step + 100, 64) % NUM_FIDS
        rows = table.find_or_insert(fids, step)
        table.update(rows, np.full((64, DIM), -1, np.float32))
        if step % 7 == 0:
            table.evict(step)


def run_beside(writer: Callable[[], None], readers: list[Callable[[], None]]) -> None:
    """Run the writer once and each reader again and again, the last time after the writer; raise what any of them raised."""
    done, errors = threading.Event(), []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def repeat(read: Callable[[], None]) -> None:
        while not done.is_set():
            read()
        read()

    def write_then_say_so() -> None:
        guarded(writer)
        done.set()

    threads = [threading.Thread(target=write_then_say_so)]
    threads += [threading.Thread(target=guarded, args=(lambda read=read: repeat(read),)) for read in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def test_readers_get_whole_rows_zeros_or_no_row(table: EmbeddingTable, work_factor: int) -> None:
    fids = np.arange(NUM_FIDS + 50)
    absent = np.arange(10**6, 10**6 + 50)
    most = np.zeros(2)

    def read(reader: int) -> None:
        rows = table.find(fids)
        weights = table.gather(rows)
        assert (weights == weights[:, :1]).all(), "torn row"
        assert (weights == np.round(weights)).all() and weights.min() >= 0
        assert not weights[rows == NO_ROW].any()
        assert (table.find(absent) == NO_ROW).all()
        most[reader] = max(most[reader], weights.max())

    num_steps = NUM_STEPS * work_factor
    run_beside(lambda: write(table, num_steps), [lambda: read(0), lambda: read(1)])
    assert (most > 0).all(), "each reader saw rows that had learnt"
    _, weights = table.export_rows()
    alone = EmbeddingTable(DIM, Sgd(lr=1.0), init_scale=0.0, ttl_s=TTL_S)
    write(alone, num_steps)
    np.testing.assert_array_equal(weights, alone.export_rows()[1])


def test_drains_and_snapshots_beside_a_writer_hold_whole_rows_and_lose_none(
    table: EmbeddingTable, tmp_path: Path, work_factor: int
) -> None:
    replica: dict[int, float] = {}
    num_drains = 0

    def drain() -> None:
        nonlocal num_drains
        num_drains += 1
        delta = table.drain("replicas")
        assert (delta.weights == delta.weights[:, :1]).all(), "torn row"
        for fid in delta.evicted.tolist():
            replica.pop(fid, None)
        replica.update(zip(delta.fids.tolist(), delta.weights[:, 0].tolist(), strict=True))
        if num_drains % 3:  # the others come again
            table.ack("replicas", delta.ticket)

    def save() -> None:
        table.save(tmp_path / "a.table")
        _, weights = EmbeddingTable.restore(tmp_path / "a.table").export_rows()
        assert (weights == weights[:, :1]).all(), "torn row"

    run_beside(lambda: write(table, NUM_STEPS * work_factor), [drain, save])
    drain()
    fids, weights = table.export_rows()
    assert replica == dict(zip(fids.tolist(), weights[:, 0].tolist(), strict=True))


def test_readers_find_every_row_where_it_is_while_the_table_grows() -> None:
    table = EmbeddingTable(4, Sgd())
    fids = np.arange(20_000)
    rows = table.find_or_insert(fids, 0)

    def grow() -> None:
        for first in range(20_000, 400_000, 500):
            table.find_or_insert(np.arange(first, first + 500), 0)

    def read() -> None:
        np.testing.assert_array_equal(table.find(fids), rows)
        assert (table.find(-1 - fids) == NO_ROW).all()

    run_beside(grow, [read, read])
    assert len(table) == 400_000


def test_a_look_up_beside_evictions_reads_its_own_rows_or_zeros(work_factor: int) -> None:
    """`find`, then `gather`, read rows of other fids that took their place: 248 times in 1,606 reads."""
    fids = np.arange(3_000)
    fresh = EmbeddingTable(DIM // 8, Sgd(), initializer="normal")
    fresh.find_or_insert(fids, 0)
    expected = fresh.lookup(fids)
    table = EmbeddingTable(DIM // 8, Sgd(), initializer="normal", ttl_s=TTL_S)
    num_found = 0

    def write_and_evict() -> None:
        for step in range(NUM_STEPS * work_factor):
            table.find_or_insert(fids[step % 10 :: 10], step * TTL_S)
            table.evict(step * TTL_S)

    def read() -> None:
        nonlocal num_found
        weights = table.lookup(fids)
        is_there = weights.any(axis=1)
        np.testing.assert_array_equal(weights[is_there], expected[is_there])
        num_found += int(is_there.sum())

    run_beside(write_and_evict, [read])
    assert num_found > 0
