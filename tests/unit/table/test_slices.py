"""Each slice of a row has its own rule, rate, start values and encoding, as in a table of its own.

Letters: n rows, D the table's dim, R the bytes of an encoded row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monolith_py import _core
from monolith_py.table import Adagrad, Adam, EmbeddingTable, Ftrl, GroupAdagrad, Momentum, Sgd, Slice

SLICES = [
    Slice("bias", 4, Ftrl(lr=0.1, l1=0.05, beta=1.0), initializer="zeros", encoding="fp32"),
    Slice("vec", 16, Adagrad(lr=0.3, eps=1e-3, initial_accumulator=0.1), init_scale=0.5, encoding="int8"),
    Slice("side", 8, Adam(lr=0.05, clip_norm=1.5), initializer="normal", init_scale=0.2, encoding="fp16"),
    Slice("odd", 7, Momentum(lr=0.1, nesterov=True, weight_decay=0.1), initializer="xavier", init_scale=1.0, encoding="int4"),
    Slice("one", 1, Sgd(lr=0.2), initializer="constant", init_scale=0.75, encoding="int4"),
]
DIM = sum(part.dim for part in SLICES)
COLUMNS = dict(zip((part.name for part in SLICES), np.split(np.arange(DIM), np.cumsum([part.dim for part in SLICES])[:-1]), strict=True))
NUM_FIDS = 40


def make_table(slices: list[Slice] = SLICES, **settings: Any) -> EmbeddingTable:
    return EmbeddingTable(sum(part.dim for part in slices), slices=slices, seed=3, **settings)


def trained(table: EmbeddingTable, columns: np.ndarray, num_steps: int = 20, scale: float = 1.0) -> np.ndarray:
    """Take steps with these columns of gradients that are the same for every table; return the weights of all fids."""
    generator = np.random.default_rng(8)
    for _ in range(num_steps):
        fids = generator.integers(0, NUM_FIDS, 30)
        gradients = scale * generator.normal(size=(30, DIM)).astype(np.float32)
        table.update(table.find_or_insert(fids, 0), np.ascontiguousarray(gradients[:, columns]))
    return table.gather(table.find(np.arange(NUM_FIDS)))


def test_a_slice_learns_as_it_would_in_a_table_of_its_own() -> None:
    """From constant start values, which do not depend on the slice's place as those that are drawn do."""
    parts = [Slice(part.name, part.dim, part.optimizer, "constant", 0.25 + place) for place, part in enumerate(SLICES)]
    got = trained(make_table(parts), np.arange(DIM))
    for place, part in enumerate(parts):
        filler = Slice("filler", -part.dim % 4 or 4, Sgd(lr=1e-9), "zeros")
        columns = COLUMNS[part.name]
        alone = EmbeddingTable(part.dim + filler.dim, slices=[part, filler], seed=99)
        learnt = trained(alone, np.concatenate([columns, np.resize(columns, filler.dim)]))[:, : part.dim]
        assert (got[:, columns] != np.float32(0.25 + place)).any(axis=1).all(), "every row has learnt"
        np.testing.assert_array_equal(got[:, columns], learnt, part.name)


def test_the_first_slice_starts_as_a_table_without_slices_and_no_two_slices_start_alike() -> None:
    parts = [Slice(name, 8, Sgd(), "uniform", 0.5) for name in "abc"]
    table, plain = make_table(parts), EmbeddingTable(8, Sgd(), init_scale=0.5, seed=3)
    fids = np.arange(2_000)
    weights = table.gather(table.find_or_insert(fids, 0))
    np.testing.assert_array_equal(weights[:, :8], plain.gather(plain.find_or_insert(fids, 0)))
    correlations = np.corrcoef(weights, rowvar=False) - np.eye(24)
    assert np.abs(correlations).max() < 5.5 / np.sqrt(len(fids))


def quantised(weights: np.ndarray, num_bits: int) -> np.ndarray:
    """The layout from its definition: fp16 scale, fp16 bias, then levels; two of 4 bits in a byte, the low one first."""
    packed = []
    for row in weights:
        bias = np.float16(np.clip(row.min(), -65504, 65504))
        scale = np.float16(np.clip((row.max() - np.float32(bias)) / np.float32(2**num_bits - 1), 0, 65504)) or np.float16(1)
        inverse = np.float32(1) / np.float32(scale)
        levels = np.clip(np.rint((row - np.float32(bias)) * inverse), 0, 2**num_bits - 1).astype(np.uint8)
        if num_bits == 4:
            levels = np.append(levels, np.zeros(len(row) % 2, np.uint8))
            levels = levels[::2] | levels[1::2] << 4
        packed.append(np.concatenate([np.array([scale, bias], "<f2").view(np.uint8), levels]))
    return np.array(packed, np.uint8)


def packed(weights: np.ndarray, encoding: str) -> np.ndarray:
    """Rows packed by numpy, from the definition of each encoding."""
    if encoding in ("int8", "int4"):
        return quantised(weights, int(encoding[3:]))
    halves = np.clip(weights, -65504, 65504).astype("<f2")
    return np.ascontiguousarray(weights if encoding == "fp32" else halves).view(np.uint8).reshape(len(weights), -1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0, 1e6])
