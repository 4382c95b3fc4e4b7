"""The dense state of a replica: its fingerprint by definition, the order of its weights, refused tensors."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from monolith_py.errors import ModelNotFinite
from monolith_py.sync import DenseState, RowEncoding


def crc32c_bit_by_bit(data: bytes) -> int:
    """CRC-32C from its definition: polynomial 0x1EDC6F41, reflected, all ones before and after."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def test_the_fingerprint_is_the_checksum_that_the_proto_defines(make_towers):
    dense = make_towers()
    content = b""
    for name, tensor in sorted(dense.tensors().items(), key=lambda item: item[0].encode()):
        content += name.encode() + b"\0" + struct.pack(f"<{1 + tensor.ndim}q", tensor.ndim, *tensor.shape)
        if name.endswith((".bounds", ".columns")):
            content += struct.pack(f"<{tensor.numel()}i", *tensor.tolist())
        elif name.endswith(".topology_version"):
            content += struct.pack("<q", int(tensor))
    assert DenseState.of(dense.tensors()).fingerprint == crc32c_bit_by_bit(content)


def test_the_fingerprint_depends_on_names_shapes_and_topologies_but_not_on_weights(make_towers):
    dense = make_towers()
    fingerprints = [DenseState.of(dense.tensors()).fingerprint]
    dense.learn()
    assert DenseState.of(dense.tensors()).fingerprint == fingerprints[0]
    dense.swap(1, 1)
    fingerprints.append(DenseState.of(dense.tensors()).fingerprint)
    dense.layers["tower.layers.0."].topology_version += 1
    fingerprints.append(DenseState.of(dense.tensors()).fingerprint)
    tensors = dense.tensors()
    for other in ({"head.weight": torch.zeros(8, 2)}, {"more": torch.zeros(1)}):
        fingerprints.append(DenseState.of({**tensors, **other}).fingerprint)
    assert len(set(fingerprints)) == len(fingerprints)


def test_weights_are_packed_by_name_and_unpack_to_the_same(make_towers, same_tensors):
    state = DenseState.of(make_towers().tensors())
    packed = state.pack(RowEncoding.FP32)
    names = ["head.weight", *(f"tower.layers.{layer}.{part}" for layer in (0, 1) for part in ("bias", "values"))]
    assert packed == b"".join(state.tensors[name].astype("<f4").tobytes() for name in names)
    assert len(packed) == state.num_packed_bytes(RowEncoding.FP32) == 2 * state.num_packed_bytes(RowEncoding.FP16)
    zeros = DenseState.of({name: np.zeros_like(tensor) if name in names else tensor for name, tensor in state.tensors.items()})
    same_tensors(zeros.with_weights(packed, RowEncoding.FP32).tensors, state.tensors)
    assert not any(zeros.tensors[name].any() for name in names), "changed in place"


def test_a_layer_without_a_live_atom_is_a_layer(make_towers, same_tensors):
    state = DenseState.of(make_towers(density=0.0).tensors())
    assert state.tensors["tower.layers.0.values"].shape == (0, 16)
    same_tensors(state.with_weights(state.pack(RowEncoding.FP32), RowEncoding.FP32).tensors, state.tensors)


def test_a_bare_layer_has_no_prefix():
    layer = {"bounds": torch.tensor([0, 1], dtype=torch.int32), "columns": torch.tensor([4], dtype=torch.int32)}
    state = DenseState.of({**layer, "values": torch.ones(1, 16), "topology_version": torch.tensor(2), "bias": torch.ones(16)})
    assert state.layers[""].topology_version == 2 and state.layers[""].atoms.num_columns == 5


def test_a_weight_that_is_not_finite_is_named(make_towers):
    dense = make_towers()
    dense.head[1, 3] = np.inf
    with pytest.raises(ModelNotFinite, match=r"dense.head.weight: weights must be finite, got inf"):
        DenseState.of(dense.tensors()).pack(RowEncoding.FP16)


PREFIX = "tower.layers.0."


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"head.weight": torch.zeros(2, dtype=torch.float64)}, "dense.head.weight must be float32, got float64"),
        ({"steps": torch.zeros((), dtype=torch.int64)}, "dense.steps must be float32, got int64"),
        ({f"{PREFIX}columns": None}, f"dense.{PREFIX}columns must be int32, got None"),
        ({f"{PREFIX}topology_version": torch.zeros(())}, f"dense.{PREFIX}topology_version must be int64, got float32"),
        ({f"{PREFIX}topology_version": torch.tensor([1, 2])}, rf"dense.{PREFIX}topology_version must be one number >= 0, got \[1, 2\]"),
        ({f"{PREFIX}topology_version": torch.tensor(-1)}, f"dense.{PREFIX}topology_version must be one number >= 0, got -1"),
        ({f"{PREFIX}values": torch.zeros(3, 16)}, rf"dense.{PREFIX}values must be \(\d+, h\), got \(3, 16\)"),
        ({f"{PREFIX}bounds": torch.tensor([0, 1], dtype=torch.int32)}, f"dense.{PREFIX}bounds must ascend from 0 to"),
    ],
)
def test_a_tensor_that_breaks_a_rule_is_refused_by_name(make_towers, changes, rule):
    tensors = {name: tensor for name, tensor in (make_towers().tensors() | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=rule):
        DenseState.of(tensors)
