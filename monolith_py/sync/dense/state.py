"""Dense state of a replica: tensors by name, live atoms of the sparse layers, fingerprint.

Letters: k live atoms of a layer, h outputs of an atom, n weights of all tensors. A sparse layer of prefix P has the tensors P.values
float32 (k, h), P.bounds int32 (blocks + 1,), P.columns int32 (k,) and P.topology_version int64 (), its number of swaps. All other tensors
are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from crc32c import crc32c
from torch import Tensor

from monolith_py.errors import ModelNotFinite
from monolith_py.sync.dense.topology import LiveAtoms
from monolith_py.sync.rows import RowEncoding, pack_rows, row_bytes, unpack_rows

_BOUNDS, _COLUMNS, _VERSION, _VALUES = "bounds", "columns", "topology_version", "values"
_TOPOLOGY = {_BOUNDS: torch.int32, _COLUMNS: torch.int32, _VERSION: torch.int64}
_WIRE_DTYPES = {torch.int32: "<i4", torch.int64: "<i8"}


@dataclass(frozen=True)
class SparseLayer:
    """The topology of one sparse layer."""

    atoms: LiveAtoms
    topology_version: int


@dataclass(frozen=True)
class DenseState:
    """Dense parameters on the CPU; immutable. Make one by `of`.

    >>> DenseState.of({"bias": torch.zeros(3)}).pack(RowEncoding.FP16)
    b'\\x00\\x00\\x00\\x00\\x00\\x00'
    """

    tensors: Mapping[str, Tensor]
    layers: Mapping[str, SparseLayer]  # by the prefix of their tensors' names, the dot included
    identity: int = 0  # of the model: its layout and id

    @staticmethod
    def of(tensors: Mapping[str, Tensor], identity: int = 0) -> DenseState:
        """Return the state of `tensors`, which the caller must not change afterwards, in the model of `identity`.

        Raises:
            ValueError: dtype or shape of a tensor fits no dense and no sparse layer; the message names it.
        """
        tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
        prefixes = sorted(name.removesuffix(_BOUNDS) for name in tensors if _is_named(name, _BOUNDS))
        layers = {prefix: _layer_of(tensors, prefix) for prefix in prefixes}
        topologies = {f"{prefix}{part}" for prefix in prefixes for part in _TOPOLOGY}
        for name, tensor in tensors.items():
            if name not in topologies and tensor.dtype != torch.float32:
                raise ValueError(f"dense.{name} must be torch.float32, got {tensor.dtype}")
        return DenseState(tensors, layers, identity)

    @cached_property
    def fingerprint(self) -> int:
        """Return the CRC-32C of names, shapes and topologies, over the bytes that parameter_sync.proto defines, from the identity on."""
        crc = self.identity
        for name in _in_wire_order(self.tensors):
            tensor = self.tensors[name]
            crc = crc32c(name.encode() + b"\0" + np.array([tensor.ndim, *tensor.shape], "<i8").tobytes(), crc)
            if tensor.dtype in _WIRE_DTYPES:
                crc = crc32c(tensor.numpy().astype(_WIRE_DTYPES[tensor.dtype]).tobytes(), crc)
        return crc

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of each tensor with weights, sorted by the bytes of their names."""
        return {name: self.tensors[name].shape for name in _in_wire_order(self.tensors) if self.tensors[name].dtype == torch.float32}

    def pack(self, encoding: RowEncoding) -> bytes:
        """Return the weights of all tensors, sorted by the bytes of their names, each row-major.

        Raises:
            ModelNotFinite: a weight is NaN or infinite.
        """
        return b"".join(self._pack(name, encoding) for name in self.shapes)

    def num_packed_bytes(self, encoding: RowEncoding) -> int:
        """Return the size of the bytes of `pack`."""
        return row_bytes(sum(shape.numel() for shape in self.shapes.values()), encoding)

    def with_layers(self, layers: Mapping[str, SparseLayer]) -> DenseState:
        """Return a state in which the sparse layers `layers` have new topologies; all their weights are zero."""
        changed: dict[str, Tensor] = {}
        for prefix, layer in layers.items():
            height = self.tensors[f"{prefix}{_VALUES}"].shape[1]
            changed[f"{prefix}{_BOUNDS}"] = torch.from_numpy(layer.atoms.bounds)
            changed[f"{prefix}{_COLUMNS}"] = torch.from_numpy(layer.atoms.columns)
            changed[f"{prefix}{_VERSION}"] = torch.tensor(layer.topology_version, dtype=torch.int64)
            changed[f"{prefix}{_VALUES}"] = torch.zeros(layer.atoms.num_atoms, height)
        return replace(self, tensors={**self.tensors, **changed}, layers={**self.layers, **layers})

    def with_weights(self, packed: bytes, encoding: RowEncoding) -> DenseState:
        """Return a state of this fingerprint with the weights `packed`, `num_packed_bytes` long."""
        row = np.frombuffer(packed, np.uint8)[np.newaxis]
        shapes = self.shapes
        sizes = [shape.numel() for shape in shapes.values()]
        weights = torch.from_numpy(unpack_rows(row, sum(sizes), encoding)[0].copy())  # (n,)
        parts = torch.split(weights, sizes) if sizes else ()
        changed = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return replace(self, tensors={**self.tensors, **changed})

    def _pack(self, name: str, encoding: RowEncoding) -> bytes:
        try:
            return pack_rows(self.tensors[name].numpy().reshape(1, -1), encoding).tobytes()
        except ModelNotFinite as error:
            raise ModelNotFinite(f"dense.{name}: {error}") from None


def _in_wire_order(names: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield names sorted by their bytes in UTF-8, which is also the order of Python strings."""
    return iter(sorted(names))


def _is_named(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")


def _layer_of(tensors: Mapping[str, Tensor], prefix: str) -> SparseLayer:
    """Return the sparse layer of `prefix`."""
    for part, dtype in {**_TOPOLOGY, _VALUES: torch.float32}.items():
        tensor = tensors.get(f"{prefix}{part}")
        if tensor is None or tensor.dtype != dtype:
            raise ValueError(f"dense.{prefix}{part} must be {dtype}, got {None if tensor is None else tensor.dtype}")
    try:
        atoms = LiveAtoms.of(tensors[f"{prefix}{_BOUNDS}"].numpy(), tensors[f"{prefix}{_COLUMNS}"].numpy())
    except ValueError as error:
        raise ValueError(f"dense.{prefix}{error}") from None
    topology_version, values = tensors[f"{prefix}{_VERSION}"], tensors[f"{prefix}{_VALUES}"]
    if topology_version.ndim != 0 or topology_version < 0:
        raise ValueError(f"dense.{prefix}{_VERSION} must be one number >= 0, got {topology_version.tolist()}")
    if values.ndim != 2 or len(values) != atoms.num_atoms:
        raise ValueError(f"dense.{prefix}{_VALUES} must be ({atoms.num_atoms}, h), got {tuple(values.shape)}")
    return SparseLayer(atoms, int(topology_version))
