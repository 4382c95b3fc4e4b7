"""Rows as bytes: the precision of each encoding, and int8 equal to FBGEMM's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monolith_py import _core
from monolith_py.errors import ModelNotFinite
from monolith_py.sync import RowEncoding, pack_rows, row_bytes, unpack_rows
from monolith_py.sync.rows import check_rows, rows_are_finite

weights_of_any_kind = arrays(np.float32, st.tuples(st.integers(0, 5), st.sampled_from([4, 8, 16])), elements=st.floats(-1e4, 1e4, width=32))


@given(weights_of_any_kind)
def test_fp32_keeps_every_bit(weights):
    packed = pack_rows(weights, RowEncoding.FP32)
    assert packed.shape == (len(weights), row_bytes(weights.shape[1], RowEncoding.FP32))
    np.testing.assert_array_equal(unpack_rows(packed, weights.shape[1], RowEncoding.FP32), weights)


@given(weights_of_any_kind)
def test_fp16_is_the_nearest_half_float(weights):
    restored = unpack_rows(pack_rows(weights, RowEncoding.FP16), weights.shape[1], RowEncoding.FP16)
    np.testing.assert_array_equal(restored, weights.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("encoding", "num_steps"), [(RowEncoding.INT8, 255), (RowEncoding.INT4, 15)])
@given(weights_of_any_kind)
def test_quantised_rows_err_by_one_quantum_at_most(encoding, num_steps, weights):
    restored = unpack_rows(pack_rows(weights, encoding), weights.shape[1], encoding)
    low, high = weights.min(axis=1, initial=np.inf), weights.max(axis=1, initial=-np.inf)
    # One quantum, and the fp16 rounding of the bias (11 bits) and of the scale over all steps.
    bound = (high - low) / num_steps * 1.01 + (np.abs(low) + (high - low)) * 2.0**-10 + 3e-5
    assert (np.abs(restored - weights).max(axis=1, initial=0) <= bound).all()


@pytest.mark.parametrize(("encoding", "num_bits"), [(RowEncoding.INT8, 8), (RowEncoding.INT4, 4)])
def test_quantised_bytes_are_those_of_fbgemm_with_scale_and_bias_in_front(encoding, num_bits):
    torch = pytest.importorskip("torch")
    import fbgemm_gpu  # noqa: F401  (registers torch.ops.fbgemm)

    weights = np.random.default_rng(0).normal(0, 0.1, (5000, 16)).astype(np.float32)
    theirs = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(torch.from_numpy(weights), num_bits).numpy()
    ours = pack_rows(weights, encoding)
    assert ours.shape[1] == row_bytes(16, encoding) == 4 + 16 * num_bits // 8
    np.testing.assert_array_equal(ours, np.roll(theirs, 4, axis=1))


def test_weights_beyond_half_floats_are_held_at_the_largest():
    weights = np.array([[1e6, -1e6, 0, 1]], np.float32)
    assert unpack_rows(pack_rows(weights, RowEncoding.FP16), 4, RowEncoding.FP16).tolist() == [[65504, -65504, 0, 1]]
    assert rows_are_finite(pack_rows(weights, RowEncoding.INT8), RowEncoding.INT8)


@pytest.mark.parametrize("encoding", RowEncoding)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_with_its_row(encoding, bad):
    weights = np.zeros((3, 4), np.float32)
    weights[1, 2] = bad
    with pytest.raises(ModelNotFinite, match=f"weights must be finite, got {bad} in row 1 of 3"):
        pack_rows(weights, encoding)


@pytest.mark.parametrize("encoding", RowEncoding)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_weight_that_is_not_finite_shows_in_the_row_that_the_core_packs(encoding, bad, place):
    weights = np.ones((3, 4), np.float32)
    weights[1, place] = bad
    packed = _core.pack_rows(weights, encoding.value)
    assert rows_are_finite(packed[[0, 2]], encoding)
    with pytest.raises(ModelNotFinite, match="weights must be finite, got NaN or Inf in row 1 of 3"):
        check_rows(packed, encoding)


@pytest.mark.parametrize("encoding", RowEncoding)
def test_no_weights_pack_to_no_bytes(encoding):
    assert pack_rows(np.zeros((0, 8), np.float32), encoding).shape == (0, row_bytes(8, encoding))


def test_rows_of_no_columns_have_no_int8_form():
    assert pack_rows(np.zeros((1, 0), np.float32), RowEncoding.FP16).shape == (1, 0)
    with pytest.raises(ValueError, match="weights must have a column, got none"):
        pack_rows(np.zeros((1, 0), np.float32), RowEncoding.INT8)


@pytest.mark.parametrize("encoding", RowEncoding)
def test_a_packed_row_that_is_not_finite_is_seen(encoding):
    rows = pack_rows(np.ones((2, 4), np.float32), encoding)
    assert rows_are_finite(rows, encoding)
    rows[1, :4] = 0xFF
    assert not rows_are_finite(rows, encoding)
