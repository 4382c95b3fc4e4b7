"""Updates of the dense state in three forms: full, weights only, weights and swaps. Made, applied, to and from protobuf.

Letters: n weights of all tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from crc32c import crc32c
from safetensors import SafetensorError
from safetensors.numpy import load, save

from monolith_py.errors import DenseGap, WireError
from monolith_py.pb import parameter_sync_pb2 as pb
from monolith_py.sync.dense.state import DenseState, SparseLayer
from monolith_py.sync.dense.topology import Swap
from monolith_py.sync.rows import ENCODING_TO_WIRE, RowEncoding, encoding_from_wire, rows_are_finite

_ENCODINGS = (RowEncoding.FP32, RowEncoding.FP16)
_MAX_FP16 = 65504.0


class DenseForm(Enum):
    """Form of a dense update."""

    FULL = "full"  # all tensors
    VALUES = "values"  # all weights, for a receiver of the same topology
    SWAP = "swap"  # all weights, and the swaps of the topology


@dataclass(frozen=True)
class DenseUpdate:
    """New dense parameters for a receiver of the fingerprint `base`; in the full form for any receiver."""

    base: int
    fingerprint: int  # after the update
    encoding: RowEncoding
    full: bytes = b""  # safetensors
    values: bytes = b""  # (n,) packed by `DenseState.pack`
    swaps: Mapping[str, Swap] = field(default_factory=dict)  # by the layer's prefix

    @property
    def form(self) -> DenseForm:
        """Return the form."""
        if self.full:
            return DenseForm.FULL
        return DenseForm.SWAP if self.swaps else DenseForm.VALUES

    @property
    def num_bytes(self) -> int:
        """Return the size on the wire, without some thirty bytes of every form."""
        swaps: int = sum(_swap_to_wire(*item).ByteSize() for item in self.swaps.items())
        return len(self.full) + len(self.values) + swaps


def full_update(state: DenseState, encoding: RowEncoding) -> DenseUpdate:
    """Return the update that gives any replica the dense state `state`.

    Raises:
        ModelNotFinite: a weight is NaN or infinite.
    """
    packed = state.pack(encoding)  # refuses weights that are not finite; `save` does not
    assert packed, "dense parameters without a weight"
    tensors = dict(state.tensors)
    if encoding is RowEncoding.FP16:
        tensors |= {name: tensors[name].clip(-_MAX_FP16, _MAX_FP16).astype(np.float16) for name in state.shapes}
    # safetensors writes the memory of an array from its first element on, whatever its strides.
    return DenseUpdate(0, state.fingerprint, encoding, full=save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}))


def next_update(base: DenseState, state: DenseState, encoding: RowEncoding) -> DenseUpdate:
    """Return the smallest update from a state of `base`'s fingerprint to `state`.

    Raises:
        ModelNotFinite: a weight is NaN or infinite.
    """
    swaps = {
        prefix: Swap.between(base.layers[prefix].atoms, layer.atoms, layer.topology_version)
        for prefix, layer in state.layers.items()
        if prefix in base.layers and _differ(base, state, prefix)
    }
    layers = {prefix: state.layers[prefix] for prefix in swaps}
    if base.with_layers(layers).fingerprint != state.fingerprint:
        return full_update(state, encoding)  # more than topologies has changed
    update = DenseUpdate(base.fingerprint, state.fingerprint, encoding, values=state.pack(encoding), swaps=swaps)
    if not swaps:
        return update
    return min(update, full_update(state, encoding), key=lambda one: one.num_bytes)


def apply_update(state: DenseState, update: DenseUpdate) -> DenseState:
    """Return the state after `update`; `state` itself is unchanged.

    Raises:
        DenseGap: the update needs another fingerprint than that of `state`.
        WireError: the update breaks a rule of its form.
    """
    if update.form is DenseForm.FULL:
        return _from_full(update, state.identity)
    if update.base != state.fingerprint:
        raise DenseGap(update.base, state.fingerprint)
    layers = {}
    for prefix, swap in update.swaps.items():
        if prefix not in state.layers:
            raise WireError(f"dense.swaps.layer must be one of {sorted(state.layers)}, got {prefix!r}")
        layers[prefix] = SparseLayer(state.layers[prefix].atoms.after(swap), swap.topology_version)
    state = state.with_layers(layers)
    if state.fingerprint != update.fingerprint:
        raise DenseGap(update.fingerprint, state.fingerprint)
    num_bytes = state.num_packed_bytes(update.encoding)
    if len(update.values) != num_bytes:
        raise WireError(f"dense.values must be {num_bytes} bytes of {update.encoding.value}, got {len(update.values)}")
    return state.with_weights(update.values, update.encoding)


def dense_update_to_wire(update: DenseUpdate) -> pb.DenseUpdate:
    """Return the message of `update`, checksum included."""
    message = pb.DenseUpdate(
        base=update.base,
        fingerprint=update.fingerprint,
        encoding=ENCODING_TO_WIRE[update.encoding],
        full=update.full,
        values=update.values,
        swaps=[_swap_to_wire(*item) for item in update.swaps.items()],
    )
    message.checksum = dense_checksum(message)
    return message


def dense_update_from_wire(message: pb.DenseUpdate) -> DenseUpdate:
    """Return the update of `message`. `apply_update` checks what depends on the receiver's state.

    Raises:
        WireError: a checksum is wrong, an encoding is unknown, no form or two are set, a layer is repeated, or a weight is not finite.
    """
    checksum = dense_checksum(message)
    if message.checksum != checksum:
        raise WireError(f"dense.checksum must be {checksum:08x}, got {message.checksum:08x}")
    encoding = encoding_from_wire("dense.encoding", message.encoding, _ENCODINGS)
    if bool(message.full) == bool(message.values) or (message.full and (message.swaps or message.base)):
        sizes = f"{len(message.full)} and {len(message.values)} bytes, {len(message.swaps)} swaps, base {message.base:08x}"
        raise WireError(f"dense parameters must have either full, without swaps and base, or values, got {sizes}")
    if len(message.values) % (4 if encoding is RowEncoding.FP32 else 2):
        raise WireError(f"dense.values must be whole numbers of {encoding.value}, got {len(message.values)} bytes")
    if not rows_are_finite(np.frombuffer(message.values, np.uint8)[np.newaxis], encoding):
        raise WireError("dense.values must be finite, got NaN or Inf")
    swaps = {swap.layer: _swap_of(swap) for swap in message.swaps}
    if len(swaps) != len(message.swaps):
        raise WireError(f"dense.swaps must name each layer once, got {[swap.layer for swap in message.swaps]}")
    return DenseUpdate(message.base, message.fingerprint, encoding, message.full, message.values, swaps)


def dense_checksum(message: pb.DenseUpdate) -> int:
    """Return the CRC-32C of `message`, over the bytes that parameter_sync.proto defines."""
    crc = crc32c(np.array([message.base, message.fingerprint, message.encoding & 0xFFFFFFFF], "<u4").tobytes())
    crc = crc32c(message.values, crc32c(message.full, crc))
    for swap in message.swaps:
        sizes = [swap.num_columns, len(swap.removed), len(swap.added)]
        head = swap.layer.encode() + b"\0" + np.int64(swap.topology_version).astype("<i8").tobytes()
        crc = crc32c(head + np.array([*sizes, *swap.removed, *swap.added], "<u4").tobytes(), crc)
    return crc


def _differ(base: DenseState, state: DenseState, prefix: str) -> bool:
    """Return whether the topologies of a layer differ by a swap."""
    old, new = base.layers[prefix], state.layers[prefix]
    if old.atoms.num_blocks != new.atoms.num_blocks:
        return False
    same = np.array_equal(old.atoms.bounds, new.atoms.bounds) and np.array_equal(old.atoms.columns, new.atoms.columns)
    return not same or old.topology_version != new.topology_version


def _swap_to_wire(prefix: str, swap: Swap) -> pb.LayerSwap:
    gaps = {"removed": swap.removed.tolist(), "added": swap.added.tolist()}
    return pb.LayerSwap(layer=prefix, topology_version=swap.topology_version, num_columns=swap.num_columns, **gaps)


def _swap_of(message: pb.LayerSwap) -> Swap:
    if message.topology_version < 0:
        raise WireError(f"dense.swaps.topology_version must be >= 0, got {message.topology_version}")
    return Swap(message.topology_version, np.array(message.removed, np.uint32), message.num_columns, np.array(message.added, np.uint32))


def _from_full(update: DenseUpdate, identity: int) -> DenseState:
    """Return the state of an update in the full form, which must be of the model `identity`."""
    dtype = np.dtype(np.float32 if update.encoding is RowEncoding.FP32 else np.float16)
    try:
        tensors = load(update.full)
        for name, tensor in tensors.items():
            if np.issubdtype(tensor.dtype, np.floating) and tensor.dtype != dtype:
                raise WireError(f"dense.full must have weights of {dtype}, got {tensor.dtype} in {name!r}")
            if not np.isfinite(tensor).all():
                raise WireError(f"dense.full must be finite, got NaN or Inf in {name!r}")
        weights = {name: tensor.astype(np.float32) if tensor.dtype == dtype else tensor for name, tensor in tensors.items()}
        state = DenseState.of(weights, identity)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise WireError(f"dense.full must be dense parameters in the safetensors format, got {len(update.full)} bytes: {error}") from None
    if state.fingerprint != update.fingerprint:
        cause = "of another model, of other or reordered features, or damaged"
        raise WireError(f"dense.full must be of fingerprint {update.fingerprint:08x}, got {state.fingerprint:08x}: {cause}")
    return state
