"""Updates of dense parameters: a chain of them ends in the same bits, a wrong base is a gap, and damaged bytes never make a wrong state."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from monolith_py.errors import DenseGap, WireError
from monolith_py.pb import parameter_sync_pb2 as pb
from monolith_py.sync import DenseForm, DenseState, DenseUpdate, RowEncoding, apply_update, full_update, next_update
from monolith_py.sync.dense.update import dense_checksum, dense_update_from_wire, dense_update_to_wire

encodings = st.sampled_from([RowEncoding.FP32, RowEncoding.FP16])
changes = st.lists(
    st.one_of(
        st.tuples(st.just("learn"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("swap"), st.integers(0, 1), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("topology_version"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("widen"), st.integers(9, 12), st.just(0), st.just(0)),
        st.tuples(st.just("publish"), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=12,
)


def over_the_wire(update: DenseUpdate) -> DenseUpdate:
    return dense_update_from_wire(pb.DenseUpdate.FromString(dense_update_to_wire(update).SerializeToString()))


def repaired(message: pb.DenseUpdate) -> bytes:
    """Return the message with a valid checksum of its present fields, as a sender with a bug would send it."""
    message.checksum = dense_checksum(message)
    return message.SerializeToString()


def received(state: DenseState, value: bytes) -> DenseState:
    return apply_update(state, dense_update_from_wire(pb.DenseUpdate.FromString(value)))


@given(changes, encodings, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.9]))
def test_a_chain_of_updates_ends_in_the_trainer_s_bits(make_towers, same_tensors, changes, encoding, seed, density):
    dense = make_towers(seed, density)
    base = DenseState.of(dense.tensors())
    held = apply_update(DenseState.of({"other": torch.zeros(1)}), over_the_wire(full_update(base, encoding)))
    for kind, number, num_removed, num_added in [*changes, ("learn", 0, 0, 0), ("publish", 0, 0, 0)]:
        if kind == "learn":
            dense.learn()
        elif kind == "swap":
            dense.swap(num_removed, num_added, number)
        elif kind == "topology_version":
            dense.layers[f"tower.layers.{number}."].topology_version += 1
        elif kind == "widen":
            dense.head = torch.ones(2, number)
        else:
            state = DenseState.of(dense.tensors())
            held, base = apply_update(held, over_the_wire(next_update(base, state, encoding))), state
            expected = state.tensors
            if encoding is RowEncoding.FP16:
                expected = {
                    name: tensor.astype(np.float16).astype(np.float32) if name in state.shapes else tensor
                    for name, tensor in expected.items()
                }
            same_tensors(held.tensors, expected)
            assert held.fingerprint == state.fingerprint


@given(changes)
def test_an_update_for_another_state_is_a_gap_and_leaves_the_state_as_it_was(make_towers, same_tensors, changes):
    dense = make_towers()
    held = DenseState.of(dense.tensors())
    before = {name: tensor.copy() for name, tensor in held.tensors.items()}
    dense.swap(1, 1)
    base = DenseState.of(dense.tensors())
    for kind, layer, num_removed, num_added in changes:
        if kind == "swap":
            dense.swap(num_removed, num_added, layer)
    update = next_update(base, DenseState.of(dense.tensors()), RowEncoding.FP32)
    if update.form is DenseForm.FULL:
        same_tensors(apply_update(held, update).tensors, dense.tensors())
    else:
        with pytest.raises(DenseGap) as caught:
            apply_update(held, update)
        assert (caught.value.expected, caught.value.got) == (base.fingerprint, held.fingerprint)
    same_tensors(held.tensors, before)


def test_the_form_is_the_smallest_that_holds_the_change(make_towers):
    dense = make_towers(density=0.5)
    base = DenseState.of(dense.tensors())
    dense.learn()
    learnt = DenseState.of(dense.tensors())
    dense.swap(3, 3)
    swapped = DenseState.of(dense.tensors())
    values, swap = (next_update(base, state, RowEncoding.FP32) for state in (learnt, swapped))
    full = full_update(swapped, RowEncoding.FP32)
    assert [update.form for update in (values, swap, full)] == [DenseForm.VALUES, DenseForm.SWAP, DenseForm.FULL]
    assert values.num_bytes == 4 * sum(learnt.tensors[name].size for name in learnt.shapes)
    assert values.num_bytes < swap.num_bytes < values.num_bytes + 60 < full.num_bytes
    for update in (values, swap, full):
        assert 0 <= len(dense_update_to_wire(update).SerializeToString()) - update.num_bytes < 40


def test_a_state_of_other_shapes_or_names_is_sent_in_full(make_towers):
    dense = make_towers()
    base = DenseState.of(dense.tensors())
    for other in ({"head.weight": torch.zeros(8, 2)}, {"more": torch.zeros(1)}):
        assert next_update(base, DenseState.of({**base.tensors, **other}), RowEncoding.FP32).form is DenseForm.FULL
    blocks = {"tower.layers.1.bounds": np.append(base.tensors["tower.layers.1.bounds"], base.tensors["tower.layers.1.bounds"][-1:])}
    assert next_update(base, DenseState.of({**base.tensors, **blocks}), RowEncoding.FP32).form is DenseForm.FULL


def test_fp16_halves_and_is_held_within_its_range(make_towers):
    dense = make_towers()
    dense.head = torch.full((2, 8), 1e6)
    state = DenseState.of(dense.tensors())
    for update in (full_update(state, RowEncoding.FP16), next_update(state, state, RowEncoding.FP16)):
        assert (apply_update(state, over_the_wire(update)).tensors["head.weight"] == 65504.0).all()


@pytest.mark.parametrize("encoding", [RowEncoding.FP32, RowEncoding.FP16])
def test_a_tensor_with_strides_arrives_in_its_own_order(encoding):
    """safetensors writes the memory of an array as it lies, and says nothing."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2).T
    update = over_the_wire(full_update(DenseState.of({"head.weight": weight}), encoding))
    np.testing.assert_array_equal(apply_update(DenseState.of({}), update).tensors["head.weight"], weight)