def test_every_slice_of_a_drain_is_packed_as_its_encoding_says(scale: float) -> None:
    table = make_table()
    table.find_or_insert(np.arange(NUM_FIDS), 0)
    trained(table, np.arange(DIM), num_steps=3, scale=scale)
    delta = table.drain_encoded("replicas")
    assert sorted(delta.fids.tolist()) == list(range(NUM_FIDS))
    weights = table.gather(table.find(delta.fids))
    expected = [packed(weights[:, COLUMNS[part.name]], part.encoding) for part in SLICES]
    np.testing.assert_array_equal(delta.rows, np.concatenate(expected, axis=1))
    assert delta.rows.shape == (NUM_FIDS, 16 + 20 + 16 + 8 + 5)


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e-3, 1.0, 1e5, 1e38])
def test_an_encoding_holds_for_rows_of_any_spread(encoding: Any, spread: float) -> None:
    lr = max(1.0, spread / 1e14)  # a gradient must be below 2^48
    table = make_table([Slice("w", 12, Sgd(lr=lr), "constant", 0.0, encoding)])
    rows = table.find_or_insert(np.arange(200), 0)
    table.update(rows, np.float32(spread / lr) * np.random.default_rng(1).uniform(-1, 1, (200, 12)).astype(np.float32))
    delta = table.drain_encoded("replicas")
    weights = table.gather(table.find(delta.fids))
    np.testing.assert_array_equal(delta.rows, packed(weights, encoding))
    np.testing.assert_array_equal(_core.pack_rows(weights, encoding), delta.rows)


@pytest.mark.parametrize(
    ("encodings", "expected"),
    [
        (["int8"], "int8"),
        (["int4"], "int4"),
        (["fp16", "fp16"], "fp16"),
        (["fp32", "fp32", "fp32"], "fp32"),
        (["int8", "int8"], None),
        (["fp16", "fp32"], None),
    ],
)
def test_a_row_has_an_encoding_where_its_slices_add_up_to_one(encodings: list[Any], expected: str | None) -> None:
    parts = [Slice(f"s{index}", 4, Sgd(), encoding=encoding) for index, encoding in enumerate(encodings)]
    assert make_table(parts).encoding == expected


def test_encoded_drains_carry_what_plain_ones_do() -> None:
    table = make_table(ttl_s=10)
    table.find_or_insert([1, 2, 3], 0)
    table.ack("a", table.drain_encoded("a").ticket)
    table.find_or_insert([3, 4], 20)
    table.evict(20)
    encoded, plain = table.drain_encoded("a"), table.drain("a")
    assert (encoded.fids.tolist(), encoded.evicted.tolist()) == (plain.fids.tolist(), plain.evicted.tolist()) == ([4], [1, 2])
    table.ack("a", plain.ticket)
    empty = table.drain_encoded("a")
    assert (empty.rows.shape, len(empty.evicted)) == ((0, 65), 0)


@pytest.mark.parametrize("part", [None, "bias", "vec"])
def test_a_rate_is_set_for_one_slice_or_for_all(part: str | None) -> None:
    table = make_table([Slice("bias", 4, Sgd(lr=1.0), "zeros"), Slice("vec", 8, Sgd(lr=1.0), "zeros")])
    table.set_lr(0.25, part)
    rows = table.find_or_insert([1], 0)
    table.update(rows, np.ones((1, 12), np.float32))
    expected = [-0.25 if part in (None, "bias") else -1.0] * 4 + [-0.25 if part in (None, "vec") else -1.0] * 8
    assert table.gather(rows)[0].tolist() == expected


def test_a_row_counts_as_freed_when_all_its_slices_are_zero_and_not_before() -> None:
    parts = [Slice("bias", 4, Sgd(lr=1.0), "zeros"), Slice("vec", 4, GroupAdagrad(lr=1.0, l2=100.0))]
    table = make_table(parts)
    rows = table.find_or_insert([1, 2], 0)
    gradients = np.zeros((2, 8), np.float32)
    gradients[0, 0] = 1.0
    table.update(rows, gradients)
    assert (table.stats().freed, table.drain("a").evicted.tolist()) == (1, [2])
    assert table.gather(rows[:1])[0].tolist() == [-1.0] + [0.0] * 7
    table.update(rows[:1], -gradients[:1])
    assert (len(table), table.stats().freed, table.drain("a").evicted.tolist()) == (2, 2, [1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbeddingTable(8, slices=[Slice("a", 4, Sgd())]), r"dims that add up to 8, got \[\('a', 4\)\]"),
        (lambda: EmbeddingTable(8, slices=[Slice("a", 4, Sgd()), Slice("a", 4, Sgd())]), "slices must have different names"),
        (lambda: EmbeddingTable(0, slices=[Slice("a", 0, Sgd())]), "dim of slice 'a' must be >= 1, got 0"),
        (lambda: EmbeddingTable(4, slices=[Slice("a", 4, Sgd()), Slice("b", 0, Sgd())]), "dim of slice 'b' must be >= 1, got 0"),
        (lambda: EmbeddingTable(4, Sgd(), slices=[Slice("a", 4, Sgd())]), "either an optimizer or slices"),
        (lambda: EmbeddingTable(4), "either an optimizer or slices"),
        (lambda: EmbeddingTable(4, slices=[Slice("a", 4, Sgd(), "ones")]), "initializer must be one of zeros, .*, got 'ones'"),  # type: ignore[arg-type]
        (lambda: EmbeddingTable(4, slices=[Slice("a", 4, Sgd(), encoding="bf16")]), "encoding must be one of fp32, .*, got 'bf16'"),  # type: ignore[arg-type]
        (lambda: make_table().set_lr(0.1, "vex"), "part must be one of .*'bias', 'vec'.*, got 'vex'"),
        (lambda: make_table().core.set_lr(5, 0.1), "slice must be below 5, got 5"),
    ],
)
def test_a_wrong_name_or_dim_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
