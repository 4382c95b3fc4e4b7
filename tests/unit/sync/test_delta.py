"""Deltas on the wire: encoding and decoding give the same delta; a broken rule is refused with field, value and rule."""

from __future__ import annotations

import contextlib
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monolith_py.errors import WireError
from monolith_py.pb import parameter_sync_pb2 as pb
from monolith_py.sync import (
    Delta,
    DenseDigest,
    DenseState,
    ModelDigest,
    Parent,
    RowEncoding,
    StepMark,
    decode_delta,
    encode_delta,
    full_update,
    pack_rows,
)
from monolith_py.sync.delta_checksum import delta_checksum

fids = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)


def make_delta(num_rows: int = 2, encoding: RowEncoding = RowEncoding.FP16) -> Delta:
    weights = np.arange(num_rows * 8, dtype=np.float32).reshape(num_rows, 8)
    return Delta(
        generation=3,
        seq=7,
        watermark_ms=11,
        published_ms=13,
        table="user_id",
        dim=8,
        encoding=encoding,
        fids=np.arange(num_rows, dtype=np.int64) - 1,
        rows=pack_rows(weights, encoding),
        evicted=np.array([5], np.int64),
        steps=(StepMark(1, 2, 3),),
        trainer="trainer-0",
        parent=Parent(2, 40, 171),
        digest=ModelDigest(2**63, encoding, DenseDigest(5, 6, RowEncoding.FP16), {"tags": RowEncoding.INT4, "age": RowEncoding.FP32}),
    )


def assert_same(left: Delta, right: Delta) -> None:
    for field in fields(Delta):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name), err_msg=field.name)


@given(fids, fids, st.sampled_from(RowEncoding))
def test_rows_and_evictions_decode_to_the_same(updated, evicted, encoding):
    rows = pack_rows(np.linspace(-1, 1, len(updated) * 4, dtype=np.float32).reshape(-1, 4), encoding)
    fid_arrays = {"fids": np.array(updated, np.int64), "evicted": np.array(evicted, np.int64)}
    delta = Delta(1, 0, 5, 6, table="a", dim=4, encoding=encoding, rows=rows, steps=(StepMark(2, 3),), **fid_arrays)
    assert_same(decode_delta(encode_delta(delta)), delta)


@pytest.mark.parametrize("encoding", RowEncoding)
def test_every_flipped_bit_is_noticed(encoding):
    """3,753 of 15,000 flips of a bit were applied before a delta had a checksum."""
    value = encode_delta(make_delta(encoding=encoding))
    assert_same(decode_delta(value), make_delta(encoding=encoding))
    for bit in range(8 * len(value)):
        flipped = bytearray(value)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(WireError):
            assert_same(decode_delta(bytes(flipped)), make_delta(encoding=encoding))  # a flip may leave the meaning as it is


def test_a_delta_without_a_checksum_is_refused():
    message = pb.Delta.FromString(encode_delta(make_delta()))
    message.ClearField("checksum")
    with pytest.raises(WireError, match=r"delta.checksum must be [0-9a-f]{8}, got 00000000"):
        decode_delta(message.SerializeToString())


def test_dense_updates_decode_to_the_same():
    dense = full_update(DenseState.of({"bias": torch.ones(3)}), RowEncoding.FP32)
    assert decode_delta(encode_delta(Delta(1, 0, 5, 6, dense=dense))).dense == dense


def test_an_empty_delta_has_neither_rows_nor_a_dense_update():
    delta = decode_delta(encode_delta(Delta(1, 2, 5, 6)))
    assert (delta.generation, delta.seq, delta.table, delta.dense, len(delta.fids)) == (1, 2, "", None, 0)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rows": b"\0" * 31}, r"delta.rows must have 2 rows of 16 bytes \(fp16, dim 8\), got 31 bytes"),
        ({"rows": b"\xff" * 32}, "delta.rows must be finite"),
        ({"fids": b"\0" * 15}, "delta.fids must be a multiple of 8 bytes, got 15"),
        ({"evicted": b"\0"}, "delta.evicted must be a multiple of 8 bytes, got 1"),
        ({"dim": 0}, r"delta.dim must be in \[1, 1024\], got 0"),
        ({"dim": 2048}, "delta.dim must be"),
        ({"encoding": 9}, r"delta.encoding of table 'user_id' must be one of 1 \(fp32\), 2 \(fp16\), 3 \(int8\), 4 \(int4\), got 9"),
        ({"encoding": 0}, "delta.encoding of table 'user_id' must be one of"),
        ({"encodings": {"tags": 7}}, r"delta.digest.encodings of table 'tags' must be one of .*, got 7"),
        ({"published_ms": 0}, "delta.published_ms must be > 0, got 0"),
        ({"dense": pb.DenseUpdate(values=b"x")}, "delta.dense must be absent in a delta of table 'user_id', got 3 bytes"),
        ({"table": ""}, "delta.fids must be empty without delta.table, got 16 bytes"),
    ],
)
def test_a_broken_rule_is_named(changes, rule):
    message = pb.Delta.FromString(encode_delta(make_delta()))
    for name, value in changes.items():
        if name == "encodings":
            message.digest.encodings.update(value)
        elif name == "dense":
            message.dense.CopyFrom(value)
        else:
            setattr(message, name, value)
    message.checksum = delta_checksum(message)
    with pytest.raises(WireError, match=rule):
        decode_delta(message.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_delta_or_a_wire_error(value):
    with contextlib.suppress(WireError):
        decode_delta(value)


@given(st.data())
def test_a_damaged_delta_is_a_delta_or_a_wire_error(data):
    value = bytearray(encode_delta(make_delta()))
    value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode_delta(bytes(value))
