"""The table on its own: how it is filled, what it weighs, how it grows, what a second thread brings, and how it is saved.

Letters: n ids of a batch, D the table's dim.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from figures import figure, interleaved
from limits import FlatMap, has_flat_map
from workload import FloatArray, Ids, Int64Array, Scale, fids_of

from monolith_py import _core
from monolith_py.table import EmbeddingTable, RowwiseAdagrad

NOW_S = 1_700_000_000
GROWTH_FROM = 0.035  # of the rows: 0.35M of 10M
GROWTH_PASSES = 3
SAVES = 3
CHUNK = 65_536
PIECE_BYTES = 32 << 20


def chunks(num_rows: int, size: int = CHUNK) -> Iterator[Int64Array]:
    """Yield the fids of all rows, in the order of their numbers, int64 (size,) each."""
    for start in range(0, num_rows, size):
        yield fids_of(np.arange(start, min(start + size, num_rows)))


def fill(core: _core.Table, num_rows: int) -> None:
    """Insert the fids of rows 0 .. num_rows - 1."""
    for fids in chunks(num_rows):
        core.find_or_insert(fids, NOW_S, np.empty(len(fids), np.uint32))
    assert len(core) == num_rows


def weights_of(core: _core.Table, num_rows: int) -> Iterator[tuple[int, FloatArray]]:
    """Yield (first row number, weights (n, D)) for all rows in the order of their numbers."""
    for place, fids in enumerate(chunks(num_rows)):
        rows, weights = np.empty(len(fids), np.uint32), np.empty((len(fids), core.dim), np.float32)
        core.find(fids, rows)
        core.gather(rows, weights)
        yield place * CHUNK, weights


def resident_bytes() -> int:
    """Return the memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bench_memory(core: _core.Table, resident: int) -> None:
    """Bytes of a row, by the table's own count and by the growth of the process (`resident`), against weights, one state float and key."""
    payload = len(core) * (core.dim * 4 + 4 + 8)
    figure("table.bytes_per_row_vs_payload", core.stats()["bytes"] / payload, "ratio")
    figure("table.resident_bytes_per_row_vs_payload", resident / payload, "ratio")


def bench_growth(scale: Scale, dim: int, library: ctypes.CDLL) -> None:
    """All rows inserted batch by batch, in turns with a flat map; several passes, as the pauses of growth come again and others do not."""
    batches = list(chunks(scale.rows, scale.batch))
    if batches[1:] and len(batches[-1]) < scale.batch:
        batches.pop()
    passes = [_grow(batches, dim, library, scale.clock) for _ in range(GROWTH_PASSES)]
    ours, flat = (np.array([one[side] for one in passes]) for side in (0, 1))  # (passes, batches)
    total_s = float(np.median(ours.sum(axis=1)))
    figure("table.insert_ns", total_s / sum(map(len, batches)) * 1e9, "ns/id")
    if has_flat_map(library):
        flat_s = float(np.median(flat.sum(axis=1)))
        figure("table.flat_map_insert_ns", flat_s / sum(map(len, batches)) * 1e9, "ns/id")
        figure("table.insert_vs_boost_flat_map", total_s / flat_s, "ratio")
    else:
        print("absent table.flat_map_insert_ns and table.insert_vs_boost_flat_map: no headers of Boost >= 1.81 where g++ looks (CPATH)")
    grown = ours.min(axis=0)[int(len(batches) * GROWTH_FROM) :]
    figure("table.growth_pause_vs_median", float(grown.max() / np.median(grown)), "ratio")
    figure("table.growth_pause_ms", float(grown.max()) * 1e3, "ms")


