"""The replica's tables against dicts of numpy rows, in each store and on every device of the machine."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith_py import _core
from monolith_py.config import FeatureConfig
from monolith_py.data.columns import FeatureColumns, SparseColumn
from monolith_py.data.schema import Schema
from monolith_py.errors import TableFull, WireError
from monolith_py.model.batch import Batch, make_batch
from monolith_py.sync import RowEncoding, digest_rows, digest_tables, pack_rows, unpack_rows
from monolith_serving.replica.table import ReplicaTable

DIM = 8
FEATURES = (
    FeatureConfig(name="a", source="item", dim=DIM),
    FeatureConfig(name="b", source="item", dim=DIM, pooling="mean"),
    FeatureConfig(name="c", source="item", dim=DIM),
)
SCHEMA = Schema(FEATURES, (), ("click",))
STORES = [pytest.param(("core", "cpu")), pytest.param(("fbgemm", "cpu")), pytest.param(("fbgemm", "cuda"), marks=pytest.mark.gpu)]
CPU = torch.device("cpu")


@pytest.fixture(params=STORES, ids="-".join)
def make_table(request):
    engine, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return lambda encoding=RowEncoding.FP32, features=FEATURES, **options: ReplicaTable(
        features, encoding, torch.device(device), engine=engine, **options
    )


def batch_of(bags: dict[str, list[list[int]]]):
    """Return the batch in which feature f of row b has the fids bags[f][b]."""
    num_rows = len(next(iter(bags.values())))
    columns = {}
    for name, rows in bags.items():
        fids = [fid for row in rows for fid in row]
        columns[name] = SparseColumn(np.array(fids, np.int64), np.array([len(row) for row in rows], np.int32))
    return make_batch(FeatureColumns(num_rows, columns), SCHEMA)


def expected_of(model: dict[str, dict[int, np.ndarray]], bags: dict[str, list[list[int]]]) -> np.ndarray:
    parts = []
    for feature in FEATURES:
        rows = []
        for fids in bags[feature.name]:
            total = sum((model[feature.name].get(fid, np.zeros(DIM)) for fid in fids), np.zeros(DIM))
            rows.append(total / max(1, len(fids)) if feature.pooling == "mean" else total)
        parts.append(np.stack(rows))
    return np.concatenate(parts, axis=1)


def put(table: ReplicaTable, feature: str, rows: dict[int, np.ndarray], encoding: RowEncoding = RowEncoding.FP32) -> None:
    weights = np.stack(list(rows.values())).astype(np.float32)
    table.assign(feature, np.array(list(rows), np.int64), pack_rows(weights, encoding), encoding)


def test_a_fid_without_a_row_reads_zeros(make_table):
    pooled = make_table().lookup(batch_of({"a": [[1], []], "b": [[2], [3]], "c": [[], [2**62]]}))
    assert pooled.shape == (2, 3 * DIM) and not pooled.any()


def test_features_do_not_share_rows(make_table):
    table = make_table()
    put(table, "a", {1: np.full(DIM, 1.0)})
    put(table, "c", {1: np.full(DIM, 3.0)})
    pooled = table.lookup(batch_of({"a": [[1]], "b": [[1]], "c": [[1]]})).cpu().numpy()
    np.testing.assert_array_equal(pooled, [[1.0] * DIM + [0.0] * DIM + [3.0] * DIM])


@pytest.mark.parametrize("encoding", RowEncoding)
def test_rows_of_every_encoding_read_as_they_unpack(make_table, encoding):
    table = make_table(encoding)
    weights = np.random.default_rng(0).normal(0, 0.1, (500, DIM)).astype(np.float32)
    fids = np.arange(500) - 250
    rows = pack_rows(weights, encoding)
    table.assign("a", fids, rows, encoding)
    pooled = table.lookup(batch_of({"a": [[int(fid)] for fid in fids], "b": [[]] * 500, "c": [[]] * 500})).cpu().numpy()
    np.testing.assert_allclose(pooled[:, :DIM], unpack_rows(rows, DIM, encoding), rtol=1e-6, atol=1e-6)


def test_rows_of_another_encoding_are_packed_again(make_table):
    table = make_table(RowEncoding.FP16)
    put(table, "a", {1: np.full(DIM, 0.25)}, RowEncoding.INT8)
    assert table.lookup(batch_of({"a": [[1]], "b": [[]], "c": [[]]}))[0, :DIM].tolist() == [0.25] * DIM


def test_an_unknown_table_and_another_dim_are_refused(make_table):
    with pytest.raises(WireError, match=r"table must be one of \['a', 'b', 'c'\], got 'd'"):
        make_table().evict("d", np.array([1]))
    with pytest.raises(WireError, match="rows of table 'a' must have dim 8, got 64 bytes of fp32"):
        make_table().assign("a", np.array([1]), np.zeros((1, 64), np.uint8), RowEncoding.FP32)


def test_a_full_table_is_an_error_that_leaves_the_rows_as_they_were(make_table):
    table = make_table(max_rows=4)
    put(table, "a", {fid: np.full(DIM, 1.0) for fid in range(3)})
    with pytest.raises(TableFull, match="rows of the replica must be at most 4, got 3 and 2 more"):
        put(table, "b", {fid: np.full(DIM, 2.0) for fid in range(2)})
    pooled = table.lookup(batch_of({"a": [[0, 1, 2]], "b": [[0]], "c": [[]]})).cpu().numpy()
    np.testing.assert_array_equal(pooled, [[3.0] * DIM + [0.0] * 2 * DIM])
    table.evict("a", np.array([1]))
    put(table, "b", {0: np.full(DIM, 2.0), 1: np.full(DIM, 2.0)})
    assert table.num_rows == 4


def test_updating_the_same_rows_over_and_over_needs_no_more_memory(make_table):
    table, num_bytes = make_table(), []
    for step in range(50):
        put(table, "a", {fid: np.full(DIM, step) for fid in range(1000)})
        num_bytes.append(table.num_bytes)
    assert table.num_rows == 1000
    assert num_bytes[2] == num_bytes[-1]


def test_memory_grows_with_the_rows_and_never_doubles():
    """35.2 million rows were reserved for 20 million, and updates waited while they were copied: serving.md, row 29."""
    feature = FeatureConfig(name="a", source="user", dim=16)
    table, num, num_bytes = ReplicaTable((feature,), RowEncoding.INT8, torch.device("cpu"), engine="core"), 20_000, [0]
    rows = pack_rows(np.ones((num, 16), np.float32), RowEncoding.INT8)
    for first in range(0, 600_000, num):
        table.assign("a", np.arange(first, first + num), rows, RowEncoding.INT8)
        num_bytes.append(table.num_bytes)
    assert max(np.diff(num_bytes)) <= 8 << 20  # 500,000 rows have 10 MB


fid = st.integers(0, 6)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.lists(st.tuples(fid, st.floats(-8, 8, width=16)), min_size=1, max_size=5)),
        st.tuples(st.just("evict"), st.sampled_from("abc"), st.lists(st.tuples(fid, st.just(0.0)), max_size=4)),
        st.tuples(st.just("look"), st.just("a"), st.lists(st.tuples(fid, st.just(0.0)), max_size=6)),
    ),
    max_size=30,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(operations, st.randoms(use_true_random=False))
def test_any_sequence_of_changes_reads_like_dicts(make_table, steps, random):
    table, model = make_table(), {name: {} for name in "abc"}
    for kind, feature, pairs in steps:
        if kind == "put":
            # A fid may come twice: the last row stands.
            fids = np.array([one for one, _ in pairs], np.int64)
            weights = np.array([[value + d for d in range(DIM)] for _, value in pairs], np.float32)
            table.assign(feature, fids, pack_rows(weights, RowEncoding.FP32), RowEncoding.FP32)
            model[feature].update(zip(fids.tolist(), weights, strict=True))
        elif kind == "evict":
            table.evict(feature, np.array([one for one, _ in pairs], np.int64))
            for one, _ in pairs:
                model[feature].pop(one, None)
        bags = {name: [random.choices(range(8), k=random.randrange(4)) for _ in range(3)] for name in "abc"}
        np.testing.assert_allclose(table.lookup(batch_of(bags)).cpu().numpy(), expected_of(model, bags), rtol=1e-6, atol=1e-5)
    assert table.num_rows == sum(len(rows) for rows in model.values())


def test_a_reader_never_sees_half_of_a_row(make_table, work_factor):
    """Every row written has one value in all its columns; rows are rewritten, evicted and grown while another thread reads."""
    table, done = make_table(RowEncoding.FP16), threading.Event()
    fids = list(range(200))
    batch = batch_of({"a": [[one] for one in fids], "b": [[]] * len(fids), "c": [[]] * len(fids)})
    torn: list[np.ndarray] = []

    def read() -> None:
        while not done.is_set():
            pooled = table.lookup(batch)[:, :DIM].cpu().numpy()
            torn.extend(row for row in pooled if (row != row[0]).any())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(400 * work_factor):
        chosen = np.random.default_rng(step).choice(fids, 50, replace=False)
        put(table, "a", {int(one): np.full(DIM, float(step)) for one in chosen}, RowEncoding.FP16)
        table.evict("a", chosen[:5])
        put(table, "c", {10_000 + step: np.full(DIM, 1.0)}, RowEncoding.FP16)
    done.set()
    for reader in readers:
        reader.join()
    assert not torn


@pytest.mark.parametrize("level", _core.simd_levels())
@pytest.mark.parametrize("encoding", RowEncoding)
@pytest.mark.parametrize("dim", [4, 8, 16, 20, 32, 64, 100, 128, 180])
def test_the_core_pools_like_fbgemm(dim, encoding, level):
    """Bit by bit on AVX2 and AVX-512; elsewhere within the rounding of each multiplication of int8."""
    features = [FeatureConfig(name=name, source="item", dim=dim, pooling=pooling) for name, pooling in (("a", "sum"), ("b", "mean"))]
    generator = np.random.default_rng(dim)
    fids = generator.integers(-(2**62), 2**62, 300)
    rows = pack_rows(generator.normal(0, 0.1, (300, dim)).astype(np.float32), encoding)
    tables = [ReplicaTable(features, encoding, CPU, engine=engine) for engine in ("core", "fbgemm")]
    for table in tables:
        table.assign("a", fids[:200], rows[:200], encoding)
        table.assign("b", fids[100:], rows[100:], encoding)
    lengths = generator.choice([0, 1, 1, 1, 2, 7, 60], 2 * 90).astype(np.int32)
    batch = Batch(90, ("a", "b"), generator.choice(fids, lengths.sum()), lengths, np.zeros((90, 0), np.float32))
    before = _core.simd_level()
    _core.set_simd_level(level)
    try:
        core, fbgemm = (table.lookup(batch) for table in tables)
    finally:
        _core.set_simd_level(before)
    assert fbgemm.any()
    torch.testing.assert_close(core, fbgemm, rtol=0, atol=2e-6 if level == "portable" else 0)


MIXED = (
    FeatureConfig(name="a", source="user", dim=4, encoding="int4"),
    FeatureConfig(name="b", source="item", dim=16, pooling="mean"),
    FeatureConfig(name="c", source="item", dim=4, encoding="int4", pooling="first", length=3),
    FeatureConfig(name="d", source="item", dim=16, encoding="fp32", pooling="first", length=1),
    FeatureConfig(name="e", source="item", dim=16),
)


def pooled_by_hand(weights: dict[str, np.ndarray], bags: dict[str, list[list[int]]], row: int) -> list[float]:
    """Return the pooled rows of one row of a batch; fid f of a feature has the row weights[feature][f], from 20 on none."""
    parts = []
    for feature in MIXED:
        rows = [weights[feature.name][fid] if fid < 20 else np.zeros(feature.dim) for fid in bags[feature.name][row]]
        none = np.zeros((feature.length, feature.dim))
        if feature.pooling == "first":
            parts.append(np.concatenate([*rows, *none])[: feature.length * feature.dim])
        else:
            total = np.sum(rows, axis=0) if rows else np.zeros(feature.dim)
            parts.append(total / max(1, len(rows)) if feature.pooling == "mean" else total)
    return np.concatenate(parts).tolist()


def test_features_may_have_dims_encodings_and_poolings_of_their_own(make_table):
    table, generator = make_table(RowEncoding.INT8, features=MIXED), np.random.default_rng(5)
    assert {name: one.value for name, one in table.encodings.items()} == {"a": "int4", "b": "int8", "c": "int4", "d": "fp32", "e": "int8"}
    weights, digests = {}, {}
    for feature in MIXED:
        encoding = table.encodings[feature.name]
        rows = pack_rows(generator.normal(size=(20, feature.dim)).astype(np.float32), encoding)
        table.assign(feature.name, np.arange(20), rows, encoding)
        weights[feature.name] = unpack_rows(rows, feature.dim, encoding)
        digests[feature.name] = digest_rows(np.arange(20), rows, encoding)
    assert table.num_rows == 5 * 20 and table.digest == digest_tables(digests)
    bags = {feature.name: [generator.integers(0, 22, generator.integers(0, 6)).tolist() for _ in range(40)] for feature in MIXED}
    columns = {
        name: SparseColumn(np.array([fid for bag in rows for fid in bag], np.int64), np.array([len(bag) for bag in rows], np.int32))
        for name, rows in bags.items()
    }
    batch = make_batch(FeatureColumns(40, columns), Schema(MIXED, (), ("click",)))
    expected = [pooled_by_hand(weights, bags, row) for row in range(40)]
    np.testing.assert_allclose(table.lookup(batch).cpu().numpy(), expected, rtol=1e-5, atol=1e-5)
    table.evict("c", np.arange(20))
    weights["c"][:] = 0
    expected = [pooled_by_hand(weights, bags, row) for row in range(40)]
    np.testing.assert_allclose(table.lookup(batch).cpu().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_core_serves_no_other_device():
    with pytest.raises(ValueError, match=r"serving\.engine must be 'auto' or 'fbgemm' on cuda, got 'core'"):
        ReplicaTable(FEATURES, RowEncoding.FP32, torch.device("cuda"), engine="core")


def test_many_rows_at_once_read_as_one_by_one(make_table):
    one, all_of_them = make_table(RowEncoding.INT8), make_table(RowEncoding.INT8)
    generator = np.random.default_rng(5)
    for num_rows in (3000, 0, 1, 2000):
        fids = generator.integers(0, 4000, num_rows)  # some come twice
        rows = pack_rows(generator.normal(0, 0.1, (num_rows, DIM)).astype(np.float32), RowEncoding.INT8)
        one.assign("c", fids, rows, RowEncoding.INT8)
        all_of_them.insert_all("c", fids, rows, RowEncoding.INT8)
        assert one.num_rows == all_of_them.num_rows
    batch = batch_of({"a": [[]] * 4000, "b": [[]] * 4000, "c": [[fid] for fid in range(4000)]})
    assert torch.equal(one.lookup(batch), all_of_them.lookup(batch))