def three_forms(make_towers) -> tuple[DenseState, list[DenseUpdate], list[DenseState]]:
    """Return a dense state, an update of each form that fits it, and the state after each."""
    dense = make_towers()
    base = DenseState.of(dense.tensors())
    dense.learn()
    learnt = DenseState.of(dense.tensors())
    dense.swap(2, 3)
    swapped = DenseState.of(dense.tensors())
    pairs = [(full_update(learnt, RowEncoding.FP32), learnt)]
    pairs += [(next_update(base, state, RowEncoding.FP32), state) for state in (learnt, swapped)]
    return base, [update for update, _ in pairs], [state for _, state in pairs]


@given(st.integers(0, 2), st.integers(0, 10**6), st.integers(1, 255), st.booleans())
def test_damaged_bytes_are_refused_or_change_nothing(make_towers, same_tensors, form, place, flip, cut):
    base, updates, states = three_forms(make_towers)
    value = bytearray(dense_update_to_wire(updates[form]).SerializeToString())
    place %= len(value)
    if cut:
        del value[place:]
    else:
        value[place] ^= flip
    try:
        message = pb.DenseUpdate.FromString(bytes(value))
    except DecodeError:  # which decode_delta maps
        return
    with contextlib.suppress(WireError, DenseGap):
        same_tensors(apply_update(base, dense_update_from_wire(message)).tensors, states[form].tensors)


@settings(max_examples=300)
@given(st.data())
def test_any_fields_with_a_valid_checksum_are_refused_or_make_a_whole_state(make_towers, data):
    """The checksum is valid here, so that the checks after it are tested."""
    base, updates, _ = three_forms(make_towers)
    message = dense_update_to_wire(data.draw(st.sampled_from(updates)))
    for name in ("full", "values"):
        value = bytearray(getattr(message, name))
        for _ in range(data.draw(st.integers(0, 3)) if value else 0):
            value[data.draw(st.integers(0, min(len(value) - 1, 1200)))] = data.draw(st.integers(0, 255))
        setattr(message, name, bytes(value))
    for swap in message.swaps:
        swap.removed.extend(data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=2)))
        swap.added.extend(data.draw(st.lists(st.integers(0, 2**32 - 1), max_size=2)))
        swap.num_columns = data.draw(st.sampled_from([swap.num_columns, 0, 2**32 - 1]))
    with contextlib.suppress(WireError, DenseGap):
        after = DenseState.of(received(base, repaired(message)).tensors)  # would raise
        assert after.fingerprint == message.fingerprint
        assert all(np.isfinite(tensor).all() for tensor in after.tensors.values())