def _grow(batches: Sequence[Int64Array], dim: int, library: ctypes.CDLL, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
    core = EmbeddingTable(dim, RowwiseAdagrad()).core
    flat = FlatMap(library) if has_flat_map(library) else None
    ours_s, flat_s = [], []
    rows = np.empty(len(batches[0]), np.uint32)
    for fids in batches:
        began_s = clock()
        core.find_or_insert(fids, NOW_S, rows)
        ours_s.append(clock() - began_s)
        if flat is not None:
            began_s = clock()
            size = flat.insert(fids)
            flat_s.append(clock() - began_s)
            assert size == len(core)
    assert len(core) == sum(map(len, batches))
    if flat is not None:
        flat.close()
    return ours_s, flat_s


def bench_threads(scale: Scale, core: _core.Table, batches: Sequence[Ids], gradients: FloatArray) -> None:
    """Time with one thread over time with two, the number set and one call of the kind made with the clock stopped."""
    known = [_found(core, ids) for ids in batches]
    weights = np.empty_like(gradients)
    found = np.empty(scale.batch, np.uint32)

    def lookup(index: int) -> None:
        core.find(batches[index % len(batches)].fids, found)
        core.gather(found, weights)

    def update(index: int) -> None:
        core.update(known[index % len(batches)], gradients)

    num_inserts = max(2, scale.rows // 5 // scale.batch)
    fresh = list(chunks(num_inserts * scale.batch, scale.batch))
    small = {threads: EmbeddingTable(core.dim, RowwiseAdagrad()).core for threads in (1, 2)}
    spare = EmbeddingTable(core.dim, RowwiseAdagrad()).core

    def insert(table: _core.Table) -> Callable[[int], None]:
        return lambda index: table.find_or_insert(fresh[index], NOW_S, found)

    _scaling("lookup", {1: lookup, 2: lookup}, lookup, scale.rounds, scale.warmup)
    _scaling("update", {1: update, 2: update}, update, scale.rounds, scale.warmup)
    _scaling("insert", {threads: insert(table) for threads, table in small.items()}, insert(spare), num_inserts, 0)
    assert len(small[1]) == len(small[2]) == num_inserts * scale.batch
    _core.set_num_threads(scale.threads)


def _scaling(kind: str, calls: dict[int, Callable[[int], None]], wake: Callable[[int], None], rounds: int, warmup: int) -> None:
    def before(threads: str, index: int) -> None:
        _core.set_num_threads(int(threads))
        wake(max(0, index - 7))  # a batch that is in no cache any more when its turn has come

    medians = interleaved({str(threads): call for threads, call in calls.items()}, rounds, warmup=warmup, before=before)
    figure(f"table.thread_scaling.{kind}", medians["1"] / medians["2"], "ratio")


def _found(core: _core.Table, ids: Ids) -> np.ndarray:
    rows = np.empty(len(ids.fids), np.uint32)
    core.find(ids.fids, rows)
    return rows


def save(core: _core.Table, path: Path) -> None:
    """Save the table as `EmbeddingTable.start_saving` does: in pieces, between which others may use it."""
    saving = core.start_saving(str(path), 1, 0)
    while saving.copy(20_000):
        pass
    saving.finish()
    saving.commit(False)


def bench_snapshot(scale: Scale, core: _core.Table, batches: Sequence[Ids], folder: Path) -> None:
    """A save against writing as many bytes to the same disk, and how long another thread waits for the table meanwhile."""
    saved, raw = folder / "saved.table", folder / "raw"
    save(core, saved)
    num_bytes = saved.stat().st_size
    piece = np.random.default_rng(0).bytes(min(PIECE_BYTES, num_bytes))

    def write(_: int) -> None:
        with raw.open("wb", buffering=0) as file:
            for start in range(0, num_bytes, len(piece)):
                file.write(piece[: num_bytes - start])
            os.fsync(file.fileno())

    medians = interleaved({"save": lambda _: save(core, saved), "write": write}, SAVES, before=lambda *_: raw.unlink(missing_ok=True))
    figure("table.snapshot_vs_disk", medians["save"] / medians["write"], "ratio")
    figure("table.snapshot_s", medians["save"], "s")
    waits = [_longest_waits_s(core, saved, batches[place % len(batches)].fids[:1024]) for place in range(SAVES)]
    lookup_s, update_s = np.median(waits, axis=0)
    figure("table.snapshot_pause_ms", lookup_s * 1e3, "ms")
    figure("table.snapshot_update_pause_ms", update_s * 1e3, "ms")


def _longest_waits_s(core: _core.Table, path: Path, fids: Int64Array) -> tuple[float, float]:
    """Return the longest find_or_insert and the longest update of some known fids while a save is under way in another thread."""
    rows, gradients = _found(core, Ids(fids, fids)), np.full((len(fids), core.dim), 1e-3, np.float32)
    lookup_s = update_s = 0.0
    saver = threading.Thread(target=save, args=(core, path))
    saver.start()
    while saver.is_alive() or lookup_s == 0.0:
        began_s = time.perf_counter()
        core.find_or_insert(fids, NOW_S, rows)
        found_s = time.perf_counter()
        core.update(rows, gradients)
        lookup_s, update_s = max(lookup_s, found_s - began_s), max(update_s, time.perf_counter() - found_s)
    saver.join()
    return lookup_s, update_s
