"""Results do not depend on the number of threads, and on the instruction set only by rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.table import NO_ROW, Adagrad, Adam, Admission, EmbeddingTable, Ftrl, GroupAdagrad, MemoryBudget, Momentum, Slice

BATCH = 45_000  # fids; a call of so many is split into many parts
Result = dict[str, np.ndarray]


def make_table(**settings: Any) -> EmbeddingTable:
    return EmbeddingTable(**{"dim": 16, "optimizer": Adagrad(lr=0.1), "seed": 1, **settings})


SLICES = (Slice("bias", 4, Ftrl(lr=0.1)), Slice("vec", 12, Adam(lr=0.05, clip_norm=1.0), "normal", encoding="int8"))
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "second sighting and ttl": {"admit_after": 2, "ttl_s": 300},
    "sketch": {"admit_after": 3, "admission": Admission("sketch", sketch_bytes=1 << 16)},
    "proportional": {"admit_after": 4, "admission": Admission("proportional")},
    "geometric": {"admit_after": 4, "admission": Admission("geometric")},
    "slices": {"optimizer": None, "slices": SLICES, "admit_after": 2},
    "budget": {"budget": MemoryBudget(2_500_000), "dim": 32},
    "freed": {"optimizer": GroupAdagrad(lr=0.3, l2=0.35), "dim": 8},
}


def contents(table: EmbeddingTable) -> Result:
    entries = table.entries()
    order = np.argsort(entries.fids)
    rows = entries.rows[order]
    live = rows[rows != NO_ROW]
    return {
        "entries": np.stack([entries.fids[order], rows, entries.counts[order], entries.seen_s[order]]),
        "weights": table.gather(live),
        "state": table.state(live),
        "stats": np.array([value for name, value in vars(table.stats()).items() if name != "bytes"]),
    }


@cache
def batches(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fids with many duplicates, which move on from batch to batch, and numbers to make gradients of."""
    generator = np.random.default_rng(3)
    return [
        (np.minimum(generator.zipf(1.1, size), 4 * size // 3) + size // 3 * step, generator.normal(size=(size, 32)).astype(np.float32))
        for step in range(4)
    ]


def trained(settings: dict[str, Any], path: Path, size: int = BATCH) -> Result:
    """Some batches, drained and saved; everything a caller can see of it."""
    table, result = make_table(**settings), {}
    for step, (fids, numbers) in enumerate(batches(size)):
        rows = table.find_or_insert(fids, 100 * step)
        result[f"row ids {step}"] = rows
        result[f"gathered {step}"] = table.gather(rows)
        table.update(rows, np.ascontiguousarray(numbers[:, : table.dim]))
        result[f"evicted {step}"] = table.evict(100 * step)
        result[f"found {step}"] = table.find(fids)
        delta = table.drain("plain") if step % 2 else table.drain_encoded("encoded")
        result |= {f"{name} {step}": value for name, value in vars(delta).items() if name != "ticket"}
        table.ack("plain" if step % 2 else "encoded", delta.ticket)
    saving = table.start_saving(path)
    saving.finish()
    saving.commit()
    result |= contents(table)
    result |= {f"{name} restored": value for name, value in contents(EmbeddingTable.restore(path)).items()}
    return result


def equal(got: Result, expected: Result) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_table_is_bit_equal_for_any_number_of_threads(settings: dict[str, Any], tmp_path: Path) -> None:
    results = []
    for num_threads in (1, 2, 3):
        _core.set_num_threads(num_threads)
        results.append(trained(settings, tmp_path / "t"))
    for result in results[1:]:
        equal(result, results[0])
    assert (results[0]["row ids 0"] != NO_ROW).sum() > 15_000
    assert len(np.unique(results[0]["row ids 3"])) < BATCH


def pooled(num_bags: int) -> Result:
    """Three features over two tables, one of them looked up twice, with weights; forward and backward."""
    generator = np.random.default_rng(5)
    tables = [make_table(dim=16, admit_after=2), make_table(dim=8, optimizer=Momentum(lr=0.1), ttl_s=1_000)]
    cores, pooling = [tables[0].core, tables[1].core, tables[0].core], [0, 1, -2]
    result: Result = {}
    for step in range(3):
        lengths = generator.integers(0, 4, 3 * num_bags)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        fids = np.minimum(generator.zipf(1.2, offsets[-1]), 60_000).astype(np.int64)
        weights = generator.normal(size=len(fids)).astype(np.float32) if step else None
        out, rows = np.empty((num_bags, 16 + 8 + 32), np.float32), np.empty(len(fids), np.uint32)
        released = _core.pooled_forward(cores, fids, offsets, weights, pooling, step, [True] * len(cores), out, rows)
        gradients = generator.normal(size=out.shape).astype(np.float32)
        num, _ = _core.pooled_backward(cores, fids, rows, released, offsets, weights, pooling, gradients)
        looked = np.empty_like(out)
        _core.pooled_forward(cores, fids, offsets, weights, pooling, step, [False] * len(cores), looked, rows.copy())
        result |= {f"out {step}": out, f"rows {step}": rows, f"looked {step}": looked, f"num {step}": np.array(num)}
    for at, table in enumerate(tables):
        result |= {f"{name} of {at}": value for name, value in contents(table).items()}
    return result


def test_pooled_calls_are_bit_equal_for_any_number_of_threads() -> None:
    results = []
    for num_threads in (1, 2, 3):
        _core.set_num_threads(num_threads)
        results.append(pooled(12_000))
    for result in results[1:]:
        equal(result, results[0])
    assert (results[0]["rows 2"] != NO_ROW).mean() > 0.5


def close(got: Result, expected: Result) -> None:
    """Equal where it is no float; else within what the order of rounding makes of sums over thousands of duplicates."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("digest "):  # of the very bits
            continue
        if name.startswith("rows ") and value.ndim == 2:  # encoded: a level or a unit in the last place at most
            assert (got[name] == value).mean() > 0.99, name
        elif value.dtype.kind == "f":
            np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_table_is_the_same_on_every_level_but_for_rounding(settings: dict[str, Any], tmp_path: Path) -> None:
    result = {}
    for name in _core.simd_levels():
        _core.set_simd_level(name)
        assert _core.simd_level() == name
        result[name] = trained(settings, tmp_path / "t", size=12_000)
    for name in result:
        close(result[name], result["portable"])


def test_pooled_calls_are_the_same_on_every_level_but_for_rounding() -> None:
    result = {}
    for name in _core.simd_levels():
        _core.set_simd_level(name)
        result[name] = pooled(3_000)
    for name in result:
        close(result[name], result["portable"])


@pytest.mark.parametrize("dim", [4, 8, 12, 16, 32, 64, 100])
def test_every_width_is_gathered_and_updated_alike_on_every_level(dim: int) -> None:
    generator = np.random.default_rng(2)
    fids = generator.integers(0, 500, 3_000)
    gradients = generator.normal(size=(3_000, dim)).astype(np.float32)
    weights = {}
    for name in _core.simd_levels():
        _core.set_simd_level(name)
        table = make_table(dim=dim)
        table.update(table.find_or_insert(fids, 0), gradients)
        weights[name] = table.export_rows()[1]
    for name in weights:
        np.testing.assert_allclose(weights[name], weights["portable"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.set_num_threads(0), "num_threads must be >= 1, got 0"),
        (lambda: _core.set_simd_level("sse9"), "level must be one of .*portable, got 'sse9'"),
    ],
)
def test_threads_and_levels_that_cannot_be_are_refused(call: Callable[[], None], message: str) -> None:
    before = _core.num_threads(), _core.simd_level()
    with pytest.raises(ValueError, match=message):
        call()
    assert (_core.num_threads(), _core.simd_level()) == before