def safetensors_of(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


FULL_RULES = [
    (b"no safetensors", "dense.full must be dense parameters in the safetensors format, got 14 bytes"),
    (
        safetensors_of({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"\0" * 4),
        "dense.full must be dense parameters",
    ),
    (safetensors_of({"a": {"dtype": "F32", "shape": [0, 1 << 62, 8], "data_offsets": [0, 0]}}), "dense.full must be"),
    (safetensors_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\x80\x7f"), "finite, got NaN or Inf in 'a'"),
    (safetensors_of({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8), "must have weights of float32"),
    (safetensors_of({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8), "dense.a must be float32"),
    (
        safetensors_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        "dense.full must be of fingerprint 00000007",
    ),
]


@pytest.mark.parametrize(("full", "rule"), FULL_RULES)
def test_a_full_update_that_is_no_dense_state_is_refused(make_towers, full, rule):
    message = pb.DenseUpdate(fingerprint=7, encoding=pb.ROW_ENCODING_FP32, full=full)
    with pytest.raises(WireError, match=rule):
        received(DenseState.of(make_towers().tensors()), repaired(message))


NAN = np.float32(np.nan).tobytes()
SWAP = {"layer": "tower.layers.0.", "num_columns": 20}


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"checksum": 1}, "dense.checksum must be [0-9a-f]{8}, got 00000001"),
        ({"encoding": 3}, r"dense.encoding must be one of 1 \(fp32\), 2 \(fp16\), got 3 \(int8\)"),
        ({"encoding": -5}, r"dense.encoding must be one of 1 \(fp32\), 2 \(fp16\), got -5"),
        ({"values": b""}, "dense parameters must have either full, without swaps and base, or values, got 0 and 0 bytes, 0 swaps"),
        ({"full": b"x"}, "dense parameters must have either full"),
        ({"full": b"x", "values": b""}, "dense parameters must have either full, without swaps and base"),
        ({"full": b"x", "values": b"", "base": 0, "swaps": [SWAP]}, "dense parameters must have either full, without swaps and base"),
        ({"values": b"abc"}, "dense.values must be whole numbers of fp32, got 3 bytes"),
        ({"values": NAN}, "dense.values must be finite"),
        ({"encoding": 2, "values": b"\0\x7c"}, "dense.values must be finite"),
        ({"values": b"\0" * 8}, r"dense.values must be \d+ bytes of fp32, got 8"),
        ({"swaps": [SWAP, SWAP]}, "dense.swaps must name each layer once"),
        ({"swaps": [{**SWAP, "topology_version": -1}]}, "dense.swaps.topology_version must be >= 0, got -1"),
        ({"swaps": [{**SWAP, "layer": "nobody."}]}, "dense.swaps.layer must be one of .*, got 'nobody.'"),
        ({"swaps": [{**SWAP, "removed": [10_000]}]}, "swap.removed must name atoms in"),
        ({"swaps": [{**SWAP, "added": [60]}]}, r"swap.added must name keys in \[0, 60\), got 60"),
    ],
)
def test_a_broken_rule_is_named(make_towers, fields, rule):
    base = DenseState.of(make_towers().tensors())
    message = dense_update_to_wire(next_update(base, base, RowEncoding.FP32))
    whole = {"base": message.base, "fingerprint": message.fingerprint, "encoding": message.encoding, "values": message.values} | fields
    message = pb.DenseUpdate(**whole)
    with pytest.raises(WireError, match=rule):
        received(base, message.SerializeToString() if "checksum" in fields else repaired(message))


def test_a_swap_that_ends_in_another_fingerprint_than_it_says_is_a_gap(make_towers):
    base, (_, _, update), _ = three_forms(make_towers)
    message = dense_update_to_wire(update)
    message.swaps[0].topology_version += 1
    with pytest.raises(DenseGap):
        received(base, repaired(message))
