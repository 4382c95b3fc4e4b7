"""Digests: equal for equal rows in any order, another one for any change; computed here from the definition in parameter_sync.proto."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.config import FeatureConfig
from monolith_py.sync import DenseDigest, DenseState, RowEncoding, digest_rows, digest_tables, pack_rows
from monolith_py.table import EmbeddingTable, Sgd, Slice
from monolith_serving.replica.table import ReplicaTable

BITS = (1 << 64) - 1
WEIGHTS = st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1e-9]), min_size=4, max_size=4)
ROWS = st.dictionaries(st.integers(-(2**63), 2**63 - 1), WEIGHTS, max_size=6)


def mix(x: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = ((x ^ (x >> 33)) * factor) & BITS
    return x ^ (x >> 33)


def packed(rows: Mapping[int, list[float]], encoding: RowEncoding) -> tuple[np.ndarray, np.ndarray]:
    weights = np.array([*rows.values()], np.float32).reshape(len(rows), 4)
    return np.array([*rows], np.int64), pack_rows(weights, encoding)


def weights_of(row: np.ndarray, encoding: RowEncoding) -> np.ndarray:
    if encoding is RowEncoding.INT8:
        scale, bias = row[:4].view("<f2").astype(np.float32)
        return row[4:] * scale + bias
    if encoding is RowEncoding.INT4:
        scale, bias = row[:4].view("<f2").astype(np.float32)
        return np.array([level for pair in row[4:] for level in (pair & 15, pair >> 4)]) * scale + bias
    return row.view("<f4" if encoding is RowEncoding.FP32 else "<f2").astype(np.float32)


@given(ROWS, st.sampled_from(RowEncoding), st.randoms())
def test_a_digest_of_rows_is_as_defined_in_any_order(rows, encoding, random):
    fids, values = packed(rows, encoding)
    expected = sum(
        mix((mix(fid & BITS) + crc32c(row.tobytes())) & BITS) if weights_of(row, encoding).any() else 0
        for fid, row in zip(fids.tolist(), values, strict=True)
    )
    order = np.array(random.sample(range(len(fids)), len(fids)), np.int64)
    assert digest_rows(fids[order], values[order], encoding) == expected & BITS


def test_a_digest_of_tables_is_as_defined_and_passes_over_empty_ones():
    expected = mix((7 + crc32c(b"a")) & BITS) + mix((BITS + crc32c("\u00e4".encode())) & BITS)
    assert digest_tables({"\u00e4": BITS, "a": 7, "b": 0}) == digest_tables({"a": 7, "\u00e4": BITS}) == expected & BITS


@pytest.mark.parametrize("encoding", RowEncoding)
def test_a_table_and_a_replica_have_the_digest_of_their_rows_whatever_happens(encoding):
    generator = np.random.default_rng(3)
    table = EmbeddingTable(4, slices=[Slice("w", 4, Sgd(lr=0.5), encoding=encoding.value)], ttl_s=5)
    replica = ReplicaTable([FeatureConfig(name="item", source="item_id", dim=4)], encoding, torch.device("cpu"))
    for step in range(30):
        rows = table.find_or_insert(fids := generator.integers(0, 40, 12), now_s=step)
        table.update(rows, generator.normal(size=(12, 4)).astype(np.float32), fids)
        if step % 3 == 2:
            table.evict(step)
        delta = table.drain_encoded("replicas")
        replica.evict("item", delta.evicted)
        replica.assign("item", delta.fids, delta.rows, encoding)
        exported, weights = table.export_rows()
        assert delta.digest == digest_rows(exported, pack_rows(weights, encoding), encoding)
        assert replica.digest == digest_tables({"item": delta.digest})
        if step % 4:
            table.ack("replicas", delta.ticket)


def test_a_digest_of_dense_parameters_tells_weights_and_shapes():
    states = [{"bias": torch.ones(4)}, {"bias": torch.zeros(4)}, {"bias": torch.ones(2, 2)}, {"b": torch.ones(4)}]
    digests = [DenseDigest.of(DenseState.of(one), RowEncoding.FP32).weights for one in states]
    assert len({*digests}) == len(digests)
    rounded = DenseState.of({"bias": torch.full((4,), 1 + 2**-20)})
    assert DenseDigest.of(rounded, RowEncoding.FP16) == DenseDigest.of(DenseState.of(states[0]), RowEncoding.FP16)
